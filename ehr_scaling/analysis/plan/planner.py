"""Which model to train with the patients and the compute there are, and what it will reach.

A planner is what a report knows for that: the forecaster of its table, what a parameter and token cost, how many tokens
a patient has. It is written into laws.json (`plan_basis`), so that `launch.plan` and the panel of the report
(planner.js, which computes the same) answer without the runs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, ends, normal_quantile
from ehr_scaling.analysis.joint.optimum import optimum
from ehr_scaling.analysis.outcomes import sigmoid
from ehr_scaling.analysis.plan import plan_words
from ehr_scaling.analysis.plan.plan_words import ISOFLOP, JOINT_LAW, TOLERANCE
from ehr_scaling.analysis.plan.record import ENOUGH, LIMITS, NO_LIMIT, NOT_TOLD, Plan, Planner, repeated_loss
from ehr_scaling.analysis.words import Place, doubted
from ehr_scaling.errors import UserError

GRID = 3000  # sizes among which a plan is sought
REACH = (0.1, 1e4)  # of the sizes of the runs, smallest and largest
BAND = 0.005  # of the lowest loss: what a plan calls near-optimal


class Data(NamedTuple):
    """What a plan may draw on: positions of one pass, and how many passes at most."""

    unique: float
    most: float

    @property
    def cap(self) -> float:
        return self.unique * self.most


class Limits(NamedTuple):
    """Unique tokens that a plan may draw on, and passes over them; infinite for no limit."""

    unique_tokens: float
    most_passes: float


def limits(
    known: Planner,
    patients: float | None = None,
    unique_tokens: float | None = None,
    most_passes: float | None = None,
    *,
    flag: str = "",
) -> Limits:
    """Of so many patients, or so many unique tokens; by default those of the runs, as is the most passes, and no limit
    where the runs do not say.

    flag: what stands before a name where it is given. Raises: UserError for numbers that are none, patients beside
    tokens, and patients of whom the runs do not say how many tokens each has.
    """
    names = {"patients": patients, "unique_tokens": unique_tokens, "most_passes": most_passes}
    if wrong := [name for name, value in names.items() if value is not None and not value > 0]:
        raise UserError(f"{flag}{wrong[0]}={names[wrong[0]]:g}: give a number above 0")
    if patients is not None and unique_tokens is not None:
        raise UserError(f"give {flag}patients or {flag}unique_tokens, not both")
    tokens = known.unique_tokens if unique_tokens is None else unique_tokens
    if patients is not None:
        tokens = patients * known.tokens_a_patient if np.isfinite(patients) else np.inf
        if np.isnan(tokens):
            raise UserError(f"the runs do not say how many tokens a patient has: give {flag}unique_tokens")
    passes = np.maximum(known.seen["passes"][1], 1.0) if most_passes is None else most_passes
    return Limits(*(np.inf if np.isnan(value) else float(value) for value in (tokens, passes)))


def plan(known: Planner, C: float, unique_tokens: float, most_passes: float, tolerance: float = TOLERANCE) -> Plan:
    """Args: C, FLOPs; unique_tokens of the patients there are; most_passes over them that are allowed (> 0); both may
    be infinite, for no limit."""
    data = Data(unique_tokens * known.positions, most_passes)
    N = _grid(known)
    best, losses, D = _best(known, C, data, N)
    batch = _at(known.batch, D[best])
    factor = known.factor(N[best], D[best], data.unique)
    point = np.array([N[best]]), np.array([D[best]])
    loss = float(known.forecaster.law(*point)[0] * factor)
    in_running = zip(known.forecaster.rolling.close, known.forecaster.laws, strict=True)
    laws = {name: float(law(N[best], D[best]) * factor) for name, law in in_running}
    near = N[losses <= losses[best] * (1 + BAND)]
    word, worth = _more_patients(known, C, data, N, float(D[best]))
    ways = _ways(known, C)
    draft = Plan(
        C=C,
        unique_tokens=unique_tokens,
        most_passes=most_passes,
        N=float(N[best]),
        D=float(D[best]),
        loss=loss,
        loss_interval=_interval(known, N[best], D[best], C, data.unique),
        N_interval=_optima(known, C, data, N, float(N[best])),
        ways=ways,
        band=(float(near[0]), float(near[-1])),
        laws=laws,
        data=word,
        patients_are_worth=worth,
        passes=float(D[best] / data.unique),
        feeds=_feeds(known, data, N),
        batch=batch,
        rate=_at(known.rate, N[best], batch),
        outcomes={},
        words={},
    )
    draft = replace(draft, words=plan_words.of(known, draft))
    outcomes = {o["task"]: _outcome(o, draft, known.forecaster.options.level) for o in known.outcomes}
    at_the_end = best in (0, GRID - 1)
    draft = replace(draft, outcomes=outcomes, refused=plan_words.refusals(known, draft, at_the_end, tolerance))
    return doubted(draft, known.doubt) if known.doubt else draft


def _grid(known: Planner) -> Floats:
    low, high = known.seen["N"]
    return np.geomspace(low * REACH[0], high * REACH[1], GRID)


def _tokens(known: Planner, C: float, cap: float, N: Floats) -> Floats:
    return np.minimum(known.cost.tokens(N, C), cap)


def _takes_all(tokens: float, cap: float, N: Floats) -> bool:
    """Whether tokens are all that there are: as near as the steps of the grid allow."""
    return bool(tokens >= cap * N[0] / N[1])


def _best(known: Planner, C: float, data: Data, N: Floats) -> tuple[int, Floats, Floats]:
    """Index of the best size of the grid, losses [GRID] and tokens [GRID] at all."""
    D = _tokens(known, C, data.cap, N)
    losses = known.sizing.law(N, D) * known.factor(N, D, data.unique)
    return int(losses.argmin()), losses, D


def _interval(known: Planner, N: float, D: float, C: float, unique: float) -> tuple[float, float]:
    """Of the loss: the forecaster's; inside the runs half of what laws about as good say otherwise, as the forecaster
    has it beyond; and what the draws of the law of repeats say otherwise. They add up as squares."""
    point = np.array([N]), np.array([D])
    forecast = known.forecaster(*point, np.array([C]), noise=False)
    loss, low, high = (float(v[0]) for v in forecast)
    factor, reach = float(known.factor(*point, unique)[0]), np.zeros(2)
    if known.repeats is not None:
        unique_of_runs = known.repeats["unique"]
        drawn = [
            float(np.log(repeated_loss(p, N, D, unique) / repeated_loss(p, N, D, unique_of_runs)))
            for p in known.repeats["draws"]
        ]
        reach = ends(np.array(drawn), known.forecaster.options.level) - np.log(factor)
    inside = 0.0
    if known.forecaster.top >= C:
        apart = [abs(float(np.log(law(*point)[0] / loss))) for law in known.forecaster.laws[1:]]
        inside = normal_quantile(known.forecaster.options.level) * max(apart, default=0.0) / 2
    below = np.sqrt(np.log(loss / low) ** 2 + reach[0] ** 2 + inside**2)
    above = np.sqrt(np.log(high / loss) ** 2 + reach[1] ** 2 + inside**2)
    return float(loss * factor * np.exp(-below)), float(loss * factor * np.exp(above))


def _ways(known: Planner, C: float) -> dict[str, tuple[float, float, float]]:
    """N* at C FLOPs and its interval by either way that has one, without any limit of data."""
    level = known.forecaster.options.level
    best = optimum(known.sizing.law, C, known.cost)
    low, middle, high = map(float, np.exp(known.sizing.line_at(C, level)))
    ways = {JOINT_LAW: (best.N, *best.interval("N", level)), ISOFLOP: (middle, low, high)}
    return {name: way for name, way in ways.items() if np.isfinite(way).all()}


def _optima(known: Planner, C: float, data: Data, N: Floats, best: float) -> tuple[float, float]:
    """About the best size: all that the draws of the law, the other laws and the line through the IsoFLOP optima say of
    it, and beyond the runs how far best sizes were off in simulated studies, each decade further."""
    level, laws = known.forecaster.options.level, known.sizing.laws
    D = _tokens(known, C, data.cap, N)
    factor = known.factor(N, D, data.unique)
    draws = laws[0].sample(N, D) * factor
    if len(draws) < 20:
        return np.nan, np.nan
    log_sizes = [*ends(np.log(N[draws.argmin(1)]), level)]
    log_sizes += [np.log(N[(law(N, D) * factor).argmin()]) for law in laws[1:]]
    if known.sizing.line is not None and (known.repeats is None or data.unique == known.repeats["unique"]):
        fewest = np.log(N[np.argmax(known.cost.tokens(N, C) <= data.cap)])  # the data have no more tokens to give
        low, _, high = known.sizing.line_at(C, level)
        log_sizes += [max(low, fewest), max(high, fewest)]
    further = normal_quantile(level) * known.size_drift * max(np.log10(C / known.forecaster.top), 0.0)
    below, above = np.hypot([np.log(best) - min(log_sizes), max(log_sizes) - np.log(best)], further)
    return float(best * np.exp(-below)), float(best * np.exp(above))


def _more_patients(known: Planner, C: float, data: Data, N: Floats, D: float) -> tuple[str, float]:
    """What twice the patients do at this compute, and the factor of compute that does the same.

    Tokens that are new cost nothing; of tokens seen again only a law of repeats tells what they cost.
    """
    if not np.isfinite(data.cap if known.repeats is None else data.unique):
        return NO_LIMIT, np.nan
    worth = _worth(known, C, data, N)
    if worth > 1:
        return LIMITS, worth
    new = data.unique >= D and known.seen["passes"][1] <= 1
    return (ENOUGH, 1.0) if known.repeats is not None or new else (NOT_TOLD, np.nan)


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
    if not np.isfinite(data.cap):
        return {"N": np.nan, "C": np.nan}
    least = known.cost.flops.min() * N[0]  # one token through the smallest

    def takes_all(factor: float) -> bool:
        best, _, D = _best(known, least * factor, data, N)
        return best > 0 and _takes_all(D[best], data.cap, N)

    C = least * _bisect(takes_all, known.cost.flops.max() * N[-1] * data.cap / least)
    if not np.isfinite(C):
        return {"N": np.nan, "C": np.nan}
    return {"N": float(N[_best(known, C, data, N)[0]]), "C": float(C)}


def _outcome(curve: dict[str, Any], plan: Plan, level: float) -> dict[str, Any]:
    """AUROC at the plan's loss. Its interval holds what the loss may be, the draws of the curve, the noise of a model
    about it by Student's t, and beyond the losses seen half of what forms about as good say otherwise; each its own, so
    that the reaches add up as squares."""

    def auroc(theta: Any, loss: float, floor: float) -> Floats:
        a, b, c = np.atleast_2d(np.asarray(theta, np.float64)).T
        return sigmoid.at(np.array((loss - curve["centre"]) / curve["spread"]), a, b, c, floor)

    curve_floor = curve["floor"]
    central = float(auroc(curve["theta"], plan.loss, curve_floor)[0])
    by_loss = sorted(float(auroc(curve["theta"], loss, curve_floor)[0]) - central for loss in plan.loss_interval)
    by_draws = ends(auroc(curve["draws"], plan.loss, curve_floor), level) - central
    low, high = curve["losses"]
    seen = low <= plan.loss <= high
    apart = [abs(float(auroc(theta, plan.loss, floor)[0]) - central) for floor, *theta in curve["others"]]
    forms = 0.0 if seen else normal_quantile(level) * max(apart, default=0.0) / 2
    reach = np.sqrt(np.square(by_loss) + by_draws**2 + curve["noise_reach"] ** 2 + forms**2)
    word = words.at(plan.words["loss"], Place(plan.loss, (low, high), "nats of loss"), slack=1.0).word
    return {
        "auroc": central,
        "interval": (max(central - float(reach[0]), 0.0), min(central + float(reach[1]), 1.0)),
        "word": word,
    }


def _at(coefficients: list[float] | None, *of: float) -> float:
    if coefficients is None:
        return np.nan
    return float(np.exp(coefficients[0] + sum(c * np.log(x) for c, x in zip(coefficients[1:], of, strict=True))))
