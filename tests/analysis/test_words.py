"""Every rule that gives a word: in one module, in a table of docs/laws.md, and with a study on either side of it."""

import ast
import inspect
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simulated
import sweeps

from ehr_scaling import analysis
from ehr_scaling.analysis import words
from ehr_scaling.analysis.compare import comparison, loss_to_loss, schedules
from ehr_scaling.analysis.forecast import extrapolation, holdout
from ehr_scaling.analysis.isoflop import isoflop, power_laws, rates, windows
from ehr_scaling.analysis.joint import identifiability, joint_laws, quality
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import outcome_curve
from ehr_scaling.analysis.plan import plan_basis, planner
from ehr_scaling.analysis.repeats import repeated_data, worth_of_passes
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.tables import selection
from ehr_scaling.analysis.tables.run_table import RunTable, from_columns, from_rows
from ehr_scaling.analysis.words import DOUBTFUL, EXTRAPOLATED, SUPPORTED, UNIDENTIFIED

FEW = Options(draws=60)
RICH = {"budgets": 6, "decades": 2.5, "sizes": 6, "noise": 0.003}
POOR = {"budgets": 3, "decades": 1.0, "sizes": 5, "noise": 0.5}
ROOT = Path(analysis.__file__).parent
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "laws.md"


def line(options=FEW, **study):
    return power_laws.fit(isoflop.fit(simulated.table(**study), options), options)["N"]


def budget(by_C=1.0, **study):
    """The word of a budget where C is so many times what it is."""
    rows = [{**r, "C": by_C * r["C"]} for r in simulated.rows(**study)]
    table = from_rows(rows, source="x")
    options = replace(FEW, doubt=quality.grave(quality.check(table, FEW)))
    return results.budget_verdict(isoflop.fit(table, FEW)[0], options)


def lopsided(bend):
    table, options = simulated.widening(bend), replace(FEW, window=3.0)
    return windows.lines(table, isoflop.fit(table, options), options)["N"].verdict


@cache
def joint(floor=1.0, poor=False, tokens=False, spread=8.0) -> tuple[RunTable, joint_laws.JointLaw]:
    """A law of loss. floor: E. poor: few and noisy. tokens: 20 a parameter, apart by the factor `spread`."""
    if tokens:
        N = np.repeat(np.geomspace(1e6, 1e9, 8), 3)
        D = 20 * N * spread ** np.tile([-0.5, 0.0, 0.5], 8)
        loss = (1.7 + (N / 5e4) ** -0.35 + (D / 2e6) ** -0.35) * np.exp(np.random.default_rng(0).normal(0, 5e-4, 24))
        table = from_columns({"N": N, "D": D, "C": 6 * N * D, "loss": loss}, source="x")
    else:
        rows = simulated.rows(seeds=1, **(POOR if poor else RICH))
        table = from_rows([{**r, "loss": r["loss"] - 1 + floor} for r in rows], source="x")
    law = joint_laws.fit("chinchilla", table.N, table.D, table.loss, table.clusters, FEW)
    assert law is not None
    return table, law


def of_parameter(name, **study):
    return joint(**study)[1].words(FEW)[name]


def profiled(name, C=None, **study):
    table, law = joint(**study)
    return identifiability.identify(law, table, (C,) if C else (), FEW).of(name, C).verdict


@cache
def analysed(**study):
    return results.fit(simulated.table(seeds=1, **study), FEW)


def law(**study):
    return results.verdicts(analysed(**study))["chinchilla"]


def slope(**study):
    found = analysed(**study)
    return results.parameters(found, found.laws["chinchilla"])["a"][2]


@cache
def planned(noise=0.003, sizes=6, seeds=2):
    table = simulated.table(budgets=6, decades=2.5, noise=noise, sizes=sizes, seeds=seeds)
    return plan_basis.planner(extrapolation.forecaster(table, FEW), table)


def plan(name, C, **study):
    return planner.plan(planned(**study), C, np.inf, np.inf).words[name]


def forecast(by):
    """Of a sealed budget whose losses came out so many times what they should."""
    rows = simulated.rows(budgets=5, decades=2.0, noise=0.003, seeds=1)
    top = max(r["C"] for r in rows)
    table = from_rows([{**r, "loss": r["loss"] * (by if r["C"] == top else 1)} for r in rows], source="x")
    known, sealed = holdout.seal(table, None)
    made = holdout.of_table(known, sealed, FEW)
    return holdout.judged(holdout.compare(made, sealed, isoflop.fit(sealed, FEW)))


@cache
def repeated(penalty):
    N, U, passes = (v.ravel() for v in np.meshgrid(np.geomspace(3e4, 3e6, 4), [1e6, 1e7], [1, 2, 4, 16, 64]))
    passes = passes * np.random.default_rng(0).uniform(1.0, 1.3, N.size)
    over_fit = penalty * (passes - 1) ** 0.8 * (N / U) ** 0.6
    loss = (simulated.loss(N, passes * U) + over_fit) * np.exp(0.002 * np.random.default_rng(1).standard_normal(N.size))
    columns = {"N": N, "D": passes * U, "C": 6 * N * passes * U, "loss": loss, "unique_tokens": U}
    return repeated_data.compare(from_columns(columns, source="x"), Options(draws=40))


def of_passes(passes, penalty=0.02):
    return worth_of_passes.values(repeated(penalty), U=1e6, passes=(passes,))[0].verdict


def second_loss(slope, noise=0.01):
    L1 = np.linspace(2, 4, 20)
    return loss_to_loss.fit(L1, 3 + slope * L1 + noise * np.random.default_rng(0).standard_normal(20), None, FEW)


def auroc(rise, patients=0.006):
    """Of AUROC that rises from a half by so much, where test patients move all models by `patients` (standard
    deviation), and each by .005 of its own."""
    rng, loss = np.random.default_rng(0), np.linspace(2.5, 5, 20)
    own = 0.005 * rng.standard_normal(20) + patients * rng.standard_normal()
    moved = patients * (rng.standard_normal((200, 1)) + 0.1 * rng.standard_normal((200, 20)))
    seen = 0.5 + 2 * rise / (1 + np.exp(4 * (loss - 2.5))) + own
    curve = outcome_curve.fit(loss, seen, moved, np.arange(20), np.arange(20), FEW)
    assert curve is not None and curve.gain_interval[0] > 0
    return curve.verdict


def multiplier(options, noise):
    a, b = (simulated.recipe(multiple, seed, noise, sizes=3) for multiple, seed in ((0.5, 0), (1.0, 1)))
    return comparison.multiplier(a, b, options).verdict


def pairs(cells):
    a, b = simulated.recipe(0.5, 0), simulated.recipe(1.0, 1)
    return comparison.paired(loss_to_loss.matched(a.take(np.arange(2 * cells)), b), "N and D", FEW).verdict


def rate(moves):
    """Of a best rate that moves by so many factors of two."""
    rows = sweeps.rates(lambda N: 2 ** (moves * (N > 1e5)), sizes=(3e4, 2e6))
    return rates.fit(from_rows(rows, source="x"), FEW).shifts[0].verdict


def schedule(difference):
    rows = sweeps.both_ways(difference)
    return schedules.compare(selection.cooled(from_rows(rows, source="x")), FEW).verdict


# Rule -> a study that it calls supported, one that it does not, and what is said of that.
CASES = {
    "missing": (lambda: law(**RICH), lambda: law(budgets=1, sizes=5), UNIDENTIFIED, "a joint law needs"),
    "doubted": (lambda: budget(), lambda: budget(by_C=100), DOUBTFUL, "in other units"),
    "at": (lambda: line().word(3e11), lambda: line().word(1e13), EXTRAPOLATED, "FLOPs; the runs have"),
    "lost": (
        lambda: budget(seeds=1, noise=0.02, decades=0.5),
        lambda: budget(seeds=1, noise=0.12, decades=0.5),
        UNIDENTIFIED,
        "of the bootstrap draws put the vertex outside",
    ),
    "tied": (
        lambda: joint(tokens=True)[1].verdict,
        lambda: joint(tokens=True, spread=1.2)[1].verdict,
        UNIDENTIFIED,
        "N and D rise together",
    ),
    "width": (lambda: of_parameter("alpha"), lambda: of_parameter("alpha", poor=True), UNIDENTIFIED, "wider than 0.3"),
    "factor": (lambda: of_parameter("A"), lambda: of_parameter("A", poor=True), UNIDENTIFIED, "than a factor of 10"),
    "floor": (lambda: of_parameter("E"), lambda: of_parameter("E", floor=0.0), UNIDENTIFIED, "not told from zero"),
    "parameter": (lambda: of_parameter("beta"), lambda: of_parameter("beta", poor=True), UNIDENTIFIED, "wider than"),
    "joint_law": (lambda: joint()[1].verdict, lambda: joint(poor=True)[1].verdict, UNIDENTIFIED, "intervals wider"),
    "slope": (lambda: slope(**RICH), lambda: slope(**POOR), UNIDENTIFIED, "interval wider than"),
    "profile": (
        lambda: profiled("E"),
        lambda: profiled("E", poor=True),
        UNIDENTIFIED,
        "no value in reach fits clearly worse",
    ),
    "budget": (lambda: budget(sizes=5), lambda: budget(sizes=4, noise=0.001), UNIDENTIFIED, "four sizes in the window"),
    "exponent": (
        lambda: line(budgets=3).verdict,
        lambda: line(budgets=2).verdict,
        UNIDENTIFIED,
        "two budgets give a line",
    ),
    "shapes": (
        lambda: line(budgets=3, sizes=5, noise=0.003).verdict,
        lambda: line(budgets=3, sizes=4, noise=0.003).verdict,
        UNIDENTIFIED,
        "have four sizes in their window",
    ),
    "window": (lambda: lopsided(0.0), lambda: lopsided(0.004), UNIDENTIFIED, "depends on the window"),
    "repeats": (lambda: repeated(0.02).verdict, lambda: repeated(0.0).verdict, UNIDENTIFIED, "repeats"),
    "worth": (lambda: of_passes(16), lambda: of_passes(200), EXTRAPOLATED, "passes; the runs have"),
    "turn": (
        lambda: worth_of_passes.turn(repeated(0.02)).verdict,
        lambda: worth_of_passes.turn(repeated(0.0)).verdict,
        UNIDENTIFIED,
        "no more than that it is above",
    ),
    "sealed": (lambda: forecast(1.0), lambda: forecast(1.06), UNIDENTIFIED, "failed"),
    "follows": (
        lambda: second_loss(1.0).verdict,
        lambda: second_loss(0.0, noise=0.3).verdict,
        UNIDENTIFIED,
        "no dependence told from none",
    ),
    "above_chance": (lambda: auroc(0.1), lambda: auroc(0.02, patients=0.02), UNIDENTIFIED, "hardly told from chance"),
    "plan": (lambda: plan("loss", 3e12), lambda: plan("loss", 1e15), EXTRAPOLATED, "times the largest run's"),
    "plan_size": (
        lambda: plan("N", 3e12),
        lambda: plan("N", 3e12, noise=0.3, sizes=4, seeds=1),
        UNIDENTIFIED,
        "factor of 10",
    ),
    "paired": (lambda: pairs(3), lambda: pairs(2), UNIDENTIFIED, "at least 3 are needed"),
    "multiplier": (
        lambda: multiplier(FEW, 0.005),
        lambda: multiplier(replace(FEW, wide=10.0, failed=1.0), 0.2),
        UNIDENTIFIED,
        "than a factor of 10",
    ),
    "shift": (lambda: rate(0.0), lambda: rate(1.5), words.MOVES, "leaves out 0"),
    "difference": (lambda: schedule(0.0), lambda: schedule(0.03), words.DIFFERS, "is told from 0"),
}
FOR_SUPPORTED = {"shift": words.STAYS, "difference": words.AGREES}


def rules():
    """The public functions of the module that are its own."""
    found = inspect.getmembers(words, inspect.isfunction)
    return {name for name, rule in found if rule.__module__ == words.__name__ and not name.startswith("_")}


@pytest.mark.parametrize("rule", CASES)
def test_a_study_on_either_side(rule):
    supported, other, word, reason = CASES[rule]
    yes, no = supported(), other()
    assert yes.word == FOR_SUPPORTED.get(rule, SUPPORTED), yes
    assert no.word == word and reason in no.reason.replace("\u00a0", " "), no


def test_every_rule_has_a_study_on_either_side_and_a_row_in_the_document():
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text[text.index("one of four words") : text.index("Two commands go on")]
    rows = re.findall(r"^\| `(\w+)` \|", section, flags=re.M)
    assert sorted(rows) == sorted(CASES) == sorted(rules())


@pytest.mark.parametrize("path", [p for p in ROOT.rglob("*.py") if p.name != "words.py"], ids=lambda p: p.stem)
def test_no_other_module_gives_a_word(path):
    constants = {name: getattr(words, name) for name in ("SUPPORTED", "EXTRAPOLATED", "UNIDENTIFIED", "DOUBTFUL")}
    for node in ast.walk(ast.parse(path.read_text())):
        taken = set()
        if isinstance(node, ast.ImportFrom) and node.module == words.__name__:
            taken = {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "words":
            taken = {node.attr}
        elif isinstance(node, ast.Compare):
            compared = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
            taken = {name for name, value in constants.items() if value in compared}
        assert not taken & set(constants), f"line {node.lineno} takes {taken}: ask a rule of words.py"
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert called != "Verdict", f"line {node.lineno} makes a Verdict: ask a rule of words.py"
