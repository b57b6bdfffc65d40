import json
from dataclasses import replace

import numpy as np
import pytest
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, ndtri

from ehr_scaling.analysis.draws import interval
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import downstream, outcome_curve
from ehr_scaling.analysis.outcomes.outcome_curve import INVERTED, SCALES, UNTOLD
from ehr_scaling.analysis.outcomes.predictions import Predictions
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import SUPPORTED, UNIDENTIFIED
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.exchange import predictions as predictions_of
from ehr_scaling.outcomes.judging.metrics import metrics

FEW = Options(draws=200)


def test_scores_are_joined_to_runs_by_cell(tmp_path):
    table = simulated.table(budgets=2, sizes=4, seeds=1)
    task = simulated.write_scores(tmp_path, table)
    (task / f"{table.cell[0]}.json").unlink()
    (task / "stray.json").write_text(json.dumps({"auroc": 0.5}))
    (outcome,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert len(outcome.rows) == len(table) - 1
    assert outcome.missing == [str(table.cell[0])] and outcome.unknown == ["stray"]
    loss = dict(zip(table.cell, table.loss, strict=True))
    assert all(r["loss"] == loss[r["cell"]] for r in outcome.rows)
    assert outcome.baseline["auroc"] == 0.81 and outcome.text == "A made-up outcome."


def test_of_few_real_patients_nothing_is_told(tmp_path):
    """Of more, counts to the nearest ten: two tasks of nested stays would give small ones by subtraction."""
    table = simulated.table(budgets=2, sizes=4, seeds=1)
    task = simulated.write_scores(tmp_path, table)
    real = replace(table, generated=False)
    (outcome,) = downstream.read(tmp_path, real, FEW, table.cell)
    assert {(row["n"], row["positives"]) for row in outcome.rows} == {(300, 40)}
    path = task / f"{table.cell[2]}.json"
    for positives, told in ((34, 30), (10, None), (291, None)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "positives": positives}))
        (outcome,) = downstream.read(tmp_path, real, FEW, table.cell)
        assert [row["positives"] for row in outcome.rows if row["cell"] == table.cell[2]] == ([told] if told else [])
        if told is None:
            assert not outcome.rows and outcome.baseline is None and not outcome.compared
            assert outcome.verdict.reason == "its scores are suppressed: a count under 11"
            assert json.dumps(downstream.to_json(outcome)).count(str(positives)) == 0
        assert len(downstream.read(tmp_path, table, FEW, table.cell)[0].rows) == len(table)


def test_rank_correlation_and_its_interval(tmp_path):
    table = simulated.table(budgets=3, sizes=5, seeds=2)
    simulated.write_scores(tmp_path, table)
    (perfect,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert perfect.spearman == pytest.approx(-1) and perfect.spearman_interval == pytest.approx((-1, -1))
    rng = np.random.default_rng(0)
    loss = list(rng.random(30))
    rho, (low, high) = downstream.spearman(loss, list(rng.random(30)), FEW)
    assert low < rho < high and low < 0 < high
    assert np.isnan(downstream.spearman([1, 2, 3], [3, 2, 1], FEW)[0])


def test_bad_scores_name_their_file(tmp_path):
    table = simulated.table(budgets=1, sizes=4, seeds=1)
    task = simulated.write_scores(tmp_path, table)
    path = task / f"{table.cell[0]}.json"
    for text, message in (('{"auroc": 1.5}', "not a number from 0 to 1"), ("{}", "not a number"), ("{", "is damaged")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            downstream.read(tmp_path, table, FEW, table.cell)
    with pytest.raises(UserError, match="no such directory"):
        downstream.read(tmp_path / "absent", table, FEW, table.cell)


# What models of a made-up truth say of made-up patients


def auroc_of(loss):
    return 0.5 + 0.5 * expit(-0.3 - 4 * (loss - 3))


def scored(seed=0, models=20, stays=600, slope=1.0, seed_noise=0.06):
    """Losses, predictions for the same patients (two stays each), and the index of each model's cell (two seeds)."""
    rng = np.random.default_rng(seed)
    loss = np.repeat(np.linspace(2.6, 3.6, models // 2), 2) + 0.005 * rng.standard_normal(models)
    apart = np.sqrt(2) * ndtri(auroc_of(3 + slope * (loss - 3))) + seed_noise * rng.standard_normal(models)
    labels, common = rng.random(stays) < 0.2, rng.standard_normal(stays)
    own = rng.standard_normal((models, stays))
    said = expit(apart[:, None] * labels + np.sqrt(0.6) * common + np.sqrt(0.4) * own - 3)
    return loss, Predictions(labels, np.arange(stays) // 2, said), np.repeat(np.arange(models // 2), 2)


def fitted(seed=0, options=FEW, **settings):
    loss, said, cells = scored(seed, **settings)
    drawn = said.draws(options.draws, np.random.default_rng(seed)) - said.auroc
    return outcome_curve.fit(loss, said.auroc, drawn, cells, np.arange(len(loss)), options), loss, said


def test_placements_give_the_auroc_and_the_spread_of_the_exact_patient_bootstrap():
    rng = np.random.default_rng(1)
    _, said, _ = scored(models=4, stays=400)
    said = Predictions(said.labels, said.patients, np.round(said.probability, 2))  # ties
    exact = [metrics.auroc(said.labels, p) for p in said.probability]
    np.testing.assert_allclose(said.auroc, exact, atol=1e-12)
    draws = said.draws(2000, rng)
    weights = np.concatenate(list(metrics.bootstrap_weights(said.patients, 2000, 0)))
    for k, p in enumerate(said.probability):
        one_by_one = metrics.auroc(said.labels, p, weights)
        assert draws[:, k].std() == pytest.approx(one_by_one.std(), rel=0.06)
        assert draws[:, k].mean() == pytest.approx(one_by_one.mean(), abs=0.003)
    # the same patients for all: models move together
    assert np.corrcoef(draws.T)[np.triu_indices(4, 1)].min() > 0.3


@given(st.floats(0.2, 5), st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_auroc_sees_ranks_alone(scale, shift):
    _, said, _ = scored(models=4, stays=100)
    moved = Predictions(said.labels, said.patients, expit(scale * logit(said.probability) + shift))
    np.testing.assert_allclose(moved.auroc, said.auroc, atol=1e-9)


def test_few_copies_blur_ranks_and_the_bound_holds_what_more_would_give():
    rng = np.random.default_rng(0)
    p = rng.beta(1, 3, 4000)
    labels = rng.random(4000) < p
    endless = Predictions(labels, np.arange(4000), p[None]).auroc[0]
    for copies in (5, 20, 200):
        # SCOPE's noise, below that of counting
        blurred = np.clip(p + np.sqrt(0.3 * p * (1 - p) / copies) * rng.standard_normal(4000), 0, 1)
        said = Predictions(labels, np.arange(4000), blurred[None])
        (bound,) = said.auroc_of_endless_copies(np.array([copies]), rng)
        assert said.auroc[0] < endless + 1e-3 and endless - 1e-3 <= bound
        assert bound - said.auroc[0] < 6 * (endless - said.auroc[0]) + 0.01
    guess = Predictions(labels, np.arange(4000), 1 - p[None])
    assert guess.auroc_of_endless_copies(np.array([5]), rng)[0] == guess.auroc[0]


def test_a_known_curve_is_recovered_with_intervals_that_hold_it():
    inside = []
    for seed in range(12):
        curve, _, _ = fitted(seed)
        assert curve.pattern == SCALES and curve.verdict.word == SUPPORTED and curve.form in ("chance", "ceiling")
        for loss in (2.7, 3.0, 3.4):
            centre, (low, high) = curve(loss), np.ravel(curve.band(np.array([loss])))
            assert abs(centre - auroc_of(loss)) < 0.08 and low < centre < high
            inside.append(low <= auroc_of(loss) <= high)
    assert np.mean(inside) > 0.85


def test_exact_scores_give_the_parameters_back():
    loss = np.linspace(2, 4, 12)
    for floor, c, form in ((0.0, 1.0, "logit"), (0.5, 1.0, "chance"), (0.5, 0.85, "ceiling")):
        a, b = 0.4, 1.3
        auroc = floor + (c - floor) * expit(a - b * (loss - loss.mean()) / loss.std())
        curve = outcome_curve.fit(loss, auroc, np.zeros((40, 12)), np.arange(12), np.arange(12), Options(draws=40))
        assert curve.form == form and curve.errors[form] < 1e-6
        np.testing.assert_allclose(curve.theta, (a, b, c), atol=1e-4)
        np.testing.assert_allclose(curve(loss), auroc, atol=1e-6)


def test_no_dependence_and_an_inverted_one_are_called_so():
    patterns = [fitted(seed, slope=0.0)[0].pattern for seed in range(20)]
    assert patterns.count(UNTOLD) >= 17  # 5 % is what chance tells
    flat = next(c for c in (fitted(seed, slope=0.0)[0] for seed in range(20)) if c.pattern == UNTOLD)
    assert flat.verdict.word == UNIDENTIFIED
    inverted, _, _ = fitted(slope=-1.0)
    assert inverted.pattern == INVERTED and inverted.verdict.word == UNIDENTIFIED
    assert "lower loss ranks patients worse" in inverted.verdict.reason


@given(st.floats(0.01, 100))
@settings(max_examples=8, deadline=None)
def test_the_unit_of_loss_does_not_matter(unit):
    loss, said, cells = scored(models=12, stays=300)
    drawn = said.draws(60, np.random.default_rng(0)) - said.auroc
    one, other = (
        outcome_curve.fit(x, said.auroc, drawn, cells, np.arange(12), Options(draws=60)) for x in (loss, unit * loss)
    )
    assert one.form == other.form and one.pattern == other.pattern
    np.testing.assert_allclose(one.band(np.array([3.0])), other.band(np.array([3.0 * unit])), rtol=1e-6)


@pytest.mark.parametrize("models", [2, 8])
def test_too_few_or_equal_models_are_no_curve(models):
    loss, said, cells = scored(models=models)
    drawn = said.draws(40, np.random.default_rng(0)) - said.auroc
    assert outcome_curve.fit(loss, said.auroc, drawn, cells, cells, FEW) is None
    equal = outcome_curve.fit(np.full(9, 3.0), np.full(9, 0.7), np.zeros((40, 9)), np.arange(9), np.arange(9), FEW)
    assert equal is None


def test_one_auroc_for_all_models_tells_no_dependence():
    curve = outcome_curve.fit(
        np.linspace(2, 3, 9), np.full(9, 0.7), np.zeros((40, 9)), np.arange(9), np.arange(9), Options(draws=40)
    )
    assert curve.pattern == UNTOLD and curve.gain == pytest.approx(0, abs=1e-9)


def study(folder, *, drop=(), baseline=True, prefix="r"):
    """outcomes/<task>/ with scores and predictions as launch.evaluate leaves them, and the table of the runs."""
    loss, said, cells = scored(stays=300, models=16)
    rows = [
        {"run": f"{prefix}{k}", "cell": f"{prefix}{k}", "N": 1e5 * (1 + c), "D": 1e7, "C": 6e12 * (1 + c), "loss": x}
        for k, (x, c) in enumerate(zip(loss, cells, strict=True))
    ]
    task = folder / "died"
    task.mkdir(parents=True)
    ids, day = 1000 + 7 * said.patients, 86_400_000_000
    asked = Stays(said.patients, ids, ids, ids * day, ids, said.labels)
    single = said.probability.astype(np.float32)  # as stored
    for row, p in zip(rows, single, strict=True):
        score = metrics.evaluate(said.labels, p, said.patients, draws=100)
        score |= {"copies": 20, "undetermined": 0.1}
        (task / f"{row['cell']}.json").write_text(json.dumps(score))
        if row["cell"] not in drop:
            predictions_of.write_binary(task / f"{row['cell']}.parquet", asked, p)
    if baseline:
        score = metrics.evaluate(said.labels, single[8], said.patients, draws=100)
        (task / "baseline.json").write_text(json.dumps({"name": "logistic regression", **score}))
        predictions_of.write_binary(task / "baseline.parquet", asked, single[8])
    return from_rows(rows, source="made up")


def test_stored_predictions_are_resampled_together_with_the_baselines(tmp_path):
    table = study(tmp_path)
    (outcome,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert outcome.pattern == SCALES and outcome.verdict.word == SUPPORTED
    assert "150 patients drawn anew for all models together" in outcome.verdict.reason
    assert 0 < outcome.seed_noise < 0.1 and outcome.spearman_task_loss > 0.5
    assert all(r["auroc"] <= r["auroc_at_most"] <= 1 and r["task_loss"] > 0 for r in outcome.rows)
    low, high = outcome.lead_interval
    assert low < outcome.lead < high and outcome.lead > 0
    alone = downstream.read(tmp_path, table, FEW, table.cell)[0].baseline
    # paired with the models, the lead is known better than the two AUROCs apart would say
    curve = outcome.curve.sample(np.array([outcome.curve.losses[0]]))[:, 0]
    assert high - low < np.hypot(np.subtract(*interval(curve, 0.95)), alone["high"] - alone["low"])
    text = json.dumps(downstream.to_json(outcome))
    assert "NaN" not in text and json.loads(text)["curve"]["form"] == outcome.curve.form


def test_missing_predictions_fall_back_openly(tmp_path):
    table = study(tmp_path / "a", drop=("r3",))
    (outcome,) = downstream.read(tmp_path / "a", table, FEW, table.cell)
    assert "predictions of 1 of 16 models are not stored" in outcome.verdict.reason
    assert "the scores' own intervals stand in" in outcome.verdict.reason and outcome.curve.pattern == SCALES
    table = study(tmp_path / "b")
    (whole,) = downstream.read(tmp_path / "b", table, FEW, table.cell)
    (low, high), (own_low, own_high) = (
        np.ravel(o.curve.band(np.array([3.0]))) for o in (whole, outcome)
    )  # as wide, about: nothing is gained by not knowing
    assert own_high - own_low > 0.8 * (high - low)
    (without,) = downstream.read(tmp_path / "b", table.take(np.arange(6)), FEW, table.cell)
    assert without.curve is None and without.verdict.word == UNIDENTIFIED
    assert "3 scored cells; at least 5" in without.verdict.reason


def test_scores_without_any_interval_are_unidentified(tmp_path):
    table = study(tmp_path, baseline=False)
    for path in (tmp_path / "died").iterdir():
        if path.suffix == ".parquet":
            path.unlink()
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"low": None, "high": None}))
    (outcome,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert outcome.verdict.word == UNIDENTIFIED and "no intervals" in outcome.verdict.reason


def test_predictions_that_are_not_of_their_score_are_refused(tmp_path):
    table = study(tmp_path)
    task = tmp_path / "died"
    kept = (task / "r0.parquet").read_bytes()
    (task / "r0.parquet").write_bytes((task / "r15.parquet").read_bytes())
    with pytest.raises(UserError, match=r"r0\.json has AUROC .* delete both"):
        downstream.read(tmp_path, table, FEW, table.cell)
    (task / "r0.parquet").write_bytes(kept[:100])
    with pytest.raises(UserError, match=r"r0\.parquet is damaged"):
        downstream.read(tmp_path, table, FEW, table.cell)
    _, said, _ = scored(stays=80)
    ids = np.arange(80)
    asked = Stays(ids, ids, ids, ids, ids, said.labels)
    predictions_of.write_binary(task / "r0.parquet", asked, said.probability[0])
    with pytest.raises(UserError, match="about other stays"):
        downstream.read(tmp_path, table, FEW, table.cell)


def test_without_predictions_scores_are_as_unsure_as_their_intervals_and_so_is_a_lead(tmp_path):
    """Intervals of the models and of the baseline reach .03 to either side, each on its own."""
    table, options = simulated.table(budgets=3, sizes=5, seeds=1, noise=0.0), Options(draws=2000)
    simulated.write_scores(tmp_path, table)
    (found,) = downstream.read(tmp_path, table, options, table.cell)
    at = np.array([found.curve.losses[0]])
    assert np.std(found.curve.sample(at)) == pytest.approx(0.03 / 1.96, rel=0.1)
    assert np.ptp(found.lead_interval) == pytest.approx(2 * np.hypot(0.03, 0.03), rel=0.1)


def test_a_lead_over_a_baseline_that_says_the_same_is_sure(tmp_path):
    """Of one model's predictions as the baseline, patients move both alike."""
    table = study(tmp_path)
    (found,) = downstream.read(tmp_path, table, FEW, table.cell)
    rows = {r["cell"]: r for r in found.rows}
    assert np.ptp(found.lead_interval) < rows["r8"]["high"] - rows["r8"]["low"]
