"""Studies that vary more than size and compute: rates and other settings, fractions, trunks and branches."""

import json

import numpy as np
import pytest
import simulated
import sweeps

from ehr_scaling.analysis import words
from ehr_scaling.analysis.compare import schedules
from ehr_scaling.analysis.isoflop import rates
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.repeats import repeats
from ehr_scaling.analysis.report import report, results
from ehr_scaling.analysis.tables import readers, selection
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import UNIDENTIFIED

FEW = Options(draws=200)


def table(rows):
    return from_rows(rows, source="x")


def with_rates(rows, offsets):
    """Each run at several rates, of which multiple 1 is the run itself."""
    return [
        {**r, "run": f"{r['run']}-{m:g}", "cell": f"{r['cell']}-{m:g}", "loss": r["loss"] + more,
         "lr": 0.01 * m, "rate_multiple": m}
        for r in rows for m, more in offsets.items()
    ]  # fmt: skip


def test_the_trainers_fields_become_columns(tmp_path):
    fields = {"schedule": "wsd", "trunk": "abc", "optimizer": "muon", "parametrization": "mup", "mixing": "conv",
              "dropout": 0.1, "fraction": 0.25, "own_flops": 2e9, "rate_multiple": 0.5, "edge": "N"}  # fmt: skip
    simulated.write_runs(tmp_path, simulated.rows(budgets=1, sizes=1, seeds=1), **fields)
    found = readers.read(tmp_path)
    assert {name: getattr(found, name)[0] for name in fields} == fields


def test_trunks_are_in_no_fit_and_are_noted():
    rows = sweeps.both_ways()
    cooled = selection.cooled(table(rows))
    trunks = {r["run"] for r in rows if r["phase"] == "hot"}
    assert len(trunks) == 9 and not trunks & set(cooled.run)
    assert {(n.run, n.code) for n in cooled.notes} == {(run, "hot") for run in trunks}


def test_rates_are_not_averaged_as_if_they_were_seeds():
    rows = simulated.rows(budgets=3, noise=0.005)
    several = with_rates(rows, {0.5: 0.3, 1.0: 0.0, 2.0: 0.4})
    alone = [{**r, "run": f"{r['run']}-1", "cell": f"{r['cell']}-1"} for r in rows]
    a, b = (results.to_json(results.fit(table(r), FEW)) for r in (alone, several))
    assert a["isoflop"] == b["isoflop"] and a["laws"] == b["laws"]
    assert [(r["run"], r["forecast"]) for r in a["holdout"]["rows"]] == [
        (r["run"], r["forecast"]) for r in b["holdout"]["rows"]
    ]
    assert len(b["tuning"]) == 18 and not any(cell["edge"] for cell in b["tuning"])
    codes = [note["code"] for note in b["left_out"]]
    assert codes == ["other_setting"] * 2 * len(rows)
    assert "learning rate 0.005; the cell's best is learning rate 0.01" in {n["text"] for n in b["left_out"]}


@pytest.mark.parametrize(
    ("offsets", "edge"),
    [({0.5: 0.0, 1.0: 0.2, 2.0: 0.4}, ["lr"]), ({1.0: 0.2, 2.0: 0.1, 4.0: 0.0}, ["lr"]), ({1.0: 0.0}, None)],
)
def test_a_best_rate_at_the_end_of_the_grid_is_flagged(offsets, edge):
    cells = selection.tuned(table(with_rates(simulated.rows(budgets=1), offsets))).cells
    assert [cell["edge"] for cell in cells] == ([] if edge is None else [edge] * 6)


def test_every_lever_is_chosen_and_no_decay_is_no_edge():
    losses = {(0.0, 0.0): 2.0, (0.1, 0.0): 2.2, (0.0, 0.1): 2.1, (0.1, 0.1): 2.3}
    rows = [{"run": f"{wd} {p}", "N": 1e4, "D": 1e6, "C": 6e10, "loss": loss, "weight_decay": wd, "dropout": p}
            for (wd, p), loss in losses.items()]  # fmt: skip
    tuned = selection.tuned(table(rows))
    (cell,) = tuned.cells
    assert cell["best"] == {"weight_decay": 0.0, "dropout": 0.0} and cell["edge"] == [] and cell["settings"] == 4
    assert tuned.keep.tolist() == [True, False, False, False]
    worse = selection.tuned(table([{**r, "loss": 5 - r["loss"]} for r in rows]))
    assert worse.cells[0]["edge"] == ["weight_decay", "dropout"] and worse.keep.tolist() == [False] * 3 + [True]


def test_the_choice_is_by_the_mean_over_seeds():
    rows = [{"run": f"{lr} {s}", "N": 1e4, "D": 1e6, "C": 6e10, "loss": loss, "lr": lr, "seed": s}
            for lr, seeds in ((0.01, (2.0, 2.0)), (0.02, (1.5, 2.6))) for s, loss in enumerate(seeds)]  # fmt: skip
    assert selection.tuned(table(rows)).keep.tolist() == [True, True, False, False]


def test_the_forecast_owes_nothing_to_the_sealed_rates():
    rows = with_rates(simulated.rows(budgets=3), {0.5: 0.1, 1.0: 0.0, 2.0: 0.1})
    top = max(r["C"] for r in rows)
    other = [{**r, "loss": r["loss"] + (0.5 if r["C"] == top and r["lr"] == 0.01 else 0)} for r in rows]
    a, b = (results.fit(table(r), FEW) for r in (rows, other))
    assert a.forecast == b.forecast
    assert {r["run"][-2:] for r in a.holdout["rows"]} == {"-1"} and len(a.holdout["rows"]) == 12
    assert "-1" not in {r["run"][-2:] for r in b.holdout["rows"]} and len(b.holdout["rows"]) == 12


def test_runs_with_and_without_mixing_are_two_kinds_and_those_of_before_had_none():
    rows = simulated.rows(budgets=2, sizes=4, seeds=1)
    mixed = [{**r, "run": "m" + r["run"], "cell": "m" + r["cell"], "mixing": "conv"} for r in rows]
    found = selection.of_one_kind(table([*rows[:4], *({**r, "mixing": "none"} for r in rows[4:]), *mixed[:3]]))
    assert sorted(found.run) == sorted(r["run"] for r in rows)
    assert {(n.code, n.text) for n in found.notes} == {("other_kind", "conv; the fits hold the runs of none")}


def test_one_law_holds_one_kind_of_run_and_the_most_patients():
    rows = simulated.rows(budgets=3)
    wsd = [{**r, "run": "w" + r["run"], "cell": "w" + r["run"], "schedule": "wsd", "loss": r["loss"] + 1} for r in rows]
    part = [{**r, "run": "p" + r["run"], "cell": "p" + r["run"], "fraction": 0.5, "loss": r["loss"] + 1} for r in rows]
    cosine = [{**r, "schedule": "cosine", "fraction": 1.0} for r in rows]
    found = results.fit(table([*cosine, *wsd, *({**r, "schedule": "cosine"} for r in part)]), FEW)
    assert sorted(found.table.run) == sorted(r["run"] for r in rows)
    assert {n.code for n in found.table.notes} == {"other_kind", "fewer_patients"}
    more = results.fit(table([*wsd, *cosine[:6]]), FEW)
    assert set(more.table.schedule) == {"wsd"} and len(more.table) == len(wsd)


def test_the_best_rate_of_every_size_is_found_and_stays_put():
    found = rates.fit(table(sweeps.rates(noise=0.002)), FEW)
    assert found.unit == "multiple" and [c.fit.verdict for c in found.curves] == ["bracketed"] * 4
    # Steeper above than below: the vertex of a parabola lies below the true optimum, by 0.11 factors of two here.
    assert [np.log2(c.fit.optimum) for c in found.curves] == pytest.approx([-0.1] * 4, abs=0.08)
    (shift,) = found.shifts
    assert shift.verdict.word == words.STAYS and shift.large.N / shift.small.N > 64
    assert shift.interval[0] < 0 < shift.interval[1] < 0.3


def test_a_moving_optimum_moves_by_what_was_put_in():
    found = rates.fit(table(sweeps.rates(lambda N: (N / 1e5) ** -0.25, sizes=(3e4, 1e5, 5e5))), FEW)
    (shift,) = found.shifts
    truth = -0.25 * np.log2(5e5 / 3e4)
    assert shift.value == pytest.approx(truth, abs=0.12) and shift.verdict.word == words.MOVES


def test_a_shift_over_part_of_the_sizes_says_so():
    (shift,) = rates.fit(table(sweeps.rates(lambda N: 1.0 if N < 1e6 else 16.0)), FEW).shifts
    assert shift.large.N == 3e5 and shift.verdict.reason.endswith("the optimum is bracketed at 3 sizes of 4")


def test_intervals_of_the_shift_cover_about_as_often_as_they_say():
    """120 tables of a symmetric curve: the binomial 99.9 % range of a true 95 % is 0.88 to 1."""
    inside = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        rows = [{"run": f"{N} {m} {s}", "N": N, "D": 1e6, "C": 6e6 * N, "rate_multiple": m, "seed": s,
                 "loss": 2 + 0.03 * np.log2(m) ** 2 + 0.01 * rng.standard_normal()}
                for N in (1e4, 1e6) for m in (0.25, 0.5, 1, 2, 4) for s in range(2)]  # fmt: skip
        (shift,) = rates.fit(table(rows), FEW).shifts
        inside.append(shift.interval[0] <= 0 <= shift.interval[1])
    assert 0.88 <= np.mean(inside) <= 0.995


def test_rates_at_an_edge_too_few_or_flat_give_no_optimum_but_a_reason():
    edge = rates.fit(table(sweeps.rates(lambda N: 16.0)), FEW)
    assert not any(c.fit.verdict == "bracketed" for c in edge.curves)
    assert edge.shifts[0].verdict.word == UNIDENTIFIED and "0 sizes of 4" in edge.shifts[0].verdict.reason
    few = rates.fit(table(sweeps.rates(multiples=(0.5, 1, 2))), FEW)
    assert {c.fit.verdict for c in few.curves} == {"too few"} and "3 learning rates" in few.curves[0].fit.reason
    flat = rates.fit(table(sweeps.rates(curvature=0.0, noise=0.0)), FEW)
    assert {c.fit.verdict for c in flat.curves} == {"flat"}
    assert rates.fit(table(sweeps.rates(multiples=(1, 2))), FEW) is None
    assert rates.fit(simulated.table(), FEW) is None


def test_kinds_have_curves_of_their_own_and_other_levers_are_held():
    rows = sweeps.rates() + sweeps.rates(lambda N: 2.0, kind="mup")
    doubled = rows + [{**r, "run": "d" + r["run"], "weight_decay": 0.3, "loss": r["loss"] + 0.5} for r in rows]
    found = rates.fit(table([{"weight_decay": 0.1, **r} for r in doubled]), FEW)
    assert [(c.kind, len(c.rows)) for c in found.curves] == [("mup", 10)] * 4 + [("standard", 10)] * 4
    best = {c.kind: c.fit.optimum for c in found.curves}
    assert best["mup"] > 1.5 * best["standard"]


def test_repeats_fall_or_turn_and_are_shown_only_where_they_were_varied():
    rows = repeats.fit(table(sweeps.repeated()))
    assert [(r["N"], r["fraction"]) for r in rows[:4]] == [(3e4, 1.0), (3e4, 0.5), (3e4, 0.25), (3e4, 0.125)]
    words = {(r["N"], r["fraction"]): r["verdict"] for r in rows}
    assert words[3e4, 1.0] == repeats.FALLING and words[3e5, 0.125] == repeats.TURNED
    turned = next(r for r in rows if (r["N"], r["fraction"]) == (3e5, 0.125))
    assert turned["best"]["passes"] == 16 and turned["unique_tokens"] == 125e3 and len(turned["points"]) == 6
    assert repeats.fit(table(sweeps.repeated(fractions=(1.0,))))
    budgets = [{**r, "budget": round(r["C"], -9), "unique_tokens": 1e6} for r in simulated.rows()]
    assert repeats.fit(table(budgets)) == []


def test_equal_schedules_agree_and_unequal_ones_are_told_apart():
    same = schedules.compare(selection.cooled(table(sweeps.both_ways())), FEW)
    assert len(same.rows) == same.cells == 9 and same.verdict.word == words.AGREES
    assert same.noise == pytest.approx(0.01, rel=0.3)
    apart = schedules.compare(selection.cooled(table(sweeps.both_ways(difference=0.03))), FEW)
    assert apart.verdict.word == words.DIFFERS and apart.interval[0] < 0.03 < apart.interval[1]
    one = schedules.compare(selection.cooled(table(sweeps.both_ways(seeds=1))), FEW)
    assert one.verdict.word == UNIDENTIFIED and {r["verdict"] for r in one.rows} == {UNIDENTIFIED}
    assert schedules.compare(simulated.table(), FEW) is None


def test_intervals_of_the_schedules_difference_cover_about_as_often_as_they_say():
    """Branches of a trunk share half of their noise; 200 tables: the binomial 99.9 % range of 95 % is 0.90 to 1."""
    inside, cells = [], []
    for seed in range(200):
        found = schedules.compare(selection.cooled(table(sweeps.both_ways(seed=seed))), FEW)
        inside.append(found.interval[0] <= 0 <= found.interval[1])
        cells += [r["verdict"] == words.AGREES for r in found.rows]
    assert 0.90 <= np.mean(inside) <= 0.995
    assert 0.93 <= np.mean(cells) <= 0.97


def test_what_the_trunk_saves_is_counted_over_trunks_and_branches():
    rows = sweeps.both_ways(sizes=(1e5,), lengths=(1e6, 2e6), seeds=1)
    saved = schedules.saving(table(rows))
    assert saved == pytest.approx({"own": 6e5 * (0.8 * 2e6 + 0.2 * 3e6), "alone": 6e5 * 3e6})
    assert schedules.saving(table([r for r in rows if r["phase"] == "cooled"])) is None
    assert schedules.saving(simulated.table()) is None


@pytest.mark.parametrize(
    ("rows", "heading", "figures"),
    [
        (sweeps.rates() + sweeps.rates(kind="mup", multiples=(0.5, 1, 2, 8, 64)), "rates", ["learning_rates.png"]),
        pytest.param(sweeps.repeated(), "repeats", ["passes.png"], marks=pytest.mark.nightly),
        (sweeps.both_ways(), "branches", []),
        (simulated.rows(budgets=2, sizes=4), "", []),
    ],
    ids=["rates", "repeats", "branches", "none"],
)
def test_the_report_shows_what_was_varied_and_only_that(tmp_path, rows, heading, figures):
    laws = report.analyze(table(rows), tmp_path / "r", options=Options(draws=40))
    text = (tmp_path / "r" / "report.html").read_text()
    for name in ("rates", "repeats", "branches"):
        assert (f'<section id="{name}">' in text) == (name == heading)
    made = {p.name for p in (tmp_path / "r" / "figures").glob("*.png")}
    assert made & {"learning_rates.png", "passes.png"} == set(figures)
    assert json.loads((tmp_path / "r" / "laws.json").read_text()) == json.loads(json.dumps(laws))
