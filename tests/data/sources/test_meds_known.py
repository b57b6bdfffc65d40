"""MIMIC-IV in MEDS: when facts were known, and stays and deaths that contradict each other. Made-up patients."""

from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling.data.sources.meds import dataset as meds
from ehr_scaling.data.sources.meds import dialects

T0 = datetime(2150, 3, 1)
IN, OUT = "HOSPITAL_ADMISSION//URGENT//UNK", "HOSPITAL_DISCHARGE//HOME"
DIED, DEATH, BORN = "HOSPITAL_DISCHARGE//DIED", "MEDS_DEATH", "MEDS_BIRTH"


def extract(tmp_path, rows, **options):
    """Events (hours since T0, code) of one patient, from rows of (hours, code, number, hadm_id)."""
    rows = [(*row, None, None)[:4] for row in [(-500_000.0, BORN), *rows]]
    table = pa.table(
        {
            "subject_id": pa.array([7] * len(rows), pa.int64()),
            "time": pa.array([T0 + timedelta(hours=row[0]) for row in rows], pa.timestamp("us")),
            "code": pa.array([row[1] for row in rows], pa.string()),
            "numeric_value": pa.array([row[2] for row in rows], pa.float32()),
            "hadm_id": pa.array([row[3] for row in rows], pa.int64()),
        }
    )
    (tmp_path / "raw" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "raw" / "data" / "0.parquet")
    (tmp_path / "events").mkdir()
    options = {"splits": (1.0, 0.0, 0.0), "dialect": dialects.ETHOS, **options}
    summary = meds.extract(tmp_path / "raw", tmp_path / "events", seed=0, **options)
    found = pq.read_table(tmp_path / "events" / "data" / "train" / "0.parquet").to_pylist()
    return summary, [((row["time"] - T0) / timedelta(hours=1), row["code"]) for row in found if row["code"] != BORN]


END = 24 - 1 / 3_600  # the last second of a day


@pytest.mark.parametrize(
    ("rows", "wanted", "rule"),
    [
        (
            [(8, IN), (56, DIED)],
            [(8, IN), (56, DEATH), (56, DIED)],
            "stays in hospital: death in hospital without a time put at the discharge",
        ),
        (
            [(5, DEATH), (8, IN), (56, DIED)],
            [(8, IN), (56, DEATH), (56, DIED)],
            "stays in hospital: date of death another than that of the death in hospital not used",
        ),
        (
            [(8, IN), (48, DIED), (60, DEATH)],
            [(8, IN), (60, DEATH), (60, DIED)],
            "stays in hospital: discharge before death moved to it",
        ),
        (
            [(8, IN), (30, DEATH), (56, OUT)],
            [(8, IN), (30, DEATH), (56, OUT)],
            "stays in hospital: death in hospital by its time alone",
        ),
        (
            [(8, IN), (24, DEATH), (56, OUT)],
            [(8, IN), (56, OUT), (48 + END, DEATH)],
            "stays in hospital: date of death before a discharge alive moved behind it",
        ),
        (
            [(8, IN), (56, DIED), (56, DEATH), (900, IN), (905, "LAB//50912//mg/dL", 1.0), (950, OUT)],
            [(8, IN), (56, DEATH), (56, DIED)],
            "stays in hospital: stay after death left out",
        ),
        (
            [(8, IN), (7, OUT)],
            [(8, IN), (8, OUT)],
            "stays in hospital: discharge before admission moved to it",
        ),
        (
            [(8, IN), (12, "ICU_ADMISSION//x"), (10, "ICU_DISCHARGE//x"), (56, OUT)],
            [(8, IN), (12, "ICU_ADMISSION//x"), (12 + 1 / 3_600, "ICU_DISCHARGE//x"), (56, OUT)],
            "stays in intensive care: end before its beginning moved to it",
        ),
        (
            [(8, IN), (12, "ICU_ADMISSION//x"), (60, "ICU_DISCHARGE//x"), (56, OUT)],
            [(8, IN), (12, "ICU_ADMISSION//x"), (56, "ICU_DISCHARGE//x"), (56, OUT)],
            "stays in intensive care: end after that of the stay in hospital moved to it",
        ),
        (
            [(8, IN), (57, "ICU_ADMISSION//x"), (60, "ICU_DISCHARGE//x"), (56, OUT)],
            [(8, IN), (56, OUT)],
            "stays in intensive care: stay that begins after the stay in hospital left out",
        ),
    ],
)
def test_stays_and_deaths_are_settled(tmp_path, rows, wanted, rule):
    summary, found = extract(tmp_path, rows)
    assert [(pytest.approx(hours), code) for hours, code in wanted] == found
    assert summary["mended"][rule] == 1


def test_a_death_that_is_told_twice_is_one(tmp_path):
    summary, found = extract(tmp_path, [(8, IN), (30, DEATH), (30, DIED), (72, DEATH), (80, "LAB//50912//mg/dL", 1.0)])
    assert found == [(8, IN), (30, DEATH), (30, DIED)]
    assert summary["dropped"] == {"after the patient's death": 1, "deaths: told again": 1}


ICD, CODE, HCPCS, DRG = "PROCEDURE//ICD//10//5A1955Z", "DIAGNOSIS//ICD//10//I214", "HCPCS//x", "DRG//HCFA//280//UNK"


def test_codes_of_the_bill_stand_at_the_discharge(tmp_path):
    rows = [(0, HCPCS), (8, IN), (24, ICD), (56, OUT), (56, CODE), (56, DRG)]  # those of a bare day at its beginning
    rows += [(480, ICD)]  # of no stay
    _, found = extract(tmp_path, rows)
    assert found[:-1] == [(8, IN), (56, OUT), (56, CODE), (56, ICD), (56, HCPCS), (56, DRG)]
    assert found[-1] == (pytest.approx(480 + END), ICD)


def test_the_stay_is_that_which_is_told(tmp_path):
    """Discharged and admitted on one day: its procedure is of the stay that hadm_id says, else of the later one."""
    stays = [(8, IN, None, 1), (56, OUT, None, 1), (60, IN, None, 2), (90, OUT, None, 2)]
    _, found = extract(tmp_path / "a", [*stays, (48, ICD, None, 1), (56, CODE, None, 1)])
    assert found == [(8, IN), (56, OUT), (56, CODE), (56, ICD), (60, IN), (90, OUT)]
    _, found = extract(tmp_path / "b", [*stays, (48, ICD), (56, CODE)])
    assert found == [(8, IN), (56, OUT), (56, CODE), (60, IN), (90, OUT), (90, ICD)]


def test_what_has_a_day_only_stands_at_its_end_or_at_the_death(tmp_path):
    _, found = extract(
        tmp_path, [(0, "BMI (kg/m2)", 27.5), (48, "BMI (kg/m2)", 28.5), (8, IN), (56, DIED), (56, DEATH)]
    )
    assert found == [(8, IN), (pytest.approx(END), "BMI"), (56, "BMI"), (56, DEATH), (56, DIED)]


def test_triage_stands_at_the_first_later_vital_sign_or_at_the_end_of_the_visit(tmp_path):
    ed = [(5, "ED_REGISTRATION"), (5, "ACUITY", 2.0), (5, "HEART_RATE", 90.0), (9, "ED_OUT")]
    head, tail = [(5, "ED_REGISTRATION")], [(9, "ED_OUT")]
    triage = [(9, "ACUITY"), (9, "VITAL//HEART_RATE")]
    assert extract(tmp_path / "a", ed)[1] == [*head, *triage, *tail]
    _, found = extract(
        tmp_path / "b", [*ed, (7, "HEART_RATE", 80.0), (8, "HEART_RATE", 70.0), (30, "HEART_RATE", 70.0)]
    )
    of_seven = [(7, "ACUITY"), (7, "VITAL//HEART_RATE"), (7, "VITAL//HEART_RATE")]
    assert found == [*head, *of_seven, (8, "VITAL//HEART_RATE"), *tail, (30, "VITAL//HEART_RATE")]
    _, found = extract(tmp_path / "c", [*ed, (5, "HEART_RATE", 80.0), (7, "HEART_RATE", 80.0)])
    assert [hours for hours, code in found if code != "ED_OUT"] == [5, 5, 5, 5, 7]  # one was measured at the arrival
    # The visit before ends when this one begins.
    _, found = extract(tmp_path / "d", [(1, "ED_REGISTRATION"), (5, "ED_OUT"), *ed])
    assert [hours for hours, code in found if code == "ACUITY"] == [9]


def test_nothing_moves_where_the_order_of_what_happened_is_wanted(tmp_path):
    rows = [(8, IN), (24, ICD), (56, DIED), (60, DEATH), (900, "LAB//50912//mg/dL", 1.0)]
    _, found = extract(tmp_path, rows, times="happened")
    assert found == [(hours, code) for hours, code, *_ in rows]


def test_temperatures_in_celsius_are_told_in_fahrenheit(tmp_path):
    """In MIMIC-IV's ED some are; elsewhere the unit says so, see units."""
    summary, _ = extract(tmp_path, [(5, "TEMPERATURE", 37.0), (6, "TEMPERATURE", 98.6)])
    told = pq.read_table(tmp_path / "events" / "data" / "train" / "0.parquet")["numeric_value"].to_pylist()
    assert told[1:] == [pytest.approx(98.6), pytest.approx(98.6)]
    assert summary["mended"]["VITAL: temperature in °C told in °F"] == 1
