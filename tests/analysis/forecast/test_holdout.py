import json
from functools import cache

import numpy as np
import pytest
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ehr_scaling import artifacts
from ehr_scaling.analysis.forecast import holdout
from ehr_scaling.analysis.isoflop import isoflop, parabola, power_laws
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import report, results
from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import EXTRAPOLATED, SUPPORTED, UNIDENTIFIED
from ehr_scaling.artifacts import fingerprint
from ehr_scaling.errors import UserError

FEW = Options(draws=60)
ROWS = simulated.rows(budgets=4, sizes=5, noise=0.01)
TOP = max(r["C"] for r in ROWS)


def forecast_of(rows, options=FEW):
    seen = []
    found = results.fit(from_rows(rows, source="x"), options, on_forecast=lambda f: seen.append(json.dumps(f)))
    assert len(seen) == 1 and json.loads(seen[0]) == json.loads(json.dumps(found.forecast))
    return seen[0], found


@cache
def of_rows():
    return forecast_of(ROWS)[1]


class Filed(Exception):
    """Ends an analysis where its forecast is filed: nothing that comes after can have entered it."""


@cache
def filed(drop):
    return filed_of(ROWS, drop)


def filed_of(rows, drop):
    def file(forecast):
        raise Filed(json.dumps(forecast))

    with pytest.raises(Filed) as e:
        results.fit(from_rows(rows, source="x"), Options(draws=60, drop_highest_loss=drop), on_forecast=file)
    return str(e.value)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.floats(0.01, 1e4), min_size=10, max_size=10), st.sampled_from([0, 2]))
def test_the_forecast_owes_nothing_to_the_sealed_losses(losses, drop):
    changed = iter(losses)
    rows = [{**r, "loss": next(changed)} if r["C"] == TOP else r for r in ROWS]
    assert filed_of(rows, drop) == filed(drop)


def test_design_holds_no_loss():
    _, sealed = holdout.seal(from_rows(ROWS, source="x"), None)
    assert not hasattr(holdout.design(sealed), "loss")
    assert (sealed.C == TOP).all() and len(sealed) == 10


@pytest.mark.nightly
def test_forecast_is_close_and_its_intervals_hold_the_noise_of_single_runs():
    inside, error, options = [], [], Options(draws=200)
    for seed in range(12):
        known, sealed = holdout.seal(from_rows(simulated.rows(budgets=4, noise=0.01, seed=seed), source="x"), None)
        made = holdout.forecast(known, holdout.design(sealed), options)
        found = holdout.compare(made, sealed, isoflop.fit(sealed, options))
        inside.append(found["coverage"])
        error.append(found["error_percent"])
    assert 0.85 <= np.mean(inside) <= 1
    assert np.mean(error) < 1


def test_comparison_adds_up():
    found = of_rows()
    h = found.holdout
    misses = [100 * (r["forecast"] / r["loss"] - 1) for r in h["rows"]]
    assert h["error_percent"] == pytest.approx(np.mean(np.abs(misses)))
    assert h["coverage"] == pytest.approx(np.mean([r["low"] <= r["loss"] <= r["high"] for r in h["rows"]]))
    assert {r["word"] for r in h["rows"]} == {EXTRAPOLATED}
    (top,) = h["optima"]
    assert top["result_N"] == found.budgets[-1].N and top["verdict"] == parabola.BRACKETED
    assert top["word"] == EXTRAPOLATED
    assert top["N_low"] < top["N"] < top["N_high"]


def test_a_forecast_is_judged_by_its_runs_and_their_intervals():
    """Eight runs of two budgets, forecast by hand: one above its interval, one below, and a run read twice."""
    _, sealed = holdout.seal(from_rows(ROWS, source="x"), None)
    losses = sealed.loss.copy()
    errors = np.array([0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.03, -0.03, 0.0])
    cells = [
        {"run": str(run), "N": 1.0, "D": float(D), "C": TOP, "forecast": float(y * (1 + e)), "word": "extrapolated",
         "low": float(y * (1 + e) * 0.99), "high": float(y * (1 + e) * 1.01)}
        for run, D, y, e in zip(sealed.run, sealed.D, losses, errors, strict=True)
    ]  # fmt: skip
    made = {"cells": cells, "optima": [{"C": TOP}], "made_from": {}, "reason": ""}
    found = holdout.compare(made, sealed, [])
    assert found["coverage"] == 0.8 and not found["same_sign"]
    assert found["error_percent"] == pytest.approx(100 * np.mean(np.abs(errors)))
    assert found["median_error_percent"] == pytest.approx(100 * np.median(np.abs(errors)))
    assert found["bias_percent"] == pytest.approx(100 * np.mean(errors))
    assert [r["loss"] for r in found["rows"]] == losses.tolist()
    # Two readings of one run at one length are taken in their order.
    twice = sealed.take(np.array([0, 0]))
    twice.loss[:] = [2.0, 3.0]
    again = holdout.compare({**made, "cells": [cells[0], cells[0]]}, twice, [])
    assert [r["loss"] for r in again["rows"]] == [2.0, 3.0]


def test_a_forecast_is_made_from_the_best_setting_of_each_open_cell():
    rows = [
        {**r, "run": f"{r['run']}-{lr:g}", "lr": lr, "loss": r["loss"] * worse}
        for r in simulated.rows(budgets=4, sizes=5, seeds=1, noise=0.002)
        for lr, worse in ((0.01, 1.0), (0.02, 1.05))
    ]
    both, best = (from_rows(each, source="x") for each in (rows, [r for r in rows if r["lr"] == 0.01]))
    forecasts = [holdout.of_table(*holdout.seal(table, None), FEW) for table in (both, best)]
    assert [made["made_from"]["runs"] for made in forecasts] == [15, 15]
    assert forecasts[0]["cells"][0]["forecast"] == pytest.approx(forecasts[1]["cells"][0]["forecast"], rel=1e-9)


def test_misses_on_one_side_are_reported():
    rows = [{**r, "loss": 1.2 * r["loss"]} if r["C"] == TOP else r for r in ROWS]
    h = forecast_of(rows)[1].holdout
    assert h["same_sign"] and h["bias_percent"] < -10 and h["coverage"] == 0


def test_a_sealed_optimum_is_forecast_with_its_own_noise_and_the_drift_of_the_line():
    known, sealed = holdout.seal(from_rows(ROWS, source="x"), None)
    made = holdout.forecast(known, holdout.design(sealed), FEW)
    fits = isoflop.fit(known, FEW)
    lines = power_laws.fit(fits, FEW)
    (top,) = made["optima"]
    drift = {"N": 0.25, "D": 0.25, "L": made["drift_percent_a_decade"] / 100}
    for name, a_decade in drift.items():
        central = float(lines[name](np.array([top["C"]]))[0])
        band = np.array(lines[name].band(np.array([top["C"]]), FEW.level))[:, 0]
        least_certain = max(np.log(high / low) / 2 for low, high in (getattr(f, f"{name}_interval") for f in fits))
        beyond = stats.norm.ppf(0.975) * a_decade * np.log10(top["C"] / known.budgets[-1])
        expected = np.sqrt(np.log(band / central) ** 2 + least_certain**2 + beyond**2)
        assert top[name] == pytest.approx(central)
        np.testing.assert_allclose(np.log([central / top[f"{name}_low"], top[f"{name}_high"] / central]), expected)


def test_only_a_sealed_forecast_that_came_out_lets_others_be_called_supported():
    held = of_rows().holdout
    assert holdout.judged(held).word == SUPPORTED and "came out as forecast" in holdout.judged(held).reason
    failed = forecast_of([{**r, "loss": 1.06 * r["loss"]} if r["C"] == TOP else r for r in ROWS])[1].holdout
    word, reason = holdout.judged(failed)
    assert word == UNIDENTIFIED and "failed" in reason and "% off on average, 0" in reason.replace("\u00a0", " ")
    for known, expected in (
        ({"error_percent": 5.2, "coverage": 1.0}, UNIDENTIFIED),  # wide enough to hold all, and of no use
        ({"error_percent": 0.4, "coverage": 0.49}, UNIDENTIFIED),
        ({"error_percent": 0.4, "coverage": 0.51}, SUPPORTED),
        ({"error_percent": 2.9, "coverage": 0.9}, SUPPORTED),
        ({"error_percent": 3.1, "coverage": 0.9}, UNIDENTIFIED),
    ):
        assert holdout.judged({"rows": [1], "reason": "", **known}).word == expected
    untried = holdout.judged({"rows": [], "reason": "too few runs"})
    assert untried.word == holdout.judged(None).word == EXTRAPOLATED and "too few runs" in untried.reason


def test_seal_by_compute():
    table = from_rows(ROWS, source="x")
    known, sealed = holdout.seal(table, 1e12)
    assert (sealed.C > 1e12).all() and (known.C <= 1e12).all() and len(known) + len(sealed) == len(table)
    for above, message in ((1e20, "no run lies above it"), (1e3, "no run lies at or below it")):
        with pytest.raises(UserError, match=message):
            holdout.seal(table, above)


def test_one_budget_or_too_few_runs_say_so():
    assert holdout.seal(simulated.profile(2 + 0.05 * (np.arange(5) - 2.0) ** 2), None) is None
    rows = simulated.rows(budgets=2, sizes=5, seeds=1)
    made, found = forecast_of(rows)
    assert json.loads(made)["cells"] == [] and "too few runs" in found.holdout["reason"]
    assert found.holdout["optima"][0]["word"] == UNIDENTIFIED


# Of a directory of runs


def study(work, rows=ROWS, planned=True):
    """runs/ and, where planned, the grid/ beside them."""
    simulated.write_runs(work / "runs", rows)
    (work / "runs" / "begun" / "60" / "metrics").mkdir(parents=True)
    (work / "runs" / "begun" / "60" / "metrics" / "metrics").write_text('{"finished": false}')
    if planned:
        cells = [_cell(r) for r in rows] + [{**_cell(ROWS[-1]), "id": "begun"}, {**_cell(ROWS[-1]), "id": "not begun"}]
        (work / "grid").mkdir()
        artifacts.write_lines(work / "grid" / "manifest.jsonl", cells)
    return work


def _cell(r):
    return {
        "id": r["cell"], "steps": 120, "size": r["size"], "seed": r["seed"], "budget": float(f"{r['C']:.3g}"),
        "N_body": r["N"], "tokens": r["D"], "flops": r["C"], "phase": "cooled", "learning_rate": 0.004,
        "batch_tokens": 2048, "weight_decay": 0.1, "unique_tokens": 2e6, "patients": 800,
    }  # fmt: skip


def test_of_a_planned_directory_the_sealed_files_are_opened_after_the_forecast(tmp_path, monkeypatch):
    work = study(tmp_path)
    sealed = {r["cell"]: work / "runs" / r["cell"] / "120" / "metrics" / "metrics" for r in ROWS if r["C"] == TOP}
    held = {path: path.read_text() for path in sealed.values()}
    for path in sealed.values():
        path.write_text("sealed")  # whoever opens it before it is restored ends with an error
    opened, read_json, write_json = [], readers.read_json, report.write_json

    def record(path, remedy):
        opened.append(path)
        return read_json(path, remedy)

    def file(path, value):
        write_json(path, value)
        if path.name == "forecast.json":
            opened.append("forecast")
            for sealed_file, text in held.items():
                sealed_file.write_text(text)

    monkeypatch.setattr(readers, "read_json", record)
    monkeypatch.setattr(report, "write_json", file)
    laws = report.analyze(work / "runs", work / "report", options=FEW)
    before = opened[: opened.index("forecast")]
    assert before and not set(before) & set(held) and set(held) < set(opened)
    made = json.loads((work / "report" / "forecast.json").read_text())
    assert made["sealed_losses_read"] == laws["holdout"]["sealed_losses_read"] == "after"
    assert {cell["run"] for cell in made["cells"]} == set(sealed) and "loss" not in made["cells"][0]
    assert "before the files that hold their losses were opened" in (work / "report" / "report.html").read_text()
    del made["made"]
    assert made.pop("fingerprint") == fingerprint(made) == laws["holdout"]["forecast_fingerprint"]
    assert len(laws["holdout"]["rows"]) == len(sealed) and laws["holdout"]["rows"][0]["loss"] > 0


def test_a_forecast_made_ahead_is_that_of_the_table(tmp_path):
    work = study(tmp_path)
    ahead = holdout.of_directory(work / "runs", FEW)
    known, sealed = holdout.seal(holdout.alike(readers.read(work / "runs")), None)
    together = holdout.of_table(known, sealed, FEW)
    assert together["sealed_losses_read"] == "with the table"
    assert {**ahead, "sealed_losses_read": "with the table"} == together


def test_without_a_plan_of_all_runs_the_record_says_that_losses_came_with_the_table(tmp_path):
    for name, rows in (("none", None), ("not all", ROWS[:-1])):
        work = study(tmp_path / name, planned=False)
        if rows:
            (work / "grid").mkdir()
            artifacts.write_lines(work / "grid" / "manifest.jsonl", [_cell(r) for r in rows])
        assert holdout.of_directory(work / "runs", FEW) is None
    found = results.fit(readers.read(work / "runs"), Options(draws=20))
    assert found.holdout["sealed_losses_read"] == "with the table"


def test_a_damaged_plan_is_named(tmp_path):
    work = study(tmp_path)
    with (work / "grid" / "manifest.jsonl").open("a") as f:
        f.write('{"id": "x"}\n')
    with pytest.raises(UserError, match=r"manifest\.jsonl is damaged"):
        report.analyze(work / "runs", work / "report", options=FEW)
    assert sorted(p.name for p in work.iterdir()) == ["grid", "runs"]
