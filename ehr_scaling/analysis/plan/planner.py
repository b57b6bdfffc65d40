"""Which model to train with the patients and the compute there are, and what it will reach.

A planner is what a report knows for that: the forecaster of its table, what a parameter and token cost, how many tokens
a patient has. It is written into laws.json (`plan_basis`), so that `launch.plan` and the panel of the report
(planner.js, which computes the same) answer without the runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.analysis.forecast.extrapolation import Forecaster
from ehr_scaling.analysis.outcomes import sigmoid
from ehr_scaling.analysis.repeats import effective_data
from ehr_scaling.analysis.uncertainty import (
    DOUBTFUL,
    EXTRAPOLATED,
    SUPPORTED,
    UNIDENTIFIED,
    Floats,
    Verdict,
    doubted,
    ends,
    normal_quantile,
)
from ehr_scaling.analysis.wording import count, decimal, percent, significant

GRID = 3000  # sizes among which a plan is sought
REACH = (0.1, 1e4)  # of the sizes of the runs, smallest and largest
BAND = 0.005  # of the lowest loss: what a plan calls near-optimal
TOLERANCE = 0.02  # by which laws nearly as good may disagree about the loss
WIDE = 10.0  # a size whose interval spans more than this factor is not told


@dataclass(frozen=True)
class Planner:
    """What a table of runs knows for planning.

    sizes, flops: [s] body parameters of the runs, and operations for each parameter and token at them (C / (N D)).
    seen: ends of N, D, C and passes of the runs. patients, unique_tokens: of the training data, NaN where not known.
    outcomes: JSON, one each whose AUROC follows the loss: {task, floor, centre, spread, theta: a, b, c of `sigmoid`,
    draws of it, noise: standard deviation of a model about the curve, losses: ends of those seen}.
    positions: processed for each unique token of a pass (padding), so that D positions are D / (U positions) passes.
    repeats: JSON, the law of repeated data where one is told: {law, parameters, draws: of them, unique: positions of a
    pass of the runs}; None where passes count as new tokens, as far as the runs made passes.
    batch: tokens a step = exp(c0) D^c1. rate: peak learning rate = exp(c0) N^c1 batch^c2. Both None where not recorded.
    """

    forecaster: Forecaster
    sizes: Floats
    flops: Floats
    seen: dict[str, tuple[float, float]]
    patients: float
    unique_tokens: float
    positions: float
    batch: list[float] | None
    rate: list[float] | None
    outcomes: list[dict[str, Any]]
    repeats: dict[str, Any] | None = None

    @property
    def tokens_a_patient(self) -> float:
        return self.unique_tokens / self.patients

    def factor(self, N: Floats, D: Floats, unique: float) -> Floats:
        """What the loss at N and D is with data of so many positions a pass, over that with those of the runs."""
        if self.repeats is None:
            return np.ones(np.broadcast_shapes(np.shape(N), np.shape(D)))
        own = self.repeats["parameters"]
        return repeated_loss(own, N, D, unique) / repeated_loss(own, N, D, self.repeats["unique"])

    def flops_at(self, N: Floats) -> Floats:
        """Operations for each parameter and token at N, interpolated in log N; beyond the runs as at their end."""
        return np.exp(np.interp(np.log(N), np.log(self.sizes), np.log(self.flops)))


@dataclass(frozen=True)
class Plan:
    """What to train with C FLOPs and data of `unique_tokens`, and what it will reach.

    refused: why none of it should be acted on; empty where it may be. words: of "N" and "loss". band: sizes whose loss
    is within BAND of the lowest. laws: {candidate: loss} of those in the running. limited: whether more patients would
    allow a better use of this compute. patients_are_worth: the factor of compute that lowers the loss as much as twice
    the patients do (inf: none does; 1: nothing). feeds: size and compute at which these data suffice for the best use.
    outcomes: {task: {auroc, interval, word}}.
    """

    C: float
    unique_tokens: float
    most_passes: float
    N: float
    D: float
    loss: float
    loss_interval: tuple[float, float]
    N_interval: tuple[float, float]
    band: tuple[float, float]
    laws: dict[str, float]
    limited: bool
    patients_are_worth: float
    passes: float
    feeds: dict[str, float]
    batch: float
    rate: float
    outcomes: dict[str, dict[str, Any]]
    words: dict[str, Verdict]
    refused: list[str] = field(default_factory=list)


class Data(NamedTuple):
    """What a plan may draw on: positions of one pass, and how many passes at most."""

    unique: float
    most: float

    @property
    def cap(self) -> float:
        return self.unique * self.most


def repeated_loss(p: dict[str, float], N: Any, D: Any, U: float) -> Floats:
    """Loss at N and D positions over U unique ones by the parameters of a law of repeated data, in natural units.

    With R_D, R_N that of effective data (`effective_data.effective`), else with the over-fit penalty P R^δ (N/U)^κ of
    arXiv 2605.01640.
    """
    if "R_D" in p:
        N, D = effective_data.effective(N, D, np.asarray(U), p, p["R_D"], p["R_N"])
        return np.asarray(p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * D ** -p["beta"])
    repeats = np.maximum(np.asarray(D) / U - 1, 0.0)
    penalty = p["P"] * repeats ** p["delta"] * (np.asarray(N) / U) ** p["kappa"]
    return np.asarray(p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * D ** -p["beta"] + penalty)


def plan(known: Planner, C: float, unique_tokens: float, most_passes: float, tolerance: float = TOLERANCE) -> Plan:
    """Args: C, FLOPs; unique_tokens of the patients there are; most_passes over them that are allowed (> 0)."""
    data = Data(unique_tokens * known.positions, most_passes)
    N = _grid(known)
    best, losses, D = _best(known, C, data, N)
    batch = _at(known.batch, D[best])
    factor = known.factor(N[best], D[best], data.unique)
    in_running = zip(known.forecaster.rolling.close, known.forecaster.laws, strict=True)
    near = N[losses <= losses[best] * (1 + BAND)]
    made = Plan(
        C=C,
        unique_tokens=unique_tokens,
        most_passes=most_passes,
        N=float(N[best]),
        D=float(D[best]),
        loss=float(losses[best]),
        loss_interval=_interval(known, N[best], D[best], C, data.unique),
        N_interval=_optima(known, C, data, N),
        band=(float(near[0]), float(near[-1])),
        laws={name: float(law(N[best], D[best]) * factor) for name, law in in_running},
        limited=_takes_all(D[best], data.cap, N),
        patients_are_worth=_worth(known, C, data, N),
        passes=float(D[best] / data.unique),
        feeds=_feeds(known, data, N),
        batch=batch,
        rate=_at(known.rate, N[best], batch),
        outcomes={},
        words={},
    )
    made = replace(made, words=_words(known, made))
    made = replace(
        made, outcomes={o["task"]: _outcome(o, made, known.forecaster.options.level) for o in known.outcomes}
    )
    made = replace(made, refused=_refusals(known, made, best in (0, GRID - 1), tolerance))
    law = known.forecaster.law.verdict
    return doubted(made, law.reason) if law.word == DOUBTFUL else made


def _grid(known: Planner) -> Floats:
    low, high = known.seen["N"]
    return np.geomspace(low * REACH[0], high * REACH[1], GRID)


def _tokens(known: Planner, C: float, cap: float, N: Floats) -> Floats:
    return np.minimum(C / (known.flops_at(N) * N), cap)


def _takes_all(tokens: float, cap: float, N: Floats) -> bool:
    """Whether tokens are all that there are: as near as the steps of the grid allow."""
    return bool(tokens >= cap * N[0] / N[1])


def _best(known: Planner, C: float, data: Data, N: Floats) -> tuple[int, Floats, Floats]:
    """Index of the best size of the grid, losses [GRID] and tokens [GRID] at all."""
    D = _tokens(known, C, data.cap, N)
    losses = known.forecaster.law(N, D) * known.factor(N, D, data.unique)
    return int(losses.argmin()), losses, D


def _interval(known: Planner, N: float, D: float, C: float, unique: float) -> tuple[float, float]:
    """Of the loss: the forecaster's, and what the draws of the law of repeats say otherwise, added up as squares."""
    point = np.array([N]), np.array([D])
    found = known.forecaster(*point, np.array([C]), noise=False)
    loss, low, high = (float(v[0]) for v in found)
    factor, reach = float(known.factor(*point, unique)[0]), np.zeros(2)
    if known.repeats is not None:
        own = known.repeats["unique"]
        drawn = [
            float(np.log(repeated_loss(p, N, D, unique) / repeated_loss(p, N, D, own))) for p in known.repeats["draws"]
        ]
        reach = ends(np.array(drawn), known.forecaster.options.level) - np.log(factor)
    below, above = np.hypot(np.log(loss / low), reach[0]), np.hypot(np.log(high / loss), reach[1])
    return float(loss * factor * np.exp(-below)), float(loss * factor * np.exp(above))


def _optima(known: Planner, C: float, data: Data, N: Floats) -> tuple[float, float]:
    """Interval of the best size over the draws of the law."""
    D = _tokens(known, C, data.cap, N)
    losses = known.forecaster.law.sample(N, D) * known.factor(N, D, data.unique)
    if len(losses) < 20:
        return np.nan, np.nan
    low, high = ends(np.log(N[losses.argmin(1)]), known.forecaster.options.level)
    return float(np.exp(low)), float(np.exp(high))


def _lowest(known: Planner, C: float, data: Data, N: Floats) -> float:
    return float(_best(known, C, data, N)[1].min())


def _worth(known: Planner, C: float, data: Data, N: Floats) -> float:
    """The factor of compute that lowers the loss as much as twice the data at the same compute."""
    target = _lowest(known, C, data._replace(unique=2 * data.unique), N)
    if target >= _lowest(known, C, data, N) * (1 - 1e-9):
        return 1.0
    return _bisect(lambda factor: _lowest(known, C * factor, data, N) <= target, 1e6)


def _bisect(enough: Callable[[float], bool], most: float) -> float:
    """The least factor from 1 to `most` that is enough, to 0.1 %; inf where none is."""
    if not enough(most):
        return np.inf
    low, high = 0.0, float(np.log(most))
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(float(np.exp(middle))) else (middle, high)
    return float(np.exp(high))


def _feeds(known: Planner, data: Data, N: Floats) -> dict[str, float]:
    """The least compute whose best use takes all the data, and the size that goes with it."""
    least = known.flops.min() * N[0]  # one token through the smallest

    def takes_all(factor: float) -> bool:
        best, _, D = _best(known, least * factor, data, N)
        return best > 0 and _takes_all(D[best], data.cap, N)

    C = least * _bisect(takes_all, known.flops.max() * N[-1] * data.cap / least)
    if not np.isfinite(C):
        return {"N": np.nan, "C": np.nan}
    return {"N": float(N[_best(known, C, data, N)[0]]), "C": float(C)}


def _outcome(curve: dict[str, Any], made: Plan, level: float) -> dict[str, Any]:
    """AUROC at the plan's loss. Its interval holds what the loss may be, the curve's own draws and the noise of a model
    about it, each its own, so that the reaches add up as squares."""

    def auroc(theta: Any, loss: float) -> Floats:
        a, b, c = np.atleast_2d(np.asarray(theta, np.float64)).T
        return sigmoid.at(np.array((loss - curve["centre"]) / curve["spread"]), a, b, c, curve["floor"])

    central = float(auroc(curve["theta"], made.loss)[0])
    by_loss = sorted(float(auroc(curve["theta"], loss)[0]) - central for loss in made.loss_interval)
    by_draws = ends(auroc(curve["draws"], made.loss), level) - central
    noise = normal_quantile(level) * curve["noise"]
    reach = [float(np.sqrt(by_loss[k] ** 2 + by_draws[k] ** 2 + noise**2)) for k in range(2)]
    low, high = curve["losses"]
    inside = made.words["loss"].word == SUPPORTED and low <= made.loss <= high
    return {
        "auroc": central,
        "interval": (max(central - reach[0], 0.0), min(central + reach[1], 1.0)),
        "word": SUPPORTED if inside else EXTRAPOLATED,
    }


def _at(coefficients: list[float] | None, *of: float) -> float:
    if coefficients is None:
        return np.nan
    return float(np.exp(coefficients[0] + sum(c * np.log(x) for c, x in zip(coefficients[1:], of, strict=True))))


def _words(known: Planner, made: Plan) -> dict[str, Verdict]:
    beyond = []
    if made.C > known.forecaster.top * 1.01:  # noqa: SIM300
        beyond.append(f"compute {significant(made.C / known.forecaster.top, 2)} times the largest run's")
    for name, value in (("N", made.N), ("D", made.D), ("passes", made.passes)):
        low, high = known.seen[name]
        if value > high * 1.01 or (value < low * 0.99 and name != "passes"):
            beyond.append(f"{name} outside {count(low)} to {count(high)} of the runs")
    where = Verdict(EXTRAPOLATED, "; ".join(beyond)) if beyond else Verdict(SUPPORTED, "inside the runs")
    low, high = made.N_interval
    told = high <= WIDE * low
    size = where if told else Verdict(UNIDENTIFIED, f"its interval spans more than a factor of {WIDE:g}")
    return {"N": size, "loss": where}


def _refusals(known: Planner, made: Plan, at_the_end: bool, tolerance: float) -> list[str]:
    """Why a plan should not be acted on, in sentences."""
    found, beyond = known.forecaster, known.forecaster.top * 1.01 < made.C
    reasons = []
    if found.law.verdict.word == UNIDENTIFIED:
        reasons.append(f"the law is unidentified: {found.law.verdict.reason}")
    apart = max(abs(np.log(loss / made.loss)) for loss in made.laws.values())
    if apart > tolerance:
        named = ", ".join(f"{name} {decimal(loss)}" for name, loss in made.laws.items())
        reasons.append(
            f"laws that forecast the held-out runs about equally well disagree by {percent(apart, 1)} here, more than "
            f"{percent(tolerance, 1)}: {named}"
        )
    if beyond and np.isnan(found.rolling.drift):
        reasons.append("beyond the runs nothing tells how far off the law is: too few budgets to hold any out")
    if not all(map(np.isfinite, made.loss_interval)):
        reasons.append("the loss has no interval")
    if at_the_end:
        reasons.append("the best size lies further from the runs than a law can be asked")
    if made.words["N"].word == UNIDENTIFIED:
        reasons.append(f"the size is not told: {made.words['N'].reason}")
    return reasons
