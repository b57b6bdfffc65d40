import numpy as np
import pytest
import simulated
from scipy import stats

from ehr_scaling.analysis.forecast import extrapolation, seeds
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import from_rows


def moved(shared, own=0.0, seed=0, noise=0.0005, **grid):
    """A study whose runs of one seed are all off alike, and those of one seed in a budget."""
    rng = np.random.default_rng(seed)
    rows = simulated.rows(**{"budgets": 6, "sizes": 6, "seeds": 2, "noise": noise, "seed": seed, **grid})
    by_seed, by_budget = rng.standard_normal(9), rng.standard_normal((9, len({r["C"] for r in rows})))
    at = {C: k for k, C in enumerate(sorted({r["C"] for r in rows}))}
    for r in rows:
        r["loss"] *= np.exp(shared * by_seed[r["seed"]] + own * by_budget[r["seed"], at[r["C"]]])
    return from_rows(rows, source="x")


def reach(table, drawn=0.001, freedom=10.0):
    return seeds.reach(table, np.ones(len(table)), drawn, freedom, 0.95)


def test_seeds_that_share_nothing_add_little_and_one_seed_nothing():
    assert reach(moved(0.0)) < 0.002
    assert reach(moved(0.01, seeds=1)) == 0


def test_what_seeds_share_is_as_uncertain_as_their_number():
    def usual(shared, own, count):
        return np.median([reach(moved(shared, own, seed=s, seeds=count)) for s in range(15)])

    assert usual(0.01, 0.0, 2) > 2 * usual(0.01, 0.0, 8) > 0.01
    # What moves single budgets, a law averages over them.
    assert usual(0.0, 0.01, 4) < 0.7 * usual(0.01, 0.0, 4)


def test_the_whole_interval_is_students_of_both_variances_together():
    table = moved(0.01, seeds=8)
    half = np.hypot(reach(table, drawn=0.02), stats.t.ppf(0.975, 10) * 0.02)
    few, many = (stats.t.ppf(0.975, f) * np.hypot(0.02, 0.01 / np.sqrt(8)) for f in (10, 40))
    assert many * 0.9 < half < few * 1.1


@pytest.mark.nightly
def test_a_forecast_holds_the_truth_where_all_its_runs_are_off_alike():
    held, C = [], np.array([1e12])
    N = simulated.optimum(C)
    for seed in range(12):
        found = extrapolation.forecaster(moved(0.004, seed=seed, noise=0.001), Options(draws=60))
        _, low, high = found(N, C / (6 * N), C, noise=False)
        truth = simulated.loss(N, C / (6 * N))
        alone = found.shared
        held.append([low < truth < high, low * np.exp(alone) < truth < high * np.exp(-alone)])
    kept, without = np.mean(held, axis=0)
    assert kept >= 10 / 12 and without <= 7 / 12
