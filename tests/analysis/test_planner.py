"""Plans recover a known law, say what limits them, are refused when they should be, and are the same in a browser."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.plan import plan_basis, planner
from ehr_scaling.analysis.repeats import effective_data
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.uncertainty import UNIDENTIFIED, Options

SCRIPT = Path(planner.__file__).with_suffix(".js")
RECORDED = {"patients": 800, "unique_tokens": 2e6, "batch": 2048, "lr": 0.004}

DEATH = {
    "task": "death", "floor": 0.5, "centre": 3.0, "spread": 1.0, "theta": [1.0, 2.0, 0.95], "noise": 0.01,
    "draws": [[1.0 + 0.1 * k, 2.0, 0.95 - 0.002 * k] for k in range(-10, 11)], "losses": [2.0, 6.0],
}  # fmt: skip
BASE = {"E": 1.0, "A": 62.6, "B": 219.0, "alpha": 0.34, "beta": 0.34}
PENALTY, EFFECTIVE = (
    {
        "law": name,
        "parameters": {**BASE, **more},
        "draws": [{**BASE, **more, "E": 1.0 + 0.002 * k} for k in range(-10, 11)],
        "unique": 2e6,
    }
    for name, more in (
        ("penalty", {"P": 0.1, "delta": 0.5, "kappa": 0.4}),
        ("effective", {"R_D": 8.0, "R_N": 5.0}),
    )
)


def known_of(table, options=None):
    return plan_basis.planner(extrapolation.forecaster(table, options or Options(draws=120)), table)


@pytest.fixture(scope="module")
def known():
    return known_of(simulated.table(budgets=6, decades=2.5, noise=0.003, seeds=2, extra=RECORDED))


def test_a_plan_is_the_best_use_of_the_compute(known):
    for C in (3e12, 1e14):
        made = planner.plan(known, C, unique_tokens=1e12, most_passes=1)
        np.testing.assert_allclose(made.N, simulated.optimum(C), rtol=0.1)
        np.testing.assert_allclose(made.D, C / 6 / made.N, rtol=1e-6)
        assert made.loss_interval[0] < simulated.loss(made.N, made.D) < made.loss_interval[1]
        assert made.band[0] < simulated.optimum(C) < made.band[1] and not made.refused
        assert not made.limited and made.patients_are_worth == 1
        assert (made.batch, made.rate) == (pytest.approx(2048), pytest.approx(0.004))
        assert made.words["N"].word == ("supported" if C < 1e13 else "extrapolated")


def test_patients_limit_a_plan_and_are_worth_compute(known):
    C = 1e14
    free = planner.plan(known, C, 1e12, 1)
    made = planner.plan(known, C, free.D / 8, 2)
    assert made.limited and made.passes == pytest.approx(2, rel=0.01)
    np.testing.assert_allclose(made.N, 4 * free.N, rtol=0.05)  # what tokens cannot use goes into size
    assert made.loss > free.loss and made.patients_are_worth > 1
    # The compute that does what twice the patients do, does it.
    more = planner.plan(known, C * made.patients_are_worth, free.D / 8, 2)
    assert more.loss == pytest.approx(planner.plan(known, C, free.D / 4, 2).loss, rel=1e-4)
    # What the data feed: at that compute the best use just takes all of them.
    feeds = made.feeds
    assert planner.plan(known, feeds["C"] * 1.02, free.D / 8, 2).limited
    assert not planner.plan(known, feeds["C"] * 0.97, free.D / 8, 2).limited
    assert feeds["N"] == pytest.approx(simulated.optimum(feeds["C"]), rel=0.1)


def test_so_few_patients_that_no_compute_makes_up_for_them(known):
    made = planner.plan(known, 1e14, 1e5, 1)
    assert made.limited and made.patients_are_worth == np.inf


def test_refused_where_laws_disagree_or_are_unidentified_or_unchecked(known):
    far = planner.plan(known, 1e17, 1e15, 1, tolerance=1e-6)
    assert any("disagree" in reason for reason in far.refused)
    wide = known_of(simulated.table(budgets=6, sizes=4, seeds=1, noise=0.3, extra=RECORDED))
    assert wide.forecaster.law.verdict.word == UNIDENTIFIED
    assert any("unidentified" in reason for reason in planner.plan(wide, 1e13, 1e9, 1).refused)
    unchecked = replace(
        known, forecaster=replace(known.forecaster, rolling=replace(known.forecaster.rolling, drift=np.nan))
    )
    assert any("how far off" in reason for reason in planner.plan(unchecked, 1e14, 1e12, 1).refused)
    assert not planner.plan(unchecked, 1e12, 1e12, 1).refused  # inside the runs nothing is drawn out


def test_tokens_and_loss_units_carry_over():
    rows = simulated.rows(budgets=6, decades=2.0, noise=0.002, extra=RECORDED)
    plans = []
    for tokens, nats in ((1.0, 1.0), (1000.0, np.log2(np.e))):
        scaled = [{**r, "D": r["D"] * tokens, "C": r["C"] * tokens, "loss": r["loss"] * nats} for r in rows]
        plans.append(planner.plan(known_of(from_rows(scaled, source="x")), 1e14 * tokens, 1e12 * tokens, 1))
    one, other = plans
    np.testing.assert_allclose(other.N, one.N, rtol=0.01)
    assert other.loss / one.loss == pytest.approx(np.log2(np.e), rel=1e-4)


@pytest.mark.parametrize("repeats", [PENALTY, EFFECTIVE])
def test_passes_are_worth_what_the_law_of_repeats_says(known, repeats):
    told = replace(known, repeats=repeats)
    C, own = 1e13, 2e6
    # With the data of the runs the plan is as it was; more patients lower the loss at the same passes, fewer raise it.
    same, before = planner.plan(told, C, own, 8), planner.plan(known, C, own, 8)
    assert (same.N, same.loss) == (before.N, before.loss) and same.loss_interval == before.loss_interval
    losses = [planner.plan(told, C, own * share, 8 / share).loss for share in (0.25, 1, 4)]
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[2] * 1.01
    # The factor is that of the law, at the plan's own N and D.
    made = planner.plan(told, C, own / 4, 32)
    ratio = planner.repeated_loss(repeats["parameters"], made.N, made.D, own / 4) / planner.repeated_loss(
        repeats["parameters"], made.N, made.D, own
    )
    assert made.loss == pytest.approx(float(known.forecaster.law(made.N, made.D)) * float(ratio))


def test_effective_data_are_those_of_the_law():
    law = effective_data.EffectiveData(8.0, 5.0, BASE, 0.0, np.empty((0, 2)), {}, {})
    N, D, U = 1e6, np.array([1e6, 4e6, 1e8]), 2e6
    np.testing.assert_allclose(planner.repeated_loss(EFFECTIVE["parameters"], N, D, U), law(N, D, U))


def test_an_outcome_follows_the_loss(known):
    known = replace(known, outcomes=[DEATH])
    small, large = (planner.plan(known, C, 1e12, 1) for C in (1e12, 1e15))
    for made in (small, large):
        (found,) = made.outcomes.values()
        assert found["auroc"] == pytest.approx(0.5 + 0.45 / (1 + np.exp(2 * (made.loss - 3) - 1)))
        assert found["interval"][0] < found["auroc"] - 0.0196 and found["interval"][1] > found["auroc"] + 0.0196
    assert small.outcomes["death"]["word"] == "supported" and large.outcomes["death"]["word"] == "extrapolated"
    assert small.outcomes["death"]["auroc"] < large.outcomes["death"]["auroc"]


def test_a_record_gives_the_plan_again(known):
    again = plan_basis.from_json(json.loads(json.dumps(plain(plan_basis.to_json(known)))))
    for C, tokens, passes in ((1e13, 1e9, 1), (1e15, 1e7, 4)):
        one, other = planner.plan(known, C, tokens, passes), planner.plan(again, C, tokens, passes)
        assert one == other


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js to run the page's script")
@pytest.mark.parametrize(
    ("law", "repeats"), [("auto", None), ("kaplan", None), ("chinchilla", PENALTY), ("chinchilla", EFFECTIVE)]
)
def test_the_page_computes_the_same(law, repeats, tmp_path):
    table = simulated.table(budgets=6, decades=2.5, noise=0.003, seeds=2, extra=RECORDED)
    known = replace(known_of(table, Options(draws=60, law=law)), outcomes=[DEATH], positions=1.1, repeats=repeats)
    record = tmp_path / "planner.json"
    record.write_text(json.dumps(plain(plan_basis.to_json(known))))
    for C, tokens, passes in ((1e12, 1e9, 1), (1e14, 1e7, 4), (1e15, 1e5, 1)):
        made = planner.plan(known, C, tokens, passes)
        code = (
            f"const {{plan}} = require({str(SCRIPT)!r});"
            f"const K = JSON.parse(require('fs').readFileSync({str(record)!r}));"
            f"const found = plan(K, {C}, {tokens}, {passes}); console.log(JSON.stringify(found))"
        )
        found = json.loads(subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout)
        for name in ("N", "D", "passes", "loss", "loss_interval", "N_interval", "band", "batch", "rate"):
            np.testing.assert_allclose(found[name], getattr(made, name), rtol=1e-9)
        assert found["limited"] == made.limited
        assert (found["patients_are_worth"] or np.inf) == pytest.approx(made.patients_are_worth, rel=1e-9)
        assert found["feeds"]["C"] == pytest.approx(made.feeds["C"], rel=1e-9)
        assert found["outcomes"].keys() == made.outcomes.keys() == {"death"}
        for name in ("auroc", "interval"):
            np.testing.assert_allclose(found["outcomes"]["death"][name], made.outcomes["death"][name], rtol=1e-9)
        assert found["outcomes"]["death"]["word"] == made.outcomes["death"]["word"]
        assert any(found["refused"]) == bool(made.refused)
        assert found["extrapolated"] == (made.words["loss"].word == "extrapolated")
