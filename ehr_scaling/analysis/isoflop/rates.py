"""Where does the loss turn with the learning rate, and does that place move as models grow?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, multipliers, of_cells
from ehr_scaling.analysis.isoflop import parabola
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.tables.selection import cell_keys, grouped, kind_names
from ehr_scaling.analysis.wording import plural
from ehr_scaling.analysis.words import Verdict

REACH = 4.0  # the loss rises faster above the best rate than below it: a parabola holds only near it
LEAST_RATES = 3


@dataclass(frozen=True)
class RateCurve:
    """One size, trained for one length at several rates.

    kind: schedule, optimizer, parametrization or mixing, where the table holds several. rows: [n] index into the table.
    x: [n] the rates, in `Rates.unit`. loss: [n] nats a token.
    """

    kind: str
    N: float
    D: float
    fraction: float
    rows: NDArray[np.int64]
    x: Floats
    loss: Floats
    fit: parabola.Parabola


@dataclass(frozen=True)
class Shift:
    """How far the optimum moves from the smallest to the largest size that has one, in factors of two; else NaN.

    small, large: the curves, each size's longest run.
    """

    kind: str
    small: RateCurve
    large: RateCurve
    value: float
    interval: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True)
class Rates:
    """unit: "multiple" of the rate that the study's rule gives, where every run says it; else "rate"."""

    unit: str
    curves: list[RateCurve]
    shifts: list[Shift]


def fit(table: RunTable, options: Options) -> Rates | None:
    """A curve for every cell with three rates or more, a shift for every kind with two sizes; None without curves.

    Where other settings vary too (weight decay, dropout, batch), a curve holds those of the cell's lowest mean loss.
    """
    unit = "multiple" if np.isfinite(table.rate_multiple).all() else "rate"
    x = table.rate_multiple if unit == "multiple" else table.lr
    factors = multipliers(table.clusters, options.draws, np.random.default_rng([options.seed, 5]))
    names, curves = kind_names(table), []
    for (_, fraction, N, D), cell in grouped(cell_keys(table)).items():
        rows = _alike(table, cell[np.isfinite(x[cell])], x)
        tried, at = np.unique(x[rows], return_inverse=True)
        if len(tried) < LEAST_RATES:
            continue
        draws = of_cells(factors[:, rows], at, table.clusters[rows])
        curve = parabola.fit(x[rows], table.loss[rows], draws, reach=REACH, level=options.level, what="learning rate")
        curves.append(RateCurve(names[rows[0]], N, D, fraction, rows, x[rows], table.loss[rows], curve))
    if not curves:
        return None
    curves.sort(key=lambda c: (c.kind, -c.fraction, c.N, c.D))
    shifts = [_shift([curves[i] for i in indices], options) for indices in grouped([c.kind for c in curves]).values()]
    return Rates(unit, curves, [shift for shift in shifts if shift])


def longest(curves: list[RateCurve]) -> list[RateCurve]:
    """Of each size the curve trained longest, ascending in N."""
    by_size: dict[float, RateCurve] = {}
    for curve in sorted(curves, key=lambda c: (c.fraction, c.D)):
        by_size[curve.N] = curve
    return [by_size[N] for N in sorted(by_size)]


def _alike(table: RunTable, rows: NDArray[np.int64], x: Floats) -> NDArray[np.int64]:
    """Of a cell's rows those that differ in rate and seed alone: beside its lowest mean loss."""
    others = [np.nan_to_num(getattr(table, name)[rows], nan=-1.0) for name in ("weight_decay", "dropout", "batch")]
    if not len(rows) or max(np.ptp(values) for values in others) == 0:
        return rows
    keys = list(zip(*(values.tolist() for values in others), strict=True))
    lowest = {}
    for key, members in grouped(keys).items():
        means = [table.loss[rows[members]][x[rows[members]] == value].mean() for value in np.unique(x[rows[members]])]
        lowest[key] = min(means)
    best = min(lowest, key=lambda key: lowest[key])
    return rows[[key == best for key in keys]]


def _shift(curves: list[RateCurve], options: Options) -> Shift | None:
    sizes = longest(curves)
    if len(sizes) < 2:
        return None
    good = [c for c in sizes if c.fit.verdict == parabola.BRACKETED]
    unknown = (np.nan, (np.nan, np.nan))
    reason = f"the optimum is bracketed at {plural(len(good), 'size')} of {len(sizes)}"
    if len(good) < 2:
        return Shift(curves[0].kind, sizes[0], sizes[-1], *unknown, words.missing(reason))
    small, large = good[0], good[-1]
    assert small.fit.turns is not None and large.fit.turns is not None
    draws = (large.fit.turns[:, 0] - small.fit.turns[:, 0]) / np.log(2)
    value, failed = float(np.log2(large.fit.optimum / small.fit.optimum)), float(np.isnan(draws).mean())
    low, high = interval(draws, options.level)
    verdict = words.shift((low, high), failed, options)
    if (small.N, large.N) != (sizes[0].N, sizes[-1].N):  # the sizes tried reach further than what is said of them
        verdict = verdict.also(reason)
    return Shift(small.kind, small, large, value, (low, high), verdict)


def to_json(rates: Rates | None) -> dict[str, Any] | None:
    """{unit, curves: [{kind, N, D, fraction, verdict, reason, optimum, interval, loss, rates}], shifts: [...]}."""
    if rates is None:
        return None
    curves = [
        {
            "kind": c.kind,
            "N": c.N,
            "D": c.D,
            "fraction": c.fraction,
            "rates": np.unique(c.x),
            "verdict": c.fit.verdict,
            "reason": c.fit.reason,
            "optimum": c.fit.optimum,
            "interval": c.fit.optimum_interval,
            "loss": c.fit.lowest,
            "failed_draws": c.fit.failed,
        }
        for c in rates.curves
    ]
    shifts = [
        {
            "kind": s.kind,
            "from_N": s.small.N,
            "to_N": s.large.N,
            "factors_of_two": s.value,
            "interval": s.interval,
            **s.verdict._asdict(),
        }
        for s in rates.shifts
    ]
    return {"unit": rates.unit, "curves": curves, "shifts": shifts}
