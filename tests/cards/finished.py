"""A finished study for tests, without training: real artifacts of data, made-up runs, scores and laws."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import simulated

from ehr_scaling import artifacts, study
from ehr_scaling.analysis.forecast import holdout
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.tables import readers
from ehr_scaling.grid import manifest
from ehr_scaling.layout import Layout
from tests import blank, small

TASK = "in_hospital_death"
NAME = 'a "made-up" <hospital> & more'
DESCRIPTION = 'Death <in hospital> & "soon".'
PATIENTS = 800  # of the runs, as `simulated.write_runs` says
CELL = {
    "width": 8, "layers": 2, "heads": 1, "ff": 24, "tied": True, "dtype": "float32", "dropout": 0.0, "mixing": "conv",
    "parametrization": "standard", "vocab": 700, "padded_vocab": 704, "context": 64, "fraction": 1.0, "version": 1,
    "unique_tokens": 2_000_000, "patients": PATIENTS, "steps": 120, "optimizer": "muon", "schedule": "cosine",
    "learning_rate": 0.004, "batch_tokens": 2048, "N_head": 512, "N_embedding": 0, "data": NAME, "edge": "", "init": "",
}  # fmt: skip


def measure(value: float, half: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def group(n: int, positives: int) -> dict[str, Any]:
    told = {"auroc": 0.7, "low": 0.6, "high": 0.8, "n": n, "patients": n, "positives": positives, "auprc": measure(0.3)}
    apart = {"auroc": {**measure(-0.03), "told": False, "could_hide": 0.08}}
    apart["calibration_in_the_large"] = {**measure(0.2), "told": True, "could_hide": 0.25}
    return {**told, "gaps": apart}


def decision(alerts: float) -> dict[str, Any]:
    """Two thresholds of which one tells something."""
    numbers = {"alerts": measure(alerts), "sensitivity": measure(0.6), "ppv": measure(0.4)}
    table = [
        {"by": "risk", "asked": 0.1, "threshold": 0.1, **numbers},
        {"by": "risk", "asked": 0.5, "suppressed": "suppressed: few"},
        {"by": "budget", "asked": 0.05, "threshold": 0.312, **numbers},
    ]
    return {"prevalence": measure(0.13), "curve": [], "table": table}


def score(auroc: float) -> dict[str, Any]:
    """As launch.evaluate leaves it."""
    of_risks = {"calibration_slope": measure(0.9), "calibration_in_the_large": measure(-0.2), "ece": measure(0.06)}
    told = {
        **{"auroc": auroc, "low": auroc - 0.03, "high": auroc + 0.03, "n": 300, "patients": 300, "positives": 40},
        **{"auprc": measure(0.4), "brier": measure(0.09), "draws": 20, "copies": 16, "method": "of <copies>"},
        **of_risks,
        "against_baseline": {"auroc": {"difference": -0.01, "low": -0.03, "high": 0.01, "p_value": 0.3}},
        "recalibrated": {
            **{**of_risks, "brier": measure(0.08), "split": "validation", "intercept": -0.1, "slope": 0.9},
            "decision": decision(0.2),
        },
        "decision": decision(0.3),
        "subgroups": {"sex": {"f": group(160, 25), "m": group(140, 15), "x": {"suppressed": "suppressed: few"}}},
    }
    return told


def write(root: Path, prepared: Path, *, generated: bool) -> Path:
    """The study `root`, on the data of `prepared` (`study.prepare`); its patients are called real where they are not
    to be `generated`."""
    shutil.copytree(prepared, root)
    there = Layout(root)
    _rename(there.events, generated)
    runs = simulated.rows(budgets=3, sizes=5, noise=0.004)
    for row in runs:
        row["cell"] = row["run"].replace(".", "").replace("+", "")
    simulated.write_runs(there.runs, runs, generated=generated, data=NAME)
    for row in runs:
        path = there.run(row["cell"]) / "120" / "metrics" / "metrics"
        artifacts.write_sealed(path, json.loads(path.read_text()))
    cells = [_cell(row, generated) for row in runs]
    artifacts.build(there.grid, {"points": len(cells)}, lambda out: _grid(out, cells), changing=(manifest.MANIFEST,))
    _scores(there.task(TASK), runs)
    table = readers.read(there.runs)
    found = results.fit(table, Options(draws=20), there.outcomes)
    there.report.mkdir()
    artifacts.write_json(there.report / "forecast.json", holdout.dated(found.forecast))
    made = {name: artifacts.record(getattr(there, name))["fingerprint"] for name in ("events", "timelines", "grid")}
    laws = {**results.to_json(found), "provenance": {"fingerprints": made, "versions": {"commit": "c0ffee"}}}
    artifacts.write_json(there.report / "laws.json", laws)
    return root


def prepare(root: Path) -> Path:
    study.prepare(small.config(), root)
    return root


def change(path: Path, **values: Any) -> None:
    """Change a JSON file, and seal it again where it was sealed."""
    read = artifacts.read_json(path)
    sealed = artifacts.SEAL in json.loads(path.read_text())
    (artifacts.write_sealed if sealed else artifacts.write_json)(path, {**read, **values})


def best(root: Path) -> str:
    """The cell of least loss."""
    return str(json.loads((root / "report" / "laws.json").read_text())["outcomes"][0]["models"][0]["cell"])


def _rename(events: Path, generated: bool) -> None:
    record = artifacts.record(events)
    record["summary"] |= {"name": NAME, "generated": generated, "dropped": {"no <time>": 3}}
    artifacts.write_sealed(events / artifacts.RECORD, record)


def _cell(row: dict[str, Any], generated: bool) -> Any:
    numbers = {"flops": row["C"], "tokens": int(row["D"]), "N_body": int(row["N"]), "budget": float(f"{row['C']:.3g}")}
    return blank.cell(row["cell"], **CELL, **numbers, size=row["size"], seed=row["seed"], generated=generated)


def _grid(out: Path, cells: list[Any]) -> dict[str, Any]:
    manifest.write(out / manifest.MANIFEST, cells)
    return {"cells": len(cells), "infeasible": []}


def _scores(task: Path, runs: list[dict[str, Any]]) -> None:
    task.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for row in runs:
        auroc = 0.8 - 0.02 * (row["loss"] - 5) + 0.002 * rng.standard_normal()
        artifacts.write_sealed(task / f"{row['cell']}.json", score(auroc))
    base = {"name": "logistic regression", **{k: v for k, v in score(0.81).items() if k in ("auroc", "low", "high")}}
    artifacts.write_sealed(task / "baseline.json", base)
    spec = {"anchor": ["HOSPITAL_ADMISSION"], "hours": 24.0, "positive": ["MEDS_DEATH"], "negative": ["DISCHARGE"]}
    about = {
        **{"task": TASK, "kind": "binary", "description": DESCRIPTION, "stays": 300},
        **{"left_out": {"whose record ends <before>": 4}, "inputs": {"task": spec, "split": "test"}},
    }
    artifacts.write_sealed(task / "task.json", about)
