"""How wide the intervals of a budget are: by the noise of all budgets together, and by what seeds share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis.draws import Floats, spread
from ehr_scaling.analysis.isoflop.parabola import BRACKETED, MISFIT, Profile
from ehr_scaling.analysis.small_sample import common
from ehr_scaling.analysis.tables.run_table import RunTable

LEAST_BUDGETS = 3  # of fewer, nothing tells how far their noise differs


class Width(NamedTuple):
    """Of one budget, for [2] the turn and the loss there. factor: on the deviations of the bootstrap draws. freedom: of
    the variance that they then have, as an estimate."""

    factor: Floats
    freedom: Floats


def moderated(profiles: Sequence[Profile], loss: Floats) -> list[Width]:
    """The width of every budget's draws after its noise was drawn towards that of all budgets, as far as chance
    explains their differences (`small_sample.common`). A few sizes tell their own noise badly, and budgets that seem to
    have little of it are the ones called bracketed: those that are not are part of what is common.

    loss: [budgets] a typical one of each; noise is taken relative to it.
    """
    told = [p.freedom > 0 and p.scatter > 0 and p.verdict != MISFIT and not p.doubtful for p in profiles]
    freedom = np.array([float(p.freedom) for p in profiles])[told]
    variance = (np.array([p.scatter for p in profiles]) / loss)[told] ** 2
    middle, worth = np.nan, 0.0
    if len(variance) >= LEAST_BUDGETS:
        middle, worth = common(variance, freedom)
        middle = float(freedom @ variance / freedom.sum()) if np.isinf(worth) else middle
    return [_width(p, level, middle, worth, float(freedom.sum())) for p, level in zip(profiles, loss, strict=True)]


def _width(profile: Profile, loss: float, middle: float, worth: float, most: float) -> Width:
    """middle, worth: of `small_sample.common`, relative to the loss. most: degrees of freedom of all budgets."""
    small, turns = profile.small, profile.turns
    drawn = spread(turns) ** 2 if turns is not None and _enough(turns[:, 0]) else np.full(2, np.nan)
    if not (drawn > 0).all() or np.isinf(small.freedom).any():
        return Width(np.ones(2), small.freedom)
    own_variance = drawn / (small.inflation * small.unit) / loss**2
    if not worth:
        return Width(small.inflation**-0.5, small.freedom)
    share = 1.0 if np.isinf(worth) else worth / (worth + small.freedom)
    variance = share * middle + (1 - share) * own_variance
    return Width(np.sqrt(variance / own_variance / small.inflation), np.minimum(worth + small.freedom, most))


def bent(profiles: Sequence[Profile], loss: Floats) -> float:
    """The variance in log x of turns that are off because profiles are no parabolas: that of the shifts which cubics
    make (`parabola.Bend`), beyond what noise makes them, over all bracketed budgets; none below zero, or of few of
    them.

    One profile tells such a shift only where it is several times its noise. Of studies whose models below some size
    were 3 % × decades² off, N* of a budget was held in 83 % without it, and in 92 % with it.

    loss: [budgets] a typical one of each; noise is taken relative to it.
    """
    told = [(p.bend, level) for p, level in zip(profiles, loss, strict=True) if p.bend and p.verdict == BRACKETED]
    if len(told) < LEAST_BUDGETS:
        return 0.0
    shift, unit, variance, freedom = np.array([[*bend] for bend, _ in told]).T
    square = np.array([level for _, level in told]) ** 2
    noise = float(freedom @ (variance / square) / freedom.sum())
    weight = 1 / (unit * square)
    return max(float(weight @ (shift**2 - noise / weight) / weight.sum()), 0.0)


class SeedEffect(NamedTuple):
    """What all runs of one seed share beyond their sizes, which moves L* and not N*: variances of log loss of one seed.

    shared: by all budgets. of_budget: by the sizes of one budget. freedom: of the two. seeds: [budgets] how many.
    """

    shared: float
    of_budget: float
    freedom: tuple[int, int]
    seeds: NDArray[np.int64]


def seed_effect(table: RunTable, groups: Sequence[NDArray[np.int64]]) -> SeedEffect:
    """From the seeds that every size of a budget has, where these are two or more: a variance is what the means of
    seeds over sizes differ by beyond the noise of single runs. Moments of a two-way layout; none below zero.

    groups: rows of each budget.
    """
    each = [_seed_means(table, rows) for rows in groups]
    counts = np.array([max(len(e.means), 1) for e in each])
    told = [e for e in each if len(e.means) > 1]
    if not told:
        return SeedEffect(0.0, 0.0, (1, 1), counts)
    free = sum(e.freedom for e in told)
    noise = sum(e.squares for e in told) / free if free else 0.0
    within = np.array([np.var(list(e.means.values()), ddof=1) for e in told])
    seeds = sorted(set.intersection(*(set(e.means) for e in told)))
    shared = 0.0
    if len(told) > 1 and len(seeds) > 1:
        across = float(np.mean([[e.means[s] for s in seeds] for e in told], axis=0).var(ddof=1))
        shared = max((len(told) * across - float(within.mean())) / (len(told) - 1), 0.0)
    own_variance = max(float((within - [noise / e.sizes for e in told]).mean()) - shared, 0.0)
    freedom = sum(len(e.means) - 1 for e in told)
    return SeedEffect(shared, own_variance, (max(len(seeds) - 1, 1), max(freedom - len(seeds) + 1, 1)), counts)


class _Means(NamedTuple):
    """means: of each seed, log loss less that of its size, over the sizes. squares, freedom: of what a run differs from
    its size and its seed by."""

    means: dict[float, float]
    sizes: int
    squares: float
    freedom: int


def _seed_means(table: RunTable, rows: NDArray[np.int64]) -> _Means:
    N, seed, loss = np.log(table.N[rows]), table.seed[rows], np.log(table.loss[rows])
    sizes = np.unique(N)
    if not np.isfinite(seed).all():
        return _Means({}, len(sizes), 0.0, 0)
    of = [{s: loss[(n == N) & (seed == s)].mean() for s in np.unique(seed[n == N])} for n in sizes]
    every = sorted(set.intersection(*(set(o) for o in of)))
    if len(every) < 2:
        return _Means({}, len(sizes), 0.0, 0)
    grid = np.array([[o[s] for s in every] for o in of])  # [sizes, seeds]
    grid = grid - grid.mean(1, keepdims=True)
    means = grid.mean(0)
    left = float(((grid - means) ** 2).sum())
    return _Means(dict(zip(every, means, strict=True)), len(sizes), left, (len(sizes) - 1) * (len(every) - 1))


class Widened(NamedTuple):
    """draws: [draws, 3] of log N*, log D* and L*, as wide as their intervals. shift: [draws] of L* alone, by seeds."""

    draws: Floats
    shift: Floats


def widened(
    draws: Floats,
    centre: Floats,
    width: Width,
    loss: float,
    effect: SeedEffect,
    seeds: int,
    bent: float,
    chance: Floats,
) -> Widened:
    """Draws of one budget with Student's tails: the freedom of L* is that of a sum of variances (Satterthwaite 1946,
    Biometrics Bulletin 2:110).

    draws: [draws, 3] of the bootstrap. centre: [3] the estimates. loss, seeds: of the budget. bent: of `bent`.
    chance: [draws, 3] one uniform and a normal that all budgets share, and a normal of the budget's own.
    """
    deviation = (draws - centre) * width.factor[[0, 0, 1]]
    parts = np.array([effect.shared, effect.of_budget]) / seeds * loss**2
    shift = chance[:, 1:] @ np.sqrt(parts)
    freedom = width.freedom.copy()
    if parts.any() and _enough(draws[:, 2]):
        variances = np.append(parts, float(spread(deviation[:, 2:])[0]) ** 2)
        freedom[1] = variances.sum() ** 2 / (variances**2 / np.append(effect.freedom, freedom[1])).sum()
    tails = np.stack([_tails(chance[:, 0], float(f)) for f in freedom], 1)
    deviation[:, 2] += shift
    deviation *= tails[:, [0, 0, 1]]
    if bent and _enough(deviation[:, 0]):
        deviation[:, :2] *= np.sqrt(1 + bent / float(spread(deviation[:, :1])[0]) ** 2)
    return Widened(centre + deviation, shift * tails[:, 1])


def _enough(draws: Floats) -> bool:
    """As many as an interval is told from (`draws.interval`)."""
    return int(np.isfinite(draws).sum()) >= 20


def _tails(uniform: Floats, freedom: float) -> Floats:
    """[draws] factors that make normal draws Student's."""
    if np.isinf(freedom):
        return np.ones(len(uniform))
    return np.asarray(np.sqrt(freedom / special.chdtri(freedom, uniform)))
