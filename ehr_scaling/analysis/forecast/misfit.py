"""What a law gets wrong among its own runs: neighbouring cells that miss it on the same side.

Noise differs from cell to cell; what a law misses goes on over many. So the mean product of the residuals of
neighbouring cells is the variance of what is missed, with the noise left out (the sill without the nugget of a
variogram; Cressie 1993, section 2.4).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.joint.joint_laws import JointLaw
from ehr_scaling.analysis.tables.run_table import RunTable

KNOTS = 7  # levels of compute at which it is told
MOST_NEAR, EQUALLY = 8, 1e-6  # of a cell's neighbours as near as the nearest, to that share of the distance
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


def misfit(law: JointLaw, table: RunTable, near: Floats, equal: float) -> Misfit:
    """Of a law fitted to a table of cells (`cells.average`), as if to so many of `equal` weight.

    At each level of compute the product is averaged over cells near it, as both count [n]: near the best loss of their
    compute, where forecasts are asked for. The fit pulls residuals of neighbours apart, by as much of their square as
    the law has parameters to a cell: that is added. And one standard error is taken off, so that noise alone is rarely
    called misfit.
    """
    if len(table) < 2:
        return NONE
    c, missed = np.log(table.C), law.residuals
    other, share = _neighbours(np.log(np.column_stack([table.N, table.D])))
    product, square = missed * (share * missed[other]).sum(1), (missed**2 + (share * missed[other] ** 2).sum(1)) / 2
    both = near * (share * near[other]).sum(1)
    levels = np.linspace(c.min(), c.max(), KNOTS)
    share = both * np.exp(-0.5 * ((levels[:, None] - c) / (WIDTH * max(np.ptp(c), 1e-9))) ** 2)
    share /= share.sum(1, keepdims=True)
    here = 1 / (share**2).sum(1)
    taken = min(len(law.form.free) / equal, 1.0)
    variance = share @ product + (share @ square) * (taken - 1 / np.sqrt(here))
    return Misfit(levels / np.log(10), np.sqrt(np.maximum(variance, 0.0)))


def _neighbours(places: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Indices of the nearest others of n places [n, 2], and the share that each has, both [n, k]: on a grid several are
    as near, and rounding is not to choose among them."""
    distance, other = cKDTree(places).query(places, k=min(MOST_NEAR + 1, len(places)))
    nearest = (distance <= distance[:, 1:2] * (1 + EQUALLY)) & (other != np.arange(len(places))[:, None])
    return other, nearest / nearest.sum(1, keepdims=True)
