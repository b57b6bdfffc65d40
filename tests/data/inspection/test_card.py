import dataclasses
import re

import pytest

from ehr_scaling.data import disclosure, vocabulary
from ehr_scaling.data.inspection import card
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from tests.data import made_up

EVENTS = {
    "inputs": {"source": "made-up", "raw": "5ca1ab1e5ca1ab1e", "ed": "/home/somebody/ed", "splits": [0.8, 0.1, 0.1]},
    "fingerprint": "feedfacefeedface",
    "summary": {
        "name": "Made | up\nhospital",
        "version": "3.1",
        "license": "of our own",
        "events": 123_456,
        "codes": 321,
        "patients": {"train": 120, "tuning": 20, "held_out": 20},
        "tables": {"hosp/labevents": 99_000, "icu/chartevents": "not there"},
        "stays": 4_444,
        "dropped": {"hosp/labevents: no time": 1_234, "hosp/emar: no name | dose": 5, "icu/icustays: none": 0},
    },
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    splits = made_up.splits()
    made_up.write(work / "events", **splits)
    (work / "timelines").mkdir()
    summary = timelines.build(work / "events", work / "timelines", min_count=2, min_patients=10)
    return work / "timelines", summary


def text(built, events=EVENTS, generated=False):
    out, summary = built
    card.write(out, summary, events, generated=generated)
    return (out / "README.md").read_text()


def rows(text):
    """First cell of each row of the tables: its other cells."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in others] for first, *others in lines}


def test_it_says_where_the_data_come_from_and_what_is_in_them(built):
    _, summary = built
    found = rows(text(built))
    assert found["source"] == [r"Made \| up hospital"] and found["release"] == ["3.1"]
    assert found["licence"] == ["of our own"] and found["read as"] == ["made-up"]
    assert found["patients"] == ["160"] and found["events"][0] in ("123,456", "`feedfacefeedface`")
    for split, of_events in timelines.SPLITS.items():
        s = summary[split]
        assert found[split][:4] == [
            of_events,
            disclosure.words(s["patients"], False),
            disclosure.words(s["tokens"], False),
            "not told",  # a patient may be a handful from which it could be worked out
        ]
    assert f"{summary['vocabulary']:,} tokens" in text(built)
    assert f"`{summary['vocabulary_fingerprint']}`" in text(built)
    assert found["`min_patients`"] == ["10"] and found["`preset`"] == ["clean"]
    assert found["hosp/labevents: no time"] == ["1,230"] and found[r"hosp/emar: no name \| dose"] == ["under 10"]
    assert "icu/icustays: none" not in found
    assert found["hosp/labevents"] == ["99,000"] and found["icu/chartevents"] == ["not there"]
    assert found["stays"] == ["4,440"]
    assert found["events: raw"] == ["`5ca1ab1e5ca1ab1e`"]


def test_every_row_of_a_table_has_its_columns(built):
    for block in re.findall(r"(?:^\|.*\n)+", text(built), re.M):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_lengths_of_generated_patients_are_told(built):
    _, summary = built
    found = rows(text(built, generated=True))
    for split in timelines.SPLITS:
        s = summary[split]
        lengths = (s["tokens_per_patient"][p] for p in ("p5", "p50", "p95"))
        assert found[split][1:6] == [f"{n:,.0f}" for n in (s["patients"], s["tokens"], *lengths)]


def test_generated_patients_are_named_so_on_the_first_line(built):
    assert text(built, generated=True).splitlines()[0].startswith("# Generated patients")
    assert "Nobody's record" in text(built, generated=True)
    real = text(built)
    assert "enerated patients" not in real and "Nobody" not in real and "Data of real persons" in real


def test_the_privacy_statement_is_that_of_the_vocabulary(built):
    out, _ = built
    assert "fewer than 10 patients" in text(built)
    fitted = vocabulary.load(out)
    try:
        dataclasses.replace(fitted, settings={**fitted.settings, "min_patients": 0}).save(out)
        assert "fewer than" not in text(built) and "a rare one may point at a person" in text(built)
    finally:
        fitted.save(out)


def test_it_is_the_same_each_time_and_holds_no_path_date_or_id(built):
    first = text(built)
    assert text(built) == first
    assert "/home" not in first and str(built[0]) not in first
    assert not re.search(r"\b(19|20|21)\d\d-\d\d", first)
    shown = set(re.findall(r"\d+", first.replace(",", "")))
    ids = {str(p["subject_id"]) for split in timelines.SPLITS for p in timelines.read(built[0], split)}
    assert not {i for i in ids if len(i) > 3} & shown


def test_code_maps_are_told_by_their_checksums(built):
    out, _ = built
    fitted = vocabulary.load(out)
    try:
        dataclasses.replace(fitted, settings={**fitted.settings, "code_maps": {"atc": "ab" * 32}}).save(out)
        assert rows(text(built))["code map atc, SHA-256"] == [f"`{'ab' * 32}`"]
    finally:
        fitted.save(out)


def test_a_source_that_counts_nothing_and_a_folder_that_is_none(built, tmp_path):
    about = {k: v for k, v in EVENTS["summary"].items() if k not in ("dropped", "version")}
    found = text(built, {**EVENTS, "summary": about})
    assert "does not count what it leaves out" in found and "release" not in rows(found)
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        card.write(tmp_path, built[1], EVENTS, generated=False)


def test_the_way_to_read_it_works(built, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", text(built), re.S)
    monkeypatch.chdir(built[0].parent)
    seen: dict = {}
    exec(code, seen)
    assert seen["names"][-1] == "TIMELINE_END"
