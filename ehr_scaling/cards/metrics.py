"""The results of the model card: what the model is worth, to whom, and how far its risks are to be believed."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ehr_scaling.analysis.outcomes.scores import SAME_FOR_ALL, Measure, Score
from ehr_scaling.analysis.wording import plural
from ehr_scaling.cards.evidence import Asked, Evidence
from ehr_scaling.cards.fields import AUTHORS, NAMES, RANKS, RISKS, Field, unanswered
from ehr_scaling.cards.model import MODEL, RECALIBRATIONS, SCORE, TASK, group_name, told_groups
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
    """The three of the schema, in its order."""
    return [
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


def _metric(
    e: Evidence,
    key: str,
    title: str,
    results: Callable[[Asked], Iterator[Result]],
    goal: str,
    interpretation: Callable[[Asked], str],
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
        "TestingDataDescription": (_lines(_asked(e, task) for task in e.scored), TASK),
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


def _of(task: Asked, who: str, score: Score, names: Sequence[str]) -> Iterator[Result]:
    for name in names:
        if name in score.measures:
            yield Result(task.title, who, NAMES[name], score.measures[name])


def _worth(task: Asked) -> Iterator[Result]:
    yield from _of(task, "the model", task.model, RANKS)
    base = task.baselines[0].name if task.baselines else "the baseline"
    for name, measure in task.model.differences.items():
        if name in RANKS:
            yield Result(task.title, f"the model less {base}", NAMES[name], measure)
    for score in task.baselines:
        if score.name not in SAME_FOR_ALL:
            yield from _of(task, score.name, score, RANKS)


def _by_group(task: Asked) -> Iterator[Result]:
    for group in told_groups(task):
        for name in ("auroc", "auprc", "calibration_slope", "calibration_in_the_large"):
            if name in group.measures:
                yield Result(task.title, group_name(group), NAMES[name], group.measures[name])


def _calibration(task: Asked) -> Iterator[Result]:
    yield from _of(task, "the model", task.model, RISKS)
    if task.recalibrated:
        yield from _of(task, "the model, recalibrated", task.recalibrated, RISKS)


def _compared(task: Asked) -> str:
    said = task.verdict
    return (
        f"{task.title}: over the study's models, {said['pattern']}, {said['word']}: {said['reason']}." if said else ""
    )


def _suppressed(task: Asked) -> str:
    hidden = [group_name(group) for group in task.model.groups if group.suppressed]
    told = f"{plural(len(told_groups(task)), 'group')} may be told"
    return f"{task.title}: {told}{'; suppressed, as of few patients: ' + ', '.join(hidden) if hidden else ''}."


def _recalibration(task: Asked) -> str:
    moved = task.record.get("recalibrated")
    if not moved:
        return f"{task.title}: not recalibrated."
    if "missing" in moved:
        return f"{task.title}: not recalibrated: {moved['missing']}."
    numbers = [f"{name} {moved[name]:.3f}" for name in ("intercept", "slope") if name in moved]
    how = RECALIBRATIONS[moved.get("method", LINE)] + (f": {', '.join(numbers)}" if numbers else "")
    return f"{task.title}: recalibrated on the {moved.get('split', 'validation')} split by {how}."


def _asked(e: Evidence, task: Asked) -> str:
    with_outcome = f", {e.told(task.record['positives'])} with the outcome" if "positives" in task.record else ""
    stays = e.told(task.record["n"] if "n" in task.record else task.about.get("stays", 0))
    left_out = task.about.get("left_out") or {}
    reasons = "; ".join(f"{e.told(n)} {reason}" for reason, n in left_out.items() if n)
    return f"{task.title}: {stays} stays{with_outcome}; not asked: {reasons or 'none'}."


def _process(task: Asked) -> str:
    method, copies = task.record.get("method"), task.record.get("copies")
    if not method or "draws" not in task.record:
        return ""
    futures = f", {plural(copies, 'future')} a stay" if copies else ""
    return f"{task.title}: {method}{futures}; {task.record['draws']:,} draws of patients."


def _lines(texts: Iterator[str]) -> str:
    return "\n".join(f"- {text}" for text in texts if text)
