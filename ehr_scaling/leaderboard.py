"""A public benchmark over several published splits: a study on each, and a table beside the figures of others.

Each split is a work directory of its own, trained on its own training patients: nothing of one reaches another.
"""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ml_collections import ConfigDict

from ehr_scaling import __version__, artifacts, study
from ehr_scaling.configs import p12
from ehr_scaling.data import parquet
from ehr_scaling.data.events.events import DEATH
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import evaluate, probabilities
from ehr_scaling.outcomes.judging.metrics import metrics, paired
from ehr_scaling.outcomes.judging.metrics.paired import Answers
from ehr_scaling.outcomes.supervised import heads, records, supervise
from ehr_scaling.outcomes.supervised.finetune import Recipe
from ehr_scaling.training import checkpoint

LABELS, TASKS = "labels.parquet", "tasks.yaml"
TREES = "gradient-boosted trees"
ZERO_SHOT, HEADS = "zero-shot", {"linear probe": heads.PROBE, "fine-tuned": heads.FINETUNE}
OF_SEEDS = ", mean of the seeds' risks"


class Benchmark(NamedTuple):
    """What is asked on which data, and what others have reached."""

    splits: tuple[str, ...]  # columns of the split file
    config: Callable[[], ConfigDict]
    sweep: Callable[[ConfigDict], list[Any]]
    task: str  # YAML
    anchor: str  # code, or the first part of codes, from which the time of the prediction is counted
    hours: float
    published: tuple[tuple[str, float, float], ...]  # system, AUROC, AUPRC: percent
    source: str  # of these figures
    recipe: Recipe = Recipe()  # of fine-tuning


P12 = Benchmark(
    splits=tuple(f"split{i}" for i in range(1, 6)),
    config=p12.get_config,
    sweep=p12.sweep,
    task=f"""\
p12_death:
  description: >-
    Death in hospital of every stay, predicted at the end of the 48 hours that the records hold. As the literature asks
    it, also of stays that end then, of which the end is not in the prompt, and of those whose length is not recorded. A
    model is told that the records hold nothing for 24 hours more.
  labels: {LABELS}
  positive: [MEDS_DEATH]
  negative: [HOSPITAL_DISCHARGE]
  silence: 24
""",
    anchor="ICU_ADMISSION",
    hours=48.0,
    published=(
        ("GRU-D", 81.9, 46.1),
        ("Raindrop", 82.8, 44.0),
        ("mTAND", 84.2, 48.2),
        ("ViTST", 85.1, 51.1),
        ("Warpformer", 86.5, 54.3),
        ("GraFITi", 86.6, 54.8),
        ("MTM", 88.0, 58.6),
    ),
    source="second-hand, as later papers print them; some re-sample the training patients",
    # The one rate that served best on validation stays (docs/outcomes.md), for one epoch: more would take hours a split
    recipe=Recipe(rates=(3e-4,), epochs=1),
)
BENCHMARKS = {"p12": P12}


class Row(NamedTuple):
    """One system on one split. models: how many seeds its figures are the mean of; seconds: to train and fit it."""

    system: str
    split: str
    models: int
    auroc: float
    auprc: float
    parameters: int | None
    seconds: float | None
    version: str = __version__


def write_labels(benchmark: Benchmark, workdir: Path) -> Path:
    """Who is asked, when, and what came true, of every patient of a work directory's events, in the MEDS label schema.

    A prediction is made a second before `hours` are over, so that what ends a stay at that moment is not known yet.
    Returns: the file. Raises: UserError where no patient has the anchor.
    """
    folder = Layout(workdir).events / "data"
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no events: prepare them first")
    events = pa.concat_tables([pq.read_table(path, columns=["subject_id", "time", "code"]) for path in files])
    code = events["code"]
    anchors = events.filter(pc.or_(pc.equal(code, benchmark.anchor), pc.starts_with(code, f"{benchmark.anchor}//")))
    if not anchors.num_rows:
        raise UserError(f"{folder} holds no {benchmark.anchor}: it is not the data set of this benchmark")
    subjects, times = anchors["subject_id"].to_numpy(), anchors["time"].cast(pa.int64()).to_numpy()
    dead = np.isin(subjects, events.filter(pc.equal(code, DEATH))["subject_id"].to_numpy())
    at = times + int(benchmark.hours * HOUR) - HOUR // 3600
    columns = {
        "subject_id": pa.array(subjects, pa.int64()),
        "prediction_time": pa.array(at, pa.int64()).cast(pa.timestamp("us")),
        "boolean_value": pa.array(dead),
    }
    path = workdir / LABELS
    parquet.write(path, pa.table(columns))
    (workdir / TASKS).write_text(benchmark.task, encoding="utf-8")
    return path


def run(
    benchmark: Benchmark, config: ConfigDict, split: str, split_file: str, workdir: Path, methods: Sequence[str]
) -> list[Row]:
    """A study on one split in `workdir`, which goes on where it was, and the rows of all systems on it.

    Args: config, as of the benchmark; methods, of `heads.METHODS`, which learn from labels.
    """
    config = ConfigDict(config)
    config.data.split_file = f"{split_file}:{split}"
    config.outcome.file = str(workdir / TASKS)
    study.prepare(config, workdir)
    write_labels(benchmark, workdir)
    cells = study.plan(config, benchmark.sweep(config), workdir)
    study.train(config, workdir)
    study.score(config, workdir)
    (task,) = config.outcome.tasks
    if methods:
        plan = supervise.plan(
            workdir, cells=[cell.id for cell in cells], methods=tuple(methods), recipe=benchmark.recipe
        )
        supervise.run(workdir, plan)
    return rows(workdir, task, split, cells)


def rows(workdir: Path, task: str, split: str, cells: Sequence[Cell]) -> list[Row]:
    """What is scored of a task: of each way of asking the mean over the seeds that are scored and the mean of their
    risks, the mean of that and of the trees' risks; and the baselines. Of what is not there, no row.

    Raises: UserError where the models are not all trained, or scores are damaged.
    """
    there = Layout(workdir)
    folder, results = there.task(task), [checkpoint.result(there.run(cell.id), cell.steps) for cell in cells]
    if None in results:
        raise UserError(f"{there.runs}: a model of {split} is not finished: run the same command again")
    trained = float(np.mean([result["wall_seconds"] for result in results if result]))
    size = cells[0].N_body + cells[0].N_head
    ways = {ZERO_SHOT: folder}
    ways |= {name: folder / records.FOLDER / method / "all" for name, method in HEADS.items()}
    scored = (folder / evaluate.BASELINE).is_file()
    trees = probabilities.answers(probabilities.file_of(folder, TREES, "")) if scored else None
    out: list[Row] = []
    for system, where in ways.items():
        files = [file for cell in cells if (file := where / f"{cell.id}.json").is_file()]
        if not (count := len(files)):
            continue
        scores = [artifacts.read_json(file) for file in files]
        seconds = trained + (0 if system == ZERO_SHOT else float(np.mean([score["seconds"] for score in scores])))
        auroc, auprc = np.mean([(score["auroc"], score["auprc"]["value"]) for score in scores], axis=0).tolist()
        out.append(Row(system, split, count, auroc, auprc, size, seconds))
        together = paired.mean([probabilities.answers(file.with_suffix(".parquet")) for file in files])
        if count > 1:
            out.append(Row(system + OF_SEEDS, split, count, *_areas(together), count * size, count * seconds))
        if trees is not None:
            areas = _areas(paired.mean([together, trees]))
            out.append(Row(f"{system}{OF_SEEDS} and of trees", split, count + 1, *areas, None, None))
    if not scored:
        return out
    baseline = artifacts.read_json(folder / evaluate.BASELINE)
    for name, score in {baseline["name"]: baseline, TREES: baseline["others"][TREES]}.items():
        out.append(Row(name, split, 1, score["auroc"], score["auprc"]["value"], None, None))
    return out


def _areas(answers: Answers) -> tuple[float, float]:
    ranked = metrics.ranking(answers.labels, answers.probabilities)
    auroc, auprc = ranked.areas(np.ones(len(answers.labels)))
    return float(auroc), float(auprc)


def write(path: Path, table: Sequence[Row]) -> None:
    """A CSV with a row a system and split; those of other systems and splits that are there stay."""
    kept = {(row.system, row.split): row for row in (*(read(path) if path.is_file() else ()), *table)}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row._fields)
    for _, row in sorted(kept.items()):
        writer.writerow("" if value is None else f"{value:.6g}" if isinstance(value, float) else value for value in row)
    artifacts.write_text(path, out.getvalue())


def read(path: Path) -> list[Row]:
    """Raises: UserError where the file is no such table."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Row(
                    line["system"], line["split"], int(line["models"]), float(line["auroc"]), float(line["auprc"]),
                    int(line["parameters"]) if line["parameters"] else None,
                    float(line["seconds"]) if line["seconds"] else None, line["version"],
                )
                for line in csv.DictReader(file)
            ]  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError) as e:
        raise UserError(f"{path} is no table of a leaderboard ({first_line(e)}): delete it and run again") from None


def table(benchmark: Benchmark, every: Sequence[Row]) -> str:
    """Mean ± standard deviation over the splits, percent, as the literature prints them; figures of others below."""

    def line(*cells: str) -> str:
        return "{:52} {:>6} {:>12} {:>12} {:>11} {:>8}".format(*cells).rstrip()

    def mean_and_deviation(values: Sequence[float]) -> str:
        spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        return f"{100 * np.mean(values):.1f}{spread}"

    lines = [line("", "splits", "AUROC", "AUPRC", "parameters", "seconds")]
    for system in dict.fromkeys(row.system for row in every):
        some = [row for row in every if row.system == system]
        sizes, seconds = (
            {row.parameters for row in some} - {None},
            [row.seconds for row in some if row.seconds is not None],
        )
        areas = (mean_and_deviation([row.auroc for row in some]), mean_and_deviation([row.auprc for row in some]))
        cost = (f"{sizes.pop():,}" if len(sizes) == 1 else "", f"{np.mean(seconds):.0f}" if seconds else "")
        lines.append(line(system, str(len(some)), *areas, *cost))
    lines.append(f"of others ({benchmark.source}):")
    lines += [line(system, "", f"{auroc:.1f}", f"{auprc:.1f}", "", "") for system, auroc, auprc in benchmark.published]
    return "\n".join(lines)
