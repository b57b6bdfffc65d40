"""The optimizer of the laws: bounds, batches, and draws that go their own way."""

import csv

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.joint import newton
from ehr_scaling.analysis.joint.joint_fit import ALPHA, Coupled
from ehr_scaling.analysis.joint.joint_laws import FORMS
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.repeats import repeated_laws

START = np.array([-0.5, -1.0, -1.5, 0.3, 0.3, 0.0])


def problem(weightings=300):
    table = simulated.table(noise=0.01, seeds=1)
    x, z, y = (np.log(v) - np.log(v).mean() for v in (table.N, table.D, table.loss))
    weight = np.random.default_rng(0).standard_exponential((weightings, len(x)))
    return Coupled(x, z, FORMS["chinchilla"].free), np.tile(START, (weightings, 1)), y, weight


def test_each_problem_ends_where_it_does_alone(monkeypatch):
    runs, theta, y, weight = problem()
    together, totals = newton.minimise(runs, theta, y, weight, 0.01)
    assert np.ptp(totals) > 0
    monkeypatch.setattr(newton, "CACHED", 7 * len(y))  # seven problems at a time
    apart, again = newton.minimise(runs, theta, y, weight, 0.01)
    np.testing.assert_allclose(again, totals, rtol=1e-9)
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(theta, np.tile(START, (len(theta), 1)))  # starts stay as they were given


def test_no_problem_is_no_trouble():
    runs, theta, y, weight = problem()
    found, totals = newton.minimise(runs, theta[:0], y, weight[:0], 0.01)
    assert found.shape == (0, 6) and totals.shape == (0,)


def test_a_column_at_its_bound_stays_and_the_others_find_the_best_beside_it():
    runs, theta, y, weight = problem(20)
    runs.high[ALPHA - runs.free[0]] = 0.25  # of all bounds, that of alpha, which would be larger
    found, totals = newton.minimise(runs, theta, y, weight, 0.01)
    np.testing.assert_allclose(found[:, ALPHA], 0.25, rtol=1e-6)
    fixed = Coupled(runs.x, runs.z, runs.free[runs.free != ALPHA])
    _, lowest = newton.minimise(fixed, found, y, weight, 0.01)
    np.testing.assert_allclose(totals, lowest, rtol=1e-8)


def test_a_bound_of_repeated_data_keeps_no_start_from_its_optimum(real_data):
    """R_N* of the public runs ends at its bound: a step that would leave it must not take the others along."""
    path = real_data / "laws" / "muennighoff_182.csv"
    if not path.is_file():
        pytest.skip(f"no table of real runs at {path}: set EHR_SCALING_TEST_DATA")
    rows = list(csv.DictReader(path.open()))
    columns = [np.array([float(row[name]) for row in rows]) for name in ("N", "D", "U", "loss")]
    found = [repeated_laws.fit("effective", *columns, None, Options(draws=0, seed=s)).objective for s in (0, 1)]
    np.testing.assert_allclose(found, 0.00657121, rtol=1e-6)
