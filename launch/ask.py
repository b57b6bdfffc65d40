"""Ask trained models a sheet of questions, codes × horizons, of the same simulated futures → outcomes/<sheet>/.

  python -m launch.ask --workdir=W --questions=sheet.yaml                    every finished model
  python -m launch.ask --workdir=W --questions=sheet.yaml --cell=best        the one of least loss alone
  python -m launch.ask --workdir=W --questions=sheet.yaml --cell=ID,ID --config.outcome.copies=50
  python -m launch.ask --workdir=W --questions=sheet.yaml --distributed      one of several processes, as one

A sheet says who is asked and when, for which codes and within how many days (docs/outcomes.md, "Many questions at
once"). One pool of futures answers all of it. Each question is scored for all stays, for those without the code before
(first occurrences) and for those with it (recurrences).

Written for each model: <cell>.parquet, a probability with its error for each stay and question; <cell>.csv, a row for
each question with its AUROC; <cell>.json, the same sealed, of which the report draws a map. Models that have answered
are skipped; what was interrupted goes on. A model that no machine holds is asked by all processes of --distributed (or
--coordinator) together.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict

from ehr_scaling.errors import UserError

from .common import common

if TYPE_CHECKING:
    from ehr_scaling.grid.cell import Cell

common.define_config_flags()
common.define_process_flags()
QUESTIONS = flags.DEFINE_string("questions", None, "YAML file of the sheet.", required=True)
CELL = flags.DEFINE_list("cell", [], "Ids of models, or best: that of least loss [default: all that are finished].")


def main() -> None:
    config, _, workdir = common.read_flags(goes_on=True)
    print(f"asking models of {workdir}", flush=True)
    common.ask_together(lambda: ask(config, workdir), workdir)


def ask(config: ConfigDict, workdir: Path) -> None:
    """By process 0 of those that ask as one."""
    from ehr_scaling.outcomes.asking.tasks import sheets

    sheet = sheets.load(Path(QUESTIONS.value))
    common.begin(config, workdir)
    # Not above: a mistake in the file is told before JAX is there.
    from ehr_scaling import artifacts, storage
    from ehr_scaling.grid import cost, executors
    from ehr_scaling.layout import Layout
    from ehr_scaling.outcomes import answering
    from ehr_scaling.outcomes.asking import sheet_stays

    there, o = Layout(workdir), config.outcome
    for folder in (there.timelines, there.outcomes):
        storage.fetch(folder)
    storage.fetch(there.events, artifacts.RECORD)
    cells = chosen(workdir)
    sheet_stays.prepare(
        workdir,
        sheet,
        context=config.data.context,
        copies=o.copies,
        new_tokens=o.new_tokens,
        room=o.room,
        max_samples=o.samples,
        seed=config.analysis.seed,
    )
    about = artifacts.read_json(there.task(sheet.name) / sheets.FILE)
    print(about["description"], flush=True)
    units = [[cell] for cell in cells]
    answers = executors.run(
        partial(answering.job, name=sheet.name),
        units,
        workdir,
        workers=cost.workers(config.workers, cells),
        title="simulating futures",
        costs=answering.costs(workdir, sheet.name, units),
        done=partial(answering.finished, name=sheet.name),
    )
    for answer in answers:
        for score in answer or ():
            print(describe(score, about["horizons"]))
    print(f"every question: {there.task(sheet.name)}/<model>.csv")


def chosen(workdir: Path) -> "list[Cell]":
    """The finished models to ask, as --cell names them."""
    from ehr_scaling.outcomes import choosing

    if not CELL.value:
        finished = [cell for _, cell in choosing.finished(workdir)]
        return finished or [choosing.best_cell(workdir, None)]  # which says that none is
    if "best" in CELL.value and len(CELL.value) > 1:
        raise UserError("--cell names best and others: give best, or ids")
    names = [None] if CELL.value == ["best"] else list(dict.fromkeys(CELL.value))
    return [choosing.best_cell(workdir, name) for name in names]


def describe(score: dict[str, Any], horizons: list[float]) -> str:
    """A model's answers on the terminal: for each horizon what its AUROCs are, of all and of first occurrences."""
    from statistics import median

    cut = f"{score['bounded']:.1%} of {score['copies']} futures a stay cut off by new_tokens"
    lines = [f"{score['cell']}: {score['generated_tokens']:,} tokens in {score['seconds']:,.0f} s; {cut}"]
    for days in horizons:
        of_horizon = [row for row in score["scores"] if row["horizon_days"] == days]
        parts = []
        for occurrence, name in (("all", "all"), ("first", "first occurrence"), ("again", "recurrence")):
            areas = [row[occurrence]["auroc"] for row in of_horizon if "auroc" in row[occurrence]]
            spread = f"median AUROC {median(areas):.3f} ({min(areas):.3f} to {max(areas):.3f})" if areas else "none"
            parts.append(f"{name} {spread}, {len(areas)} of {len(of_horizon)} told")
        lines.append(f"  {days:g} days: {'; '.join(parts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main)
