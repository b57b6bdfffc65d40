from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from ehr_scaling.analysis.joint import newton
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.repeats import effective_data, repeated_laws
from ehr_scaling.analysis.repeats.repeated_laws import FORMS
from ehr_scaling.analysis.words import SUPPORTED, UNIDENTIFIED

NONE, FEW = Options(draws=0), Options(draws=100)
BASE = {"E": 1.0, "A": 62.6, "B": 219.0, "alpha": 0.34, "beta": 0.34}
TRUTH = {"penalty": {"P": 0.02, "delta": 0.8, "kappa": 0.6}, "effective": {"R_D": 12.0, "R_N": 4.0}}


def grid(sizes=6, pools=4, seed=0):
    """N, D, U of runs of 1 to 64 passes over nested pools of tokens."""
    rng = np.random.default_rng(seed)
    N, U, passes = np.meshgrid(np.geomspace(3e4, 3e7, sizes), np.geomspace(1e6, 1e8, pools), [1, 2, 4, 16, 64])
    N, U, passes = N.ravel(), U.ravel(), passes.ravel() * rng.uniform(0.9, 1.3, N.size)
    return N, np.maximum(passes, 1) * U, U


def losses(name, N, D, U):
    if name == "effective":
        return effective_data.EffectiveData(12.0, 4.0, BASE, 0.0, np.zeros((0, 2)), {}, {})(N, D, U)
    loss = BASE["E"] + BASE["A"] * N ** -BASE["alpha"] + BASE["B"] * D ** -BASE["beta"]
    if name == "penalty":
        loss = loss + 0.02 * np.maximum(D / U - 1, 0) ** 0.8 * (N / U) ** 0.6
    return loss


@pytest.mark.parametrize("name", FORMS)
def test_gradient_and_hessian_agree_with_finite_differences(name):
    rng = np.random.default_rng(0)
    x, z, u = rng.normal(size=(3, 40))
    u = np.minimum(u, z)
    terms, y, delta = FORMS[name].terms(x, z, u), 0.3 * rng.normal(size=40), 0.2
    weight = rng.integers(0, 3, (1, 40)).astype(float)
    at = np.array([-1.0, -1.5, -1.3, 0.3, 0.5, *([-2.0, 0.7, 0.4] if name == "penalty" else [1.0, 0.5])])
    at = at[: 5 + len(FORMS[name].extra)]

    def total(t):
        return newton.huber_sum(t[None], terms, y, weight, delta)

    residual = newton.log_loss(at[None], terms, 40) - y
    assert 0 < (np.abs(residual) <= delta).sum() < 40  # some on either branch of the Huber loss
    _, gradient, hessian = total(at)
    np.testing.assert_allclose(gradient[0], approx_fprime(at, lambda t: total(t)[0][0], 1e-7), rtol=1e-4, atol=1e-5)
    if name != "effective":  # its terms bend, which the steps leave out
        columns = [approx_fprime(at, lambda t, k=k: total(t)[1][0, k], 1e-7) for k in range(len(at))]
        np.testing.assert_allclose(hessian[0], np.array(columns), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TRUTH)
def test_a_known_law_is_recovered(name):
    N, D, U = grid()
    law = repeated_laws.fit(name, N, D, U, losses(name, N, D, U), None, NONE)
    for parameter, value in {**BASE, **TRUTH[name]}.items():
        assert law.parameters[parameter] == pytest.approx(value, rel=5e-3), parameter
    np.testing.assert_allclose(law(N, D, U), losses(name, N, D, U), rtol=1e-5)
    assert law.blurred == () and law(N[:2, None], D[:3], U[:3]).shape == (2, 3)


@pytest.mark.parametrize("name", TRUTH)
def test_intervals_hold_the_truth_and_say_supported(name):
    N, D, U = grid()
    loss = losses(name, N, D, U) * np.exp(0.003 * np.random.default_rng(1).standard_normal(len(N)))
    law = repeated_laws.fit(name, N, D, U, loss, None, FEW)
    assert law.failed == 0
    for parameter, value in {**BASE, **TRUTH[name]}.items():
        low, high = law.intervals[parameter]
        reach = 0.5 * (high - low)  # one of twelve intervals may miss by a little
        assert low - reach < value < high + reach, parameter
        if parameter in ("alpha", "beta", *TRUTH[name]):
            assert law.words(FEW)[parameter].word == SUPPORTED


def test_the_effective_law_is_the_one_of_its_paper():
    N, D, U = grid()
    law = repeated_laws.fit("effective", N, D, U, losses("effective", N, D, U), None, NONE)
    p = law.parameters
    other = effective_data.EffectiveData(p["R_D"], p["R_N"], p, 0.0, np.zeros((0, 2)), {}, {})
    np.testing.assert_allclose(law(N, D, U), other(N, D, U), rtol=1e-9)
    np.testing.assert_allclose(law(N, D, 3 * D), other(N, D, D), rtol=1e-9)  # more than is seen does not matter


@cache
def noisy():
    N, D, U = grid(sizes=4, pools=3)
    return N, D, U, losses("penalty", N, D, U) * np.exp(0.01 * np.random.default_rng(2).standard_normal(len(N)))


@cache
def in_own_units(name):
    return repeated_laws.fit(name, *noisy(), None, NONE)


@given(
    st.sampled_from(list(FORMS)), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.1, 10)
)  # fmt: skip
@settings(max_examples=6, deadline=None)
def test_other_units_rescale_the_law_and_nothing_else(name, by_N, by_D, by_loss):
    N, D, U, loss = noisy()
    law = in_own_units(name)
    other = repeated_laws.fit(name, by_N * N, by_D * D, by_D * U, by_loss * loss, None, NONE)
    assert other.objective == pytest.approx(law.objective, rel=1e-6)
    np.testing.assert_allclose(other(by_N * N, by_D * D, by_D * U), by_loss * law(N, D, U), rtol=1e-4)
    if name == "penalty":
        for parameter in ("alpha", "beta", "delta", "kappa"):
            assert other.parameters[parameter] == pytest.approx(law.parameters[parameter], rel=1e-2)


def test_what_the_runs_do_not_vary_is_unidentified():
    N, D, U = grid()
    loss = losses("penalty", N, D, U) * np.exp(0.003 * np.random.default_rng(1).standard_normal(len(N)))
    two = np.isin(N, np.unique(N)[[1, 4]])  # of two sizes, E, A and alpha make up for each other
    law = repeated_laws.fit("chinchilla", N[two], D[two], U[two], loss[two], None, FEW)
    assert {"A", "alpha"} <= set(law.blurred) <= {"E", "A", "alpha"}
    assert law.words(FEW)["alpha"].word == UNIDENTIFIED
    assert law.words(FEW)["beta"].word == SUPPORTED
    same = np.where(D / U > 1.5, 4 * U, U)  # all repeat three times or not at all
    law = repeated_laws.fit("penalty", N, same, U, losses("penalty", N, same, U), None, FEW)
    assert {"P", "delta"} <= set(law.blurred) and "kappa" not in law.blurred
    assert law.words(FEW)["delta"].word == UNIDENTIFIED


@pytest.mark.parametrize("name", FORMS)
def test_held_out_runs_are_forecast_as_if_they_did_not_exist(name):
    N, D, U = grid(sizes=4, pools=3)
    loss = losses("penalty", N, D, U) * np.exp(0.01 * np.random.default_rng(3).standard_normal(len(N)))
    fold = np.arange(len(N)) % 3
    law = repeated_laws.fit(name, N, D, U, loss, None, NONE)
    missed = repeated_laws.held_out(law, N, D, U, loss, fold, NONE.delta)
    wild = loss.copy()
    wild[fold == 1] *= 3  # what is held out cannot move its own forecast
    again = repeated_laws.held_out(law, N, D, U, wild, fold, NONE.delta)
    np.testing.assert_allclose((again + np.log(wild))[fold == 1], (missed + np.log(loss))[fold == 1], rtol=1e-12)
    terms, y = FORMS[name].terms(*repeated_laws._logs(N, D, U, law.scale)), np.log(loss / law.scale[2])
    weight = (fold != np.arange(3)[:, None]).astype(float)
    _, totals = repeated_laws._without(law, terms, y, weight, NONE.delta)
    for k in range(3):
        kept = fold != k
        alone = repeated_laws.fit(name, N[kept], D[kept], U[kept], loss[kept], None, NONE)
        assert totals[k] <= alone.objective * 1.001  # one start does as well as many


def test_too_little_for_a_law_is_none_and_equal_losses_no_trouble():
    N, D, U = grid()
    loss = losses("penalty", N, D, U)
    assert repeated_laws.fit("penalty", N[:11], D[:11], U[:11], loss[:11]) is None
    assert repeated_laws.fit("penalty", N, D, D, loss) is None
    assert repeated_laws.fit("penalty", np.full(len(N), 1e6), D, U, loss) is None
    assert repeated_laws.fit("penalty", N, D, U, loss, np.arange(len(N)) % 5) is None  # five runs, many checkpoints
    N, D, U = grid(sizes=4, pools=2)
    for name in FORMS:
        law = repeated_laws.fit(name, N, D, U, np.full(len(N), 2.5), None, replace(FEW, draws=20))
        np.testing.assert_allclose(law(N, D, U), 2.5, rtol=1e-3)
        assert UNIDENTIFIED in {word.word for word in law.words(FEW).values()}
