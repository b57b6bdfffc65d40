"""docs/laws.md says what stands in laws.json: every key that is written, and no other."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import simulated
import sweeps
from pyarrow import parquet
from scipy.special import expit, ndtr

from ehr_scaling.analysis.joint import quality
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes.predictions import COLUMNS, Predictions
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.artifacts import write_sealed

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "laws.md"


def number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


TYPES = {
    "text": lambda v: isinstance(v, str),
    "number": number,
    "whole": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "yes/no": lambda v: isinstance(v, bool),
    "interval": lambda v: isinstance(v, list) and len(v) == 2 and all(x is None or number(x) for x in v),
    "numbers": lambda v: isinstance(v, list) and all(map(number, v)),
    "rows": lambda v: isinstance(v, list) and all(map(TYPES["numbers"], v)),
    "texts": lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v),
    "object": lambda v: isinstance(v, dict),
}


def pattern(key):
    return re.compile("".join("[^.]+" if part[:1] == "<" else re.escape(part) for part in re.split(r"(<\w+>)", key)))


def documented(text):
    """{key: (pattern, type, whether it may be null)} of all rows of the tables of keys."""
    section = text[text.index("## laws.json") :]
    keys = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.removesuffix("|").split("|")[1:]]
            assert len(cells) == 4, f"docs/laws.md: not a row of key, type, meaning and null: {line}"
            key, kind, _, null = cells
            key = key.strip("`")
            assert kind in TYPES, f"docs/laws.md: {key} is of the unknown type {kind}"
            assert key not in keys, f"docs/laws.md: {key} stands twice"
            keys[key] = (pattern(key), kind, bool(null))
    return keys


def paths(value, path=""):
    """(path, value) of everything under a JSON value, objects among it; "[]" stands for each element of a list."""
    if isinstance(value, dict):
        if path:
            yield path, value
        for key, below in value.items():
            yield from paths(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(x, dict) for x in value):
        for below in value:
            yield from paths(below, f"{path}[]")
    else:
        yield path, value


def above(path):
    """Whether a documented key lies under `path`."""
    return lambda key: any(
        pattern(key[: end.start()]).fullmatch(path) for end in re.finditer(r"\.|\[\]", key) if end.start()
    )


def problems(keys, written):
    """What the document says otherwise than a laws.json; where a name and a wildcard both fit, the name counts."""
    found = set()
    fitting = cache(lambda path: [key for key, (form, _, _) in keys.items() if form.fullmatch(path)])
    for path, value in paths(written):
        if not (fits := fitting(path)):
            # What a full object holds comes by itself; an empty one, or an empty list, must be able to hold something.
            if not ((isinstance(value, dict) and value) or (value in ({}, []) and any(map(above(path), keys)))):
                found.add(f"{path} is not documented")
            continue
        _, kind, null = keys[min(fits, key=lambda key: key.count("<"))]
        if value is None:
            found |= set() if null else {f"{path} is null, and the document does not say when"}
        elif not TYPES[kind](value):
            found.add(f"{path} is {value!r}, documented as {kind}")
    return found


def write_outcome(task, table, stays=200):
    """Scores and predictions of a task that a lower loss tells better, as launch.evaluate leaves them."""
    task.mkdir(parents=True)
    rng, patients = np.random.default_rng(0), np.arange(stays)
    labels, own = rng.random(stays) < 0.3, rng.standard_normal((len(table), stays))
    told = 1.5 - (table.loss - table.loss.mean()) / table.loss.std()
    said = Predictions(labels, patients, expit(told[:, None] * labels + own[0] + 0.3 * own - 1))
    for cell, probability, auroc in zip(table.cell, said.probability, said.auroc, strict=True):
        score = {"auroc": auroc, "low": auroc - 0.03, "high": auroc + 0.03, "n": stays, "positives": int(labels.sum())}
        score |= {"copies": 20, "undetermined": 0.01, "method": "of copies"}
        (task / f"{cell}.json").write_text(json.dumps(score))
        columns = (patients, patients, labels, probability)
        parquet.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True))), task / f"{cell}.parquet")
    baseline = {"name": "logistic regression", "auroc": 0.8, "low": 0.77, "high": 0.83, "method": "fitted on 100 stays"}
    baseline |= {"columns": 90, "strength": 0.1, "strengths": [0.1, 1.0], "features": "counts of every token"}
    (task / "baseline.json").write_text(json.dumps(baseline))


def fill_scores(task, table):
    """What scores hold beside the AUROC: of the model of least loss, and of another task whose outcome is days."""
    path = task / f"{table.cell[table.loss.argmin()]}.json"
    whole = {"value": 0.2, "low": 0.1, "high": None}
    difference = {"difference": -0.1, "low": -0.2, "high": 0.1, "p_value": 0.3}
    told = {"auroc": 0.7, "low": 0.6, "high": 0.8, "n": 100, "patients": 90, "positives": 30}
    score = {"auprc": whole, "against_baseline": {"auroc": difference, "auprc": {"difference": 0.1}}, "open": 0.1}
    score["calibration_curve"] = [{"predicted": 0.1, "observed": 0.2, "low": 0.1, "high": 0.3, "n": 50, "patients": 40}]
    gap = {"value": -0.1, "low": -0.2, "high": 0.1, "told": False, "could_hide": 0.2}
    apart = {**told, "gaps": {"auroc": gap}}
    score["subgroups"] = {"sex": {"f": apart, "m": {"suppressed": "suppressed: few"}}}
    net = {"net_benefit": whole, "treat_all": whole, "difference": whole}
    row = {"by": "budget", "asked": 0.1, "threshold": 0.3, "alerts": whole, "ppv": whole}
    score["decision"] = {
        "prevalence": whole,
        "curve": [{"threshold": 0.1, **net, "word": "helps"}],
        "thresholds_suppressed": 3,
        "table": [row, {"by": "risk", "asked": 0.05, "suppressed": "suppressed: few"}],
    }
    less = {"threshold": 0.1, "value": 0.01, "low": -0.01, "high": None}
    score |= {"net_benefit_against": {"logistic regression": [less]}, "monte_carlo_auroc": 0.7, "monte_carlo_stays": 90}
    score["recalibrated"] = {"brier": whole, "method": "isotonic", "subgroups": {"sex": {"f": apart}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | score))
    days = task.with_name("stay")
    days.mkdir()
    (days / "task.json").write_text(json.dumps({"kind": "days"}))
    (days / path.name).write_text(json.dumps({"mae": whole, "bounded": 0.2}))
    (days / "baseline.json").write_text(json.dumps({"name": "ridge regression", "mae": 3.5}))


def write_heads(task, cells, stays=200):
    """Heads of two models, with few labels and with all, as launch.supervise leaves them; fine-tuned is one alone."""
    rng, patients = np.random.default_rng(1), np.arange(stays)
    labels = parquet.read_table(task / f"{cells[0]}.parquet")["boolean_value"].to_numpy()
    for method, known, models in (("probe", "20-1", cells), ("probe", "all", cells), ("finetune", "all", cells[:1])):
        folder = task / "supervised" / method / known
        folder.mkdir(parents=True)
        for cell in models:
            said = expit(1.2 * labels + rng.standard_normal(stays))
            parquet.write_table(
                pa.table(dict(zip(COLUMNS, (patients, patients, labels, said), strict=True))),
                folder / f"{cell}.parquet",
            )
            auroc = float(Predictions(labels, patients, said[None]).auroc[0])
            about = {"auroc": auroc, "train_stays": 20 if known == "20-1" else 900}
            (folder / f"{cell}.json").write_text(json.dumps(about))
        if models == cells:
            about = {"cells": cells, "auprc": {"value": 0.4, "low": 0.3, "high": 0.5}}
            (folder / "mean-x.json").write_text(json.dumps(about))


def write_audits(folder, table):
    """Audits of all models, which remember the more the larger they are; of one the patients are not told."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k, (cell, N) in enumerate(zip(table.cell, table.N, strict=True)):
        area = float(ndtr(0.4 * (N / np.median(table.N)) ** 0.4) + rng.normal(0, 0.003))
        attack = {"auroc": area, "low": area - 0.006, "high": area + 0.006}
        found = {"true_positives": {"value": 0.03, "low": 0.02, "high": 0.05}}
        excess = {"value": None, "low": -0.01, "high": 0.02}
        row = {"tokens": 8, "match": "exact", "continuations": "all", "excess": excess}
        record = {"cell": str(cell), "size": "x", "N": N, "passes": 2.0, "times_read": 2.0, "patients_read": 900}
        record |= {"D": 1e6 + k, "fraction": 1.0, "started_from": "0123456789abcdef" if k == 2 else None}
        record["membership"] = {
            "loss": {**attack, **found},
            "ratio": {**attack, **found, "reference": {"saw_members": k % 9 == 1}},
        }
        record["rare"] = [{"log_ratio": {"value": 0.3, "low": 0.1, "high": 0.5}}]
        record["continuation"] = {"rows": [row, {**row, "continuations": "unshared"}]}
        write_sealed(folder / f"{cell}.json", record | ({"patients_read": None} if k == 0 else {}))


def write_sheet(folder, table):
    """Answers to a sheet of one code and two horizons, of which one is told, as launch.ask leaves them."""
    folder.mkdir()
    about = {"description": "What comes.", "codes": [{"code": "A", "names": ["A"]}], "horizons": [1, 7]}
    (folder / "sheet.json").write_text(json.dumps(about))
    told = {"stays": 200, "patients": 190, "with_outcome": 40, "auroc": 0.7, "error": 0.05, "low": 0.6, "high": 0.8}
    hidden = {"suppressed": "suppressed: a count under 11 patients"}
    scores = [
        {"code": "A", "horizon_days": days, "all": told, "first": part, "again": hidden, "left_open": 0}
        for days, part in ((1, hidden), (7, told))
    ]
    for cell in table.cell[:3]:
        (folder / f"{cell}.json").write_text(json.dumps({"copies": 20, "bounded": 0.1, "scores": scores}))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """laws.json of studies that between them have everything: outcomes, rates, repeats, branches, too little."""
    work = tmp_path_factory.mktemp("study")
    simulated.write_runs(work / "runs", simulated.rows(budgets=3, sizes=5))
    (work / "runs" / "unborn").mkdir()
    table, options = readers.read(work / "runs"), Options(draws=20)
    write_outcome(work / "outcomes" / "made_up_task", table)
    fill_scores(work / "outcomes" / "made_up_task", table)
    write_heads(work / "outcomes" / "made_up_task", [str(cell) for cell in table.cell[:2]])
    write_sheet(work / "outcomes" / "many_questions", table)
    write_audits(work / "audit", table)
    found = [results.fit(table, options, work / "outcomes", audited=work / "audit")]
    poor = [{k: row[k] for k in ("N", "D", "C", "loss")} for row in simulated.rows(budgets=1, sizes=3, seeds=1)]
    poor.append(poor[0])  # a doubt
    rates = sweeps.rates(sizes=(3e4, 3e5))
    repeated = sweeps.repeated(fractions=(0.25, 1.0), passes=(1, 2, 8, 16), seeds=1, noise=0.001)
    branches = sweeps.both_ways(sizes=(3e4,), lengths=(1e6, 4e6), seeds=2)
    # Off the optimum, and too few budgets for rolling hold-outs: nothing is bracketed, and no drift is known.
    exact = simulated.rows(budgets=2, sizes=4, seeds=1, noise=0.0, shift=1)
    for rows in (rates, repeated, branches, exact, poor):
        found.append(results.fit(from_rows(rows, source="x"), options))
    return [results.to_json(f) for f in found]


def test_every_key_that_is_written_is_documented_with_its_type(written):
    keys = documented(DOCUMENT.read_text(encoding="utf-8"))
    found = set().union(*(problems(keys, laws) for laws in written))
    assert not found, "docs/laws.md:\n" + "\n".join(sorted(found))


def test_every_key_that_is_documented_is_written(written):
    keys = documented(DOCUMENT.read_text(encoding="utf-8"))
    seen = {path for laws in written for path, _ in paths(laws)}
    assert not [key for key, (form, _, _) in keys.items() if not any(map(form.fullmatch, seen))]


def test_an_undocumented_key_a_wrong_type_and_an_unexplained_null_are_told():
    keys = documented(
        "## laws.json\n| `a.<name>` | number | x | |\n| `b` | text | x | never run |\n| `c[].d` | interval | x | |\n"
    )
    assert not problems(keys, {"a": {"x": 1.5, "y": 2}, "b": None, "c": [{"d": [1, None]}]})
    assert not problems(keys, {"a": {}, "c": []})
    assert problems(keys, {"new": 1}) == {"new is not documented"}
    assert problems(keys, {"a": None}) == {"a is not documented"}
    assert problems(keys, {"c": [{"d": [1, 2], "e": {"f": 1}}]}) == {"c[].e.f is not documented"}
    assert problems(keys, {"c": [{"e": {}}]}) == {"c[].e is not documented"}
    assert problems(keys, {"a": {"x": "1"}}) == {"a.x is '1', documented as number"}
    assert problems(keys, {"a": {"x": None}}) == {"a.x is null, and the document does not say when"}
    with pytest.raises(AssertionError, match="unknown type"):
        documented("## laws.json\n| `a` | float | x | |\n")


def test_the_codes_of_the_document_are_those_of_the_checks():
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text[text.index("## Why a run") : text.index("## laws.json")]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.M) == list(quality.CODES)
