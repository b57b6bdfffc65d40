"""Labels of others: the MEDS label schema (0.4), matched to timelines.

One row a prediction: subject_id int64, prediction_time timestamp[us], of which all that is known up to and at that
time may be used, and boolean_value, what came true. A column beyond those of the schema is an error, and so is a row
that lacks a value; columns that are empty throughout, as ACES writes them, count as absent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling.data import disclosure
from ehr_scaling.data.events.events import DEATH
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.tokenization.tokenizer import Timelines
from ehr_scaling.data.vocabulary import DAY
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.outcomes.asking.stays import Group, Stays, after, parts
from ehr_scaling.outcomes.asking.tasks import task_tokens
from ehr_scaling.outcomes.asking.tasks.bounds import Bound
from ehr_scaling.outcomes.asking.tasks.tasks import Task

SCHEMA = {
    "subject_id": pa.int64(),
    "prediction_time": pa.timestamp("us"),
    "boolean_value": pa.bool_(),
    "integer_value": pa.int64(),
    "float_value": pa.float32(),
    "categorical_value": pa.string(),
}
REASONS = (
    "whose subject is in no split of the timelines",
    "whose subject is in another split",
    "with no record by the prediction",
    "after the subject's death",
)
_NO_SPLIT, _OTHER_SPLIT, _NO_RECORD, _DEAD = range(len(REASONS))
# Labels made of the same records name subjects that are there, at times in their records. A few may lack a timeline,
# those of whom no event has a time; more of them, or times long after, say that the labels are of somebody else.
MOST_UNKNOWN = 0.05  # of the rows, and more than A_FEW
A_FEW = 3  # rows
LATE = 365 * DAY  # µs after a patient's last event, of half the rows


class Labels(NamedTuple):
    """Rows of the label schema, ascending by subject and time. All arrays (n,)."""

    subject_ids: np.ndarray  # int64
    times: np.ndarray  # int64 µs
    values: np.ndarray  # bool; float32 NaN when the files hold no boolean_value


def from_labels(
    path: Path,
    *,
    name: str,
    positive: Sequence[str] = (),
    values: Sequence[Bound] = (),
    requires: Sequence[str] = (),
    gap: float = 0.0,
    negative: Sequence[str] = (),
    open: Sequence[str] = (),
    horizon_days: float | None = None,
    at_horizon: str | None = "negative",
    at_end: str = "open",
    silence: float = 0.0,
    description: str = "",
) -> Task:
    """A task that asks when the label files at `path` say, and watches simulated futures for the tokens given.

    Args: as the fields of `Task`; without horizon_days there is no at_horizon.
    Raises: UserError as `Task` does.
    """
    return Task(
        name=name,
        description=description or f"Labels of {Path(path).name}",
        labels=str(path),
        positive=tuple(positive),
        values=tuple(values),
        requires=tuple(requires),
        gap=gap,
        negative=tuple(negative),
        open=tuple(open),
        horizon=horizon_days,
        at_horizon=None if horizon_days is None else at_horizon,
        at_end=at_end,
        silence=silence,
    )


def read(path: Path) -> Labels:
    """The rows of a parquet file in the label schema, or of all those in a folder and the folders in it.

    Raises: UserError for a file that is missing, damaged, or not in the schema, for a value that is missing, and for
      two rows of one subject and time; it names the file, and the first such row, counted from 1.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.parquet") if not any(x[0] == "." for x in p.relative_to(path).parts))
        if not files:
            raise UserError(f"{path} holds no parquet file: give a file or folder in the MEDS label schema")
    elif not path.exists():
        raise UserError(f"{path} cannot be read (no such file or folder): give labels in the MEDS label schema")
    tables = [_read(file) for file in files]
    told = [file for file, table in zip(files, tables, strict=True) if "boolean_value" in table.column_names]
    some = [file for file, table in zip(files, tables, strict=True) if file not in told and table.num_rows]
    if told and some:
        raise UserError(f"{some[0]} has no boolean_value, and {told[0]} has: give labels of one kind")
    subject, time = (
        np.concatenate([table[name].to_numpy() for table in tables]).astype(np.int64)
        for name in ("subject_id", "prediction_time")
    )
    rows = subject.size
    if not rows:
        raise UserError(f"{path} holds no rows: there is nothing to predict")
    values = np.full(rows, np.nan, np.float32)
    if told:
        values = np.concatenate([t["boolean_value"].to_numpy(zero_copy_only=False) for t in tables if t.num_rows])
        values = values.astype(bool)
    order = np.lexsort((time, subject))
    labels = Labels(subject[order], time[order], values[order])
    again = np.flatnonzero((np.diff(labels.subject_ids) == 0) & (np.diff(labels.times) == 0)) + 1
    if len(again):
        row = int(order[again].min())
        k = int(np.searchsorted(np.cumsum([t.num_rows for t in tables]), row, side="right"))
        row -= sum(t.num_rows for t in tables[:k])
        raise UserError(
            f"{files[k]}: row {row + 1} repeats the subject and time of an earlier one, and {len(again)} rows do so in "
            "all: keep one of each"
        )
    return labels


def _read(file: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(file).read()
        names = table.column_names
    except OSError as e:
        raise UserError(f"{file} cannot be read ({first_line(e)}): give a parquet file of labels") from None
    except (pa.ArrowException, UnicodeDecodeError) as e:  # the second of a column's name
        raise UserError(f"{file} is no parquet file, or damaged ({first_line(e)})") from None
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{file} has more than one column {name[:80]!r}: keep one")
        if name not in SCHEMA:
            raise UserError(
                f"{file} has a column {name[:80]!r}: the MEDS label schema has {', '.join(SCHEMA)} and no other"
            )
    needed = ("subject_id", "prediction_time")
    for name in needed:
        if name not in table.column_names:
            raise UserError(f"{file} has no column {name}: give a file in the MEDS label schema")
    for name, kind in SCHEMA.items():
        if name not in table.column_names:
            continue
        column = table[name]
        missing = column.null_count
        if name not in needed and missing == len(column):
            table = table.drop_columns([name])
        elif column.type != kind and not (name == "categorical_value" and column.type == pa.large_string()):
            raise UserError(f"{file}: {name} is {column.type}, and {kind} in the MEDS label schema: cast it")
        elif missing:
            row = int(np.argmax(pc.is_null(column).to_numpy()))
            raise UserError(
                f"{file}: {name} is missing in row {row + 1}, and in {missing} rows in all: fill or drop them"
            )
    return table


def find(folder: Path, split: str | None, group: Sequence[Task]) -> Group:
    """What tasks of one label file ask about in a split, or in all where it is None; the same for each task.

    A prompt holds the tokens up to and at the prediction. The anchor is the beginning of the record.

    Returns: the group; what is left out is counted by REASONS.
    Raises: UserError as `read` does, when no row can be used, and when the labels are about other patients.
    """
    path = Path(group[0].labels)
    labels = read(path)
    vocabulary = timelines.vocabulary(folder)
    death = task_tokens.ids(vocabulary, (DEATH,))
    stays_by_part: list[Stays] = []
    rows_of: list[np.ndarray] = [np.zeros(0, np.int64)]
    left_out = np.zeros(len(REASONS), np.int64)
    patients, late, matched = 0, 0, np.zeros(len(labels.times), bool)
    for part in parts(folder, split):
        rows, owners = _in(labels, part)
        matched[rows] = True
        begins, ends = part.offsets[owners], part.offsets[owners + 1] - 1
        until = after(part.times, begins, ends, labels.times[rows])
        deaths = np.append(np.flatnonzero(death[part.tokens]), len(part.tokens))
        none = until == begins
        dead = ~none & (deaths[np.searchsorted(deaths, begins)] < until)
        late += int((labels.times[rows] > part.times[ends] + LATE).sum())
        left_out[_NO_RECORD] += none.sum()
        left_out[_DEAD] += dead.sum()
        kept = ~none & ~dead
        rows_of.append(rows[kept])
        zeros = np.zeros(int(kept.sum()), np.int64)
        known = (until - begins)[kept]
        stays_by_part.append(
            Stays(
                patients + owners[kept], zeros, known, labels.times[rows[kept]], part.subject_ids[owners[kept]], zeros
            )
        )
        patients += len(part.subject_ids)
    lost = np.flatnonzero(~matched)
    left_out[_OTHER_SPLIT] = _elsewhere(folder, split, labels.subject_ids[lost])
    left_out[_NO_SPLIT] = len(lost) - left_out[_OTHER_SPLIT]
    generated = inspection.of_generated(folder)
    _check_whose(path, len(labels.times), int(left_out[_NO_SPLIT]), int(matched.sum()), late, generated)
    told = {REASONS[i]: int(n) for i, n in enumerate(left_out) if n}
    chosen = np.concatenate(rows_of)
    if not len(chosen):
        why = ", ".join(f"{disclosure.words(n, generated)} {reason}" for reason, n in told.items())
        count = disclosure.words(len(labels.times), generated)
        where = f"the {split} split" if split else "the timelines"
        raise UserError(f"{path}: of its labels ({count}) none can be asked of {where}: {why}")
    stays = Stays(*(np.concatenate(column) for column in zip(*stays_by_part, strict=True)))
    stays = stays._replace(labels=np.full(len(chosen), np.nan, np.float32))
    every = np.arange(len(chosen))
    n = len(group)
    return Group(stays, (every,) * n, (labels.values[chosen],) * n, (told,) * n)


def _check_whose(path: Path, rows: int, unknown: int, known: int, late: int, generated: bool) -> None:
    """Raises UserError when so many rows fit nobody that the labels must be about other patients.

    Args: rows of the file; unknown, whose subject has no timeline; known, whose subject is in what is asked; late, of
      those, at times long after the subject's last event; generated, whether they are nobody's.
    """

    def words(n: int) -> str:
        return disclosure.words(n, generated)

    remedy = "give their records with --data (launch.predict), or labels of these patients"
    if unknown > max(A_FEW, MOST_UNKNOWN * rows):
        raise UserError(
            f"{path}: the subjects of {words(unknown)} of the {words(rows)} labels are in no split of the timelines: "
            f"the labels belong to other patients; {remedy}"
        )
    if late > max(A_FEW, known / 2):
        raise UserError(
            f"{path}: {words(late)} of the {words(known)} labels of these subjects are at times more than a year after "
            f"their last event: the labels belong to other patients with the same ids; {remedy}"
        )


def _in(labels: Labels, part: Timelines) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the labels whose subject is in the part, in the order of its patients, and the patient of each."""
    first = np.searchsorted(labels.subject_ids, part.subject_ids, side="left")
    counts = np.searchsorted(labels.subject_ids, part.subject_ids, side="right") - first
    owners = np.repeat(np.arange(len(counts)), counts)
    inside = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + inside, owners


def _elsewhere(folder: Path, split: str | None, subject_ids: np.ndarray) -> int:
    """How many of these are in other splits than `split`."""
    if split is None or not len(subject_ids):
        return 0
    others = [part.subject_ids for name in timelines.SPLITS if name != split for part in parts(folder, name)]
    return int(np.isin(subject_ids, np.concatenate([np.zeros(0, np.int64), *others])).sum())
