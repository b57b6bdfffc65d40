import json
from dataclasses import replace

import numpy as np
import pytest
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.analysis.compare import loss_to_loss
from ehr_scaling.analysis.compare.loss_to_loss import LINE, POWER
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import EXTRAPOLATED, SUPPORTED, UNIDENTIFIED

FEW = Options(draws=200)
L1 = np.linspace(2, 4, 30)


def other(L1, kappa, gamma, E1, E2):
    return kappa * (L1 - E1) ** gamma + E2


def noisy(seed, truth, noise=0.01, n=30):
    rng = np.random.default_rng(seed)
    x = np.linspace(2, 4, n)
    return x + noise * rng.standard_normal(n), other(x, *truth) + noise * rng.standard_normal(n)


@pytest.mark.parametrize("truth", [(1.2, 1.8, 0.9, 0.5), (0.8, 0.6, 1.5, 1.0), (0.5, 2.5, 0.0, 0.3)])
def test_exact_losses_give_the_law_back(truth):
    law = loss_to_loss.fit(L1, other(L1, *truth), None, Options(draws=40))
    assert law.form == POWER and law.verdict.word == SUPPORTED
    np.testing.assert_allclose(law.theta, truth, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(law(L1), other(L1, *truth), atol=1e-5)


def test_intervals_hold_a_known_law_and_new_models():
    truth, held, ahead = (1.2, 1.8, 0.9, 0.5), [], []
    at = np.array([2.2, 3.2, 3.9])
    for seed in range(15):
        law = loss_to_loss.fit(*noisy(seed, truth), None, FEW)
        assert law.form == POWER and abs(law.parameters["gamma"] - 1.8) < 0.6
        _, low, high = law.forecast(at, noise=False)
        held.append((low <= other(at, *truth)) & (other(at, *truth) <= high))
        rng = np.random.default_rng(1000 + seed)
        new = other(at, *truth) + 0.01 * rng.standard_normal((50, 3))
        _, low, high = law.forecast((at + 0.01 * rng.standard_normal((50, 3))).ravel())
        ahead.append(((low <= new.ravel()) & (new.ravel() <= high)).reshape(50, 3).mean(0))
    assert np.mean(held) > 0.8 and (np.mean(ahead, axis=0) > 0.88).all()
    assert (
        law.word(3.0).word == SUPPORTED and law.word(1.5).word == EXTRAPOLATED and law.word(np.nan).word == UNIDENTIFIED
    )


def test_where_no_bend_is_told_it_is_a_line_and_says_so():
    forms = [loss_to_loss.fit(*noisy(seed, (1.1, 1, 0, 0.3), 0.02), None, FEW) for seed in range(20)]
    assert sum(law.form == LINE for law in forms) >= 17  # 5 % is what chance tells
    law = next(law for law in forms if law.form == LINE)
    assert "no exponent" in law.verdict.reason and "gamma" not in law.parameters
    low, high = law.intervals["kappa"]
    assert low < 1.1 < high and law.words["kappa"].word == SUPPORTED and law.words["E2"].word == UNIDENTIFIED
    small = loss_to_loss.fit(*noisy(0, (1.1, 1, 0, 0.3), 0.02, n=6), None, FEW)
    assert small.form == LINE and "too few models for an exponent" in small.verdict.reason


def test_no_dependence_and_an_inverted_one_are_unidentified():
    rng = np.random.default_rng(0)
    flat = loss_to_loss.fit(L1, 3 + 0.1 * rng.standard_normal(30), None, FEW)
    assert flat.verdict.word == UNIDENTIFIED and "no dependence" in flat.verdict.reason
    inverted = loss_to_loss.fit(L1, 6 - L1 + 0.01 * rng.standard_normal(30), None, FEW)
    assert inverted.verdict.word == UNIDENTIFIED and inverted.verdict.reason.startswith("inverted")


@given(st.floats(0.01, 100), st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_units_of_loss_scale_the_law_and_nothing_else(by1, by2):
    x, y = noisy(3, (1.2, 1.8, 0.9, 0.5))
    one = loss_to_loss.fit(x, y, None, Options(draws=40))
    scaled = loss_to_loss.fit(by1 * x, by2 * y, None, Options(draws=40))
    assert scaled.form == one.form
    np.testing.assert_allclose(scaled(by1 * x), by2 * one(x), rtol=1e-6)
    np.testing.assert_allclose(scaled.theta[1:], one.theta[1:] * [1, by1, by2], rtol=1e-6)


def test_edges_give_a_verdict():
    for x, reason in ((np.zeros(0), "0 models"), (np.arange(2.0, 6.0), "4 models"), (np.full(9, 3.0), "one loss")):
        law = loss_to_loss.fit(x, x, None, FEW)
        assert law.verdict.word == UNIDENTIFIED and reason in law.verdict.reason
        json.dumps(loss_to_loss.to_json(law))
    one_run = loss_to_loss.fit(L1, L1, np.zeros(30, np.int64), FEW)  # checkpoints of one run are one model
    assert one_run.verdict.word == UNIDENTIFIED


def test_rows_are_matched_by_cell_and_seed():
    rows = simulated.rows(budgets=2, sizes=4, seeds=2)
    first = from_rows(rows, source="here")
    there = [{**r, "run": f"there {r['run']}", "loss": 2 * r["loss"], "N": r["N"] * (1 + 1e-9)} for r in rows[3:]]
    pairs = loss_to_loss.matched(first, from_rows(there[::-1], source="there"))
    assert len(pairs) == len(rows) - 3 and pairs.unmatched == (3, 0)
    np.testing.assert_allclose(pairs.L2, 2 * pairs.L1)
    seedless = [{**r, "seed": None} for r in there]
    pairs = loss_to_loss.matched(first, from_rows(seedless, source="there"))  # seeds of a cell are averaged
    assert len(pairs) == 7 and pairs.unmatched[0] == 2
    longer = replace(first, D=1.3 * first.D)
    assert len(loss_to_loss.matched(first, longer)) == 0
    assert len(loss_to_loss.matched(first, longer, at="C")) == len(first)


def test_seeds_of_a_cell_tell_no_bend():
    bends = []
    for seed in range(20):
        x, y = noisy(seed, (1.1, 1, 0, 0.3), 0.02, n=9)
        law = loss_to_loss.fit(np.repeat(x, 8), np.repeat(y, 8), np.repeat(np.arange(9), 8), Options(draws=20))
        bends.append(law.form == POWER)
    assert np.mean(bends) <= 0.2


@pytest.mark.parametrize(("added", "found"), [(1.0, 24), (1.02, 24), (1.2, 0)])
def test_a_size_is_the_same_with_the_few_weights_that_a_recipe_adds(added, found):
    one = from_rows(simulated.rows(budgets=4, sizes=6, seeds=1), source="one")
    two = replace(one, N=one.N * added)
    assert len(loss_to_loss.matched(one, two)) == found
    nameless = replace(two, size=np.full(len(two), ""))
    assert len(loss_to_loss.matched(one, nameless)) == (found if added == 1.0 else 0)
