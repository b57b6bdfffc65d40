import numpy as np
import pytest

from ehr_scaling import artifacts
from ehr_scaling.data.inspection import inspection, one_patient
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.vocabulary import family
from ehr_scaling.errors import UserError
from tests.data import made_up
from tests.data.made_up import DAY, MINUTE


def make(workdir, splits):
    made_up.write(workdir / "events", **splits)
    out = workdir / "timelines"
    artifacts.build(out, {}, lambda out: timelines.build(workdir / "events", out, min_count=2), resume=True)
    return workdir


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make(tmp_path_factory.mktemp("work") / "w", made_up.splits())


def tokens_of(patient):
    return [t for m in patient.moments for t in (*m.gap, *(token for event in m.events for token in event))]


def test_a_patient_is_its_tokens_by_moment(work):
    v = timelines.vocabulary(work)
    for n, record in enumerate(timelines.read(work, "validation")):
        patient = one_patient.read(work, "validation", n)
        assert tokens_of(patient) == [v.tokens[i] for i in record["tokens"]]
        at = np.unique(record["times"] - record["times"][0])
        assert sorted({m.since for m in patient.moments}) == at.tolist()
        prefix = static_context.context_at(v, record, int(record["times"][0]))
        assert [name for name, _ in patient.context] == [*v.context_slots, "AGE"]
        assert patient.context[-1] == ("AGE", v.tokens[prefix[-1]].removeprefix("AGE//"))
        for event in (event for m in patient.moments for event in m.events):
            assert event[0] not in v.quantile_tokens
            assert all(token in v.quantile_tokens or family(token) == family(event[0]) for token in event[1:]) or (
                event[0].startswith("HOSPITAL_")
            )
    for none in (n + 1, -1):
        with pytest.raises(UserError, match=f"--patient={none}: the split validation has {n + 1} patients"):
            one_patient.read(work, "validation", none)


def test_patients_of_later_files_are_found(work):
    """Train lies in two files."""
    v = timelines.vocabulary(work)
    *_, record = timelines.read(work, "train")
    assert tokens_of(one_patient.read(work, "train", 119)) == [v.tokens[i] for i in record["tokens"]]


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
        shown.append([one_patient.read(workdir, "train", n) for n in range(25)])
        facts = inspection.gather(workdir, "train")
        shown[-1].append([f.tolist() for f in (facts.counts, facts.patients, facts.lengths, *facts.context.values())])
    assert shown[0] == shown[1]
