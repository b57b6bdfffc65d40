"""The `events/` artifact: a MEDS 0.4 data set, whatever the source was."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling import __version__
from ehr_scaling.artifacts import write_json
from ehr_scaling.data import parquet
from ehr_scaling.data.events.splits import SPLITS, AllHeldOut, Listed, Splits
from ehr_scaling.data.shards import looked_at
from ehr_scaling.errors import UserError

SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),  # null: static
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
        pa.field("text_value", pa.large_string()),
    ]
)
BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
SHARD = 2_048  # patients a file: some 1.3 M events of MIMIC-IV, and few enough records for one ArrayRecord file
_SHARDS_SEED = 0x5A  # so that the shard is not drawn by the number that drew the split
CODES = "metadata/codes.parquet"
SUBJECTS = "metadata/subject_splits.parquet"
_SUBJECTS = pa.schema([("subject_id", pa.int64()), ("split", pa.string())])
PARTS = ".parts"  # for records of units, and what `finish` gathers


def assign_splits(subject_ids: np.ndarray, seed: int, splits: Splits = (0.8, 0.1, 0.1)) -> np.ndarray:
    """Split of each patient: by a hash of its id, so that it does not change when others are added, or as a file says.

    Args: subject_ids, int64 (P,); seed; splits, fractions of train, tuning and held_out that sum to 1, or a split file.
    Returns: int8 (P,), an index into SPLITS, -1 for a patient that the file does not name, who is to be left out.
    """
    if isinstance(splits, Listed):
        return splits.of(subject_ids)
    return np.searchsorted(np.cumsum(splits)[:2], uniform(subject_ids, seed), side="right").astype(np.int8)


def uniform(subject_ids: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each patient: the hash splitmix64 of its id and the seed."""
    with np.errstate(over="ignore"):  # it is defined modulo 2^64
        x = subject_ids.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x.astype(np.float64) / 2.0**64


def assign(subject_ids: np.ndarray, seed: int, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """Split and shard of each patient, both by a hash of its id: a shard is a random sample of its split.

    Args: subject_ids, int64 (P,), all different; seed; splits, as for assign_splits.
    Returns: int8 (P,), an index into SPLITS, -1 for a patient to leave out; int64 (P,), the shard within the split,
      from 0, of at most SHARD patients.
    """
    split = assign_splits(subject_ids, seed, splits)
    return split, assign_shards(subject_ids, split, seed)


def assign_shards(subject_ids: np.ndarray, split: np.ndarray, seed: int) -> np.ndarray:
    """Shard of each patient within its split, see `assign`; for patients whose split is given."""
    shard = np.zeros(len(subject_ids), np.int64)
    draw = uniform(subject_ids, seed + _SHARDS_SEED)
    for i in range(len(SPLITS)):
        at = np.flatnonzero(split == i)
        rank = np.argsort(np.argsort(draw[at], kind="stable"), kind="stable")
        shard[at] = rank * -(-len(at) // SHARD) // max(len(at), 1)
    return shard


def shards_by_hash(subject_ids: np.ndarray, seed: int, shards: np.ndarray) -> np.ndarray:
    """Shard of each patient by a hash of its id alone: no other patient needs to be known.

    Of n patients in s shards each has n/s, give or take the square root of that: of 2,048 a shard, 45.
    Args: subject_ids, int64 (P,); shards, how many there are of each patient's split: int64 (P,), 1 or more, or one
      number for all.
    Returns: int64 (P,), from 0 and below `shards`.
    """
    draw = uniform(subject_ids, seed + _SHARDS_SEED)
    return np.minimum((draw * shards).astype(np.int64), np.asarray(shards) - 1)  # a draw may be rounded to 1


def write_shard(out: Path, split: str, k: int, table: pa.Table) -> dict[str, Any]:
    """Write shard `k` of `split` into the events folder `out`, whole or not at all.

    Args: table, the columns of SCHEMA or castable to them (code may be a dictionary), sorted by patient and, within a
      patient, by time with null times first. Equal times keep the order given: it is the order of tokens.
    Returns: counts, {"events", "patients"}. Without events no file is written.
    """
    if table.num_rows == 0:
        return {"events": 0, "patients": 0}
    table = table.select(SCHEMA.names)
    codes, subjects = pc.unique(table["code"]), pc.unique(table["subject_id"]).cast(pa.int64())
    if pa.types.is_dictionary(codes.type):
        codes = codes.dictionary_decode()
    for path, part in (
        (out / PARTS / f"{split}-{k}-codes.parquet", pa.table({"code": codes.cast(pa.string())})),
        (out / PARTS / f"{split}-{k}-subjects.parquet", pa.table({"subject_id": subjects})),
        (out / "data" / split / f"{k}.parquet", table.cast(SCHEMA)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write(path, part)
    return {"events": table.num_rows, "patients": len(subjects)}


def finish(
    out: Path,
    metadata: Mapping[str, Any],
    *,
    splits: Splits | None = None,
    descriptions: Mapping[str, str] | None = None,
    parents: Mapping[str, list[str]] | None = None,
    apart: bool = False,
) -> dict[str, Any]:
    """Write the metadata of a MEDS 0.4 data set whose shards are all written.

    Args: metadata, entries of MEDS' dataset.json, such as dataset_name, dataset_version, license; splits, by which
      patients were assigned; descriptions and parents, of codes that the source knows more about; apart, whether the
      source has seen to it that no patient is in two splits: else all ids are held at once, to look.
    Returns: counts, `{"events", "patients": {split: n}, "codes", "shards": {split: events of each file}}`.
    Raises: UserError when there is no event at all, no patient in the train split (where not all are to be held out),
      or a shard is gone.
    """
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    patients = dict.fromkeys(SPLITS, 0)
    codes: set[str] = set()
    ids: list[np.ndarray] = []

    def of_shards() -> Iterator[pa.Table]:
        for split in SPLITS:
            paths = shards(out, split)
            known = {path.name.split("-")[1] for path in (out / PARTS).glob(f"{split}-*-codes.parquet")}
            if lost := known - {path.stem for path in paths}:
                raise UserError(f"{out / 'data' / split / min(lost)}.parquet is gone: delete {out} and run again")
            for many, spelt_here, patient_ids in looked_at(partial(_written, out, split), paths):
                rows[split].append(many)
                codes.update(spelt_here.to_pylist())
                patients[split] += len(patient_ids)
                if not apart:
                    ids.append(patient_ids.to_numpy())
                names = pa.repeat(pa.scalar(split, pa.string()), len(patient_ids))
                yield pa.table({"subject_id": patient_ids, "split": names})
        _check_patients(patients, sum(map(sum, rows.values())), ids, splits)

    (out / "metadata").mkdir(exist_ok=True)
    parquet.write_parts(out / SUBJECTS, _SUBJECTS, of_shards())
    spelt = sorted(codes)
    told, above = descriptions or {}, parents or {}
    table = {
        "code": pa.array(spelt, pa.string()),
        "description": pa.array([told.get(code) for code in spelt], pa.string()),
        "parent_codes": pa.array([above.get(code) for code in spelt], pa.list_(pa.string())),
    }
    parquet.write(out / CODES, pa.table(table))
    write_json(
        out / "metadata" / "dataset.json",
        {"etl_name": "ehr_scaling", "etl_version": __version__, "meds_version": "0.4.1", **metadata},
    )
    return {"events": sum(map(sum, rows.values())), "patients": patients, "codes": len(codes), "shards": rows}


def _check_patients(patients: dict[str, int], total: int, ids: list[np.ndarray], splits: Splits | None) -> None:
    """Raises: UserError for no event, nobody to train, or a patient in two splits, as far as ids are given."""
    if isinstance(splits, AllHeldOut):
        if not total:
            raise UserError("the source holds no event of any patient: check its files")
    elif not patients["train"]:
        raise UserError(
            f"no patient in the train split ({sum(patients.values())} patients, {total} events in all): "
            "check the source's files and --config.data.splits"
        )
    every = np.sort(np.concatenate([np.zeros(0, np.int64), *ids]))
    if (every[1:] == every[:-1]).any():
        raise UserError("the source holds a patient in two splits: mend it")


def _written(out: Path, split: str, path: Path) -> tuple[int, pa.ChunkedArray, pa.Array]:
    """Events of a shard that is written, its codes, and its patients."""
    codes, subjects = (
        parquet.read(out / PARTS / f"{split}-{path.stem}-{what}.parquet")[column]
        for what, column in (("codes", "code"), ("subjects", "subject_id"))
    )
    return pq.read_metadata(path).num_rows, codes, subjects.combine_chunks()


def parents(events: Path) -> dict[str, list[str]]:
    """Parents of the codes that have some, from metadata/codes.parquet."""
    table = parquet.read(events / CODES, columns=["code", "parent_codes"])
    table = table.filter(pc.greater(pc.fill_null(pc.list_value_length(table["parent_codes"]), 0), 0))
    return dict(zip(table["code"].to_pylist(), table["parent_codes"].to_pylist(), strict=True))


def shards(events: Path, split: str) -> list[Path]:
    """The parquet files of one split, in the order of their numbers; none when no patient is in it."""
    return sorted((events / "data" / split).glob("[!.]*.parquet"), key=lambda p: (len(p.stem), p.stem))
