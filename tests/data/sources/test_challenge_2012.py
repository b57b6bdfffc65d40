"""Made-up stays in the layout of the release."""

import io
import tarfile
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling.data.events import splits
from ehr_scaling.data.sources import challenge_2012, get
from ehr_scaling.errors import UserError

T0 = datetime(2100, 1, 1)
HEADER = "Time,Parameter,Value\n"
# Out of order in time, a value in scientific notation, a missing one, a nameless one, a weight that repeats.
STAY_1 = """00:00,RecordID,11
00:00,Age,60
00:00,Gender,1
00:00,HR,80
00:00,Height,-1
00:00,ICUType,3
00:00,Weight,70.5
00:00,Weight,71
01:30,WBC,1.2e+01
01:10,HR,90
01:10,Temp,36.5
02:00,NIDiasABP,-1
02:00,,3.1
47:59,Weight,72
"""
STAY_2 = "00:00,RecordID,12\n00:00,Age,40\n00:00,Gender,-1\n00:00,Height,180\n00:00,ICUType,1\n00:00,Weight,-1\n"
STAY_3 = STAY_2.replace("12", "13").replace("Gender,-1", "Gender,0") + "48:00,HR,60\n"
STAYS = {"11": STAY_1, "12": STAY_2, "13": STAY_3}
OUTCOMES = """RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death
11,6,1,5,4,1
12,16,8,1,-1,0
13,21,11,-1,-1,0
"""


def filler(record):
    return STAY_2.replace("12", record), OUTCOMES.splitlines(keepends=True)[0] + f"{record},1,1,9,-1,0\n"


def tar(stays):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as t:
        for name, rows in stays.items():
            text = (HEADER + rows).encode()
            info = tarfile.TarInfo(f"set/{name}.txt")
            info.size = len(text)
            t.addfile(info, io.BytesIO(text))
    return data.getvalue()


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "set-a.tar.gz").write_bytes(tar(STAYS))
    (folder / "Outcomes-a.txt").write_text(OUTCOMES)
    for s, record in (("b", "21"), ("c", "31")):
        stay, outcome = filler(record)
        (folder / f"set-{s}.tar.gz").write_bytes(tar({record: stay}))
        (folder / f"Outcomes-{s}.txt").write_text(outcome)
    return folder


def extract(raw, tmp_path, splits=(1.0, 0.0, 0.0)):
    out = tmp_path / "events"
    out.mkdir()
    summary = challenge_2012.extract(raw, out, seed=0, splits=splits)
    return summary, pa.concat_tables(pq.read_table(p) for p in sorted((out / "data").rglob("*.parquet")))


def rows(table, subject):
    return [
        (r["time"] and r["time"] - T0, r["code"], r["numeric_value"])
        for r in table.to_pylist()
        if r["subject_id"] == subject
    ]


def test_a_stay_becomes_events(raw, tmp_path):
    summary, table = extract(raw, tmp_path)
    minutes = lambda m: timedelta(minutes=m)  # noqa: E731
    assert rows(table, 11) == [
        (None, "GENDER//M", None),
        (None, "WEIGHT", 70.5),
        (None, "ICU_TYPE//3", None),
        (-timedelta(days=60 * 365.25), "MEDS_BIRTH", None),
        (minutes(0), "ICU_ADMISSION//MEDICAL_ICU", None),
        (minutes(0), "OBS//HR", 80.0),
        (minutes(0), "OBS//Weight", 71.0),
        (minutes(70), "OBS//HR", 90.0),
        (minutes(70), "OBS//Temp", 36.5),
        (minutes(90), "OBS//WBC", 12.0),
        (minutes(47 * 60 + 59), "OBS//Weight", 72.0),
        (timedelta(days=5), "MEDS_DEATH", None),
        (timedelta(days=5), "HOSPITAL_DISCHARGE", None),
    ]
    assert rows(table, 12) == [  # a length of stay of one day does not end before the 48 hours
        (None, "HEIGHT", 180.0),
        (None, "ICU_TYPE//1", None),
        (-timedelta(days=40 * 365.25), "MEDS_BIRTH", None),
        (minutes(0), "ICU_ADMISSION//CORONARY_CARE_UNIT", None),
        (timedelta(days=2), "HOSPITAL_DISCHARGE", None),
    ]
    assert rows(table, 13)[-1] == (timedelta(days=2), "OBS//HR", 60.0)  # unknown length: no end
    assert table.schema.names == ["subject_id", "time", "code", "numeric_value", "text_value"]
    dropped = {"value is missing (-1)": 9, "no parameter's name": 1}
    wanted = {"stays": 5, "deaths": 1, "observations": 39, "unended": 1, "dropped": dropped}
    assert {key: summary[key] for key in wanted} == wanted


def test_splits_and_inputs(raw, tmp_path):
    summary, table = extract(raw, tmp_path, splits=(0.5, 0.25, 0.25))
    assert sum(summary["patients"].values()) == 5 == len(set(table["subject_id"].to_pylist()))
    before = challenge_2012.inputs(raw)
    assert before == challenge_2012.inputs(raw)
    (raw / "Outcomes-a.txt").write_text(OUTCOMES.replace("11,6", "11,7"))
    assert challenge_2012.inputs(raw) != before


def test_a_split_file_by_record_id(raw, tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("record_id,split1,split2\n11,train,tuning\n13,tuning,train\n31,held_out,train\n99,train,train\n")
    listed = splits.read(f"{path}:1")
    summary, table = extract(raw, tmp_path, splits=listed)
    assert summary["patients"] == {"train": 1, "tuning": 1, "held_out": 1}
    assert summary["split_file"] == {"not named": 2, "not there": 1}
    assert set(table["subject_id"].to_pylist()) == {11, 13, 31}
    path.write_text("record_id,split\n99,train\n13,tuning\n")
    with pytest.raises(UserError, match="in the split train, none of them in the data"):
        challenge_2012.extract(raw, tmp_path, seed=0, splits=splits.read(str(path)))


def bad(raw, name, content):
    (raw / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set-a.tar.gz", tar(STAYS)[:-40], r"set-a\.tar\.gz is truncated or damaged"),
        ("set-a.tar.gz", b"no archive", r"set-a\.tar\.gz is truncated or damaged"),
        ("set-a.tar.gz", tar({}), r"set-a\.tar\.gz holds no record"),
        ("Outcomes-a.txt", OUTCOMES.replace("Length_of_stay", "LOS"), r"Outcomes-a\.txt has no column Length_of_stay"),
        ("Outcomes-a.txt", OUTCOMES.replace("16,8,1,", "16,8,x,"), r"Outcomes-a\.txt, row 3: Length_of_stay is not"),
        ("Outcomes-a.txt", OUTCOMES.replace("16,8,1,", "16,8,"), r"Outcomes-a\.txt, row 3: 5 columns, not 6"),
        ("Outcomes-a.txt", OUTCOMES.replace("-1,0\n13", "-1,2\n13"), r"Outcomes-a\.txt, row 3: In-hospital_death"),
        ("Outcomes-a.txt", OUTCOMES.encode().replace(b"Survival", b"Surviv\xe9"), r"Outcomes-a\.txt cannot be read"),
        ("Outcomes-a.txt", "", r"Outcomes-a\.txt cannot be read"),
        ("Outcomes-a.txt", OUTCOMES[: OUTCOMES.index("13,")], "no outcome for 1 of the 3 records of set-a"),
        ("Outcomes-a.txt", OUTCOMES + "14,1,1,1,1,0\n", "lacks 1 of the 4 records of Outcomes-a.txt"),
        (
            "Outcomes-a.txt",
            OUTCOMES.replace("11,6,1,5,4", "11,6,1,900000000000000000,4"),
            "row 2: Length_of_stay is not",
        ),
        ("Outcomes-a.txt", OUTCOMES.replace("11,6,1,5,4", "11,6,1,0,4"), "row 2: Length_of_stay is not a whole number"),
        ("Outcomes-a.txt", OUTCOMES.replace("11,6,1,5,4", "11,6,1,²,4"), "row 2: Length_of_stay is not a whole number"),
        (
            "Outcomes-a.txt",
            OUTCOMES.replace("11,6,1,5,4", "11,6,1,-1,4"),
            "row 2: a death in hospital in a stay of unk",
        ),
        ("Outcomes-a.txt", OUTCOMES.replace("11,6,1", "9" * 30 + ",6,1"), "row 2: RecordID is not a whole number"),
        ("Outcomes-a.txt", OUTCOMES.replace("SOFA", "RecordID"), "has more than one column RecordID"),
        ("Outcomes-b.txt", OUTCOMES, r"Outcomes-a\.txt and Outcomes-b\.txt hold the same 3 records"),
        ("Outcomes-a.txt", OUTCOMES + "13,1,1,1,1,0\n", "holds a record twice"),
    ],
    # an archive's bytes hold the second it was made in, so they cannot name a test: two processes
    # that collect the tests would disagree
    ids=lambda value: "archive" if isinstance(value, bytes) else None,
)
def test_bad_files(raw, tmp_path, name, content, message):
    bad(raw, name, content)
    with pytest.raises(UserError, match=message) as e:
        extract(raw, tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HR,90", "HR,ninety", "record 1 of the archive, row 11: not a number in the column Value"),
        ("HR,90", "HR,inf", "record 1 of the archive, row 11: not a number"),
        ("HR,90", "HR,", "record 1 of the archive, row 11: not a number"),
        ("HR,90", "HR", "record 1 of the archive, row 11: not three columns"),
        ("01:10,HR", "1h10,HR", "record 1 of the archive, row 11: the time is not HH:MM"),
        ("00:00,Age,60\n", "", "record 1 of the archive has no Age at 00:00"),
        ("ICUType,3", "ICUType,5", "record 1 of the archive, row 7: ICUType is not a whole number from 1 to 4"),
        ("Age,60", "Age,5000", "record 1 of the archive, row 3: Age is not a whole number from 0 to 120 years"),
        ("Age,60", "Age,-1", "row 3: Age is not a whole number"),
        ("Age,60", "Age,60.5", "row 3: Age is not a whole number"),
        ("RecordID,11", "RecordID,11.7", "row 2: RecordID is not a whole number from 1 to 999,999,999"),
        ("RecordID,11", "RecordID,1e300", "row 2: RecordID is not a whole number"),
        ("Gender,1", "Gender,2", "row 4: Gender is not a whole number from 0 to 1"),
        ("00:00,HR,80", "00:00,Age,61", "row 5: Age is told a second time"),
        ("00:00,Age", "00:30,Age", "row 3: Age belongs to 00:00"),
        ("01:10,HR", "²:00,HR", "row 11: the time is not HH:MM, from 00:00 to 48:00"),
        ("01:10,HR", "9223372036854775808:00,HR", "row 11: the time is not HH:MM"),
        ("01:10,HR", "48:01,HR", "row 11: the time is not HH:MM"),
        ("01:10,HR", "٠١:10,HR", "row 11: the time is not HH:MM"),
        ("HR,90", "Hr,90", "row 11: the parameter is none of the release's 42"),
    ],
)
def test_bad_rows_are_named_by_place_not_by_patient(raw, tmp_path, old, new, message):
    bad(raw, "set-a.tar.gz", tar({**STAYS, "11": STAY_1.replace(old, new)}))
    with pytest.raises(UserError, match=message) as e:
        extract(raw, tmp_path)
    assert "11.txt" not in str(e.value)
    assert "ninety" not in str(e.value)


def test_only_the_line_that_cannot_be_read_is_named(raw, tmp_path):
    stays = {str(i): STAY_2.replace("12", str(i)) for i in range(100, 103)}
    bad(raw, "set-a.tar.gz", tar({**stays, "200": STAY_1.replace("HR,90", "HR,\x00")}))
    with pytest.raises(UserError, match=r"record 4 of the archive, row 11: not a number"):
        extract(raw, tmp_path)


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ("01:10,HR,1e300", "OBS//HR", "HR is not a number from 0 to 400 /min"),
        ("01:10,HR,3.5e38", "OBS//HR", "HR is not a number from 0 to 400 /min"),
        ("01:10,HR,-2", "OBS//HR", "HR is not a number from 0 to 400 /min"),
        ("01:10,Temp,-17.8", "OBS//Temp", "Temp is not a number from 10 to 47 °C"),
        ("01:10,pH,735", "OBS//pH", "pH is not a number from 6 to 8.5"),
        ("00:00,Height,1.8", "HEIGHT", "Height is not a number from 50 to 280 cm"),
    ],
)
def test_values_that_cannot_be_are_left_out_and_counted(raw, tmp_path, row, code, reason):
    stay = STAY_1.replace("01:10,HR,90\n", "").replace("00:00,HR,80\n", "").replace("01:10,Temp,36.5\n", "")
    bad(raw, "set-a.tar.gz", tar({**STAYS, "11": stay.replace("00:00,Height,-1\n", "") + row + "\n"}))
    summary, table = extract(raw, tmp_path)
    assert summary["dropped"][reason] == 1
    assert code not in [code for _, code, _ in rows(table, 11)]


def test_limits_hold_what_lies_on_them(raw, tmp_path):
    stay = STAY_1.replace("HR,90", "HR,0").replace("Temp,36.5", "Temp,47").replace("Age,60", "Age,120")
    bad(raw, "set-a.tar.gz", tar({**STAYS, "11": stay}))
    summary, table = extract(raw, tmp_path)
    assert {("OBS//HR", 0.0), ("OBS//Temp", 47.0)} <= {(code, value) for _, code, value in rows(table, 11)}
    assert set(summary["dropped"]) == {"value is missing (-1)", "no parameter's name"}


def test_a_height_that_is_told_again_is_an_observation(raw, tmp_path):
    bad(raw, "set-a.tar.gz", tar({**STAYS, "12": STAY_2 + "00:00,Height,181\n03:00,Height,182\n"}))
    _, table = extract(raw, tmp_path)
    heights = [row for row in rows(table, 12) if "HEIGHT" in row[1].upper()]
    hours = [(time and time / timedelta(hours=1), code, value) for time, code, value in heights]
    assert hours == [(None, "HEIGHT", 180.0), (timedelta(0), "OBS//Height", 181.0), (3, "OBS//Height", 182.0)]


def test_a_parameter_in_another_unit_is_refused(raw, tmp_path):
    def stay(others):
        temperatures = "".join(f"0{i}:00,Temp,9{i}.5\n" for i in range(10))
        return {**STAYS, "11": STAY_1.replace("01:10,Temp,36.5\n", "") + temperatures + "10:00,Temp,37\n" * others}

    bad(raw, "set-a.tar.gz", tar(stay(9)))
    with pytest.raises(UserError, match=r"10 of 19 values: Temp is not a number from 10 to 47 °C: are they in another"):
        extract(raw, tmp_path)
    bad(raw, "set-a.tar.gz", tar(stay(10)))
    (tmp_path / "again").mkdir()
    assert extract(raw, tmp_path / "again")[0]["dropped"]["Temp is not a number from 10 to 47 °C"] == 10


def test_missing_and_changed_files(raw, tmp_path):
    with pytest.raises(UserError, match="--raw=DIR"):
        challenge_2012.inputs(None)
    (raw / "SHA256SUMS.txt").write_text(f"{'0' * 64}  set-b.tar.gz\n")
    with pytest.raises(UserError, match=r"set-b\.tar\.gz does not match SHA256SUMS"):
        extract(raw, tmp_path)
    (raw / "Outcomes-c.txt").unlink()
    with pytest.raises(UserError, match=r"Outcomes-c\.txt is missing"):
        challenge_2012.inputs(raw)


def test_the_registry():
    assert get("challenge-2012") is challenge_2012
    with pytest.raises(UserError, match=r"no source is called 'challenge-2013': take one of synthetic, challenge-2012"):
        get("challenge-2013")
