"""Properties that widths have whatever the runs: of units, of the order of rows, of levels, of what is put together."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_widths import study

from ehr_scaling.analysis import small_sample
from ehr_scaling.analysis.draws import spread
from ehr_scaling.analysis.isoflop import isoflop, parabola, power_laws, sizes, widths
from ehr_scaling.analysis.isoflop.power_laws import Freedom
from ehr_scaling.analysis.isoflop.widths import SeedEffect, Width
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import from_rows

FEW = Options(draws=100)
MADE = {"noise": 0.003, "shared": 0.002, "own": 0.002, "apart": 0.002}
quick = settings(max_examples=5, deadline=None)


def lines_of(fits):
    return list(power_laws.fit(fits, FEW).values())


def bounds(fits):
    return np.array([[*b.N_interval, *b.D_interval, *b.L_interval] for b in fits])


@quick
@given(st.integers(0, 99), st.floats(-2, 2), st.floats(-3, 3), st.floats(-3, 3))
def test_units_of_loss_size_and_tokens_carry_over_and_change_nothing_else(seed, loss, n, d):
    loss, n, d = 10**loss, 10**n, 10**d
    rows = study(seed, **MADE).rows()
    other = [{**r, "loss": loss * r["loss"], "N": n * r["N"], "D": d * r["D"], "C": n * d * r["C"]} for r in rows]
    one, two = (isoflop.fit(from_rows(each, source="x"), FEW) for each in (rows, other))
    np.testing.assert_allclose(bounds(two) / bounds(one), np.tile([n, n, d, d, loss, loss], (len(one), 1)), rtol=1e-6)
    for a, b in zip(lines_of(one), lines_of(two), strict=True):
        np.testing.assert_allclose([b.exponent, *b.interval, b.misfit], [a.exponent, *a.interval, a.misfit], rtol=1e-5)


@quick
@given(st.permutations(range(72)))
def test_the_order_of_the_rows_changes_nothing(order):
    rows = study(1, **MADE).rows()
    one, two = (isoflop.fit(from_rows(each, source="x"), FEW) for each in (rows, [rows[i] for i in order]))
    np.testing.assert_allclose(bounds(two), bounds(one), rtol=1e-9)


@quick
@given(st.integers(0, 99))
def test_intervals_nest_in_their_level(seed):
    table = study(seed, **MADE)
    levels = [isoflop.fit(table, replace(FEW, level=level)) for level in (0.5, 0.8, 0.95)]
    for narrow, wide in pairwise(levels):
        inner, outer = bounds(narrow), bounds(wide)
        assert (outer[:, ::2] < inner[:, ::2]).all() and (inner[:, 1::2] < outer[:, 1::2]).all()


def test_copies_of_the_runs_are_no_further_evidence():
    """Seeds that agree to the last digit say nothing that one of them does not: what counts is the scatter of sizes."""
    rows = study(2, noise=0.003, seeds=1).rows()
    copies = [{**r, "run": f"{r['run']}-{s}", "seed": s} for r in rows for s in range(4)]
    fits = [isoflop.fit(from_rows(each, source="x"), Options(draws=600)) for each in (rows, copies)]
    one, four = ([np.ptp(np.log([b.N_interval, b.L_interval]), axis=1) for b in each] for each in fits)
    assert np.median(np.divide(four, one)) == pytest.approx(1, abs=0.1)


# Variances that are drawn together


@quick
@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=9), st.integers(0, 99))
def test_moderated_variances_lie_between_their_own_and_the_common_one(variances, seed):
    variance = np.array(variances)
    freedom = np.random.default_rng(seed).integers(1, 9, len(variance)).astype(float)
    middle, worth = small_sample.common(variance, freedom)
    found = small_sample.moderated(variance, freedom)
    assert (np.minimum(variance, middle) * (1 - 1e-9) <= found).all()
    assert (found <= np.maximum(variance, middle) * (1 + 1e-9)).all()
    if np.isfinite(worth):  # what is better known moves less
        moved = (found - variance) / (middle - variance)
        assert (np.diff(moved[np.argsort(freedom, kind="stable")]) <= 1e-9).all()


def test_the_common_variance_and_what_it_is_worth_are_those_of_the_truth():
    rng = np.random.default_rng(0)
    truth = 2.0 * 6 / rng.chisquare(6, 8000)  # inverse chi-square: the conjugate of an estimate
    freedom = rng.integers(2, 9, 8000).astype(float)
    middle, worth = small_sample.common(truth * rng.chisquare(freedom) / freedom, freedom)
    assert middle == pytest.approx(2.0, rel=0.05) and worth == pytest.approx(6, rel=0.1)
    alike = [small_sample.common(rng.chisquare(3, 9) / 3, np.full(9, 3.0)) for _ in range(400)]
    assert np.mean([np.isinf(worth) for _, worth in alike]) > 0.5
    assert np.exp(np.mean([np.log(middle) for middle, _ in alike])) == pytest.approx(1.0, abs=0.12)


def variances(fits):
    """[budgets, 2] of one size's relative noise, that the widths of the draws amount to, and that each has alone."""
    out = []
    for b in fits:
        drawn = spread(b.turns) ** 2
        own = drawn / (b.small.unit * b.L**2)
        out.append((b.width.factor**2 * own, own / b.small.inflation))
    return np.array(out).transpose(1, 0, 2)


def test_budgets_of_one_noise_have_it_all_and_of_several_their_own_in_part():
    alike = told = 0
    for seed in range(30):
        one = [b for b in isoflop.fit(study(seed, noise=0.003, seeds=1), FEW) if np.isfinite(b.N)]
        got, _ = variances(one)
        if np.ptp(np.log(got)) < 0.15:  # chance explains all differences
            alike += 1
            total = sum(b.freedom for b in isoflop.fit(study(seed, noise=0.003, seeds=1), FEW))
            assert all((b.width.freedom <= total).all() for b in one)
            assert max(b.width.freedom.max() for b in one) > max(b.small.freedom.max() for b in one) + 2
        rows = study(seed, noise=0.0005, seeds=1, per_budget=8).rows()
        rng = np.random.default_rng(seed)
        loud = [{**r, "loss": r["loss"] * np.exp(0.01 * rng.standard_normal() * (i < 24))} for i, r in enumerate(rows)]
        several = [b for b in isoflop.fit(from_rows(loud, source="x"), FEW) if np.isfinite(b.N)]
        got, own = variances(several)
        if np.ptp(np.log(got)) > 0.3 and len(several) == 6:
            told += 1
            assert np.std(np.log(got)) < np.std(np.log(own)) and (got[:3].mean(0) > 3 * got[3:].mean(0)).all()
            moved, away = np.log(got / own), np.log(own).mean(0) - np.log(own)
            assert (moved * away).mean() > 0  # towards the others
    assert alike > 15 and told > 15


def test_a_budget_that_knows_its_own_noise_keeps_it_and_one_that_does_not_has_that_of_all():
    rng = np.random.default_rng(0)
    rows = [
        {**r, "loss": r["loss"] * np.exp(0.01 * rng.standard_normal() * (i < 24))}
        for i, r in enumerate(study(0, noise=0.0005, seeds=1, per_budget=8).rows())
    ]
    fits = [b for b in isoflop.fit(from_rows(rows, source="x"), FEW) if np.isfinite(b.N)]
    loss = np.array([b.L for b in fits])

    def found(freedom):
        given = [replace(b, small=b.small._replace(freedom=np.full(2, freedom))) for b in fits]
        return [replace(b, width=w) for b, w in zip(given, widths.moderated(given, loss), strict=True)]

    kept, own = variances(found(1e9))
    np.testing.assert_allclose(kept, own, rtol=1e-3)
    shared, _ = variances(found(1e-9))
    assert np.ptp(np.log(shared)) < 1e-3 < np.ptp(np.log(own))


def test_of_a_budget_alone_draws_are_as_wide_as_the_truth_scatters():
    """Residuals divided by one less their leverage are too large on average: that is taken back."""
    scaled, optima, lowest = [], [], []
    u, rng = np.linspace(-1.5, 1.5, 6), np.random.default_rng(2)
    for _ in range(300):
        y, factors = 2 + 0.1 * u**2 + 0.005 * rng.standard_normal(6), rng.standard_normal((100, 6))
        b = parabola.fit(np.exp(u), y, factors, reach=99, level=0.95, what="size")
        (width,) = widths.moderated([b], np.full(1, 2.0))
        scaled.append(width.factor**2 * spread(b.turns) ** 2)
        optima.append(np.log(b.optimum))
        lowest.append(b.lowest)
    np.testing.assert_allclose(np.mean(scaled, 0), [np.var(optima), np.var(lowest)], rtol=0.25)


def told(freedom=np.inf, factor=(1.0, 1.0), effect=(0.0, 0.0), of=(1, 1), seeds=1, bent=0.0, noise=0.01, draws=40_000):
    rng = np.random.default_rng(3)
    chance = np.column_stack([rng.uniform(size=draws), rng.standard_normal((draws, 2))])
    width = Width(np.array(factor), np.broadcast_to(freedom, 2).astype(float))
    shared = SeedEffect(*effect, of, np.array([seeds]))
    drawn = noise * rng.standard_normal((draws, 3))
    found = widths.widened(drawn, np.zeros(3), width, 2.0, shared, seeds, bent, chance)
    return found.draws, found.shift


def reach(values):
    return float(np.quantile(values, 0.975))


def cubics(third, noise=0.0, seed=0):
    """Profiles of eight budgets: a parabola with a cubic term, six sizes about it at random."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(8):
        u = np.linspace(-1.5, 1.5, 6) + rng.uniform(-0.3, 0.3)
        y = 2 + 0.1 * u**2 + third * u**3 + noise * rng.standard_normal(6)
        out.append(parabola.fit(np.exp(u), y, np.empty((0, 6)), reach=99, level=0.95, what="size"))
    return out


def test_a_cubic_tells_how_far_the_turn_of_the_parabola_is_off():
    """The minimum of 0.1 u^2 + c u^3 stays at 0, where the vertex of the parabola goes away from it."""
    found = cubics(0.002)
    assert [b.bend.shift for b in found] == pytest.approx([-np.log(b.optimum) for b in found], rel=0.05)
    off = np.sqrt(np.mean([np.log(b.optimum) ** 2 for b in found]))
    assert np.sqrt(widths.bent(found, np.full(8, 2.0))) == pytest.approx(off, rel=0.15)
    assert widths.bent(found[:2], np.full(2, 2.0)) == 0.0


def test_what_turns_are_off_by_is_what_noise_does_not_explain():
    loss = np.full(8, 2.0)
    nothing, something = (
        [widths.bent(cubics(third, 0.001, seed), loss) for seed in range(60)] for third in (0.0, 0.004)
    )
    off = np.mean([np.log(b.optimum) ** 2 for b in cubics(0.004)])
    assert np.median(nothing) < 0.03 * off and np.mean(something) == pytest.approx(off, rel=0.25)


def test_turns_off_by_more_than_noise_widen_sizes_and_tokens_and_no_loss():
    drawn, _ = told(bent=0.02**2)
    assert drawn[:, :2].std(0) == pytest.approx(np.hypot(0.01, 0.02), rel=0.03)
    assert drawn[:, 2].std() == pytest.approx(0.01, rel=0.03)


def test_draws_have_students_tails_of_their_freedom():
    z = stats.norm.ppf(0.975)
    drawn, shift = told()
    assert not shift.any() and reach(drawn[:, 0]) == pytest.approx(0.01 * z, rel=0.03)
    drawn, _ = told(freedom=[3, 8])
    expected = 0.01 * stats.t.ppf(0.975, [3, 3, 8])
    np.testing.assert_allclose([reach(drawn[:, i]) for i in range(3)], expected, rtol=0.05)
    drawn, _ = told(factor=(2.0, 3.0))
    np.testing.assert_allclose(drawn.std(0), [0.02, 0.02, 0.03], rtol=0.03)


def test_what_seeds_share_moves_the_loss_alone_and_by_its_own_freedom():
    """Of k seeds the mean is off by a kth of their variance; the loss is 2 here, and variances are those of its log."""
    drawn, shift = told(effect=(3e-4, 1e-4), of=(1, 1), seeds=4)
    assert drawn[:, 0].std() == pytest.approx(0.01, rel=0.03)
    expected = np.hypot(0.01, 2.0 * np.sqrt(4e-4 / 4))
    middle = float(np.diff(np.quantile(drawn[:, 2], [0.25, 0.75]))[0]) / 2 / stats.norm.ppf(0.75)
    assert expected < middle < 1.35 * expected and shift.any()  # tails of few degrees are wide near the middle too
    one, two = told(effect=(1e-2, 0.0), of=(1, 9))[0], told(effect=(0.0, 1e-2), of=(1, 9))[0]
    for values, freedom in ((one, 1), (two, 9)):
        assert reach(values[:, 2]) == pytest.approx(2.0 * 0.1 * stats.t.ppf(0.975, freedom), rel=0.1)


def test_seeds_move_budgets_together_where_they_share_and_apart_where_they_do_not():
    together = []
    for made in ({"shared": 0.02}, {"own": 0.02}):
        fits = isoflop.fit(study(5, noise=0.001, seeds=8, **made), Options(draws=400))
        correlation = np.corrcoef([b.shift for b in fits])[np.triu_indices(len(fits), 1)]
        together.append(correlation.mean())
        quartiles = [np.diff(np.quantile(b.shift, [0.25, 0.75]))[0] / 1.349 / b.L for b in fits]
        assert np.mean(quartiles) == pytest.approx(0.02 / np.sqrt(8), rel=0.5)
    assert together[0] > 0.8 and together[1] < 0.5


# Tests of shape have the size that they say, in the smallest windows


def test_p_values_of_small_windows_are_as_rare_as_they_say():
    constant, lopsided = [], []
    made = {"factors": np.zeros((0, 6)), "reach": 99, "level": 0.95, "what": "size"}
    rng, u = np.random.default_rng(4), np.linspace(-1.5, 1.5, 6)
    for _ in range(400):
        noise = 0.01 * rng.standard_normal(6)
        flat, bent = (parabola.fit(np.exp(u), 3 + shape + noise, **made) for shape in (0 * u, u**2))
        constant.append("a constant explains" not in flat.reason)
        lopsided.append(bent.lopsided)
    assert np.mean(constant) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 400))
    for share in (0.05, 0.3, 0.7):
        assert np.mean(np.array(lopsided) < share) == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / 400))


def test_scatter_is_that_of_the_noise_however_few_sizes_there_are():
    rng, u = np.random.default_rng(5), np.arange(5) - 2.0
    losses = 2 + 0.1 * u**2 + 0.01 * rng.standard_normal((400, 5))
    fits = [parabola.fit(np.exp(u), y, np.zeros((0, 5)), reach=99, level=0.95, what="size") for y in losses]
    assert np.mean([b.scatter**2 for b in fits]) == pytest.approx(1e-4, rel=0.15)


def test_sizes_of_few_seeds_weigh_less_where_seeds_are_the_noise():
    rng, off, plain = np.random.default_rng(6), [], []
    u = np.linspace(-1.5, 1.5, 8)
    counts = np.array([1, 16, 1, 16, 1, 16, 1, 16])
    x, ratios = np.exp(np.repeat(u, counts)), []
    for _ in range(200):
        y = 2 + np.log(x) ** 2 + 0.1 * rng.standard_normal(len(x))
        variance = sizes.sizes(np.log(x), y).variance
        ratios.append(variance[0] / variance[1])
        found = parabola.fit(x, y, np.zeros((0, 8)), reach=99, level=0.95, what="size")
        off.append(np.log(found.vertex))
        means = [y[x == value].mean() for value in np.unique(x)]
        bend, slope, _ = np.polyfit(u, means, 2)
        plain.append(-slope / 2 / bend)
    assert np.std(off) < 0.85 * np.std(plain) and np.median(ratios) == pytest.approx(16, rel=0.4)


@pytest.mark.parametrize("side", [-1, 1])
def test_draws_whose_minimum_lies_outside_the_sizes_have_failed(side):
    u, rng = np.linspace(-1.5, 1.5, 7), np.random.default_rng(1)
    y = (2 + 0.1 * (u + 1.0) ** 2 + 0.05 * rng.standard_normal(7))[::-side]
    found = parabola.fit(np.exp(u), y, rng.standard_normal((500, 7)), reach=99, level=0.95, what="size")
    turns = found.turns[np.isfinite(found.turns[:, 0]), 0]
    assert found.verdict == parabola.BRACKETED and 0.01 < found.failed < 0.5
    assert -1.5 < turns.min() < turns.max() < 1.5


# Lines


def line(rng, *, points=5, scatter=1.0, freedom=np.inf, most=np.inf, draws=200):
    """A line of slope one half through points off by `scatter` of the .05 that their own draws have."""
    C = np.geomspace(1e12, 1e15, points)
    y = 0.5 * np.log(C) + 0.05 * scatter * rng.standard_normal(points)
    own = y + 0.05 * rng.standard_normal((draws, points))
    known = Freedom(np.full(points, float(freedom)), most)
    return power_laws._line("N", C, y, own, np.full(points, 0.05**-2), known, 0.0, FEW)


def test_a_line_is_widened_by_how_much_its_points_scatter_beyond_their_own_draws():
    rng = np.random.default_rng(7)
    wide = [line(rng, scatter=6.0) for _ in range(300)]
    assert np.mean([law.misfit**2 for law in wide]) == pytest.approx(36, rel=0.15)
    assert np.mean([law.interval[0] < 0.5 < law.interval[1] for law in wide]) > 0.75  # three degrees, taken as normal
    assert np.mean([law.misfit for law in (line(rng, scatter=0.1) for _ in range(20))]) == 1


def test_points_of_few_degrees_of_freedom_make_a_line_as_wide_as_student_does():
    def widths_of(**known):
        return np.ptp(line(np.random.default_rng(8), scatter=0.1, **known).interval)

    normal, z = widths_of(), stats.norm.ppf(0.975)
    # Evenly placed, the two ends have most of the slope's variance: between two and five points' freedom together.
    ratio = widths_of(freedom=2) / normal
    assert stats.t.ppf(0.975, 10) / z < ratio < stats.t.ppf(0.975, 4) / z * (1 + 1e-9)
    assert widths_of(freedom=2, most=3) / normal == pytest.approx(stats.t.ppf(0.975, 3) / z)
    assert widths_of(freedom=1e9) == pytest.approx(normal)


def test_spreads_that_differ_by_chance_weigh_alike_and_none_outweighs_the_rest():
    rng, alike, raw = np.random.default_rng(9), [], []
    for _ in range(30):
        draws = rng.standard_normal((300, 6)) * np.sqrt(rng.chisquare(3, 6) / 3)
        alike.append(np.std(np.log(power_laws.weights(draws, freedom=3.0))))
        raw.append(np.std(np.log(power_laws.weights(draws))))
    assert np.mean(alike) < 0.5 * np.mean(raw)
    sharp = power_laws.weights(rng.standard_normal((2000, 5)) * [1e-9, 1, 1, 1, 1])
    assert sharp[0] / np.median(sharp) == pytest.approx(16, rel=0.2)


def test_widths_of_budgets_and_what_seeds_add_reach_the_lines():
    fits = isoflop.fit(study(3, noise=0.003), FEW)
    plain = power_laws.fit(fits, FEW)
    wider = power_laws.fit([replace(b, width=Width(3 * b.width.factor, b.width.freedom)) for b in fits], FEW)
    rng = np.random.default_rng(0)
    moved = power_laws.fit([replace(b, shift=0.2 * rng.standard_normal(100)) for b in fits], FEW)
    for name in "ND":
        assert np.ptp(wider[name].interval) == pytest.approx(3 * np.ptp(plain[name].interval), rel=0.01)
        assert moved[name].interval == plain[name].interval
    assert np.ptp(moved["L"].interval) > 3 * np.ptp(plain["L"].interval)


def test_draws_that_lose_too_many_vertices_have_failed():
    """Of six budgets a draw may lose one: five are more than three quarters, four are fewer."""
    fits = isoflop.fit(study(3, noise=0.001, seeds=2), FEW)
    assert all(np.isfinite(b.turns).all() for b in fits)

    def lost(budgets, rows):
        out = list(fits)
        for k in budgets:
            turns = fits[k].turns.copy()
            turns[:rows] = np.nan
            out[k] = replace(fits[k], turns=turns)
        return power_laws.fit(out, FEW)["N"].failed

    assert (lost([0], 40), lost([0, 3], 40), lost([0, 3, 4], 30)) == (0.0, 0.4, 0.3)


def test_a_line_is_extrapolated_on_either_side_of_its_budgets():
    law = power_laws.fit(isoflop.fit(study(3, noise=0.001), FEW), FEW)["N"]
    assert [law.word(C).word for C in (law.C[0] / 2, law.C[0], law.C[-1], 2 * law.C[-1])] == [
        "extrapolated", "supported", "supported", "extrapolated",
    ]  # fmt: skip


def floored(rng, scatter):
    """A law with a floor through eight points off by `scatter` of the .01 that their own draws have."""
    C = np.geomspace(1e10, 1e16, 8)
    y = 1.5 + 1.5 * (C / 1e13) ** -0.1 + 0.01 * scatter * rng.standard_normal(8)
    own = y + 0.01 * rng.standard_normal((300, 8))
    known = Freedom(np.full(8, np.inf), np.inf)
    return power_laws._loss_law(C, y, own, own, np.full(8, np.inf), known, 0.0, FEW)


def test_a_law_with_a_floor_is_widened_as_a_line_is():
    rng = np.random.default_rng(10)
    wide = [law for law in (floored(rng, 4.0) for _ in range(120)) if law.floor > 0]
    exact = [floored(rng, 0.1) for _ in range(20)]
    assert len(wide) > 100 and all(law.floor == pytest.approx(1.5, abs=0.05) and law.misfit == 1 for law in exact)
    assert np.mean([law.misfit**2 for law in wide]) == pytest.approx(16, rel=0.25)
    ratio = np.mean([np.ptp(law.interval) for law in wide]) / np.mean([np.ptp(law.interval) for law in exact])
    assert 2.5 < ratio < 6


def test_budgets_that_are_no_parabola_tell_nothing_of_the_noise_of_others():
    fits = isoflop.fit(study(3, noise=0.003), FEW)
    loss = np.array([b.L for b in fits])
    good = widths.moderated(fits[:-1], loss[:-1])
    bad = replace(fits[-1], scatter=100 * fits[-1].scatter)
    for odd in (replace(bad, verdict=parabola.MISFIT), replace(bad, doubtful=True)):
        for a, b in zip(good, widths.moderated([*fits[:-1], odd], loss), strict=False):
            np.testing.assert_array_equal(a.factor, b.factor)
    assert widths.moderated([*fits[:-1], bad], loss)[0].factor[0] != good[0].factor[0]


def test_a_line_needs_budgets_of_more_than_four_sizes():
    fits = isoflop.fit(study(3, noise=0.001, budgets=5), FEW)
    assert all(b.verdict == parabola.BRACKETED for b in fits) and not any(b.thin for b in fits)
    words = [power_laws.fit([replace(b, freedom=1) for b in fits[:k]] + fits[k:], FEW)["N"].verdict for k in (2, 3)]
    assert words[0].word == "supported" and words[1].word == "unidentified" and "run five" in words[1].reason
    four = [b for b in isoflop.fit(study(3, noise=0.001, per_budget=4, seeds=1), FEW) if np.isfinite(b.N)]
    assert four and all(b.thin for b in four)


def test_the_band_about_an_optimum_is_widened_as_its_interval_is():
    near = parabola.Near(2.0, 8.0, (1.0, 3.0), (6.0, 10.0), False, False)
    wider = isoflop._as_wide(near, np.array([0.0, 2.0]), np.array([0.5, 1.5]))
    np.testing.assert_allclose(wider.low_interval, [2 * 0.5**2, 2 * 1.5**2])
    np.testing.assert_allclose(wider.high_interval, [8 * 0.75**2, 8 * 1.25**2])
    assert (wider.low, wider.high) == (2.0, 8.0)


def test_no_floor_lies_below_zero():
    u = np.linspace(-3, 3, 7)
    y = np.stack([np.exp(-0.5 * u) - 0.3, np.exp(-0.5 * u), np.exp(-0.5 * u) + 0.3])
    found, _ = power_laws.floored(u, y + 1e-3 * np.sin(9 * u), np.ones(7))
    assert (
        found[0, 2] == 0 and found[1, 2] == pytest.approx(0, abs=0.02) and found[2, 2] == pytest.approx(0.3, abs=0.02)
    )
