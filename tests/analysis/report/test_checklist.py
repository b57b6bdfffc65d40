import pytest
import simulated
import sweeps

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.report.sections import checklist
from ehr_scaling.analysis.tables.run_table import from_rows

FEW = Options(draws=20)


def answers(rows, options=FEW):
    return sorted_out(checklist.items(results.fit(from_rows(rows, source="x"), options)))


def sorted_out(found):
    return {i.question: i.answer for i in found if i.known}, [i.question for i in found if not i.known]


EVERYTHING = {
    "lr": 0.01, "batch": 512, "weight_decay": 0.1, "dropout": 0.0, "optimizer": "adamw", "parametrization": "mup",
    "schedule": "cosine", "phase": "cooled", "loss_se": 0.01, "unique_tokens": 1e6, "N_head": 500, "N_embedding": 500,
}  # fmt: skip


def test_what_the_runs_hold_is_answered():
    rows = simulated.rows(extra=EVERYTHING)
    rows = [{**row, "real_tokens": 0.9 * row["D"]} for row in rows]
    known, unknown = answers(rows, Options(draws=20, drop_highest_loss=2))
    assert unknown == ["Which metric, on which data?", "Are checkpoints and training code public?"]
    assert known["How many models were trained?"] == "46 runs in the fits, 48 read"
    assert known["Are runs excluded?"] == "2 highest loss"
    assert known["Are outliers dropped?"] == "2 of highest loss, by flag"
    assert known["At which compute?"].startswith("4 budgets, 10¹¹ to ")
    assert known["How is compute counted?"] == "C = 6 N D"
    assert known["How are tokens counted?"].endswith("90 % real targets")
    assert known["How many seeds?"] == "2: 0, 1"
    assert known["Which optimizer and parametrization?"] == "adamw; mup"
    assert known["Which learning-rate schedule, and is it cooled to the end?"] == "cosine; cooled"
    assert "seed 0, 95" in known["How is the uncertainty found?"]
    assert "forecast before it was fitted" in known["Is extrapolation validated?"]
    assert "rolling hold-outs" in known["Which form stands for the study, and why?"]


def test_what_the_runs_do_not_hold_is_not_recorded():
    bare = [{k: row[k] for k in ("N", "D", "C", "loss")} for row in simulated.rows()]
    fitted = results.fit(from_rows(bare, source="x"), FEW)
    found = checklist.items(fitted)
    _, unknown = sorted_out(found)
    assert {
        "Is any data repeated in the training of a model?", "How are parameters counted?", "How are tokens counted?",
        "Which optimizer and parametrization?", "Weight decay and dropout?", "How many seeds?",
        "How precisely is it measured?", "Were hyper-parameters searched?",
    } <= set(unknown)  # fmt: skip
    assert all(i.answer == checklist.NOT_RECORDED for i in found if not i.known)
    page = checklist.checklist(fitted)
    assert page.count(checklist.NOT_RECORDED) >= len(unknown)


def test_settings_that_vary_are_told_with_the_sizes():
    known, _ = answers(sweeps.rates())
    assert known["Were hyper-parameters searched?"].startswith("lr in 4 cells, the best at the edge of ")
    chosen = known["How is the learning rate chosen, and does it change with scale?"]
    assert "at the smallest size to" in chosen


def test_checkpoints_of_runs_are_counted_and_a_law_that_was_asked_for_is_told():
    rows = [{**row, "run": row["size"]} for row in simulated.rows(seeds=3)]
    known, _ = answers(rows, Options(draws=20, law="kaplan"))
    assert known["How many checkpoints of a run are in the fits?"] == "3.0 on average, resampled together"
    assert known["Which form stands for the study, and why?"] == "kaplan, taken by --law=kaplan"


@pytest.mark.parametrize("losses", [[3.0], [3.0, 2.9], [3.0] * 6], ids=["one run", "two runs", "all equal"])
def test_poor_tables_leave_questions_open(losses):
    found = {i.question: i for i in checklist.items(results.fit(simulated.profile(losses), FEW))}
    assert not found["Which parameters are fitted?"].known and not found["Is extrapolation validated?"].known
