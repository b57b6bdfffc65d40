"""Which patients train, tune and test, where a file says so: benchmarks publish their splits.

A split file is parquet or CSV with a row a patient: `subject_id` (or `record_id`), and `split` with
the names of MEDS (train, tuning, held_out) or of TFDS (train, validation, test). A file may hold several splits side
by side, each a column: FILE:split3, or FILE:3, names one. Patients that it does not name are left out.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ehr_scaling.artifacts import writing
from ehr_scaling.errors import UserError

SPLITS = ("train", "tuning", "held_out")
IDS = ("subject_id", "record_id")
_NAMES = {"train": 0, "tuning": 1, "held_out": 2, "validation": 1, "test": 2}
_NEEDED = ("train", "tuning")  # without them nothing can be trained, or no loss be measured


@dataclass(frozen=True)
class Listed:
    """The patients of a split file; arrays (P,), ascending by id."""

    name: str  # of the file and, where it has several, of the split: for messages
    ids: np.ndarray  # int64, all different
    split: np.ndarray  # int8, an index into SPLITS

    def of(self, subject_ids: np.ndarray) -> np.ndarray:
        """int8, of the shape of subject_ids: an index into SPLITS, -1 for a patient that is not named."""
        if not len(self.ids):
            return np.full(subject_ids.shape, -1, np.int8)
        at = np.minimum(np.searchsorted(self.ids, subject_ids), len(self.ids) - 1)
        return np.where(self.ids[at] == subject_ids, self.split[at], -1).astype(np.int8)

    def mark(self) -> dict[str, Any]:
        """What it says, as JSON: the same for the same patients and splits, whatever the file is called."""
        digest = hashlib.sha256(self.ids.tobytes() + self.split.tobytes()).hexdigest()
        return {"patients": len(self.ids), "sha256": digest}


class AllHeldOut(Listed):
    """Every patient is held out: those of records that nothing is trained on."""

    def of(self, subject_ids: np.ndarray) -> np.ndarray:
        return np.full(subject_ids.shape, SPLITS.index("held_out"), np.int8)

    def mark(self) -> dict[str, Any]:
        return {"patients": "all", "split": "held_out"}


ALL_HELD_OUT = AllHeldOut("all held out", np.zeros(0, np.int64), np.zeros(0, np.int8))
Splits = tuple[float, float, float] | Listed  # fractions, to draw by a hash of the id, or what a file says


def written(splits: Splits, folder: Path) -> Any:
    """What stands for it in the arguments of a unit of work, as plain data: a table of patients is written into
    `folder`, which is there or made, and read where it is needed; `as_written` gives it back."""
    if isinstance(splits, AllHeldOut):
        return splits.name
    if not isinstance(splits, Listed):
        return list(splits)
    folder.mkdir(parents=True, exist_ok=True)
    for what, column in (("ids", splits.ids), ("of", splits.split)):
        with writing(folder / f"split-{what}.npy") as partial:
            np.save(partial, column)
    return {"name": splits.name, "folder": str(folder)}


def as_written(told: Any) -> Splits:
    """The splits of which `written` made this. A table is mapped: processes of a machine share what they look at."""
    if told == ALL_HELD_OUT.name:
        return ALL_HELD_OUT
    if not isinstance(told, dict):
        train, tuning, held_out = told
        return train, tuning, held_out
    paths = (Path(told["folder"]) / f"split-{what}.npy" for what in ("ids", "of"))
    return Listed(told["name"], *(np.load(path, mmap_mode="r") for path in paths))


def fractions(values: Sequence[float]) -> tuple[float, float, float]:
    """The fractions of train, tuning and held_out. Raises UserError where they are none, or nobody is to train."""
    try:
        train, tuning, held_out = (float(value) for value in values)
    except (TypeError, ValueError):
        train, tuning, held_out = np.nan, np.nan, np.nan
    right = train > 0 and tuning >= 0 and held_out >= 0 and abs(train + tuning + held_out - 1) < 1e-6
    if not right:
        raise UserError(
            f"--config.data.splits={tuple(values)} are no fractions: give three that sum to 1, as (0.8, 0.1, 0.1)"
        )
    return train, tuning, held_out


def told(splits: Splits, subject_ids: np.ndarray) -> dict[str, dict[str, int]]:
    """How the patients of a source, int64 and all different, meet a split file; see `told_of_counts`."""
    if not isinstance(splits, Listed):
        return {}
    split = splits.of(subject_ids)
    return told_of_counts(splits, len(split), np.bincount(split[split >= 0], minlength=len(SPLITS)).tolist())


def told_of_counts(splits: Splits, patients: int, of_splits: Sequence[int]) -> dict[str, dict[str, int]]:
    """How a source of so many patients, of whom so many are in each split, meets a split file; nothing where there is
    none.

    Returns: for the summary of a source, {"split_file": {"not named": patients that are left out, "not there": patients
      of the file that the source lacks}}.
    Raises: UserError where no patient of the source would train, or none would tune.
    """
    if not isinstance(splits, Listed) or isinstance(splits, AllHeldOut):
        return {}
    for i, name in enumerate(_NEEDED):
        if not of_splits[i]:
            theirs = int((splits.split == i).sum())
            raise UserError(
                f"{splits.name} has {theirs:,} patients in the split {name}, none of them in the data: is it the "
                "file of these records?"
            )
    named = sum(of_splits)
    return {"split_file": {"not named": patients - named, "not there": len(splits.ids) - named}}


def read(spec: str) -> Listed:
    """The split file `spec`, "FILE" or "FILE:SPLIT".

    Raises: UserError for a file that is missing, damaged, or lacks a column; for a split that is missing or has a name
      of its own; for a patient in two splits, named by the row, from 1 after the header; and where no patient is to
      train or to tune.
    """
    path, chosen = _parts(spec)
    table = _table(path)
    subject = _column(path, table.column_names, IDS)
    names = [name for name in table.column_names if name != subject]
    column = _chosen(path, names, chosen)
    name = f"{path} ({column})" if column != "split" else str(path)
    ids = _ids(path, table[subject], subject)
    split = _split(path, table[column], column)
    order = np.lexsort((np.arange(len(ids)), ids))
    ids, split = ids[order], split[order]
    again = np.append(False, ids[1:] == ids[:-1])[: len(ids)]
    if (two := again & np.append(False, split[1:] != split[:-1])[: len(ids)]).any():
        raise UserError(
            f"{path}, row {order[two].min() + 1}: a patient that an earlier row has in another split, and "
            f"{int(two.sum())} rows are so in all: keep one of each"
        )
    listed = Listed(name, ids[~again], split[~again])
    for i, needed in enumerate(_NEEDED):
        if not (listed.split == i).any():
            raise UserError(
                f"{name} puts no patient into the split {needed}: it needs some in each of train and tuning"
            )
    return listed


def _parts(spec: str) -> tuple[Path, str]:
    """The file, and which of its splits is asked for: "" where that is not said."""
    path = Path(spec)
    if path.is_file():
        return path, ""
    file, colon, chosen = spec.rpartition(":")
    if colon and file and Path(file).is_file():
        return Path(file), chosen
    raise UserError(f"--config.data.split_file={spec} is no file: give a CSV or parquet file, or FILE:SPLIT")


def _table(path: Path) -> pa.Table:
    """The columns of the file; those of a CSV are text."""
    try:
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read()
            table.validate(full=True)
            table.column_names  # noqa: B018
            return table
        with pyarrow.csv.open_csv(path) as reader:
            names = reader.schema.names
        types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=[""])
        types.strings_can_be_null = True
        return pyarrow.csv.read_csv(path, convert_options=types)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as e:  # the last of a column's name
        if isinstance(e, OSError) and e.errno:  # the file system's own complaint names the file
            raise
        raise UserError(
            f"{path} is no parquet or CSV file, or damaged: give a row a patient, subject_id,split"
        ) from None


def _column(path: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
    matches = [name for name in names if name in wanted]
    if len(matches) != 1:
        number = "no" if not matches else "more than one"
        raise UserError(f"{path} has {number} column {' or '.join(wanted)}: it needs one, and one column a split")
    return matches[0]


def _chosen(path: Path, names: list[str], chosen: str) -> str:
    if not names:
        raise UserError(f"{path} has no column split: it needs one beside the patients' ids")
    if not chosen:
        if "split" in names or len(names) == 1:
            chosen = "split" if "split" in names else names[0]
        else:
            raise UserError(f"{path} has the splits {_told(names)}: name one, as --config.data.split_file={path}:…")
    matches = [name for name in (chosen, f"split{chosen}") if name in names]
    if not matches or names.count(matches[0]) > 1:
        number = "no" if not matches else "more than one"
        raise UserError(f"{path} has {number} split {chosen}: take one of {_told(names)}")
    return matches[0]


def _told(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:8])


def _ids(path: Path, column: pa.ChunkedArray, name: str) -> np.ndarray:
    """int64. Raises UserError for what is no whole number."""
    column = _plain(column)
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(column)
        good = pc.fill_null(pc.match_substring_regex(column, "^-?[0-9]{1,18}$"), False).to_numpy()
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        numbers = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
        good = np.abs(numbers) < 1e18
        good &= np.floor(np.where(good, numbers, 0.5)) == numbers
    else:
        raise UserError(f"{path}: {name} is {column.type}, and should be int64: cast it")
    if not good.all():
        row = int(np.argmin(good)) + 1
        raise UserError(f"{path}, row {row}: {name} is no whole number: give the ids that the records have")
    return column.cast(pa.int64()).to_numpy().astype(np.int64)


def _split(path: Path, column: pa.ChunkedArray, name: str) -> np.ndarray:
    """int8, index into SPLITS. Raises UserError for another name, or none."""
    column = _plain(column)
    if not (_is_text(column.type) or pa.types.is_null(column.type)):
        raise UserError(f"{path}: {name} is {column.type}, and should be text: {', '.join(_NAMES)}")
    words = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    index = pc.index_in(words, pa.array(list(_NAMES), pa.large_string()))
    index = pc.fill_null(index, -1).to_numpy().astype(np.int64)
    if (bad := index < 0).any():
        raise UserError(f"{path}, row {int(np.argmax(bad)) + 1}: {name} is none of {', '.join(_NAMES)}")
    return np.array(list(_NAMES.values()), np.int8)[index]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary, as other programs write categories."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
