"""The results of the model card: what the model is worth, to whom, and how far its risks are to be believed."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ehr_scaling.analysis.outcomes.scores import Measure, Score, telling
from ehr_scaling.analysis.wording import percent, plural
from ehr_scaling.cards.evidence import Evidence, ScoredTask
from ehr_scaling.cards.fields import ACTS, AUTHORS, NAMES, RANKS, RISKS, Field, interval, unanswered
from ehr_scaling.cards.model import MODEL, RECALIBRATIONS, SCORE, TASK, baseline, group_name, membership, told_groups
from ehr_scaling.outcomes.asking.prepared import LINE

KEY = f"{MODEL}KeyMetrics/"
LEVEL = 95  # %, of the intervals of scores


class Result(NamedTuple):
    """A number of a metric. task, of: of what, and of which model, baseline or group; measure: with its interval."""

    task: str
    of: str
    name: str
    measure: Measure

    @property
    def label(self) -> str:
        return f"{self.task}: {self.of}: {self.name}"


class Metric(NamedTuple):
    """key: of the schema. fields: all of it but the results."""

    key: str
    title: str
    results: list[Result]
    fields: list[Field]


def metrics(e: Evidence) -> list[Metric]:
    """The three of the schema, in its order; what an audit found is of the last."""
    *others, safety = [
        _metric(
            e, "UsefulnessUsabilityEfficacy", "Usefulness", _worth,
            "To tell patients apart by what will happen to them, beside baselines on the same stays.", _compared,
        ),
        _metric(
            e, "FairnessEquity", "Fairness", _by_group,
            "To tell patients apart as well in every group, with risks that are as right.", _suppressed,
        ),
        _metric(
            e, "SafetyReliability", "Reliability of the risks", _calibration,
            "Risks that are as high as outcomes are frequent: slope 1, in the large 0.", _recalibration,
        ),
    ]  # fmt: skip
    return [*others, safety._replace(results=[*safety.results, *_given_away(e)])]


def _given_away(e: Evidence) -> Iterator[Result]:
    if known := membership(e):
        how, measure = known
        yield Result("Who was in its training", how, f"membership {NAMES['auroc']}", measure)


def _metric(
    e: Evidence,
    key: str,
    title: str,
    results: Callable[[ScoredTask], Iterator[Result]],
    goal: str,
    interpretation: Callable[[ScoredTask], str],
) -> Metric:
    told = [result for task in e.scored for result in results(task)]
    path = f"{KEY}{key}/"
    if not e.scored:
        left = [
            unanswered(f"{path}{name}", label, AUTHORS, "the model has no scores that may be told")
            for name, label in _LABELS.items()
        ]
        return Metric(key, title, [], left)
    split = ", ".join(sorted({str(task.inputs.get("split", "not stated")) for task in e.scored}))
    unseen = "no model was trained on"
    if e.may_know_test:
        unseen = "the study trained no model on, though this one started from weights that may know them"
    texts = {
        "MetricGoal": (goal, "ehr_scaling"),
        "Interpretation": (_lines(interpretation(task) for task in e.scored), SCORE),
        "TestType": (
            f"Retrospective, internal: patients of the same records (split {split}), whom {unseen}.",
            TASK,
        ),
        "TestingDataDescription": (_lines(_test_stays(e, task) for task in e.scored), TASK),
        "ValidationProcessAndJustification": (_lines(_process(task) for task in e.scored), SCORE),
    }
    fields = [
        Field(f"{path}{name}", _LABELS[name], text, where)
        if text
        else unanswered(f"{path}{name}", _LABELS[name], AUTHORS)
        for name, (text, where) in texts.items()
    ]
    return Metric(key, title, told, fields)


_LABELS = {
    "MetricGoal": "Goal",
    "Interpretation": "What it says",
    "TestType": "Kind of test",
    "TestingDataDescription": "Test data",
    "ValidationProcessAndJustification": "How it was measured",
}


def _of(task: ScoredTask, who: str, score: Score, names: Sequence[str]) -> Iterator[Result]:
    for name in names:
        if name in score.measures:
            yield Result(task.title, who, NAMES[name], score.measures[name])


def _worth(task: ScoredTask) -> Iterator[Result]:
    yield from _of(task, "the model", task.model, RANKS)
    for name, measure in task.model.differences.items():
        if name in RANKS:
            yield Result(task.title, f"the model less {baseline(task)}", NAMES[name], measure)
    for score in telling(task.scores):
        yield from _of(task, score.name, score, RANKS)
    yield from _of_thresholds(task)


def _of_thresholds(task: ScoredTask) -> Iterator[Result]:
    """What acting on a risk costs and finds, of the risks as they are to be used: recalibrated where they were."""
    where = f"{task.title}, acting on its risk" + (", recalibrated" if task.acted_on is not task.model else "")
    for row in task.thresholds:
        at = f"from a risk of {percent(row.target)}"
        if row.by == "budget":
            at = f"{percent(row.target)} of stays may alert: from a risk of {percent(row.threshold, 1)}"
        for name in ACTS:
            if name in row.measures:
                scale = 100 if name == "alerts" else 1
                yield Result(where, at, NAMES[name], Measure(*(scale * x for x in row.measures[name][:3])))


def _by_group(task: ScoredTask) -> Iterator[Result]:
    for group in told_groups(task):
        for name in ("auroc", "auprc", "calibration_slope", "calibration_in_the_large"):
            if name in group.measures:
                yield Result(task.title, group_name(group), NAMES[name], group.measures[name])
        for name, gap in group.gaps.items():
            yield Result(task.title, f"{group_name(group)} less all others", NAMES[name], Measure(*gap[:3]))


def _calibration(task: ScoredTask) -> Iterator[Result]:
    yield from _of(task, "the model", task.model, RISKS)
    if task.recalibrated:
        yield from _of(task, "the model, recalibrated", task.recalibrated, RISKS)


def _compared(task: ScoredTask) -> str:
    said, parts = task.verdict, []
    if lead := task.model.differences.get("auroc"):
        word = "ahead of" if lead.low > 0 else "behind" if lead.high < 0 else "not told apart from"
        parts.append(f"the model is {word} {baseline(task)} on the same stays, {interval('auroc', lead, True)} more.")
    if said:
        parts.append(f"All models of the study: {said['pattern']}, {said['word']}: {said['reason']}.")
    return f"{task.title}: {' '.join(parts)}" if parts else ""


def _suppressed(task: ScoredTask) -> str:
    parts = [f"{plural(len(told_groups(task)), 'group')} may be told"]
    hidden = [group for group in task.model.groups if group.suppressed]
    for why in dict.fromkeys(group.suppressed for group in hidden):
        parts.append(f"{why}: {', '.join(group_name(group) for group in hidden if group.suppressed == why)}")
    for attribute in dict.fromkeys(group.attribute for group in hidden):
        name = " or ".join(group.name for group in hidden if group.attribute == attribute)
        told = [group for group in told_groups(task) if (group.attribute, group.name) == (attribute, name)]
        parts += [f"told together: {group_name(group)}" for group in told]
    return f"{task.title}: {'; '.join(parts)}."


def _recalibration(task: ScoredTask) -> str:
    moved = task.record.get("recalibrated")
    if not moved:
        return f"{task.title}: not recalibrated."
    if "missing" in moved:
        return f"{task.title}: not recalibrated: {moved['missing']}."
    numbers = [f"{name} {moved[name]:.3f}" for name in ("intercept", "slope") if name in moved]
    how = RECALIBRATIONS[moved.get("method", LINE)] + (f": {', '.join(numbers)}" if numbers else "")
    return f"{task.title}: recalibrated on the {moved.get('split', 'validation')} split by {how}."


def _test_stays(e: Evidence, task: ScoredTask) -> str:
    with_outcome = f", {e.words(task.record['positives'])} with the outcome" if "positives" in task.record else ""
    stays = e.words(task.record["n"] if "n" in task.record else task.about.get("stays", 0))
    left_out = task.about.get("left_out") or {}
    reasons = "; ".join(f"{e.words(n)} {reason}" for reason, n in left_out.items() if n)
    return f"{task.title}: {stays} stays{with_outcome}; not asked: {reasons or 'none'}."


def _process(task: ScoredTask) -> str:
    method, copies = task.record.get("method"), task.record.get("copies")
    if not method or "draws" not in task.record:
        return ""
    futures = f", {plural(copies, 'future')} a stay" if copies else ""
    return f"{task.title}: {method}{futures}; {task.record['draws']:,} draws of patients."


def _lines(texts: Iterator[str]) -> str:
    return "\n".join(f"- {text}" for text in texts if text)
