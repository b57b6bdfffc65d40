import json

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.compare import ladder
from ehr_scaling.analysis.options import Options

FEW = Options(draws=100)
COUNTS = {"events_fingerprint": "e", "tokens": 1e5, "patients": 100}


def study(folder, multiple, tokens_per_event=2.0, noise=0.004, seed=0):
    """Three budgets of three sizes and two seeds, as good as the known law with 1 / multiple of the compute."""
    rng, rows = np.random.default_rng(seed), simulated.rows(budgets=3, sizes=3, seeds=2, noise=0, decades=1.0)
    for r in rows:
        loss = simulated.loss(r["N"] / multiple**0.5, r["D"] / multiple**0.5)
        r["loss"] = loss * np.exp(noise * rng.standard_normal()) * 2.0 / tokens_per_event
    on = {
        **COUNTS,
        "timelines_fingerprint": f"{tokens_per_event}",
        "events": 1e5 / tokens_per_event,
        "patient_days": 1e4 / tokens_per_event,
    }
    simulated.write_runs(folder / "runs", [{**r, "measured_on": on} for r in rows])
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    rungs = [
        ladder.Rung("first", study(folder / "first", 1.0), ""),
        ladder.Rung("better", study(folder / "better", 0.6, seed=1), "first"),
        ladder.Rung("other tokens", study(folder / "other", 0.6, tokens_per_event=1.25, noise=0.012, seed=2), "better"),
    ]
    first = ladder.readers.read(folder / "first" / "runs")
    simulated.write_scores(folder / "first" / "outcomes", first)
    return ladder.measure(rungs, FEW), first


def test_a_rung_is_worth_what_it_is_by_event_and_by_day(found):
    (first, better, other), _ = found
    assert not first.by_unit
    for unit in ("event", "day"):
        m = better.by_unit[unit].multiplier
        assert m.value == pytest.approx(0.6, rel=0.15) and m.interval[1] < 0.85 and m.verdict.told
        low, high = other.by_unit[unit].multiplier.interval
        assert low < 1 < high  # in a token its losses are 1.6 times those of the rung before it
    assert better.by_unit["event"].paired.percent < 0 < 1 < other.scatter / better.scatter


def test_the_scatter_of_seeds_is_told_with_an_interval(found):
    for worth, noise in zip(found[0], (0.004, 0.004, 0.012), strict=True):
        low, high = worth.scatter_interval
        assert low < noise < high and low < worth.scatter < high
    runs = found[1]
    alone = ladder.scatter(runs.take(runs.seed == 0), 0.95)
    assert np.isnan(alone[0]) and np.isnan(alone[1]).all()


def test_auroc_is_told_of_each_budget(found):
    spreads, runs = found[0][0].auroc, found[1]
    assert [spread.budget for spread in spreads] == runs.budgets.tolist()
    for group, spread in enumerate(spreads):
        losses = runs.loss[runs.group == group]
        expected = 0.8 - 0.2 * (losses - 5) / 10  # as `simulated.write_scores` has it
        assert (spread.task, spread.models) == ("made_up_task", len(losses)) == ("made_up_task", 6)
        assert spread.mean == pytest.approx(expected.mean()) and spread.deviation == pytest.approx(expected.std(ddof=1))
    assert not found[0][1].auroc


def test_it_is_told_as_json_and_as_a_table(found):
    records = json.loads(json.dumps(ladder.to_json(found[0]), allow_nan=False))
    assert [r["against"] for r in records] == ["", "first", "better"]
    assert set(records[1]["units"]) == {"event", "day"} and records[1]["units"]["event"]["unit"] == "event"
    header, *rows = ladder.table(found[0])
    assert header == ladder.HEADER and {len(row) for row in rows} == {len(header)}
    value = found[0][1].by_unit["event"].multiplier.value
    assert rows[1][3].startswith(f"{value:.2f} [") and rows[0][3] == ""
    top = found[0][0].auroc[-1]
    assert rows[0][-1] == f"{top.mean:.3f} ± {top.deviation:.3f} (6)"
