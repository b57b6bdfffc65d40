"""Any MEDS data set, 0.3.3 or 0.4, of any dialect: its events, its splits, its descriptions and parents of codes.

What a writer may get wrong is mended and counted, since all events are brought to the shards of their patients anyway:
rows out of the order of time, patients whose rows are not together or lie in several files. Times with a zone are
taken as UTC. Rows without patient or code, or with a time outside of 1800–2261, are left out and counted; numbers that
are none are no value. `text_value` is never kept: it is free text, and may name people; so are all columns that MEDS
does not define. The exception are the MIMIC-IV dialects, where a few codes are made of them: see meds_dialects.

Where MEDS leaves the order of events at one time open, that of the files is kept; in the MIMIC-IV dialects it is that
of the mimic-iv source.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling.artifacts import fingerprint_files, read_json, writing
from ehr_scaling.data import events, parquet
from ehr_scaling.data.shards import Runner, run
from ehr_scaling.data.sources.meds import dialects, shuffle
from ehr_scaling.data.sources.meds import rows as meds_rows
from ehr_scaling.errors import UserError

SPLITS_FILE, CODES_FILE, ABOUT_FILE = (
    Path("metadata", name) for name in ("subject_splits.parquet", "codes.parquet", "dataset.json")
)
VERSION = 2  # of what is made of the files; a change of it refuses events that were made before
FILES = None  # a MEDS data set is brought by the user
_UNIT = 4_000_000  # rows of a piece of work; a file may be several, or one of many in a piece
_LOOKED_AT = 8  # files in which `_dialect` looks for codes that metadata/codes.parquet may lack
_LOOKED_UP = 1 << 20  # codes of the metadata in which it looks
_ANCESTORS = 32  # of a code, nearest first


def _is_string(t: pa.DataType) -> bool:
    return pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)


_MOMENTS = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_null)
_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
# What MEDS prescribes, and what else is read without loss.
_TYPES = {
    "subject_id": ("int64", pa.types.is_integer),
    "time": ("timestamp[us]", lambda t: any(f(t) for f in _MOMENTS)),
    "code": ("string", lambda t: _is_string(t) or (pa.types.is_dictionary(t) and _is_string(t.value_type))),
    "numeric_value": ("float32", lambda t: any(f(t) for f in _NUMBERS)),
}


def inputs(raw: Path | None, **options: Any) -> dict[str, Any]:
    """What the events are made from. Raises UserError where `raw` is not a MEDS data set."""
    raw, files = _files(raw)
    extra = [path for path in (raw / SPLITS_FILE, raw / CODES_FILE, raw / ABOUT_FILE) if path.is_file()]
    return {"source": "meds", "version": VERSION, "raw": fingerprint_files([*files, *extra], raw), **options}


def extract(
    raw: Path | None,
    out: Path,
    *,
    seed: int,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Write the MEDS data set in the folder `raw` as ours.

    Its own splits are kept; where it has none, patients are split by a hash, see events.assign. Memory is bounded by
    the events of a shard of patients and of a piece of some million rows, whatever the sizes of the files.

    Returns: the summary of events.finish, with "name", "license", "dialect", "splits" ("of the data set" or "by
      hash"), "dropped" {reason: rows} and "mended" {what: rows or patients}, of what was mended or is odd, but kept.
    Raises: UserError, before any work is done, for a file that cannot be read, a column that is missing or cannot be
      MEDS', an unknown split, a patient listed twice; and for a patient without a split.
    """
    raw, files = _files(raw)
    runner = runner or Runner()
    listed = _splits(raw)
    about = read_json(raw / ABOUT_FILE) if (raw / ABOUT_FILE).is_file() else {}
    about = about if isinstance(about, dict) else {}
    units = _units(files)
    told = _told(raw)
    dialect = dialects.detect(_codes(files, told), about)

    folder = shuffle.Folder(out / events.PARTS / "meds")
    folder.path.mkdir(parents=True, exist_ok=True)

    def records(stage: str, names: Iterable[Any]) -> list[Path]:
        return [folder.record(stage, name) for name in names]

    numbers = range(len(units))
    run(shuffle.patients, [(folder, i, units[i]) for i in numbers], records("patients", numbers), runner, "patients")
    shards = _assign(folder, len(units), listed, raw, seed, splits)
    items = [(folder, i, units[i], dialect) for i in numbers]
    spread = run(shuffle.spread, items, records("spread", numbers), runner, "files")
    gathers = [(folder, out, dialect, i, split, k) for i, (split, k) in enumerate(shards)]
    names = [f"{split}-{k}" for split, k in shards]
    gathered = run(shuffle.gather, gathers, records("gather", names), runner, "shards")
    dropped, mended = (_sum(r[kind] for r in [*spread, *gathered]) for kind in ("dropped", "mended"))
    metadata = {
        key: str(about[key])
        for key in ("dataset_name", "dataset_version", "license", "location_uri", "description_uri")
        if about.get(key)
    }
    descriptions, parents = _metadata(folder, len(units), told, dialect)
    summary = events.finish(out, metadata, descriptions=descriptions, parents=parents)
    shutil.rmtree(folder.path / "spread", ignore_errors=True)  # as large as the data set, and all of it is in shards
    return {
        **summary,
        "name": metadata.get("dataset_name", "a MEDS data set without a name"),
        "license": metadata.get("license", "not stated in the data set"),
        "dialect": dialect,
        "splits": "by hash" if listed is None else "of the data set",
        "dropped": dropped,
        "mended": mended,
    }


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for some in counts:
        total.update(some)
    return {what: count for what, count in sorted(total.items()) if count}


def _files(raw: Path | None) -> tuple[Path, list[Path]]:
    if raw is None:
        raise UserError("meds needs the folder of a MEDS data set, with data/ in it: give it with --raw=DIR")
    data = raw / "data"
    found = (path for path in data.rglob("*.parquet") if path.is_file())
    files = sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(data).parts))
    if not files:
        raise UserError(f"{data} holds no .parquet file: --raw must be the root of a MEDS data set")
    return raw, files


def _units(files: list[Path]) -> list[list[shuffle.Part]]:
    """Pieces of work of some _UNIT rows, in the order of the files. Checks the columns of each file."""
    units: list[list[shuffle.Part]] = [[]]
    rows = 0
    for number, path in enumerate(files):
        with meds_rows.reading(path):
            file = pq.ParquetFile(path)
            _check_schema(path, file.schema_arrow)
        first = 0
        for group in range(file.num_row_groups):
            more = file.metadata.row_group(group).num_rows
            if rows and rows + more > _UNIT:
                if group > first:
                    units[-1].append((str(path), number, first, group))
                units.append([])
                rows, first = 0, group
            rows += more
        if file.num_row_groups > first:
            units[-1].append((str(path), number, first, file.num_row_groups))
    return [unit for unit in units if unit]


def _check_schema(path: Path, schema: pa.Schema) -> None:
    for column in ("subject_id", "time", "code"):
        if column not in schema.names:
            raise UserError(f"{path} has no column {column}: is it MEDS 0.3.3 or 0.4?")
    for column, (wanted, fits) in _TYPES.items():
        if column in schema.names and not fits(schema.field(column).type):
            found = schema.field(column).type
            raise UserError(f"{path}: column {column} is {found}, MEDS wants {wanted}: convert the data set")


def _table(path: Path) -> pa.Table:
    with meds_rows.reading(path):
        table = pq.read_table(path)
        table.validate(full=True)
        return table


def _splits(raw: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Patients, int64 and sorted, and the index of each one's split in SPLITS; None where there is no such file."""
    path = raw / SPLITS_FILE
    if not path.is_file():
        return None
    table = _table(path)
    for column in ("subject_id", "split"):
        if column not in table.column_names:
            raise UserError(f"{path} has no column {column}: mend it, or delete it to split by --config.data.splits")
    unknown = sorted({str(name) for name in pc.unique(table["split"]).to_pylist()} - set(events.SPLITS))
    if unknown:
        raise UserError(f"{path} has a split called {unknown[0]!r}: MEDS' splits are {', '.join(events.SPLITS)}")
    if not pa.types.is_integer(table["subject_id"].type) or table["subject_id"].null_count:
        raise UserError(f"{path}: column subject_id is {table['subject_id'].type} or has nulls, MEDS wants int64")
    ids = table["subject_id"].to_numpy().astype(np.int64)
    if len(meds_rows.distinct(ids)) < len(ids):
        raise UserError(f"{path} lists a patient twice: write it again")
    names = table["split"].cast(pa.string()).combine_chunks()
    index = pc.index_in(names, pa.array(events.SPLITS, pa.string())).to_numpy(zero_copy_only=False)
    order = np.argsort(ids)
    return ids[order], index[order].astype(np.int8)


def _told(raw: Path) -> pa.Table:
    """Code, description and parents from metadata/codes.parquet; it may be all of an ontology, so it stays Arrow's."""
    path = raw / CODES_FILE
    schema = pa.schema({"code": pa.string(), "description": pa.string(), "parent_codes": pa.list_(pa.string())})
    if not path.is_file():
        return schema.empty_table()
    table = _table(path)
    if "code" not in table.column_names:
        raise UserError(f"{path} has no column code: mend it or delete it")
    columns = []
    for field in schema:
        try:
            columns.append(table[field.name].cast(field.type))
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError):  # it is not there, or of another kind
            columns.append(pa.nulls(len(table), field.type))
    return pa.table(columns, schema=schema).filter(pc.is_valid(columns[0]))


def _codes(files: list[Path], told: pa.Table) -> set[str]:
    """Codes by which to know the dialect: those of the metadata, and of the first rows of some files."""
    first = (meds_rows.codes(path) for path in files[:: max(1, len(files) // _LOOKED_AT)])
    return set(told["code"].slice(0, _LOOKED_UP).to_pylist()).union(*first)


def _assign(
    folder: shuffle.Folder,
    units: int,
    listed: tuple[np.ndarray, np.ndarray] | None,
    raw: Path,
    seed: int,
    splits: tuple[float, float, float],
) -> list[tuple[str, int]]:
    """Write which shard each patient is in, by its number among all. Returns split and number in it of each shard."""
    ids = meds_rows.distinct(
        np.concatenate([np.zeros(0, np.int64), *(np.load(folder.patients(i)) for i in range(units))])
    )
    if listed is None:
        split, shard = events.assign(ids, seed, splits)
    else:
        if missing := int((~np.isin(ids, listed[0])).sum()):
            path = raw / SPLITS_FILE
            raise UserError(f"{path} lists no split for {missing} patients of data/: add them, or delete it")
        split = listed[1][np.searchsorted(listed[0], ids)]
        shard = events.assign_shards(ids, split, seed)
    most = int(shard.max(initial=0)) + 1
    pairs, number = np.unique(split.astype(np.int64) * most + shard, return_inverse=True)
    with writing(folder.assigned()) as partial:
        np.savez(partial, ids=ids, shard=number)
    return [(events.SPLITS[int(pair) // most], int(pair) % most) for pair in pairs]


def _metadata(
    folder: shuffle.Folder, units: int, told: pa.Table, dialect: str
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Descriptions and parents of our codes. Parents are spelt as our codes are, followed by theirs, nearest first."""
    descriptions: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    if not len(told):
        return descriptions, parents
    pairs: set[tuple[str, str]] = set()
    for i in range(units):
        table = parquet.read(folder.spelt(i))
        pairs.update(zip(table["theirs"].to_pylist(), table["ours"].to_pylist(), strict=True))
    text, above = _closure(told, {theirs for theirs, _ in pairs})
    for theirs, ours in sorted(pairs):
        if text.get(theirs):
            descriptions.setdefault(ours, text[theirs])
        ancestors: dict[str, None] = {}
        level = [theirs]
        while level and len(ancestors) < _ANCESTORS:
            level = [p for code in level for p in above.get(code, ()) if p != theirs and p not in ancestors]
            ancestors |= dict.fromkeys(level)
        spelt = [code if dialect == dialects.OWN else dialects.prefixed(code) for code in ancestors]
        if spelt:
            parents[ours] = list(dict.fromkeys([*parents.get(ours, []), *spelt]))[:_ANCESTORS]
    return descriptions, parents


def _closure(told: pa.Table, codes: set[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Descriptions of codes; parents of them and of all their ancestors."""
    text: dict[str, str] = {}
    above: dict[str, list[str]] = {}
    level = codes
    while level:
        rows = told.filter(pc.is_in(told["code"], pa.array(sorted(level), pa.string())))
        for code, description, parents in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            if description:
                text[code] = description
            above[code] = [parent for parent in parents or () if parent]
        for code in level:
            above.setdefault(code, [])
        level = {parent for code in level for parent in above[code]} - above.keys()
    return text, above
