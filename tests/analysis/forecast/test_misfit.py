from types import SimpleNamespace

import numpy as np
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.analysis.forecast import misfit
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.tables.run_table import from_rows


def law_of(residuals):
    return SimpleNamespace(residuals=residuals, form=joint_laws.FORMS["coupled"])


def missed(table, residuals, near=None):
    return misfit.misfit(law_of(residuals), table, np.ones(len(table)) if near is None else near, len(table))


def test_noise_is_not_misfit_and_a_bend_is():
    table = simulated.table(budgets=6, sizes=8, seeds=1, decades=2.0)
    levels = np.geomspace(table.C.min(), table.C.max(), 5)
    rng = np.random.default_rng(0)
    noise = 0.003 * rng.standard_normal((40, len(table)))
    assert np.mean([missed(table, one)(levels) for one in noise]) < 0.0005
    bend = 0.01 * np.sin(3 * np.log10(table.N))
    of_bend = np.array([missed(table, bend + one)(levels) for one in noise])
    assert np.all((of_bend.mean(0) > 0.003) & (of_bend.mean(0) < 0.01))


def test_misfit_is_told_where_it_is():
    table = simulated.table(budgets=8, sizes=6, seeds=1, decades=3.0)
    small = np.where(table.C.min() * 10 > table.C, 0.02, 0.0)
    found = missed(table, small)
    assert found(table.C.min()) > 0.01 and found(table.C.max()) < 0.002
    assert found(table.C.max() * 100) == found(table.C.max())


def test_misfit_far_from_the_best_loss_is_not_that_of_a_forecast():
    table = simulated.table(budgets=6, sizes=8, seeds=1, decades=2.0)
    far = np.abs(np.log(table.N / simulated.optimum(table.C))) > 1.5
    residuals = np.where(far, 0.1, 0.0)
    assert missed(table, residuals)(table.C.max()) > 0.04
    assert missed(table, residuals, np.where(far, 1e-4, 1.0))(table.C.max()) < 0.002


def of_a_fit(table, values, parameters):
    """What a polynomial of so many parameters leaves of values [n], as a law's fit would."""
    x, z = np.log(table.N / table.N.mean()), np.log(table.D / table.D.mean())
    terms = np.stack([1 + 0 * x, x, z, x * x, x * z, z * z], 1)[:, :parameters]
    return values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]


def test_noise_is_rarely_called_misfit_however_many_parameters_it_was_fitted_with():
    """A fit to few runs makes neighbours differ; the standard error that is taken off leaves a quarter."""
    table = simulated.table(budgets=5, sizes=5, seeds=1, decades=2.0)
    C, rng = np.sqrt(table.C.min() * table.C.max()), np.random.default_rng(0)
    noise = 0.004 * rng.standard_normal((400, len(table)))
    bare, fitted = (
        np.mean([misfit.misfit(law_of(of_a_fit(table, one, taken)), table, np.ones(25), runs)(C) > 0 for one in noise])
        for taken, runs in ((0, 1e9), (6, 25))
    )
    assert 0.12 < bare < 0.36 and 0.12 < fitted < 0.36


def test_misfit_is_as_large_as_what_is_missed():
    table = simulated.table(budgets=8, sizes=8, seeds=1, decades=3.0)
    rng, found = np.random.default_rng(1), []
    for _ in range(60):
        wave = np.sin(1.2 * np.log(table.N) + rng.uniform(0, 7)) * np.sqrt(2) * 0.01  # of mean square .01²
        residuals = wave + 0.003 * rng.standard_normal(64)
        found.append(misfit.misfit(law_of(residuals), table, np.ones(64), 1e9)(np.sqrt(table.C.min() * table.C.max())))
    assert 0.007 < np.sqrt(np.mean(np.square(found))) < 0.0105


@settings(max_examples=10, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-2, 2), st.permutations(range(30)), st.booleans())
def test_units_and_the_order_of_rows_carry_over(n, d, size, order, grid):
    rows, rng = simulated.rows(budgets=5, sizes=6, seeds=1), np.random.default_rng(3)
    for r in rows:  # on a grid, several neighbours are as near
        r["N"] *= 1.0 if grid else np.exp(0.1 * rng.standard_normal())
    table = from_rows(rows, source="x")
    residuals, near = np.random.default_rng(2).standard_normal(30).cumsum() * 0.003, np.linspace(0.2, 1, 30)
    plain = missed(table, residuals, near)
    rows = [{**r, "N": 10**n * r["N"], "D": 10**d * r["D"], "C": 10 ** (n + d) * r["C"]} for r in table.rows()]
    other = missed(
        from_rows([rows[i] for i in order], source="x"), 10**size * residuals[list(order)], near[list(order)]
    )
    np.testing.assert_allclose(other.level, plain.level + n + d, atol=1e-9)
    np.testing.assert_allclose(other.deviation, 10**size * plain.deviation, rtol=1e-6, atol=1e-12)
