"""The `events/` artifact: a MEDS 0.4 data set, whatever the source was."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling import __version__
from ehr_scaling.artifacts import write_json
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
SPLITS = ("train", "tuning", "held_out")


def assign_splits(
    subject_ids: np.ndarray, seed: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> np.ndarray:
    """Split of each patient, by a hash of its id, so that it does not change when other patients are added.

    Args: subject_ids, int64 (P,); seed; fractions of train, tuning and held_out, which sum to 1.
    Returns: int8 (P,), an index into SPLITS.
    """
    with np.errstate(over="ignore"):  # splitmix64 is defined modulo 2^64
        x = subject_ids.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    uniform = x.astype(np.float64) / 2.0**64
    return np.searchsorted(np.cumsum(fractions)[:2], uniform, side="right").astype(np.int8)


def write(out: Path, shards: Iterable[tuple[str, pa.Table]], *, metadata: dict[str, Any]) -> dict[str, Any]:
    """Write a MEDS 0.4 data set into the folder `out`.

    Args:
      out: an existing folder.
      shards: pairs (split, table with the columns of SCHEMA, or castable to them). A patient lies in one table
        only; a table is sorted by patient and, within a patient, by time with null times first. Equal times keep
        the order given: it is the order of tokens.
      metadata: entries of MEDS' dataset.json, such as dataset_name, dataset_version, license.
    Returns: counts, `{"events", "patients": {split: n}, "codes"}`.
    Raises: UserError when there is no event at all, or no patient in the train split.
    """
    events, patients, codes, subject_splits = 0, dict.fromkeys(SPLITS, 0), set(), []
    shard_of = dict.fromkeys(SPLITS, 0)
    for split, table in shards:
        if table.num_rows == 0:
            continue
        table = table.select(SCHEMA.names).cast(SCHEMA)
        subjects = pc.unique(table["subject_id"])
        subject_splits.append((subjects, split))
        folder = out / "data" / split
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"{shard_of[split]}.parquet", compression="zstd")
        shard_of[split] += 1
        events += table.num_rows
        patients[split] += len(subjects)
        codes |= set(pc.unique(table["code"]).to_pylist())
    if not patients["train"]:
        raise UserError(
            f"no patient in the train split ({sum(patients.values())} patients, {events} events in all): "
            "check the source's files and --config.data.splits"
        )
    (out / "metadata").mkdir(exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "code": pa.array(sorted(codes), pa.string()),
                "description": pa.nulls(len(codes), pa.string()),
                "parent_codes": pa.nulls(len(codes), pa.list_(pa.string())),
            }
        ),
        out / "metadata" / "codes.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "subject_id": pa.concat_arrays([ids.cast(pa.int64()) for ids, _ in subject_splits]),
                "split": pa.concat_arrays([pa.array([split] * len(ids), pa.string()) for ids, split in subject_splits]),
            }
        ),
        out / "metadata" / "subject_splits.parquet",
    )
    write_json(
        out / "metadata" / "dataset.json",
        {"etl_name": "ehr_scaling", "etl_version": __version__, "meds_version": "0.4.1", **metadata},
    )
    return {"events": events, "patients": patients, "codes": len(codes)}


def shards(events: Path, split: str) -> list[Path]:
    """The parquet files of one split, in a fixed order. Raises UserError when the split is empty."""
    files = sorted((events / "data" / split).glob("*.parquet"), key=lambda p: (len(p.stem), p.stem))
    if not files:
        raise UserError(f"{events} holds no patient in the split {split!r}: change --config.data.splits or the source")
    return files
