"""Made-up tables in the layout of MIMIC-IV: what they become, in which order, in each preset."""

import gzip
import itertools
import math
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from mimic_iv_tables import ED, TABLES, extract, extracted, put, release, rows

from ehr_scaling.data.events import events
from ehr_scaling.data.shards import Runner
from ehr_scaling.data.sources.mimic import gathering as mimic_gather
from ehr_scaling.data.sources.mimic import parsing, presets
from ehr_scaling.data.sources.mimic import release as mimic_iv
from ehr_scaling.data.sources.mimic import spreading as mimic_spread
from ehr_scaling.errors import UserError


@pytest.fixture
def raw(tmp_path):
    return release(tmp_path / "raw", TABLES)


@pytest.fixture
def raw_ed(raw):
    return release(raw, ED)


ADMISSION_2 = "HOSPITAL_ADMISSION//SURGICAL SAME DAY ADMISSION//PHYSICIAN REFERRAL"
SEPSIS = "DRG//HCFA//871//SEPSIS W MV >96 HOURS, OR SO"
PATIENT_1 = [
    (None, "GENDER//F", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("03-01 08:00:00", "RACE//UNKNOWN", None),  # told in the ED that led to the admission
    ("03-01 08:00:00", "ED_REGISTRATION", None),
    ("03-01 10:00:00", "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None),
    ("03-01 10:00:00", "INSURANCE//Medicare", None),
    ("03-01 10:00:00", "MARITAL_STATUS//UNK", None),
    ("03-01 10:00:00", "TRANSFER_TO//admit//Medicine", None),
    ("03-01 10:30:00", "ED_OUT", None),
    ("03-01 11:00:00", "MEDICATION//Heparin 5.000 Units//Administered", None),
    ("03-02 00:00:00", "TRANSFER_TO//transfer//Trauma SICU (TSICU)", None),
    ("03-02 00:00:00", "ICU_ADMISSION//Trauma SICU (TSICU)", None),
    ("03-03 00:00:00", "ICU_DISCHARGE//Coronary Care Unit (CCU)", None),
    ("03-04 12:00:00", "HOSPITAL_DISCHARGE//REHAB", None),
    ("03-06 10:00:00", "RACE//BLACK", None),  # this one tells more
    ("03-06 10:00:00", "HOSPITAL_ADMISSION//URGENT//UNK", None),
    ("03-06 10:00:00", "INSURANCE//UNK", None),
    ("03-06 10:00:00", "MARITAL_STATUS//MARRIED", None),
    ("03-08 22:20:00", "LAB//50912//mg/dL", 3.0),
    ("03-08 22:20:00", "MEDS_DEATH", None),
    ("03-08 22:20:00", "HOSPITAL_DISCHARGE//DIED", None),
    ("03-08 22:20:00", "DIAGNOSIS//ICD//10//A419", None),
    ("03-08 22:20:00", "DIAGNOSIS//ICD//10//I10", None),
    ("03-08 22:20:00", SEPSIS, None),
]
PATIENT_2 = [
    (None, "GENDER//M", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("05-01 23:59:59", "VITAL//BLOOD_PRESSURE//SYSTOLIC", 130.0),
    ("05-01 23:59:59", "VITAL//BLOOD_PRESSURE//DIASTOLIC", 75.0),
    ("05-01 23:59:59", "BMI", 27.5),
    ("06-01 07:15:00", "RACE//WHITE", None),
    ("06-01 07:15:00", ADMISSION_2, None),
    ("06-01 07:15:00", "INSURANCE//Other", None),
    ("06-01 07:15:00", "MARITAL_STATUS//SINGLE", None),
    ("06-03 09:00:00", "HOSPITAL_DISCHARGE//HOME", None),
    ("06-03 09:00:00", "DIAGNOSIS//ICD//9//7150", None),
    ("06-03 09:00:00", "PROCEDURE//ICD//9//8154", None),
    ("06-03 09:00:00", "PROCEDURE//ICD//10//0SR90", None),
    ("06-03 09:00:00", "HCPCS//Hospital, obs. per hr", None),
    ("07-01 23:59:59", "MEDS_DEATH", None),
]
# The same by the times at which things happened, as this source had them at first and the published programs have them
HAPPENED_1 = [
    (None, "GENDER//F", None),
    (None, "RACE//BLACK", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("03-01 08:00:00", "ED_REGISTRATION", None),
    ("03-01 10:00:00", "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None),
    ("03-01 10:00:00", "INSURANCE//Medicare", None),
    ("03-01 10:00:00", "MARITAL_STATUS//UNK", None),
    ("03-01 10:00:00", "TRANSFER_TO//admit//Medicine", None),
    ("03-01 10:30:00", "ED_OUT", None),
    ("03-01 11:00:00", "MEDICATION//Heparin 5.000 Units//Administered", None),
    ("03-02 00:00:00", "TRANSFER_TO//transfer//Trauma SICU (TSICU)", None),
    ("03-02 00:00:00", "ICU_ADMISSION//Trauma SICU (TSICU)", None),
    ("03-03 00:00:00", "ICU_DISCHARGE//Coronary Care Unit (CCU)", None),
    ("03-04 12:00:00", "HOSPITAL_DISCHARGE//REHAB", None),
    ("03-06 10:00:00", "HOSPITAL_ADMISSION//URGENT//UNK", None),
    ("03-06 10:00:00", "INSURANCE//UNK", None),
    ("03-06 10:00:00", "MARITAL_STATUS//MARRIED", None),
    ("03-08 22:20:00", "LAB//50912//mg/dL", 3.0),
    ("03-08 22:20:00", "MEDS_DEATH", None),
    ("03-08 22:20:00", "HOSPITAL_DISCHARGE//DIED", None),
    ("03-08 22:20:00", "DIAGNOSIS//ICD//10//A419", None),
    ("03-08 22:20:00", "DIAGNOSIS//ICD//10//I10", None),
    ("03-08 22:20:00", SEPSIS, None),
]
HAPPENED_2 = [
    (None, "GENDER//M", None),
    (None, "RACE//WHITE", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("05-01 00:00:00", "VITAL//BLOOD_PRESSURE//SYSTOLIC", 130.0),
    ("05-01 00:00:00", "VITAL//BLOOD_PRESSURE//DIASTOLIC", 75.0),
    ("05-01 00:00:00", "BMI", 27.5),
    ("06-01 07:15:00", ADMISSION_2, None),
    ("06-01 07:15:00", "INSURANCE//Other", None),
    ("06-01 07:15:00", "MARITAL_STATUS//SINGLE", None),
    ("06-01 07:15:00", "PROCEDURE//ICD//9//8154", None),
    ("06-01 07:15:00", "PROCEDURE//ICD//10//0SR90", None),
    ("06-02 00:00:00", "HCPCS//Hospital, obs. per hr", None),
    ("06-03 09:00:00", "HOSPITAL_DISCHARGE//HOME", None),
    ("06-03 09:00:00", "DIAGNOSIS//ICD//9//7150", None),
    ("07-01 23:59:59", "MEDS_DEATH", None),
]
PATIENT_3 = [
    (None, "GENDER//M", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("01-01 09:00:00", "LAB//50912//mg/dL", pytest.approx(1.1)),
    ("01-01 09:00:00", "LAB//50813//UNK", 2.0),
    ("01-01 09:00:00", "LAB//50971//mEq/L", 4.0),
    ("01-01 09:00:00", "LAB//50971//mEq/L", 4.0),  # of two specimens
]


def test_tables_become_events(raw, tmp_path):
    table, summary = extracted(raw, tmp_path)
    assert rows(table, 1) == PATIENT_1
    assert rows(table, 2) == PATIENT_2
    assert rows(table, 3) == PATIENT_3
    births = {r["subject_id"]: r["time"] for r in table.to_pylist() if r["code"] == "MEDS_BIRTH"}
    assert births == {1: datetime(2098, 1, 1), 2: datetime(2059, 1, 1), 3: datetime(2120, 1, 1)}
    assert table["subject_id"].to_pylist() == sorted(table["subject_id"].to_pylist())
    assert summary["events"] == len(table)
    assert summary["tables"]["hosp/labevents"] == 6
    assert summary["tables"]["ed/edstays"] == "not there"
    assert summary["several_units"] == {}
    assert summary["mended"] == {"hosp/admissions: discharge before death moved to it": 1}
    assert "chartevents" in summary["sofa"]["left_out"]
    assert summary["dropped"] == {
        "hosp/drgcodes: another kind than HCFA": 1,
        "hosp/emar: no name": 1,
        "hosp/emar: no dose: Not Given": 1,
        "hosp/labevents: no number": 1,
        "hosp/omr: another kind of measurement": 1,
        "hosp/omr: no number": 2,
        "hosp/transfers: neither admit nor transfer": 1,
    }


def test_the_old_order(raw, tmp_path):
    table = extract(raw, tmp_path, times="happened")
    assert [rows(table, 1), rows(table, 2), rows(table, 3)] == [HAPPENED_1, HAPPENED_2, PATIENT_3]
    with pytest.raises(UserError, match=r"--config\.data\.times=stored is none: take one of known, happened"):
        extract(raw, tmp_path, times="stored")
    with pytest.raises(UserError, match="the preset ethos_ares stays as published"):
        extract(raw, tmp_path, times="known", preset="ethos_ares")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_files_of_the_same_tables(raw, tmp_path, kind):
    for path in sorted(raw.rglob("*.csv.gz")):
        plain = path.with_suffix("")
        if kind == "csv":
            plain.write_bytes(gzip.decompress(path.read_bytes()))
        else:
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, parse_options=parse)
            pq.write_table(table.select(table.column_names[::-1]), plain.with_suffix(".parquet"))
        path.unlink()
    table = extract(raw, tmp_path)
    assert [rows(table, 1), rows(table, 2), rows(table, 3)] == [PATIENT_1, PATIENT_2, PATIENT_3]


def crowd(raw, people=60):
    put(raw, "hosp/patients", TABLES["hosp/patients"] + "".join(f"{i},F,50,2150,g,\n" for i in range(4, people + 1)))
    lines = (f"{i},{i % people + 1},,1,{i % 7},2149-01-01 09:0{i % 10}:00,,1,{i},mg,,\n" for i in range(100, 900))
    put(raw, "hosp/labevents", TABLES["hosp/labevents"] + "".join(lines))


def test_shards_flushes_and_processes_change_nothing(raw, tmp_path, monkeypatch):
    crowd(raw)
    whole = extract(raw, tmp_path)
    monkeypatch.setattr(events, "SHARD", 7)
    monkeypatch.setattr(mimic_iv, "_flush", lambda *_: 11)
    monkeypatch.setattr("ehr_scaling.data.sources.mimic.reading._BLOCK", 1 << 10)
    out = tmp_path / "events"
    out.mkdir()
    summary = mimic_iv.extract(raw, out, seed=0, splits=(0.6, 0.2, 0.2))
    files = sorted((out / "data").rglob("*.parquet"))
    assert all(len(pq.read_table(f)["subject_id"].unique()) <= 7 for f in files)
    table = pa.concat_tables(pq.read_table(f) for f in files)
    table = table.take(pa.compute.sort_indices(table["subject_id"]))  # stable: the order within a patient stays
    assert table.equals(whole.combine_chunks())
    assert sum(summary["patients"].values()) == 60
    monkeypatch.setattr(Runner, "for_bytes", lambda self, _: self)
    again = tmp_path / "again"
    again.mkdir()
    of_splits = {"patients": 0, "shards": 0}
    assert mimic_iv.extract(raw, again, seed=0, runner=Runner(2)) | of_splits == {
        **extracted(raw, tmp_path)[1],
        **of_splits,
    }


def test_a_killed_run_goes_on(raw, tmp_path, monkeypatch):
    crowd(raw)
    monkeypatch.setattr(events, "SHARD", 7)
    whole = extracted(raw, tmp_path)[1]
    out = tmp_path / "events"
    out.mkdir()
    write, written = events.write_shard, []

    def dies(out, split, k, table):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(k)
        return write(out, split, k, table)

    monkeypatch.setattr(events, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        mimic_iv.extract(raw, out, seed=0, splits=(1.0, 0.0, 0.0))
    monkeypatch.setattr(mimic_spread._Spreading, "run", lambda *_: pytest.fail("a table is read again"))
    monkeypatch.setattr(events, "write_shard", lambda *a: (written.append(a[2]), write(*a))[1])
    assert mimic_iv.extract(raw, out, seed=0, splits=(1.0, 0.0, 0.0)) == whole
    assert sorted(written) == list(range(len(written)))  # each once


def test_the_ed_module(raw_ed, tmp_path):
    table, summary = extracted(raw_ed, tmp_path)
    ed = [r for r in rows(table, 1) if r[0] and r[0] < "03-01 10:31"]
    assert ed[1:] == [
        ("03-01 08:00:00", "RACE//UNKNOWN", None),
        ("03-01 08:05:00", "ED_REGISTRATION//AMBULANCE", None),  # once: the admission's own is the same visit
        ("03-01 10:00:00", "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None),
        ("03-01 10:00:00", "INSURANCE//Medicare", None),
        ("03-01 10:00:00", "MARITAL_STATUS//UNK", None),
        ("03-01 10:00:00", "TRANSFER_TO//admit//Medicine", None),
        ("03-01 10:30:00", "ACUITY", 2),  # without a vital sign after it, nobody can say when the triage was
        ("03-01 10:30:00", "VITAL//TEMPERATURE", pytest.approx(98.6)),
        ("03-01 10:30:00", "VITAL//HEART_RATE", 101),
        ("03-01 10:30:00", "VITAL//RESPIRATORY_RATE", 18),
        ("03-01 10:30:00", "VITAL//O2_SATURATION", 97),
        ("03-01 10:30:00", "VITAL//BLOOD_PRESSURE//SYSTOLIC", 120),
        ("03-01 10:30:00", "VITAL//BLOOD_PRESSURE//DIASTOLIC", 80),
        ("03-01 10:30:00", "VITAL//PAIN", 7.5),
        ("03-01 10:30:00", "ED_OUT//ADMITTED", None),
    ]
    assert [r[1] for r in rows(table, 3) if "LAB" not in r[1]][2:] == [
        "ED_REGISTRATION//UNK",
        "ACUITY",
        "VITAL//HEART_RATE",  # of triage; that of vitalsign at the same time is the same measurement
        "VITAL//BLOOD_PRESSURE//SYSTOLIC",
        "VITAL//BLOOD_PRESSURE//DIASTOLIC",
        "VITAL//PAIN",
        "MEDICATION//Aspirin//Administered",  # once, though it has two GSNs
        "ED_OUT//HOME",
        "DIAGNOSIS//ICD//10//I10",
        "DIAGNOSIS//ICD//10//R0789",
    ]
    assert summary["dropped"]["ed/pyxis: repeated row"] == 1
    assert summary["dropped"]["ed/vitalsign: repeated row"] == 1
    assert not any("secret" in code or "unable" in code for code in table["code"].to_pylist())


def test_the_ed_module_in_a_folder_of_its_own(raw_ed, tmp_path):
    both = extract(raw_ed, tmp_path)
    (tmp_path / "mimic-iv-ed").mkdir()
    (raw_ed / "ed").rename(tmp_path / "mimic-iv-ed" / "ed")
    assert extract(raw_ed, tmp_path, ed=tmp_path / "mimic-iv-ed").equals(both)
    assert len(extract(raw_ed, tmp_path)) < len(both)
    with pytest.raises(UserError, match="holds no folder ed/"):
        extract(raw_ed, tmp_path, ed=tmp_path / "raw")


def test_ethos_ares(raw, tmp_path):
    """Tables: admissions, diagnoses, drgcodes, emar, hcpcs, labs, omr, patients, procedures, transfers, icustays."""
    put(raw, "hosp/labevents", TABLES["hosp/labevents"] + "7,1,,1,50912,2150-03-08 22:20:00,,3,3,mg/dL,,\n")
    died = TABLES["hosp/admissions"].replace(
        "2150-03-08 00:00:00,2150-03-08 22:20", "2150-03-08 22:20:00,2150-03-08 22:20"
    )
    put(raw, "hosp/admissions", died)
    table, summary = extracted(raw, tmp_path, preset="ethos_ares")
    assert rows(table, 1)[2:] == [
        ("01-01 00:00:00", "MEDS_BIRTH", None),
        ("03-01 08:00:00", "ED_REGISTRATION", None),
        ("03-01 10:00:00", "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None),
        ("03-01 10:00:00", "INSURANCE//Medicare", None),
        ("03-01 10:00:00", "MARITAL_STATUS//UNK", None),
        ("03-01 10:00:00", "TRANSFER_TO//admit//Medicine", None),
        ("03-01 10:30:00", "ED_OUT", None),
        ("03-01 11:00:00", "MEDICATION//Heparin 5.000 Units//Administered", None),
        ("03-02 00:00:00", "TRANSFER_TO//transfer//Trauma SICU (TSICU)", None),
        ("03-02 00:00:00", "ICU_ADMISSION//Trauma SICU (TSICU)", None),
        ("03-03 00:00:00", "ICU_DISCHARGE//Coronary Care Unit (CCU)", None),
        ("03-04 12:00:00", "HOSPITAL_DISCHARGE//REHAB", None),
        ("03-04 12:00:00", "DRG//UNKNOWN", None),
        ("03-06 10:00:00", "HOSPITAL_ADMISSION//URGENT//UNK", None),
        ("03-06 10:00:00", "INSURANCE//UNK", None),
        ("03-06 10:00:00", "MARITAL_STATUS//MARRIED", None),
        ("03-08 22:20:00", "MEDS_DEATH", None),
        ("03-08 22:20:00", "HOSPITAL_DISCHARGE//DIED", None),
        ("03-08 22:20:00", "DIAGNOSIS//ICD//10//I10", None),  # in the order of the file
        ("03-08 22:20:00", "DIAGNOSIS//ICD//10//A419", None),
        ("03-08 22:20:00", SEPSIS, None),
        ("03-08 22:20:00", "LAB//50912//mg/dL", 3.0),  # the other agrees in all that is kept
    ]
    assert [r[:2] for r in rows(table, 2)[6:]] == [
        ("06-01 00:00:00", "PROCEDURE//ICD//10//0SR90"),
        ("06-01 00:00:00", "PROCEDURE//ICD//9//8154"),
        ("06-01 07:15:00", ADMISSION_2),
        ("06-01 07:15:00", "INSURANCE//Other"),
        ("06-01 07:15:00", "MARITAL_STATUS//SINGLE"),
        ("06-02 00:00:00", "HCPCS//Hospital, obs. per hr"),
        ("06-03 09:00:00", "HOSPITAL_DISCHARGE//HOME"),
        ("06-03 09:00:00", "DIAGNOSIS//ICD//9//7150"),
        ("06-03 09:00:00", "DRG//UNKNOWN"),
        ("07-01 00:00:00", "MEDS_DEATH"),
    ]
    assert "LAB//50813// " in table["code"].to_pylist()
    assert summary["dropped"]["hosp/labevents: repeated row"] == 2


def test_ethos_ares_with_the_ed(raw_ed, tmp_path):
    table = extract(raw_ed, tmp_path, preset="ethos_ares")
    assert [r for r in rows(table, 3)[2:] if r[0] == "01-01 09:00:00"] == [
        ("01-01 09:00:00", "ED_REGISTRATION//UNK", None),
        ("01-01 09:00:00", "VITAL//HEART_RATE", 80),
        ("01-01 09:00:00", "VITAL//BLOOD_PRESSURE//SYSTOLIC", None),  # it is there without numbers, as published
        ("01-01 09:00:00", "VITAL//BLOOD_PRESSURE//DIASTOLIC", None),
        ("01-01 09:00:00", "ACUITY", 3),
        ("01-01 09:00:00", "LAB//50912//mg/dL", pytest.approx(1.1)),
        ("01-01 09:00:00", "LAB//50813// ", 2),
        ("01-01 09:00:00", "LAB//50971//mEq/L", 4),
        ("01-01 09:00:00", "VITAL//BLOOD_PRESSURE//SYSTOLIC", 110),
        ("01-01 09:00:00", "VITAL//BLOOD_PRESSURE//DIASTOLIC", 70),
        ("01-01 09:00:00", "VITAL//PAIN", 0),
    ]
    assert [r[1] for r in rows(table, 3)][-3:] == [
        "ED_OUT//HOME",
        "DIAGNOSIS//ICD//10//R0789",
        "DIAGNOSIS//ICD//10//I10",
    ]
    assert "DRG//UNKNOWN" not in [r[1] for r in rows(table, 3)]


def test_a_death_at_midnight_in_ethos_ares(raw, tmp_path):
    put(raw, "hosp/patients", TABLES["hosp/patients"].replace("2150-07-01", "2150-06-03"))
    early = TABLES["hosp/admissions"].replace("2150-06-03 09:00:00", "2150-06-03 00:00:00")
    put(raw, "hosp/admissions", early)
    assert [r[:2] for r in rows(extract(raw, tmp_path, preset="ethos_ares"), 2)][-4:-1] == [
        ("06-03 00:00:00", "MEDS_DEATH"),
        ("06-03 00:00:00", "HOSPITAL_DISCHARGE//HOME"),
        ("06-03 00:00:00", "DIAGNOSIS//ICD//9//7150"),
    ]


def test_ethos_paper(raw, tmp_path):
    put(
        raw,
        "hosp/services",
        "subject_id,hadm_id,transfertime,prev_service,curr_service\n1,101,2150-03-01 10:00:00,,MED\n",
    )
    put(raw, "hosp/d_labitems", "itemid,label,fluid,category\n50912,Creatinine,Blood,Chemistry\n")
    header = "subject_id,hadm_id,drug,gsn\n"
    put(
        raw,
        "hosp/prescriptions",
        header + "1,101,Heparin 5.000 Units,006549 006550\n1,101,Heparin 5.000 Units,006550\n",
    )
    put(raw, "hosp/drgcodes", TABLES["hosp/drgcodes"] + "2,201,HCFA,871,SEPSIS BY ANOTHER NAME,,\n")
    table, summary = extracted(raw, tmp_path, preset="ethos_paper")
    assert rows(table, 1)[2:] == [
        ("07-01 00:00:00", "MEDS_BIRTH", None),
        ("03-01 08:00:00", "ED_REGISTRATION", None),
        ("03-01 10:00:00", "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None),
        ("03-01 10:00:00", "INSURANCE//Medicare", None),
        ("03-01 10:00:00", "MARITAL_STATUS//UNK", None),
        ("03-01 10:00:00", "SERVICE//MED", None),
        ("03-01 10:30:00", "ED_OUT", None),
        ("03-01 11:00:00", "MEDICATION//Heparin 5.000 Units//Administered//006550", None),
        ("03-02 00:00:00", "ICU_ADMISSION//Trauma SICU (TSICU)", None),
        ("03-03 00:00:00", "ICU_DISCHARGE//Coronary Care Unit (CCU)", None),
        ("03-04 12:00:00", "HOSPITAL_DISCHARGE//REHAB", None),
        ("03-04 12:00:00", "DRG//UNKNOWN", None),
        ("03-06 10:00:00", "HOSPITAL_ADMISSION//URGENT//UNK", None),
        ("03-06 10:00:00", "INSURANCE//UNK", None),
        ("03-06 10:00:00", "MARITAL_STATUS//MARRIED", None),
        ("03-06 10:00:00", "DIAGNOSIS//ICD//10//I10", None),  # the published leak
        ("03-06 10:00:00", "DIAGNOSIS//ICD//10//A419", None),
        ("03-08 00:00:00", "MEDS_DEATH", None),
        ("03-08 00:00:00", "HOSPITAL_DISCHARGE//DIED", None),
        ("03-08 00:00:00", SEPSIS, None),
        ("03-08 22:20:00", "LAB//Creatinine//mg/dL//50912", 3.0),
    ]
    assert rows(table, 2)[-1] == ("07-01 23:59:00", "MEDS_DEATH", None)
    assert ("06-03 09:00:00", SEPSIS, None) in rows(table, 2)  # one name a DRG
    assert summary["dropped"]["hosp/labevents: no label"] == 4


def test_options(raw, tmp_path):
    put(raw, "icu/chartevents", CHART)
    put(
        raw,
        "icu/inputevents",
        "subject_id,hadm_id,stay_id,starttime,endtime,storetime,itemid,amount,amountuom,rate,rateuom\n"
        "1,101,11,2150-03-02 01:00:00,2150-03-02 02:00:00,2150-03-02 01:20:00,221906,3,mg,0.05,mcg/kg/min\n",
    )
    without, summary = extracted(raw, tmp_path)
    assert not any(code.startswith(("CHART", "INFUSION")) for code in without["code"].to_pylist())
    assert "icu/procedureevents" in summary["tables"]
    table = extract(raw, tmp_path, tables=("chartevents", "icu/inputevents", "-omr"))
    codes = table["code"].to_pylist()
    assert "CHART//220052//mmHg" in codes
    assert [r for r in rows(table, 1) if r[1].startswith("INFUSION")] == [
        ("03-02 01:20:00", "INFUSION_START//221906", pytest.approx(0.05)),
        ("03-02 02:00:00", "INFUSION_END//221906", 3.0),
    ]
    assert "BMI" not in codes
    with pytest.raises(UserError, match=r"icu/outputevents\.csv\.gz is missing: copy it there, or take it out"):
        extract(raw, tmp_path, tables=("outputevents",))
    with pytest.raises(UserError, match="reads no table 'poe': take some of"):
        extract(raw, tmp_path, tables=("poe",))
    with pytest.raises(UserError, match="hosp/patients is needed"):
        extract(raw, tmp_path, tables=("-patients",))
    with pytest.raises(UserError, match="no preset 'ethos'"):
        extract(raw, tmp_path, preset="ethos")


CHART = """subject_id,hadm_id,stay_id,charttime,storetime,itemid,value,valuenum,valueuom
1,101,11,2150-03-02 01:00:00,,220052,65,65,mmHg
1,101,11,2150-03-02 01:00:00,,223835,,50,%
1,101,11,2150-03-02 01:30:00,,220739,,3,
1,101,11,2150-03-02 01:30:00,,223900,,4,
1,101,11,2150-03-02 01:30:00,,223901,,6,
1,101,11,2150-03-03 01:00:00,,220052,20,20,mmHg
"""


def test_sofa_has_its_place(raw, tmp_path):
    put(raw, "icu/chartevents", CHART)
    lab = "{},1,,1,{},2150-03-02 0{}:00:00,,x,{},u,,\n"
    labs = (("50821", 3, 90), ("51265", 4, 99), ("50885", 5, 2.5), ("50912", 6, 1.9))
    put(raw, "hosp/labevents", TABLES["hosp/labevents"] + "".join(lab.format(9 + i, *r) for i, r in enumerate(labs)))
    table, summary = extracted(raw, tmp_path)
    # PaO2/FiO2 180, not ventilated: 2; platelets 99: 2; bilirubin 2.5: 2; MAP 65: 1; coma 13: 1; creatinine 1.9: 1
    assert [r for r in rows(table, 1) if r[0] == "03-03 00:00:00"][:2] == [
        ("03-03 00:00:00", "SOFA", 9.0),
        ("03-03 00:00:00", "ICU_DISCHARGE//Coronary Care Unit (CCU)", None),
    ]
    assert summary["sofa"] == {"stays": 1, "scores": 1, "lacking": {}}
    published = rows(extract(raw, tmp_path, preset="ethos_ares"), 1)
    at = published.index(("03-02 00:00:00", "ICU_ADMISSION//Trauma SICU (TSICU)", None))
    assert published[at + 1] == ("03-02 00:00:00", "SOFA", 9.0)
    assert not any(code.startswith("SOFA_INPUT") for code in table["code"].to_pylist())


def test_descriptions_of_codes(raw, tmp_path):
    put(raw, "hosp/d_labitems", "itemid,label,fluid,category\n50912,Creatinine,Blood,Chemistry\n")
    put(raw, "hosp/d_icd_diagnoses", "icd_code,icd_version,long_title\nI10,10,Hypertension\nI10,9,Else\n")
    extract(raw, tmp_path)
    told = pq.read_table(next(tmp_path.glob("events*")) / "metadata" / "codes.parquet").to_pylist()
    known = {r["code"]: r["description"] for r in told if r["description"]}
    assert known == {"LAB//50912//mg/dL": "Creatinine", "DIAGNOSIS//ICD//10//I10": "Hypertension"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("8/10", 8),
        (' +9"', 9),
        ("5-6", 5.5),
        ("0", 0),
        ("13", None),
        ("Critical", 10),
        ("hurts a lot", 8),
        ("mild", 5),
        ("some", 2),
        ("asleep", 0),
        ("N/A", 0),
        ("none", 0),
        ("ua", None),
        ("a-b", None),
        ("", None),
    ],
)
def test_pain(text, value):
    assert parsing.pain(text) == value


def test_inputs(raw, tmp_path):
    before = mimic_iv.inputs(raw)
    assert mimic_iv.inputs(raw, memory_gb=1.0) == before
    assert mimic_iv.inputs(raw, preset="ethos_ares") != before
    assert mimic_iv.inputs(raw, tables=("-omr",)) != before
    for name, text in ED.items():
        put(tmp_path / "other", name, text)
    assert mimic_iv.inputs(raw, ed=tmp_path / "other") != before
    put(raw, "hosp/omr", TABLES["hosp/omr"].replace("27.5", "28.5"))
    assert mimic_iv.inputs(raw) != before
    with pytest.raises(UserError, match="--raw=DIR"):
        mimic_iv.inputs(None)


def test_places_fit_the_bits_they_have():
    for preset in presets.PRESETS:
        for ed, times in itertools.product((False, True), ("known", "happened")):
            assert len(presets.places(preset, ed, times)) < mimic_spread.HIDDEN_PLACE
    columns = [2047], [mimic_spread._LAST], [(1 << 16) - 1], [0], [math.nan], [0]
    assert (mimic_gather.Rows(*map(np.array, columns)).key() > 0).all()
