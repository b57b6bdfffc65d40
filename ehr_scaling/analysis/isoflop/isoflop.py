"""IsoFLOP profiles: at each compute budget, where does the loss turn?

Approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556): loss against log N at fixed C is fitted by a parabola, whose
vertex is the optimal size. Here the parabola is local, every budget gets a verdict, and only bracketed ones go on.
Instead of it all sizes may be interpolated (`Options.isoflop`).
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats, interval, multipliers, of_cells
from ehr_scaling.analysis.isoflop import interpolation, parabola, widths
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.errors import UserError

PARABOLA, AKIMA = "parabola", "akima"
METHODS = (PARABOLA, AKIMA)


def rule(options: Options) -> str:
    """How a budget is judged, for the report."""
    window = options.window
    how = {
        PARABOLA: f"a parabola of loss in log N is {parabola.rule('size', window)}",
        AKIMA: f"Akima's interpolation of log loss in log N is {interpolation.rule('size', window)}",
    }[options.isoflop]
    return f"In each budget {how} Only bracketed budgets enter a law."


@dataclass(frozen=True, kw_only=True)
class BudgetFit(parabola.Profile):
    """One budget: the curve of loss in log N. Sizes in parameters.

    shape: the curve. C: FLOPs. rows: [n] index into the table.
    D, D_interval: tokens at the optimum. log_D: [draws] of the bootstrap.
    width: how the noise of all budgets widens the draws. told: [draws, 3] of log N*, log D*, L*, as wide as their
    intervals; shift: [draws] what seeds add to L* (`widths`).
    """

    shape: parabola.Parabola | interpolation.Interpolation
    C: float
    rows: NDArray[np.int64]
    D: float = np.nan
    D_interval: tuple[float, float] = (np.nan, np.nan)
    log_D: Floats | None = None
    width: widths.Width = field(default_factory=lambda: widths.Width(np.ones(2), np.full(2, np.inf)))
    told: Floats | None = None
    shift: Floats | None = None

    @property
    def centre(self) -> float:
        """Middle of log N; NaN where no curve was fitted."""
        return self.shape.centre

    def curve(self, N: Floats) -> Floats:
        """Loss of the curve at N, any shape."""
        return self.shape.curve(N)

    @property
    def N(self) -> float:
        return self.optimum

    @property
    def N_interval(self) -> tuple[float, float]:
        return self.optimum_interval

    @property
    def L(self) -> float:
        return self.lowest

    @property
    def L_interval(self) -> tuple[float, float]:
        return self.lowest_interval

    @property
    def sizes(self) -> int:
        return self.values

    @property
    def draws(self) -> Floats | None:
        """[draws, 3] log N*, log D*, L* of each bootstrap draw of this budget alone, NaN where the vertex left the
        grid."""
        if self.turns is None or self.log_D is None:
            return None
        return np.stack([self.turns[:, 0], self.log_D, self.turns[:, 1]], 1)


def fit(table: RunTable, options: Options) -> list[BudgetFit]:
    """One `BudgetFit` for every budget of the table, ascending in C.

    Raises: UserError for an unknown method.
    """
    if options.isoflop not in METHODS:
        raise UserError(f"isoflop={options.isoflop}: no such method, choose one of {', '.join(METHODS)}")
    rng = np.random.default_rng([options.seed, 1])
    factors = multipliers(table.clusters, options.draws, rng)
    groups = [np.flatnonzero(table.group == g) for g in range(len(table.budgets))]
    sd = np.full(len(groups), np.nan)
    if options.isoflop == AKIMA:
        noise = interpolation.noise(table.budgets, [(table.N[g], table.loss[g]) for g in groups], options.window)
        sd, factors = noise.sd, noise.uncertain(factors, rng)
    fits = [
        fit_budget(table, g, _of_sizes(table, g, factors[:, g]), options, float(s))
        for g, s in zip(groups, sd, strict=True)
    ]
    return _together(fits, table, options)


def _together(fits: list[BudgetFit], table: RunTable, options: Options) -> list[BudgetFit]:
    """The budgets with intervals that the noise of all of them, and what their seeds share, give."""
    rng = np.random.default_rng([options.seed, 16])
    uniform, normal = rng.uniform(size=options.draws), rng.standard_normal((options.draws, 1 + len(fits)))
    loss = np.array([float(np.exp(np.log(table.loss[b.rows]).mean())) for b in fits])
    effect = widths.seed_effect(table, [b.rows for b in fits])
    bent = widths.bent(fits, loss)
    out = []
    for k, (b, width) in enumerate(zip(fits, widths.moderated(fits, loss), strict=True)):
        if b.draws is None:
            out.append(b)
            continue
        chance = np.stack([uniform, normal[:, 0], normal[:, 1 + k]], 1)
        centre = np.array([np.log(b.N), np.log(b.D), b.L])
        told, shift = widths.widened(b.draws, centre, width, loss[k], effect, int(effect.seeds[k]), bent, chance)
        ends = [interval(told[:, i], options.level) for i in range(3)]
        N, D = ((parabola.exp(low), parabola.exp(high)) for low, high in ends[:2])
        out.append(
            replace(
                b,
                optimum_interval=N,
                lowest_interval=ends[2],
                D_interval=D,
                near=b.near and _as_wide(b.near, np.log(N), np.log(b.optimum_interval)),
                width=width,
                told=told,
                shift=shift,
            )
        )
    return out


def _as_wide(near: parabola.Near, now: Floats, before: Floats) -> parabola.Near:
    """The band with intervals of its ends that grow as that of log N* did."""
    ratio = np.ptp(now) / np.ptp(before) if np.ptp(before) > 0 else 1.0

    def wider(value: float, bounds: tuple[float, float]) -> tuple[float, float]:
        low, high = value * (np.array(bounds) / value) ** ratio
        return float(low), float(high)

    return near._replace(
        low_interval=wider(near.low, near.low_interval), high_interval=wider(near.high, near.high_interval)
    )


def _of_sizes(table: RunTable, rows: NDArray[np.int64], factors: Floats) -> Floats:
    """[draws, sizes] of a budget's rows [n], ascending in N."""
    return of_cells(factors, np.unique(np.log(table.N[rows]), return_inverse=True)[1], table.clusters[rows])


def fit_budget(
    table: RunTable, rows: NDArray[np.int64], factors: Floats, options: Options, sd: float = np.nan
) -> BudgetFit:
    """Fits one budget.

    rows: [n] the budget's rows. factors: [draws, sizes] of `draws.of_cells`, for Akima's interpolation of
    `interpolation.Noise.uncertain`. sd: of the mean log loss of a size, needed by that alone.
    """
    C = float(np.exp(np.log(table.C[rows]).mean()))
    N, loss = table.N[rows], table.loss[rows]
    shared: Any = {"reach": options.window, "level": options.level, "what": "size", "near": options.near}
    curve: parabola.Parabola | interpolation.Interpolation
    if options.isoflop == AKIMA:
        curve = interpolation.fit(N, loss, factors, sd, **shared)
    else:
        curve = parabola.fit(N, loss, factors, **shared)
    tokens: dict[str, Any] = {}
    if curve.turns is not None:
        sizes, at = np.unique(np.log(N), return_inverse=True)
        mean_log_D = np.bincount(at, weights=np.log(table.D[rows])) / np.bincount(at)
        log_D = np.interp(curve.turns[:, 0], sizes, mean_log_D)
        low, high = interval(log_D, options.level)
        tokens = {
            "log_D": log_D,
            "D": float(np.exp(np.interp(np.log(curve.optimum), sizes, mean_log_D))),
            "D_interval": (float(np.exp(low)), float(np.exp(high))),
        }
    profile = {field.name: getattr(curve, field.name) for field in fields(parabola.Profile)}
    return BudgetFit(**profile, shape=curve, C=C, rows=rows, **tokens)
