import collections
import dataclasses
import itertools
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling import artifacts
from ehr_scaling.data import disclosure
from ehr_scaling.data.events import events
from ehr_scaling.data.inspection import inspection, one_patient
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.vocabulary import family
from ehr_scaling.errors import UserError
from launch.inspection import tables, views
from tests.data import made_up


def make(workdir, splits, **options):
    made_up.write(workdir / "events", **splits)
    events.finish(
        workdir / "events", {}, descriptions={"LAB//7//MG/DL": "Seventh", "DIAGNOSIS//ICD//10//I503": "Heart"}
    )
    out = workdir / "timelines"
    artifacts.build(out, {}, lambda out: timelines.build(workdir / "events", out, min_count=2, **options), resume=True)
    return workdir


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make(tmp_path_factory.mktemp("work") / "w", made_up.splits())


@pytest.fixture(scope="module")
def facts(work):
    return inspection.gather(work, "train")


@pytest.mark.parametrize("split", timelines.SPLITS)
def test_counts_are_those_of_the_patients_one_by_one(work, split):
    facts = inspection.gather(work, split)
    v = facts.vocabulary
    occurrences, patients, lengths = collections.Counter(), collections.Counter(), []
    last: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for record in timelines.read(work, split):
        occurrences.update(record["tokens"].tolist())
        patients.update(set(record["tokens"].tolist()))
        lengths.append(len(record["tokens"]))
        for name, when in (*((slot, -1) for slot in v.context_slots), ("AGE", 0)):
            prefix = static_context.context_at(v, record, int(record["times"][when]))
            last[name][int(prefix[inspection.context_names(v).index(name)])] += 1
    ids = range(len(v.tokens))
    assert facts.counts.tolist() == [occurrences[i] for i in ids]
    assert facts.patients.tolist() == [patients[i] for i in ids]
    assert facts.lengths.tolist() == sorted(lengths)
    assert facts.context.keys() == last.keys()
    for name, counts in facts.context.items():
        assert counts.tolist() == [last[name][i] for i in ids], name
    if split == "train":
        assert facts.counts.tolist() == list(v.counts)


def test_families_part_the_vocabulary(facts):
    v, found = facts.vocabulary, {row.name: row for row in inspection.families(facts)}
    assert sum(row.distinct for row in found.values()) == len(v.tokens)
    assert sum(row.occurrences for row in found.values()) == facts.counts.sum() == facts.lengths.sum()
    labs = [i for i, token in enumerate(v.tokens) if family(token) == "LAB"]
    assert found["LAB"].distinct == len(labs) and found["LAB"].occurrences == facts.counts[labs].sum()
    assert found["ICD10CM"].unknown == facts.counts[v.index["ICD10CM//UNK"]]
    assert found["intervals"].distinct == len(v.intervals) and found["quantiles"].distinct == v.bins
    assert {name for name, row in found.items() if row.in_context} == {"PAD", "AGE", "GENDER", "HEIGHT"}
    assert all(row.used == 0 for row in found.values() if row.in_context)


def test_mix_and_coverage(facts):
    v, found = facts.vocabulary, inspection.mix(facts)
    assert sum(found.values()) == facts.counts.sum()
    assert found["end"] == len(facts.lengths)
    assert found["intervals"] == facts.counts[[v.index[name] for name in v.intervals]].sum()
    assert found["unknown"] == facts.counts[v.unknown_ids].sum()
    half, nearly = inspection.coverage(facts, (0.5, 0.99))
    ordered = sorted(facts.counts.tolist(), reverse=True)
    for n, share in ((half, 0.5), (nearly, 0.99)):
        assert sum(ordered[: n - 1]) < share * sum(ordered) <= sum(ordered[:n])


def test_frequent_tokens_and_edges(facts):
    v = facts.vocabulary
    ids = inspection.frequent(facts, 5)
    assert len(ids) == 5 and facts.counts[ids].tolist() == sorted(facts.counts[ids].tolist(), reverse=True)
    assert not {v.tokens[i] for i in ids} & {*v.intervals, *v.quantile_tokens, "TIMELINE_END"}
    assert {family(v.tokens[i]) for i in inspection.frequent(facts, 99, "LAB")} == {"LAB"}
    with pytest.raises(UserError, match=r"--family=LABS .* take one of .*\bLAB\b"):
        inspection.frequent(facts, 5, "LABS")
    rows = inspection.edges(facts, 4, "LAB")
    assert [n for _, n, _ in rows] == sorted((n for _, n, _ in rows), reverse=True) and len(rows) == 4
    for code, n, breaks in rows:
        assert n == facts.counts[v.index[code]] > 0 and breaks == v.quantiles[code]


@given(st.lists(st.integers(1, 10**6), max_size=50))
def test_histogram_holds_every_patient_once(lengths):
    bins = inspection.histogram(np.array(lengths, np.int64))
    assert [b.patients for b in bins] == [sum(b.low <= n <= b.high for n in lengths) for b in bins]
    assert sum(b.patients for b in bins) == len(lengths)
    assert all(a.high + 1 == b.low for a, b in itertools.pairwise(bins))


def test_what_a_code_means(facts):
    assert inspection.meaning(facts.labels, ["LAB//7//MG/DL", "Q3"]) == "Seventh"
    assert inspection.meaning(facts.labels, ["ICD10CM//I50", "ICD10CM//3-6//3"]) == "Heart"
    assert inspection.meaning(facts.labels, ["ICD10CM//I50"]) == ""
    short = {"PROCEDURE//ICD//10//02H": "the code of another thing"}
    assert inspection.meaning(short, ["ICD10PCS//0", "ICD10PCS//2", "ICD10PCS//H"]) == ""
    assert inspection.meaning(facts.labels, ["MEDS_DEATH"]) == ""


def test_records_that_do_not_say_so_are_real(facts, work):
    assert facts.fewest == disclosure.FEWEST  # the made-up events have no record
    assert not inspection.is_generated({"summary": {"generated": "yes"}})
    generated = dataclasses.replace(facts, events={"summary": {"generated": True}})
    assert generated.fewest == 0
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        inspection.gather(work / "events", "train")


def test_the_record_of_other_events_says_nothing_of_these(work, tmp_path):
    """Else a file of generated patients, laid beside real ones, would let their records be shown."""
    folder = tmp_path / "w"
    shutil.copytree(work, folder)
    record = {"inputs": {"source": "synthetic"}, "fingerprint": "other", "summary": {"generated": True}, "files": {}}
    artifacts.write_sealed(folder / "events" / artifacts.RECORD, record)
    with pytest.raises(UserError, match=r"events is not what .*timelines was made from"):
        inspection.gather(folder, "train")
    artifacts.write_json(folder / "events" / artifacts.RECORD, record)
    with pytest.raises(UserError, match=r"without checksums"):
        inspection.gather(folder, "train")


@pytest.mark.parametrize(("preset", "ages"), [("ethos_ares", {"AGE, tens", "AGE, units"}), ("ethos_paper", {"AGE"})])
def test_other_presets(tmp_path, preset, ages):
    work = make(tmp_path / "w", made_up.splits(5, 20), preset=preset)
    facts = inspection.gather(work, "train")
    found = {row.name: row for row in inspection.families(facts)}
    assert sum(row.distinct for row in found.values()) == len(facts.vocabulary.tokens)
    assert found["intervals"].occurrences == inspection.mix(facts)["intervals"] > 0
    assert all(counts.sum() == 40 for counts in facts.context.values())
    patient = one_patient.read(work, "train", 0)
    # the year would be a date
    assert {slot for slot, _ in patient.context} - set(facts.vocabulary.context_slots) == ages


def test_a_split_without_patients(tmp_path):
    work = make(tmp_path / "w", {"train": made_up.cohort(1, 20)})
    facts = inspection.gather(work, "test")
    assert len(facts.lengths) == 0 and not facts.counts.any() and inspection.histogram(facts.lengths) == []
    assert "0 patients, 0 tokens" in tables.terminal(views.split(facts, 30))
    with pytest.raises(UserError, match="has 0 patients"):
        one_patient.read(work, "test", 0)
