"""What the artifacts of a study answer of TRIPOD+AI: by item, the answer and where it stands."""

from collections.abc import Callable
from typing import Any

from ehr_scaling import __version__
from ehr_scaling.analysis.wording import percent, plural, power, span
from ehr_scaling.cards.evidence import Evidence, ScoredTask
from ehr_scaling.cards.fields import NAMES, interval
from ehr_scaling.cards.model import (
    EVENTS,
    GRID,
    LAWS,
    NOBODY,
    RECALIBRATIONS,
    REPORT,
    RUN,
    SCORE,
    TASK,
    TIMELINES,
    eligible,
    group_name,
    told_groups,
)
from ehr_scaling.cards.tripod import Answer
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection

VOCABULARY = "timelines/vocabulary.json"


def answers(e: Evidence) -> dict[str, Answer]:
    """What is known, by the number of the item. Of outcomes nothing is where the model was scored on none."""
    return {**_of_data(e), **_of_model(e), **(_of_outcomes(e) if e.scored else {})}


def _of_data(e: Evidence) -> dict[str, Answer]:
    splits = {name: e.timelines["summary"][name] for name in ("train", "validation", "test")}
    counted = "; ".join(
        f"{name} {e.words(s['patients'])} patients, {e.words(s['events'])} events" for name, s in splits.items()
    )
    options = ", ".join(f"{name} {value}" for name, value in inspection.options(e.fitted))
    context = ", ".join(e.fitted.context_slots) or "none"
    median = "; ".join(f"{name} {_median(e, s)}" for name, s in splits.items())
    unknown = "; ".join(f"{name} {100 * s['unknown_tokens']:.2f} %" for name, s in splits.items())
    whose = "Generated patients" if e.generated else "Records of real patients"
    answers = {
        "5a": Answer(
            f"{whose}: {e.source} ({counted}). The same records serve development and evaluation.",
            f"{EVENTS}; {TIMELINES}",
            "" if e.generated else "why these records, and whom they stand for",
        ),
        "6c": Answer(
            "Treatments are read like any other event, as far as the records hold them, up to the prediction.",
            VOCABULARY,
            "which treatments patients had, and what they did to the outcome",
        ),
        "7": Answer(
            f"One rule for all patients: {options}. What the source or the tokenizer left out is counted by reason.",
            f"{TIMELINES}: Left out; {VOCABULARY}",
        ),
        "9a": Answer(
            f"All events of a patient's record, as {len(e.fitted.tokens):,} tokens, and static context ({context}); "
            f"tokens that fewer than {e.fitted.settings.get('min_patients', 0)} patients of train have fall into their "
            "parents.",
            VOCABULARY,
        ),
        "9b": Answer(
            "Each token is named in the vocabulary; bins of values were fitted to the train split; what stands in a "
            "prompt was known by the time of the prediction.",
            VOCABULARY,
            "" if e.generated else "how the places of the records measured them",
        ),
        "10": Answer(
            "By the records that could be read, see 5a; the sizes and lengths of the runs are those of the grid.",
            f"{EVENTS}; {GRID}",
            "whether these are enough, and for which precision",
        ),
        "11": Answer(
            "Nothing is imputed: an event that was not recorded is no token, and context that is not known has a token "
            f"of its own. Tokens that say no more than their family: {unknown}.",
            f"{TIMELINES}: Contents",
        ),
        "12a": Answer(
            "Patients are in one split only, see 5a: models are trained on train, measured and chosen on validation, "
            "and scored on test.",
            f"{EVENTS}: inputs; {TIMELINES}",
        ),
        "12b": Answer(
            f"Values become {e.fitted.settings.get('bins', 'some')} bins of their code, times classes of intervals, "
            f"age steps ({e.fitted.settings.get('age', 'not stated')}).",
            VOCABULARY,
        ),
        "16": Answer(
            "None by design: the same records, split by patient, with the same eligibility and outcome.",
            EVENTS,
            "" if e.generated else "whether patients elsewhere differ",
        ),
        "20b": Answer(
            f"Median tokens a patient: {median}. `python -m ehr_scaling.launch.inspect --workdir=W`: lengths, codes "
            "and context.",
            f"{TIMELINES}: Contents",
            "a table of what patients are like",
        ),
        "20c": Answer(
            f"Tokens that say no more than their family: {unknown}; median tokens a patient: {median}.",
            f"{TIMELINES}: Contents",
            "the distribution of important predictors",
        ),
        "27a": Answer(
            "Codes that the vocabulary lacks fall back to what is above them, and are counted; launch.predict refuses "
            "records of which it knows too little (--least_known).",
            "docs/outcomes.md of ehr_scaling",
            "what to do at the place of use",
        ),
    }
    if e.generated:
        answers |= dict.fromkeys(("5b", "6a", "9c"), Answer(NOBODY, EVENTS))
    if e.learnt_of_generated:
        answers["17"] = Answer(NOBODY, EVENTS)
    if e.licence:
        page = e.about.get("location_uri")
        answers["18e"] = Answer(
            f"The records' licence: {e.licence}" + (f"; their page: {page}" if page else ""),
            f"{EVENTS}; events/metadata/dataset.json",
            "how others get what was made of them",
        )
    return answers


def _median(e: Evidence, split: dict[str, Any]) -> str:
    told = disclosure.quantile(split["patients"], 0.5, e.generated)
    return f"{split['tokens_per_patient']['p50']:,.0f}" if told else "not told"


def _of_model(e: Evidence) -> dict[str, Answer]:
    c, iso, commit = e.cell, e.laws["isoflop"], e.laws.get("provenance", {}).get("versions", {}).get("commit")
    budgets = ", ".join(power(budget["C"]) for budget in iso["budgets"])
    searched = "one setting a cell" if not e.laws.get("tuning") else plural(len(e.laws["tuning"]), "cell") + " searched"
    held = e.laws["holdout"]
    answers = {
        "4": Answer(
            "To measure how loss, and what models say of patients, depend on size, tokens and compute: models are "
            "developed, and evaluated on held-out patients of the same records.",
            f"{REPORT}, first screen",
        ),
        "12c": Answer(
            f"Decoder transformers at {plural(len(iso['budgets']), 'budget')} of compute ({budgets} FLOPs), "
            f"{e.finished} finished runs; this one has {c.N_body:,} body parameters, {c.optimizer}, seeds "
            f"{', '.join(map(str, e.seeds))}; {searched}. Checked by rolling hold-outs and a sealed budget.",
            f"{GRID}; {LAWS}: tuning, rolling, holdout; config.json",
        ),
        "18f": Answer(
            f"ehr_scaling {__version__}, Apache-2.0"
            + (f"; the report was made by commit {commit}" if commit and commit != "unknown" else ""),
            f"{LAWS}: provenance.versions",
        ),
        "22": Answer(
            f"Weights: {RUN}{c.id}; tokens: {VOCABULARY}; `python -m ehr_scaling.launch.export --workdir=W "
            f"--cell={c.id} --out=DIR` makes one folder of them.",
            f"{GRID}; {RUN}{c.id}",
            "whether, and from whom, others get it",
        ),
        "26": Answer(
            f"Worked out from the runs; exponents a {span(iso['intervals']['a'])}, b {span(iso['intervals']['b'])}.",
            f"{REPORT}, Limits; {LAWS}: verdicts, doubts, left_out; model.html, Warnings",
        ),
    }
    if held is not None:
        answers["18c"] = Answer(
            f"The forecast of the sealed budget was filed (fingerprint {held['forecast_fingerprint']}).",
            "report/forecast.json",
            "the protocol of the whole",
        )
    return answers


def _of_outcomes(e: Evidence) -> dict[str, Answer]:
    names = ", ".join(task.title for task in e.scored)
    measures = dict.fromkeys(NAMES[name] for task in e.scored for name in task.model.measures)
    codes = _each(e, _outcome)
    moved = [task for task in e.scored if task.recalibrated]
    groups = dict.fromkeys(g.attribute for task in e.scored for g in task.model.groups)
    told = _each(e, _performance)
    sampled = [task.title for task in e.scored if task.inputs.get("positive_share") is not None]
    updated = _each(e, _moved) if moved else "No model was updated after its training: none was recalibrated."
    answers = {
        "1": Answer(f"Development and evaluation of a model that predicts {names}; records: {e.source}.", "model.html"),
        "6b": Answer(_each(e, eligible), f"{TASK}: inputs.task, left_out"),
        "8a": Answer(codes, f"{TASK}: inputs.task"),
        "8b": Answer(
            "The outcome is read from the records by rule.",
            TASK,
            "" if e.generated else "who assessed it where it was recorded",
        ),
        "8c": Answer(
            "The rule sees neither predictions nor who the patient is.",
            TASK,
            "" if e.generated else "how it was assessed where it was recorded",
        ),
        "12e": Answer(", ".join(measures), f"{LAWS}: outcomes.compared; {REPORT}, Outcomes", "why these"),
        "12f": Answer(_each(e, _recalibration) if moved else updated, SCORE),
        "12g": Answer(_each(e, lambda task: str(task.record.get("method") or "not stated")), SCORE),
        "13": Answer(
            f"Sampled by outcome, and weighted back: {', '.join(sampled)}." if sampled
            else "Nothing was sampled by outcome, and nothing weighted.",
            f"{TASK}: inputs.positive_share",
        ),
        "14": Answer(
            f"Scores by group ({', '.join(groups)}), those of few patients suppressed; nothing in training."
            if groups else "Nothing.",
            f"{LAWS}: outcomes.subgroups",
            "why, and what else was thought of",
        ),
        "15": Answer(
            _each(e, _output),
            f"{TASK}; {SCORE}: decision",
        ),
        "20a": Answer(_each(e, lambda task: _flow(e, task)), TASK, "follow-up"),
        "21": Answer(
            f"Trained on {e.words(e.cell.patients)} patients, {e.words(e.cell.unique_tokens)} tokens. "
            + _each(e, lambda task: _counted(e, task)),
            f"{GRID}; {SCORE}",
        ),
        "23a": Answer(told, f"{LAWS}: outcomes.compared, outcomes.subgroups; {REPORT}, Outcomes; model.html"),
        "24": Answer(updated, SCORE),
    }  # fmt: skip
    return answers


def _each(e: Evidence, said: Callable[[ScoredTask], str]) -> str:
    """What is said of each task, by its name."""
    return "; ".join(f"{task.title}: {said(task)}" for task in e.scored)


def _outcome(task: ScoredTask) -> str:
    spec = task.inputs.get("task", {})
    kind, positive = spec.get("kind", "binary"), " or ".join(_said_of(spec))
    horizon = f"within {spec['horizon']:g} days" if spec.get("horizon") else "no horizon"
    if kind == "class":
        return f"the next token, of {', '.join(spec.get('classes') or ())}"
    if kind == "days":
        return f"days until {positive}"
    against = list(spec.get("negative") or ())
    against += ["none of it by then"] if spec.get("at_horizon") == "negative" else []
    against += ["a record that ends before"] if spec.get("at_end") == "negative" else []
    by_label = ", as label files say who had it" if spec.get("labels") else ""
    return f"{positive or 'by label'}, against {' or '.join(against) or 'by label'}, {horizon}{by_label}"


def _said_of(spec: dict[str, Any]) -> list[str]:
    """The positive tokens of a task, and its codes with thresholds."""
    bounds = []
    for bound in spec.get("values") or ():
        ends = [
            f"{name.replace('_', ' ')} {end:g}" for name, end in bound.items() if name != "code" and end is not None
        ]
        bounds.append(" ".join([bound["code"], *ends]))
    return [*(spec.get("positive") or ()), *bounds]


def _output(task: ScoredTask) -> str:
    kind = task.about.get("kind", "binary")
    told = f"{'a probability' if kind == 'binary' else kind}, no threshold"
    if not task.thresholds:
        return told
    risks = [percent(row.target) for row in task.thresholds if row.by == "risk"]
    budgets = [percent(row.target) for row in task.thresholds if row.by == "budget"]
    parts = [f"from risks of {', '.join(risks)}"] if risks else []
    parts += [f"where {', '.join(budgets)} of stays may alert"] if budgets else []
    return f"{told} of its own; what acting on it costs and finds is told {', and '.join(parts)}"


def _recalibration(task: ScoredTask) -> str:
    if task.recalibrated is None:
        return "not recalibrated"
    how = RECALIBRATIONS[task.recalibrated.recalibration]
    return f"on the validation split by {how}, beside the model as it is"


def _performance(task: ScoredTask) -> str:
    whole = ", ".join(interval(name, measure) for name, measure in task.model.measures.items())
    groups = [
        f"{group_name(group)} {interval('auroc', group.measures['auroc'])}"
        for group in told_groups(task)
        if "auroc" in group.measures
    ]
    return whole + (f"; by group: {', '.join(groups)}" if groups else "")


def _moved(task: ScoredTask) -> str:
    if task.recalibrated is None:
        return "not recalibrated"
    return ", ".join(interval(name, measure) for name, measure in task.recalibrated.measures.items())


def _flow(e: Evidence, task: ScoredTask) -> str:
    reasons = "; ".join(f"{e.words(n)} {reason}" for reason, n in (task.about.get("left_out") or {}).items() if n)
    return f"{_counted(e, task)}; not asked: {reasons or 'none'}"


def _counted(e: Evidence, task: ScoredTask) -> str:
    n, positives = task.record.get("n"), task.record.get("positives")
    if n is None:
        return f"{e.words(task.about.get('stays', 0))} stays"
    if positives is None:
        return f"{e.words(n)} stays"
    return f"{e.words(n)} stays, {e.words(positives)} with and {e.words(n - positives)} without the outcome"
