"""What scores say of acting on a risk is read as it was judged, put into words, and drawn."""

import json
import re

import numpy as np
import pytest
import simulated
from test_downstream import FEW, study
from test_scores import compared, rewrite

from ehr_scaling.analysis.outcomes import decisions, scores, scores_json
from ehr_scaling.analysis.outcomes.decisions import HARMS, HELPS, OPEN, SAME, Point
from ehr_scaling.analysis.outcomes.measures import Measure
from ehr_scaling.analysis.report import report
from ehr_scaling.analysis.report.figures import decision_plots
from ehr_scaling.analysis.report.sections import decision_sections, outcome_sections
from ehr_scaling.outcomes.judging.metrics import decision


def judged(n=4000, seed=0, power=1.0):
    """A decision of risks that are true for power 1, and too high for lower ones."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1.2, 6.0, n)
    return decision.evaluate(rng.random(n) < p, p**power, np.arange(n), draws=60)


def scored(part):
    """Scores of a model of least loss, recalibrated too, and of a baseline."""
    gap = {"value": 0.05, "low": 0.01, "high": 0.09, "told": True, "could_hide": 0.09}
    open_gap = {"value": -0.05, "low": -0.31, "high": 0.01, "told": False, "could_hide": 0.31}
    slope = {"calibration_slope": {"value": 0.5, "low": 0.4, "high": 0.6}}
    told = {"n": 100, "patients": 90, "positives": 30, **slope, "gaps": {"auroc": gap}}
    large = {"gaps": {"calibration_in_the_large": open_gap}}
    after = {**told, "calibration_slope": {"value": 1.1, "low": 0.9, "high": 1.3}, **large}
    hidden = {"m": {"suppressed": "suppressed: few"}}
    moved = {
        "method": "isotonic",
        "brier": {"value": 0.1},
        "decision": part,
        "subgroups": {"sex": {"f": after} | hidden},
    }
    before = told | {"gaps": told["gaps"] | large["gaps"]}
    return {"decision": judged(power=0.5), "subgroups": {"sex": {"f": before} | hidden}, "recalibrated": moved}


def write(folder, part=None):
    """A study whose model of least loss, and whose baseline, have all of it. Returns the table and the best's file."""
    table = study(folder)
    path = folder / "died" / f"{table.cell[table.loss.argmin()]}.json"
    less = [{"threshold": t, "value": 0.0125, "low": -0.0025, "high": 0.0375} for t in (0.1, 0.11, 0.2)]
    beside = {"logistic regression": less, "trees": less[1:]}
    rewrite(path, net_benefit_against=beside, **scored(part or judged()))
    rewrite(folder / "died" / "baseline.json", decision=judged(seed=3))
    return table, path


def test_what_was_judged_is_read(tmp_path):
    part = judged()
    table, _ = write(tmp_path, part)
    best, moved, *_, base = (s for s in compared(tmp_path, table) if s.decision)
    assert (best.role, moved.role, base.role) == ("least loss", "recalibrated", "baseline")
    assert moved.name == "the same, recalibrated (isotonic)" and moved.recalibration == "isotonic"
    told = decisions.to_json(moved.decision)
    assert told["prevalence"] == part["prevalence"] and len(told["curve"]) == len(part["curve"]) > 20
    for one, other in zip(told["curve"], part["curve"], strict=True):
        assert (one["threshold"], one["word"]) == (other["threshold"], other["word"])
        assert one["numbers"] == {name: other[name] for name in ("net_benefit", "treat_all", "difference")}
    for one, other in zip(told["table"], part["table"], strict=True):
        assert (one["by"], one["asked"], one["threshold"]) == (other["by"], other["asked"], other["threshold"])
        assert one["numbers"] == {name: other[name] for name in decisions.OF_ROW} and one["suppressed"] is None
    assert {word for _, word in {(p.threshold, p.word) for p in moved.decision.points}} <= {HELPS, HARMS, SAME, OPEN}


@pytest.mark.parametrize(
    "part",
    [
        None, 3, [], {}, {"prevalence": 0.1}, {"prevalence": {"value": 0.1}},
        {"prevalence": {"value": 0.1}, "curve": 3},
        {"prevalence": {"value": 0.1}, "curve": [{"threshold": 0.1, "word": HELPS}]},
        {"prevalence": {"value": 0.1}, "curve": [1, None], "table": [{"by": "risk", "asked": 2.0}, {"by": "luck"}]},
        {"prevalence": {"value": 0.1}, "table": [{"by": "risk", "asked": 0.1}]},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_a_decision_lacks_is_passed_over(part):
    assert decisions.read(part) is None


def test_a_damaged_threshold_is_left_out_and_the_others_stay():
    part = judged(800)
    good = decisions.read(part)
    for damaged in ({"threshold": 0.0}, {"threshold": "low"}, {"word": "fine"}, {"difference": None}):
        broken = part | {"curve": [part["curve"][0] | damaged, *part["curve"][1:]]}
        assert decisions.read(broken).points == good.points[1:]


@pytest.mark.parametrize(
    "part", [None, 1, {"auroc": 0.1}, {"auroc": {"value": 0.1}}, {"brier": {"value": 1, "low": 0}}]
)
def test_gaps_without_an_interval_are_none(part):
    assert decisions.read_gaps(part) == {}


def point(threshold, word, net=(0.1, 0.05, 0.2), treat_all=0.05, difference=(0.05, 0.01, 0.1)):
    return Point(threshold, Measure(*net), Measure(treat_all, 0, 0.1), Measure(*difference), word)


def test_neighbouring_thresholds_of_one_kind_are_told_together():
    points = [
        point(0.01, SAME, net=(0.05, 0.02, 0.1)), point(0.02, SAME, net=(0.05, 0.02, 0.1)), point(0.05, OPEN),
        point(0.1, HELPS), point(0.2, HELPS), point(0.3, OPEN), point(0.4, HARMS),
        point(0.6, SAME, net=(0.0, 0.0, 0.0)),
    ]  # fmt: skip
    assert decisions.stretches(points) == [
        (SAME, "all", [0.01, 0.02]), (OPEN, "", [0.05]), (HELPS, "", [0.1, 0.2]), (OPEN, "", [0.3]),
        (HARMS, "", [0.4]), (SAME, "nobody", [0.6]),
    ]  # fmt: skip
    words = decision_sections._stretches(decisions.Decision(Measure(0.1, 0.1, 0.1), tuple(points), (), 0))
    words = words.replace("\N{NO-BREAK SPACE}", " ")
    assert words.startswith("at 2 from 1 % to 2 % it flags everybody; at 5 % it may be either")
    assert "at 2 from 10 % to 20 % it is above treating all and treating none" in words
    assert words.endswith("at 40 % it is below the better of the two; at 60 % it flags nobody")


def test_where_there_are_recalibrated_risks_those_are_looked_at(tmp_path):
    table, path = write(tmp_path)
    both = compared(tmp_path, table)
    assert [s.role for s, _ in decision_plots.decided(both)] == ["least loss", "recalibrated", "baseline"]
    assert [s.role for s, _ in decision_plots.looked_at(decision_plots.decided(both))] == ["recalibrated", "baseline"]
    rewrite(path, recalibrated=None)
    alone = compared(tmp_path, table)
    assert [s.role for s, _ in decision_plots.looked_at(decision_plots.decided(alone))] == ["least loss", "baseline"]
    first = decision_sections.in_words(alone)[0]
    assert first.startswith("least loss (") and "is below the better of the two" in first  # its risks are too high
    assert re.match(r"least loss \(.*\), recalibrated \(isotonic\): ", decision_sections.in_words(both)[0])


def test_whether_recalibration_helped_is_said(tmp_path):
    table, path = write(tmp_path)
    slope, large = {"value": 1.27, "low": 1.08, "high": 1.48}, {"value": -0.1, "low": -0.3, "high": 0.1}
    rewrite(path, calibration_slope={"value": 1.26}, calibration_in_the_large={"value": -0.2})
    moved = json.loads(path.read_text())["recalibrated"]
    rewrite(path, recalibrated={**moved, "calibration_slope": slope, "calibration_in_the_large": large})
    said = decision_sections.recalibration(compared(tmp_path, table))
    assert said == (
        "Recalibration moved the slope from 1.26 to 1.27, where 1 is right; calibration in the large from −0.20 to "
        "−0.10, where 0 is right. The interval of the slope still excludes that: here the risks stay off."
    )
    rewrite(path, recalibrated={**moved, "calibration_slope": {**slope, "low": 0.9}, "calibration_in_the_large": large})
    assert decision_sections.recalibration(compared(tmp_path, table)).endswith("where 0 is right.")
    rewrite(path, recalibrated=None)
    assert decision_sections.recalibration(compared(tmp_path, table)) == ""


def test_other_patients_score_stands_beside(tmp_path):
    table, path = write(tmp_path)
    record = json.loads(path.read_text())
    there = path.parent / "validation" / path.name
    there.parent.mkdir()
    for patients, told in ((90, True), (9, False)):
        there.write_text(json.dumps(record | {"auroc": 0.784, "n": patients, "patients": patients, "positives": 30}))
        roles = {s.role: s for s in compared(tmp_path, table)}
        assert ("validation" in roles) == told
        assert not told or roles["validation"].measures["auroc"].value == 0.784
        assert "validation" not in {s.role for s, _ in decision_plots.decided(list(roles.values()))}


def test_the_table_of_thresholds(tmp_path):
    part = judged()
    hidden = {"by": "risk", "asked": 0.05, "suppressed": decision.SUPPRESSED}
    table, _ = write(tmp_path, part | {"table": [hidden, *part["table"][1:]]})
    shown = decision_sections.thresholds(compared(tmp_path, table))
    assert len(shown.rows) == 14 and shown.header[-1] == "Note"
    first = [row[0].replace("\N{NO-BREAK SPACE}", " ") for row in shown.rows]
    assert first[::2] == [
        *(f"Risk of {k} % or more" for k in (5, 10, 20, 30)),
        *(f"Top {k} % of stays" for k in (5, 10, 20)),
    ]
    assert set(first[1::2]) == {""}
    assert shown.rows[0][-1] == decision.SUPPRESSED and set(shown.rows[0][2:-1]) == {"–"}
    row = dict(zip(shown.header, shown.rows[2], strict=True))
    ten = part["table"][1]
    assert row["Alerts per 100 stays"].text == f"{100 * ten['alerts']['value']:.1f}"
    assert row["Number needed to evaluate"].text == f"{1 / ten['ppv']['value']:.1f}"
    assert row["PPV"].note == f"{100 * ten['ppv']['low']:.1f} % to {100 * ten['ppv']['high']:.1f} %".replace(
        " %", "\xa0%"
    )


def test_gaps_stand_in_the_table_of_subgroups_and_nothing_of_the_suppressed(tmp_path):
    table, _ = write(tmp_path)
    found = compared(tmp_path, table)
    shown = outcome_sections.subgroups(found)
    women, men = (dict(zip(shown.header, row, strict=True)) for row in shown.rows)
    assert women["AUROC less the rest"] == ("+0.050", "+0.010 to +0.090: a difference")
    assert women["In the large less the rest"] == ("−0.05", "−0.31 to +0.01: none shown, one of 0.31 not excluded")
    assert {v for k, v in men.items() if k not in ("", "Group", "Note")} == {"–"}
    after = decision_sections.recalibrated(found)
    assert [row[1] for row in after.rows] == ["f"]
    row = after.rows[0]
    assert (row[2].text, row[3].text) == ("0.50", "1.10") and row[-1].text == "−0.05"
    told, hidden = scores_json.groups(found)
    assert told["gaps"]["auroc"] == {"value": 0.05, "low": 0.01, "high": 0.09, "told": True, "could_hide": 0.09}
    assert told["recalibrated"]["measures"]["calibration_slope"]["value"] == 1.1
    assert hidden["recalibrated"] is None and hidden["gaps"] == hidden["measures"] == hidden["counts"] == {}


def test_the_figure_has_all_curves_and_bands_of_those_looked_at(tmp_path):
    table, _ = write(tmp_path)
    found = compared(tmp_path, table)
    left, right = decision_plots.curves(found).axes
    labels = [line.get_label() for line in left.lines]
    assert labels[1:] == ["the same, recalibrated (isotonic)", "logistic regression", "treat all", "treat none"]
    moved = found[1].decision
    drawn = left.lines[1].get_xydata()
    assert drawn[:, 0].tolist() == [p.threshold for p in moved.points]
    assert drawn[:, 1].tolist() == [p.net_benefit.value for p in moved.points]
    assert right.lines[1].get_ydata().tolist() == [p.difference.value for p in moved.points]
    assert (len(left.collections), len(right.collections)) == (3, 2)  # bands: two curves, and treating all
    t, everybody = left.lines[3].get_xydata().T
    share = moved.prevalence.value
    np.testing.assert_allclose(everybody, share - (1 - share) * t / (1 - t))
    # All that is looked at lies within the axes
    low, high = right.get_ylim()
    inside = [p.difference for p in moved.points if p.threshold <= right.get_xlim()[1]]
    assert all(low <= d.value <= d.high <= high for d in inside)
    assert left.get_xscale() == "linear"
    rare = judged(40_000, power=1.0)
    rare["prevalence"] = {"value": 0.02, "low": 0.01, "high": 0.03}
    table, _ = write(tmp_path / "rare", rare)
    rewrite(tmp_path / "rare" / "died" / f"{table.cell[table.loss.argmin()]}.json", decision=rare)
    assert decision_plots.curves(compared(tmp_path / "rare", table)).axes[0].get_xscale() == "log"


def test_what_is_looked_at_may_flag_nobody_at_all():
    """Of few patients most thresholds are suppressed, and those left of recalibrated risks may lie above all others."""
    share, nothing = Measure(0.1, 0.05, 0.2), (0.0, 0.0, 0.0)
    nobody = {t: point(t, SAME, net=nothing, difference=nothing) for t in (0.003, 0.5, 0.6)}
    everybody = [point(t, SAME, net=(0.05, 0.02, 0.1)) for t in (0.001, 0.002)]
    of = lambda *points: decisions.Decision(share, points, (), 0)  # noqa: E731
    shown = [
        scores.Score("as it is", scores.LEAST_LOSS, decision=of(*everybody, nobody[0.003])),
        scores.Score("moved", scores.RECALIBRATED, decision=of(nobody[0.5], nobody[0.6])),
    ]
    _, right = decision_plots.curves(shown).axes
    assert right.get_xlim()[1] >= 0.5 and right.get_ylim()[0] <= 0 <= right.get_ylim()[1]


def test_the_report_tells_of_acting_on_the_risk(tmp_path):
    table, _ = write(tmp_path / "outcomes")
    laws = report.analyze(table, tmp_path / "r", outcomes=tmp_path / "outcomes", options=FEW)
    assert {f"decision_died.{end}" for end in ("png", "svg")} <= {
        p.name for p in (tmp_path / "r" / "figures").iterdir()
    }
    text = " ".join(re.sub("<[^>]+>", " ", (tmp_path / "r" / "report.html").read_text()).split())
    for words in ("Acting on the risk", "it is above treating all and treating none", "Number needed to evaluate",
                  "+0.010 to +0.090: a difference", "Acting from Less logistic regression Less trees",
                  "10 % +0.0125 −0.0025 to +0.0375 – 20 % +0.0125 −0.0025 to +0.0375 +0.0125",
                  "Calibration by subgroup, before and after recalibration"):  # fmt: skip
        assert words in text, words
    (of_model,) = (c for c in laws["outcomes"][0]["compared"] if c["role"] == "recalibrated")
    (best,) = (c for c in laws["outcomes"][0]["compared"] if c["role"] == "least loss")
    assert list(best["net_benefit_less"]) == ["logistic regression", "trees"]
    assert best["net_benefit_less"]["trees"][1] == {"threshold": 0.2, "value": 0.0125, "low": -0.0025, "high": 0.0375}
    assert of_model["recalibration"] == "isotonic" and len(of_model["decision"]["table"]) == 7


def test_scores_of_earlier_versions_have_none_of_it(tmp_path):
    table = simulated.table(budgets=1, sizes=5, seeds=1)
    simulated.write_scores(tmp_path, table)
    found = compared(tmp_path, table)
    assert decision_plots.decided(found) == [] and decision_sections.in_words(found) == []
    assert decision_sections.less_baselines(found) is None
    assert decision_sections.thresholds(found) is None and decision_sections.recalibrated(found) is None
