"""N*, D* and L* under counted C: Hoffmann's formula where C ∝ N D, the truth of simulated studies where it is not."""

from dataclasses import replace

import numpy as np
import pytest
import simulated
from scipy.interpolate import PchipInterpolator

from ehr_scaling import flops
from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.joint import joint_laws, optimum
from ehr_scaling.analysis.joint.identifiability import identify
from ehr_scaling.analysis.joint.joint_laws import ALPHA, BETA
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan import plan_basis, planner
from ehr_scaling.analysis.tables.run_table import from_rows

TOP = 1e15


def ladder(vocab=4096, context=512):
    """(N, f) of decoders as this project counts them: from 46 to 7 FLOPs a parameter and token."""
    shapes = [(32, 2), (48, 2), (64, 3), (80, 3), (96, 4), (128, 4), (160, 5), (192, 6), (256, 6), (320, 8), (384, 8),
              (512, 10), (640, 12)]  # fmt: skip
    found = []
    for width, layers in shapes:
        ff = 8 * width // 3
        body = flops.parameters(width=width, layers=layers, ff=ff, vocab=vocab, tied=True).body
        each = flops.training(width=width, layers=layers, ff=ff, vocab=vocab, context=context) / context
        found.append((body, each / body))
    return found


def counted(noise=0.002, seeds=2, seed=0):
    """IsoFLOP budgets of sizes from `ladder`, each with the seven sizes about its optimum."""
    rng, sizes, rows = np.random.default_rng(seed), ladder(), []
    for C in np.geomspace(1e13, TOP, 5):
        all_losses = [simulated.loss(N, C / f / N) for N, f in sizes]
        middle = int(np.clip(np.argmin(all_losses), 3, len(sizes) - 4))
        for N, f in sizes[middle - 3 : middle + 4]:
            for s in range(seeds):
                loss = simulated.loss(N, C / f / N) * np.exp(noise * rng.standard_normal())
                rows.append({"N": N, "D": C / f / N, "C": C, "loss": loss, "seed": s})
    return from_rows(rows, source="counted")


def truth(C):
    """N*, D*, L* of the simulated law, f a smooth curve through the ladder."""
    x, y = np.log(ladder()).T
    N = np.geomspace(np.exp(x[0]), np.exp(x[-1]), 40_001)
    D = C / np.exp(PchipInterpolator(x, y)(np.log(N))) / N
    best = int(simulated.loss(N, D).argmin())
    return N[best], D[best], simulated.loss(N[best], D[best])


def fitted(table, draws=200, law="chinchilla"):
    return joint_laws.fit(law, table.N, table.D, table.loss, table.clusters, Options(draws=draws))


@pytest.mark.parametrize("name", list(joint_laws.FORMS))
def test_where_c_is_proportional_to_nd_it_is_hoffmanns_formula(name):
    law, C = fitted(simulated.table(), 0, name), 3e12
    p = law.parameters
    G = (p["alpha"] * p["A"] / (p.get("beta", 1.0) * p["B"])) ** (1 / (p["alpha"] + p.get("beta", 1.0)))
    a = p.get("beta", 1.0) / (p["alpha"] + p.get("beta", 1.0))
    found = optimum.optimum(law, C, optimum.cost_of(simulated.table()))
    assert pytest.approx(G * (C / 6) ** a, rel=1e-9) == found.N
    assert pytest.approx(C / 6 / found.N) == found.D and pytest.approx(float(law(found.N, found.D))) == found.L
    slopes = optimum.exponents(law, law.theta[None], np.array([1e11, 1e13]), optimum.proportional())
    np.testing.assert_allclose(slopes[0], [a, 1 - a], rtol=1e-9)


def test_where_f_is_a_power_of_size_it_is_the_formula_with_that_power():
    """f = c N^φ: then α A N^-α = (1 + φ) β B (C / c)^-β N^(β (1 + φ))."""
    law, phi, c, C = fitted(simulated.table(), 0), -0.4, 3e3, 1e13
    cost = optimum.Cost(np.array([1e3, 1e7]), c * np.array([1e3, 1e7]) ** phi, np.full(2, phi))
    p = law.parameters
    lean = p["alpha"] * p["A"] / ((1 + phi) * p["beta"] * p["B"])
    expected = (lean * (C / c) ** p["beta"]) ** (1 / (p["alpha"] + p["beta"] * (1 + phi)))
    assert pytest.approx(expected, rel=1e-9) == optimum.optimum(law, C, cost).N
    slopes = optimum.exponents(law, law.theta[None], np.array([3e12, 3e13]), cost)
    a = p["beta"] / (p["alpha"] + p["beta"] * (1 + phi))
    np.testing.assert_allclose(slopes[0], [a, 1 - (1 + phi) * a], rtol=1e-6)


def test_it_is_the_lowest_loss_of_all_sizes_at_any_parameters():
    """Also where f falls so fast that the loss turns twice."""
    rng, law = np.random.default_rng(3), fitted(simulated.table(), 0)
    x, y = np.log(ladder()).T
    cost = optimum.cost_of(counted())
    theta = np.tile(law.theta, (200, 1))
    theta[:, [ALPHA, BETA]] *= np.exp(0.3 * rng.standard_normal((200, 2)))
    N = np.geomspace(1e2, 1e12, 20_001)
    for C in (1e9, 1e12, 1e14, 1e17):
        sizes, tokens, losses = np.exp(optimum.log_best(law, theta, C, cost)).T
        grid = law.losses_of(theta, N, cost.tokens(N, C))
        assert (losses <= grid.min(1) * (1 + 1e-9)).all()
        np.testing.assert_allclose(tokens * sizes * cost(sizes), C, rtol=1e-12)
    np.testing.assert_allclose(cost(np.exp(x[2:-2])), np.exp(y[2:-2]), rtol=1e-9)


def test_counted_compute_that_is_not_6nd_gives_the_truth_within_its_intervals():
    """f from 46 to 7: one median f puts N* 40 % too low, and D/N at twice the truth."""
    table = counted()
    law, options = fitted(table), Options(draws=200)
    N, D, L = truth(TOP)
    found = optimum.optimum(law, TOP, optimum.cost_of(table))
    assert pytest.approx(N, rel=0.07) == found.N and pytest.approx(D / N, rel=0.12) == found.D / found.N
    assert pytest.approx(L, rel=0.003) == found.L
    told = identify(law, table, (TOP,), options)
    for name, value in (("N", N), ("D", D), ("D/N", D / N), ("L", L)):
        low, high = told.of(name, TOP).interval
        assert low <= value <= high, name
        low, high = found.interval(name, 0.99)
        assert low <= value <= high, name
    low, high = told.of("a").interval
    C = np.geomspace(1e13, TOP, 5)
    assert low <= np.polyfit(np.log(C), np.log([truth(each)[0] for each in C]), 1)[0] <= high
    assert told.of("N", TOP).estimate == pytest.approx(found.N, rel=1e-9)


def test_a_plan_without_limits_is_that_optimum():
    table = counted()
    options = Options(draws=60, law="chinchilla")
    known = plan_basis.planner(extrapolation.forecaster(table, options), table)
    made = planner.plan(known, TOP, 1e15, 1)
    assert pytest.approx(truth(TOP)[0], rel=0.1) == made.N
    assert made.D * made.N * known.cost(np.array(made.N)) == pytest.approx(TOP, rel=1e-9)


def test_sizes_next_to_each_other_share_a_knot_and_one_size_has_no_slope():
    table = counted(seeds=1)
    near = table.take(np.tile(np.arange(len(table)), 2))
    jitter = np.where(np.arange(len(near)) < len(table), 1.0, 1.01)
    near = replace(near, N=near.N * jitter, C=near.C / jitter)
    one, other = optimum.cost_of(table), optimum.cost_of(near)
    assert len(one.sizes) == len(other.sizes)
    N = np.geomspace(1e5, 1e7, 50)
    np.testing.assert_allclose(one(N), other(N), rtol=0.05)
    assert optimum.cost_of(table.take(table.N[0] == table.N)).constant


def test_exponents_go_through_computes_whose_best_size_was_run():
    table = counted(seeds=1)
    small = table.take(np.median(table.N) > table.N)
    law, cost = fitted(small, draws=0), optimum.cost_of(small)
    C = optimum.computes(law, cost, small)
    N = np.array([optimum.optimum(law, each, cost).N for each in C])
    assert 0 < len(C) < optimum.POINTS and ((small.N.min() <= N) & (small.N.max() >= N)).all()
