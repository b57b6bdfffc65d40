"""Any MEDS 0.4 data set (0.3.3 has the same columns): its events and its splits, laid out as our `events/`.

`text_value` is dropped: free text is never used, and may name people. So are all columns that MEDS does not define.
Where MEDS leaves the order of events at one time open, that of the file is kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_scaling.artifacts import fingerprint_files, read_json
from ehr_scaling.data import events
from ehr_scaling.errors import UserError

SPLITS_FILE = Path("metadata", "subject_splits.parquet")
VERSION = 1  # of what is made of the files; a change of it refuses events that were made before
FILES = None  # a MEDS data set is brought by the user
# What MEDS prescribes, and what writers make of it without loss.
_DTYPES = {
    "subject_id": ("int64", lambda t: pa.types.is_int64(t)),
    "time": ("timestamp[us] without a zone", lambda t: t == pa.timestamp("us")),
    "code": ("string", lambda t: _is_string(t) or (pa.types.is_dictionary(t) and _is_string(t.value_type))),
    "numeric_value": ("float32", lambda t: t in (pa.float32(), pa.float64())),
}


def _is_string(t: pa.DataType) -> bool:
    return pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)


def inputs(raw: Path | None, **options: Any) -> dict[str, Any]:
    """What the events are made from. Raises UserError where `raw` is not a MEDS data set."""
    raw, files = _files(raw)
    extra = [path for path in (raw / SPLITS_FILE, raw / "metadata" / "dataset.json") if path.is_file()]
    return {"source": "meds", "version": VERSION, "raw": fingerprint_files([*files, *extra], raw), **options}


def extract(
    raw: Path | None, out: Path, *, seed: int, splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> dict[str, Any]:
    """Copy the MEDS data set in the folder `raw`, a file at a time, sorted by patient and time.

    Its own splits are kept; where it has none, patients are split by events.assign_splits(seed, splits).

    Returns: the summary of events.write, with "name", "license" and "splits" ("of the data set" or "by hash").
    Raises: UserError for a file that cannot be read, a column that is missing or has another type than MEDS', a
      null patient or code, an unknown split, a patient without a split, or with events in two files.
    """
    raw, files = _files(raw)
    for path in files:  # every file before any work is done
        _check_schema(path, ("subject_id", "time", "code"), _read(path, pq.read_schema))
    listed = _splits(raw)
    about = read_json(raw / "metadata" / "dataset.json") if (raw / "metadata" / "dataset.json").is_file() else {}
    metadata = {
        key: str(about[key])
        for key in ("dataset_name", "dataset_version", "license", "location_uri", "description_uri")
        if about.get(key)
    }
    summary = events.write(out, _shards(raw, files, listed, seed, splits), metadata=metadata)
    return {
        **summary,
        "name": metadata.get("dataset_name", "a MEDS data set without a name"),
        "license": metadata.get("license", "not stated in the data set"),
        "splits": "by hash" if listed is None else "of the data set",
    }


def _files(raw: Path | None) -> tuple[Path, list[Path]]:
    if raw is None:
        raise UserError("meds needs the folder of a MEDS data set, with data/ in it: give it with --raw=DIR")
    files = sorted((raw / "data").rglob("*.parquet"))
    if not files:
        raise UserError(f"{raw / 'data'} holds no .parquet file: --raw must be the root of a MEDS data set")
    return raw, files


def _read(path: Path, reader: Any, **options: Any) -> Any:
    try:
        return reader(path, **options)
    except (pa.ArrowInvalid, OSError, EOFError) as e:
        if isinstance(e, OSError) and e.errno:  # the file system's own complaint names the file
            raise
        raise UserError(f"{path} is truncated or no parquet file: write or copy it again") from None


def _check_schema(path: Path, needed: tuple[str, ...], schema: pa.Schema) -> None:
    for column in needed:
        if column not in schema.names:
            raise UserError(f"{path} has no column {column}: is it MEDS?")
    for column, (wanted, fits) in _DTYPES.items():
        if column in schema.names and not fits(schema.field(column).type):
            found = schema.field(column).type
            raise UserError(f"{path}: column {column} is {found}, MEDS wants {wanted}: convert the data set")


def _splits(raw: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Patients, int64 and sorted, and the index of each one's split in SPLITS; None where there is no such file."""
    path = raw / SPLITS_FILE
    if not path.is_file():
        return None
    table = _read(path, pq.read_table)
    for column in ("subject_id", "split"):
        if column not in table.column_names:
            raise UserError(f"{path} has no column {column}: mend it, or delete it to split by --config.data.splits")
    unknown = sorted({str(name) for name in pc.unique(table["split"]).to_pylist()} - set(events.SPLITS))
    if unknown:
        raise UserError(f"{path} has a split called {unknown[0]!r}: MEDS' splits are {', '.join(events.SPLITS)}")
    if not pa.types.is_integer(table["subject_id"].type) or table["subject_id"].null_count:
        raise UserError(f"{path}: column subject_id is {table['subject_id'].type} or has nulls, MEDS wants int64")
    ids = table["subject_id"].to_numpy().astype(np.int64)
    if len(np.unique(ids)) < len(ids):
        raise UserError(f"{path} lists a patient twice: write it again")
    index = pc.index_in(table["split"].combine_chunks(), pa.array(events.SPLITS, table["split"].type))
    order = np.argsort(ids)
    return ids[order], index.to_numpy()[order]


def _shards(
    raw: Path,
    files: list[Path],
    listed: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
    splits: tuple[float, float, float],
) -> Iterator[tuple[str, pa.Table]]:
    file_of: dict[int, int] = {}  # of each patient so far
    for number, path in enumerate(tqdm(files, desc="files", unit="file", disable=None)):
        present = _read(path, pq.read_schema).names
        table = _read(path, pq.read_table, columns=[name for name in _DTYPES if name in present], partitioning=None)
        for column in ("subject_id", "code"):
            if table[column].null_count:
                raise UserError(f"{path}: {table[column].null_count} rows have no {column}: drop or mend them")
        ids = table["subject_id"].to_numpy()
        patients = np.unique(ids)
        for patient in patients.tolist():
            if file_of.setdefault(patient, number) != number:
                other = files[file_of[patient]]
                raise UserError(f"{path} and {other} hold events of the same patient, which MEDS forbids: reshard them")
        split_of = _split_of(patients, listed, raw, seed, splits)
        if "numeric_value" not in present:
            table = table.append_column("numeric_value", pa.nulls(len(table), pa.float32()))
        table = table.append_column("text_value", pa.nulls(len(table), pa.large_string()))
        static = pc.is_null(table["time"]).to_numpy(zero_copy_only=False)
        time = table["time"].cast(pa.int64()).fill_null(0).to_numpy()
        order = np.lexsort((time, ~static, ids))  # stable
        split = split_of[np.searchsorted(patients, ids[order])]
        for i, name in enumerate(events.SPLITS):
            if len(rows := order[split == i]):
                yield name, table.take(pa.array(rows))


def _split_of(
    patients: np.ndarray,
    listed: tuple[np.ndarray, np.ndarray] | None,
    raw: Path,
    seed: int,
    splits: tuple[float, float, float],
) -> np.ndarray:
    if listed is None:
        return events.assign_splits(patients, seed, splits)
    ids, index = listed
    if missing := int((~np.isin(patients, ids)).sum()):
        raise UserError(f"{raw / SPLITS_FILE} lists no split for {missing} patients of data/: add them, or delete it")
    return index[np.searchsorted(ids, patients)]
