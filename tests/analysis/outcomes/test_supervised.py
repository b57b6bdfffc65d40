"""What labels add: heads joined to their models, means over seeds and draws, and intervals that hold what they say."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy.special import expit

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import downstream, supervised
from ehr_scaling.analysis.outcomes.predictions import COLUMNS, Predictions
from ehr_scaling.analysis.report.figures import label_plots
from ehr_scaling.analysis.report.sections import outcome_sections
from ehr_scaling.errors import UserError

FEW = Options(draws=200)
STAYS = 500
CELLS = ["a", "b", "c"]
LOSS = {"a": 1.7, "b": 1.71, "c": 1.72, "d": 1.2}


class Task:
    """A folder of a task, of patients whose risk is known; models see it through more or less noise."""

    def __init__(self, folder, seed=0):
        self.folder, self.rng, self.areas = folder, np.random.default_rng(seed), {}
        self.risk = self.rng.standard_normal(STAYS)
        self.labels = self.rng.random(STAYS) < expit(2 * self.risk - 1)

    def write(self, path, noise, **score):
        """Predictions, and their score beside them."""
        said = expit(self.risk + noise * self.rng.standard_normal(STAYS))
        file = self.folder / f"{path}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = (np.arange(STAYS), np.arange(STAYS), self.labels, said)
        parquet.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True))), file)
        auroc = float(Predictions(self.labels, np.arange(STAYS), said[None]).auroc[0])
        self.areas[path] = auroc
        file.with_suffix(".json").write_text(json.dumps({"auroc": auroc, "auprc": {"value": 0.4}, **score}))
        return said

    def heads(self, method, known, labels, noise, cells=CELLS, **way):
        said = [self.write(f"supervised/{method}/{known}/{cell}", noise, train_stays=labels, **way) for cell in cells]
        if len(cells) > 1:
            about = {"cells": list(cells), **way, "auroc": 0, "auprc": {"value": 0.55, "low": 0.5, "high": 0.6}}
            (self.folder / f"supervised/{method}/{known}/mean-x.json").write_text(json.dumps(about))
        return said


@pytest.fixture
def task(tmp_path):
    made = Task(tmp_path)
    for cell in CELLS:
        made.write(cell, 1.5)
    made.write("baseline", 0.8, name="logistic regression", others={})
    for draw, noise in enumerate((3.0, 4.0, 2.5)):
        made.heads("probe", f"50-{draw + 1}", 50, noise)
    made.heads("probe", "all", 900, 1.0)
    made.heads("finetune", "all", 900, 0.6)
    return made


def test_none_without_heads(tmp_path):
    assert supervised.read(tmp_path / "other", LOSS, FEW) is None


def test_heads_of_models_in_no_fit_are_told_where_no_others_are(task):
    """As of the best of all where its learning rate lost to another."""
    found, out = (supervised.read(task.folder, loss_of, FEW) for loss_of in (LOSS, {"z": 1.0}))
    assert found.notes == [] and out.cells == found.cells and out.points == found.points
    (note,) = supervised.to_json(out)["notes"]
    assert note.startswith("models in no fit") and note.endswith(": a, b, c")
    task.heads("probe", "all", 900, 0.1, cells=["z"])
    mixed = supervised.read(task.folder, {"z": 1.0}, FEW)
    assert mixed.cells == ("z",) and "left out of models that are in no fit" in mixed.notes[0]


def test_heads_of_one_recipe_are_pooled_the_newest_and_the_others_counted(tmp_path):
    made = Task(tmp_path)
    for draw in (1, 2, 3):
        made.heads("probe", f"50-{draw}", 50, 3.0, way="long", fitted_at=draw)
        made.heads("finetune", f"50-{draw}", 50, 2.0, way="long", fitted_at=draw)
    made.heads("finetune", "all", 900, 1.0, way="long", fitted_at=4)
    assert supervised.read(made.folder, LOSS, FEW).notes == []
    # One draw again with a shorter recipe: the other two are of the longer one
    made.heads("finetune", "50-1", 50, 4.0, way="short", fitted_at=9)
    found = supervised.read(made.folder, LOSS, FEW)
    assert [(p.method, p.labels, p.draws, p.models) for p in found.points] == [
        ("probe", 50, 3, 3),
        ("finetune", 50, 1, 3),
    ]
    (note,) = found.notes
    assert note.startswith("fine-tuned: 9 of 12 heads were fitted with another recipe")
    # One model of three: what is left of the mean is no mean of heads that are told
    folder = tmp_path / "alone"
    made = Task(folder)
    made.heads("finetune", "all", 900, 1.0, way="long", fitted_at=1)
    made.heads("finetune", "all", 900, 0.5, cells=["a"], way="short", fitted_at=2)
    alone = supervised.read(folder, LOSS, FEW)
    assert alone.cells == ("a",) and [row.models for row in alone.rows] == [1]
    assert alone.rows[0].auprc.value == 0.4 and "2 of 3 heads" in alone.notes[0]
    # Heads of an earlier version do not say how they were fitted, and are older than those that do
    path = folder / "supervised/finetune/all/a.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in ("way", "fitted_at")})
    )
    assert supervised.read(folder, LOSS, FEW).cells == ("b",)


def test_points_are_means_over_models_and_draws(task):
    found = supervised.read(task.folder, LOSS, FEW)
    assert found.cells == ("a", "b", "c")
    assert [(p.method, p.labels, p.every, p.draws, p.models) for p in found.points] == [
        ("probe", 50, False, 3, 3), ("probe", 900, True, 1, 3), ("finetune", 900, True, 1, 3)
    ]  # fmt: skip
    few, every, tuned = found.points
    by_draw = np.array([[task.areas[f"supervised/probe/50-{d}/{c}"] for c in CELLS] for d in (1, 2, 3)])
    assert few.auroc.value == pytest.approx(by_draw.mean()) and sorted(few.reached) == pytest.approx(
        sorted(by_draw.flat)
    )
    assert few.deviation == pytest.approx(by_draw.mean(1).std(ddof=1))
    seeds = np.array([task.areas[f"supervised/probe/all/{c}"] for c in CELLS])
    assert every.auroc.value == pytest.approx(seeds.mean()) and every.deviation == pytest.approx(seeds.std(ddof=1))
    zero_shot = np.mean([task.areas[c] for c in CELLS])
    for point in found.points:
        assert point.lead.value == pytest.approx(point.auroc.value - zero_shot)
        assert point.auroc.low < point.auroc.value < point.auroc.high
    assert tuned.lead.low > 0 > few.lead.high


def test_rows_are_of_the_mean_risk_beside_zero_shot_and_the_regression(task):
    found = supervised.read(task.folder, LOSS, FEW)
    assert [row.name for row in found.rows] == ["zero-shot", "linear probe", "fine-tuned", "logistic regression"]
    zero_shot, probe, tuned, regression = found.rows
    said = [parquet.read_table(task.folder / f"supervised/probe/all/{c}.parquet")[COLUMNS[3]].to_numpy() for c in CELLS]
    mean = Predictions(task.labels, np.arange(STAYS), np.mean(said, axis=0)[None])
    assert probe.auroc.value == pytest.approx(mean.auroc[0]) and probe.auroc.value > probe.mean.value
    assert probe.auprc[:3] == (0.55, 0.5, 0.6) and probe.models == 3
    assert probe.less_zero_shot.value == pytest.approx(probe.auroc.value - zero_shot.auroc.value)
    assert tuned.less_regression.value == pytest.approx(tuned.auroc.value - regression.auroc.value)
    assert zero_shot.less_zero_shot is None and regression.less_regression is None
    assert regression.mean.value == pytest.approx(task.areas["baseline"]) and regression.auprc.value == 0.4
    assert zero_shot.auprc is None  # of a mean that nobody scored


def test_the_group_of_most_seeds_is_told_and_of_these_that_of_least_loss(task):
    task.heads("probe", "all", 900, 0.1, cells=["d"])
    task.write("d", 0.1)
    assert supervised.read(task.folder, LOSS, FEW).cells == ("a", "b", "c")
    without = {cell: loss for cell, loss in LOSS.items() if cell != "b"}  # one of the three is in no fit
    alone = supervised.read(task.folder, without, FEW)
    assert alone.cells == ("d",)
    (row,) = (row for row in alone.rows if row.name == "linear probe")
    assert row.models == 1 and np.isnan(row.deviation) and row.auprc.value == 0.4


def test_few_draws_are_in_the_interval_of_their_mean(tmp_path):
    """Draws that are alike leave the patients, draws that differ widen it."""
    widths = []
    for k, noises in enumerate(((1.0, 1.0, 1.0), (0.2, 1.0, 5.0))):
        made = Task(tmp_path / str(k))
        for draw, noise in enumerate(noises):
            made.heads("probe", f"50-{draw + 1}", 50, noise, cells=["a"])
        (point,) = supervised.read(made.folder, LOSS, FEW).points
        widths.append(point.auroc.high - point.auroc.low)
        assert point.lead.value != point.lead.value  # nobody scored it zero-shot
    assert widths[1] > 2 * widths[0]


def test_damage_is_named_by_its_file(task):
    path = task.folder / "supervised/probe/all/a.json"
    score = json.loads(path.read_text())
    path.write_text(json.dumps({**score, "auroc": 0.5}))
    with pytest.raises(UserError, match=r"all/a\.parquet and the score beside it differ: delete both"):
        supervised.read(task.folder, LOSS, FEW)
    path.write_text(json.dumps({"auroc": 0.5}))
    with pytest.raises(UserError, match=r"a\.json is damaged: delete it and run launch\.supervise"):
        supervised.read(task.folder, LOSS, FEW)


def test_the_page_has_a_table_and_a_figure(task):
    found = supervised.read(task.folder, LOSS, FEW)
    base = {"name": "logistic regression", "auroc": 0.8, "low": 0.7, "high": 0.9, "n": STAYS, "positives": 100}
    outcome = downstream.Outcome("died", "", [], base, np.nan, (np.nan, np.nan))
    outcome = replace(outcome, supervised=found)
    runs = SimpleNamespace(generated=True)
    results = SimpleNamespace(table=runs, outcomes=[outcome], valued=[])
    page = str(outcome_sections.outcomes(results, {"labels_died": "<svg>figure</svg>"}))
    assert "<svg>figure</svg>" in page and "With labels: heads on trained models" in page
    table = page[page.index("With labels") :]
    for row in found.rows:
        assert f"{row.auroc.value:.3f}" in table and row.name in table
    for point in found.points:
        assert f"{point.auroc.value:.3f}" in table
    assert "Lowest to highest" in table
    axes = label_plots.of_labels(outcome).axes[0]
    marks = {round(float(y), 6) for line in axes.lines for y in np.atleast_1d(line.get_ydata())}
    assert {round(p.auroc.value, 6) for p in found.points} | {
        round(x, 6) for p in found.points for x in p.reached
    } <= marks
    assert round(found.rows[0].mean.value, 6) in marks and round(found.rows[-1].mean.value, 6) in marks
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["50", "900"]
    # Without fewer labels the table says it all, and without heads there is none
    alone = replace(outcome, supervised=replace(found, points=[p for p in found.points if p.every]))
    whole = SimpleNamespace(table=runs, outcomes=[alone], valued=[])
    assert "Lowest to highest" not in str(outcome_sections.outcomes(whole, {}))
    bare = SimpleNamespace(table=runs, outcomes=[replace(outcome, supervised=None)], valued=[])
    assert "With labels" not in str(outcome_sections.outcomes(bare, {}))


def test_json_has_all_of_it(task):
    told = supervised.to_json(supervised.read(task.folder, LOSS, FEW))
    assert told["cells"] == CELLS and len(told["compared"]) == 4 and len(told["by_labels"]) == 3
    assert told["compared"][1]["auprc"] == {"value": 0.55, "low": 0.5, "high": 0.6}
    assert len(told["by_labels"][0]["heads"]) == 9 and supervised.to_json(None) is None
