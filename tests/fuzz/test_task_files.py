"""Task files of any content are tasks, or one line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking.tasks import strict_yaml
from ehr_scaling.outcomes.asking.tasks.tasks import Task, load
from tests.fuzz.one_line import fuzz, result_or_line
from tests.fuzz.strategies import CELLS

TASK = "t:\n  anchor: [A]\n  hours: 1\n  positive: [X]\n  at_end: negative\n"
TAGS = (
    "!!int",
    "!!float",
    "!!bool",
    "!!timestamp",
    "!!null",
    "!!binary",
    "!!map",
    "!!seq",
    "!!omap",
    "!!python/object:x",
)
ODD = (
    "abc",
    "''",
    "[a]",
    "2020-99-99",
    "2020-01-01 99:00:00",
    "0x_",
    "9" * 5000,
    '"\\UFFFFFFFF"',
    '"a\\nb"',
    ".nan",
    "1e999",
    "&a [*a]",
    "{<<: 1}",
)
WORDS = st.one_of(
    st.sampled_from(ODD),
    st.tuples(st.sampled_from(TAGS), st.sampled_from(ODD)).map(" ".join),
    CELLS,
    st.integers(0, 400).map(lambda n: "[" * n + "]" * n),
)
NOTHING = re.compile("(?!)")  # a task file holds no patients
PLAIN = st.sampled_from(["2", "-1", "1.5", "[B, -C]", "true", "days", "class", "positive", "open", "anchor", "x/y"])
FIELDS = st.sampled_from(list(Task.__dataclass_fields__))


def mostly(usual, odd):
    """st: in four of five the usual."""
    return st.integers(0, 4).flatmap(lambda i: usual if i else odd)


@fuzz(150)
@given(
    fields=st.lists(st.tuples(mostly(FIELDS, WORDS), mostly(PLAIN, WORDS)), max_size=3),
    name=mostly(st.just("t"), WORDS),
    tail=mostly(st.just(b""), st.binary(max_size=8)),
)
def test_any_fields(tmp_path_factory, fields, name, tail):
    path = tmp_path_factory.getbasetemp() / "tasks.yaml"
    given = {"anchor": "[A]", "hours": "1", "positive": "[X]", "at_end": "negative", **dict(fields)}
    text = f"{name}:\n" + "".join(f"  {key}: {value}\n" for key, value in given.items())
    path.write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    tasks = result_or_line(load, path, secret=NOTHING)
    assert tasks is None or all(isinstance(task, Task) for task in tasks.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!int abc", "line 1: this is no int"),
        ("a: !!bool x", "line 1: this is no bool"),
        ("a: !!map [a]", "line 1: this is no map"),
        (TASK.replace("1", "2020-99-99"), "line 3: this is no timestamp"),
        (TASK.replace("1", "9" * 5000), "line 3: this is no int"),
        (TASK.replace("1", "9" * 400), "line 3: a number beyond 64 bits"),
        ("a: " + "[" * 500, "nested too deeply"),
        ('a: "\\UFFFFFFFF"', "an escape in quotes is no character"),
        ('"a\\nb": {}', "task a b: name is 'a"),
        (TASK + '  "a\\nb": 1', "task t: unknown key a b"),
        (TASK + "  name: x", "unknown key name: take some of|unknown key name: did you mean (?!name)"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(path)
    assert result_or_line(load, path) is None


def test_a_merge_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(strict_yaml, "_KEYS", 3)
    path = tmp_path / "tasks.yaml"
    path.write_text("a: &a {hours: 1, tokens: 2}\nb: &b {onset: 1, since: 2}\nc: {<<: [*a, *b]}\n")
    with pytest.raises(UserError, match="line 3: a merge of too many keys"):
        load(path)


def test_lists_of_lists_are_told_in_short(tmp_path):
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    lists = ["&a [y]", *(f"&{b} [{','.join([f'*{a}'] * 10)}]" for a, b in pairs)]  # the last holds 10^8 words
    path = tmp_path / "tasks.yaml"
    path.write_text("t:\n  anchor:\n" + "".join(f"  - {each}\n" for each in lists))
    with pytest.raises(UserError, match=r"task t: anchor is .*: take a list of token names") as e:
        result_or_line(load, path, secret=NOTHING) or load(path)
    assert len(str(e.value)) < 500
