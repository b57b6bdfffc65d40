from types import SimpleNamespace

import numpy as np
import simulated

from ehr_scaling.analysis.forecast import misfit
from ehr_scaling.analysis.joint import joint_laws


def missed(table, residuals, near=None):
    law = SimpleNamespace(residuals=residuals, form=joint_laws.FORMS["coupled"])
    return misfit.misfit(law, table, np.ones(len(table)) if near is None else near, len(table))


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
