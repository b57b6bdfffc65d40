"""From cells as they stand in a file to numbers, and which rows cannot be used, and why."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.errors import UserError

Floats = NDArray[np.float64]

# FLOPs a parameter and token: 6 without head and attention, some hundreds where a small body has a large head.
POSSIBLE = (1.0, 1e4)
FAR = 1e50  # no quantity of a run, in any unit; its fifth power is still a number
GAP = 30.0  # sizes lie closer than that in C / (N D); thousands taken for ones lie further


class BadRows:
    """rows: {row: (code, text)}, the first reason of each. place: how to name row i. drop: whether they may be."""

    def __init__(self, place: Callable[[int], str], drop: bool) -> None:
        self.place, self.drop = place, drop
        self.rows: dict[int, tuple[str, str]] = {}

    def add(self, which: NDArray[np.bool_], code: str, text: Callable[[int], str]) -> None:
        """which: [n] bool. text: the reason, for row i."""
        for i in np.flatnonzero(which).tolist():
            self.rows.setdefault(i, (code, text(i)))

    def check(self) -> None:
        """Raises: UserError for the first of them, unless they may be dropped."""
        if self.rows and not self.drop:
            i = min(self.rows)
            raise UserError(
                f"{self.place(i)}: {self.rows[i][1]} (launch.analyze and launch.compare --drop_bad_rows leave such out)"
            )


def numbers(
    values: Sequence[Any] | NDArray[Any], name: str, bad: BadRows, *, required: bool = False, positive: bool = False
) -> Floats:
    """[n] float64, NaN for unknown (None, "", and NaN in an array of numbers that is not required).

    What is no number, not finite, out of all measure, negative or, where it must be positive, zero, and what is missing
    and required, goes to `bad`.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        numeric = values.astype(np.float64)
        unknown = np.isnan(numeric) & (not required)
    else:
        cells = np.fromiter(values, object, len(values))
        unknown = np.array([cell is None or cell == "" for cell in values], bool)
        numeric = _converted(np.where(unknown, np.nan, cells), name, bad)
    if required:
        bad.add(unknown, "nonfinite", lambda i: f"{name} is empty; every run needs it")
    mend = "leave out runs that diverged or mend the value"
    bad.add(~np.isfinite(numeric) & ~unknown, "nonfinite", lambda i: f"{name} is not finite; {mend}")
    low = numeric <= 0 if positive else numeric < 0
    bad.add(low, "not_positive", lambda i: f"{name} is {numeric[i]:g}; it must be positive")
    far = (numeric > FAR) | ((numeric < 1 / FAR) & (numeric > 0))
    bad.add(far, "units", lambda i: f"{name} is {numeric[i]:g}, which no run has: give it in other units")
    return numeric


def _converted(cells: NDArray[Any], name: str, bad: BadRows) -> Floats:
    """[n] objects as float64; NaN where one is no number."""
    try:
        return cells.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    numeric, wrong = np.full(len(cells), np.nan), np.zeros(len(cells), bool)
    for i, cell in enumerate(cells):
        try:
            numeric[i] = float(cell)
        except (TypeError, ValueError, OverflowError):
            wrong[i] = True
    bad.add(wrong, "nonfinite", lambda i: f"{name} is not a number")
    return numeric


def impossible(ratio: Floats) -> NDArray[np.bool_]:
    """[n] whether C / (N D) is what no training costs."""
    outside: NDArray[np.bool_] = (ratio < POSSIBLE[0]) | (ratio > POSSIBLE[1])
    return outside


def heaps(ratio: Floats, gap: float) -> tuple[Floats, NDArray[np.int64]]:
    """Ratios [n] in heaps that lie further than a factor `gap` apart: the last of each heap but one, and [n] which."""
    ascending = np.sort(ratio[np.isfinite(ratio) & (ratio > 0)])
    ends = ascending[:-1][ascending[1:] > gap * ascending[:-1]]
    return ends, np.searchsorted(ends, ratio, side="left")


def text(cell: Any) -> str:
    """A cell of a column of names; what no file or page can hold is replaced."""
    if cell is None:
        return ""
    try:
        name = str(cell)
    except ValueError:  # an integer of thousands of digits
        name = "a long integer"
    return name.replace("\0", "").encode("utf-8", "replace").decode()


def mixed_units(ratio: Floats, bad: BadRows) -> None:
    """Rows whose C / (N D) [n] lies a factor `GAP` from that of most rows, where either is impossible.

    Rows of one unit lie close together, whatever the unit: in PF-days and thousands of parameters all are impossible,
    and the laws the same.
    """
    known = np.isfinite(ratio) & (ratio > 0)
    if not known.any():
        return
    ends, heap = heaps(ratio, GAP)
    most = int(np.bincount(heap[known]).argmax())
    odd = np.zeros(len(ends) + 1, bool)
    odd[heap[known & impossible(ratio)]] = True
    rest = float(np.median(ratio[known & (heap == most)]))
    bad.add(
        known & (heap != most) & (odd[heap] | odd[most]),
        "units",
        lambda i: (
            f"C / (N D) is {ratio[i]:.3g}, {rest:.3g} in most rows: give N, D and C of all rows in the same units"
        ),
    )
