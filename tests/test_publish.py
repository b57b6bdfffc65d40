"""What goes out of a study, and how claims are judged."""

import csv
import json
import shutil
import sys
import types
from dataclasses import fields, replace

import pyarrow.parquet as pq
import pytest

from ehr_scaling import analysis as laws
from ehr_scaling import artifacts, publish
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import Cell
from ehr_scaling.training import tracking
from tests import blank

CLAIMS = """
study: made up
runs:
  - {budgets: [1.2e10, 3.8e10], sizes: [3.5k, 14k], seeds: [1, 2]}
  - {passes: [1, 4], fractions: [0.5, 1], sizes: [3.5k], seeds: [1, 2]}
claims:
  - {claim: the exponent is known to .15, figure: isoflop.intervals.a.width, at_most: 0.15}
  - {claim: two budgets are bracketed, figure: "isoflop.budgets.verdict.count(bracketed)", at_least: 2}
"""


@pytest.fixture
def claims(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS)
    return path


def test_the_runs_of_a_claims_file_are_products(claims):
    found = publish.points(publish.read_claims(claims))
    assert len(found) == 2 * 2 * 2 + 2 * 2 * 2
    assert (1.2e10, None, 1.0, "14k", 2) in found and (None, 4.0, 0.5, "3.5k", 1) in found


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("study: made up", "study: [", "is no YAML"),
        ("study: made up", "name: x", "give study, runs and claims"),
        ("seeds: [1, 2]}\n  - {passes", "seeds: [1]}\n  - {passes", "runs, entry 1: 1 seed is too few, take 2"),
        ("passes: [1, 4], ", "", "runs, entry 2: give budgets or passes"),
        ("at_most: 0.15", "about: 0.15", "claims, entry 1: give claim, figure and one of at_most"),
        ("at_most: 0.15", "at_most: 1e-2", "claims, entry 1: at_most takes numbers, written as"),
        ("seeds: [1, 2]}\n  - {passes", "seeds: 12}\n  - {passes", "runs, entry 1: each field is a list"),
        ("  - {claim: two", "  - two #", "claims is a list of entries"),
    ],
)
def test_a_claims_file_that_says_less_is_refused(claims, old, new, told):
    claims.write_text(CLAIMS.replace(old, new))
    with pytest.raises(UserError, match=told):
        publish.read_claims(claims)


LAWS = {
    "isoflop": {
        "intervals": {"a": [0.5, 0.6]},
        "budgets": [
            {"verdict": "bracketed", "C": 1e10, "scatter": 0.01, "depth": 0.1, "seed_noise": 0.02},
            {"verdict": "flat", "C": None, "scatter": 0.02, "depth": 0.1, "seed_noise": None},
        ],
    },
    "outcomes": [{"task": "death", "lead": -0.01}, {"task": "stay", "lead": None}],
    "repeated": None,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("isoflop.intervals.a.width", pytest.approx(0.1)),
        ("isoflop.intervals.a[1]", 0.6),
        ("isoflop.budgets.verdict.count(bracketed)", 1),
        ("isoflop.budgets[verdict=flat].C", None),
        ("isoflop.budgets[0].C", 1e10),
        ("outcomes[task=death].lead", -0.01),
        ("outcomes[task=none].lead", None),
        ("repeated.R_D", None),
        ("isoflop.budgets.scatter / isoflop.budgets.depth", pytest.approx(0.2)),
        ("isoflop.budgets[0].scatter / isoflop.budgets[0].depth", pytest.approx(0.1)),
        ("isoflop.budgets.seed_noise / isoflop.budgets.depth", pytest.approx(0.2)),
        ("isoflop.budgets[1].seed_noise / isoflop.budgets[1].depth", None),
    ],
)
def test_the_path_of_a_figure(path, value):
    assert publish.figure(LAWS, path) == value


@pytest.mark.parametrize(
    "path",
    [
        "isoflop.nothing",
        "isoflop.intervals.a[x]",
        "outcomes.task.lead",
        "isoflop[kind=a]",
        "isoflop.budgets.C / isoflop.none",
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path):
    with pytest.raises(UserError, match=r"no number of laws\.json stands at"):
        publish.figure(LAWS, path)


def test_runs_that_are_not_listed_have_no_point_of_the_list():
    of = {"budget": None, "tokens": 16.9e6, "unique_tokens": 1e6, "fraction": 1.0, "size": "3.5k", "seed": 1}
    of = blank.cell("a", **of)
    assert publish.point_of(of, [1.0, 4.0])[1] is None
    assert publish.point_of(of, [1.0, 4.0, 16.0])[1] == 16.0


def test_runs_of_one_point_are_not_published_together(tmp_path, claims):
    study(tmp_path / "w", [cell(), cell(id="b2", rate_multiple=2.0)], runs=2)
    with pytest.raises(UserError, match="holds several runs of one budget, size and seed"):
        publish.publish(tmp_path / "w", claims, tmp_path / "out")


def test_claims_are_held_failed_or_incomplete(claims):
    read = publish.read_claims(claims)
    assert [row["word"] for row in publish.judged(read, LAWS, complete=True)] == ["held", "failed"]
    assert {row["word"] for row in publish.judged(read, LAWS, complete=False)} == {"incomplete"}
    more = read._replace(
        claims=[
            publish.Claim("x", "outcomes[task=death].lead", "between", [-0.02, 0]),
            publish.Claim("x", "outcomes[task=stay].lead", "at_least", 0),
            publish.Claim("x", "isoflop.budgets[1].verdict", "is", "flat"),
        ]
    )
    assert [row["word"] for row in publish.judged(more, LAWS, complete=True)] == ["held", "incomplete", "held"]


def test_curves_are_thinned_by_means():
    curve = [[10 * (k + 1), float(k)] for k in range(100)]
    thin = publish._thinned(curve, batch=8)
    assert len(thin) <= 40 and thin[-1]["step"] == 1000 and thin[-1]["tokens"] == 8000
    assert thin[0] == {"step": 30, "tokens": 240, "loss": 1.0}
    short = publish._thinned([[3, 1.0], [5, 2.0]], batch=1)
    assert [row["loss"] for row in short] == [1.0, 2.0]


def cell(**changes):
    """A finished run's record, as the trainer leaves it."""
    own = dict.fromkeys(publish._COPIED, 1) | {"budget": 1.2e10, "fraction": 1.0, "size": "3.5k", "seed": 1}
    own |= {"id": "a1", "phase": "cooled", "N_body": 3588, "tokens": 122_368, "unique_tokens": 4_000_000}
    own |= {"flops": 1.2e10, "validation_loss": 3.0, "validation_loss_se": 0.1, "curve": [[10, 5.0], [20, 4.0]]}
    own |= {"measured_on": {"tokens": 1000, "events": 500, "patient_days": 100, "patients": 10}, "batch_tokens": 256}
    own |= {"real_tokens": 120_000.0, "wall_seconds": 2.04, "finished": True, "subject_id": 17}
    return own | changes


def study(workdir, cells, runs):
    (workdir / "grid").mkdir(parents=True)
    known = {f.name for f in fields(Cell)} - {"id", "measured_on"}
    planned = [blank.cell(c["id"], **{name: c[name] for name in known & c.keys()}) for c in cells]
    manifest.write(workdir / "grid" / manifest.MANIFEST, planned)
    for own in cells:
        folder = workdir / "runs" / own["id"] / "20" / "metrics"
        folder.mkdir(parents=True)
        artifacts.write_sealed(folder / "metrics", own)
    score = {"auroc": 0.7, "low": 0.6, "high": 0.8, "n": 300, "patients": 300, "positives": 40}
    for name in ("death", "los"):
        (workdir / "outcomes" / name).mkdir(parents=True)
    artifacts.write_json(workdir / "outcomes" / "death" / f"{cells[0]['id']}.json", score)
    artifacts.write_json(workdir / "outcomes" / "los" / f"{cells[0]['id']}.json", {"mae": 2.0})
    (workdir / "report" / "figures").mkdir(parents=True)
    (workdir / "report" / "figures" / "fan.png").write_bytes(b"png")
    artifacts.write_json(
        workdir / "report" / "laws.json", {**LAWS, "data": {"runs": runs}, "provenance": {"machine": "m"}}
    )


def test_what_is_listed_goes_out_and_nothing_of_patients(tmp_path, claims):
    other = cell(id="b2", seed=9)
    study(tmp_path / "w", [cell(), other], runs=1)
    found = publish.publish(tmp_path / "w", claims, tmp_path / "out")
    assert (found["listed"], found["finished"], found["missing"], found["others"]) == (16, 1, 15, 1)
    assert {row["word"] for row in found["claims"]} == {"incomplete"}
    (row,) = csv.DictReader((tmp_path / "out" / "runs.csv").open())
    assert "subject_id" not in row and float(row["loss_per_event"]) == 6.0 and float(row["loss_per_day_se"]) == 1.0
    assert float(row["auroc_death_high"]) == 0.8 and "auroc_los" not in row and row["real_tokens"] == "120000"
    curves = list(csv.DictReader((tmp_path / "out" / "curves.csv").open()))
    assert [(r["run"], r["tokens"], r["loss"]) for r in curves] == [
        (row["run"], "2560", "5.0"),
        (row["run"], "5120", "4.0"),
    ]
    assert "provenance" not in json.loads((tmp_path / "out" / "laws.json").read_text())
    assert (tmp_path / "out" / "figures" / "fan.png").read_bytes() == b"png"
    table = laws.read(tmp_path / "out" / "runs.csv")  # others read it without a flag
    assert (table.N[0], table.D[0], table.C[0], table.loss[0]) == (3588, 122_368, 1.2e10, 3.0)


def test_a_report_of_other_runs_is_not_published(tmp_path, claims):
    study(tmp_path / "w", [cell(), cell(id="b2", seed=9)], runs=2)
    with pytest.raises(UserError, match="does not list 1 runs of"):
        publish.publish(tmp_path / "w", claims, tmp_path / "out")
    (tmp_path / "w" / "report" / "laws.json").unlink()
    with pytest.raises(UserError, match=r"laws.json is missing: run launch.study first"):
        publish.publish(tmp_path / "w", claims, tmp_path / "out")


def test_a_run_table_leaves_as_a_file_that_analyze_reads(tmp_path):
    """Listed or not, finished runs alone; the same numbers from either kind of file as from the folder of runs."""
    study(tmp_path / "w", [cell(), cell(id="b2", seed=9, validation_loss=2.9)], runs=2)
    shutil.rmtree(tmp_path / "w" / "outcomes" / "los")
    unfinished = [*manifest.read(tmp_path / "w" / "grid"), blank.cell("c3", phase="cooled")]
    manifest.write(tmp_path / "w" / "grid" / manifest.MANIFEST, unfinished)
    for name in ("runs.csv", "runs.parquet"):
        assert publish.export_runs(tmp_path / "w", str(tmp_path / "tables" / name)) == 2
        table = laws.read(tmp_path / "tables" / name)
        assert table.loss.tolist() == [3.0, 2.9] and table.N.tolist() == [3588] * 2
        assert table.run.tolist() == ["a1", "b2"]
    columns = pq.read_table(tmp_path / "tables" / "runs.parquet")
    assert columns["auroc_death"].to_pylist() == [0.7, None] and "subject_id" not in columns.column_names
    with pytest.raises(UserError, match=r"--runs=runs\.txt: give a \.csv or \.parquet file, or wandb:PROJECT"):
        publish.export_runs(tmp_path / "w", "runs.txt")
    with pytest.raises(UserError, match=r"w holds no finished run: run launch\.study or launch\.sweep first"):
        shutil.rmtree(tmp_path / "w" / "runs")
        publish.export_runs(tmp_path / "w", "runs.csv")


def test_a_score_of_few_real_patients_stays(tmp_path):
    study(tmp_path / "w", [cell()], runs=1)
    path = tmp_path / "w" / "outcomes" / "death" / "a1.json"
    (planned,) = manifest.read(tmp_path / "w" / "grid")
    assert not planned.generated
    assert publish.rows(tmp_path / "w", [planned])[0][0]["auroc_death"] == 0.7
    artifacts.write_json(path, {"auroc": 0.7, "low": 0.6, "high": 0.8, "n": 300, "patients": 300, "positives": 10})
    assert "auroc_death" not in publish.rows(tmp_path / "w", [planned])[0][0]
    assert publish.rows(tmp_path / "w", [replace(planned, generated=True)])[0][0]["auroc_death"] == 0.7


def test_a_claim_of_an_interval_is_one_line(claims):
    asked = publish.read_claims(claims)
    (first, *_) = asked.claims
    wrong = asked._replace(claims=[first._replace(figure="isoflop.intervals.a")])
    with pytest.raises(UserError, match=r"claims: 'isoflop\.intervals\.a' is no number of laws\.json: name one of its"):
        publish.judged(wrong, LAWS, complete=True)


def test_a_run_table_goes_to_weights_and_biases_a_run_each(tmp_path, monkeypatch):
    study(tmp_path / "w", [cell(), cell(id="b2", seed=9)], runs=2)
    begun, ended = [], []

    class Run:
        def __init__(self):
            self.summary = {}

        def finish(self):
            ended.append(self.summary)

    def init(**arguments):
        begun.append(arguments)
        return Run()

    fake = types.SimpleNamespace(init=init, Settings=dict, errors=types.SimpleNamespace(Error=OSError))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert publish.export_runs(tmp_path / "w", "wandb:laws") == 2
    assert [(b["project"], b["id"], b["config"]["seed"]) for b in begun] == [("laws", "a1", 1), ("laws", "b2", 9)]
    assert "validation_loss" not in begun[0]["config"] and "subject_id" not in begun[0]["config"]
    assert [e["validation_loss"] for e in ended] == [3.0, 3.0] and ended[0]["auroc_death"] == 0.7
    assert "auroc_death" not in ended[1] and not {"run", "seed"} & set(ended[0])


def test_a_downloaded_table_of_weights_and_biases_has_the_validation_loss(tmp_path, monkeypatch):
    """Of runs that were logged while they trained, before they are exported and after."""
    study(tmp_path / "w", [cell()], runs=1)
    online = {}

    class Run:
        def __init__(self, config):
            self.config, self.summary = config, {}

        def log(self, values, step):
            self.summary.update(values)  # which keeps the last of each

        def finish(self):
            pass

    def init(**arguments):
        online.setdefault(arguments["id"], Run({})).config.update(arguments["config"])
        return online[arguments["id"]]

    fake = types.SimpleNamespace(init=init, Settings=dict, errors=types.SimpleNamespace(Error=OSError))
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def downloaded():
        table = [{"Name": name, **run.config, **run.summary} for name, run in online.items()]
        with (tmp_path / "table.csv").open("w", newline="") as f:
            writer = csv.DictWriter(f, table[0])
            writer.writeheader()
            writer.writerows(table)
        return laws.read(tmp_path / "table.csv")

    (planned,) = manifest.read(tmp_path / "w" / "grid")
    with tracking.open_run(tmp_path / "run", planned.to_json(), {"tensorboard": False, "wandb": "laws"}) as tracker:
        tracker.log({"step": 10, "tokens": 2560, "loss": 5.0, "validation_loss": 4.5, "validation_loss_se": 0.2})
        tracker.log({"step": 20, "tokens": 5120, "loss": 4.0})
    with pytest.raises(UserError, match="no column 'loss' for loss"):
        downloaded()
    publish.export_runs(tmp_path / "w", "wandb:laws")
    table = downloaded()
    assert (table.N[0], table.D[0], table.C[0], table.loss[0], table.loss_se[0]) == (3588, 122_368, 1.2e10, 3.0, 0.1)
