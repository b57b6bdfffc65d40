"""The package's tasks on the MIMIC-IV demo: how many stays each finds, and that this is what the tables say."""

import csv
import gzip
import itertools
import shutil
from datetime import datetime, timedelta

import numpy as np
import pytest

from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.data.timelines import timelines
from ehr_scaling.outcomes.asking import cohort
from ehr_scaling.outcomes.asking.tasks import task_tokens, tasks

RAW, ED = "physionet/files/mimic-iv-demo/2.2", "physionet/files/mimic-iv-ed-demo/2.2"
MAPS = ("gem2018_icd9cm_to_icd10cm.csv.gz", "gem2018_icd9proc_to_icd10pcs.csv.gz", "icd10cm-order-Jan-2021.csv.gz")
# Stays, and those with the outcome, by preset; the two ETHOS programs put a death of which only the day is known
# elsewhere in the day. ethos_paper reads no table of the ED module: it has no triage, at which two tasks ask.
COUNTS = {
    "in_hospital_death_24h": ((243, 14), (243, 10), (245, 14)),
    "in_hospital_death_48h": ((219, 13), (219, 9), (220, 13)),
    "hospital_mortality": ((274, 15), (274, 11), (275, 15)),
    "icu_admission": ((274, 126), (274, 126), (275, 126)),
    "prolonged_stay": ((274, 58), (274, 57), (275, 57)),
    "composite": ((274, 144), (274, 144), (275, 144)),
    "icu_mortality": ((138, 12), (138, 12), (138, 12)),
    "icu_mortality_24h": ((115, 10), (115, 10), (115, 10)),
    "icu_readmission": ((119, 9), (110, 9), (110, 9)),
    "readmission_30d": ((260, 58), (264, 63), (259, 57)),
    "readmission_30d_followed": ((229, 58), (233, 63), (228, 57)),
    "readmission_30d_alone": ((229, 53), (233, 53), (228, 52)),
    "onset_heart_failure": ((105, 10), (105, 10), (103, 11)),
    "onset_type_2_diabetes": ((96, 5), (96, 5), (95, 5)),
    "onset_chronic_kidney_disease": ((110, 6), (108, 6), (108, 6)),
    "onset_atrial_fibrillation": ((120, 7), (120, 7), (118, 9)),
    "onset_copd": ((128, 2), (130, 2), (126, 2)),
    "onset_sepsis": ((137, 3), (136, 3), (133, 9)),
    "ed_hospitalization": ((194, 146), (207, 159), None),
    "ed_critical_outcome": ((194, 43), (207, 46), None),
    "ed_representation": ((50, 4), (51, 4), (1, 0)),
}


@pytest.fixture(scope="module", params=["clean", "ethos_ares", "ethos_paper"])
def prepared(request, real_data, tmp_path_factory):
    """Timelines of all patients of the demo as the train split, by a preset."""
    root = tmp_path_factory.mktemp(request.param)
    maps = root / "maps"
    maps.mkdir()
    for name in MAPS:
        if not (real_data / "maps" / name).is_file():
            pytest.skip(f"no code map {name} at {real_data / 'maps'}")
        shutil.copy(real_data / "maps" / name, maps)
    data = base.get_config().data
    data.source, data.preset, data.code_maps, data.splits = "mimic-iv", request.param, str(maps), (1.0, 0.0, 0.0)
    data.raw = str(real_data / RAW)
    if request.param != "ethos_paper":
        data.ed = str(real_data / ED)
    if request.param == "clean":  # no diagnosis too rare to be told
        data.tokens.min_patients, data.tokens.min_count = 0, 1
    pipeline.prepare(data, root / "work", workers=1, until="timelines")
    return request.param, root / "work"


def test_each_task_finds_its_stays(prepared):
    preset, folder = prepared
    found = {}
    column = ("clean", "ethos_ares", "ethos_paper").index(preset)
    wanted = {name: counts[column] for name, counts in COUNTS.items() if counts[column]}
    for name in set(COUNTS) - set(wanted):
        with pytest.raises(tasks.Unanswerable, match="ACUITY"):
            cohort.find(folder, "train", [tasks.load()[name]])
    for group in task_tokens.groups(tasks.load()[name] for name in wanted):
        asked = cohort.find(folder, "train", group)
        for k, task in enumerate(group):
            found[task.name] = (len(asked.rows[k]), int(asked.labels[k].sum()))
            left_out = sum(asked.left_out[k].values())
            anchor = task_tokens.ids(timelines.vocabulary(folder), task.anchor)
            every = sum(int(anchor[part.tokens].sum()) for part in timelines.batches(folder, "train"))
            assert len(asked.rows[k]) + left_out == every
    assert found == wanted


def test_what_the_tables_say(prepared, real_data):
    """Deaths, lengths of stay and readmissions of the admissions table. The demo has no admission in another's time but
    one that begins when another ends."""
    preset, folder = prepared
    with gzip.open(real_data / RAW / "hosp/admissions.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    stays = sorted(
        (row["subject_id"], *(datetime.fromisoformat(row[name]) for name in ("admittime", "dischtime")),
         row["hospital_expire_flag"] == "1")
        for row in rows
    )  # fmt: skip
    own = tasks.load()
    death = cohort.stays(folder, "train", own["hospital_mortality"])
    assert len(stays) == 275 and len(death.labels) in (274, 275)
    if preset != "ethos_ares":  # which takes a death of which only the day is known for one of 00:00:00
        assert death.labels.sum() == sum(died for *_, died in stays)
    los = cohort.stays(folder, "train", own["length_of_stay"]).labels
    days = np.array([(out - in_) / timedelta(days=1) for _, in_, out, _ in stays])
    assert np.median(los) == pytest.approx(np.median(days), rel=0.01)
    assert abs(int((los >= 10).sum()) - int((days >= 10).sum())) <= 1
    # Readmissions within 30 days of those who left alive.
    again = sum(
        a[0] == b[0] and b[1] - a[2] <= timedelta(days=30) and not a[3]
        for a, b in itertools.pairwise(stays)
    )  # fmt: skip
    readmitted = cohort.stays(folder, "train", own["readmission_30d_alone"]).labels.sum()
    assert again - 1 <= readmitted <= again


def test_drg(prepared):
    _, folder = prepared
    drg = cohort.stays(folder, "train", tasks.load()["drg"])
    assert len(drg.labels) == 233 and len(np.unique(drg.labels)) == 148
    vocabulary = timelines.vocabulary(folder)
    classes = task_tokens.classes(vocabulary, tasks.load()["drg"])
    record = list(timelines.read(folder, "train"))
    for patient, known, label in zip(drg.patients, drg.known, drg.labels, strict=True):
        assert record[patient]["tokens"][known] == classes[label]
