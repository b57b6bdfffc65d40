"""MIMIC-IV's dialects of MEDS: one made-up patient, as each of the programs would write it."""

import json
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.data.codes import doses
from ehr_scaling.data.events import events
from ehr_scaling.data.sources.meds import dataset as meds
from ehr_scaling.data.sources.meds import dialects as d
from ehr_scaling.errors import UserError

BORN, DAY, IN, LATER, OUT = (
    datetime(2100, 1, 1),
    datetime(2150, 5, 5),
    datetime(2150, 5, 5, 8),
    datetime(2150, 5, 5, 9),
    datetime(2150, 5, 6),
)
AGAIN = datetime(2151, 1, 1)
STAY = {"insurance": "Medicare", "marital_status": None, "race": "UNKNOWN"}
# (time, code, number, columns); the order is that of the programs' tables.
ETHOS = [
    (None, "GENDER//F", None, {}),
    (BORN, "MEDS_BIRTH", None, {}),
    (BORN, "ED_REGISTRATION", None, {}),
    (BORN, "ED_REGISTRATION", None, {}),
    (DAY, "Blood Pressure Sitting", None, {"text_value": "120 / 80"}),
    (DAY, "Blood Pressure", None, {"text_value": "?/80"}),
    (DAY, "BMI (kg/m2)", None, {"text_value": "27.5"}),
    (DAY, "BMI (kg/m2)", None, {"text_value": "275"}),
    (DAY, "Weight (Lbs)", None, {"text_value": "150"}),
    (DAY, "eGFR", None, {"text_value": ">60"}),
    (DAY, "HCPCS//Hospital observation//per hour", None, {}),
    (IN, "HOSPITAL_ADMISSION//EW EMER.//UNK", None, STAY),
    (LATER, "LAB//50912//mg/dL", 1.5, {"text_value": "1.5"}),
    (LATER, "LAB//50912//mg/dL", None, {"text_value": "HEMOLYZED, Dr. Doe called"}),
    (LATER, "MEDICATION//Heparin (Porcine)//Administered", None, {}),
    (LATER, "MEDICATION//Heparin (Porcine)//Not Given", None, {}),
    (LATER, "MEDICATION//UNK//Administered", None, {}),
    (OUT, "HOSPITAL_DISCHARGE//DIED", None, {}),
    (OUT, "DIAGNOSIS//ICD//10//I214", None, {}),
    (OUT, "DRG//HCFA//280//ACUTE MI", None, {}),
    (OUT, "DRG//APR//190//ACUTE MI", None, {}),
    (OUT, "MEDS_DEATH", None, {}),
    (IN, "TRANSFER_TO//admit//Medicine/Cardiology", None, {}),
    (OUT, "TRANSFER_TO//discharge//UNK", None, {}),
    (IN, "ICU_ADMISSION//Cardiac ICU", None, {}),
    (AGAIN, "HOSPITAL_ADMISSION//ELECTIVE//HOME", None, STAY | {"race": "BLACK/AFRICAN AMERICAN"}),
]
DAY_END = datetime(2150, 5, 5, 23, 59, 59)
EXPECTED = [
    (None, "GENDER//F", None),
    (BORN, "MEDS_BIRTH", None),
    (BORN, "ED_REGISTRATION", None),
    (IN, "RACE//UNKNOWN", None),
    (IN, "HOSPITAL_ADMISSION//EW EMER.//UNK", None),
    (IN, "INSURANCE//Medicare", None),
    (IN, "MARITAL_STATUS//UNK", None),
    (IN, "TRANSFER_TO//admit//Medicine/Cardiology", None),
    (IN, "ICU_ADMISSION//Cardiac ICU", None),
    (LATER, "LAB//50912//mg/dL", 1.5),
    (LATER, "MEDICATION//Heparin (Porcine)//Administered", None),
    (DAY_END, "VITAL//BLOOD_PRESSURE//SYSTOLIC", 120.0),  # of a day
    (DAY_END, "VITAL//BLOOD_PRESSURE//DIASTOLIC", 80.0),
    (DAY_END, "BMI", 27.5),
    (OUT, "MEDS_DEATH", None),  # before the discharge that it causes
    (OUT, "HOSPITAL_DISCHARGE//DIED", None),
    (OUT, "DIAGNOSIS//ICD//10//I214", None),
    (OUT, "HCPCS//Hospital observation/per hour", None),  # of the bill
    (OUT, "DRG//HCFA//280//ACUTE MI", None),
]
HAPPENED = [
    (None, "GENDER//F", None),
    (None, "RACE//BLACK", None),  # the first admission does not tell it
    *EXPECTED[1:3],
    (DAY, "VITAL//BLOOD_PRESSURE//SYSTOLIC", 120.0),
    (DAY, "VITAL//BLOOD_PRESSURE//DIASTOLIC", 80.0),
    (DAY, "BMI", 27.5),
    (DAY, "HCPCS//Hospital observation/per hour", None),
    *EXPECTED[4:11],
    *EXPECTED[14:17],
    EXPECTED[18],
    (AGAIN, "HOSPITAL_ADMISSION//ELECTIVE//HOME", None),
    (AGAIN, "INSURANCE//Medicare", None),
    (AGAIN, "MARITAL_STATUS//UNK", None),
]
DROPPED = {
    "BMI: no number": 1,
    "DRGs: another kind than HCFA": 1,
    "VITAL: no number": 2,
    "births, deaths, ED visits: told again": 1,
    "after the patient's death": 4,
    "LAB: no number": 1,
    "doses: no name": 1,
    "doses: nothing was given (Not Given)": 1,
    "egfr: not among the events of mimic-iv": 1,
    "transfers: neither admit nor transfer": 1,
    "weight: not among the events of mimic-iv": 1,
}
ED = [
    (DAY, "ED_REGISTRATION", None, {"text_value": "AMBULANCE"}),
    (DAY, "TEMPERATURE", 98.6, {}),
    (DAY, "Blood Pressure", 120.0, {"text_value": "80.0"}),
    (DAY, "Blood Pressure", 120.0, {}),
    (DAY, "PAIN", None, {"text_value": "8/10"}),
    (DAY, "PAIN", None, {"text_value": "unable"}),
    (DAY, "ACUITY", 2.0, {}),
    (DAY, "ED_OUT", None, {"text_value": None}),
]


def older(rows):
    """As MIMIC-IV-MEDS 0.1 differs from ETHOS."""
    for time, code, number, columns in rows:
        if code.startswith("LAB//"):
            yield time, "LAB//SPECIMEN_COLLECTED//50912", None, {}
            code = code.replace("LAB//", "LAB//RESULT//")
        yield time, code, number, columns
    yield LATER, "LAB//220045//bpm", 70.0, {"text_value": "70"}
    yield LATER, "MEDICATION//START//Heparin (Porcine)", None, {}
    yield LATER, "INFUSION_START//225158", 3.0, {}
    yield LATER, "SUBJECT_WEIGHT_AT_INFUSION//KG", 70.0, {}


def newer(rows):
    """As MIMIC-IV-MEDS 0.2 differs from 0.1."""
    for time, code, number, columns in older(rows):
        if code.startswith("DRG//"):
            code, columns = code.rpartition("//")[0], {"text_value": code.rpartition("//")[2]}
        if code.startswith("MEDICATION//"):
            code += "//00409131602"
        if code.startswith("LAB//SPECIMEN"):
            code += "//STAT"
        told, columns = columns, {k: v for k, v in columns.items() if k not in STAY}
        yield time, code, number, columns
        for column, value in {**told, "language": "ENGLISH"}.items() if told.keys() >= STAY.keys() else ():
            if value is not None:  # an event without a code is not written
                yield time, f"{column.upper()}//{value}", None, {}


ETL = [
    (BORN, "MEDS_BIRTH", None, {}),
    (BORN, "MIMIC_IV_Gender/F", None, {}),
    (IN, "MIMIC_IV_Admission/EW EMER.", None, {}),
    (IN, "MIMIC_IV_Admission_Location/EMERGENCY ROOM", None, {}),
    (IN, "MIMIC_IV_Insurance/Medicare", None, {}),
    (IN, "MIMIC_IV_Language/ENGLISH", None, {}),
    (IN, "MIMIC_IV_Race/WHITE - RUSSIAN", None, {}),
    (DAY, "MIMIC_IV_OMR/Blood Pressure", None, {"text_value": "120/80"}),
    (DAY, "MIMIC_IV_OMR/BMI (kg/m2)", 27.5, {}),
    (LATER, "MIMIC_IV_LABITEM/50912", 1.5, {"unit": "mg/dL", "table": "hosp/labevents"}),
    (LATER, "MIMIC_IV_ITEM/220045", 70.0, {"unit": "bpm", "table": "icu/chartevents"}),
    (LATER, "MIMIC_IV_ITEM/226559", 30.0, {"unit": "ml", "table": "icu/outputevents"}),
    (LATER, "MIMIC_IV_ITEM/225158/01-Drips", 3.0, {"unit": "mL/hour", "table": "icu/inputevents"}),
    (LATER, "MIMIC_IV_ITEM/225402", 1.0, {"unit": None, "table": "icu/procedureevents"}),
    (LATER, "MIMIC_IV_ITEM/224186", None, {"text_value": "2150-05-05", "table": "icu/datetimeevents"}),
    (LATER, "MIMIC_IV_Drug/Heparin", None, {}),
    (LATER, "NDC/00409131602", None, {}),
    (LATER, "MIMIC_IV_Transfer/Emergency Department", None, {}),
    (LATER, "MIMIC_IV_Transfer/Medicine", None, {}),
    (OUT, "MIMIC_IV_Discharge_Location/HOME", None, {}),
    (OUT, "ICD10CM/I21.4", None, {}),
    (OUT, "ICD9CM/410.71", None, {}),
    (OUT, "ICD9Proc/00.66", None, {}),
    (OUT, "ICD10PCS/027034Z", None, {}),
    (OUT, "HCFA/280", None, {}),
]
FROM_ETL = [
    (None, "GENDER//F", None),
    (BORN, "MEDS_BIRTH", None),
    (IN, "RACE//WHITE", None),
    (IN, "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", None),
    (IN, "INSURANCE//Medicare", None),
    (LATER, "LAB//50912//mg/dL", 1.5),
    (LATER, "CHART//220045//bpm", 70.0),
    (LATER, "SUBJECT_FLUID_OUTPUT//226559//ml", 30.0),
    (LATER, "NDC//00409131602", None),
    (LATER, "INFUSION_START//225158", 3.0),
    (LATER, "PROCEDURE//START//225402", 1.0),
    (LATER, "MEDICATION//Heparin//Prescribed", None),
    (LATER, "TRANSFER_TO//transfer//Medicine", None),
    (DAY_END, "VITAL//BLOOD_PRESSURE//SYSTOLIC", 120.0),
    (DAY_END, "VITAL//BLOOD_PRESSURE//DIASTOLIC", 80.0),
    (DAY_END, "BMI", 27.5),
    (OUT, "HOSPITAL_DISCHARGE//HOME", None),
    (OUT, "DIAGNOSIS//ICD//10//I214", None),
    (OUT, "DIAGNOSIS//ICD//9//41071", None),
    (OUT, "PROCEDURE//ICD//9//0066", None),
    (OUT, "PROCEDURE//ICD//10//027034Z", None),
    (OUT, "DRG//HCFA//280//UNK", None),
]


def extract(tmp_path, rows, about=None, **options):
    rows = list(rows)
    columns = {name: pa.array([row[3].get(name) for row in rows], pa.string()) for *_, told in rows for name in told}
    table = pa.table(
        {
            "subject_id": pa.array([7] * len(rows), pa.int64()),
            "time": pa.array([row[0] for row in rows], pa.timestamp("us")),
            "code": pa.array([row[1] for row in rows], pa.large_string()),
            "numeric_value": pa.array([row[2] for row in rows], pa.float32()),
            **columns,
        }
    )
    root = tmp_path / "raw"
    (root / "data").mkdir(parents=True)
    (root / "metadata").mkdir()
    pq.write_table(table, root / "data" / "0.parquet")
    (root / "metadata" / "dataset.json").write_text(json.dumps(about or {}))
    out = tmp_path / "events"
    out.mkdir()
    summary = meds.extract(root, out, seed=0, splits=(1.0, 0.0, 0.0), **options)
    found = pq.read_table(out / "data" / "train" / "0.parquet").to_pylist()
    return summary, [(row["time"], row["code"], row["numeric_value"]) for row in found]


def test_ethos(tmp_path):
    summary, found = extract(tmp_path, ETHOS)
    assert summary["dialect"] == d.ETHOS
    assert found == EXPECTED
    assert summary["dropped"] == DROPPED


def test_by_the_times_at_which_things_happened(tmp_path):
    summary, found = extract(tmp_path, ETHOS, times="happened")
    assert found == HAPPENED
    wanted = {reason: n for reason, n in DROPPED.items() if reason != "after the patient's death"}
    assert summary["dropped"] == wanted | {"RACE: told again": 1}
    assert summary["mended"]["rows after the patient's death: kept"] == 3
    with pytest.raises(UserError, match="times=known: the preset ethos_ares stays as published"):
        meds.inputs(tmp_path / "raw", preset="ethos_ares", times="known")


def test_ethos_with_the_emergency_department(tmp_path):
    summary, found = extract(tmp_path, ED + ETHOS[11:])
    assert [(code, value) for time, code, value in found if time == DAY] == [
        ("ED_REGISTRATION//AMBULANCE", None),
        ("ACUITY", 2.0),
        ("VITAL//TEMPERATURE", pytest.approx(98.6)),
        ("VITAL//BLOOD_PRESSURE//SYSTOLIC", 120.0),
        ("VITAL//BLOOD_PRESSURE//DIASTOLIC", 80.0),
        ("VITAL//PAIN", 8.0),
        ("ED_OUT", None),
    ]
    assert summary["dropped"]["VITAL: no number"] == 3  # a pressure without the lower one, and a pain without any


LAST = [
    (LATER, "LAB//50912//mg/dL", 1.5),
    (LATER, "CHART//220045//bpm", 70.0),
    (LATER, "INFUSION_START//225158", 3.0),
    (LATER, "MEDICATION//Heparin (Porcine)//Administered", None),
]


def test_the_dialect_may_be_said_and_no_family_is_lost_in_silence(tmp_path, capsys):
    doses = [(LATER, f"MEDICATION//drug {i}//GIVEN", None, {}) for i in range(60)]
    results = [(LATER, f"LAB//test {i}", None, {"text_value": "positive"}) for i in range(60)]
    own = [(IN, "HOSPITAL_ADMISSION//EMERGENCY", None, {}), (OUT, "HOSPITAL_DISCHARGE//HOME", None, {})]
    summary, found = extract(tmp_path / "a", own + doses + results)
    assert summary["dialect"] == d.OTHER
    assert len(found) == 122
    assert "dialect: other, since" in capsys.readouterr().out
    assert summary["mended"]["LAB: a text and no number, the text is not kept"] == 60
    for name, raw in (("b", d.ETHOS), ("c", "mimic")):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=r"every one of the 60 events of LAB|there is no such dialect"):
            meds.extract(tmp_path / "a" / "raw", tmp_path / name, seed=0, dialect=raw)


def test_mimic_iv_meds_0_1(tmp_path):
    summary, found = extract(tmp_path, older(ETHOS))
    assert summary["dialect"] == d.MIMIC_IV_MEDS_0_1
    assert [e for e in found if e[0] != LATER] == [e for e in EXPECTED if e[0] != LATER]
    assert [e for e in found if e[0] == LATER] == LAST
    assert summary["dropped"] == DROPPED | {
        "specimens: no result": 2,
        "orders of the pharmacy: not administered": 1,
        "weight: not among the events of mimic-iv": 2,
    }


def test_mimic_iv_meds_0_2(tmp_path):
    summary, found = extract(tmp_path, newer(ETHOS))
    assert summary["dialect"] == d.MIMIC_IV_MEDS_0_2
    assert [e for e in found if e[0] == LATER] == LAST
    wanted = [e for e in EXPECTED if e[0] != LATER and e[1] != "MARITAL_STATUS//UNK"]
    assert [e for e in found if e[0] != LATER] == wanted
    assert summary["dropped"]["language: not among the events of mimic-iv"] == 2


def test_meds_etl(tmp_path):
    summary, found = extract(tmp_path, ETL)
    assert summary["dialect"] == d.MEDS_ETL
    assert found == FROM_ETL
    assert summary["dropped"] == {
        "dates and ingredients of the ICU: not among the events of mimic-iv": 1,
        "language: not among the events of mimic-iv": 1,
        "transfers: neither admit nor transfer": 1,
    }


def test_no_text_leaves(tmp_path):
    extract(tmp_path, ETHOS)
    assert b"Doe" not in b"".join(p.read_bytes() for p in (tmp_path / "events").rglob("*") if p.is_file())


def test_descriptions_follow_the_translation(tmp_path):
    root = tmp_path / "raw"
    extract(tmp_path, ETL)
    told = {"code": ["MIMIC_IV_LABITEM/50912"], "description": ["Creatinine"], "parent_codes": [["LOINC/2160-0"]]}
    pq.write_table(pa.table(told), root / "metadata" / "codes.parquet")
    (tmp_path / "again").mkdir()
    meds.extract(root, tmp_path / "again", seed=0, splits=(1.0, 0.0, 0.0))
    rows = pq.read_table(tmp_path / "again" / "metadata" / "codes.parquet").to_pylist()
    assert [row for row in rows if row["description"]] == [
        {"code": "LAB//50912//mg/dL", "description": "Creatinine", "parent_codes": ["LOINC//2160-0"]}
    ]


@pytest.mark.parametrize(
    ("codes", "about", "dialect"),
    [
        ([row[1] for row in ETHOS], {}, d.ETHOS),
        ([row[1] for row in ETHOS], {"etl_name": "ehr_scaling"}, d.OWN),
        ([row[1] for row in older(ETHOS)], {"etl_name": "MEDS_transforms"}, d.MIMIC_IV_MEDS_0_1),
        ([row[1] for row in newer(ETHOS)], {"etl_name": "MEDS_transforms"}, d.MIMIC_IV_MEDS_0_2),
        (["ICD9CM/410.71", "MIMIC_IV_ITEM/220045"], {}, d.MEDS_ETL),
        (["ICD9CM/410.71"], {"etl_name": "meds_etl.mimic"}, d.MEDS_ETL),
        (["SNOMED/44054006", "LOINC/718-7", "ICD10CM/E11.9", "MEDS_BIRTH", "Visit/IP"], {}, d.OTHER),
        (["LAB//a//mg", "HOSPITAL_ADMISSION", "DIAGNOSIS//x"], {}, d.OTHER),  # somebody's own
        (
            ["HOSPITAL_ADMISSION//EMERGENCY", "ICU_ADMISSION//North", "LAB//sodium", "MEDICATION//aspirin//GIVEN"],
            {},
            d.OTHER,
        ),
        ([], {}, d.OTHER),
    ],
)
def test_detection(codes, about, dialect):
    assert d.detect(codes, about) == dialect


WORDS = st.sampled_from([row[1] for row in [*ETHOS, *ED, *ETL]]) | st.text(max_size=30)
CODES = st.lists(WORDS | st.sampled_from(["//", "/", ":", "|", "\0", "\n", "💊", '"']), max_size=6).map("".join)


@given(st.sampled_from([*d.MIMIC, d.OWN, d.OTHER]), CODES, st.text(max_size=9), st.text(max_size=9))
def test_every_code_has_a_place_or_a_reason(dialect, code, detail, unit):
    found = d.canonical(dialect, code, detail, unit)
    if found is None:
        why = d.verdict(dialect, code, detail, unit).why
        assert why in {
            *(why for why in d._LEFT_OUT.values()),
            *(why for why, _ in d._KINDS.values()),
            *(f"{name}: not among the events of mimic-iv" for name in ("weight", "height", "egfr")),
            "dates and ingredients of the ICU: not among the events of mimic-iv",
            "doses: no name",
            "doses: not told (not told)",
            *(f"doses: {doses.why_no_dose(word)} ({told})" for word in doses.WORDS for told in (word, "another text")),
        }
    else:
        assert 1 <= len(found) <= 2 and all(isinstance(c, str) for c in found)
        assert all(0 <= d.place(dialect, c) < 256 for c in found)
        if code.strip():
            assert all(found)
    assert d.prefixed(d.prefixed(code)) == d.prefixed(code)
    assert events.BIRTH != "" and d.canonical(dialect, events.BIRTH) == (events.BIRTH,)
