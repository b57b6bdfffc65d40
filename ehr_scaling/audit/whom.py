"""Whose windows an audit asks a model about, and which other model says how likely they are by prediction alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.audit import windows
from ehr_scaling.audit.windows import Exposure, Windows
from ehr_scaling.data.packing.packed import FILE
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout

ENOUGH = 500  # training patients outside of a model's fraction stand for held-out patients, where there are so many
UNREAD = 0.4  # share of the members, and of the others, that a reference must not have read
OUTSIDE, TEST = "train, outside of its fraction", "test"


class Side(NamedTuple):
    """Patients, a window each, and where the rows lie."""

    packed: Path
    split: str
    windows: Windows


class Reference(NamedTuple):
    """Another model of the grid. saw_members: whether it was trained on the members too, or may have been."""

    cell: Cell
    saw_members: bool


class Whom(NamedTuple):
    members: Side
    held_out: Side
    source: str  # of the held-out patients: OUTSIDE or TEST
    times: np.ndarray  # float64, how often the model read each member, over all phases
    seen: np.ndarray  # int64, ordinals of all training patients that it read
    reference: Reference | None

    def unread(self, workdir: Path, of: Side) -> np.ndarray:
        """Which windows of a side the reference has not read, nor another of the patient: bool (n,).

        A reference of less than a pass has left out short records more often than long ones. Patients whom it could not
        have read are left out as often, by the number of their windows: else the length of a record would tell who is a
        member.
        """
        assert self.reference is not None
        patients = of.windows.patients
        if self.reference.saw_members:
            return np.ones(len(patients), bool)
        read = windows.exposure(workdir, self.reference.cell)
        could = np.isin(patients, read.windows.patients) & (of.split == "train")
        left = np.ones(len(patients), bool)
        if len(read.seen) < len(np.unique(read.windows.patients)):
            chance = _unread_by_windows(read)
            number = np.bincount(windows.of_split(of.packed, of.split).patients)[patients]
            left = np.random.default_rng(0).random(len(patients)) < chance[np.minimum(number, len(chance) - 1)]
        return np.where(could, ~np.isin(patients, read.seen), left)


def choose(workdir: Path, cell: Cell, others: list[tuple[float, Cell]], seed: int) -> Whom:
    """All patients that could be asked about, and the reference.

    Members are those whose window (`windows.one_each`) the model has read. Held-out patients are training patients
    outside of its fraction, where there are ENOUGH of them: vocabulary and bins were fitted to them as to members. Else
    they are the test split. Either was drawn whatever the length of a record. Those whom a part of a pass did not reach
    are none: of a long record it reaches some window sooner than of a short one, so that they are the short ones. Of a
    model that started from another nobody knows which training patients that has read: it has the test split.

    Args: others, (validation loss, cell) of the finished models of the grid.
    Raises: UserError as `windows.exposure`, and where a side has fewer than two patients.
    """
    exposure = windows.exposure(workdir, cell)
    one_window_each = windows.one_each(exposure.windows)
    times = _times(exposure, one_window_each)
    members = Side(exposure.packed, "train", one_window_each.take(times > 0))
    outside = _outside(workdir, cell, exposure)
    if outside is not None and len(outside.windows.patients) >= ENOUGH:
        held_out, source = outside, OUTSIDE
    else:
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


def _unread_by_windows(read: Exposure) -> np.ndarray:
    """Of the patients whom a model could read, the share of whom it has read nothing, by the number of windows that
    they have: float64 (1 + most windows,)."""
    number = np.bincount(read.windows.patients)
    patients = np.flatnonzero(number)
    unread = np.bincount(number[patients], weights=~np.isin(patients, read.seen))
    return np.asarray(unread / np.maximum(np.bincount(number[patients]), 1))


def _outside(workdir: Path, cell: Cell, exposure: Exposure) -> Side | None:
    """The training patients outside of a model's fraction; None where there are none, or where their rows are not."""
    whole = Layout(workdir).packed(cell.context)
    if cell.fraction == 1 or cell.init or not _there(whole, exposure.packed):
        return None
    every = windows.one_each(windows.of_split(whole, "train"))
    return Side(whole, "train", every.take(~np.isin(every.patients, exposure.windows.patients)))


def _there(folder: Path, beside: Path) -> bool:
    """Whether rows of the same timelines are, on this machine or in the bucket."""
    storage.fetch(folder)
    if not all((folder / name).is_file() for name in (artifacts.RECORD, FILE)):  # either may have come alone
        return False
    first, second = (artifacts.record(f)["inputs"]["timelines"] for f in (folder, beside))
    return bool(first == second)


def _reference(workdir: Path, cell: Cell, others: list[tuple[float, Cell]], whom: Whom) -> Reference | None:
    """The model of least loss that has not read at least UNREAD of either side; where there is none, the smallest that
    was trained the least, which has read the members; None where there is no other model. What a model that started
    from another has not read, nobody knows."""
    alike = [
        (loss, other)
        for loss, other in others
        if other.id != cell.id and (other.context, other.vocab) == (cell.context, cell.vocab)
    ]
    folders = {other.fraction: Layout(workdir).packed(cell.context, other.fraction) for _, other in alike}
    there = {fraction for fraction, folder in folders.items() if _there(folder, whom.members.packed)}
    known = [pair for pair in alike if pair[1].fraction in there and not pair[1].init]
    for _, other in sorted(known, key=lambda pair: pair[0]):
        with_reference = whom._replace(reference=Reference(other, False))
        if all(with_reference.unread(workdir, side).mean() >= UNREAD for side in (whom.members, whom.held_out)):
            return Reference(other, False)
    if not alike:
        return None
    return Reference(min((other for _, other in alike), key=lambda c: (c.N_body, c.tokens, c.id)), True)
