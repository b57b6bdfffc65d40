"""Whose windows an audit asks a model about, and which other model says how likely they are by prediction alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_scaling import artifacts
from ehr_scaling.audit import windows
from ehr_scaling.audit.windows import Exposure, Windows
from ehr_scaling.data.packed import FILE
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout

ENOUGH = 500  # training patients that a model never read stand for held-out patients, where there are so many
UNREAD = 0.4  # share of the members, and of the others, that a reference must not have read
UNREAD_TRAIN, TEST = "train, never read", "test"


class Side(NamedTuple):
    """Patients, a window each, and where the rows lie."""

    packed: Path
    split: str
    windows: Windows


class Reference(NamedTuple):
    """Another model of the grid. saw_members: whether it was trained on the members too."""

    cell: Cell
    saw_members: bool


class Whom(NamedTuple):
    members: Side
    held_out: Side
    source: str  # of the held-out patients: UNREAD_TRAIN or TEST
    times: np.ndarray  # int64, how often the model read the window of each member
    seen: np.ndarray  # int64, ordinals of all training patients that it read
    reference: Reference | None

    def unread(self, workdir: Path, of: Side) -> np.ndarray:
        """Which windows of a side the reference has not read, nor another of the patient: bool (n,)."""
        assert self.reference is not None
        if of.split != "train" or self.reference.saw_members:
            return np.ones(len(of.windows.patients), bool)
        return ~np.isin(of.windows.patients, windows.exposure(workdir, self.reference.cell).seen)


def choose(workdir: Path, cell: Cell, others: list[tuple[float, Cell]], seed: int) -> Whom:
    """All patients that could be asked about, and the reference.

    Members are those whose window (`windows.one_each`) the model has read. Held-out patients are training patients that
    it has not read, outside of its fraction or of its first part of a pass, where there are ENOUGH of them: vocabulary
    and bins were fitted to them as to members. Else they are the test split.

    Args: others, (validation loss, cell) of the finished models of the grid.
    Raises: UserError as `windows.exposure`, and where a side has fewer than two patients.
    """
    exposure = windows.exposure(workdir, cell)
    own = windows.one_each(exposure.windows)
    times = _times(exposure, own)
    members = Side(exposure.packed, "train", own.take(times > 0))
    held_out, source = _unread(workdir, cell, exposure), UNREAD_TRAIN
    if len(held_out.windows.patients) < ENOUGH:
        drawn = artifacts.read_json(exposure.packed / FILE)["sampling"] == "patient"
        rng = np.random.default_rng([seed, 1]) if drawn else None
        test = windows.one_each(windows.of_split(exposure.packed, "test"), rng)
        held_out, source = Side(exposure.packed, "test", test), TEST
    if min(len(members.windows.patients), len(held_out.windows.patients)) < 2:
        raise UserError(
            f"cell {cell.id}: an audit needs two patients that it has read, and two that it has not: "
            "data.splits and data.patients of its config say how many there are"
        )
    whom = Whom(members, held_out, source, times[times > 0], exposure.seen, None)
    return whom._replace(reference=_reference(workdir, cell, others, whom))


def _times(exposure: Exposure, chosen: Windows) -> np.ndarray:
    """How often each of the chosen windows was read: a patient is in a row once at most."""
    key = exposure.windows.rows * (1 + int(exposure.windows.patients.max())) + exposure.windows.patients
    wanted = chosen.rows * (1 + int(exposure.windows.patients.max())) + chosen.patients
    order = np.argsort(key)
    return np.asarray(exposure.times[order[np.searchsorted(key[order], wanted)]])


def _unread(workdir: Path, cell: Cell, exposure: Exposure) -> Side:
    """The training patients that a model has not read; of all that there are, where their rows lie here too."""
    whole = Layout(workdir).packed(cell.context)
    packed = whole if cell.fraction < 1 and _there(whole, exposure.packed) else exposure.packed
    every = windows.one_each(windows.of_split(packed, "train"))
    return Side(packed, "train", every.take(~np.isin(every.patients, exposure.seen)))


def _there(folder: Path, beside: Path) -> bool:
    """Whether rows of the same timelines are."""
    if not (folder / artifacts.RECORD).is_file():
        return False
    first, second = (artifacts.record(f)["inputs"]["timelines"] for f in (folder, beside))
    return bool(first == second)


def _reference(workdir: Path, cell: Cell, others: list[tuple[float, Cell]], whom: Whom) -> Reference | None:
    """The model of least loss that has not read at least UNREAD of either side; where there is none, the smallest that
    was trained the least, which has read the members; None where there is no other model."""
    alike = [
        (loss, other)
        for loss, other in others
        if other.id != cell.id and (other.context, other.vocab) == (cell.context, cell.vocab)
    ]
    there = [pair for pair in alike if (Layout(workdir).packed(cell.context, pair[1].fraction) / FILE).is_file()]
    for _, other in sorted(there, key=lambda pair: pair[0]):
        asked = whom._replace(reference=Reference(other, False))
        if all(asked.unread(workdir, side).mean() >= UNREAD for side in (whom.members, whom.held_out)):
            return Reference(other, False)
    if not alike:
        return None
    return Reference(min((other for _, other in alike), key=lambda c: (c.N_body, c.tokens, c.id)), True)
