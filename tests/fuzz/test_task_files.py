"""Task files of any content are tasks, or one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_line import fuzz, result_or_line

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.definitions import Task, load

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
    st.text(max_size=12),
    st.integers(0, 400).map(lambda n: "[" * n + "]" * n),
)
KEYS = st.one_of(st.sampled_from(list(Task.__dataclass_fields__)), WORDS)


def merges(key):
    """Each mapping merges the one before ten times."""
    lines = ["a: &a {k: 1}"]
    lines += [f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 10)}]}}" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines).replace("k:", f"{key}:")


@fuzz(150)
@given(fields=st.lists(st.tuples(KEYS, WORDS), max_size=3), name=KEYS, tail=st.binary(max_size=8))
def test_any_fields(tmp_path_factory, fields, name, tail):
    path = tmp_path_factory.getbasetemp() / "tasks.yaml"
    text = TASK.replace("t:", f"{name}:", 1) + "".join(f"  {key}: {value}\n" for key, value in fields)
    path.write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    tasks = result_or_line(load, path)
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
        (merges("hours"), "a merge of too many keys|there are no fields|is given|missing"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(path)
    assert result_or_line(load, path) is None
