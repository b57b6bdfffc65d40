"""The cells of a table: what joint laws are fitted to.

Seeds of a cell share what the cell has of its own (its rounding, its tuned rate), and checkpoints what their run has:
neither is independent evidence of the law. A fit to single runs with the robust loss of joint laws hardly moves between
the seeds of a cell, whichever cells a bootstrap draws: its 95 % intervals of the loss at the largest budget held it in
75 to 88 % with two seeds, and in 97 % with one.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.tables.run_table import RunTable

ROUNDING = 1.01  # lengths within this factor are one: whole steps, batches and budgets round them


def average(table: RunTable) -> RunTable:
    """One row for each size and length, in the order in which they come first, with the geometric mean of its losses,
    the mean of its D and C, and all else as its first row has it; a table of such rows stays as it is.

    `run` is one name for all rows that share a run, directly or over seeds of theirs, and so are `clusters`.
    """
    first, place = places(table)
    rows = table.take(first)
    log = _means(np.log(table.loss), place)
    # Over the first, so that equal ones keep their last digit
    D, C = (leading * _means(of / leading[place], place) for leading, of in ((rows.D, table.D), (rows.C, table.C)))
    return replace(rows, loss=np.exp(log), D=D, C=C, run=table.run[_joined(place, table.clusters)[first]])


def _means(values: Floats, place: NDArray[np.int64]) -> Floats:
    return np.asarray(np.bincount(place, values) / np.bincount(place))


def places(table: RunTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the first row of each size and length [places], ascending, and the place of each row [n]."""
    _, first, place = np.unique(of(table.N, table.D), return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[place]


def of(N: Floats, D: Floats) -> NDArray[np.int64]:
    """[n] index of the size and length of each row: equal N, and D that lie within ROUNDING of each other and not of
    any further one. Lengths closer than that all along, as checkpoints may be, differ where they are not equal."""
    order = np.lexsort((D, N))
    N, D = N[order], D[order]
    other = N[1:] != N[:-1]
    apart = np.append(True, other | (D[1:] > ROUNDING * D[:-1]))
    ends = np.flatnonzero(np.append(apart, True))
    wide = D[ends[1:] - 1] > ROUNDING * D[ends[:-1]]
    apart |= wide[np.cumsum(apart) - 1] & np.append(True, D[1:] != D[:-1])
    place = np.empty(len(N), np.int64)
    place[order] = np.cumsum(apart) - 1
    return place


def _joined(place: NDArray[np.int64], run: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] the least index among the rows that each hangs together with: a run joins places, a place joins runs."""
    roots = np.arange(len(place))
    while True:
        before = roots
        for key in (place, run):
            least = np.full(int(key.max()) + 1, len(roots), np.int64)
            np.minimum.at(least, key, roots)
            roots = least[key]
        if np.array_equal(roots, before):
            return roots
