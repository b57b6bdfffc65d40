"""Draws of a bootstrap, and the intervals that they make."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
LEAST_DRAWS = 20  # that an interval is told from


def interval(samples: NDArray[Any], level: float) -> tuple[float, float]:
    """Percentile interval of the finite samples; (nan, nan) when fewer than LEAST_DRAWS are left."""
    samples = samples[np.isfinite(samples)]
    if len(samples) < LEAST_DRAWS:
        return np.nan, np.nan
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ends(samples: Floats, level: float) -> Floats:
    """[n, ...] -> [2, ...], the quantiles between which a share `level` of the samples lies."""
    quantiles: Floats = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return quantiles


def spread(draws: Floats) -> Floats:
    """[points] standard deviation by the central 68 % of the draws [draws, points], which outliers do not move."""
    return np.asarray(np.diff(np.nanquantile(draws, [0.16, 0.84], axis=0), axis=0)[0] / 2)


def normal_quantile(level: float) -> float:
    """1.96 for a level of 0.95."""
    return float(special.ndtri((1 + level) / 2))


def multipliers(clusters: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Floats:
    """[draws, n] standard normal factors for residuals, shared by the rows of one run.

    The wild cluster bootstrap (Wu 1986; Cameron, Gelbach & Miller 2008) resamples runs while the grid of sizes stays
    as it was designed. Resampling pairs instead loses whole sizes from five-size grids: it covered 91-100 % where
    95 % was meant, and lost the vertex in up to 60 % of draws of profiles that were clearly bracketed.
    """
    return rng.standard_normal((draws, int(clusters.max()) + 1))[:, clusters]


def of_cells(factors: Floats, cell: NDArray[np.int64], clusters: NDArray[np.int64]) -> Floats:
    """[draws, cells] one standard normal factor for every cell, from those of its rows.

    Seeds repeat a cell, they are no independent evidence about the curve through the cells. Cells of the same runs move
    together, cells that share some of their runs do so in part.

    factors: [draws, n] of `multipliers`. cell: [n] indices, each up to the last occurring. clusters: [n] of the runs.
    """
    (of, _), rows = np.unique(np.stack([cell, clusters]), axis=1, return_index=True)
    first = np.searchsorted(of, np.arange(int(of.max()) + 1))
    total = np.add.reduceat(factors[:, rows], first, axis=1)
    return np.asarray(total / np.sqrt(np.bincount(of)))


def resampling_counts(clusters: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Floats:
    """[draws, n] how often each row's run appears when runs are drawn with replacement."""
    runs = int(clusters.max()) + 1
    picks = rng.integers(0, runs, (draws, runs)) + runs * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * runs).reshape(draws, runs)[:, clusters].astype(np.float64)


def resampling_weights(clusters: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Floats:
    """[draws, n] weights of each row's run: the Bayesian bootstrap (Rubin 1981, Ann. Stat. 9:130), exponential and of
    mean 1 over runs.

    Drawing runs with replacement leaves out a third of them each time, which a law of five parameters does not bear
    where it has eight runs a parameter: its 95 % intervals held the truth in 96 to 99 % there, with these weights in 94
    to 98 %. At 240 runs the standard errors of both are within 7 %.
    """
    runs = int(clusters.max()) + 1
    weights = rng.standard_exponential((draws, runs))
    return np.asarray((weights * (runs / weights.sum(1, keepdims=True)))[:, clusters])
