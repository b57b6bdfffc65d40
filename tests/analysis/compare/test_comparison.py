import csv
import json
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import recipe as table

from ehr_scaling.analysis.compare import comparison, frontiers, loss_to_loss
from ehr_scaling.analysis.compare.comparable import Common
from ehr_scaling.analysis.isoflop import isoflop
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.optimum import cost_of, optimum
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import SUPPORTED, UNIDENTIFIED

FEW = Options(draws=100)


@pytest.mark.parametrize(("sizes", "kind"), [(6, frontiers.OPTIMA), (3, "joint law")])
def test_a_known_multiplier_is_recovered_by_optima_and_by_a_joint_law(sizes, kind):
    held = []
    for seed in range(2):
        m = comparison.multiplier(table(0.5, seed, sizes=sizes), table(1, 50 + seed, sizes=sizes), FEW)
        assert m.kind.startswith(kind) and m.verdict.word == SUPPORTED
        assert m.value == pytest.approx(0.5, rel=0.12) and m.interval[1] < 1
        assert "A needs less compute" in m.verdict.reason
        held += [row["low"] <= 0.5 <= row["high"] for row in m.rows]
    assert np.mean(held) >= 0.8


def test_half_of_what_laws_say_otherwise_is_in_the_interval_of_a_joint_law():
    """Of nearly exact losses, draws of one law know nothing of what another would say."""
    sides = []
    for multiple in (0.5, 1.0):
        rows = simulated.rows(budgets=4, sizes=3, seeds=4, noise=0, decades=2.0)
        rng = np.random.default_rng(int(2 * multiple))
        for r in rows:
            N, D = r["N"] / multiple**0.5, r["D"] / multiple**0.5
            r["loss"] = (1.2 + (40 * N**-0.5 + 150 * D**-0.45) ** 0.4) * np.exp(2e-4 * rng.standard_normal())
        sides.append(from_rows(rows, source="made up"))
    m = comparison.multiplier(*sides, FEW)
    assert m.kind.startswith("joint law")
    half = max(abs(np.log(value / m.value)) for value in m.by_law.values()) / 2
    reach = np.log([m.value / m.interval[0], m.interval[1] / m.value])
    assert half > 0.01 and (reach >= half * (1 - 1e-9)).all() and reach.min() < 3 * half


def test_of_laws_that_fit_alike_the_simpler_is_taken():
    few, many = (
        [SimpleNamespace(residuals=np.zeros(30), objective=0.01, form=joint_laws.FORMS[name])] * 2
        for name in ("chinchilla", "coupled")
    )
    assert comparison._criterion(few) < comparison._criterion(many)
    better = [replace_in(law, objective=0.01 * np.exp(-3 / 30)) for law in many]
    assert comparison._criterion(better) < comparison._criterion(few)


def replace_in(namespace, **changes):
    return SimpleNamespace(**{**vars(namespace), **changes})


def test_draws_of_two_tables_are_not_paired_by_accident_and_wide_ones_tell_nothing():
    own = table(1, 0, sizes=3)
    m = comparison.multiplier(own, own, FEW)
    assert m.value == pytest.approx(1) and m.interval[0] < 0.99 and m.interval[1] > 1.01
    losses = [row["loss"] for row in m.rows]
    assert losses == sorted(losses, reverse=True) and m.value == m.rows[-1]["multiplier"]
    for high, word in ((9.9, SUPPORTED), (10.1, UNIDENTIFIED)):
        assert comparison._judge(replace(m, interval=(1.0, high)), FEW).word == word


def test_the_least_loss_between_optima_is_as_unsure_as_they_are():
    fits = isoflop.fit(table(1, 0), FEW)
    wide = [replace(b, told=b.L + 3 * (b.told - b.L)) for b in fits]
    C = np.sqrt(fits[1].C * fits[2].C)
    plain, wider = (np.std(frontiers.of_optima(each).curve(np.array([C]))[1:]) for each in (fits, wide))
    assert wider == pytest.approx(3 * plain, rel=0.05)


def test_the_least_loss_at_a_compute_is_that_of_the_best_size_under_counted_compute():
    rows = [{**r, "C": r["C"] * (1 + 3e4 / r["N"] ** 0.8)} for r in simulated.rows(budgets=5, seeds=1, decades=2.5)]
    counted = from_rows(rows, source="small models spend most on the head")
    law = joint_laws.fit("chinchilla", counted.N, counted.D, counted.loss, None, Options(draws=0))
    (side, _) = frontiers.of_laws([law, law], (counted, counted))
    C = np.geomspace(*side.C, 5)[1:4]
    expected = [optimum(law, each, cost_of(counted)).L for each in C]
    np.testing.assert_allclose(side.curve(C)[0], expected, rtol=1e-3)


def test_the_same_recipe_is_worth_the_same():
    found = comparison.compare(Common(table(1, 0), table(1, 1), "token"), FEW)
    low, high = found.multiplier.interval
    assert low < 1 < high and "not told from equal" in found.multiplier.verdict.reason
    low, high = found.paired.interval
    assert low < 0 < high and "which is lower is not told" in found.paired.verdict.reason
    same = comparison.compare(Common(table(1, 0), table(1, 0), "token"), FEW)
    assert same.paired.percent == 0 and same.multiplier.value == pytest.approx(1)


def test_swapping_the_sides_inverts_the_numbers():
    a, b = table(0.5, 0), table(1, 1)
    one, other = comparison.compare(Common(a, b, "token"), FEW), comparison.compare(Common(b, a, "token"), FEW)
    assert one.multiplier.value * other.multiplier.value == pytest.approx(1)
    assert (1 + one.paired.percent / 100) * (1 + other.paired.percent / 100) == pytest.approx(1)
    assert one.paired.lower + other.paired.lower == one.paired.cells == 30


@given(st.floats(0.01, 100), st.floats(0.01, 100))
@settings(max_examples=2, deadline=None)
def test_units_of_loss_and_compute_do_not_matter(by_loss, by_C):
    few = Options(draws=40)
    a, b = (t.take(t.seed == 0) for t in (table(0.5, 0, budgets=3), table(1, 1, budgets=3)))
    one = comparison.multiplier(a, b, few)
    a, b = (replace(t, loss=by_loss * t.loss, C=by_C * t.C, budgets=by_C * t.budgets) for t in (a, b))
    other = comparison.multiplier(a, b, few)
    assert other.value == pytest.approx(one.value, rel=1e-3) and other.verdict.word == one.verdict.word
    assert other.interval == pytest.approx(one.interval, rel=1e-2)


def test_a_paired_difference_counts_runs_and_not_checkpoints():
    rng = np.random.default_rng(0)
    rows = [
        {"run": f"r{k // 10}", "N": 1e5 * (1 + k // 10), "D": 1e7 * (1 + k), "C": 6e12 * (1 + k), "loss": 3.0}
        for k in range(40)
    ]
    a = from_rows(rows, source="a")
    of_run = np.repeat(0.02 * rng.standard_normal(4), 10)
    b = replace(a, loss=a.loss * np.exp(0.05 + of_run))
    found = comparison.compare(Common(a, b, "token"), FEW).paired
    mean, se = of_run[::10].mean() + 0.05, of_run[::10].std(ddof=1) / 2
    assert found.percent == pytest.approx(100 * np.expm1(-mean))
    assert found.interval == pytest.approx([100 * np.expm1(-mean - side * 3.1824 * se) for side in (1, -1)], rel=1e-3)
    few = comparison.compare(Common(a.take(a.run == "r0"), b, "token"), FEW)
    assert few.paired.verdict.word == UNIDENTIFIED and np.isnan(few.paired.interval[0])


def test_seeds_of_a_cell_are_no_evidence_of_their_own():
    """Cells of two equal recipes that lie 1 % apart: ten seeds of little noise say no more than two."""
    rng = np.random.default_rng(0)
    apart = 0.01 * rng.standard_normal((2, 12))
    width, held = {}, []
    for seeds in (2, 10):
        sides = []
        for k in range(2):
            rows = [
                {"N": 1e5 * 2.0 ** (i % 4), "D": 1e7 * 2.0 ** (i // 4), "seed": s, "loss": 3 - 0.1 * (i % 4)}
                for i in range(12)
                for s in range(seeds)
            ]
            for j, r in enumerate(rows):
                r["C"] = 6 * r["N"] * r["D"]
                r["loss"] *= np.exp(apart[k, j // seeds] + 1e-4 * rng.standard_normal())
            sides.append(from_rows(rows, source="made up"))
        found = comparison.compare(Common(*sides, "token"), FEW)
        width[seeds] = np.ptp(found.paired.interval)
        held.append(found.paired.interval[0] < 0 < found.paired.interval[1])
        assert found.paired.cells == 12
        assert len(np.unique(loss_to_loss.matched(*sides).cluster)) == 12
    assert width[10] == pytest.approx(width[2], rel=0.02) and all(held)


def test_equal_compute_pairs_what_equal_tokens_do_not():
    a, b = table(1, 0), table(1, 1)
    found = comparison.compare(Common(replace(a, D=1.7 * a.D), b, "patient"), FEW)
    assert found.paired.at == "N and C" and found.paired.cells == len(a) / 2  # of two seeds


def test_what_cannot_be_told_is_unidentified():
    better = replace(table(1, 0), loss=table(1, 0).loss / 10)
    apart = comparison.compare(Common(better, table(1, 1), "token"), FEW)
    assert apart.multiplier.verdict.word == UNIDENTIFIED and "do not overlap" in apart.multiplier.verdict.reason
    assert apart.paired.percent < -85  # what is told at equal cells stays told
    small = table(1, 0).take(np.arange(4))
    few = comparison.compare(Common(small, table(1, 1), "token"), FEW)
    assert few.multiplier.verdict.word == UNIDENTIFIED and "too few" in few.multiplier.verdict.reason
    alone = comparison.compare(Common(replace(small, N=3 * small.N), table(1, 1), "token"), FEW)
    assert alone.paired.cells == 0 and alone.paired.verdict.word == UNIDENTIFIED
    equal = replace(table(1, 0), loss=np.full(60, 3.0))
    for found in (apart, few, alone, comparison.compare(Common(equal, equal, "token"), FEW)):
        record = json.dumps(comparison.to_json(found), allow_nan=False)
        assert json.loads(record)["multiplier"]["verdict"]["word"] == UNIDENTIFIED
        assert "unidentified" in comparison.summary(found)


def test_only_runs_that_a_law_is_fitted_to_are_compared():
    rows = table(1, 0).rows()
    hot = [{**r, "run": f"hot {r['run']}", "phase": "hot", "loss": 9.0} for r in rows[:5]]
    mixed = from_rows([{**r, "phase": "cooled"} for r in rows] + hot, source="mixed")
    found = comparison.compare(Common(mixed, table(1, 0), "token"), FEW)
    assert found.paired.percent == pytest.approx(0) and len(found.tables[0]) == 60
    assert {note["code"] for note in comparison.to_json(found)["a"]["left_out"]} == {"hot"}


@pytest.fixture(scope="module")
def porian(real_data):
    path = real_data / "laws" / "porian_isoflop_long.csv"
    if not path.is_file():
        pytest.skip(f"no table of real runs at {path}: set EHR_SCALING_TEST_DATA")
    found = defaultdict(list)
    for row in csv.DictReader(path.open()):
        if row["file"] == "summary_df":
            found[row["config"]].append({name: float(row[name]) for name in ("N", "D", "C", "loss")})
    return {name: from_rows([{**r, "budget": r["C"]} for r in rows], source=name) for name, rows in found.items()}


def best(table):
    """Compute at which the best runs of the budgets reach a loss, no law between."""
    lowest = [table.loss[table.group == g].min() for g in range(len(table.budgets))]
    return lambda loss: np.exp(np.interp(-loss, -np.array(lowest), np.log(table.budgets)))


@pytest.mark.parametrize(
    ("a", "reason"),
    [
        ("rw/base/short/chinchilla/standard/val", "A needs less compute"),  # decay matched to the run's length
        ("rw/tuned/short/const/standard/val", "grows with compute"),  # tuning helps small models most
        ("rw/base/long/kaplan/standard/val", "falls with compute"),  # a long warm-up hurts short runs most
    ],
)
def test_real_recipes_stand_as_their_best_runs_do(porian, a, reason):
    a, b = porian[a], porian["rw/base/short/kaplan/standard/val"]
    m = comparison.multiplier(a, b, FEW)
    assert m.kind == frontiers.OPTIMA and m.verdict.word == SUPPORTED and reason in m.verdict.reason
    off = []
    for row in m.rows[1:]:  # at the highest loss the smallest budgets' best runs are far apart
        off.append(np.log(row["multiplier"] * best(b)(row["loss"]) / best(a)(row["loss"])))
        assert row["low"] < best(a)(row["loss"]) / best(b)(row["loss"]) < row["high"]
    assert np.abs(off).max() < 0.17 and np.abs(off[-1]) < 0.03


def narrow(multiple, seed, sizes=3, noise=0.004):
    """Three budgets of three sizes and two seeds, as good as the known law with 1 / multiple of the compute."""
    rng, found = np.random.default_rng(seed), simulated.rows(budgets=3, sizes=sizes, seeds=2, noise=0, decades=1.0)
    for r in found:
        r["loss"] = simulated.loss(r["N"] / multiple**0.5, r["D"] / multiple**0.5)
        r["loss"] *= np.exp(noise * rng.standard_normal())
    return from_rows(found, source="narrow")


def test_where_no_law_is_told_the_least_losses_of_one_grid_tell_the_multiplier(monkeypatch):
    monkeypatch.setattr(joint_laws, "FORMS", {})
    held, found = [], []
    for seed in range(60):
        m = comparison.multiplier(narrow(0.6, seed), narrow(1, 1000 + seed), FEW)
        assert m.kind == frontiers.LEAST and m.verdict.word == SUPPORTED
        held.append(m.interval[0] <= 0.6 <= m.interval[1])
        found.append(np.log(m.value / 0.6))
    assert np.mean(held) >= 0.8 and abs(np.mean(found)) < 0.03
    other = comparison.multiplier(narrow(0.6, 0), narrow(1, 1, sizes=2), FEW)
    assert other.verdict.word == UNIDENTIFIED  # of other sizes, whose minima are elsewhere
    alone = narrow(0.6, 0)
    assert comparison.multiplier(alone.take(alone.seed == 0), alone.take(alone.seed == 0), FEW).kind == "none"
