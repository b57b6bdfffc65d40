import json

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis import downstream
from ehr_scaling.analysis.uncertainty import Options
from ehr_scaling.errors import UserError

FEW = Options(draws=200)


def write_scores(folder, table, slope=-0.2, noise=0.0):
    task = folder / "made_up_task"
    task.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for cell, loss in zip(table.cell, table.loss, strict=True):
        auroc = 0.8 + slope * (loss - 5) / 10 + noise * rng.standard_normal()
        score = {
            "cell": str(cell),
            "auroc": auroc,
            "low": auroc - 0.03,
            "high": auroc + 0.03,
            "n": 300,
            "positives": 40,
        }
        (task / f"{cell}.json").write_text(json.dumps(score | {"undetermined": 0.01}))
    (task / "baseline.json").write_text(
        json.dumps({"name": "logistic regression", "auroc": 0.81, "low": 0.78, "high": 0.84})
    )
    (task / "task.json").write_text(json.dumps({"description": "A made-up outcome."}))
    return task


def test_scores_are_joined_to_runs_by_cell(tmp_path):
    table = simulated.table(budgets=2, sizes=4, seeds=1)
    task = write_scores(tmp_path, table)
    (task / f"{table.cell[0]}.json").unlink()
    (task / "stray.json").write_text(json.dumps({"auroc": 0.5}))
    (outcome,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert len(outcome.rows) == len(table) - 1
    assert outcome.missing == [str(table.cell[0])] and outcome.unknown == ["stray"]
    loss = dict(zip(table.cell, table.loss, strict=True))
    assert all(r["loss"] == loss[r["cell"]] for r in outcome.rows)
    assert outcome.baseline["auroc"] == 0.81 and outcome.text == "A made-up outcome."


def test_rank_correlation_and_its_interval(tmp_path):
    table = simulated.table(budgets=3, sizes=5, seeds=2)
    write_scores(tmp_path, table)
    (perfect,) = downstream.read(tmp_path, table, FEW, table.cell)
    assert perfect.spearman == pytest.approx(-1) and perfect.spearman_interval == pytest.approx((-1, -1))
    rng = np.random.default_rng(0)
    loss = list(rng.random(30))
    rho, (low, high) = downstream.spearman(loss, list(rng.random(30)), FEW)
    assert low < rho < high and low < 0 < high
    assert np.isnan(downstream.spearman([1, 2, 3], [3, 2, 1], FEW)[0])


def test_bad_scores_name_their_file(tmp_path):
    table = simulated.table(budgets=1, sizes=4, seeds=1)
    task = write_scores(tmp_path, table)
    path = task / f"{table.cell[0]}.json"
    for text, message in (('{"auroc": 1.5}', "not a number from 0 to 1"), ("{}", "not a number"), ("{", "is damaged")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            downstream.read(tmp_path, table, FEW, table.cell)
    with pytest.raises(UserError, match="no such directory"):
        downstream.read(tmp_path / "absent", table, FEW, table.cell)
