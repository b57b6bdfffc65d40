from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from test_repeated_laws import BASE, grid, losses

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.repeats import repeated_data, worth_of_passes
from ehr_scaling.analysis.report.figures import plots, repeated_plots
from ehr_scaling.analysis.report.sections import repeated_sections
from ehr_scaling.analysis.tables.run_table import from_columns
from ehr_scaling.analysis.words import EXTRAPOLATED, SUPPORTED, UNIDENTIFIED
from ehr_scaling.errors import UserError

OPTIONS = Options(draws=40)


def columns(name="penalty", noise=0.003, seed=1, sizes=5, pools=3):
    N, D, U = grid(sizes, pools)
    loss = losses(name, N, D, U) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(N)))
    return {"N": N, "D": D, "C": 6 * N * D, "loss": loss, "unique_tokens": U}


def compare(columns, options=OPTIONS):
    return repeated_data.compare(from_columns(columns, source="simulated"), options)


@cache
def found():
    return compare(columns())


def penalised(N, D, U):
    return losses("penalty", np.float64(N), np.float64(D), np.float64(U))


def test_the_law_that_made_the_runs_is_selected_and_the_gain_is_told_from_zero():
    r = found()
    assert r.selected == "penalty" and r.verdict.word == SUPPORTED and r.folds == 10
    assert r.errors["penalty"] < r.errors["effective"] < r.errors["chinchilla"]
    assert 0.002 < r.errors["penalty"] < 0.004  # mean |error| of noise of 0.3 % is 0.24 %
    low, high = r.gain_interval
    assert 0 < low < r.gain < high and r.gain == pytest.approx(r.errors["chinchilla"] - r.errors["penalty"])
    loss, below, above = r.forecast(np.array([1e6, 3e6]), 1e8, 1e7)
    truth = losses("penalty", np.array([1e6, 3e6]), np.array([1e8, 1e8]), 1e7)
    np.testing.assert_allclose(loss, truth, rtol=4e-3)
    assert np.all((below < truth) & (truth < above)) and r.sample(1e6, 1e8, 1e7).shape == (40,)
    assert compare(columns()).gain_interval == r.gain_interval  # a seed gives the same report


def test_effective_data_are_selected_where_they_made_the_runs():
    r = compare(columns("effective"))
    assert r.selected == "effective" and r.verdict.word == SUPPORTED
    assert worth_of_passes.turn(r).verdict.word == UNIDENTIFIED  # by a law that misses these runs
    row = worth_of_passes.values(r, N=3e5, U=1e7, passes=(8,))[0]
    assert 1e7 < row.worth < 8e7 and row.verdict.word == SUPPORTED


def test_a_pass_is_worth_what_the_true_law_says():
    N, U = 3e6, 1e7
    for row in worth_of_passes.values(found(), N=N, U=U):
        over = penalised(N, row.D, U) - BASE["E"] - BASE["A"] * N ** -BASE["alpha"]
        truth = (BASE["B"] / over) ** (1 / BASE["beta"])
        low, high = row.worth_interval
        assert row.worth == pytest.approx(truth, rel=0.1) and 0.9 * low <= truth <= 1.1 * high
        assert row.verdict.word == SUPPORTED and row.worth <= row.D * (1 + 1e-9)
    first, *_, last = worth_of_passes.values(found(), N=N, U=U, passes=(1, 2, 200))
    assert first.worth == U and first.worth_interval == (U, U)
    assert last.verdict.word == EXTRAPOLATED and "passes" in last.verdict.reason


def test_the_turn_is_where_the_true_law_is_lowest():
    N, U = 3e6, 1e7
    turn = worth_of_passes.turn(found(), N=N, U=U)
    truth = np.exp(minimize_scalar(lambda k: penalised(N, U * np.exp(k), U), bounds=(0.5, 6), method="bounded").x)
    assert turn.passes == pytest.approx(truth, rel=0.15)
    assert turn.interval[0] * 0.9 < truth < turn.interval[1] * 1.1 and turn.verdict.word == SUPPORTED
    assert worth_of_passes.turn(found(), N=10 * N, U=U).passes < turn.passes  # large models learn by heart sooner


def test_runs_that_lose_nothing_by_repeats_tell_no_worth_of_a_pass():
    r = compare(columns("chinchilla"))
    assert r.verdict.word == UNIDENTIFIED and r.errors[r.selected] < 0.004
    rows = worth_of_passes.values(r)
    assert rows[0].verdict.word == SUPPORTED and {row.verdict.word for row in rows[1:]} == {UNIDENTIFIED}
    assert worth_of_passes.turn(r).verdict.word == UNIDENTIFIED


def test_without_a_run_of_one_pass_the_base_is_found_all_the_same():
    c = columns()
    many = c["D"] / c["unique_tokens"] > 1.5
    r = compare({name: values[many] for name, values in c.items()})
    assert r.table.passes.min() > 1.5 and r.selected == "penalty"
    assert r.law.parameters["beta"] == pytest.approx(0.34, abs=0.05)
    assert r(3e6, 1e7, 1e7) == pytest.approx(penalised(3e6, 1e7, 1e7), rel=0.03)
    assert r.word(3e6, 1e7, 1e7).word == EXTRAPOLATED  # one pass is fewer than any run made


def test_padding_changes_no_number_of_passes():
    c = columns()
    padded = compare({**c, "D": c["D"] / 0.8, "C": c["C"] / 0.8, "real_tokens": c["D"]})
    r = found()
    assert r.positions == 1 and padded.positions == pytest.approx(1.25)
    np.testing.assert_allclose(padded.table.passes, r.table.passes)
    assert padded(1e6, 1.25e8, 1e7) == pytest.approx(r(1e6, 1e8, 1e7), rel=1e-4)
    assert worth_of_passes.largest(padded) == pytest.approx(worth_of_passes.largest(r))
    a, b = (worth_of_passes.values(x, N=1e6, U=1e7)[3].worth for x in (padded, r))
    assert a == pytest.approx(b, rel=1e-2)


def test_seeds_and_checkpoints_are_held_out_together():
    c = columns(sizes=4, pools=3)
    double = {name: np.tile(values, 2) for name, values in c.items()}
    table = from_columns(double, source="seeds")
    group = repeated_data._groups(table, table.D / table.passes)
    assert group.max() + 1 == len(c["N"]) and np.array_equal(group[: len(c["N"])], group[len(c["N"]) :])
    run = [f"run {i // 5}" for i in range(len(c["N"]))]  # five lengths of each
    table = from_columns({**c, "run": run}, source="checkpoints")
    group = repeated_data._groups(table, table.D / table.passes)
    assert group.max() + 1 == 12 and all(len(set(group[i : i + 5])) == 1 for i in range(0, 60, 5))


def test_where_nothing_is_repeated_or_known_there_is_no_comparison():
    c = columns(sizes=4)
    assert compare({name: v for name, v in c.items() if name != "unique_tokens"}) is None
    assert compare({**c, "unique_tokens": c["D"]}) is None
    assert compare({**c, "unique_tokens": 3 * c["D"]}) is None
    assert compare({name: v[:10] for name, v in c.items()}) is None
    half = np.where(np.arange(len(c["N"])) % 2, c["unique_tokens"], np.nan)
    r = compare({**c, "unique_tokens": [None if np.isnan(v) else v for v in half]})
    assert len(r.table) == len(c["N"]) // 2
    assert repeated_sections.section(None, None) == "" and worth_of_passes.to_json(None) is None
    for wrong in ({"N": 0.0}, {"U": -1.0}, {"N": np.nan}):
        with pytest.raises(UserError, match="must be positive"):
            worth_of_passes.values(found(), **wrong)


@pytest.mark.parametrize("loss", [lambda rng, n: np.full(n, 2.0), lambda rng, n: np.exp(rng.normal(size=n))])
def test_losses_that_follow_no_law_support_nothing(loss):
    c = columns(sizes=4, pools=2)
    r = compare({**c, "loss": loss(np.random.default_rng(0), len(c["N"]))}, replace(OPTIONS, draws=20))
    assert r.verdict.word == UNIDENTIFIED and worth_of_passes.turn(r).verdict.word == UNIDENTIFIED
    assert {row.verdict.word for row in worth_of_passes.values(r)[1:]} == {UNIDENTIFIED}


def test_of_a_very_large_table_runs_are_drawn_and_that_is_said(monkeypatch):
    monkeypatch.setattr(repeated_data, "MOST_RUNS", 60)
    r = compare(columns(), replace(OPTIONS, draws=0))
    assert len(r.table) == 60 and r.left_out == len(columns()["N"]) - 60
    words = {row.verdict.word for row in worth_of_passes.values(r)[1:]}
    assert words == {UNIDENTIFIED}  # no draws, no intervals
    assert np.isnan(r.forecast(1e6, 1e8, 1e7)[1]).all()


def test_the_report_says_the_law_its_numbers_and_their_words(tmp_path):
    r = found()
    svg = plots.render(repeated_plots.passes, tmp_path, "passes", r)
    page = repeated_sections.section(r, svg)
    assert (tmp_path / "passes.png").stat().st_size > 10_000 and svg in page
    record = worth_of_passes.to_json(r)
    assert record["selected"] == "penalty" and record["word"] == SUPPORTED and record["runs"] == len(r.table)
    assert set(record["laws"]) == {"chinchilla", "effective", "penalty"} == set(record["error_percent"])
    for law in record["laws"].values():
        assert law["parameters"].keys() == law["intervals"].keys() == law["words"].keys()
    assert [row["passes"] for row in record["passes"]] == [1, 2, 4, 8, 16]
    assert "over-fit penalty" in page and page.count('class="chip') >= 18 + 5 + 2
    assert f"{100 * r.errors['penalty']:.2f}" in page and "nan" not in page.replace(svg, "")


def test_copies_of_the_runs_are_no_further_evidence_of_a_law_of_repeats():
    """Seeds that agree are held out together, and drawn together."""
    c = columns(sizes=4, pools=3, noise=0.01)
    one, two = (compare({name: np.tile(v, times) for name, v in c.items()}) for times in (1, 2))
    assert two.folds == one.folds
    for name, error in one.errors.items():
        assert two.errors[name] == pytest.approx(error, rel=0.1)
    assert np.ptp(two.gain_interval) == pytest.approx(np.ptp(one.gain_interval), rel=0.15)


def test_a_loss_is_extrapolated_below_the_runs_as_beyond_them_and_as_wide_as_what_was_missed():
    r, inside = found(), (1e6, 1e8, 1e7)
    assert r.word(*inside).word == SUPPORTED
    for k, seen in enumerate((r.table.N, r.table.D)):
        for end in (seen.min() / 1.1, seen.max() * 1.1):
            at = [*inside]
            at[k] = end
            if k == 0 or end > inside[2]:
                assert r.word(*at).word == EXTRAPOLATED
    _, low, high = r.forecast(*inside)
    missed = np.quantile(r.missed[r.selected], [0.025, 0.975])
    assert np.log(high / low) > np.ptp(missed)


def test_seeds_of_a_point_are_in_one_fold(monkeypatch):
    folds, held_out = [], repeated_data.repeated_laws.held_out
    monkeypatch.setattr(repeated_data.repeated_laws, "held_out", lambda *args: folds.append(args[5]) or held_out(*args))
    compare({name: np.repeat(v, 3) for name, v in columns(sizes=4, pools=3).items()})
    for fold in folds:
        assert (fold.reshape(-1, 3) == fold[::3, None]).all() and len(np.unique(fold)) == 10
