"""Files of answers of any content are texts by their keys, or one line."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.cards.fields import read_answers
from tests.fuzz.one_line import fuzz, result_or_line

ODD = ("!!binary x", "2020-99-99", "&a [*a]", "{<<: 1}", '"\\UFFFFFFFF"', '"a\\nb"', "[" * 400, "a: b: c", "| ", "\x00")
WORDS = st.one_of(st.sampled_from(ODD), st.text(max_size=12), st.sampled_from(["none", "'us & <them>'", "? x"]))
KEYS = st.one_of(st.sampled_from(["tripod.18a", "data.url", "model.BasicInfo/ModelDeveloper"]), WORDS)
NOTHING = re.compile("(?!)")  # such a file holds no patients


@fuzz(150)
@given(
    lines=st.lists(st.tuples(KEYS, WORDS), max_size=4),
    tail=st.one_of(st.just(b""), st.binary(max_size=8)),
)
def test_any_answers(tmp_path_factory, lines, tail):
    path = tmp_path_factory.getbasetemp() / "answers.yaml"
    text = "".join(f"{key}: {value}\n" for key, value in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    answers = result_or_line(read_answers, path, secret=NOTHING)
    assert answers is None or all(isinstance(key, str) and text.strip() for key, text in answers.items())


def test_plain_answers_are_read(tmp_path):
    (tmp_path / "answers.yaml").write_text("tripod.18a: none\ndata.datePublished: 2026-01-31\n")
    assert read_answers(tmp_path / "answers.yaml") == {"tripod.18a": "none", "data.datePublished": "2026-01-31"}
    assert read_answers(None) == {}
