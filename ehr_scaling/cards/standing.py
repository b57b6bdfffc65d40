"""What a study's cards may be used for, in one word: the one place that gives it.

docs/cards.md has a row for each word.
"""

from ehr_scaling.analysis.report.summary import few_patients
from ehr_scaling.analysis.words import Verdict
from ehr_scaling.cards.evidence import Evidence, ScoredTask
from ehr_scaling.publish import LEAST_SEEDS

REPORTABLE, SMOKE_ONLY, BLOCKED = "reportable", "smoke only", "blocked"
NOT_IDENTIFIABLE = "not identifiable"
EXPONENTS = {"a": "how the best size grows with compute", "b": "how the tokens for it grow with compute"}


def judge(e: Evidence) -> Verdict:
    """The word of a study, and why. What comes first below goes first.

    blocked: something was changed, or does not fit together. smoke only: nobody's records, or of too few patients to
    determine anything. not identifiable: the runs do not tell an exponent. blocked, again: a step is missing that a
    report needs. reportable: nothing of these.
    """
    if e.problems:
        return Verdict(BLOCKED, "; ".join(e.problems))
    if e.generated:
        return Verdict(SMOKE_ONLY, "the patients are generated: this shows that the programs work, and no medicine")
    most = e.laws["data"].get("patients") or e.cell.patients
    if few_patients(most):
        return Verdict(SMOKE_ONLY, f"{e.words(most)} patients to train on determine nothing: this shows that it works")
    untold = [f"{what}: {verdict.reason}" for name, what in EXPONENTS.items() if not (verdict := _of(e, name)).told]
    if untold:
        return Verdict(NOT_IDENTIFIABLE, "the runs do not tell " + "; nor ".join(untold))
    if missing := _missing(e):
        return Verdict(BLOCKED, "; ".join(missing))
    tasks = ", ".join(task.title for task in tested(e))
    return Verdict(
        REPORTABLE,
        f"real patients, both exponents told, {len(e.seeds)} seeds of this model, scored on test patients ({tasks}), "
        "every file as it was made. It does not say that the model is good, or safe to use",
    )


def tested(e: Evidence) -> list[ScoredTask]:
    """The tasks that the model was scored on with patients of the test split."""
    return [task for task in e.scored if task.inputs.get("split") == "test"]


def _of(e: Evidence, name: str) -> Verdict:
    return Verdict.read(e.laws["verdicts"][name])


def _missing(e: Evidence) -> list[str]:
    missing = []
    if not tested(e):
        few = [f"{task.title} is {task.withheld}" for task in e.tasks if task.withheld]
        scored = "the model was scored on no patients of the test split: run launch.evaluate, then launch.study"
        missing += few or [scored]
    if e.may_know_test:
        missing.append("the model started from weights that may know the test patients: train one that starts afresh")
    if len(e.seeds) < LEAST_SEEDS:
        missing.append(f"{len(e.seeds)} seed of this model, which is an anecdote: train {LEAST_SEEDS}")
    return missing
