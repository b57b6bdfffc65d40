import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from test_downstream import FEW, study

from ehr_scaling.analysis.outcomes import beside, downstream, scores
from ehr_scaling.analysis.outcomes.predictions import Predictions
from ehr_scaling.analysis.report import report
from ehr_scaling.analysis.report.figures import outcome_plots, plots
from ehr_scaling.analysis.report.sections import outcome_sections
from ehr_scaling.errors import UserError


def rewrite(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def compared(folder, table):
    return downstream.read(folder, table, FEW, table.cell)[0].compared


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_area_under_a_roc_curve_is_the_auroc(stays):
    labels, score = (np.array(x) for x in zip(*stays, strict=True))
    if labels.all() or not labels.any():
        return
    said = Predictions(labels, np.arange(len(labels)), score[None] / 6)
    (curve,) = said.rocs()
    assert (np.diff(curve, axis=1) >= 0).all() and curve[:, 0].tolist() == [0, 0] and curve[:, -1].tolist() == [1, 1]
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx(said.auroc[0], abs=1e-12)


def test_a_roc_curve_of_many_stays_has_few_points_and_the_same_area():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.3
    said = Predictions(labels, np.arange(20_000), expit(labels + rng.standard_normal((1, 20_000))))
    (curve,) = said.rocs()
    assert curve.shape[1] <= 400 and curve[:, 0].tolist() == [0, 0] and curve[:, -1].tolist() == [1, 1]
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx(said.auroc[0], abs=1e-3)


def test_a_roc_curve_of_real_patients_has_points_at_told_thresholds_alone(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.arange(1_000) < 40
    p = expit(3 * labels + rng.standard_normal((1, 1_000)))
    (curve,), (whole,) = (
        Predictions(labels, np.arange(1_000), p).rocs([[0.9, 0.2, 0.5]]),
        Predictions(labels, np.arange(1_000), p).rocs(),
    )
    at = [[(p[0, kind] >= t).mean() for t in (0.9, 0.5, 0.2)] for kind in (~labels, labels)]
    np.testing.assert_allclose(curve, np.c_[[0, 0], at, [1, 1]])
    assert 0.8 < np.trapezoid(curve[1], curve[0]) < np.trapezoid(whole[1], whole[0])
    # Of a study: at the thresholds of the score's decision, and of few of those no curve
    table = study(tmp_path)
    task = tmp_path / "died"
    best = f"{table.cell[table.loss.argmin()]}.json"
    whole = {"value": 0.2, "low": 0.1, "high": 0.3}
    net = {"net_benefit": whole, "treat_all": whole, "difference": whole, "word": "helps"}
    row = {"by": "budget", "asked": 0.1, "threshold": 0.35, "alerts": whole}
    rows = [{"cell": best[:-5], "size": "x", "N": 1.0, "C": 1.0, "loss": 1.0}]
    for thresholds, points in (((0.1, 0.3, 0.6), 6), ((0.1,), 0)):
        curve = [{"threshold": t, **net} for t in thresholds]
        rewrite(task / best, decision={"prevalence": whole, "curve": curve, "table": [row]})
        score = scores.of_task(tmp_path / "died", rows, generated=False)[0]
        assert (0 if score.roc is None else score.roc.shape[1]) == points
        assert scores.of_task(tmp_path / "died", rows)[0].roc.shape[1] > 6
    # Of a recalibration, which cuts the same ranks: at a risk of .5 that it moves to .3 there is a point
    curve = [{"threshold": 0.3, **net}, {"threshold": 0.2, **net}]
    part = {"prevalence": whole, "curve": curve, "table": []}
    line = {"method": "line", "intercept": float(logit(0.3)), "slope": 1.0, "brier": whole, "decision": part}
    rewrite(task / best, recalibrated=line)
    model = scores.of_task(tmp_path / "died", rows, generated=False)[0]
    table_of = parquet.read_table(task / f"{best[:-5]}.parquet")
    risk, outcome = (table_of[name].to_numpy() for name in ("predicted_boolean_probability", "boolean_value"))
    at = [(risk[outcome == kind] >= 0.5).mean() for kind in (False, True)]
    assert model.roc.shape[1] == 6 and any(np.allclose(point, at) for point in model.roc.T)


def test_how_many_no_future_says_anything_of_is_not_told_where_they_are_few():
    few, many = (scores.Score("m", scores.LEAST_LOSS, counted=beside.Counted(0.7, 0.99, n)) for n in (4.0, 20.0))
    assert np.isnan(scores.as_told([few], False)[0].counted.stays) and scores.as_told([few], True) == [few]
    assert scores.as_told([many], False)[0].counted.stays == 0.99


def test_one_prediction_for_all_is_the_diagonal():
    (curve,) = Predictions(np.array([True, False, True]), np.arange(3), np.full((1, 3), 0.2)).rocs()
    assert curve.tolist() == [[0, 1], [0, 1]]


def test_the_best_the_smallest_and_all_baselines_are_compared(tmp_path):
    table = study(tmp_path)
    table = replace(table, N=table.N[::-1])  # the smallest model has the highest loss
    task = tmp_path / "died"
    base = json.loads((task / "baseline.json").read_text())
    weak = {"name": "prevalence", "auroc": 0.5, "low": 0.5, "high": 0.5}
    rewrite(task / "baseline.json", others={"prevalence": weak, "trees of ours": {**base, "name": "trees of ours"}})
    (task / "baselines").mkdir()
    (task / "baselines" / "trees_of_ours.parquet").write_bytes((task / "baseline.parquet").read_bytes())
    found = compared(tmp_path, table)
    best, smallest = table.loss.argmin(), np.lexsort((table.loss, table.C, table.N))[0]
    assert [s.role for s in found] == ["least loss", "smallest", "baseline", "baseline", "baseline"]
    assert [s.cell for s in found[:2]] == [table.cell[best], table.cell[smallest]]
    assert [s.name for s in found[2:]] == ["logistic regression", "trees of ours", "prevalence"]
    assert [s.roc is not None for s in found] == [True, True, True, True, False]
    for score in found[:4]:
        assert np.trapezoid(score.roc[1], score.roc[0]) == pytest.approx(score.measures["auroc"].value, abs=1e-3)
    # All that a score of metrics.evaluate holds is read
    assert {"auroc", "auprc"} <= set(found[0].measures)
    assert all(m.low <= m.value <= m.high for m in found[0].measures.values())


def test_what_recalibration_leaves_stands_beside_the_model(tmp_path):
    table = study(tmp_path)
    path = tmp_path / "died" / f"{table.cell[table.loss.argmin()]}.json"
    bins = [{"predicted": 0.1, "observed": 0.12, "low": 0.1, "high": 0.14, "n": 40, "patients": 40}]
    slope = {"value": 1.02, "low": 0.9, "high": 1.2}
    rewrite(path, recalibrated={"calibration_slope": slope, "calibration_curve": bins, "intercept": 0.3, "slope": 0.7})
    found = compared(tmp_path, table)
    assert [s.role for s in found[:2]] == ["least loss", "recalibrated"] and found[1].cell == found[0].cell
    assert found[1].measures == {"calibration_slope": scores.Measure(1.02, 0.9, 1.2)} and len(found[1].bins) == 1
    assert found[1].roc is None and "the same, recalibrated" in str(outcome_plots._with_bins(found))
    rewrite(path, recalibrated={"missing": "the predictions separate the labels"})
    assert "recalibrated" not in [s.role for s in compared(tmp_path, table)]


def test_a_curve_that_is_not_of_its_score_is_refused(tmp_path):
    table = study(tmp_path)
    rewrite(tmp_path / "died" / "baseline.json", auroc=0.51)
    with pytest.raises(UserError, match=r"baseline\.parquet has AUROC .* score of logistic regression .* 0\.5100"):
        compared(tmp_path, table)


def test_other_files_of_that_name_are_not_reached(tmp_path):
    table = study(tmp_path / "a")
    task = tmp_path / "a" / "died"
    (task.parent / "outside.parquet").write_bytes(b"not a table")
    rewrite(task / "baseline.json", others={"../outside": {"auroc": 0.6}})
    assert compared(tmp_path / "a", table)[-1].roc is None


@pytest.mark.parametrize(
    "field",
    [
        {"auprc": None}, {"auprc": "high"}, {"auprc": {"value": None}}, {"calibration_curve": {"a": 1}},
        {"calibration_curve": [1, {"predicted": 0.1}]}, {"subgroups": [1]}, {"subgroups": {"sex": 3}},
        {"against_baseline": "none"}, {"against_baseline": {"auroc": 0.1}}, {"open": "few"}, {"brier": True},
        {"net_benefit_against": {"a": 1, "b": [{"value": 1}]}},
        {"monte_carlo_auroc": 0.5, "monte_carlo_stays": 3, "n": 0},
        {"strength": 1, "strengths": ["x"], "tried": [3]},
    ],
    ids=lambda field: json.dumps(field),
)  # fmt: skip
def test_what_a_score_lacks_is_passed_over(tmp_path, field):
    table = simulated.table(budgets=1, sizes=5, seeds=1)
    task = simulated.write_scores(tmp_path, table)
    before = compared(tmp_path, table)
    rewrite(task / f"{table.cell[table.loss.argmin()]}.json", **field)
    assert compared(tmp_path, table) == before
    assert set(before[0].measures) == {"auroc"} and not (before[0].bins or before[0].groups or before[0].shares)


def test_small_bins_and_groups_are_told_nothing_of(tmp_path):
    table = simulated.table(budgets=1, sizes=5, seeds=1)
    task = simulated.write_scores(tmp_path, table)
    whole = {"predicted": 0.1, "observed": 0.2, "low": 0.1, "high": 0.3, "n": 50}
    told = {"auroc": 0.7, "n": 100, "patients": 90, "positives": 30}
    groups = {
        "told": told, "few": {**told, "patients": 10}, "rare": {**told, "positives": 10},
        "common": {**told, "positives": 90}, "uncounted": {"auroc": 0.9}, "hidden": {"suppressed": "by its maker"},
    }  # fmt: skip
    curve = [{**whole, "patients": 11}, {**whole, "patients": 10}, whole, {**whole, "n": 10}]
    rewrite(task / f"{table.cell[table.loss.argmin()]}.json", calibration_curve=curve, subgroups={"sex": groups})
    (outcome,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert len(outcome.compared[0].bins) == 2
    found = {g.name: g for g in outcome.compared[0].groups}
    assert found["told"].measures["auroc"].value == 0.7 and not found["told"].suppressed
    for name in ("few", "rare", "common", "uncounted", "hidden"):
        assert found[name].suppressed and not found[name].measures and not found[name].counts
    assert found["hidden"].suppressed == "by its maker"
    (real,) = downstream.read(tmp_path, replace(table, generated=False), FEW, table.cell)
    (group,) = (g for g in real.compared[0].groups if g.name == "told")
    assert group.counts == {"n": 100, "patients": 90, "positives": 30} and real.compared[0].bins[0].n == 50
    rewrite(
        task / f"{table.cell[table.loss.argmin()]}.json",
        subgroups={"sex": {"told": {**told, "n": 104, "patients": 86}}},
        calibration_curve=[{**whole, "n": 57}],
    )
    (real,) = downstream.read(tmp_path, replace(table, generated=False), FEW, table.cell)
    assert real.compared[0].groups[0].counts == {"n": 100, "patients": 90, "positives": 30}
    assert real.compared[0].bins[0].n == 60
    table = outcome_sections.subgroups(outcome.compared)
    told = [cell for row in table.rows for cell in row]
    assert [row[-1].startswith("suppressed: a count under 11") for row in table.rows].count(True) == 3
    assert len([row for row in table.rows if row[-1]]) == 5 and "0.900" not in str(told)


def write_days(folder, table):
    """A task of days, and one of a class."""
    value = {"value": 4.25, "low": 3.0, "high": 5.5}
    for name, kind, metric in (("stay", "days", "mae"), ("drg", "class", "top1")):
        task = folder / name
        task.mkdir(parents=True)
        (task / "task.json").write_text(json.dumps({"kind": kind, "description": f"A made-up {kind}."}))
        for k, cell in enumerate(table.cell):
            (task / f"{cell}.json").write_text(json.dumps({metric: {**value, "value": 4.0 + k}, "bounded": 0.125}))
        others = {"mean": {"name": "mean", metric: value, "spearman": {"value": None}}}
        (task / "baseline.json").write_text(json.dumps({"name": "a regression", metric: value, "others": others}))


def test_numbers_and_classes_have_a_table_of_the_best_model_and_baselines(tmp_path):
    table = simulated.table(budgets=1, sizes=5, seeds=1)
    write_days(tmp_path, table)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "task.json").write_text(json.dumps({"kind": "days"}))
    assert downstream.read(tmp_path, table, FEW, table.cell) == []
    drg, stay = scores.valued(tmp_path, table)
    assert (drg.kind, stay.kind) == ("class", "days") and stay.models == len(table)
    assert [s.name for s in stay.scores[1:]] == ["a regression", "mean"]
    assert stay.scores[0].cell == table.cell[table.loss.argmin()]
    assert stay.scores[0].measures["mae"].value == 4.0 + table.loss.argmin()
    shown = outcome_sections.valued(stay)
    assert "MAE (days)" in shown.header and "Rank correlation" not in shown.header and "12.5" in str(shown.rows)


def test_the_report_shows_all_of_it(tmp_path):
    table = study(tmp_path / "outcomes")
    task = tmp_path / "outcomes" / "died"
    bins = [
        {"predicted": p, "observed": o, "low": o / 2, "high": min(2 * o + 0.01, 1), "n": 90, "patients": 80}
        for p, o in ((0.0, 0.0), (0.02, 0.01), (0.09, 0.12))
    ]
    half = {"value": 0.125, "low": 0.0625, "high": 0.25}
    against = {"auroc": {"difference": -0.0625, "low": -0.25, "high": 0.125, "p_value": 0.002}}
    best = f"{table.cell[table.loss.argmin()]}.json"
    rewrite(task / best, brier=half, calibration_curve=bins, weighted=True, open=0.25, against_baseline=against)
    rewrite(task / best, monte_carlo_auroc=0.7125, monte_carlo_stays=90, n=100)
    trees = {"auroc": 0.8, "low": 0.7, "high": 0.9, "columns": 77, "trees": 120, "most_trees": 400, "depth": 3}
    trees["tried"] = [{"depth": 2}, {"depth": 3}]
    regression = {"columns": 1234, "strength": 0.01, "strengths": [0.001, 0.01], "features": "counts of every token"}
    rewrite(task / "baseline.json", others={"trees": trees}, **regression)
    write_days(tmp_path / "outcomes", table)
    rewrite(task / "baseline.json", method="fitted on 400 of 3,000 stays of the train split")
    laws = report.analyze(table, tmp_path / "r", outcomes=tmp_path / "outcomes", options=FEW)
    names = {p.name for p in (tmp_path / "r" / "figures").iterdir()}
    assert {f"{kind}_died.{end}" for kind in ("auroc", "outcome", "accuracy") for end in ("png", "svg")} <= names
    text = " ".join(re.sub("<[^>]+>", " ", (tmp_path / "r" / "report.html").read_text()).split())
    for words in (
        "Brier score", "0.1250 0.0625 to 0.2500", "p = 0.002", "25.0", "weighted back to the cohort",
        "AUROC −0.062 (−0.250 to +0.125, p = 0.002)", "A made-up class.", "MAE (days)",
        "The baselines were fitted on 400 of 3,000 stays of the train split. What regressions and trees read: counts",
        "Logistic regression: 1,234 columns; inverse penalty C 0.01, of 2 tried from 0.001 to 0.01 by folds of train",
        "Trees: 77 columns; 120 trees of at most 400; depth 3, of 2 settings tried on train patients held out.",
        "AUROC of 0.713, of the 90 % of the stays",
    ):  # fmt: skip
        assert words in text, words
    assert [v["task"] for v in laws["valued"]] == ["drg", "stay"]
    ids = {str(1000 + 7 * k) for k in range(20, 150)}  # subject ids of the made-up patients
    shown = re.sub(r"<svg.*?</svg>", "", (tmp_path / "r" / "report.html").read_text(), flags=re.S)
    assert not ids & set(re.findall(r"\b\d+\b", shown))


@pytest.mark.parametrize("observed", [0.02, 0.3], ids=["rare", "common"])
def test_the_axes_of_calibration_suit_the_outcome(observed):
    part = scores.Bin(0.5 * observed, observed, 0.0, 2 * observed, 100)
    best = scores.Score("best", scores.LEAST_LOSS, bins=(part, part._replace(predicted=0.0, observed=0.0)))
    figure = outcome_plots.accuracy([best])
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == ("log" if observed == 0.02 else "linear")
    assert axes.get_xlim() == axes.get_ylim() and 2 * observed < axes.get_xlim()[1] <= 1
    low, high = axes.get_xlim()
    (container,) = axes.containers
    assert (container[0].get_xydata() >= low - 1e-12).all() and (container[0].get_xydata() <= high).all()


def test_one_model_at_one_compute_is_drawn_without_a_warning(tmp_path, recwarn):
    table = simulated.table(budgets=1, sizes=5, seeds=1)
    task = simulated.write_scores(tmp_path, table)
    for cell in table.cell[1:]:
        (task / f"{cell}.json").unlink()
    (outcome,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert [s.role for s in outcome.compared] == ["least loss", "baseline"]
    plots.render(outcome_plots.of_compute, tmp_path, "x", outcome)
    plots.render(outcome_plots.of_loss, tmp_path, "y", outcome)
    assert not outcome_plots.has_accuracy(outcome.compared) and not recwarn.list
