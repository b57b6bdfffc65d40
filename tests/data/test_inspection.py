import collections
import dataclasses
import itertools

import made_up
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import DAY, MINUTE

from ehr_scaling import artifacts
from ehr_scaling.data import events, inspection, timelines
from ehr_scaling.data.vocabulary import family
from ehr_scaling.errors import UserError


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
            prefix = timelines.context_at(v, record, int(record["times"][when]))
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
    assert inspection.meaning(facts.labels, ["MEDS_DEATH"]) == ""


def tokens_of(patient):
    return [t for m in patient.moments for t in (*m.gap, *(token for event in m.events for token in event))]


def test_a_patient_is_its_tokens_by_moment(work):
    v = timelines.vocabulary(work)
    for n, record in enumerate(timelines.read(work, "validation")):
        patient = inspection.patient(work, "validation", n)
        assert tokens_of(patient) == [v.tokens[i] for i in record["tokens"]]
        at = np.unique(record["times"] - record["times"][0])
        assert sorted({m.since for m in patient.moments}) == at.tolist()
        prefix = timelines.context_at(v, record, int(record["times"][0]))
        assert [name for name, _ in patient.context] == [*v.context_slots, "AGE"]
        assert patient.context[-1] == ("AGE", v.tokens[prefix[-1]].removeprefix("AGE//"))
        for event in (event for m in patient.moments for event in m.events):
            assert event[0] not in v.quantile_tokens
            assert all(token in v.quantile_tokens or family(token) == family(event[0]) for token in event[1:]) or (
                event[0].startswith("HOSPITAL_")
            )
    with pytest.raises(UserError, match=f"--patient={n + 1}: the split validation has the patients 0 to {n}"):
        inspection.patient(work, "validation", n + 1)


def test_patients_of_later_files_are_found(work):
    """Train lies in two files."""
    v = timelines.vocabulary(work)
    *_, record = timelines.read(work, "train")
    assert tokens_of(inspection.patient(work, "train", 119)) == [v.tokens[i] for i in record["tokens"]]


def test_neither_dates_nor_ids_show(tmp_path):
    """The same patients a thousand days later, under other ids, look the same."""
    there = made_up.cohort(3, 25)
    away = {
        7_000_000 + subject: [(t if t is None else t + 1000 * DAY + 7 * MINUTE, *rest) for t, *rest in history]
        for subject, history in there.items()
    }
    shown = []
    for name, cohort in (("there", there), ("away", away)):
        workdir = make(tmp_path / name, {"train": cohort, "tuning": made_up.cohort(4, 3, 10**6)})
        shown.append([inspection.patient(workdir, "train", n) for n in range(25)])
        facts = inspection.gather(workdir, "train")
        shown[-1].append([f.tolist() for f in (facts.counts, facts.patients, facts.lengths, *facts.context.values())])
    assert shown[0] == shown[1]


def test_events_of_several_tokens_stay_together(facts):
    v = dataclasses.replace(facts.vocabulary)
    events = [
        ["HOSPITAL_ADMISSION", "ADMISSION_TYPE//EMERGENCY"],
        ["INSURANCE//MEDICARE"],
        ["LAB//7//MG/DL", "Q3"],
        ["VITAL//BLOOD_PRESSURE", "Q7", "Q2"],
        ["LAB//8//MG/DL"],
        ["ATC//J01//ANTIBACTERIALS", "ATC//4//C", "ATC//SFX//A01"],
        ["ICD10CM//I50", "ICD10CM//3-6//23", "ICD10CM//SFX//A"],
        ["ICD10CM//I50"],
        ["ICD//CM//HEART_FAILURE", "ICD//CM//3-6//9"],
        *([[f"ICD10PCS//{c}" for c in "02HV33Z"]] * 2),
        [f"ICD//PCS//{c}" for c in "5A1955Z"],
        ["HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME"],
        ["LAB//51221//%"],
        ["LAB//51222//%"],
    ]
    flat = [token for event in events for token in event]
    assert inspection._continues(v, flat) == [k > 0 for event in events for k in range(len(event))]


def test_records_that_do_not_say_so_are_real(facts, work):
    assert facts.fewest == inspection.FEWEST  # the made-up events have no record
    assert not inspection.is_generated({"summary": {"generated": "yes"}})
    generated = dataclasses.replace(facts, events={"summary": {"generated": True}})
    assert generated.fewest == 0
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        inspection.gather(work / "events", "train")


@pytest.mark.parametrize(("preset", "ages"), [("ethos_ares", {"AGE, tens", "AGE, units"}), ("ethos_paper", {"AGE"})])
def test_other_presets(tmp_path, preset, ages):
    work = make(tmp_path / "w", made_up.splits(5, 20), preset=preset)
    facts = inspection.gather(work, "train")
    found = {row.name: row for row in inspection.families(facts)}
    assert sum(row.distinct for row in found.values()) == len(facts.vocabulary.tokens)
    assert found["intervals"].occurrences == inspection.mix(facts)["intervals"] > 0
    assert all(counts.sum() == 40 for counts in facts.context.values())
    patient = inspection.patient(work, "train", 0)
    # the year would be a date
    assert {slot for slot, _ in patient.context} - set(facts.vocabulary.context_slots) == ages
