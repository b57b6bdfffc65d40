"""Lines through the optima of the bracketed budgets: N_opt(C), D_opt(C) and L(C)."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import special

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, normal_quantile, spread
from ehr_scaling.analysis.isoflop.isoflop import BudgetFit
from ehr_scaling.analysis.isoflop.parabola import BRACKETED, LOPSIDED, MISFIT
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.small_sample import moderated
from ehr_scaling.analysis.wording import power
from ehr_scaling.analysis.words import Place, Verdict

GAMMAS = np.geomspace(0.01, 3.0, 400)
FLOOR_CHI2 = 3.84  # 5 % point of chi-square with one degree of freedom


class Freedom(NamedTuple):
    """each: [points] degrees of freedom of the variance of each. most: of all together, which may share some."""

    each: Floats
    most: float


@dataclass(frozen=True)
class PowerLaw:
    """y = E + exp(log_k) (C / C0)^exponent, with E = 0 unless a floor was identified.

    draws: [draws, 3] log_k, exponent, E; NaN rows are failed draws (too many budgets lost their vertex, see
    `needed`), their share is `failed`.
    misfit: the factor by which the draws were widened because the points scatter about the line more than their own
    intervals allow (the Birge ratio, never below 1).
    C: [points] budgets under the law, ascending. windows: the exponents that other windows give (`windows.lines`).
    """

    name: str
    C: Floats
    C0: float
    log_k: float
    exponent: float
    floor: float
    draws: Floats
    interval: tuple[float, float]
    failed: float
    misfit: float
    verdict: Verdict
    windows: dict[str, float] = field(default_factory=dict)

    def __call__(self, C: Floats) -> Floats:
        """The law at FLOPs C, any shape."""
        return self.floor + np.exp(self.log_k + self.exponent * np.log(np.asarray(C) / self.C0))

    def band(self, C: Floats, level: float) -> tuple[Floats, Floats]:
        """Low and high of the law at C [m], from the draws that did not fail."""
        good = self.draws[np.isfinite(self.draws).all(1)]
        if len(good) < 20:
            return np.full(np.shape(C), np.nan), np.full(np.shape(C), np.nan)
        values = good[:, 2:] + np.exp(good[:, :1] + good[:, 1:2] * np.log(np.atleast_1d(C) / self.C0))
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def word(self, C: float) -> Verdict:
        """As of the law between the bracketed budgets, extrapolated beyond them."""
        seen = (float(self.C[0]), float(self.C[-1])) if len(self.C) else (np.nan, np.nan)
        return words.at(self.verdict, Place(C, seen, "FLOPs", power))


def fit(budgets: list[BudgetFit], options: Options) -> dict[str, PowerLaw]:
    """N_opt, D_opt and L over the bracketed budgets.

    With fewer than two the laws hold NaN and the verdict says why; nothing is left out silently.
    In a bootstrap draw a budget that lost its vertex is left out of that draw's line; a draw left with fewer than
    `needed` of them has failed, for all three laws. Where more than options.misfits of the budgets contradict their
    parabola the laws are unidentified: what is left of them was found by the same too wide a curve.
    """
    used = [b for b in budgets if b.verdict == BRACKETED]
    C = np.array([b.C for b in used])
    if len(used) < 2:
        seen = ", ".join(sorted({b.verdict for b in budgets} - {BRACKETED}))
        others = f" (others: {seen})" if seen else ""
        reason = f"{len(used)} of {len(budgets)} budgets are bracketed{others}; a line needs two, better three"
        return {name: _nothing(name, C, words.missing(reason)) for name in ("N", "D", "L")}
    cube = np.stack([b.draws for b in used if b.draws is not None], 1)  # [draws, points, 3]
    cube[np.isfinite(cube[:, :, 0]).sum(1) < needed(len(used))] = np.nan
    failed = float(np.isnan(cube[:, :, 0]).all(1).mean()) if len(cube) else np.nan
    laws = {}
    centre = np.array([[np.log(b.N), np.log(b.D), b.L] for b in used])
    factor = np.array([b.width.factor[[0, 0, 1]] for b in used])
    told = centre + (cube - centre) * factor
    told[:, :, 2] += np.stack([b.shift for b in used if b.shift is not None], 1)
    # Points weigh as their own residuals say, of many together.
    inflation = np.array([b.small.inflation[[0, 0, 1]] for b in used])
    cube = centre + (cube - centre) / np.sqrt(inflation)
    own_freedom, own_of_loss = np.array([b.small.freedom for b in used]).T
    most = sum(b.freedom for b in used) or np.inf
    freedom = Freedom(np.array([b.width.freedom[0] for b in used]), most)
    of_loss = Freedom(np.array([b.width.freedom[1] for b in used]), most)
    # The same for N and D, so that a + b keeps its meaning
    weight = weights(cube[:, :, 0], np.array([b.resolution for b in used]), own_freedom)
    for k, name in enumerate(("N", "D")):
        y = np.log([getattr(b, name) for b in used])
        laws[name] = _line(name, C, y, told[:, :, k], weight, freedom, failed, options)
    lowest = np.array([b.L for b in used])
    laws["L"] = _loss_law(C, lowest, told[:, :, 2], cube[:, :, 2], own_of_loss, of_loss, failed, options)
    return {name: replace(law, verdict=_shaped(law.verdict, budgets, used, options)) for name, law in laws.items()}


def _shaped(verdict: Verdict, budgets: list[BudgetFit], used: list[BudgetFit], options: Options) -> Verdict:
    """The verdict again, seen what shapes the profiles have."""
    lopsided = sum(b.lopsided <= LOPSIDED for b in used)
    shaped = words.shapes(
        verdict,
        budgets=len(budgets),
        misfits=sum(b.verdict == MISFIT or b.doubtful for b in budgets),
        bracketed=len(used),
        thin=sum(b.thin for b in used),
        options=options,
    )
    if shaped is not verdict or 2 * lopsided < len(used):
        return shaped
    return verdict.also(
        f"{lopsided} of {len(used)} profiles are lopsided, which moves a parabola's vertex: compare isoflop=akima"
    )


def needed(points: int) -> int:
    """How many of `points` vertices a draw must keep: all of two or three, else three quarters and at least three."""
    return max(min(points, 3), int(np.ceil(0.75 * points)))


def weights(draws: Floats, resolution: Floats | float = 0.0, freedom: Floats | float = np.inf) -> Floats:
    """1 / variance of each point [points] from its draws [draws, points].

    resolution: [points] the least standard deviation of each, known beforehand. freedom: [points] degrees of freedom
    that each spread was estimated with.

    A spread read off a handful of runs is itself uncertain,
    and a line weighted by such spreads follows whatever points lie smoothly by accident: it scattered more than an
    unweighted one, and more than its draws, which hold the weights fixed, could know. So spreads are `moderated`, and
    no point counts as more than four times as sharp as the median one.
    """
    if np.isfinite(draws).sum(0).min() < 20:
        return np.ones(draws.shape[1])
    sd = np.sqrt(moderated(spread(draws) ** 2, np.broadcast_to(freedom, draws.shape[1])))
    least = np.maximum(resolution, max(float(np.median(sd)) / 4, 1e-12))
    return np.maximum(sd, least) ** -2.0


def _line(
    name: str,
    C: Floats,
    y: Floats,
    draws: Floats,
    weight: Floats,
    freedom: Freedom,
    failed: float,
    options: Options,
) -> PowerLaw:
    x = np.log(C)
    centre = float((weight * x).sum() / weight.sum())
    u = x - centre
    log_k, exponent = (float(v[0]) for v in _straight(u, y[None], weight))
    misfit = _birge(y - log_k - exponent * u, weight, len(C) - 2)
    levels, slopes = _straight(u, draws, weight)
    # Widened about the estimate, which keeps any skew of the draws.
    # Of a slope, point i has the part (weight u)² variance = weight u².
    wider = misfit * _student(weight * u * u, freedom, options.level)
    sample = np.column_stack(
        [log_k + wider * (levels - log_k), exponent + wider * (slopes - exponent), np.zeros(len(draws))]
    )
    sample[np.isnan(levels)] = np.nan
    bounds = interval(sample[:, 1], options.level)
    verdict = _judge(bounds, failed, len(C), misfit, options)
    return PowerLaw(name, C, float(np.exp(centre)), log_k, exponent, 0.0, sample, bounds, failed, misfit, verdict)


def _student(part: Floats, freedom: Freedom, level: float) -> float:
    """How much wider Student's interval is than the normal one, of a sum whose variance has these parts [points]
    (Satterthwaite 1946, Biometrics Bulletin 2:110)."""
    if np.isinf(freedom.each).all():
        return 1.0
    together = min(float(part.sum() ** 2 / max(float((part**2 / freedom.each).sum()), 1e-300)), freedom.most)
    return float(special.stdtrit(together, (1 + level) / 2)) / normal_quantile(level)


def _straight(u: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted lines through y [fits, points] at u [points], NaN points left out: levels at u = 0 and slopes [fits]."""
    there = np.isfinite(y)
    w = np.where(there, weight, 0.0)
    y = np.where(there, y, 0.0)
    s0, s1, s2 = w.sum(1), w @ u, w @ (u * u)
    t0, t1 = (w * y).sum(1), (w * y) @ u
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = s0 * s2 - s1 * s1
        level, slope = (s2 * t0 - s1 * t1) / determinant, (s0 * t1 - s1 * t0) / determinant
    empty = there.sum(1) < 2
    return np.where(empty, np.nan, level), np.where(empty, np.nan, slope)


def _judge(bounds: tuple[float, float], failed: float, points: int, misfit: float, options: Options) -> Verdict:
    verdict = words.exponent(bounds, failed, points, options)
    if misfit < 2:
        return verdict
    return verdict.also(
        f"the optima scatter about the law {misfit:.1f} times wider than their own intervals: its form may be wrong"
    )


def _birge(residual: Floats, weight: Floats, freedom: int) -> float:
    """sqrt(chi2 / degrees of freedom), at least 1; 1 where nothing is left to judge by (Birge 1932)."""
    if freedom < 1:
        return 1.0
    return max(1.0, float(np.sqrt((weight * residual**2).sum() / freedom)))


def _loss_law(
    C: Floats,
    y: Floats,
    draws: Floats,
    own_draws: Floats,
    own_freedom: Floats,
    freedom: Freedom,
    failed: float,
    options: Options,
) -> PowerLaw:
    """L(C) = k C^-γ, or E + k C^-γ where at least four budgets tell the floor from none (chi-square, 5 %).

    own_draws, own_freedom: draws and freedom that the weights are from.
    """
    weight = weights(own_draws, freedom=own_freedom)
    logs, of_logs = (np.log(np.where(d > 0, d, np.nan)) for d in (draws, own_draws))
    floorless = _line("L", C, np.log(y), logs, weights(of_logs, freedom=own_freedom), freedom, failed, options)
    if len(C) < 4:
        return floorless
    C0 = float(np.exp(np.log(C).mean()))
    u = np.log(C / C0)
    best, chi2 = floored(u, y[None], weight)
    pure = float((weight * (y - floorless(C)) ** 2).sum())
    if not best[0, 2] > 0 or pure - chi2[0] < FLOOR_CHI2:
        return floorless
    misfit = _birge(y - best[0, 2] - np.exp(best[0, 0] + best[0, 1] * u), weight, len(C) - 3)
    # A vertex that a draw lost stands at its estimate there: a floor needs every point.
    kept = np.isfinite(draws).any(1)
    filled = np.where(np.isfinite(draws), draws, y)
    sample = np.full((len(draws), 3), np.nan)
    wider = misfit * _student(weight * (u - u @ weight / weight.sum()) ** 2, freedom, options.level)
    sample[kept] = floored(u, y + wider * (filled[kept] - y), weight)[0]
    bounds = interval(sample[:, 1], options.level)
    verdict = _judge(bounds, failed, len(C), misfit, options)
    log_k, exponent, floor = (float(v) for v in best[0])
    return PowerLaw("L", C, C0, log_k, exponent, floor, sample, bounds, failed, misfit, verdict)


def floored(u: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted least squares of E + k exp(-γ u), E >= 0, k > 0, γ from a grid of 400 with E and k in closed form.

    u: [points]. y: [fits, points]. Returns: [fits, 3] of log k, -γ, E; and chi2 [fits].
    """
    g = np.exp(-GAMMAS[:, None] * u)
    total = weight.sum()
    mean, level = g @ weight / total, y @ weight / total
    centred, apart = g - mean[:, None], y - level[:, None]
    k = (apart @ (weight * centred).T) / (centred**2 @ weight)
    floor = level[:, None] - k * mean
    bare = (y @ (weight * g).T) / (g**2 @ weight)
    held = floor > 0
    # What the squares of a line through the mean, or through zero, leave over.
    chi2 = np.where(
        held,
        (apart**2 @ weight)[:, None] - k**2 * (centred**2 @ weight),
        (y**2 @ weight)[:, None] - bare**2 * (g**2 @ weight),
    )
    k, floor = np.where(held, k, bare), np.where(held, floor, 0.0)
    best = np.where(k > 0, chi2, np.inf).argmin(1)[:, None]
    k, floor, gamma = (np.take_along_axis(v, best, 1)[:, 0] for v in (k, floor, np.broadcast_to(GAMMAS, k.shape)))
    lost = ~(k > 0)
    # Once more from the residuals, which keep the digits that differences of sums lose.
    left = (weight * (y - floor[:, None] - k[:, None] * g[best[:, 0]]) ** 2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.stack([np.log(k), -gamma, floor], 1)
    out[lost] = np.nan
    return out, np.where(lost, np.inf, left)


def _nothing(name: str, C: Floats, verdict: Verdict) -> PowerLaw:
    nan = float("nan")
    return PowerLaw(name, C, nan, nan, nan, nan, np.full((0, 3), nan), (nan, nan), nan, 1.0, verdict)
