"""What `ehr_scaling.analysis.fit` gives: the laws of a table of runs, to be asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.joint.joint_laws import TOO_FEW, JointLaw
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan import planner
from ehr_scaling.analysis.plan.record import Plan, Planner
from ehr_scaling.analysis.report import report
from ehr_scaling.analysis.report.results import Results, to_json
from ehr_scaling.analysis.report.results import fit as fit_all
from ehr_scaling.analysis.report.summary import summary
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import count, decimal, percent, plural, power, span
from ehr_scaling.analysis.words import Place
from ehr_scaling.errors import UserError


@dataclass(frozen=True)
class Answer:
    """Numbers by name, with an interval each where one is known, and a word with its reason.

    values: C in FLOPs, N parameters, D tokens, loss in nats a token. intervals: [low, high] at `level`.
    Each value is an attribute too: `answer.N`.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    level: float
    word: str
    reason: str = ""

    def __getattr__(self, name: str) -> float:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        lines = []
        for name, value in self.values.items():
            text = {"C": power, "loss": decimal}.get(name, count)
            interval = self.intervals.get(name)
            told = f"  ({percent(self.level)}: {span(interval, text)})" if interval else ""
            lines.append(f"{name:<5} {text(value)}{told}")
        return "\n".join([*lines, f"{self.word}: {self.reason}" if self.reason else self.word])


class Planned(Plan):
    """`Plan`: what to train, and what it will reach; `refused` says why none of it should be acted on."""

    def __repr__(self) -> str:
        if self.refused:
            return "\n".join(f"refused: {reason}" for reason in self.refused)
        lines = [
            f"size    {count(self.N)} parameters  ({span(self.N_interval, count)}), {self.words['N'].word}",
            f"tokens  {count(self.D)}",
            f"loss    {decimal(self.loss)}  ({span(self.loss_interval)}), {self.words['loss'].word}",
        ]
        return "\n".join(
            lines + [f"{task}  AUROC {decimal(o['auroc'])}, {o['word']}" for task, o in self.outcomes.items()]
        )


@dataclass(frozen=True)
class IsoFlop:
    """The optimum of each compute budget.

    budgets: one each, with N, D, L, their intervals, and whether the optimum is bracketed. lines: "N", "D", "L" as
    power laws of C. a, b: exponents of N* ∝ C^a and D* ∝ C^b.
    """

    budgets: list[Any]
    lines: dict[str, Any]

    @property
    def a(self) -> float:
        return float(self.lines["N"].exponent)

    @property
    def b(self) -> float:
        return float(self.lines["D"].exponent)

    def __repr__(self) -> str:
        lines = [
            f"{power(b.C):>12} FLOPs  N* {count(b.N):>7} ({span(b.N_interval, count)})  L* {decimal(b.L)}  {b.verdict}"
            for b in self.budgets
        ]
        for key, name in (("a", "N"), ("b", "D")):
            law = self.lines[name]
            if np.isfinite(law.exponent):
                lines.append(f"{name}* ~ C^{key}: {key} = {decimal(law.exponent)} ({span(law.interval)})")
            lines.append(f"{law.verdict.word}: {law.verdict.reason}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Fit:
    """The laws of a table of runs. Its `repr` is the table of budgets and the laws, with a word beside each number.

    table: the runs in the fits. results: everything that was found (`report.results.Results`).
    """

    results: Results = field(repr=False)

    @property
    def table(self) -> RunTable:
        return self.results.table

    @property
    def isoflop(self) -> IsoFlop:
        """The optimum of every compute budget, and the power laws through them."""
        return IsoFlop(self.results.budgets, self.results.lines)

    @property
    def law(self) -> JointLaw:
        """The law of loss in N and D that forecasts held-out runs best: `law(N, D)`, `law.parameters`, `law.intervals`.

        Raises: UserError with too few runs for one.
        """
        if self.results.joint is None:
            raise UserError(f"{self.table.source}: {TOO_FEW}")
        return self.results.joint

    @property
    def doubts(self) -> list[str]:
        """What is doubtful about runs that are in the fits, a line each."""
        return [f"{note.run}: {note.text}" for note in self.results.doubts]

    def optimum(self, C: float) -> Answer:
        """The best model at C FLOPs, with as many new tokens as it wants: N, D, and the loss there, of `plan`.

        It rests on all runs together, the joint law and the line through the optima of the budgets: at the compute of
        a budget it is another estimate than that of `isoflop.budgets`, the turn of this budget's own curve.
        """
        known = self._planner()
        plan = planner.plan(known, _positive("C", C), np.inf, np.inf)
        most, least = known.cost.tokens(np.array(plan.N_interval), plan.C)
        return Answer(
            {"C": plan.C, "N": plan.N, "D": plan.D, "loss": plan.loss},
            {"N": plan.N_interval, "D": (float(least), float(most)), "loss": plan.loss_interval},
            self.results.options.level,
            *(words.missing(plan.refused[0]) if plan.refused else plan.words["N"]),
        )

    def forecast(self, N: float, D: float, C: float | None = None) -> Answer:
        """The loss of one run at N parameters and D tokens. C: its FLOPs; by default those of such a run in the table.

        Beyond the runs the interval holds how far off the law was in hold-outs.
        """
        known = self._planner()
        N, D = _positive("N", N), _positive("D", D)
        C = float(known.cost(np.array([N]))[0] * N * D) if C is None else _positive("C", C)
        loss, low, high = (float(v[0]) for v in known.forecaster(np.array([N]), np.array([D]), np.array([C])))
        table, values = self.table, {"N": N, "D": D, "C": C, "loss": loss}
        quantities = ((C, table.C, "FLOPs", power), (N, table.N, "parameters", count), (D, table.D, "tokens", count))
        places = [Place(at, (float(of.min()), float(of.max())), what, text) for at, of, what, text in quantities]
        word = words.at(known.forecaster.law.verdict, *places)
        return Answer(values, {"loss": (low, high)}, self.results.options.level, *word)

    def plan(
        self,
        C: float,
        patients: float | None = None,
        *,
        unique_tokens: float | None = None,
        most_passes: float | None = None,
    ) -> Planned:
        """What to train with C FLOPs and so many patients, or so many unique tokens of them; by default those of the
        runs, and no limit where they do not say; np.inf is none. most_passes: over the data; by default the most that
        the runs made.
        """
        known = self._planner()
        data = planner.limits(known, patients, unique_tokens, most_passes)
        return Planned(**vars(planner.plan(known, _positive("C", C), *data)))

    def report(self, folder: str | Path) -> Path:
        """Writes report.html, laws.json, forecast.json and figures/ into a folder; what else is there is kept.

        Returns: the path of report.html. Raises: UserError when the folder holds something that is not a report.
        """
        report.write(self.results, Path(folder))
        return Path(folder) / "report.html"

    def to_json(self) -> dict[str, Any]:
        """What laws.json holds: every number."""
        return to_json(self.results)

    def __repr__(self) -> str:
        head = f"{plural(len(self.table), 'run')} of {self.table.source}"
        doubts = [f"doubtful: {line}" for line in self.doubts[:5]]
        return "\n".join([head, summary(self.to_json()), *doubts])

    def _planner(self) -> Planner:
        if self.results.planner is None:
            raise UserError(f"{self.table.source}: {TOO_FEW}")
        return self.results.planner


def fit(table: RunTable, options: Options) -> Fit:
    return Fit(fit_all(table, options))


def _positive(name: str, value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"{name}={value}: give a number above 0")
    return float(value)
