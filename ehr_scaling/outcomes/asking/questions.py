"""The `outcomes/<task>/` artifact: which stays of the held-out patients a task asks about, the same for every model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.tokenization.tokenizer import STATIC
from ehr_scaling.data.vocabulary import YEAR, Vocabulary, family
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.asking import cohort, stays
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import sheets, task_tokens, train_values
from ehr_scaling.outcomes.asking.tasks.tasks import Task, Unanswerable

VERSION = 2  # of who is asked what: raise it with every change to that
SAMPLES = "samples.npz"
LABEL_FILES = "label_files.txt"  # where those of a task lie on this machine: for it alone, so no part of the record
TUNING = "validation"  # split, and folder within a task's, of the stays that a recalibration is fitted to
AGE_BANDS = ((0, "under 18"), (18, "18–44"), (45, "45–64"), (65, "65–79"), (80, "80 and over"))
ATTRIBUTES = {"sex": ("GENDER", "SEX"), "race": ("RACE",)}  # by families of the static context
UNIT = "ICU_TYPE"  # family of the tokens that tell to which intensive care unit somebody came
UNKNOWN, NO_UNIT = "unknown", "none"


class Samples(NamedTuple):
    """What is asked: n stays and their prompts."""

    stays: Stays
    ids: np.ndarray  # uint64 (n,), of the patient and the time: the random stream of a stay, whoever else is asked
    prompts: np.ndarray  # (n, P) of the token dtype, padded on the left
    gaps: np.ndarray  # float32 (n,), see `sampler.simulate.SimulationRequest`
    horizons: np.ndarray  # float32 (n,), see `sampler.simulate.SimulationRequest`
    meanings: (
        np.ndarray
    )  # int (V,): of a "class" task the class of each token, -1 for none; else see `task_tokens.kinds`
    weights: np.ndarray  # float64 (n,), 1 / the share of such stays that was sampled
    sex: np.ndarray  # str (n,), by the static context; unknown: UNKNOWN
    age: np.ndarray  # str (n,), one of AGE_BANDS
    race: np.ndarray  # str (n,)
    unit: np.ndarray  # str (n,), the last intensive care unit before the prediction, NO_UNIT where there was none


def prepare(
    workdir: Path,
    task: Task,
    *,
    context: int,
    copies: int,
    new_tokens: int,
    room: int = 0,
    max_samples: int | None,
    positive_share: float | None = None,
    method: str = "scope",
    split: str = "test",
    train_samples: int | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Fix which stays are asked about and how, in `outcomes/<task>/`: the same for every model.

    Those of TUNING go into a folder of that name in it, once those of the test split are there.

    Args:
      context: T of the models to be asked; a prompt has T − room tokens, static context included.
      copies: simulated futures of each stay; new_tokens: of the longest future.
      room: positions for the future, and how many of the oldest tokens make way when they are full; 0: new_tokens, but
        half of the context at most.
      max_samples, positive_share, seed: see `stays.draw`.
      method: "scope", "monte_carlo", "reach" or "exact", see `estimators`.
      train_samples: most stays of the train split that the baselines are fitted on; none: all.
      draws: bootstrap draws.
    Returns: the record, see `artifacts.build`; its summary has stays, positives, and both of all that could be asked.
    Raises: UserError as `cohort.stays` and `stays.prompts` do, for senseless options, for labels that say nothing or
      nothing of the train split, and when the task was prepared from other timelines or with other options;
      Unanswerable as `cohort.checked` does, and where a sample holds stays of one outcome only.
    """
    if given := [name for name in ("requires", "gap") if getattr(task, name)]:
        raise UserError(f"task {task.name}: {given[0]} is answered by launch.predict, not here")
    for flag, value, least in (
        ("copies", copies, 1),
        ("new_tokens", new_tokens, 1),
        ("samples", max_samples, 2),
        ("train_samples", train_samples, 4),
    ):
        if value is not None and value < least:
            raise UserError(f"--config.outcome.{flag}={value}: take {least} or more")
    if positive_share is not None and not 0 < positive_share < 1:
        raise UserError(f"--config.outcome.positive_share={positive_share}: take a number between 0 and 1, or none")
    if not 0 <= room < context:
        raise UserError(f"--config.outcome.room={room}: take a number from 1 to {context - 1}, or 0")
    if method not in ("scope", "monte_carlo", "reach", "exact"):
        raise UserError(f"--config.outcome.method={method}: take scope, monte_carlo, reach or exact")
    source = artifacts.record(Layout(workdir).timelines)
    inputs = {
        "timelines": source["fingerprint"],
        # Fields that are younger than studies are told where they are given, so that those stay what they are
        "task": {k: v for k, v in asdict(task).items() if v or k not in ("values", "requires", "gap")}
        | told_of_labels(task),
        "split": split,
        "context": context,
        "copies": copies,
        "new_tokens": new_tokens,
        "room": min(new_tokens, room or max(1, context // 2)),
        "max_samples": max_samples,
        "positive_share": positive_share,
        "method": method,
        "train_samples": train_samples,
        "draws": draws,
        "seed": seed,
    }

    def make(folder: Path) -> dict[str, Any]:
        group = cohort.find(workdir, split, [task])
        every = cohort.checked(group, workdir, split, task)
        if every.labels.dtype != cohort.LABELS[task.kind]:
            raise UserError(
                f"the labels of the task {task.name} have no boolean_value, so nothing can be scored: add it, or "
                "predict without (launch.predict)"
            )
        if task.labels:  # else the stays of the train split are found as these are
            cohort.find(workdir, "train", [task])
        rows = stays.draw(every.labels, max_samples, positive_share, seed)
        _check_both_kinds(task, split, every.labels[rows])
        vocabulary = timelines.vocabulary(workdir)
        samples = _samples(workdir, split, task, vocabulary, every, rows, context - inputs["room"])
        fields = samples._asdict() | samples.stays._asdict()
        np.savez(folder / SAMPLES, **{name: value for name, value in fields.items() if name != "stays"})
        facts: dict[str, Any] = {"stays": len(rows), "available_stays": len(every.labels)}
        if every.labels.dtype == bool:
            facts |= {"positives": int(samples.stays.labels.sum()), "available_positives": int(every.labels.sum())}
        facts |= {"left_out": group.left_out[0], "vocabulary": len(vocabulary.tokens)}
        width = context - inputs["room"] - vocabulary.context_tokens
        facts["shortened"] = int((samples.stays.known > width).sum())
        about = {
            "task": task.name,
            "kind": task.kind,
            "description": _describe(task, split, positive_share, facts, width, inspection.of_generated(workdir)),
        }
        artifacts.write_sealed(folder / "task.json", {**about, **facts, "inputs": inputs})
        return facts

    folder = Layout(workdir).task(task.name)
    folder = folder / TUNING if split == TUNING else folder
    if folder.exists() and not (folder / artifacts.RECORD).exists() and not storage.in_bucket(folder):
        raise UserError(f"{folder} is not complete: delete it and run again")
    record = artifacts.build(folder, inputs, make, version=VERSION)
    if task.labels:
        _keep_label_files(folder, task)
    return record


def _check_both_kinds(task: Task, split: str, drawn: np.ndarray) -> None:
    """Raises Unanswerable where a sample has one outcome only, which nothing can be scored by."""
    if drawn.dtype != bool or 0 < drawn.sum() < len(drawn):
        return
    raise Unanswerable(
        f"the sample of stays of the {split} split for {task.name} has {'all' if drawn.all() else 'none'} with the "
        "outcome: both kinds are needed, take more samples (--config.outcome.samples), or set how many of them have it "
        "(--config.outcome.positive_share=0.5)"
    )


def _keep_label_files(folder: Path, task: Task) -> None:
    """Beside the record, which says what the labels are and not where: heads read those of other splits too."""
    path, there = folder / LABEL_FILES, str(Path(task.labels).absolute())
    if not path.is_file() or path.read_text(encoding="utf-8").strip() != there:
        artifacts.write_text(path, there + "\n")
    storage.store(path)


def told_of_labels(task: Task) -> dict[str, str]:
    """What the record says of label files: their name and contents, not where on somebody's machine they lie."""
    if not task.labels:
        return {}
    path = Path(task.labels)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    return {"labels": f"{path.name} {artifacts.fingerprint_files(files, path)}"}


def _samples(
    workdir: Path, split: str, task: Task, vocabulary: Vocabulary, every: Stays, rows: np.ndarray, width: int
) -> Samples:
    sampled = every.take(rows)
    binary = every.labels.dtype == bool
    shares = {kind: (sampled.labels == kind).sum() / (every.labels == kind).sum() for kind in (True, False) if binary}
    weights = np.ones(len(rows))
    for kind, share in shares.items():
        weights[sampled.labels == kind] = 1 / share
    if task.kind == "class":
        classes = task_tokens.classes(vocabulary, task)
        meanings = np.full(len(vocabulary.tokens), -1)
        meanings[classes] = np.arange(len(classes))
    else:
        known = train_values.of_scales(workdir, vocabulary, task_tokens.scales(vocabulary, task.values))
        meanings = task_tokens.kinds(vocabulary, task, known)
    return Samples(
        sampled,
        random_stream(sampled),
        stays.prompts(workdir, split, sampled, width),
        task_tokens.gaps(workdir, split, sampled, task),
        task_tokens.horizons([task], sampled)[:, 0],
        meanings,
        weights / weights.min(),
        **_attributes(workdir, split, vocabulary, sampled),
    )


def random_stream(sampled: Stays) -> np.ndarray:
    """A number for each subject and time, so that a prediction does not depend on who else is asked: uint64 (n,)."""
    with np.errstate(over="ignore"):  # modulo 2^64
        return sampled.subject_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + sampled.times.astype(np.uint64)


def _attributes(workdir: Path, split: str, vocabulary: Vocabulary, sampled: Stays) -> dict[str, np.ndarray]:
    """Sex, age band, race and unit of each stay at the prediction, as the records know them then: str (n,)."""
    out = {name: np.full(len(sampled.times), UNKNOWN, dtype="<U80") for name in ("sex", "age", "race", "unit")}
    units = np.array([family(token) == UNIT and "//" in token for token in vocabulary.tokens])
    of_unit = np.array([token.partition("//")[2].lower().replace("_", " ") for token in vocabulary.tokens])
    starts = [start for start, _ in AGE_BANDS]
    names = np.array([name for _, name in AGE_BANDS])
    for part, rows, owners in stays.by_part(workdir, split, sampled):
        births = part.births[owners]
        known = births != STATIC
        years = (sampled.times[rows] - np.where(known, births, 0)) / YEAR
        band = np.clip(np.searchsorted(starts, years, side="right") - 1, 0, None)
        out["age"][rows] = np.where(known, names[band], UNKNOWN)
        tokens = np.asarray(part.tokens)
        last = np.maximum.accumulate(np.where(units[tokens], np.arange(len(tokens)), -1))
        begins, some = part.offsets[owners], sampled.known[rows]
        at = last[begins + np.maximum(some, 1) - 1]
        out["unit"][rows] = np.where((some > 0) & (at >= begins), of_unit[tokens[at]], NO_UNIT)
        contexts = static_context.contexts(vocabulary, part, owners, sampled.times[rows])
        for row, context in zip(rows, contexts, strict=True):
            for token in (vocabulary.tokens[i] for i in context):
                for name, families in ATTRIBUTES.items():
                    if family(token) in families and "//" in token:
                        out[name][row] = token.partition("//")[2].lower()
    return out


def _describe(
    task: Task, split: str, positive_share: float | None, facts: dict[str, Any], width: int, generated: bool
) -> str:
    """Args: width, tokens of the timeline that a prompt has room for."""

    def in_words(n: int) -> str:
        return disclosure.words(n, generated)

    n = facts["available_stays"]
    text = f"{task.description} {in_words(n)} stays of the {split} split can be asked"
    if "positives" in facts:
        some = facts["available_positives"]
        share = f"{some / n:.1%}" if generated or min(some, n - some) >= disclosure.FEWEST else in_words(some)
        text += f", {share} with the outcome"
    if facts["stays"] == n:
        text += "; all are."
    else:
        text += f"; a seeded sample of {in_words(facts['stays'])} is"
        if "positives" in facts:
            text += f", {in_words(facts['positives'])} of them with the outcome"
        text += "."
    if cut := facts["shortened"]:
        text += f" Of {in_words(cut)} a model reads the last {width:,} tokens of a longer record; baselines read all."
    if positive_share is not None and "positives" in facts:
        text += (
            " It was drawn by outcome: the AUROC does not depend on that; the area under the precision-recall curve "
            "and calibration are weighted back to the cohort."
        )
    return text


def load(folder: Path) -> Samples:
    """The samples of a prepared task. Raises UserError where they are missing or damaged."""
    path = folder / SAMPLES
    if (folder / artifacts.RECORD).is_file():
        artifacts.verify(folder, [SAMPLES])
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in Samples._fields if name != "stays"}
            return Samples(Stays(*(file[name] for name in Stays._fields)), **arrays)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run launch.evaluate to prepare the task") from None
    except KeyError:
        raise UserError(
            f"{path} was made by an earlier version: take another --workdir, or delete {folder} and run launch.evaluate"
        ) from None
    except Exception as e:  # zip, zlib and numpy errors share no base class
        raise UserError(f"{path} is damaged ({type(e).__name__}): delete {folder} and run again") from None


def prepared(workdir: Path) -> list[Path]:
    """Folders of the prepared tasks, by name. Raises UserError when there is none."""
    folders = sorted(path.parent for path in Layout(workdir).outcomes.glob(f"*/{artifacts.RECORD}"))
    folders = [folder for folder in folders if not folder.name.startswith(".") and not (folder / sheets.FILE).exists()]
    if not folders:
        raise UserError(f"{Layout(workdir).outcomes} holds no prepared task: run launch.evaluate")
    return folders


def task_of(record: dict[str, Any]) -> Task:
    """The task that a prepared folder's record is about."""
    given = record["inputs"]["task"]
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Task(**fields)
