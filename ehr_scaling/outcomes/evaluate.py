"""The `outcomes/<task>/` artifact: questions asked of held-out patients, and what each model of a grid answers."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling import artifacts
from ehr_scaling.data import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import baselines, estimators, metrics, simulate, tasks
from ehr_scaling.training.run import folder_of
from ehr_scaling.training.setup import restored_params

Cell = dict[str, Any]
SAMPLES, BASELINE = "samples.npz", "baseline.json"
VERSION = 1  # of how scores are made from samples: raise it, and every model is scored again
METHOD = (
    "zero-shot: SCOPE estimate of P(outcome) / (P(outcome) + P(its opposite)) over simulated futures "
    "(arXiv 2602.03730); interval: percentile bootstrap of patients"
)
# The prediction schema of MEDS: exactly these columns. meds-evaluation 0.0.6 refuses any other, and lacks none.
PREDICTIONS = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("boolean_value", pa.bool_()),
        pa.field("predicted_boolean_value", pa.bool_()),
        pa.field("predicted_boolean_probability", pa.float32()),
    ]
)


class Samples(NamedTuple):
    """What is asked: n stays and their prompts."""

    stays: tasks.Stays
    prompts: np.ndarray  # (n, P) of the token dtype, padded on the left
    stops: simulate.Stops
    first: np.ndarray  # bool (V,), ids among which the first simulated token is drawn


def prepare(
    workdir: Path,
    task: tasks.Task,
    *,
    context: int,
    copies: int,
    new_tokens: int,
    max_samples: int | None,
    positive_share: float | None = None,
    split: str = "test",
    train_samples: int = 8_000,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Fix which stays are asked about and how, in `outcomes/<task>/`: the same for every model.

    Args:
      context: T of the models to be asked; a prompt has T − new_tokens tokens, static context included.
      copies: simulated futures of each stay; new_tokens: the longest future.
      max_samples, positive_share, seed: see `tasks.subsample`.
      train_samples: most stays of the train split that the baseline is fitted on.
      draws: bootstrap draws.
    Returns: the record, see `artifacts.build`; its summary has stays, positives, and both of all that could be asked.
    Raises: UserError as `tasks.stays` and `tasks.prompts` do, for senseless options, and when the task was prepared
      from other timelines or with other options.
    """
    for flag, value, least in (("copies", copies, 1), ("new_tokens", new_tokens, 1), ("samples", max_samples, 2)):
        if value is not None and value < least:
            raise UserError(f"--config.outcome.{flag}={value}: take {least} or more")
    if positive_share is not None and not 0 < positive_share < 1:
        raise UserError(f"--config.outcome.positive_share={positive_share}: take a number between 0 and 1, or none")
    source = artifacts.read_json(workdir / "timelines" / artifacts.RECORD)
    inputs = {
        "timelines": source["fingerprint"],
        "task": asdict(task),
        "split": split,
        "context": context,
        "copies": copies,
        "new_tokens": new_tokens,
        "max_samples": max_samples,
        "positive_share": positive_share,
        "train_samples": train_samples,
        "draws": draws,
        "seed": seed,
    }

    def make(folder: Path) -> dict[str, Any]:
        every = tasks.stays(workdir, split, task)
        asked = tasks.subsample(every, max_samples, positive_share, seed)
        vocabulary = timelines.vocabulary(workdir)
        stops = tasks.stops(vocabulary, task)
        prompts = tasks.prompts(workdir, split, asked, context - new_tokens)
        kinds = {f"{name}_ids": which for name, which in stops._asdict().items()}
        first = tasks.first_ids(vocabulary, task)
        np.savez(folder / SAMPLES, **asked._asdict(), prompts=prompts, first_ids=first, **kinds)
        facts = {
            "stays": len(asked.labels),
            "positives": int(asked.labels.sum()),
            "available_stays": len(every.labels),
            "available_positives": int(every.labels.sum()),
            "vocabulary": len(vocabulary.tokens),
        }
        about = {"task": task.name, "description": _describe(task, split, positive_share, facts), **facts}
        artifacts.write_json(folder / "task.json", {**about, "inputs": inputs})
        return facts

    return artifacts.build(workdir / "outcomes" / task.name, inputs, make)


def _describe(task: tasks.Task, split: str, positive_share: float | None, facts: dict[str, Any]) -> str:
    n, positives = facts["available_stays"], facts["available_positives"]
    text = f"{task.description} {n:,} stays of the {split} split can be asked, {positives / n:.1%} with the outcome"
    if facts["stays"] == n:
        return f"{text}; all are."
    text += f"; a seeded sample of {facts['stays']:,} is, {facts['positives']:,} of them with the outcome."
    if positive_share is not None:
        text += (
            " It was drawn by outcome: the AUROC does not depend on that, but probabilities are not calibrated to it."
        )
    return text


def load(folder: Path) -> Samples:
    """The samples of a prepared task. Raises UserError where they are missing or damaged."""
    path = folder / SAMPLES
    try:
        with np.load(path, allow_pickle=False) as file:
            return Samples(
                tasks.Stays(*(file[name] for name in tasks.Stays._fields)),
                file["prompts"],
                simulate.Stops(*(file[f"{name}_ids"] for name in simulate.Stops._fields)),
                file["first_ids"],
            )
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run launch.evaluate to prepare the task") from None
    except Exception as e:  # zip, zlib and numpy errors share no base class
        raise UserError(f"{path} is damaged ({type(e).__name__}): delete {folder} and run again") from None


def prepared(workdir: Path) -> list[Path]:
    """Folders of the prepared tasks, by name. Raises UserError when there is none."""
    folders = sorted(path.parent for path in (workdir / "outcomes").glob(f"*/{artifacts.RECORD}"))
    folders = [folder for folder in folders if not folder.name.startswith(".")]
    if not folders:
        raise UserError(f"{workdir / 'outcomes'} holds no prepared task: run launch.evaluate")
    return folders


def cells(workdir: Path, grid: list[Cell]) -> list[Cell]:
    """The cells of a grid whose own tokens and FLOPs are those of scoring, for the progress bar."""
    tokens = 0
    for folder in prepared(workdir):
        record = artifacts.read_json(folder / artifacts.RECORD)
        tokens += record["summary"]["stays"] * record["inputs"]["copies"] * record["inputs"]["new_tokens"]
    return [{**c, "own_tokens": tokens, "own_flops": 2.0 * (c["N_body"] + c["N_head"]) * tokens} for c in grid]


def job(unit: list[Cell], workdir: Path, report: Callable[[int], None]) -> list[dict[str, dict[str, Any]]]:
    """Score finished cells on every prepared task of the study in `workdir`; for `grid.executors.run`.

    Writes `outcomes/<task>/<cell>.parquet`, predictions in the MEDS schema, and `<cell>.json`, its score; a score
    that is there, from the same samples, is not made again.

    Returns: of each cell, the score of each task, as in its JSON.
    Raises: UserError when a cell is not finished, or was trained on other timelines or a shorter context.
    """
    return [_score_cell(cell, workdir, report) for cell in unit]


def _score_cell(cell: Cell, workdir: Path, report: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    scores, trained = {}, None
    for folder in prepared(workdir):
        record = artifacts.read_json(folder / artifacts.RECORD)
        inputs = {"samples": record["fingerprint"], "cell": cell["id"], "version": VERSION}
        path = folder / f"{cell['id']}.json"
        if path.exists() and path.with_suffix(".parquet").exists():
            score = artifacts.read_json(path)
            if score.get("fingerprint") == artifacts.fingerprint(inputs):
                scores[folder.name] = score
                continue
        _check(cell, workdir, record, folder)
        if trained is None:
            trained = restored_params(cell, folder_of(workdir, cell))
        score = _score(cell, *trained, folder, record["inputs"], report)
        scores[folder.name] = {**score, "fingerprint": artifacts.fingerprint(inputs)}
        artifacts.write_json(path, scores[folder.name])
    return scores


def _check(cell: Cell, workdir: Path, record: dict[str, Any], folder: Path) -> None:
    """A model reads token ids: they must mean what they meant when it was trained."""
    asked = record["inputs"]
    packed = workdir / "packed" / f"t{cell['context']}" / artifacts.RECORD
    # Copied runs may come without their packed data; then the size of the vocabulary must do.
    source = artifacts.read_json(packed)["inputs"].get("timelines") if packed.exists() else asked["timelines"]
    if cell["vocab"] != record["summary"]["vocabulary"] or source != asked["timelines"]:
        raise UserError(
            f"cell {cell['id']} was trained on other timelines than {folder} was made from: take the --workdir it was "
            f"trained in, or delete {folder} and run again"
        )
    if asked["context"] > cell["context"]:
        raise UserError(
            f"{folder} asks for {asked['context']} tokens of prompt and future, and cell {cell['id']} was trained on "
            f"{cell['context']}: delete {folder} and prepare it for that context"
        )


def _score(
    cell: Cell, model: Transformer, params: Any, folder: Path, options: dict[str, Any], report: Callable[[int], None]
) -> dict[str, Any]:
    samples, started = load(folder), time.monotonic()
    futures = simulate.simulate(
        model,
        params,
        samples.prompts,
        samples.stops,
        copies=options["copies"],
        new_tokens=options["new_tokens"],
        context=cell["context"],
        seed=options["seed"],
        first=samples.first,
        report=report,
    )
    probability = estimators.scope(futures)
    write_predictions(folder / f"{cell['id']}.parquet", samples.stays, probability)
    stays, seeds = samples.stays, {"draws": options["draws"], "seed": options["seed"]}
    counted = estimators.monte_carlo(futures)
    known = ~np.isnan(counted)
    both = 0 < stays.labels[known].sum() < known.sum()
    return {
        "cell": cell["id"],
        "task": folder.name,
        **metrics.evaluate(stays.labels, probability, stays.patients, **seeds),
        "copies": options["copies"],
        "undetermined": estimators.undetermined(futures),
        "generated_tokens": int(futures.lengths.sum()),
        "method": METHOD,
        # By counting copies instead: over the stays of which a copy came to an end.
        "monte_carlo_auroc": float(metrics.auroc(stays.labels[known], counted[known])) if both else None,
        "monte_carlo_stays": int(known.sum()),
        "seconds": time.monotonic() - started,
    }


def baseline(workdir: Path, task: tasks.Task) -> dict[str, Any]:
    """Fit the logistic regression on train stays, score it on the task's samples, and write `baseline.json`.

    Its predictions are beside it, `baseline.parquet`. Both are kept when they are there from the same samples.
    Returns: name, auroc, low, high, n, positives and more, as in the JSON.
    """
    folder = workdir / "outcomes" / task.name
    record = artifacts.read_json(folder / artifacts.RECORD)
    inputs = {"samples": record["fingerprint"], "version": VERSION}
    path, fingerprint = folder / BASELINE, artifacts.fingerprint(inputs)
    if path.exists() and (score := artifacts.read_json(path)).get("fingerprint") == fingerprint:
        return score
    options, samples = record["inputs"], load(folder)
    train = tasks.subsample(tasks.stays(workdir, "train", task), options["train_samples"], None, options["seed"])
    x = baselines.features(workdir, "train", train)
    fitted = baselines.fit(x, train.labels, train.patients, options["seed"])
    probability = fitted.model.predict_proba(baselines.features(workdir, options["split"], samples.stays))[:, 1]
    write_predictions(folder / "baseline.parquet", samples.stays, probability)
    score = {
        "name": "logistic regression",
        "task": task.name,
        **metrics.evaluate(
            samples.stays.labels, probability, samples.stays.patients, draws=options["draws"], seed=options["seed"]
        ),
        "features": baselines.FEATURES,
        "train_stays": len(train.labels),
        "train_positives": int(train.labels.sum()),
        "strength": fitted.strength,
        "fingerprint": fingerprint,
    }
    artifacts.write_json(path, score)
    return score


def write_predictions(path: Path, stays: tasks.Stays, probability: np.ndarray) -> None:
    """Predictions in the MEDS schema; `predicted_boolean_value` is a probability of one half or more."""
    columns = [
        pa.array(stays.subject_ids, pa.int64()),
        pa.array(stays.times, pa.int64()).cast(pa.timestamp("us")),
        pa.array(stays.labels, pa.bool_()),
        pa.array(probability >= 0.5, pa.bool_()),
        pa.array(probability.astype(np.float32), pa.float32()),
    ]
    with artifacts.writing(path) as partial:
        pq.write_table(pa.Table.from_arrays(columns, schema=PREDICTIONS), partial)
