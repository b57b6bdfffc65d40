"""A study: the stages in order. Each reads the artifact before it, and skips what is already there.

What takes a second to import, scoring and the report, is imported when its stage comes: mistakes are told before.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import artifacts, provenance, settings, storage
from ehr_scaling.analysis.options import Options, silent
from ehr_scaling.data import pipeline
from ehr_scaling.errors import RunFailed, UserError
from ehr_scaling.finished_models import warm_start
from ehr_scaling.grid import cost, executors, manifest
from ehr_scaling.grid.cell import Cell, units
from ehr_scaling.layout import FAILED, RESULTS, Layout
from ehr_scaling.outcomes.asking import prepared, questions
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.training import checkpoint, loop

Points = list[dict[str, Any]]
Say = Callable[[str], None]


def prepare(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Raw records → events/ → timelines/ → packed/t<T>/. Returns the record of the packed data."""
    with settings.kept(config, workdir):
        return pipeline.prepare(config.data, workdir, workers=config.workers, fractions=tuple(config.grid.fractions))


def plan(config: ConfigDict, points: Points, workdir: Path) -> list[Cell]:
    """packed/ → grid/, and what the models start from, if not afresh, → initial/. Returns the cells."""
    fractions = sorted({float(point.get("fraction", 1.0)) for point in points})
    packed = {fraction: pipeline.packed_record(config.data, workdir, fraction) for fraction in fractions}
    if not all(record["summary"]["splits"]["validation"]["patients"] for record in packed.values()):
        raise UserError("no patient is in the validation split, which every run is measured on: --config.data.splits")
    there = Layout(workdir)
    events = artifacts.record(there.events)["summary"]
    about = {"data": events["name"], "generated": events.get("generated", False)}
    with settings.kept(config, workdir):
        initial = warm_start.take(config, dict.fromkeys(point["size"] for point in points), workdir)
        manifest.build(config, points, packed, about, there.grid, initial)
    return manifest.read(there.grid)


def _fetch_results(workdir: Path) -> None:
    """Bring what is known of the runs of a work directory in a bucket: losses, and which have failed."""
    runs = Layout(workdir).runs
    storage.fetch(runs, RESULTS)
    storage.fetch(runs, f"*/{FAILED}", gone=True)


def train(config: ConfigDict, workdir: Path, *, retry_failed: bool = False) -> list[dict[str, Any]]:
    """grid/ and packed/ → runs/. Returns the metrics of every run that did not fail. retry_failed: try those again."""
    there = Layout(workdir)
    _fetch_results(workdir)
    planned = manifest.read(there.grid)
    if retry_failed:
        loop.retry(planned, workdir)

    def finished() -> list[dict[str, Any]]:
        done = []
        for cell in planned:
            with contextlib.suppress(RunFailed):  # damaged, which has been told
                done.append(checkpoint.result(there.run(cell.id), cell.steps))
        return [metrics for metrics in done if metrics is not None]

    try:
        executors.run(
            loop.job,
            units(planned),
            workdir,
            workers=cost.workers(config.workers, planned),
            title="training",
            done=loop.finished,
            before=loop.verify,
        )
    except RunFailed as e:  # of each unit something did: what was trained beside it is there
        if not finished():
            raise
        print(f"warning: left out: {e}", file=sys.stderr, flush=True)
    return finished()


def asked_tasks(config: ConfigDict) -> list[tasks.Task]:
    """The tasks of `config.outcome.tasks`, of the package or of the user's own file."""
    o = config.outcome
    known = tasks.load() | (tasks.load(Path(o.file)) if o.file else {})
    if unknown := [name for name in o.tasks if name not in known]:
        raise UserError(f"--config.outcome.tasks: {unknown[0]} is none: take some of {', '.join(known)}")
    return [known[name] for name in o.tasks]


def to_score(workdir: Path) -> list[Cell]:
    """The cells of a grid but for trunks, and for those that diverged, or branch off from a trunk that did."""
    there = Layout(workdir)
    _fetch_results(workdir)
    planned = manifest.read(there.grid)
    failed = {name for unit in units(planned) for name in loop.failed(unit, workdir)}

    def has_come_to_its_end(cell: Cell) -> bool:
        return cell.id not in failed or checkpoint.result(there.run(cell.id), cell.steps) is not None

    return [cell for cell in planned if cell.phase == "cooled" and has_come_to_its_end(cell)]


def ask(config: ConfigDict, workdir: Path, say: Say = silent) -> tuple[str, bool]:
    """timelines/ → what models are asked, and the baselines' answers, in outcomes/. Returns lines that say what is
    asked, or why nothing is; and whether anything is. say: is told each step as it begins.

    Records without admissions or deaths can still have a loss and its laws, so that a task which they cannot answer
    ends this stage and not the study.
    """
    from ehr_scaling.outcomes import evaluate

    o, lines, any_asked, there = config.outcome, [], False, Layout(workdir)
    for folder in (there.timelines, there.outcomes):
        storage.fetch(folder)
    method = settings.recalibration(o.recalibrate)
    for task in asked_tasks(config):
        recalibrated = method != prepared.NONE and task.kind == "binary"
        try:
            say(f"{task.name}: looking for stays to ask about")
            for split in ("test", questions.TUNING) if recalibrated else ("test",):
                questions.prepare(
                    workdir,
                    task,
                    context=config.data.context,
                    copies=o.copies,
                    new_tokens=o.new_tokens,
                    room=o.room,
                    max_samples=o.samples,
                    positive_share=o.positive_share,
                    method=o.method,
                    split=split,
                    train_samples=o.train_samples,
                    draws=config.analysis.draws,
                    seed=config.analysis.seed,
                )
            if task.kind == "binary":  # also none: the stays of an earlier one lie there still
                prepared.recalibrate_by(method, there.task(task.name))
            say(f"{task.name}: fitting baselines")
            evaluate.baseline(workdir, task)
        except tasks.Unanswerable as e:
            lines.append(f"no outcome is scored: {e}")
            print(lines[-1])
            continue
        any_asked = True
        lines.append(artifacts.read_json(there.task(task.name) / "task.json")["description"])
    say("")
    return "\n".join(lines), any_asked


def score(config: ConfigDict, workdir: Path, say: Say = silent) -> str:
    """timelines/ and runs/ → outcomes/. Returns the lines of `ask`. say: is told each step of that, as it begins."""
    from ehr_scaling.outcomes import evaluate

    lines, any_asked = ask(config, workdir, say)
    if any_asked:
        cells = to_score(workdir)
        each = [[cell] for cell in cells]
        executors.run(
            evaluate.job,
            each,
            workdir,
            workers=cost.workers(config.workers, cells),
            title="simulating futures",
            costs=evaluate.costs(workdir, each),
            help=evaluate.help_out,
        )
    return lines


def write_report(config: ConfigDict, workdir: Path, question: str, say: Say = silent) -> dict[str, Any]:
    """runs/, outcomes/ and audit/ → report/. Returns laws.json as a dict. say: is told each step as it begins."""
    from ehr_scaling.analysis.report import report

    there = Layout(workdir)
    _fetch_results(workdir)
    storage.fetch(there.outcomes)
    storage.fetch(there.audit)
    records = {
        name: artifacts.record(folder)
        for name, folder in (
            ("events", there.events),
            ("timelines", there.timelines),
            ("packed", pipeline.packed_folder(config.data, workdir)),
            ("grid", there.grid),
        )
    }
    events, grid = records["events"]["summary"], records["grid"]["summary"]
    told = settings.reportable(config)
    changed = {
        name: f"{settings.shown(now)} (not {settings.shown(there)})"
        for name, (there, now) in settings.changes(told).items()
    }
    facts = {
        "data": {
            "name": events["name"],
            "licence": events["license"],
            "events": events["events"],
            **events["patients"],
        },
        "outcome": {"question": question},
        "grid": {"cells": grid["cells"], "infeasible": "; ".join(grid["infeasible"]) or "none"},
        "fingerprints": {name: record["fingerprint"] for name, record in records.items()},
        "versions": provenance.versions(("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")),
        "machine": provenance.machine(),
        f"settings that differ from {settings.BASE}": changed or {"none": ""},
        **{f"config.{name}": value for name, value in told.items() if isinstance(value, dict)},
    }
    laws = report.analyze(
        there.runs,
        there.report,
        provenance=facts,
        outcomes=there.outcomes if there.outcomes.exists() else None,
        audited=there.audit if there.audit.exists() else None,
        options=Options(draws=config.analysis.draws, seed=config.analysis.seed),
        say=say,
    )
    storage.store(there.report)
    return laws


def run(
    config: ConfigDict, points: Points, workdir: Path, say: Say = silent, *, retry_failed: bool = False
) -> dict[str, Any]:
    """All stages. Returns laws.json as a dict. say: is told each step after training as it begins. retry_failed: as in
    `train`."""
    prepare(config, workdir)
    planned = plan(config, points, workdir)
    print(cost.table(planned, workdir=workdir, workers=cost.workers(config.workers, planned)))
    train(config, workdir, retry_failed=retry_failed)
    return write_report(config, workdir, score(config, workdir, say), say)
