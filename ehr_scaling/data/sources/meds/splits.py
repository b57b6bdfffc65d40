"""The splits that a MEDS data set comes with: a file of patients, or folders of its shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ehr_scaling.data import disclosure, events
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.data.sources.meds import rows as meds_rows
from ehr_scaling.errors import UserError

FILE = Path("metadata", "subject_splits.parquet")


class Splits(NamedTuple):
    """What says which split a patient is in: `listed`, `folders`, or neither: by a hash."""

    words: str  # for one line of a log
    listed: tuple[np.ndarray, np.ndarray] | None = None  # patients, int64 sorted; index of each one's split in SPLITS
    folders: tuple[int, ...] = ()  # of each file of the data set, the index of its split


def of(raw: Path, files: list[Path]) -> Splits:
    """The splits of the data set in `raw`, which has these files. Raises UserError for a file that says none."""
    if (raw / FILE).is_file():
        return Splits(f"those of {FILE.as_posix()}", listed=_listed(raw / FILE))
    above = [path.relative_to(raw / "data").parts for path in files]
    names = sorted({parts[0] for parts in above if len(parts) > 1})
    if all(len(parts) > 1 and parts[0] in events.SPLITS for parts in above):
        told = f"those of the folders data/{{{','.join(name for name in events.SPLITS if name in names)}}}"
        return Splits(told, folders=tuple(events.SPLITS.index(parts[0]) for parts in above))
    why = f"there is no {FILE.as_posix()}"
    if "train" in names:
        why += f", and data/ holds not only {', '.join(events.SPLITS)}"
    return Splits(f"by a hash of each patient's id, for {why}")


def lacking(splits: Splits) -> str:
    """The split that training needs and no patient can be in; "" where there is none."""
    if splits.listed is not None:
        there = set(splits.listed[1].tolist())
    elif splits.folders:
        there = set(splits.folders)
    else:
        return ""
    return next((name for i, name in enumerate(events.SPLITS[:2]) if i not in there), "")


def assigned(
    splits: Splits, ids: np.ndarray, of_file: Iterator[tuple[int, np.ndarray]], seed: int, fractions: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """Split and shard of each patient, see events.assign.

    Args: ids, int64 (P,), sorted; of_file, pairs of a file's number and its patients, int64.
    Raises: UserError for a patient without a split, or in two.
    """
    if splits.listed is not None:
        if missing := int((~np.isin(ids, splits.listed[0])).sum()):
            told = disclosure.words(missing, False)
            raise UserError(f"{FILE.as_posix()} lists no split for {told} patients of data/: add them, or delete it")
        split = splits.listed[1][np.searchsorted(splits.listed[0], ids)]
    elif splits.folders:
        split = np.full(len(ids), -1, np.int8)
        twice = np.zeros(len(ids), bool)
        for file, some in of_file:
            at, file_split = np.searchsorted(ids, some), splits.folders[file]
            twice[at] |= (split[at] >= 0) & (split[at] != file_split)
            split[at] = file_split
        if several := int(twice.sum()):
            folders = ", ".join(f"data/{name}" for name in events.SPLITS)
            raise UserError(
                f"{disclosure.words(several, False)} patients are in more than one of {folders}: each may be in one "
                f"split only; mend them, or write {FILE.as_posix()}"
            )
    else:
        return events.assign(ids, seed, fractions)
    return split, events.assign_shards(ids, split, seed)


def _listed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    table = meds_reading.whole(path)
    for column in ("subject_id", "split"):
        if column not in table.column_names:
            raise UserError(f"{path} has no column {column}: mend it, or delete it to split by --config.data.splits")
    kind = table["split"].type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{path}: column split is {kind}, MEDS wants string")
    names = table["split"].cast(pa.string()).combine_chunks()
    index = pc.index_in(names, pa.array(events.SPLITS, pa.string())).to_numpy(zero_copy_only=False)
    if (unknown := np.isnan(index.astype(float))).any():
        raise UserError(f"{path}, row {np.argmax(unknown) + 1}: split is none of MEDS', {', '.join(events.SPLITS)}")
    if not pa.types.is_integer(table["subject_id"].type) or table["subject_id"].null_count:
        raise UserError(f"{path}: column subject_id is {table['subject_id'].type} or has nulls, MEDS wants int64")
    ids = table["subject_id"].to_numpy().astype(np.int64)
    if len(meds_rows.distinct(ids)) < len(ids):
        raise UserError(f"{path} lists a patient twice: write it again")
    order = np.argsort(ids)
    return ids[order], index[order].astype(np.int8)
