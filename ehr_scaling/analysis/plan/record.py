"""What is known for planning, and what a plan says."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ehr_scaling.analysis.draws import Floats, ends
from ehr_scaling.analysis.forecast import choice
from ehr_scaling.analysis.forecast.extrapolation import Forecaster
from ehr_scaling.analysis.joint.joint_laws import JointLaw
from ehr_scaling.analysis.joint.optimum import Cost
from ehr_scaling.analysis.repeats import effective_data
from ehr_scaling.analysis.words import SLACK, Verdict

# What more patients would do: `Plan.data`
NO_LIMIT, LIMITS, ENOUGH, NOT_TOLD = "no limit", "limits", "enough", "not told"


@dataclass(frozen=True)
class Sizing:
    """What tells the best size at a compute.

    A forecaster weighs runs towards the largest compute and the best loss, where losses are to be forecast; they say
    little of the slope along N there. So sizes come from laws fitted to all cells alike, and from the optima of the
    IsoFLOP budgets.

    laws: the one that stands for the study first, with its draws, then others that forecast about as well.
    line: JSON, N* = exp(log_k) (C / C0)^exponent through the bracketed budgets: {C0, log_k, exponent, draws: [k, 2] of
    log_k and exponent, C: [2] first and last bracketed budget}; None where too few are bracketed, or it is not told.
    """

    laws: tuple[JointLaw, ...]
    line: dict[str, Any] | None

    @property
    def law(self) -> JointLaw:
        return self.laws[0]

    def bracketed(self, C: float) -> bool:
        """Whether bracketed budgets lie on both sides of C."""
        return self.line is not None and self.line["C"][0] / SLACK <= C <= self.line["C"][1] * SLACK

    def line_at(self, C: float, level: float) -> tuple[float, float, float]:
        """log N* by the line, low end, middle and high end; NaN without one."""
        if self.line is None:
            return np.nan, np.nan, np.nan
        u = np.log(C / self.line["C0"])
        draws = np.asarray(self.line["draws"], np.float64)
        low, high = ends(draws[:, 0] + draws[:, 1] * u, level)
        return float(low), self.line["log_k"] + self.line["exponent"] * u, float(high)


@dataclass(frozen=True)
class Planner:
    """What a table of runs knows for planning.

    forecaster: of losses. sizing: of sizes. cost: operations for each parameter and token at any size, C / (N D).
    seen: ends of N, D, C and passes of the runs. patients, unique_tokens: of the training data, NaN where not known.
    size_drift: of best sizes beyond the runs, log N a decade (`choice.SIZE_DRIFT`). doubt:
    why nothing is supported (`Options.doubt`), or "".
    missed: mean error of the sealed forecast where it failed (`holdout.judged`), else NaN.
    outcomes: JSON, one each whose AUROC follows the loss: {task, floor, centre, spread, theta: a, b, c of `sigmoid`,
    draws of it, noise_reach: of a model about the curve, at the level of the intervals, others: forms about as good,
    [floor, a, b, c] each, losses: ends of those seen}.
    positions: processed for each unique token of a pass (padding), so that D positions are D / (U positions) passes.
    repeats: JSON, the law of repeated data where one is told: {law, parameters, draws: of them, unique: positions of a
    pass of the runs}; None where passes count as new tokens, as far as the runs made passes.
    batch: tokens a step = exp(c0) D^c1. rate: peak learning rate = exp(c0) N^c1 batch^c2. Both None where not recorded.
    """

    forecaster: Forecaster
    sizing: Sizing
    cost: Cost
    seen: dict[str, tuple[float, float]]
    patients: float
    unique_tokens: float
    positions: float
    batch: list[float] | None
    rate: list[float] | None
    outcomes: list[dict[str, Any]]
    repeats: dict[str, Any] | None = None
    missed: float = np.nan
    size_drift: float = choice.SIZE_DRIFT
    doubt: str = ""

    @property
    def repeating(self) -> bool:
        """Whether the runs saw tokens again, and nothing tells what that costs."""
        return self.repeats is None and not self.seen["passes"][1] <= 1 and np.isfinite(self.seen["passes"][1])

    @property
    def tokens_a_patient(self) -> float:
        return self.unique_tokens / self.patients

    def factor(self, N: Floats, D: Floats, unique: float) -> Floats:
        """What the loss at N and D is with data of so many positions a pass, over that with those of the runs."""
        if self.repeats is None:
            return np.ones(np.broadcast_shapes(np.shape(N), np.shape(D)))
        parameters = self.repeats["parameters"]
        return repeated_loss(parameters, N, D, unique) / repeated_loss(parameters, N, D, self.repeats["unique"])


@dataclass(frozen=True)
class Plan:
    """What to train with C FLOPs and data of `unique_tokens`, and what it will reach.

    refused: why none of it should be acted on; empty where it may be. words: of "N" and "loss". N_interval: what the
    draws of the law, laws about as good, and the line through the IsoFLOP optima say, and beyond the runs how far off
    that may be. ways: {way: N*, low, high} of the
    joint law and the line, without any limit of data. band: sizes whose loss is within BAND of the lowest. laws:
    {candidate: loss} of those in the running. data: NO_LIMIT was given; LIMITS, twice the patients lower the loss at
    this compute; ENOUGH, they do not; or NOT_TOLD. patients_are_worth: the factor of compute that lowers the loss as
    much as twice the patients do (inf: none does; 1: nothing; NaN: not told). feeds: size and compute at which these
    data suffice for the best use, NaN without a limit. outcomes: {task: {auroc, interval, word}}.
    """

    C: float
    unique_tokens: float
    most_passes: float
    N: float
    D: float
    loss: float
    loss_interval: tuple[float, float]
    N_interval: tuple[float, float]
    ways: dict[str, tuple[float, float, float]]
    band: tuple[float, float]
    laws: dict[str, float]
    data: str
    patients_are_worth: float
    passes: float
    feeds: dict[str, float]
    batch: float
    rate: float
    outcomes: dict[str, dict[str, Any]]
    words: dict[str, Verdict]
    refused: list[str] = field(default_factory=list)


def repeated_loss(p: dict[str, float], N: Any, D: Any, U: Any) -> Floats:
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
