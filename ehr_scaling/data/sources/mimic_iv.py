"""MIMIC-IV (2.2, 3.x, the demo): the hosp and icu tables that ETHOS uses, as MEDS events.

Johnson et al., "MIMIC-IV, a freely accessible electronic health record dataset", Sci Data 2023;10:1. The choice of
tables, the joins and the codes follow ETHOS-ARES (Renc et al. 2025): the parts of a code are upper-cased, without
',' and '.', with '_' for spaces. DuckDB streams the CSV files, spills to disk, and sorts a shard of patients at a
time.

Where ETHOS leaves a choice, or its choice would mislead a model:
- A day without an hour (omr, procedures, HCPCS) is at 00:00, as in ETHOS. A death of which only the day is known
  (`dod`) is at 23:59:59, after all of that day's events.
- In-hospital deaths are at `deathtime`. Where that is up to a day after `dischtime` (which is now and then a bare
  date), the stay ends at the death, so that the death is before its discharge and the diagnoses that belong to it.
- Race is one per patient and static: of the first admission that tells more than OTHER, else OTHER, else UNKNOWN.
- Only lab results with a number, drugs that were administered and have a name, DRGs of type HCFA, and the transfers
  "admit" and "transfer" are kept: "ED" and "discharge" repeat what the admission tells.
- Where times are equal, the rows of a table keep their order, which for diagnoses and procedures is `seq_num`.
  Between tables the order is that of EVENTS. Repeated rows are kept.
"""

import errno
import gzip
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ehr_scaling.artifacts import fingerprint_files
from ehr_scaling.data import events
from ehr_scaling.data.sources import physionet
from ehr_scaling.errors import UserError

# Columns that are read; the rest of a table is not even parsed.
TABLES = {
    "hosp/patients": "subject_id gender anchor_age anchor_year dod",
    "hosp/admissions": "subject_id hadm_id admittime dischtime deathtime admission_type admission_location "
    "discharge_location insurance marital_status race edregtime edouttime",
    "hosp/transfers": "subject_id eventtype careunit intime",
    "icu/icustays": "subject_id first_careunit last_careunit intime outtime",
    "hosp/omr": "subject_id chartdate result_name result_value",
    "hosp/procedures_icd": "subject_id seq_num chartdate icd_code icd_version",
    "hosp/hcpcsevents": "subject_id chartdate short_description",
    "hosp/labevents": "subject_id itemid charttime valuenum valueuom",
    "hosp/emar": "subject_id charttime medication event_txt",
    "hosp/diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "hosp/drgcodes": "subject_id hadm_id drg_type drg_code description",
}
TYPES = {
    **dict.fromkeys(("subject_id", "hadm_id", "itemid"), "BIGINT"),
    **dict.fromkeys(("anchor_age", "anchor_year", "seq_num", "icd_version"), "INTEGER"),
    **dict.fromkeys(("dod", "admittime", "dischtime", "deathtime", "edregtime", "edouttime"), "TIMESTAMP"),
    **dict.fromkeys(("intime", "outtime", "chartdate", "charttime"), "TIMESTAMP"),
    "valuenum": "DOUBLE",
}  # the rest is VARCHAR
VERSION = 1  # of what is made of the files; a change of it refuses events that were made before
FILES = tuple(f"{table}.csv.gz" for table in TABLES)  # what to download

MACROS = """
CREATE MACRO part_or(s, other) AS
  coalesce(nullif(replace(replace(replace(upper(trim(s)), ',', ''), '.', ''), ' ', '_'), ''), other);
CREATE MACRO part(s) AS part_or(s, 'UNKNOWN');
CREATE MACRO admission_type(s) AS CASE
  WHEN upper(s) LIKE '%EMER.' OR upper(s) = 'URGENT' THEN 'EMERGENCY'
  WHEN upper(s) IN ('ELECTIVE', 'SURGICAL SAME DAY ADMISSION') THEN 'SCHEDULED'
  ELSE 'OBSERVATION' END;
CREATE MACRO discharge_location(s) AS CASE
  WHEN upper(s) IN ('HEALTHCARE FACILITY', 'SKILLED NURSING FACILITY', 'REHAB', 'CHRONIC/LONG TERM ACUTE CARE',
                    'OTHER FACILITY') THEN 'HEALTHCARE_FACILITY'
  ELSE part(s) END;
CREATE MACRO race(s) AS CASE
  WHEN s IS NULL OR upper(s) IN ('UNKNOWN', 'UNABLE TO OBTAIN', 'PATIENT DECLINED TO ANSWER') THEN 'UNKNOWN'
  WHEN upper(s) = 'PORTUGUESE' THEN 'WHITE'
  WHEN upper(s) = 'SOUTH AMERICAN' THEN 'HISPANIC'
  WHEN regexp_extract(upper(s), '^[A-Z]+') IN ('WHITE', 'BLACK', 'ASIAN', 'HISPANIC')
    THEN regexp_extract(upper(s), '^[A-Z]+')
  ELSE 'OTHER' END;
CREATE MACRO blood_pressure(s, k) AS
  TRY_CAST(nullif(regexp_extract(s, '^\\s*(\\d{1,3})\\s*/\\s*(\\d{1,3})\\s*$', k), '') AS DOUBLE);
"""

STATIC = 2  # the first entries of EVENTS have no time; in the others, a row without a time is dropped
# One SELECT of (subject_id, time, code, value, row) an entry. The order of the entries is that of events at one
# time: a stay opens before what happens in it; death comes before the ends that it causes; what is coded at
# discharge follows it.
EVENTS = (
    "SELECT subject_id, NULL, 'GENDER//' || part(gender), NULL, row FROM patients WHERE gender IS NOT NULL",
    """SELECT subject_id, NULL, 'RACE//' || arg_min(r, (least(rank, 3), admittime, hadm_id)), NULL, 0
    FROM (SELECT *, race(race) AS r, CASE race(race) WHEN 'UNKNOWN' THEN 3 WHEN 'OTHER' THEN 2 ELSE 1 END AS rank
          FROM admissions) GROUP BY subject_id""",
    """SELECT subject_id, make_timestamp(anchor_year - anchor_age, 1, 1, 0, 0, 0), 'MEDS_BIRTH', NULL, row
    FROM patients""",
    "SELECT subject_id, edregtime, 'ED_REGISTRATION', NULL, row FROM admissions",
    """SELECT subject_id, admittime,
      unnest(['HOSPITAL_ADMISSION//' || admission_type(admission_type) || '//' || part(admission_location),
              'INSURANCE//' || part(insurance), 'MARITAL//' || part(marital_status)]),
      NULL, 4 * row + unnest([0, 1, 2]) FROM admissions""",
    """SELECT subject_id, chartdate,
      unnest(['VITAL//BLOOD_PRESSURE//SYSTOLIC', 'VITAL//BLOOD_PRESSURE//DIASTOLIC']),
      unnest([blood_pressure(result_value, 1), blood_pressure(result_value, 2)]), 2 * row + unnest([0, 1])
    FROM omr WHERE upper(result_name) LIKE 'BLOOD PRESSURE%' AND blood_pressure(result_value, 1) IS NOT NULL""",
    """SELECT subject_id, chartdate, 'BMI', TRY_CAST(result_value AS DOUBLE), row
    FROM omr WHERE upper(result_name) LIKE 'BMI%' AND TRY_CAST(result_value AS DOUBLE) BETWEEN 10 AND 100""",
    """SELECT subject_id, chartdate, 'PROCEDURE//ICD//' || icd_version || '//' || part(icd_code), NULL, seq_num
    FROM procedures_icd""",
    "SELECT subject_id, chartdate, 'HCPCS//' || part(short_description), NULL, row FROM hcpcsevents",
    """SELECT subject_id, charttime, 'LAB//' || itemid || '//' || part_or(valueuom, 'UNK'), valuenum, row
    FROM labevents WHERE isfinite(valuenum)""",
    """SELECT subject_id, charttime, 'MEDICATION//' || part(medication) || '//ADMINISTERED', NULL, row
    FROM emar WHERE event_txt = 'Administered' AND trim(medication) <> ''""",
    """SELECT subject_id, coalesce(d.death, date_trunc('day', dod) + INTERVAL '23:59:59'), 'MEDS_DEATH', NULL, row
    FROM patients LEFT JOIN (SELECT subject_id, min(deathtime) AS death FROM admissions GROUP BY subject_id) d
    USING (subject_id)""",
    "SELECT subject_id, outtime, 'ICU_DISCHARGE//' || part(last_careunit), NULL, row FROM icustays",
    "SELECT subject_id, edouttime, 'ED_OUT', NULL, row FROM admissions",
    """SELECT subject_id, intime, 'TRANSFER_TO//' || part(eventtype) || '//' || part(careunit), NULL, row
    FROM transfers WHERE eventtype IN ('admit', 'transfer')""",
    "SELECT subject_id, intime, 'ICU_ADMISSION//' || part(first_careunit), NULL, row FROM icustays",
    """SELECT subject_id, endtime, 'HOSPITAL_DISCHARGE//' || discharge_location(discharge_location), NULL, row
    FROM admissions""",
    """SELECT d.subject_id, endtime, 'DIAGNOSIS//ICD//' || icd_version || '//' || part(icd_code), NULL, seq_num
    FROM diagnoses_icd d JOIN admissions USING (hadm_id)""",
    """SELECT d.subject_id, endtime, 'DRG//HCFA//' || part(drg_code) || '//' || part(description), NULL, d.row
    FROM drgcodes d JOIN admissions USING (hadm_id) WHERE drg_type = 'HCFA'""",
)


def inputs(raw: Path | None, *, memory_limit: str = "", shard_patients: int = 0, **options: Any) -> dict[str, Any]:
    """What the events are made from; how much memory or how large a shard changes nothing in them.

    Raises: UserError where a table is missing.
    """
    raw = _folder(raw)
    files = fingerprint_files(list(_files(raw).values()), raw)
    return {"source": "mimic-iv", "version": VERSION, "raw": files, **options}


def extract(
    raw: Path | None,
    out: Path,
    *,
    seed: int,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    memory_limit: str = "4GB",
    shard_patients: int = 5_000,
) -> dict[str, Any]:
    """Write the MEDS events of a MIMIC-IV release; `raw` is its folder, with hosp/ and icu/ (.csv.gz or .csv).

    Args:
      memory_limit: of DuckDB; beyond that it spills into `out`. A shard of events is held besides.
      shard_patients: patients a parquet file, and in memory at a time; 5,000 of full MIMIC-IV have 2-3 M events.
    Returns: the summary of events.write, with "name" and "license".
    Raises: UserError for a table that is missing, truncated or changed against SHA256SUMS.txt, that lacks a column,
      or has a row that cannot be read.
    """
    raw = _folder(raw)
    files = _files(raw)
    physionet.verify(raw, [path.relative_to(raw).as_posix() for path in files.values()])
    scratch = out / ".scratch"
    scratch.mkdir()
    con = duckdb.connect(
        config={
            "memory_limit": memory_limit,
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": True,  # row_number() below is then the row of the file
        }
    )
    try:
        con.execute(MACROS)
        for table, path in files.items():
            _open(con, table, path)
        shards = _assign(con, files["hosp/patients"], seed, splits, max(1, shard_patients))
        for order, select in enumerate(tqdm(EVENTS, desc="tables", unit="table", disable=None)):
            _spread(con, order, select, scratch / "events")
        bar = tqdm(enumerate(shards), total=len(shards), desc="shards", unit="shard", disable=None)
        metadata = {"dataset_name": "MIMIC-IV", "license": "PhysioNet Credentialed Health Data License 1.5.0"}
        if _is_demo(raw):
            metadata = {"dataset_name": "MIMIC-IV Clinical Database Demo", "license": "ODbL 1.0"}
        metadata["location_uri"] = "https://physionet.org/content/mimiciv" + ("-demo" if _is_demo(raw) else "") + "/"
        summary = events.write(out, ((s, _shard(con, scratch / "events", k)) for k, s in bar), metadata=metadata)
    finally:
        con.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return {**summary, "name": metadata["dataset_name"], "license": metadata["license"]}


def _folder(raw: Path | None) -> Path:
    if raw is None:
        raise UserError("mimic-iv needs the folder of the release, with hosp/ and icu/ in it: give it with --raw=DIR")
    return raw


def _files(raw: Path) -> dict[str, Path]:
    """The file of each table in TABLES."""
    files = {}
    for table in TABLES:
        both = [raw / f"{table}.csv.gz", raw / f"{table}.csv"]
        files[table] = next((path for path in both if path.is_file()), both[0])
        if not files[table].is_file():
            raise UserError(f"{both[0]} is missing: --raw must be the folder of a release, with hosp/ and icu/ in it")
    return files


def _is_demo(raw: Path) -> bool:
    manifest = raw / physionet.MANIFEST
    listed = manifest.is_file() and "demo_subject_id.csv" in manifest.read_text(encoding="utf-8")
    return listed or (raw / "demo_subject_id.csv").is_file()


def _open(con: duckdb.DuckDBPyConnection, table: str, path: Path) -> None:
    """Make the file a relation named as the table, of the columns of TABLES and `row`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
            first = f.readline(1 << 20).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError):
        raise UserError(f"{path} is truncated or damaged: delete it and download it again") from None
    header = [name.strip().strip('"') for name in first.strip().split(",")]
    needed = TABLES[table].split()
    for column in needed:
        if column not in header:
            raise UserError(f"{path} has no column {column}: is it the table {table} of MIMIC-IV?")
    # Types are given, not guessed: a sample of the first rows may show no letter in a column that has some.
    types = {name: TYPES.get(name, "VARCHAR") if name in needed else "VARCHAR" for name in header}
    name = table.partition("/")[2]
    # Joined many times and small, the rest is streamed.
    kind = "TEMP TABLE" if name in ("patients", "admissions") else "VIEW"
    end = "*, CASE WHEN deathtime BETWEEN dischtime AND dischtime + INTERVAL 1 DAY THEN deathtime ELSE dischtime END"
    with _reading():
        con.execute(
            f"CREATE {kind} {name} AS SELECT {f'{end} AS endtime' if name == 'admissions' else '*'} FROM "
            f"(SELECT {', '.join(needed)}, row_number() OVER () AS row FROM read_csv({_quoted(path)}, "
            f"auto_detect=false, header=true, delim=',', quote='\"', escape='\"', columns={types}))"
        )


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


@contextmanager
def _reading() -> Iterator[None]:
    """Turn DuckDB's errors about files into one line; they quote the row, which must not reach a log."""
    try:
        yield
    except duckdb.Error as e:
        text = str(e)
        if "No space left" in text:
            raise OSError(errno.ENOSPC, "No space left on device", "DuckDB's scratch files") from None
        if isinstance(e, duckdb.OutOfMemoryException):
            raise UserError(
                "DuckDB ran out of memory: raise memory_limit of ehr_scaling.data.sources.mimic_iv"
            ) from None
        if match := re.search(r"GZIP stream: (.*)", text):
            raise UserError(f"{match[1]} is truncated or damaged: delete it and download it again") from None
        path, row = re.search(r"file = (.*)", text), re.search(r"CSV Error on Line: (\d+)", text)
        if not path or not row:
            if match := re.search(r"(/\S+\.csv(?:\.gz)?)", text):
                raise UserError(f"{match[1]} cannot be read: delete it and download it again") from None
            raise
        column = re.search(r'converting column "(\w+)".*? to \'(\w+)\'', text, re.DOTALL)
        what = f"{column[1]} is not of type {column[2]}" if column else "the number of columns or the quotes are wrong"
        what = "the text is not UTF-8" if "Invalid unicode" in text else what
        raise UserError(f"{path[1]}, row {row[1]}: {what}: mend it or download the file again") from None


def _assign(
    con: duckdb.DuckDBPyConnection, path: Path, seed: int, splits: tuple[float, float, float], size: int
) -> list[str]:
    """Make the relation `shards` (subject_id, shard), of at most `size` patients each. Returns their splits."""
    ids = con.execute("SELECT subject_id FROM patients ORDER BY subject_id").fetchnumpy()["subject_id"]
    ids = np.asarray(ids, np.int64)
    if len(np.unique(ids)) < len(ids):
        raise UserError(f"{path} holds a patient twice: download it again")
    ((strangers,),) = con.execute("SELECT count(*) FROM admissions ANTI JOIN patients USING (subject_id)").fetchall()
    if strangers:
        raise UserError(f"{path} lacks the patients of {strangers} admissions: are both of one release?")
    split_of = events.assign_splits(ids, seed, splits)
    shard = np.zeros(len(ids), np.int64)
    names: list[str] = []
    for i, split in enumerate(events.SPLITS):
        at = np.flatnonzero(split_of == i)
        shard[at] = len(names) + np.arange(len(at)) // size
        names += [split] * -(-len(at) // size)
    con.register("shards_arrow", pa.table({"subject_id": ids, "shard": shard}))
    con.execute("CREATE TEMP TABLE shards AS SELECT * FROM shards_arrow")
    return names


def _spread(con: duckdb.DuckDBPyConnection, order: int, select: str, folder: Path) -> None:
    """Write one entry of EVENTS as parquet files, a folder for each shard."""
    folder.mkdir(exist_ok=True)
    static = "TRUE" if order < STATIC else "time IS NOT NULL"
    with _reading():
        con.execute(
            f"COPY (SELECT e.subject_id, CAST(time AS TIMESTAMP) AS time, code, CAST(value AS DOUBLE) AS value, "
            f"{order} AS place, CAST(row AS BIGINT) AS row, shard "
            f"FROM ({select}) AS e(subject_id, time, code, value, row) JOIN shards USING (subject_id) "
            f"WHERE {static}) "
            f"TO {_quoted(folder / f'{order:02d}')} (FORMAT parquet, PARTITION_BY (shard))"
        )


def _shard(con: duckdb.DuckDBPyConnection, folder: Path, shard: int) -> pa.Table:
    with _reading():
        return con.sql(
            "SELECT subject_id, time, code, CAST(value AS FLOAT) AS numeric_value, "
            "CAST(NULL AS VARCHAR) AS text_value "
            f"FROM read_parquet({_quoted(folder / '*' / f'shard={shard}' / '*.parquet')}) "
            "ORDER BY subject_id, time NULLS FIRST, place, row, code"
        ).to_arrow_table()
