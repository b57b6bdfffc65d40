"""Which numbers of a joint law the runs tell: profile beside bootstrap, and a word for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval
from ehr_scaling.analysis.joint.joint_fit import Coupled
from ehr_scaling.analysis.joint.joint_laws import JointLaw
from ehr_scaling.analysis.joint.likelihood import Curve, Quantity, Values, curves
from ehr_scaling.analysis.joint.optimum import Cost, cost_of, log_best, within_reach
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import significant
from ehr_scaling.analysis.words import Place, Verdict

APART = 2.0  # intervals whose widths differ by more disagree
EXACT = 1e-6  # a narrower interval, relative to its value, is rounding
COLLINEAR = 30.0


@dataclass(frozen=True)
class Profile:
    """A quantity of a law: a parameter, a of N* ∝ C^a, or at C FLOPs "N", "D", "D/N" or "L" of the best model.

    interval: by `likelihood.curves`, NaN for an open end. bootstrap: of the run bootstrap, NaN without draws.
    curve: [points, 2] values, ascending, and the rise of the objective there over its threshold.
    """

    name: str
    C: float | None
    estimate: float
    interval: tuple[float, float]
    bootstrap: tuple[float, float]
    curve: Floats
    verdict: Verdict


@dataclass(frozen=True)
class Identifiability:
    """condition: of the Jacobian of log L, its columns scaled to one length (the Hessian's is its square); above 30
    parameters stand in for each other (Belsley, Kuh & Welsch 1980). optima, basins: see `JointLaw`.
    undercut: share of the objective by which a profile found a lower one; above 0 the fit is not the optimum.
    """

    law: str
    level: float
    profiles: tuple[Profile, ...]
    condition: float
    optima: tuple[int, int]
    basins: int
    undercut: float

    def of(self, name: str, C: float | None = None) -> Profile:
        """Raises: KeyError for a quantity that was not profiled."""
        for profile in self.profiles:
            if profile.name == name and profile.C == C:
                return profile
        raise KeyError((name, C))


def identify(
    law: JointLaw,
    table: RunTable,
    C_values: Sequence[float] = (),
    options: Options | None = None,
) -> Identifiability:
    """Profiles of what was fitted of E, A, B, alpha, beta and k, of a, and of the best model at each of C_values.

    table: the runs that the law was fitted to, which also say what compute costs (`optimum.cost_of`). C_values: FLOPs.
    """
    options, cost = options or Options(), cost_of(table)
    likelihoods = curves(law, table, C_values, options.level)
    at_draws = Values(law, table, C_values)(law.good)
    profiles = []
    for k, curve in enumerate(likelihoods):
        drawn, where = interval(at_draws[:, k], options.level), _where(curve.quantity, law, table, cost)
        profiles += [_profile(r, curve, drawn, where, options) for r in _readings(curve.quantity, cost)]
    undercut = max(curve.undercut for curve in likelihoods)
    return Identifiability(
        law=law.name,
        level=options.level,
        profiles=tuple(profiles),
        condition=_condition(law, table),
        optima=law.optima,
        basins=law.basins,
        undercut=undercut / law.objective if undercut else 0.0,
    )


def _condition(law: JointLaw, table: RunTable) -> float:
    by_N, by_D, _ = law.scale
    X = Coupled(np.log(table.N / by_N), np.log(table.D / by_D), law.form.free).jacobian(law.theta)
    lengths = np.linalg.norm(X, axis=0)
    return float(np.linalg.cond(X / lengths)) if (lengths > 0).all() else np.inf


class _Reading(NamedTuple):
    """How a number is read from a quantity's scale; `sign` is -1 where it falls as the quantity rises."""

    name: str
    read: Callable[[Floats], Floats]
    sign: int


def _readings(quantity: Quantity, cost: Cost) -> list[_Reading]:
    """What one profile tells. D* = C / (f(N*) N*), so that those of N*, D* and D*/N* are one."""
    C = quantity.C
    if quantity.name == "a":
        return [_Reading("a", lambda q: q, 1)]
    if quantity.name != "N" or C is None:
        return [_Reading(quantity.name, within_reach, 1)]
    return [
        _Reading("N", within_reach, 1),
        _Reading("D", lambda q: cost.tokens(within_reach(q), C), -1),
        _Reading("D/N", lambda q: cost.tokens(within_reach(q), C) / within_reach(q), -1),
    ]


def _profile(reading: _Reading, curve: Curve, drawn: tuple[float, float], where: Verdict, options: Options) -> Profile:
    """drawn: the bootstrap interval on the scale of the quantity."""
    name, read, sign = reading
    low, high = _read(read, (curve.low, curve.high)[::sign])
    word = words.profile(name, (low, high), where, options)
    width, ratio = curve.high - curve.low, (drawn[1] - drawn[0]) / max(curve.high - curve.low, 1e-300)
    if width > EXACT and (ratio > APART or ratio < 1 / APART):
        word = word.also(f"the bootstrap interval is {significant(ratio, 2)} times as wide")
    return Profile(
        name=name,
        C=curve.quantity.C,
        estimate=float(read(np.array(curve.quantity.estimate))),
        interval=(low, high),
        bootstrap=_read(read, drawn[::sign]),
        curve=np.column_stack([read(curve.points[:, 0]), curve.points[:, 1]])[::sign],
        verdict=word,
    )


def _read(read: Callable[[Floats], Floats], ends: tuple[float, ...]) -> tuple[float, float]:
    low, high = read(np.array(ends))
    return float(low), float(high)


def _where(quantity: Quantity, law: JointLaw, table: RunTable, cost: Cost) -> Verdict:
    """Whether C, and the best N and D there, lie within those of the runs; a parameter belongs to them."""
    if quantity.C is None:
        return words.at(None)
    best = log_best(law, law.theta[None], quantity.C, cost)[0]
    N, D, _ = map(float, within_reach(best))
    axes = ((table.C, quantity.C, "FLOPs"), (table.N, N, "parameters"), (table.D, D, "tokens"))
    return words.at(None, *(Place(value, (column.min(), column.max()), what) for column, value, what in axes))


def to_json(identifiability: Identifiability) -> dict[str, Any]:
    """For laws.json; the ends of open intervals are null.

    {law, level, condition, optima: [starts in the best, starts], basins, undercut, quantities: [{name, C, estimate,
    profile, bootstrap, word, reason}]}.
    """
    return {
        "law": identifiability.law,
        "level": identifiability.level,
        "condition": _number(identifiability.condition),
        "optima": list(identifiability.optima),
        "basins": identifiability.basins,
        "undercut": identifiability.undercut,
        "quantities": [
            {
                "name": p.name,
                "C": p.C,
                "estimate": p.estimate,
                "profile": [_number(v) for v in p.interval],
                "bootstrap": [_number(v) for v in p.bootstrap],
                **p.verdict._asdict(),
            }
            for p in identifiability.profiles
        ],
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
