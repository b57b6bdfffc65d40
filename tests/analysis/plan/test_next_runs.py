from dataclasses import replace

import numpy as np
import pytest
import simulated
from scipy import stats

from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.optimum import cost_of, optimum, proportional
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan import next_runs
from ehr_scaling.analysis.plan.record import Planner, Sizing
from ehr_scaling.analysis.tables.run_table import from_rows

OPTIONS = Options(draws=300)
AT = 1e15  # two and a half decades beyond the runs


def known_of(rows):
    """What a planner knows of these rows by Chinchilla's law, fitted to all alike."""
    table = from_rows(rows, source="simulated")
    law = joint_laws.fit("chinchilla", table.N, table.D, table.loss, table.clusters, OPTIONS)
    rolling = extrapolation.Rolling([], {}, law.name, (law.name,), np.nan)
    noise = np.quantile(law.residuals, [0.025, 0.975])
    found = extrapolation.Forecaster((law,), rolling, table.C.max(), noise, OPTIONS)
    seen = {name: (getattr(table, name).min(), getattr(table, name).max()) for name in ("N", "D", "C")}
    seen["passes"], sizing = (np.nan, np.nan), Sizing((law,), None)
    return Planner(found, sizing, cost_of(table), seen, np.nan, np.nan, 1.0, None, None, [])


def width(known, target):
    low, high = optimum(known.forecaster.law, AT, proportional()).interval({"N": "N", "loss": "L"}[target], 0.95)
    return np.log(high / low)


def trained(runs, seed):
    rng = np.random.default_rng(seed)
    return [
        {"run": f"new {i}", "N": r["N"], "D": r["D"], "C": r["C"],
         "loss": simulated.loss(r["N"], r["D"]) * np.exp(0.004 * rng.standard_normal())}
        for i, r in enumerate(runs)
    ]  # fmt: skip


@pytest.mark.parametrize("target", next_runs.TARGETS)
@pytest.mark.nightly
def test_proposed_runs_narrow_the_target_more_than_the_grid_again(target):
    proposed, again, before = [], [], []
    for seed in range(8):
        rows = simulated.rows(budgets=5, decades=2.0, sizes=5, seeds=1, noise=0.01, seed=seed)
        known = known_of(rows)
        dearest = [r for r in rows if r["C"] >= known.seen["C"][1] * 0.99]
        budget = sum(r["C"] for r in dearest)
        found = next_runs.propose(known, target, AT, budget)
        assert 0 < found.cost <= budget * (1 + 1e-9) and found.after < found.before
        widths = np.array([found.before, *(r["width"] for r in found.runs)])
        assert (np.diff(widths) <= 0.02 * widths[:-1]).all()  # quantiles of draws move by a little
        before.append(width(known, target))
        proposed.append(width(known_of(rows + trained(found.runs, seed)), target))
        again.append(width(known_of(rows + trained(dearest, seed)), target))
    assert np.mean(proposed) < 0.97 * np.mean(again) < np.mean(before)


def test_widths_are_those_of_the_draws_whatever_their_tails():
    known = known_of(simulated.rows(budgets=5, decades=2.0, sizes=5, seeds=1, noise=0.01))
    law, budget = known.forecaster.law, known.seen["C"][1] * 3
    tails = law.draws.copy()
    tails[:3, [0, 1]] += np.array([[3.0, 8.0], [-40.0, -8.0], [2.0, 20.0]])  # three draws of three hundred far off
    wild = replace(law, draws=tails)
    heavy = replace(known, forecaster=replace(known.forecaster, laws=(wild,)), sizing=Sizing((wild,), None))
    for target in next_runs.TARGETS:
        plain, other = (next_runs.propose(each, target, AT, budget) for each in (known, heavy))
        drawn = optimum(law, AT, proportional())
        if target == "N":
            assert plain.before == pytest.approx(np.divide(*drawn.interval("N", 0.95)[::-1]) - 1, rel=1e-3)
        assert other.before == pytest.approx(plain.before, rel=0.15)
        assert other.after == pytest.approx(plain.after, rel=0.25) and other.after < other.before


def test_more_compute_than_ten_of_the_dearest_runs_buys_runs_of_at_most_what_is_asked_about():
    known = known_of(simulated.rows(budgets=5, decades=2.0, sizes=5, seeds=1, noise=0.01))
    for budget in (AT / 10, 100 * AT):
        found = next_runs.propose(known, "loss", AT, budget)
        assert found.runs and found.after < 0.7 * found.before and max(r["C"] for r in found.runs) <= AT * 1.001


def test_no_run_takes_more_tokens_than_there_are():
    known = known_of(simulated.rows(budgets=5, decades=2.0, sizes=5, seeds=1, noise=0.01))
    free = next_runs.propose(known, "loss", AT, AT / 10)
    tokens = max(r["D"] for r in free.runs) / 10
    found = next_runs.propose(known, "loss", AT, AT / 10, tokens, 2)
    assert found.runs and max(r["D"] for r in found.runs) <= 2 * tokens


def test_a_budget_below_the_cheapest_run_buys_nothing():
    known = known_of(simulated.rows(budgets=5, sizes=5, seeds=1))
    found = next_runs.propose(known, "loss", AT, known.seen["C"][0] / 10)
    assert found.runs == [] and found.cost == 0 and found.after == found.before


# One run after another, on draws made by hand


def candidates(*losses):
    ones = np.ones(len(losses))
    return next_runs.Candidates(np.arange(len(losses)) + 1.0, ones, ones, np.stack(losses, 1))


@pytest.mark.parametrize("scatter", [0.5, 1.0, 3.0])
def test_a_run_narrows_the_target_as_bayes_does(scatter):
    """Of normal draws, whose loss is the target: 1 / variance adds up, but for outlying draws."""
    values = 0.01 * stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    for many in (1, 4):
        runs = next_runs._greedy(values, candidates(values), 0.01 * scatter, 1e3, many, 0.95)
        for k, run in enumerate(runs, 1):
            left = 0.01 / np.sqrt(1 + k / scatter**2)
            assert run["width"] == pytest.approx(np.expm1(2 * stats.norm.ppf(0.975) * left), rel=0.08)


def test_no_run_is_chosen_for_a_few_draws_far_off():
    rng = np.random.default_rng(0)
    values, few = 0.01 * rng.standard_normal(1000), np.zeros(1000)
    few[:8] = np.tile([-0.5, 0.5], 4)
    (run,) = next_runs._greedy(values + few, candidates(few, values), 0.001, 1e3, 1, 0.95)
    assert run["N"] == 2.0


def test_a_run_to_find_the_best_size_takes_no_more_tokens_than_there_are():
    known = known_of(simulated.rows(budgets=5, decades=2.0, sizes=5, seeds=1, noise=0.01))
    most = max(r["D"] for r in next_runs.propose(known, "N", AT, AT / 10).runs)
    found = next_runs.propose(known, "N", AT, AT / 10, most / 4, 2)
    assert found.runs and max(r["D"] for r in found.runs) <= most / 2
