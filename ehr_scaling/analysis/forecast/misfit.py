"""What a law gets wrong among its own runs: neighbouring cells that miss it on the same side.

Noise differs from cell to cell; what a law misses goes on over many. So the mean product of the residuals of
neighbouring cells is the variance of what is missed, with the noise left out (the sill without the nugget of a
variogram; Cressie 1993, section 2.4).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.joint.joint_laws import JointLaw
from ehr_scaling.analysis.tables.run_table import RunTable

KNOTS = 7  # levels of compute at which it is told
WIDTH = 1 / 6  # of the range of log C: over which cells tell of one level


@dataclass(frozen=True)
class Misfit:
    """deviation: [k] standard deviation of log loss that the law misses, at log10 of compute `level` [k], ascending."""

    level: Floats
    deviation: Floats

    def __call__(self, C: Floats) -> Floats:
        """[m] at compute C [m]; beyond either end as there."""
        return np.asarray(np.interp(np.log10(C), self.level, self.deviation))


NONE = Misfit(np.zeros(1), np.zeros(1))


def cells(table: RunTable) -> NDArray[np.int64]:
    """[n] index of each row's cell: rows of one size and length, and rows of one run, are of one cell.

    Seeds of a cell share what the cell has of its own (its rounding, its tuned rate), and checkpoints what their run
    has: neither is independent evidence of the law, so a bootstrap draws cells.
    """
    place = np.unique(np.column_stack([table.N, table.D]), axis=0, return_inverse=True)[1].ravel()
    found = table.clusters.copy()
    while True:  # a run joins places, a place joins runs
        before = found
        for key in (place, table.clusters):
            least = np.full(int(key.max()) + 1, len(found), np.int64)
            np.minimum.at(least, key, found)
            found = least[key]
        if np.array_equal(found, before):
            return np.unique(found, return_inverse=True)[1].astype(np.int64)


def misfit(law: JointLaw, table: RunTable, near: Floats, runs: float) -> Misfit:
    """Of a law fitted to a table, as if to so many runs of equal weight.

    At each level of compute the product is averaged over cells near it, as both count [n]: near the best loss of their
    compute, where forecasts are asked for. The fit pulls residuals of neighbours apart, by as much of their square as
    the law has parameters to a run: that is added. And one standard error is taken off, so that noise alone is rarely
    called misfit.
    """
    place = np.unique(np.column_stack([table.N, table.D]), axis=0, return_inverse=True)[1].ravel()
    count = np.bincount(place)
    columns = (np.log(table.N), np.log(table.D), np.log(table.C), law.residuals, near)
    x, z, c, missed, near = (np.bincount(place, values) / count for values in columns)
    if len(count) < 2:
        return NONE
    apart = (x[:, None] - x) ** 2 + (z[:, None] - z) ** 2
    np.fill_diagonal(apart, np.inf)
    other = apart.argmin(1)
    product, square = missed * missed[other], (missed**2 + missed[other] ** 2) / 2
    levels = np.linspace(c.min(), c.max(), KNOTS)
    share = near * near[other] * np.exp(-0.5 * ((levels[:, None] - c) / (WIDTH * max(np.ptp(c), 1e-9))) ** 2)
    share /= share.sum(1, keepdims=True)
    here = 1 / (share**2).sum(1)
    taken = min(len(law.form.free) / runs, 1.0)
    variance = share @ product + (share @ square) * (taken - 1 / np.sqrt(here))
    return Misfit(levels / np.log(10), np.sqrt(np.maximum(variance, 0.0)))
