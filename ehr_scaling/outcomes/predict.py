"""Predictions for labels of others: one trained model, any label file in the MEDS schema, one parquet file out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling import artifacts
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import others, timelines
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import choosing, parts, together, transport
from ehr_scaling.outcomes.asking import cohort, label_files, stays
from ehr_scaling.outcomes.asking.meds_dev.meds_dev import BY_NAME
from ehr_scaling.outcomes.asking.tasks import task_tokens, tasks, train_values
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.outcomes.exchange import predictions, trajectories
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.judging.metrics import calibration, decision, metrics
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.progress import Bar
from ehr_scaling.training.setup import restored_params

COPIES, NEW_TOKENS = 20, 512  # of a question that the study has not asked
FILE, TRAJECTORIES, METRICS = "predictions.parquet", "trajectories", "metrics.json"


def outcome(
    path: Path,
    name: str | None = None,
    *,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    open: Sequence[str] = (),
    horizon_days: float | None = None,
    at_horizon: str = "negative",
) -> Task:
    """The task that is asked of the labels at `path`.

    Args:
      name: of a task of tasks.yaml, or of MEDS-DEV, whose outcome it is. None: as MEDS-DEV lays labels out, the end of
        the path names the task; unless positive is given, with the other fields of `Task`.
    Raises: UserError for an unknown name, one of another kind, or where nothing says what is asked. See
      `meds_dev.of_file` for tasks of files.
    """
    if positive:
        if name:
            raise UserError("--task and --positive both say what is asked: give one of them")
        return label_files.from_labels(
            path,
            name=path.resolve().name,
            positive=positive,
            negative=negative,
            open=open,
            horizon_days=horizon_days,
            at_horizon=at_horizon,
        )
    known = tasks.load()
    if name is None:
        folders = path.resolve().parts
        candidates = [alias for alias in BY_NAME if folders[-len(Path(alias).parts) :] == Path(alias).parts]
        candidates += [folders[-1]] if folders[-1] in known else []
        if not candidates:
            raise UserError(
                f"--labels={path} does not end with the name of a task ({', '.join(BY_NAME)}): name one with --task, "
                "its file with --task_file, or its tokens with --positive and --negative"
            )
        name = candidates[0]
    task = known.get(BY_NAME.get(name, name))
    if task is None:
        raise UserError(f"--task={name} is none: take one of {', '.join([*BY_NAME, *known])}, or give --positive")
    if task.kind != "binary" or task.horizon_from != "prediction":
        raise UserError(
            f"--task={name} cannot be asked of labels: it is of the kind {task.kind}, or counts from an anchor"
        )
    return label_files.from_labels(
        path,
        name=task.name,
        positive=task.positive,
        values=task.values,
        requires=task.requires,
        gap=task.gap,
        negative=task.negative,
        open=task.open,
        horizon_days=task.horizon,
        at_horizon=task.at_horizon,
        at_end=task.at_end,
        silence=task.silence,
        description=task.description,
    )


def of_cohort(name: str | None) -> Task:
    """The task of tasks.yaml that its own cohort is asked: no labels are needed. Raises UserError for another."""
    known = {name: task for name, task in tasks.load().items() if task.kind == "binary"}
    if name is None:
        raise UserError("neither --labels nor --task says what is asked: give one of them")
    task = known.get(BY_NAME.get(name, name))
    if task is None:
        raise UserError(f"--task={name} has no yes-or-no outcome that patients could be asked: {', '.join(known)} have")
    return task


def predict(
    model: Path,
    task: Task,
    out: Path,
    split: str,
    *,
    patients: Path | None = None,
    cell: str | None = None,
    copies: int | None = None,
    new_tokens: int | None = None,
    seed: int = 0,
    keep_futures: bool = False,
) -> dict[str, Any]:
    """Write `predictions.parquet` into the folder `out`, in the MEDS prediction schema, a row for each label that can
    be asked.

    Args:
      model: the work directory of a study, with timelines of the patients that the labels are about.
      split: of MEDS (train, tuning, held_out) or ours (train, validation, test).
      patients: the folder in which timelines of other patients lie, in the model's vocabulary; None: those of `model`.
      cell: id of the trained model; None: of the finished ones that with the least validation loss.
      copies, new_tokens: simulated futures of each stay, and tokens of the longest; None: of other patients as the
        study's own were asked the same, else COPIES and NEW_TOKENS.
      keep_futures: also write them, as MEDS trajectories, into `out`/trajectories.
    Returns: a summary: cell, size, began_with (the weights that it started from, or ""), stays, left_out {reason:
      labels}, bounded (share of copies that ran out of tokens),
      "thresholds", a line on the bins that each of the task's means, where it has some, and of other patients
      "metrics", as metrics.evaluate gives them, with "decision" of decision.evaluate, and "transport", as of
      `transport.penalty`; or None where they cannot be, with "metrics_missing", why.
    Raises: UserError where nothing is trained, the labels cannot be used, or the model's vocabulary lacks the outcome.
    """
    ours = {name: name for name in timelines.SPLITS} | {name: our_name for our_name, name in timelines.SPLITS.items()}
    if split not in ours:
        raise UserError(f"--split={split} is none: take one of {', '.join(timelines.SPLITS.values())}")
    for flag, value in (("copies", copies), ("new_tokens", new_tokens)):
        if value is not None and value < 1:
            raise UserError(f"--{flag}={value}: take 1 or more")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is no folder: name one for {FILE}")
    if keep_futures:
        trajectories.check_new(out / TRAJECTORIES)
    chosen = choosing.best_cell(model, cell)
    vocabulary = timelines.vocabulary(model)
    asked_of = patients or model
    if patients is not None and timelines.vocabulary(patients).fingerprint != vocabulary.fingerprint:
        raise UserError(f"{patients} holds timelines in another vocabulary than {model}: delete it and run again")
    source = artifacts.record(Layout(model).timelines)["fingerprint"]
    choosing.check_timelines(chosen, model, source, len(vocabulary.tokens), Layout(model).timelines)
    group = cohort.find(asked_of, ours[split], [task])
    if patients is not None:
        group = group.without(others.trained_on(model, patients), "of patients the model was trained or chosen on")
    patient_stays = group.of(0)
    if not len(patient_stays.times):
        raise tasks.Unanswerable(
            f"nobody in {asked_of} can be asked for {task.name}: {group.describe(0, inspection.of_generated(asked_of))}"
        )
    at_home = None if patients is None else transport.home(model, chosen.id, task)
    as_there = at_home.options if isinstance(at_home, transport.Home) else {}
    copies, new_tokens = copies or as_there.get("copies", COPIES), new_tokens or as_there.get("new_tokens", NEW_TOKENS)
    known = train_values.of_scales(model, vocabulary, task_tokens.scales(vocabulary, task.values))
    simulated = together.of_stays(
        asked_of,
        ours[split],
        patient_stays,
        task,
        vocabulary,
        known=known,
        context=chosen.context,
        copies=copies,
        new_tokens=new_tokens,
        seed=seed,
        room=as_there.get("room", 0),
    )
    trained = restored_params(chosen, Layout(model).run(chosen.id))
    every = np.arange(len(patient_stays.times))
    probability, bounded, kept = np.empty(len(every)), 0.0, []
    total = len(every) * copies * new_tokens
    with Bar("simulating futures", total, "token", scaled=True) as bar:
        for begin in range(0, len(every), parts.AT_ONCE):
            rows = every[begin : begin + parts.AT_ONCE]
            futures = together.as_asked(drawn := simulated.run(*trained, rows, bar.update), task, vocabulary)
            probability[rows] = estimators.scope(futures, 0).probability
            bounded += estimators.undetermined(futures, 0).bounded * len(rows) / len(every)
            if keep_futures:
                kept.append(drawn)
    artifacts.work_directory(out)
    if keep_futures:
        simulated.write_trajectories(out / TRAJECTORIES, split, simulate.concatenate(kept))
    unknown = int(np.isnan(probability).sum())  # of whom no copy said anything
    probability, _ = estimators.filled(probability)
    predictions.write_binary(out / FILE, patient_stays, probability)
    judged: dict[str, Any] = {}
    if patients is not None:
        judged = _judged(patient_stays, probability, seed, inspection.of_generated(patients))
    if isinstance(at_home, transport.Home) and judged["metrics"] is not None:
        options = {"context": chosen.context, "copies": copies, "new_tokens": new_tokens}
        drawn_by = {"draws": judged["metrics"]["draws"], "seed": seed}
        judged["transport"] = transport.penalty(at_home, patient_stays, probability, options=options, **drawn_by)
    elif isinstance(at_home, str):
        judged["transport"] = {"missing": at_home}
    return {
        "cell": chosen.id,
        "size": chosen.size,
        "began_with": chosen.init,
        "stays": len(patient_stays.times),
        "left_out": dict(group.left_out[0]),
        "bounded": bounded,
        "unknown": unknown,
        **({"thresholds": task_tokens.describe_thresholds(vocabulary, task, known)} if task.values else {}),
        **judged,
    }


def _judged(labelled: stays.Stays, probability: np.ndarray, seed: int, generated: bool) -> dict[str, Any]:
    if labelled.labels.dtype != bool:
        return {"metrics": None, "metrics_missing": "the labels have no boolean_value"}
    if metrics.one_class(labelled.labels):
        return {"metrics": None, "metrics_missing": "all who are asked have the outcome, or none has"}
    labels_and_risks = labelled.labels, probability, labelled.patients
    cells = [len(np.unique(labelled.patients[labelled.labels == kind])) for kind in (True, False)]
    if not generated and min(cells) < calibration.SMALLEST:
        few = f"fewer than {calibration.SMALLEST} patients with the outcome, or without it, are asked"
        return {"metrics": None, "metrics_missing": few}
    scores = metrics.evaluate(*labels_and_risks, probabilities=True, seed=seed)
    decided = decision.evaluate(*labels_and_risks, seed=seed)
    curve = decision.calibration_curve(*labels_and_risks, decided)
    return {"metrics": {**scores, "decision": decided, "calibration_curve": curve}}


def as_told(done: dict[str, Any], generated: bool) -> dict[str, Any]:
    """A summary of `predict` with its counts as they may be told, see `disclosure.told`."""
    record = {**done, "stays": disclosure.told(done["stays"], generated)}
    record["left_out"] = {reason: disclosure.told(n, generated) for reason, n in done["left_out"].items()}
    if scores := done["metrics"]:
        counts = {name: disclosure.told(scores[name], generated) for name in ("n", "patients", "positives")}
        curve = [
            {**one, **{name: disclosure.told(one[name], generated) for name in ("n", "patients")}}
            for one in scores["calibration_curve"]
        ]
        record["transport"] = disclosure.rounded(done["transport"], generated)
        record["metrics"] = disclosure.rounded({**scores, **counts, "calibration_curve": curve}, generated)
    return record


def describe(done: dict[str, Any], generated: bool) -> str:
    """Lines of the metrics in a summary of `predict`. Args: generated, whether the patients are nobody's."""
    scores = done["metrics"]
    if scores is None:
        return f"no metrics: {done['metrics_missing']}"

    def line(name: str, value: Any) -> str:
        low, high = value["low"], value["high"]
        return f"{name} {value['value']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")

    said = [line("AUROC", {**scores, "value": scores["auroc"]}), line("AUPRC", scores["auprc"])]
    said.append(line("Brier score", scores["brier"]))
    missing = f"; no intervals: {scores['interval_missing']}" if "interval_missing" in scores else ""
    some, every = (disclosure.words(scores[name], generated) for name in ("positives", "n"))
    return f"{', '.join(said)}; {some} of {every} with the outcome{missing}\n{transport.describe(done['transport'])}"
