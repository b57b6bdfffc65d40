"""The studies that forecasts are judged on, and the forecasts of some of them."""

import numpy as np
import pytest

from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.options import Options
from launch.benchmarks import simulated_studies


@pytest.mark.parametrize("family", simulated_studies.FAMILIES)
def test_a_study_scatters_about_its_law_and_its_grid_about_the_best_sizes(family):
    for seed in range(4):
        study, again = (simulated_studies.study(family, seed) for _ in range(2))
        table = study.table
        np.testing.assert_array_equal(table.loss, again.table.loss)
        assert 1e-4 < np.std(np.log(table.loss / study.loss(table.N, table.D))) < 0.01
        np.testing.assert_allclose(table.C, 6 * table.N * table.D)
        for C in (table.C.min(), table.C.max()):
            best = study.best_size(C)
            near = study.loss(best * np.array([0.9, 1.0, 1.1]), C / (6 * best * np.array([0.9, 1.0, 1.1])))
            assert near[1] == near.min()
            assert table.N.min() / 10 < best < table.N.max() * 10


def test_families_differ_in_what_they_are_named_for():
    D = 1e30
    for family in simulated_studies.FAMILIES:
        study = simulated_studies.study(family, 1)
        N = study.table.N.max() * np.array([1.0, 10.0, 100.0])
        if family == "data-limited":  # endless tokens of so many patients are worth a bounded number
            N, spent = study.table.N.max(), study.table.D.max()
            assert study.loss(N, 1e4 * spent) == pytest.approx(study.loss(N, 1e8 * spent))
        else:
            assert (np.diff(study.loss(N, D)) < 0).all()


@pytest.mark.nightly
def test_forecasts_beyond_simulated_studies_are_near_and_their_intervals_hold():
    """Seeds that nothing was chosen on."""
    errors, inside, widths = [], [], []
    for family in simulated_studies.FAMILIES:
        for seed in (901, 902, 903):
            table = simulated_studies.study(family, seed).table
            level = np.log(table.C)
            above = level > level.max() - 0.25 * np.ptp(level)
            known, ahead = table.take(~above), table.take(above)
            central, low, high = extrapolation.forecaster(known, Options(draws=60))(ahead.N, ahead.D, ahead.C)
            errors.append(100 * np.abs(central / ahead.loss - 1).mean())
            inside.append(np.mean((low <= ahead.loss) & (ahead.loss <= high)))
            widths.append(100 * np.median((high - low) / central))
    assert np.mean(errors) < 1.6 and np.median(errors) < 1.4
    assert np.mean(inside) >= 0.9 and np.median(widths) < 8
