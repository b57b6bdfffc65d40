"""Made-up tables in the layout of MIMIC-IV."""

import gzip
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling.data.sources import mimic_iv
from ehr_scaling.errors import UserError

# Patient 1 dies in hospital, after a discharge that is a bare date; patient 2 dies at home; patient 3 has labs only.
TABLES = {
    "hosp/patients": """subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
3,M,30,2150,g,
1,F,52,2150,g,2150-03-09
2,M,91,2150,g,2150-07-01
""",
    "hosp/admissions": """subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admission_location,\
discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag
1,101,2150-03-01 10:00:00,2150-03-04 12:00:00,,EW EMER.,EMERGENCY ROOM,REHAB,Medicare,?,,UNKNOWN,\
2150-03-01 08:00:00,2150-03-01 10:30:00,0
1,102,2150-03-06 10:00:00,2150-03-08 00:00:00,2150-03-08 22:20:00,URGENT,,DIED,,?,MARRIED,\
BLACK/CAPE VERDEAN,,,1
2,201,2150-06-01 07:15:00,2150-06-03 09:00:00,,SURGICAL SAME DAY ADMISSION,PHYSICIAN REFERRAL,HOME,Other,?,\
SINGLE,PORTUGUESE,,,0
""",
    "hosp/transfers": """subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime
1,101,1,admit,Medicine,2150-03-01 10:00:00,2150-03-02 00:00:00
1,101,2,transfer,Trauma SICU (TSICU),2150-03-02 00:00:00,2150-03-03 00:00:00
1,101,3,discharge,,2150-03-04 12:00:00,
""",
    "icu/icustays": """subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los
1,101,11,Trauma SICU (TSICU),Coronary Care Unit (CCU),2150-03-02 00:00:00,2150-03-03 00:00:00,1
""",
    "hosp/omr": """subject_id,chartdate,seq_num,result_name,result_value
2,2150-05-01,1,Blood Pressure Sitting,130/75
2,2150-05-01,1,BMI (kg/m2),27.5
2,2150-05-01,2,BMI (kg/m2),2750
2,2150-05-01,1,Weight (Lbs),150
2,2150-05-02,1,Blood Pressure,unable
""",
    "hosp/procedures_icd": """subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version
2,201,2,2150-06-01,0SR90,10
2,201,1,2150-06-01,8154,9
""",
    "hosp/hcpcsevents": """subject_id,hadm_id,chartdate,hcpcs_cd,seq_num,short_description
2,201,2150-06-02,99218,1,"Hospital, obs. per hr"
""",
    "hosp/labevents": """labevent_id,subject_id,hadm_id,specimen_id,itemid,charttime,value,valuenum,valueuom,comments
1,3,,1,50912,2149-01-01 09:00:00,1.1,1.1,mg/dL,
2,3,,1,50813,2149-01-01 09:00:00,2,2, ,"he said ""no"", then
left"
3,3,,1,51000,2149-01-01 09:00:00,NEG,,,
4,1,,1,50912,2150-03-08 22:20:00,3,3,mg/dL,
5,3,,1,50971,2149-01-01 09:00:00,4,4,mEq/L,
""",
    "hosp/emar": """subject_id,hadm_id,emar_id,emar_seq,charttime,medication,event_txt
1,101,x,1,2150-03-01 11:00:00,Heparin 5.000 Units,Administered
1,101,x,2,2150-03-01 11:00:00,Heparin,Not Given
1,101,x,3,2150-03-01 11:00:00,,Administered
""",
    "hosp/diagnoses_icd": """subject_id,hadm_id,seq_num,icd_code,icd_version
1,102,2,I10,10
1,102,1,A419,10
2,201,1,7150,9
""",
    "hosp/drgcodes": """subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality
1,102,APR,720,SEPSIS,4,4
1,102,HCFA,871,"SEPSIS W MV >96 HOURS, OR SO",,
""",
}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    for name, text in TABLES.items():
        put(folder, name, text)
    return folder


def put(folder, name, text):
    path = folder / f"{name}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def extract(raw, tmp_path, **options):
    out = tmp_path / f"events{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    mimic_iv.extract(raw, out, **{"seed": 0, "splits": (1.0, 0.0, 0.0), **options})
    assert sorted(p.name for p in out.iterdir()) == ["data", "metadata"]  # no scratch file stays
    return pa.concat_tables(pq.read_table(p) for p in sorted((out / "data").rglob("*.parquet")))


def rows(table, subject):
    return [
        (f"{r['time']:%m-%d %H:%M:%S}" if r["time"] else None, r["code"], r["numeric_value"])
        for r in table.to_pylist()
        if r["subject_id"] == subject
    ]


PATIENT_1 = [
    (None, "GENDER//F", None),
    (None, "RACE//BLACK", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("03-01 08:00:00", "ED_REGISTRATION", None),
    ("03-01 10:00:00", "HOSPITAL_ADMISSION//EMERGENCY//EMERGENCY_ROOM", None),
    ("03-01 10:00:00", "INSURANCE//MEDICARE", None),
    ("03-01 10:00:00", "MARITAL//UNKNOWN", None),
    ("03-01 10:00:00", "TRANSFER_TO//ADMIT//MEDICINE", None),
    ("03-01 10:30:00", "ED_OUT", None),
    ("03-01 11:00:00", "MEDICATION//HEPARIN_5000_UNITS//ADMINISTERED", None),
    ("03-02 00:00:00", "TRANSFER_TO//TRANSFER//TRAUMA_SICU_(TSICU)", None),
    ("03-02 00:00:00", "ICU_ADMISSION//TRAUMA_SICU_(TSICU)", None),
    ("03-03 00:00:00", "ICU_DISCHARGE//CORONARY_CARE_UNIT_(CCU)", None),
    ("03-04 12:00:00", "HOSPITAL_DISCHARGE//HEALTHCARE_FACILITY", None),
    ("03-06 10:00:00", "HOSPITAL_ADMISSION//EMERGENCY//UNKNOWN", None),
    ("03-06 10:00:00", "INSURANCE//UNKNOWN", None),
    ("03-06 10:00:00", "MARITAL//MARRIED", None),
    ("03-08 22:20:00", "LAB//50912//MG/DL", 3.0),
    ("03-08 22:20:00", "MEDS_DEATH", None),
    ("03-08 22:20:00", "HOSPITAL_DISCHARGE//DIED", None),
    ("03-08 22:20:00", "DIAGNOSIS//ICD//10//A419", None),
    ("03-08 22:20:00", "DIAGNOSIS//ICD//10//I10", None),
    ("03-08 22:20:00", "DRG//HCFA//871//SEPSIS_W_MV_>96_HOURS_OR_SO", None),
]
PATIENT_2 = [
    (None, "GENDER//M", None),
    (None, "RACE//WHITE", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("05-01 00:00:00", "VITAL//BLOOD_PRESSURE//SYSTOLIC", 130.0),
    ("05-01 00:00:00", "VITAL//BLOOD_PRESSURE//DIASTOLIC", 75.0),
    ("05-01 00:00:00", "BMI", 27.5),
    ("06-01 00:00:00", "PROCEDURE//ICD//9//8154", None),
    ("06-01 00:00:00", "PROCEDURE//ICD//10//0SR90", None),
    ("06-01 07:15:00", "HOSPITAL_ADMISSION//SCHEDULED//PHYSICIAN_REFERRAL", None),
    ("06-01 07:15:00", "INSURANCE//OTHER", None),
    ("06-01 07:15:00", "MARITAL//SINGLE", None),
    ("06-02 00:00:00", "HCPCS//HOSPITAL_OBS_PER_HR", None),
    ("06-03 09:00:00", "HOSPITAL_DISCHARGE//HOME", None),
    ("06-03 09:00:00", "DIAGNOSIS//ICD//9//7150", None),
    ("07-01 23:59:59", "MEDS_DEATH", None),
]
PATIENT_3 = [
    (None, "GENDER//M", None),
    ("01-01 00:00:00", "MEDS_BIRTH", None),
    ("01-01 09:00:00", "LAB//50912//MG/DL", pytest.approx(1.1)),
    ("01-01 09:00:00", "LAB//50813//UNK", 2.0),
    ("01-01 09:00:00", "LAB//50971//MEQ/L", 4.0),
]


@pytest.mark.parametrize("shard_patients", [1, 5_000])
def test_tables_become_events(raw, tmp_path, shard_patients):
    table = extract(raw, tmp_path, shard_patients=shard_patients)
    assert rows(table, 1) == PATIENT_1
    assert rows(table, 2) == PATIENT_2
    assert rows(table, 3) == PATIENT_3
    births = {r["subject_id"]: r["time"] for r in table.to_pylist() if r["code"] == "MEDS_BIRTH"}
    assert births == {1: datetime(2098, 1, 1), 2: datetime(2059, 1, 1), 3: datetime(2120, 1, 1)}
    assert table["subject_id"].to_pylist() == sorted(table["subject_id"].to_pylist())


def test_plain_csv_and_another_order_of_columns(raw, tmp_path):
    path = raw / "hosp/emar.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.unlink()
    (raw / "hosp/emar.csv").write_text("".join(",".join(reversed(line.split(","))) + "\n" for line in lines))
    assert rows(extract(raw, tmp_path), 1) == PATIENT_1


def test_a_patient_lies_in_one_shard_of_its_split(raw, tmp_path):
    text = TABLES["hosp/patients"] + "".join(f"{i},F,50,2150,g,\n" for i in range(4, 104))
    put(raw, "hosp/patients", text)
    table = extract(raw, tmp_path, splits=(0.6, 0.2, 0.2), shard_patients=7)
    assert len(set(table["subject_id"].to_pylist())) == 103
    files = list(next(tmp_path.glob("events*")).glob("data/*/*.parquet"))
    counts = [len(pq.read_table(f)["subject_id"].unique()) for f in files]
    assert sum(counts) == 103
    assert max(counts) == 7
    assert {f.parent.name for f in files} == {"train", "tuning", "held_out"}


def test_inputs(raw):
    before = mimic_iv.inputs(raw)
    assert mimic_iv.inputs(raw, memory_limit="1GB", shard_patients=3) == before
    put(raw, "hosp/omr", TABLES["hosp/omr"].replace("27.5", "28.5"))
    assert mimic_iv.inputs(raw) != before
    with pytest.raises(UserError, match="--raw=DIR"):
        mimic_iv.inputs(None)


def test_a_missing_table(raw, tmp_path):
    (raw / "hosp/emar.csv.gz").unlink()
    with pytest.raises(UserError, match=r"hosp/emar\.csv\.gz is missing: --raw must be"):
        extract(raw, tmp_path)


@pytest.mark.parametrize("table", ["hosp/patients", "hosp/labevents"])
def test_a_truncated_table(raw, tmp_path, table):
    put(raw, table, TABLES[table] * 3)
    path = raw / f"{table}.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match=rf"{table}\.csv\.gz is truncated or damaged: delete it"):
        extract(raw, tmp_path)


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("hosp/labevents", ",valuenum", ",number", r"labevents\.csv\.gz has no column valuenum: is it the table"),
        (
            "hosp/labevents",
            "3,3,mg/dL",
            "3,three,mg/dL",
            r"labevents\.csv\.gz, row \d+: valuenum is not of type DOUBLE",
        ),
        ("hosp/admissions", "2150-06-03", "June 3", r"admissions\.csv\.gz, row 4: dischtime is not of type TIMESTAMP"),
        ("hosp/emar", "Heparin,Not", "Heparin,a,b,c,Not", r"emar\.csv\.gz, row 3: the number of columns"),
        ("hosp/patients", "\n3,M,30,2150,g,", "", r"patients\.csv\.gz lacks the patients of 3 admissions"),
        ("hosp/patients", "2,M,91", "4,M,91", r"patients\.csv\.gz lacks the patients of 1 admissions"),
        ("hosp/patients", "3,M,30", "1,M,30", r"patients\.csv\.gz holds a patient twice"),
    ],
)
def test_bad_tables(raw, tmp_path, table, old, new, message):
    if old.startswith("\n"):
        put(raw, table, TABLES[table].splitlines()[0] + "\n")
    else:
        put(raw, table, TABLES[table].replace(old, new))
    with pytest.raises(UserError, match=message) as e:
        extract(raw, tmp_path)
    assert "\n" not in str(e.value)
    assert not any(word in str(e.value) for word in ("three", "June", "Heparin", "2150"))


def test_a_table_that_is_not_utf8(raw, tmp_path):
    path = raw / "hosp/emar.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"Heparin,N", b"H\xe9parin,N")))
    with pytest.raises(UserError, match=r"emar\.csv\.gz, row 3: the text is not UTF-8"):
        extract(raw, tmp_path)


def test_a_changed_table(raw, tmp_path):
    (raw / "SHA256SUMS.txt").write_text(f"{'0' * 64} hosp/omr.csv.gz\n")
    with pytest.raises(UserError, match=r"omr\.csv\.gz does not match SHA256SUMS"):
        extract(raw, tmp_path)
