import numpy as np
import pytest
import simulated
from scipy.interpolate import Akima1DInterpolator

from ehr_scaling.analysis.isoflop import interpolation, isoflop
from ehr_scaling.analysis.options import Options

U = np.arange(7) - 3.0


def test_akima_goes_through_the_mean_log_loss_of_every_size_and_finds_its_lowest_point():
    table = simulated.profile(2 + 0.05 * (U - 0.3) ** 2 + 0.01 * U**3 / 9, seeds=3, noise=0.002, seed=2)
    (fit,) = isoflop.fit(table, Options(draws=50, isoflop="akima"))
    x = np.unique(np.log(table.N))
    means = np.log(table.loss).reshape(7, 3).mean(1)
    np.testing.assert_allclose(np.log(fit.curve(np.exp(x))), means)
    points = np.linspace(x[0], x[-1], 200_001)
    losses = Akima1DInterpolator(x, means)(points)
    assert np.log(fit.N) == pytest.approx(points[losses.argmin()], abs=2e-3)
    assert pytest.approx(np.exp(losses.min()), rel=1e-6) == fit.L
    assert fit.resolution == pytest.approx(np.log(2) / np.sqrt(12))


def noisy(sd, C, repeats=1, sizes=40):
    """x and losses of smooth profiles with known noise of log loss, one of `sd` for each of C."""
    rng = np.random.default_rng(4)
    x = np.repeat(np.geomspace(1e6, 1e8, sizes), repeats)
    smooth = 2 + 0.1 * np.log(x / 1e7) ** 2
    return [(x, smooth * np.exp(s * rng.standard_normal(len(x)))) for s in sd]


def test_noise_of_runs_is_read_off_neighbours_and_falls_as_a_power_of_compute_where_it_does():
    C = np.geomspace(1e16, 1e19, 8)
    falling = 0.01 * (C / C[0]) ** -0.4
    found = interpolation.noise(C, noisy(falling, C), np.inf)
    np.testing.assert_allclose(found.sd, falling, rtol=0.15)
    assert found.freedom == 8 * 37
    constant = interpolation.noise(C, noisy(np.full(8, 0.01), C), np.inf)
    np.testing.assert_allclose(constant.sd, 0.01, rtol=0.1)
    assert np.ptp(constant.sd) == pytest.approx(0, abs=1e-15)
    # Of the means that the curve goes through: repeats of a size say nothing of how it lies to its neighbours.
    repeated = interpolation.noise(C, noisy(np.full(8, 0.01), C, repeats=8), np.inf)
    np.testing.assert_allclose(repeated.sd, 0.01 / 8**0.5, rtol=0.1)
    assert repeated.freedom == 8 * 37
    assert np.isnan(interpolation.noise(C[:1], noisy([0.01], C, sizes=3), np.inf).sd).all()


def test_uncertain_noise_widens_draws_to_those_of_student():
    factors = np.random.default_rng(0).standard_normal((20_000, 1))
    found = interpolation.Noise(np.ones(1), 5).uncertain(factors, np.random.default_rng(1))
    low, high = np.quantile(found, [0.025, 0.975])
    assert (low, high) == pytest.approx((-2.571, 2.571), rel=0.05)  # t of five degrees of freedom
