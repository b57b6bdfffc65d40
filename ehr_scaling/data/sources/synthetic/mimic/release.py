"""MIMIC-IV's own files, of generated patients: a release of any size, up to that of MIMIC-IV 3.1, without credentials.

Columns and their order, formats, spellings, row counts and the published distributions are the release's (Johnson et
al., Sci Data 2023;10:1; counts of version 3.1). What one event tells about the next is not: for patients a model can
learn from, take the source `synthetic`. Blocks of 1000 patients come from generators of their own, so that a smaller
release is a prefix of a larger one, and a block is a unit of work that a killed run need not repeat.
"""

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling import artifacts
from ehr_scaling.data import shards
from ehr_scaling.data.sources import physionet
from ehr_scaling.data.sources.synthetic.mimic import csv_text, events, icu, stay_tables
from ehr_scaling.data.sources.synthetic.mimic.stays import BLOCK, ROWS, block
from ehr_scaling.errors import UserError

VERSION = 2  # of the patients that a seed gives: raise it with every change to them
_PARTS = ".parts"

_ICU = "subject_id,hadm_id,stay_id,"
_CHARTED = _ICU + "caregiver_id,charttime,storetime,itemid,value,"
_STARTED = _ICU + "caregiver_id,starttime,endtime,storetime,itemid,"
# table: how it is made, and its columns in the release's order
TABLES: dict[str, tuple[Callable[..., csv_text.Rows], str]] = {
    "hosp/patients": (stay_tables.patients, "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"),
    "hosp/admissions": (
        stay_tables.admissions,
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
        "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag",
    ),
    "hosp/transfers": (stay_tables.transfers, "subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime"),
    "hosp/services": (stay_tables.services, "subject_id,hadm_id,transfertime,prev_service,curr_service"),
    "hosp/diagnoses_icd": (stay_tables.diagnoses_icd, "subject_id,hadm_id,seq_num,icd_code,icd_version"),
    "hosp/procedures_icd": (stay_tables.procedures_icd, "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version"),
    "hosp/drgcodes": (
        stay_tables.drgcodes,
        "subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality",
    ),
    "hosp/hcpcsevents": (stay_tables.hcpcsevents, "subject_id,hadm_id,chartdate,hcpcs_cd,seq_num,short_description"),
    "hosp/omr": (stay_tables.omr, "subject_id,chartdate,seq_num,result_name,result_value"),
    "hosp/labevents": (
        events.labevents,
        "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,valuenum,"
        "valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
    ),
    "hosp/emar": (
        events.emar,
        "subject_id,hadm_id,emar_id,emar_seq,poe_id,pharmacy_id,enter_provider_id,charttime,medication,event_txt,"
        "scheduletime,storetime",
    ),
    "hosp/prescriptions": (
        events.prescriptions,
        "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,starttime,stoptime,drug_type,drug,"
        "formulary_drug_cd,gsn,ndc,prod_strength,form_rx,dose_val_rx,dose_unit_rx,form_val_disp,form_unit_disp,"
        "doses_per_24_hrs,route",
    ),
    "icu/icustays": (stay_tables.icustays, _ICU + "first_careunit,last_careunit,intime,outtime,los"),
    "icu/inputevents": (
        icu.inputevents,
        _STARTED + "amount,amountuom,rate,rateuom,orderid,linkorderid,ordercategoryname,secondaryordercategoryname,"
        "ordercomponenttypedescription,ordercategorydescription,patientweight,totalamount,totalamountuom,isopenbag,"
        "continueinnextdept,statusdescription,originalamount,originalrate",
    ),
    "icu/outputevents": (icu.outputevents, _CHARTED + "valueuom"),
    "icu/procedureevents": (
        icu.procedureevents,
        _STARTED + "value,valueuom,location,locationcategory,orderid,linkorderid,ordercategoryname,"
        "ordercategorydescription,patientweight,isopenbag,continueinnextdept,statusdescription,ORIGINALAMOUNT,"
        "ORIGINALRATE",
    ),
    "icu/chartevents": (icu.chartevents, _CHARTED + "valuenum,valueuom,warning"),
}
DEFAULT = tuple(name for name in TABLES if name != "icu/chartevents")

README = """\
GENERATED PATIENTS in the layout of MIMIC-IV 3.1

No row of these files describes a person. A program (ehr_scaling, source "synthetic", layout "mimic-iv", seed {seed},
{patients} patients) made them, so that software can be tried at the size of MIMIC-IV. Columns, formats, row counts and
some distributions are those of the release; nothing about medicine can be learnt here.
"""
LICENSE = "These files are generated and hold no patient's data. Use them under the Apache License, Version 2.0.\n"


def write(
    out: Path, *, fraction: float, seed: int, tables: tuple[str, ...] = DEFAULT, workers: int = 1
) -> dict[str, Any]:
    """Write the release into the folder `out`: hosp/*.csv.gz, icu/*.csv.gz, README.txt, LICENSE.txt, SHA256SUMS.txt.

    Args:
      fraction: of MIMIC-IV 3.1's rows, above 0 and up to 1; a smaller one gives the first patients of a larger one.
      tables: names in TABLES; those left out change nothing in the others. The dictionaries are always written.
      workers: processes, of about 0.3 GB each.
    Returns: {"patients", "rows": {table: n}, "bytes": size of the compressed files}. A killed run goes on where it was
      when called again; a complete release of the same arguments is left as it is.
    Raises: UserError for a bad argument, or when `out` holds something else.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--fraction={fraction} must be above 0 and at most 1, the size of MIMIC-IV 3.1")
    if seed < 0:
        raise UserError(f"--config.data.seed={seed} must not be negative")
    if unknown := sorted(set(tables) - set(TABLES)):
        raise UserError(f"no table of MIMIC-IV is called {unknown[0]}: take some of {', '.join(TABLES)}")
    if out.exists() and not (out / artifacts.RECORD).is_file():
        if not out.is_dir() or any(out.iterdir()):
            raise UserError(f"{out} holds something else: give a folder that is new or empty")
        out.rmdir()  # the release takes this name when it is complete
    tables = tuple(name for name in TABLES if name in tables)
    patients = max(1, round(fraction * ROWS["patients"]))
    inputs = {
        "source": "synthetic", "layout": "mimic-iv", "version": VERSION, "seed": seed, "patients": patients,
        "tables": tables,
    }  # fmt: skip

    def make(folder: Path) -> dict[str, Any]:
        return _release(folder, seed, patients, tables, workers)

    return artifacts.build(out, inputs, make, resume=True)["summary"]


def _release(out: Path, seed: int, patients: int, tables: tuple[str, ...], workers: int) -> dict[str, Any]:
    blocks = -(-patients // BLOCK)
    parts = out / _PARTS
    records = [parts / f"{k:05d}.json" for k in range(blocks)]
    items = [(str(parts), seed, k, min(BLOCK, patients - k * BLOCK), tables) for k in range(blocks)]
    block_records = shards.run(_write_block, items, records, shards.Runner(workers), "patients")
    sums: dict[str, str] = {}
    for folder in ("hosp", "icu"):
        (out / folder).mkdir(exist_ok=True)
    for name in tables:
        sums[f"{name}.csv.gz"] = _assemble(
            out / f"{name}.csv.gz", [_header(TABLES[name][1]), *(_part(parts, k, name) for k in range(blocks))]
        )
    for name, (header, lines) in stay_tables.DICTIONARIES.items():
        text = "".join(f"{line}\n" for line in (header, *lines()))
        sums[f"{name}.csv.gz"] = _assemble(out / f"{name}.csv.gz", [gzip.compress(text.encode(), 1, mtime=0)])
    for name, text in {"README.txt": README.format(seed=seed, patients=patients), "LICENSE.txt": LICENSE}.items():
        artifacts.write_text(out / name, text)
        sums[name] = hashlib.sha256(text.encode()).hexdigest()
    artifacts.write_text(out / physionet.MANIFEST, "".join(f"{sums[name]} {name}\n" for name in sorted(sums)))
    rows = {name: sum(record["rows"][name] for record in block_records) for name in tables}
    return {"patients": patients, "rows": rows, "bytes": sum((out / name).stat().st_size for name in sums)}


def _part(parts: Path, k: int, name: str) -> Path:
    return parts / f"{k:05d}-{name.partition('/')[2]}.gz"


def _header(columns: str) -> bytes:
    return gzip.compress(f"{columns}\n".encode(), 1, mtime=0)


def _write_block(folder: str, seed: int, k: int, patients: int, tables: tuple[str, ...]) -> None:
    """Write one block's part of each table, a gzip member, and then its record with the numbers of rows."""
    parts = Path(folder)

    def make() -> dict[str, Any]:
        people = block(seed, k)
        rows = {}
        for name in tables:
            # Its own generator: what a table holds does not depend on which others are written.
            rng = np.random.default_rng([seed, k, 1 + list(TABLES).index(name)])
            table_rows = TABLES[name][0](people, rng)
            rows[name] = int(np.searchsorted(table_rows.patient, patients))
            _compress(_part(parts, k, name), csv_text.encode(rows[name], *table_rows.columns))
        return {"rows": rows}

    shards.once(parts / f"{k:05d}.json", make)


def _compress(path: Path, chunks: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    member = zlib.compressobj(1, zlib.DEFLATED, 31)  # 31: with gzip's header, which has no time or name here
    with artifacts.writing(path) as partial, partial.open("wb") as f:
        for chunk in chunks:
            f.write(member.compress(chunk))
        f.write(member.flush())


def _assemble(path: Path, members: list[bytes | Path]) -> str:
    """Lay gzip members end to end, which is a gzip file, and drop those that were files. Returns its SHA-256.

    A table that is there already is complete: its parts may be gone.
    """
    if not path.is_file():
        with artifacts.writing(path) as partial, partial.open("wb") as f:
            for member in members:
                if isinstance(member, bytes):
                    f.write(member)
                else:
                    with member.open("rb") as part:
                        shutil.copyfileobj(part, f, 1 << 20)
    for member in members:
        if isinstance(member, Path):
            member.unlink(missing_ok=True)
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
