"""The score of probabilities of a yes or a no: how good they are as they are, and as other patients ask to move them.

Of a model and of a baseline alike, from the predictions that are written, so that scores can be made anew of those.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling import artifacts
from ehr_scaling.data import parquet
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.grid.cell import Cell
from ehr_scaling.models.transformer import PAD
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.prepared import ISOTONIC, Question, recalibration_of, tuning_of
from ehr_scaling.outcomes.asking.questions import Samples
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging.metrics import calibration, decision, metrics, paired, subgroups

BASELINE = "baseline.json"
OTHERS = "baselines"  # folder of what the baselines beside that one predict
ATTRIBUTES = ("sex", "age", "race", "unit")
# An attribute, and its groups, by what a model reads of the records of the stays
RECORD, WHOLE, FILLED = "record", "read whole", "fills the prompt"
_GROUP_DRAWS = 200  # bootstrap draws of a subgroup


Decided = tuple[np.ndarray, dict[str, Any]]  # risks, and what `decision.evaluate` told of them


def judge(
    question: Question, samples: Samples, probability: np.ndarray, beside: Decided | None = None
) -> dict[str, Any]:
    """`metrics.evaluate` of all stays, `decision` and `calibration_curve` (see there), and `subgroups`, with `gaps`.

    Args: probability, (stays,), which is judged in single precision, as predictions are written; beside, as
      `decision.evaluate` has it.
    """
    stored = probability.astype(np.float32).astype(np.float64)

    def of_group(rows: np.ndarray) -> dict[str, Any]:
        score = _evaluate(question, samples, stored, rows, _GROUP_DRAWS)
        return {**score, "gaps": _gaps(question, samples, stored, rows)}

    score, decided = _evaluate(question, samples, stored), _decision(question, samples, stored, beside)
    return {**score, **decided, "subgroups": _by_attribute(samples, of_group)}


def judge_model(cell: Cell, question: Question, samples: Samples) -> dict[str, Any]:
    """What the stored predictions of a model are worth: `judge`; `recalibrated`, where stays of other patients were
    prepared for that and are answered; `against_baseline` and `net_benefit_against`, of risks to act on, where there is
    one.

    Raises: UserError where predictions are damaged, or about other stays.
    """
    path = question.folder / f"{cell.id}.parquet"
    said, sampled = answers(path), samples.stays
    expected = (sampled.subject_ids, sampled.times, sampled.labels)
    if not all(np.array_equal(a, b) for a, b in zip(said, expected, strict=False)):
        raise UserError(f"{path} is about other stays than were asked: delete it and run again")
    probability = said.probabilities.astype(np.float64)
    recalibrated: dict[str, Any] = {}
    beside = None
    if tuning := tuning_of(question):
        others = answers(tuning.folder / f"{cell.id}.parquet")
        weights = weights_of(questions.load(tuning.folder))
        recalibrated, moved = _moved(probability, others, weights, recalibration_of(tuning))
        if moved is not None:  # risks to act on: their thresholds come first
            recalibrated |= _recalibrated(question, samples, moved, recalibrated["method"])
            beside = moved, recalibrated["decision"]
    score = judge(question, samples, probability, beside)
    score |= {"recalibrated": recalibrated} if recalibrated else {}
    if baseline_of(question.folder) is not None:
        score["against_baseline"] = paired.compare(
            answers((question.folder / BASELINE).with_suffix(".parquet")),
            said,
            weights=weights_of(samples),
            draws=question.options["draws"],
            seed=question.options["seed"],
        )
        risks, decided = beside or (probability, score["decision"])
        acted_on = said._replace(probabilities=risks)
        score["net_benefit_against"] = _net_benefits(question, samples, acted_on, decided)
    return score


def file_of(folder: Path, baseline: str, main: str) -> Path:
    """Where the predictions of a baseline lie in the folder of a task. Args: main, the name of that of `BASELINE`."""
    if baseline == main:
        return (folder / BASELINE).with_suffix(".parquet")
    return folder / OTHERS / f"{baseline.replace(' ', '_')}.parquet"


def _net_benefits(
    question: Question, samples: Samples, said: paired.Answers, decided: dict[str, Any]
) -> dict[str, list[dict[str, float | None]]]:
    """`paired.net_benefit` of a model less that of each baseline, at the thresholds that are told of both.

    Not of one that says the same of everybody: decision curves are against treating all and none.
    """
    main = artifacts.read_json(question.folder / BASELINE)
    differences = {}
    for name, score in {main["name"]: main, **main["others"]}.items():
        told = ({point["threshold"] for point in of["curve"]} for of in (decided, score["decision"]))
        thresholds = sorted(set.intersection(*told))
        beside = answers(file_of(question.folder, name, main["name"]))
        if not thresholds or np.ptp(beside.probabilities) == 0:
            continue
        differences[name] = paired.net_benefit(
            beside,
            said,
            thresholds,
            weights=weights_of(samples),
            draws=question.options["draws"],
            seed=question.options["seed"],
        )
    return differences


def baseline_of(folder: Path) -> str | None:
    """Fingerprint of the baseline in the folder of a task, by which to know whether a comparison with it is with this
    one; None where there is none."""
    path = folder / BASELINE
    there = path.is_file() and path.with_suffix(".parquet").is_file()
    return str(artifacts.read_json(path).get("fingerprint")) if there else None


def answers(path: Path) -> paired.Answers:
    """The predictions in a file. Raises UserError where it is damaged."""
    try:
        table = parquet.read(path, schema=predictions.BINARY)
    except (OSError, pa.ArrowException) as e:
        raise UserError(f"{path} is damaged ({first_line(e)}): delete it and run again") from None
    return paired.Answers(
        table["subject_id"].to_numpy(),
        table["prediction_time"].to_numpy().astype(np.int64),
        table["boolean_value"].to_numpy(zero_copy_only=False),
        table["predicted_boolean_probability"].to_numpy(),
    )


def _evaluate(
    question: Question,
    samples: Samples,
    probability: np.ndarray,
    rows: np.ndarray | slice = slice(None),
    draws: int | None = None,
) -> dict[str, Any]:
    """`metrics.evaluate` of some stays, all of them unless told, with as many draws as the question asks for."""
    sampled, weights = samples.stays, weights_of(samples)
    return metrics.evaluate(
        sampled.labels[rows],
        probability[rows],
        sampled.patients[rows],
        weights=None if weights is None else weights[rows],
        probabilities=True,
        draws=draws or question.options["draws"],
        seed=question.options["seed"],
    )


def _decision(
    question: Question,
    samples: Samples,
    probability: np.ndarray,
    beside: Decided | None = None,
) -> dict[str, Any]:
    """`decision` and `calibration_curve` of all stays."""
    options, weights = question.options, weights_of(samples)
    labels_and_risks = samples.stays.labels, probability, samples.stays.patients
    how = {"beside": beside, "draws": options["draws"], "seed": options["seed"]}
    decided = decision.evaluate(*labels_and_risks, weights=weights, **how)
    return {
        "decision": decided,
        "calibration_curve": decision.calibration_curve(*labels_and_risks, decided, weights=weights),
    }


def _gaps(question: Question, samples: Samples, probability: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    sampled, seeds = samples.stays, {"draws": _GROUP_DRAWS, "seed": question.options["seed"]}
    return subgroups.gaps(
        rows, sampled.labels, probability, sampled.patients, weights=weights_of(samples), **seeds
    )  # fmt: skip


def _by_attribute(samples: Samples, of_group: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
    sampled, bands = samples.stays, [name for _, name in questions.AGE_BANDS]
    attributes = {name: getattr(samples, name) for name in ATTRIBUTES}
    filled = samples.prompts[:, 0] != PAD  # prompts are padded on the left where there is room
    attributes |= {RECORD: np.where(filled, FILLED, WHOLE)} if 0 < filled.sum() < len(filled) else {}
    return {
        name: subgroups.by_group(values, sampled.patients, sampled.labels, of_group, bands if name == "age" else ())
        for name, values in attributes.items()
    }


def _moved(
    probability: np.ndarray, said: paired.Answers, weights: np.ndarray | None, method: str
) -> tuple[dict[str, Any], np.ndarray | None]:
    """A recalibration, fitted to other patients, of whom the model said `said`: what is told of it, and the
    probabilities that it makes of these; None where it is `missing`."""
    about: dict[str, Any] = {
        "method": method,
        "stays": len(said.labels),
        "positives": int(said.labels.sum()),
        "split": questions.TUNING,
    }
    weighs, before = metrics.ones_for(weights, len(said.labels)), said.probabilities.astype(np.float64)
    if method == ISOTONIC:
        return about, calibration.isotonic(said.labels, before, weighs).moved(probability)
    if (line := calibration.line(said.labels, before, weighs)) is None:
        return about | {"missing": "the predictions separate the labels of these stays, or are all the same"}, None
    if line[1] <= 0:  # it would turn the ranks round, whose AUROC stands beside it as the model's
        missing = "the outcome is no more frequent among these stays where the predictions are higher"
        return about | {"missing": missing}, None
    return about | {"intercept": line[0], "slope": line[1]}, calibration.moved(probability, *line)


def _recalibrated(question: Question, samples: Samples, moved: np.ndarray, method: str) -> dict[str, Any]:
    """What a recalibration made of the probabilities, taken as it is: intervals are over the patients whose risks were
    moved, not over those it was fitted to."""
    ranks = ("auroc", "low", "high", "auprc") if method == ISOTONIC else ()  # stays of one level tie
    told = (*ranks, *calibration.NAMES, "weighted")

    def of_group(rows: np.ndarray) -> dict[str, Any]:
        score, apart = _evaluate(question, samples, moved, rows, _GROUP_DRAWS), _gaps(question, samples, moved, rows)
        counts = {name: score[name] for name in ("n", "patients", "positives")}
        apart = {name: gap for name, gap in apart.items() if name in told}
        return {**counts, **{name: score[name] for name in calibration.NAMES}, "gaps": apart}

    score = _evaluate(question, samples, moved)
    return {
        **{name: score[name] for name in told},
        **_decision(question, samples, moved),
        "subgroups": _by_attribute(samples, of_group),
    }


def weights_of(samples: Samples) -> np.ndarray | None:
    """What each stay weighs, float64 (n,); None where none was sampled by outcome."""
    return None if (samples.weights == 1).all() else samples.weights
