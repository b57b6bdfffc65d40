import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.optimum import cost_of, optimum, proportional
from ehr_scaling.analysis.plan import next_runs, planner
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.uncertainty import Options

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
    return planner.Planner(found, cost_of(table), seen, np.nan, np.nan, 1.0, None, None, [])


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
def test_proposed_runs_narrow_the_target_more_than_the_grid_again(target):
    proposed, again, before = [], [], []
    for seed in range(8):
        rows = simulated.rows(budgets=5, decades=2.0, sizes=5, seeds=1, noise=0.01, seed=seed)
        known = known_of(rows)
        dearest = [r for r in rows if r["C"] >= known.seen["C"][1] * 0.99]
        budget = sum(r["C"] for r in dearest)
        found = next_runs.propose(known, target, AT, budget)
        assert 0 < found.cost <= budget * (1 + 1e-9) and found.after < found.before
        assert [r["width"] for r in found.runs] == sorted((r["width"] for r in found.runs), reverse=True)
        before.append(width(known, target))
        proposed.append(width(known_of(rows + trained(found.runs, seed)), target))
        again.append(width(known_of(rows + trained(dearest, seed)), target))
    assert np.mean(proposed) < 0.97 * np.mean(again) < np.mean(before)


def test_every_gradient_is_that_of_the_target():
    law = known_of(simulated.rows(budgets=5, sizes=5, seeds=1)).forecaster.law
    free = law.form.free
    slope = next_runs._gradient(lambda theta: next_runs._target(law, theta, "N", AT, proportional()), law.theta, free)
    for k, column in enumerate(free):
        moved = law.theta.copy()
        moved[column] += 1e-3
        change = next_runs._target(law, moved, "N", AT, proportional()) - next_runs._target(
            law, law.theta, "N", AT, proportional()
        )
        assert float(change[0]) == pytest.approx(1e-3 * float(slope[k]), rel=0.01, abs=1e-9)


def test_a_budget_below_the_cheapest_run_buys_nothing():
    known = known_of(simulated.rows(budgets=5, sizes=5, seeds=1))
    found = next_runs.propose(known, "loss", AT, known.seen["C"][0] / 10)
    assert found.runs == [] and found.cost == 0 and found.after == found.before
