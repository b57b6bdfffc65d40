"""Which model to train with the patients and the compute there are, and what it will reach.

A planner is what a report knows for that: the forecaster of its table, what a parameter and token cost, how many tokens
a patient has. It is written into laws.json, so that `launch.plan` and the panel of the report (planner.js, which
computes the same) answer without the runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ehr_scaling.analysis import compute_optimal, downstream, extrapolation, sigmoid
from ehr_scaling.analysis.extrapolation import Forecaster, Rolling
from ehr_scaling.analysis.joint_laws import JointLaw
from ehr_scaling.analysis.outcome_curve import Curve
from ehr_scaling.analysis.run_table import RunTable
from ehr_scaling.analysis.uncertainty import (
    EXTRAPOLATED,
    SUPPORTED,
    UNIDENTIFIED,
    Floats,
    Options,
    Verdict,
    ends,
    normal_quantile,
)
from ehr_scaling.analysis.wording import count, decimal, percent, significant

KEPT = 200  # bootstrap draws that go into laws.json
GRID = 3000  # sizes among which a plan is sought
REACH = (0.1, 1e4)  # of the sizes of the runs, smallest and largest
BAND = 0.005  # of the lowest loss: what a plan calls near-optimal
TOLERANCE = 0.02  # by which laws nearly as good may disagree about the loss
_NOTHING = -1e3  # the logarithm of zero, which JSON lacks
WIDE = 10.0  # a size whose interval spans more than this factor is not told


@dataclass(frozen=True)
class Planner:
    """What a table of runs knows for planning.

    sizes, flops: [s] body parameters of the runs, and operations for each parameter and token at them (C / (N D)).
    seen: ends of N, D, C and passes of the runs. patients, unique_tokens: of the training data, NaN where not known.
    outcomes: JSON, one each whose AUROC follows the loss: {task, floor, centre, spread, theta: a, b, c of `sigmoid`,
    draws of it, noise: standard deviation of a model about the curve, losses: ends of those seen}.
    batch: tokens a step = exp(c0) D^c1. rate: peak learning rate = exp(c0) N^c1 batch^c2. Both None where not recorded.
    """

    forecaster: Forecaster
    sizes: Floats
    flops: Floats
    seen: dict[str, tuple[float, float]]
    patients: float
    unique_tokens: float
    batch: list[float] | None
    rate: list[float] | None
    outcomes: list[dict[str, Any]]

    @property
    def tokens_a_patient(self) -> float:
        return self.unique_tokens / self.patients

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
    feeds: dict[str, float]
    batch: float
    rate: float
    outcomes: dict[str, dict[str, Any]]
    words: dict[str, Verdict]
    refused: list[str] = field(default_factory=list)

    @property
    def passes(self) -> float:
        return self.D / self.unique_tokens


def planner(found: Forecaster, table: RunTable, outcomes: Sequence[downstream.Outcome] = ()) -> Planner:
    """Of the table that the forecaster was fitted to, and the outcomes scored for its runs."""
    sizes, flops = compute_optimal.flops_of(table)
    passes = table.passes[np.isfinite(table.passes)]
    return Planner(
        forecaster=found,
        sizes=sizes,
        flops=flops,
        seen={
            "N": (float(table.N.min()), float(table.N.max())),
            "D": (float(table.D.min()), float(table.D.max())),
            "C": (float(table.C.min()), float(table.C.max())),
            "passes": (float(passes.min()), float(passes.max())) if len(passes) else (np.nan, np.nan),
        },
        patients=_largest(table.patients),
        unique_tokens=_largest(table.unique_tokens),
        batch=_power_law(table.batch, table.D),
        rate=_power_law(table.lr, table.N, table.batch),
        outcomes=[_curve(o.task, o.curve) for o in outcomes if o.curve and o.verdict.word != UNIDENTIFIED],
    )


def _curve(task: str, curve: Curve) -> dict[str, Any]:
    good = curve.draws[np.isfinite(curve.draws).all(1)][:KEPT]
    return {
        "task": task,
        "floor": sigmoid.FORMS[curve.form][0],
        "centre": curve.centre,
        "spread": curve.spread,
        "theta": curve.theta.tolist(),
        "draws": good.tolist(),
        "noise": curve.noise,
        "losses": list(curve.losses),
    }


def _largest(column: Floats) -> float:
    return float(np.nanmax(column)) if np.isfinite(column).any() else np.nan


def _power_law(y: Floats, *of: Floats) -> list[float] | None:
    """Coefficients of log y in 1 and the logs of `of`, by least squares; None where a column is not recorded."""
    if not all(np.isfinite(column).all() and (column > 0).all() for column in (y, *of)):
        return None
    X = np.column_stack([np.ones(len(y)), *(np.log(column) for column in of)])
    # The least change that explains what was done: a quantity that did not vary gets the exponent 0.
    middle = X[:, 1:].mean(0)
    slopes = np.linalg.pinv(X[:, 1:] - middle, rcond=1e-8) @ (np.log(y) - np.log(y).mean())
    return [float(np.log(y).mean() - middle @ slopes), *map(float, slopes)]


def plan(known: Planner, C: float, unique_tokens: float, most_passes: float, tolerance: float = TOLERANCE) -> Plan:
    """Args: C, FLOPs; unique_tokens of the patients there are; most_passes over them that are allowed (> 0)."""
    cap = unique_tokens * most_passes
    N = _grid(known)
    best, losses, D = _best(known, C, cap, N)
    loss, low, high = (float(v[0]) for v in known.forecaster(N[[best]], D[[best]], np.array([C]), noise=False))
    near = N[losses <= losses[best] * (1 + BAND)]
    sizes = _optima(known, C, cap, N)
    in_running = zip(known.forecaster.rolling.close, known.forecaster.laws, strict=True)
    at = {name: float(law(N[best], D[best])) for name, law in in_running}
    limited = _takes_all(D[best], cap, N)
    batch = _at(known.batch, D[best])
    made = Plan(
        C=C, unique_tokens=unique_tokens, most_passes=most_passes, N=float(N[best]), D=float(D[best]), loss=loss,
        loss_interval=(low, high), N_interval=sizes, band=(float(near[0]), float(near[-1])), laws=at, limited=limited,
        patients_are_worth=_worth(known, C, cap, N), feeds=_feeds(known, cap, N), batch=batch,
        rate=_at(known.rate, N[best], batch), outcomes={}, words={},
    )  # fmt: skip
    made = replace(made, words=_words(known, made))
    made = replace(
        made, outcomes={o["task"]: _outcome(o, made, known.forecaster.options.level) for o in known.outcomes}
    )
    return replace(made, refused=_refusals(known, made, best in (0, GRID - 1), tolerance))


def _grid(known: Planner) -> Floats:
    low, high = known.seen["N"]
    return np.geomspace(low * REACH[0], high * REACH[1], GRID)


def _tokens(known: Planner, C: float, cap: float, N: Floats) -> Floats:
    return np.minimum(C / (known.flops_at(N) * N), cap)


def _takes_all(tokens: float, cap: float, N: Floats) -> bool:
    """Whether tokens are all that there are: as near as the steps of the grid allow."""
    return bool(tokens >= cap * N[0] / N[1])


def _best(known: Planner, C: float, cap: float, N: Floats) -> tuple[int, Floats, Floats]:
    """Index of the best size of the grid, losses [GRID] and tokens [GRID] at all."""
    D = _tokens(known, C, cap, N)
    losses = known.forecaster.law(N, D)
    return int(losses.argmin()), losses, D


def _optima(known: Planner, C: float, cap: float, N: Floats) -> tuple[float, float]:
    """Interval of the best size over the draws of the law."""
    losses = known.forecaster.law.sample(N, _tokens(known, C, cap, N))
    if len(losses) < 20:
        return np.nan, np.nan
    low, high = ends(np.log(N[losses.argmin(1)]), known.forecaster.options.level)
    return float(np.exp(low)), float(np.exp(high))


def _lowest(known: Planner, C: float, cap: float, N: Floats) -> float:
    return float(known.forecaster.law(N, _tokens(known, C, cap, N)).min())


def _worth(known: Planner, C: float, cap: float, N: Floats) -> float:
    """The factor of compute that lowers the loss as much as twice the data at the same compute."""
    target = _lowest(known, C, 2 * cap, N)
    if target >= _lowest(known, C, cap, N) * (1 - 1e-9):
        return 1.0
    return _bisect(lambda factor: _lowest(known, C * factor, cap, N) <= target, 1e6)


def _bisect(enough: Callable[[float], bool], most: float) -> float:
    """The least factor from 1 to `most` that is enough, to 0.1 %; inf where none is."""
    if not enough(most):
        return np.inf
    low, high = 0.0, float(np.log(most))
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(float(np.exp(middle))) else (middle, high)
    return float(np.exp(high))


def _feeds(known: Planner, cap: float, N: Floats) -> dict[str, float]:
    """The least compute whose best use takes all the data, and the size that goes with it."""
    least = known.flops.min() * N[0]  # one token through the smallest

    def takes_all(factor: float) -> bool:
        best, _, D = _best(known, least * factor, cap, N)
        return best > 0 and _takes_all(D[best], cap, N)

    C = least * _bisect(takes_all, known.flops.max() * N[-1] * cap / least)
    if not np.isfinite(C):
        return {"N": np.nan, "C": np.nan}
    return {"N": float(N[_best(known, C, cap, N)[0]]), "C": float(C)}


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


def to_json(known: Planner | None) -> dict[str, Any] | None:
    """The planner as laws.json has it: what `from_json` and planner.js compute plans from."""
    if known is None:
        return None
    found = known.forecaster
    laws = [
        {
            "name": law.name,
            "theta": np.maximum(law.theta, _NOTHING),
            "scale": law.scale,
            "draws": np.maximum(law.draws[~np.isnan(law.draws).any(1)][:KEPT], _NOTHING),
            "word": law.verdict.word,
            "reason": law.verdict.reason,
        }
        for law in found.laws
    ]
    return {
        "laws": laws,
        "candidates": found.rolling.close,
        "drift": found.rolling.drift,
        "nearest": extrapolation.NEAREST,
        "noise": found.noise,
        "top": found.top,
        "level": found.options.level,
        "z": normal_quantile(found.options.level),
        "sizes": known.sizes,
        "flops": known.flops,
        "seen": known.seen,
        "patients": known.patients,
        "unique_tokens": known.unique_tokens,
        "batch": known.batch,
        "rate": known.rate,
        "outcomes": known.outcomes,
        "grid": GRID,
        "reach": REACH,
        "band": BAND,
        "tolerance": TOLERANCE,
        "wide": WIDE,
    }


def from_json(record: dict[str, Any]) -> Planner:
    """What `to_json` wrote, after its way through JSON; the laws keep what a forecast needs, and no residuals.

    Raises: KeyError, TypeError or ValueError for a record that is none.
    """
    level = float(record["level"])
    laws = tuple(
        JointLaw(
            name=law["name"], theta=_floats(law["theta"]), scale=tuple(law["scale"]), objective=np.nan, delta=np.nan,
            lowest=np.nan, residuals=np.empty(0), draws=_floats(law["draws"]).reshape(-1, 6), failed=np.nan,
            optima=(0, 0), basins=0, level=level, verdict=Verdict(law["word"], law["reason"]),
        )
        for law in record["laws"]
    )  # fmt: skip
    close = tuple(record["candidates"])
    rolling = Rolling([], {}, close[0], close, float(_floats(record["drift"])))
    forecaster = Forecaster(laws, rolling, float(record["top"]), _floats(record["noise"]), Options(level=level))
    seen = {
        name: (float(low), float(high)) for name, (low, high) in ((k, _floats(v)) for k, v in record["seen"].items())
    }
    return Planner(
        forecaster, _floats(record["sizes"]), _floats(record["flops"]), seen, float(_floats(record["patients"])),
        float(_floats(record["unique_tokens"])), record["batch"], record["rate"],
        record["outcomes"],
    )  # fmt: skip


def _floats(value: Any) -> Floats:
    """JSON's null is NaN."""
    return np.array(value, np.float64)
