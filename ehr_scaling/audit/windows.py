"""Which windows a model was trained on, how often, and whose windows it never saw.

Packed rows say it: which rows the first steps of a run read depends on the data and the seed alone. One window stands
for a patient, the longest; of all that are as long, the first in the order of the rows, which are shuffled. Where each
pass trains on one drawn window of a patient (sampling "patient"), it is that, and one is drawn of each other patient.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data.packing import loader
from ehr_scaling.data.packing.packed import FILE
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout

_ROWS = 256  # read at a time


class Windows(NamedTuple):
    """n windows of packed rows, in the order of the rows."""

    patients: np.ndarray  # int64 (n,), ordinal in the split
    rows: np.ndarray  # int64 (n,)
    columns: np.ndarray  # int64 (n,)
    lengths: np.ndarray  # int64 (n,), tokens with the prefix

    def take(self, rows: np.ndarray) -> "Windows":
        return Windows(*(field[rows] for field in self))

    def of_patients(self, patients: np.ndarray) -> "Windows":
        return self.take(np.isin(self.patients, patients))


@lru_cache(16)
def of_split(packed: Path, split: str, phase: int = 0) -> Windows:
    """All windows of a phase. Raises: UserError as `loader.eval_batches` does."""
    parts, first = [], 0
    for batch in loader.eval_batches(packed, split, sequences=_ROWS, phase=phase):
        segments = batch["segments"]
        width = segments.shape[1]
        begins = np.flatnonzero(np.diff(segments, axis=1, prepend=-1).ravel())  # each row begins one, none is −1
        ids = segments.ravel()[begins]
        lengths = np.diff(begins, append=segments.size)
        real = ids > 0
        parts.append(np.stack([ids - 1, first + begins // width, begins % width, lengths])[:, real])
        first += len(segments)
    return Windows(*np.concatenate(parts, axis=1).astype(np.int64))


def one_each(windows: Windows, rng: np.random.Generator | None = None) -> Windows:
    """The longest window of each patient, by ascending patient; with `rng` one drawn with equal probability."""
    key = -windows.lengths if rng is None else rng.random(len(windows.lengths))
    order = np.lexsort((windows.rows, key, windows.patients))
    return windows.take(order[np.diff(windows.patients[order], prepend=-1) > 0])


def read(packed: Path, split: str, windows: Windows) -> np.ndarray:
    """Tokens of windows, in their order: int32 (n, T+1), the rest of each row PAD."""
    width = artifacts.read_json(packed / FILE)["context"] + 1
    tokens, first = np.zeros((len(windows.rows), width), np.int32), 0
    order = np.argsort(windows.rows, kind="stable")
    rows = windows.rows[order]
    for batch in loader.eval_batches(packed, split, sequences=_ROWS):
        low, high = np.searchsorted(rows, [first, first + len(batch["tokens"])])
        for k in order[low:high]:
            row, column, length = windows.rows[k] - first, windows.columns[k], windows.lengths[k]
            tokens[k, :length] = batch["tokens"][row, column : column + length]
        first += len(batch["tokens"])
    return tokens


class Exposure(NamedTuple):
    """What a model has read of the patients of the train split, by their ordinals."""

    packed: Path  # the rows that it was trained on
    windows: Windows  # of their phase 0
    times: np.ndarray  # float64 (n,), how often it read each, or in other phases the tokens of its patient, on average
    seen: np.ndarray  # int64, ascending: patients of whom it read any window


def exposure(workdir: Path, cell: Cell) -> Exposure:
    """Raises: UserError where the packed data of the cell are not there, damaged, or of another study."""
    return _exposure(packed_of(workdir, cell), cell.seed, cell.steps * cell.batch_sequences)


@lru_cache(512)
def _exposure(packed: Path, seed: int, rows: int) -> Exposure:
    windows = of_split(packed, "train")
    first, *others = loader.times_read(packed, seed=seed, rows=rows)
    times = first[windows.rows].astype(np.float64)
    for phase, again in enumerate(others, 1):
        if again.any():  # after a whole pass over the phases before
            cut = of_split(packed, "train", phase)
            tokens = np.bincount(cut.patients, cut.lengths)
            read = np.bincount(cut.patients, cut.lengths * again[cut.rows])
            times += (read / np.maximum(tokens, 1))[windows.patients]
    return Exposure(packed, windows, times, np.unique(windows.patients[times > 0]))


def packed_of(workdir: Path, cell: Cell) -> Path:
    """The folder of the rows that a cell was trained on. Raises: UserError as `exposure`."""
    folder = Layout(workdir).packed(cell.context, cell.fraction)
    storage.fetch(folder)
    if not (folder / artifacts.RECORD).is_file():
        raise UserError(
            f"{folder} is missing: an audit needs the rows that cell {cell.id} was trained on; copy it, or make it "
            "anew (launch.prepare)"
        )
    if artifacts.record(folder)["fingerprint"] != cell.packed:
        raise UserError(f"{folder} is not what cell {cell.id} was trained on: take the --workdir it was trained in")
    return folder
