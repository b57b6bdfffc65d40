"""How far the exponents depend on how parameters, compute and tokens are counted.

The same runs give N ∝ C^0.37 or C^0.7, by what is called N and C: Kaplan et al. 2020 left out the embedding and the
head, Hoffmann et al. 2022 did not (Pearce & Song 2024, arXiv 2406.12907; Porian et al. 2024, arXiv 2406.19146).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval
from ehr_scaling.analysis.isoflop import isoflop, power_laws
from ehr_scaling.analysis.isoflop.power_laws import PowerLaw
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.joint_laws import AUTO, DEFAULT, JointLaw
from ehr_scaling.analysis.joint.optimum import computes, cost_of, exponents
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables import cells
from ehr_scaling.analysis.tables.run_table import SPAN, RunTable
from ehr_scaling.analysis.wording import decimal, significant, span

PARAMETERS = ("body", "body + head", "all")
COMPUTE = ("counted", "6ND")
TOKENS = ("positions", "real tokens")
COLUMNS = {"body + head": ("N_head",), "all": ("N_head", "N_embedding"), "real tokens": ("real_tokens",)}
DRAWS = 100  # by which the budgets of a line are weighed
METHODS = {"joint": "the joint law", "isoflop": "the IsoFLOP vertices"}


@dataclass(frozen=True)
class Exponents:
    """N_opt ∝ C^a and D_opt ∝ C^b; NaN where they are not known, for `reason`."""

    a: float = np.nan
    b: float = np.nan
    reason: str = ""


@dataclass(frozen=True)
class Convention:
    """What N, C and D mean, and the exponents of the runs so counted: of the lines through the IsoFLOP vertices, and of
    the joint law's optimum."""

    N: str
    C: str
    D: str
    isoflop: Exponents
    joint: Exponents

    @property
    def name(self) -> str:
        return f"N {self.N}, C {self.C}, D {self.D}"


@dataclass(frozen=True)
class Conventions:
    """each: that of the study first, body parameters, counted C, positions. intervals: of its a, by method.

    Other counts have the noise of the same runs, hence no intervals of their own.
    """

    each: list[Convention]
    intervals: dict[str, tuple[float, float]]


def fit(runs: RunTable, options: Options, laws: Mapping[str, JointLaw], lines: Mapping[str, PowerLaw]) -> Conventions:
    """Both kinds of exponents under every convention.

    laws, lines: those that are fitted already to the runs as the study counts them, by name. The joint law is
    options.law, or Chinchilla's: here it is the counting that is compared.
    """
    name = DEFAULT if options.law == AUTO else options.law
    intervals = {"isoflop": lines["N"].interval, "joint": (np.nan, np.nan)}
    if (law := laws.get(name)) and law.failed <= options.failed:
        slopes = _slopes(law, law.good, runs)
        intervals["joint"] = interval(slopes[:, 0], options.level)
    return Conventions(list(_each(runs, name, options, laws, lines)), intervals)


def _each(
    runs: RunTable, name: str, options: Options, laws: Mapping[str, JointLaw], lines: Mapping[str, PowerLaw]
) -> Iterator[Convention]:
    few = replace(options, draws=min(options.draws, DRAWS))
    for D in TOKENS:
        for N in PARAMETERS:
            missing = [c for c in COLUMNS.get(N, ()) + COLUMNS.get(D, ()) if not np.isfinite(getattr(runs, c)).all()]
            if missing:
                nothing = Exponents(reason=f"not known: no {' and '.join(missing)} for every run")
                yield from (Convention(N, C, D, nothing, nothing) for C in COMPUTE)
                continue
            counted, usual = _counted(runs, N, D), (PARAMETERS[0], TOKENS[0]) == (N, D)
            law = laws.get(name) if usual else _law(name, counted, options)
            yield Convention(N, COMPUTE[0], D, _line(lines if usual else _lines(counted, few)), _joint(law, counted))
            by_6ND = replace(counted, C=6.0 * counted.N * counted.D)
            yield Convention(N, COMPUTE[1], D, _along_budgets(by_6ND, few), _joint(law, by_6ND))


def _law(name: str, runs: RunTable, options: Options) -> JointLaw | None:
    alike = cells.average(runs)
    return joint_laws.fit(name, alike.N, alike.D, alike.loss, alike.clusters, replace(options, draws=0))


def _counted(runs: RunTable, N: str, D: str) -> RunTable:
    """The runs with N and D as the convention counts them; their budgets stay those they were designed for."""
    parameters = runs.N + sum(getattr(runs, column) for column in COLUMNS.get(N, ()))
    return replace(runs, N=parameters, D=runs.real_tokens if D == "real tokens" else runs.D)


def _lines(runs: RunTable, options: Options) -> Mapping[str, PowerLaw]:
    return power_laws.fit(isoflop.fit(runs, options), options)


def _line(lines: Mapping[str, PowerLaw]) -> Exponents:
    a, b = lines["N"].exponent, lines["D"].exponent
    return Exponents(a, b, "" if np.isfinite(a) else lines["N"].verdict.reason)


def _along_budgets(runs: RunTable, options: Options) -> Exponents:
    """As `_line`, where budgets are not those that were designed: their runs may then differ in C."""
    groups = [runs.C[runs.group == g] for g in range(len(runs.budgets))]
    apart = max(float(group.max() / group.min()) for group in groups)
    if apart > SPAN:
        factor = significant(apart, 2)
        return Exponents(
            reason=f"so counted, runs of one budget differ in C by a factor of {factor}: no IsoFLOP profile"
        )
    return _line(_lines(runs, options))


def _joint(law: JointLaw | None, runs: RunTable) -> Exponents:
    if law is None:
        return Exponents(reason=joint_laws.TOO_FEW)
    a, b = _slopes(law, law.theta[None], runs)[0]
    if not np.isfinite(a):
        return Exponents(reason="by the law, under two budgets have their best size among those run")
    tied = words.tied(law.apart)
    return Exponents(reason=tied.reason) if tied else Exponents(float(a), float(b))


def _slopes(law: JointLaw, theta: Floats, runs: RunTable) -> Floats:
    cost = cost_of(runs)
    return exponents(law, theta, computes(law, cost, runs), cost)


def disagreement(conventions: Conventions) -> str:
    """A sentence on whether any convention moves a out of the interval of the study's own."""
    told = 0
    for method, what in METHODS.items():
        known = {c.name: float(getattr(c, method).a) for c in conventions.each if np.isfinite(getattr(c, method).a)}
        (low, high), reference = conventions.intervals[method], conventions.each[0].name
        if len(known) < 2 or reference not in known or not np.isfinite(low):
            continue
        far = max(known, key=lambda name: abs(known[name] - known[reference]))
        if not low <= known[far] <= high:
            return (
                f"By {what}, the same runs give a = {decimal(known[reference], 2)} ({span((low, high), _two)}) with "
                f"{reference}, and {decimal(known[far], 2)} with {far}: another count moves the exponent by more than "
                "the noise of the runs. An exponent says nothing without its convention."
            )
        told = max(told, len(known))
    if not told:
        return (
            "How far the exponents depend on the convention is not known: under two can be told from these columns, or "
            "the study's own has no interval."
        )
    return f"None of the {told} conventions that can be told moves a out of its interval under the study's own."


def _two(value: float | None) -> str:
    return decimal(value, 2)


def to_json(conventions: Conventions) -> list[dict[str, Any]]:
    return [
        {"N": c.N, "C": c.C, "D": c.D, **{method: vars(getattr(c, method)) for method in METHODS}}
        for c in conventions.each
    ]
