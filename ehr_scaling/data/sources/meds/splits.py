"""The splits that a MEDS data set comes with: a file of patients, or folders of its shards."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ehr_scaling.artifacts import writing
from ehr_scaling.data import disclosure
from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import Listed, Splits, as_written, written
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.data.sources.meds.rows import first_of_run
from ehr_scaling.errors import UserError

FILE = Path("metadata", "subject_splits.parquet")


class GivenSplits(NamedTuple):
    """What says which split a patient of the data set is in: `listed`, `folders`, or neither: by a hash."""

    words: str  # for one line of a log
    listed: Listed | None = None
    folders: tuple[int, ...] = ()  # of each file of the data set, the index of its split


class Rule(NamedTuple):
    """What tells the split of a patient to a unit of work, as plain data."""

    seed: int
    splits: Any  # see data.splits.written; None: each patient's is that of its files
    of_files: str = ""  # then the .npy with the split of each file, int8

    def of(self, ids: np.ndarray, files: np.ndarray) -> np.ndarray:
        """int8 (n,), an index into SPLITS, -1 for nobody's. Args: ids, int64 (n,); files, the number of each one's."""
        if self.splits is None:
            return np.load(self.of_files)[files]
        return events.assign_splits(ids, self.seed, as_written(self.splits))


class Places(NamedTuple):
    """What tells the shard of a patient to a unit of work, as plain data."""

    rule: Rule
    first: list[int]  # of each split, the number that its first shard has among all
    many: list[int]  # shards of each split

    def of(self, ids: np.ndarray, files: np.ndarray) -> np.ndarray:
        """The shard of each row by its number among all, int64 (n,); -1 for those of patients who are left out.

        Args: ids, int64 (n,); files, int (n,), numbers of those that the rows are from.
        """
        starts = first_of_run(ids)  # the split of a patient is that of any of its files
        some = ids[starts]
        rule = Rule(*self.rule)
        split = rule.of(some, files[starts])
        shards = events.shards_by_hash(some, rule.seed, np.maximum(np.array(self.many)[split], 1))
        return np.where(split < 0, -1, np.array(self.first)[split] + shards)[np.cumsum(starts) - 1]


def of(raw: Path, files: list[Path]) -> GivenSplits:
    """The splits of the data set in `raw`, which has these files. Raises UserError for a file that says none."""
    if (raw / FILE).is_file():
        return GivenSplits(f"those of {FILE.as_posix()}", listed=_listed(raw / FILE))
    above = [path.relative_to(raw / "data").parts for path in files]
    names = sorted({parts[0] for parts in above if len(parts) > 1})
    if all(len(parts) > 1 and parts[0] in events.SPLITS for parts in above):
        told = f"those of the folders data/{{{','.join(name for name in events.SPLITS if name in names)}}}"
        return GivenSplits(told, folders=tuple(events.SPLITS.index(parts[0]) for parts in above))
    why = f"there is no {FILE.as_posix()}"
    if "train" in names:
        why += f", and data/ holds not only {', '.join(events.SPLITS)}"
    return GivenSplits(f"by a hash of each patient's id, for {why}")


def lacking(given: GivenSplits) -> str:
    """The split that training needs and no patient can be in; "" where there is none."""
    if given.listed is not None:
        there = set(given.listed.split.tolist())
    elif given.folders:
        there = set(given.folders)
    else:
        return ""
    return next((name for i, name in enumerate(events.SPLITS[:2]) if i not in there), "")


def rule(given: GivenSplits, wanted: Splits, seed: int, folder: Path) -> Rule:
    """How units of work tell splits: as a split file says, else as the data set, else by the fractions wanted.

    A table of patients, and the splits of files, are written into `folder`.
    """
    if isinstance(wanted, Listed) or not (given.listed or given.folders):
        return Rule(seed, written(wanted, folder))
    if given.listed:
        return Rule(seed, written(given.listed, folder))
    path = folder / "split-of-files.npy"
    with writing(path) as partial:
        np.save(partial, np.array(given.folders, np.int8))
    return Rule(seed, None, str(path))


def check(given: GivenSplits, wanted: Splits, unnamed: int, in_two: int) -> None:
    """Raises UserError where patients are in none of the splits of the data set, or in two, so many of each."""
    if unnamed and given.listed and not isinstance(wanted, Listed):
        told = disclosure.words(unnamed, False)
        raise UserError(f"{FILE.as_posix()} lists no split for {told} patients of data/: add them, or delete it")
    if in_two:
        folders = ", ".join(f"data/{name}" for name in events.SPLITS)
        raise UserError(
            f"{disclosure.words(in_two, False)} patients are in more than one of {folders}: each may be in one "
            f"split only; mend them, or write {FILE.as_posix()}"
        )


def _listed(path: Path) -> Listed:
    table = meds_reading.whole(path)
    for column in ("subject_id", "split"):
        if column not in table.column_names:
            raise UserError(f"{path} has no column {column}: mend it, or delete it to split by --config.data.splits")
    kind = table["split"].type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{path}: column split is {kind}, MEDS wants string")
    names = table["split"].cast(pa.string())
    index = pc.fill_null(pc.index_in(names, pa.array(events.SPLITS, pa.string())), -1).to_numpy().astype(np.int8)
    if (unknown := index < 0).any():
        raise UserError(f"{path}, row {np.argmax(unknown) + 1}: split is none of MEDS', {', '.join(events.SPLITS)}")
    if not pa.types.is_integer(table["subject_id"].type) or table["subject_id"].null_count:
        raise UserError(f"{path}: column subject_id is {table['subject_id'].type} or has nulls, MEDS wants int64")
    ids = table["subject_id"].to_numpy().astype(np.int64, copy=False)
    del table, names  # a hundred million patients take a gigabyte a column
    if not (ids[1:] > ids[:-1]).all():
        order = np.argsort(ids)
        ids, index = ids[order], index[order]
        if (ids[1:] == ids[:-1]).any():
            raise UserError(f"{path} lists a patient twice: write it again")
    return Listed(FILE.as_posix(), ids, index)
