"""How far the exponents depend on how parameters, compute and tokens are counted.

The same runs give N ∝ C^0.37 or C^0.7, by what is called N and C: Kaplan et al. 2020 left out the embedding and the
head, Hoffmann et al. 2022 did not (Pearce & Song 2024, arXiv 2406.12907; Porian et al. 2024, arXiv 2406.19146).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import interval
from ehr_scaling.analysis.isoflop import isoflop, windows
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.joint_laws import AUTO, DEFAULT, JointLaw
from ehr_scaling.analysis.joint.optimum import computes, cost_of, exponents
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables import cells
from ehr_scaling.analysis.tables.run_table import SPAN, RunTable
from ehr_scaling.analysis.wording import decimal, significant, span
from ehr_scaling.analysis.words import Verdict

PARAMETERS = ("body", "body + head", "all")
COMPUTE = ("counted", "6ND")
TOKENS = ("positions", "real tokens")
COLUMNS = {"body + head": ("N_head",), "all": ("N_head", "N_embedding"), "real tokens": ("real_tokens",)}
MOST_DRAWS = 400  # enough for the two ends of an interval; there are twelve conventions
METHODS = {"joint": "the joint law", "isoflop": "the IsoFLOP vertices"}


@dataclass(frozen=True)
class Exponent:
    """One of N_opt ∝ C^a or D_opt ∝ C^b; NaN where it is not known."""

    value: float
    interval: tuple[float, float]


NONE = Exponent(np.nan, (np.nan, np.nan))


@dataclass(frozen=True)
class Convention:
    """What N, C and D mean, and the exponents of the runs so counted.

    isoflop, joint: {"a", "b"}, of the lines through the IsoFLOP vertices and of the joint law's optimum.
    verdicts: {"isoflop", "joint"}. A missing column makes both "not known".
    """

    N: str
    C: str
    D: str
    isoflop: dict[str, Exponent]
    joint: dict[str, Exponent]
    verdicts: dict[str, Verdict]

    @property
    def name(self) -> str:
        return f"N {self.N}, C {self.C}, D {self.D}"


def fit(runs: RunTable, options: Options, known: Mapping[str, JointLaw] | None = None) -> list[Convention]:
    """Both kinds of exponents under every convention, that of the study first: body parameters, counted C, positions.

    known: laws that are fitted already to the runs as the study counts them, by name, with the draws of `options`. The
    joint law is options.law, or Chinchilla's: here it is the counting that is compared.
    """
    options = replace(options, draws=min(options.draws, MOST_DRAWS))
    return list(_each(runs, options, known or {}))


def _each(runs: RunTable, options: Options, known: Mapping[str, JointLaw]) -> Iterator[Convention]:
    name = DEFAULT if options.law == AUTO else options.law
    for D in TOKENS:
        for N in PARAMETERS:
            missing = [c for c in COLUMNS.get(N, ()) + COLUMNS.get(D, ()) if not np.isfinite(getattr(runs, c)).all()]
            if missing:
                reason = f"not known: no {' and '.join(missing)} for every run"
                for C in COMPUTE:
                    nothing = {"a": NONE, "b": NONE}
                    word = words.missing(reason)
                    yield Convention(N, C, D, nothing, nothing, {"isoflop": word, "joint": word})
                continue
            counted = _counted(runs, N, D)
            if (PARAMETERS[0], TOKENS[0]) == (N, D) and name in known:
                law: JointLaw | None = replace(known[name], draws=known[name].draws[:MOST_DRAWS])
            else:
                alike = cells.average(counted)
                law = joint_laws.fit(name, alike.N, alike.D, alike.loss, alike.clusters, options)
            for C in COMPUTE:
                own = counted if C == "counted" else replace(counted, C=6.0 * counted.N * counted.D)
                lines, line_word = _lines(own, C, options)
                joint, joint_word = _joint(law, own, options)
                yield Convention(N, C, D, lines, joint, {"isoflop": line_word, "joint": joint_word})


def _counted(runs: RunTable, N: str, D: str) -> RunTable:
    """The runs with N and D as the convention counts them; their budgets stay those they were designed for."""
    parameters = runs.N + sum(getattr(runs, column) for column in COLUMNS.get(N, ()))
    return replace(runs, N=parameters, D=runs.real_tokens if D == "real tokens" else runs.D)


def _lines(runs: RunTable, C: str, options: Options) -> tuple[dict[str, Exponent], Verdict]:
    groups = [runs.C[runs.group == g] for g in range(len(runs.budgets))]
    apart = max(float(own.max() / own.min()) for own in groups)
    if C != "counted" and apart > SPAN:  # the study's own budgets are as they are
        reason = (
            f"so counted, runs of one budget differ in C by a factor of {significant(apart, 2)}: no IsoFLOP profile"
        )
        return {"a": NONE, "b": NONE}, words.missing(reason)
    laws = windows.lines(runs, isoflop.fit(runs, options), options)
    found = {key: Exponent(laws[name].exponent, laws[name].interval) for key, name in (("a", "N"), ("b", "D"))}
    return found, laws["N"].verdict


def _joint(law: JointLaw | None, runs: RunTable, options: Options) -> tuple[dict[str, Exponent], Verdict]:
    if law is None:
        reason = f"a joint law needs {joint_laws.LEAST_RUNS} runs, of several N and D"
        return {"a": NONE, "b": NONE}, words.missing(reason)
    cost = cost_of(runs)
    theta = np.vstack([law.theta[None], law.draws[~np.isnan(law.draws).any(1)]])
    through = computes(law, cost, runs)
    slopes = exponents(law, theta, through, cost)
    found = {key: Exponent(float(slopes[0, k]), interval(slopes[1:, k], options.level)) for k, key in enumerate("ab")}
    return found, words.slope(found["a"].interval, law.apart, len(through), law.failed, options)


def disagreement(found: list[Convention]) -> str:
    """A sentence on whether any two conventions differ in a by more than their intervals."""
    for method, what in METHODS.items():
        known = [(c, getattr(c, method)["a"]) for c in found if np.isfinite(getattr(c, method)["a"].interval[0])]
        if not known:
            continue
        low, high = min(known, key=lambda k: k[1].interval[1]), max(known, key=lambda k: k[1].interval[0])
        if low[1].interval[1] < high[1].interval[0]:
            ends = " and ".join(
                f"{decimal(e.value, 2)} ({span(e.interval, _two)}) with {c.name}" for c, e in (low, high)
            )
            return (
                f"By {what}, the same runs give a = {ends}: more apart than their intervals are wide. An exponent says "
                "nothing without its convention."
            )
    told = sum(np.isfinite(c.joint["a"].value) or np.isfinite(c.isoflop["a"].value) for c in found)
    if told < 2:
        return "Only one convention can be told from these columns, so how far the exponents depend on it is not known."
    return f"No two of the {told} conventions that can be told differ in a by more than their intervals."


def _two(value: float | None) -> str:
    return decimal(value, 2)


def to_json(found: list[Convention]) -> list[dict[str, Any]]:
    return [
        {
            "N": c.N,
            "C": c.C,
            "D": c.D,
            **{
                method: {
                    "a": own["a"].value,
                    "b": own["b"].value,
                    "intervals": {"a": own["a"].interval, "b": own["b"].interval},
                    **c.verdicts[method]._asdict(),
                }
                for method, own in (("isoflop", c.isoflop), ("joint", c.joint))
            },
        }
        for c in found
    ]
