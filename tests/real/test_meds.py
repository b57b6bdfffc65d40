"""MIMIC-IV's demo in the dialects of MEDS, made here from its tables, gives what the mimic-iv source gives."""

import collections
import dataclasses
import json

import duckdb
import numpy as np
import pytest

from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.data.sources.meds import dataset as meds
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.sources.mimic import release as mimic_iv
from ehr_scaling.outcomes.asking import cohort
from ehr_scaling.outcomes.asking.tasks import tasks

# Of each dialect, SELECTs of (subject_id, time, code, numeric_value, text_value, a, b, c); the last three are the
# columns that some have.
NO = "NULL, NULL, NULL, NULL, NULL"
SHARED = f"""
SELECT subject_id, NULL, 'GENDER//' || gender, {NO} FROM patients
UNION ALL SELECT subject_id, make_timestamp(anchor_year - anchor_age, 1, 1, 0, 0, 0), 'MEDS_BIRTH', {NO} FROM patients
UNION ALL SELECT subject_id, coalesce(d.t, dod), 'MEDS_DEATH', {NO} FROM patients
  LEFT JOIN (SELECT subject_id, min(deathtime) t FROM admissions GROUP BY 1) d USING (subject_id)
  WHERE coalesce(d.t, dod) IS NOT NULL
UNION ALL SELECT subject_id, edregtime, 'ED_REGISTRATION', {NO} FROM admissions WHERE edregtime IS NOT NULL
UNION ALL SELECT subject_id, edouttime, 'ED_OUT', {NO} FROM admissions WHERE edouttime IS NOT NULL
UNION ALL SELECT subject_id, dischtime, 'HOSPITAL_DISCHARGE//' || coalesce(discharge_location, 'UNK'), {NO}
  FROM admissions
UNION ALL SELECT d.subject_id, dischtime, 'DIAGNOSIS//ICD//' || icd_version || '//' || icd_code, {NO}
  FROM diagnoses_icd d JOIN admissions USING (hadm_id)
UNION ALL SELECT subject_id, chartdate, 'PROCEDURE//ICD//' || icd_version || '//' || icd_code, {NO} FROM procedures_icd
UNION ALL SELECT subject_id, chartdate, 'HCPCS//' || short_description, {NO} FROM hcpcsevents
UNION ALL SELECT subject_id, chartdate, result_name, NULL, result_value, NULL, NULL, NULL FROM omr
UNION ALL SELECT subject_id, intime, 'TRANSFER_TO//' || eventtype || '//' || coalesce(careunit, 'UNK'), {NO}
  FROM transfers
UNION ALL SELECT subject_id, intime, 'ICU_ADMISSION//' || first_careunit, {NO} FROM icustays
UNION ALL SELECT subject_id, outtime, 'ICU_DISCHARGE//' || last_careunit, {NO} FROM icustays
"""
ADMISSION = (
    "subject_id, admittime, 'HOSPITAL_ADMISSION//' || admission_type || '//' || coalesce(admission_location, 'UNK')"
)
MADE = {
    dialects.ETHOS: f"""{SHARED}
UNION ALL SELECT {ADMISSION}, NULL, NULL, insurance, marital_status, race FROM admissions
UNION ALL SELECT subject_id, charttime, 'LAB//' || itemid || '//' || coalesce(valueuom, 'UNK'), valuenum, value,
  NULL, NULL, NULL FROM labevents
UNION ALL SELECT subject_id, charttime, 'MEDICATION//' || coalesce(medication, 'UNK') || '//' || event_txt, {NO}
  FROM emar
UNION ALL SELECT d.subject_id, dischtime, 'DRG//' || drg_type || '//' || drg_code || '//' || description, {NO}
  FROM drgcodes d JOIN admissions USING (hadm_id)""",
    dialects.MIMIC_IV_MEDS_0_2: f"""{SHARED}
UNION ALL SELECT {ADMISSION}, {NO} FROM admissions
UNION ALL SELECT subject_id, admittime, 'INSURANCE//' || insurance, {NO} FROM admissions
UNION ALL SELECT subject_id, admittime, 'MARITAL_STATUS//' || marital_status, {NO} FROM admissions
  WHERE marital_status IS NOT NULL
UNION ALL SELECT subject_id, admittime, 'RACE//' || race, {NO} FROM admissions
UNION ALL SELECT subject_id, charttime, 'LAB//SPECIMEN_COLLECTED//' || itemid || '//UNK', {NO} FROM labevents
UNION ALL SELECT subject_id, charttime, 'LAB//RESULT//' || itemid || '//' || coalesce(valueuom, 'UNK'), valuenum,
  value, NULL, NULL, NULL FROM labevents
UNION ALL SELECT subject_id, charttime, 'MEDICATION//' || coalesce(medication, 'UNK') || '//' || event_txt || '//UNK',
  {NO} FROM emar
UNION ALL SELECT d.subject_id, dischtime, 'DRG//' || drg_type || '//' || drg_code, NULL, description, NULL, NULL, NULL
  FROM drgcodes d JOIN admissions USING (hadm_id)""",
}
COLUMNS = {
    dialects.ETHOS: ("insurance", "marital_status", "race"),
    dialects.MIMIC_IV_MEDS_0_2: ("x", "y", "z"),
}


@pytest.fixture(scope="module")
def tables(real_data):
    raw = real_data / "physionet" / "files" / "mimic-iv-demo" / "2.2"
    con = duckdb.connect()
    for path in raw.glob("*/*.csv.gz"):
        types = {"icd_code": "VARCHAR", "result_value": "VARCHAR", "drg_code": "VARCHAR", "value": "VARCHAR"}
        header = con.execute(f"SELECT * FROM read_csv('{path}', all_varchar=true) LIMIT 0").description
        types = {name: kind for name, kind in types.items() if name in [column[0] for column in header]}
        con.execute(f"CREATE VIEW {path.name.split('.')[0]} AS SELECT * FROM read_csv('{path}', types={types})")
    return raw, con


@pytest.fixture(scope="module")
def wanted(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("clean")
    mimic_iv.extract(tables[0], out, seed=0)
    return counts(out)


def counts(out):
    with duckdb.connect() as con:
        query = f"""SELECT code, count(*), count(numeric_value), round(sum(numeric_value::DOUBLE), 2)
        FROM read_parquet('{out}/data/*/*.parquet') GROUP BY 1"""
        return {code: tuple(rest) for code, *rest in con.execute(query).fetchall()}


@pytest.mark.parametrize("dialect", MADE)
def test_dialects_give_what_the_source_gives(tables, wanted, tmp_path, dialect):
    _, con = tables
    (tmp_path / "raw" / "data").mkdir(parents=True)
    (tmp_path / "raw" / "metadata").mkdir()
    (tmp_path / "raw" / "metadata" / "dataset.json").write_text(json.dumps({"dataset_name": "MIMIC-IV"}))
    a, b, c = COLUMNS[dialect]
    con.execute(
        f"COPY (SELECT subject_id::BIGINT subject_id, time::TIMESTAMP time, code, num::FLOAT numeric_value, "
        f"text::VARCHAR text_value, a::VARCHAR {a}, b::VARCHAR {b}, c::VARCHAR {c} FROM ({MADE[dialect]}) "
        f"AS e(subject_id, time, code, num, text, a, b, c) ORDER BY 1, 2 NULLS FIRST) "
        f"TO '{tmp_path}/raw/data/0.parquet' (FORMAT parquet)"
    )
    out = tmp_path / "events"
    out.mkdir()
    summary = meds.extract(tmp_path / "raw", out, seed=0)
    assert summary["dialect"] == dialect
    found = counts(out)
    leave_out = {"SOFA"}  # computed by the source
    if dialect == dialects.MIMIC_IV_MEDS_0_2:
        leave_out.add("MARITAL_STATUS//UNK")  # what is not known makes no event there
    # Of results that are bounds MEDS tells those that are the value; the others stand in comments, which it has not.
    lab = lambda code: code.startswith("LAB//")  # noqa: E731
    assert {code for code in wanted if code not in leave_out and not lab(code)} == {c for c in found if not lab(c)}
    assert {code: n for code, n in found.items() if not lab(code) and wanted[code] != n} == {}
    assert all(found[code][0] <= wanted[code][0] for code in found if lab(code))
    by_family = collections.Counter()
    for code, (n, *_) in found.items():
        by_family[code.partition("//")[0]] += n
    assert by_family["HOSPITAL_ADMISSION"] == 275
    assert 95_246 <= by_family["LAB"] <= 95_246 + 12
    assert by_family["RACE"] >= 100


ED_MODULE = """
SELECT subject_id, intime, 'ED_REGISTRATION', NULL, arrival_transport, NULL, NULL, NULL FROM edstays
UNION ALL SELECT subject_id, outtime, 'ED_OUT', NULL, disposition, NULL, NULL, NULL FROM edstays
UNION ALL SELECT e.subject_id, intime, 'ACUITY', acuity, NULL, NULL, NULL, NULL FROM triage JOIN edstays e
  USING (stay_id) WHERE acuity IS NOT NULL
UNION ALL SELECT e.subject_id, outtime, 'DIAGNOSIS//ICD//' || icd_version || '//' || icd_code, NULL, NULL, NULL, NULL,
  NULL FROM diagnosis JOIN edstays e USING (stay_id)
UNION ALL SELECT subject_id, charttime, 'MEDICATION//' || name || '//Administered', NULL, NULL, NULL, NULL, NULL
  FROM pyxis"""
for table in ("(SELECT * EXCLUDE subject_id FROM triage) t JOIN edstays USING (stay_id)", "vitalsign"):
    time = "charttime" if table == "vitalsign" else "intime"
    for code, number, text in (
        ("TEMPERATURE", "temperature", "NULL"),
        ("HEART_RATE", "heartrate", "NULL"),
        ("RESPIRATORY_RATE", "resprate", "NULL"),
        ("O2_SATURATION", "o2sat", "NULL"),
        ("Blood Pressure", "sbp", "dbp::VARCHAR"),
        ("PAIN", "NULL", "pain"),
    ):
        ED_MODULE += f"\nUNION ALL SELECT subject_id, {time}, '{code}', {number}, {text}, NULL, NULL, NULL FROM {table}"
NO_ED = "edregtime IS NOT NULL AND hadm_id NOT IN (SELECT hadm_id FROM edstays WHERE hadm_id IS NOT NULL)"
NO_SOFA = {"sofa"}  # of MEDS, no score is computed
# A vital sign without a number is no event in MEDS, and so cannot tell when the triage was known: then it is the next.
AT_TRIAGE = {"ed_hospitalization", "ed_critical_outcome"}


def prepared(folder, source, raw, ed=None, dialect=None):
    data = base.get_config().data
    data.source, data.raw, data.ed, data.dialect = source, str(raw), ed and str(ed), dialect
    data.splits, data.tokens.min_patients, data.tokens.min_count = (1.0, 0.0, 0.0), 0, 1
    pipeline.prepare(data, folder, workers=1, until="timelines")
    return folder


def answers(folder):
    """Of each task who is asked, what came true, and when it is asked; () for one that the timelines cannot answer."""
    found = {}
    for name, task in tasks.load().items():
        try:
            task = dataclasses.replace(task, silence=0.0)  # for records that stop at a fixed hour, as these do not
            asked = cohort.find(folder, "train", [task]).of(0)
        except tasks.Unanswerable:
            found[name] = ()
            continue
        order = np.lexsort((asked.times, asked.subject_ids))
        found[name] = asked.subject_ids[order], asked.labels[order], asked.times[order]
    return found


@pytest.fixture(scope="module")
def both(tables, real_data, tmp_path_factory):
    """The demo with its ED module: read raw, and what its tasks answer."""
    raw, con = tables
    ed = real_data / "physionet" / "files" / "mimic-iv-ed-demo" / "2.2"
    for path in ed.glob("*/*.csv.gz"):
        name = path.name.split(".")[0]
        con.execute(f"CREATE VIEW IF NOT EXISTS {name} AS SELECT * FROM read_csv('{path}', sample_size=-1)")
    folder = prepared(tmp_path_factory.mktemp("raw"), "mimic-iv", raw, ed)
    return con, folder, answers(folder)


@pytest.mark.parametrize("dialect", [*MADE, dialects.OWN])
def test_all_tasks_answer_alike(both, tmp_path, dialect):
    con, folder, wanted = both
    raw = tmp_path / "raw"
    if dialect == dialects.OWN:
        raw = folder / "events"
    else:
        a, b, c = COLUMNS[dialect]
        (raw / "data").mkdir(parents=True)
        # A lab stands where it was filed, as writers do that have the time.
        made = MADE[dialect].replace(
            "subject_id, charttime, 'LAB//", "subject_id, greatest(charttime, storetime), 'LAB//"
        )
        shared = made.replace("FROM admissions WHERE edregtime IS NOT NULL", f"FROM admissions WHERE {NO_ED}")
        shared = shared.replace("FROM admissions WHERE edouttime IS NOT NULL", f"FROM admissions WHERE {NO_ED}")
        con.execute(
            f"COPY (SELECT subject_id::BIGINT subject_id, time::TIMESTAMP time, code, num::FLOAT numeric_value, "
            f"text::VARCHAR text_value, a::VARCHAR {a}, b::VARCHAR {b}, c::VARCHAR {c} "
            f"FROM ({shared} UNION ALL {ED_MODULE}) AS e(subject_id, time, code, num, text, a, b, c) "
            f"ORDER BY 1, 2 NULLS FIRST) TO '{raw}/data/0.parquet' (FORMAT parquet)"
        )
    found = answers(prepared(tmp_path / "work", "meds", raw))
    assert len(found) == 25
    without = NO_SOFA if dialect in dialects.MIMIC else set()
    assert {name for name, answer in found.items() if not answer} == without | {n for n, a in wanted.items() if not a}
    for name in found.keys() - without:
        if wanted[name]:
            for ours, raws in zip(found[name][:2], wanted[name][:2], strict=True):
                np.testing.assert_array_equal(ours, raws, name)
            times, raws = found[name][2], wanted[name][2]
            if name in AT_TRIAGE and dialect in dialects.MIMIC:
                assert (times >= raws).all() and (times > raws).sum() <= 3
            else:
                np.testing.assert_array_equal(times, raws, name)
    assert sum(len(answer) > 0 and len(answer[0]) > 0 for answer in found.values()) > 20
