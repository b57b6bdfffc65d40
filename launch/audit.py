"""What trained models remember of the patients they were trained on: timelines/, packed/ and runs/ → audit/<cell>.json.

  python -m launch.audit --workdir=W                    every finished model of the grid
  python -m launch.audit --workdir=W --cell=ID          one, or several: --cell=ID,ID
  python -m launch.audit --workdir=W --patients=500     fewer patients: quicker, with wider intervals
  python -m launch.audit --workdir=W --distributed      one of several processes, as one

Before a model of real patients leaves the house, its owner must know what leaves with it. Each model is asked about
patients it was trained on, and about held-out ones; what it does as well with these is prediction, and only the
difference is memory:
  continuation  from the static context and --prompt tokens, the likeliest next token again and again: of how many
                patients are the next 8, 16 and 32 tokens given back, exactly or nearly; of all continuations, and of
                those that no other training patient has
  membership    how well the loss of a patient's window tells whether the model was trained on it: AUROC, and the share
                of members found where 1 % of the others are taken for one; alone, and less the loss of another model
                that was not trained on these patients, where the grid has one
  rare          how much likelier a token that at most 20, 50, 100 patients have is where the model was trained on it

A few seconds to a minute a small model on a CPU. What is there already is not made again. A model that no machine holds
is asked by all processes of --distributed (or --coordinator) together. No identifier, date or text
of a patient is written, and of real patients no count under 11. docs/audit.md says how to read the numbers; the report
(launch.analyze --audit=W/audit, launch.study) fits how memory grows with size, repeats and patients.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from ehr_scaling import storage
from ehr_scaling.errors import NO_MEMORY
from ehr_scaling.grid import manifest
from ehr_scaling.layout import Layout

from .common import common, log

if TYPE_CHECKING:
    from ehr_scaling.outcomes.following import StepOfModel

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a study, with trained models.", required=True)
CELL = flags.DEFINE_list("cell", [], "Ids of models in W/grid [default: all that are finished].")
PATIENTS = flags.DEFINE_integer(
    "patients", 2000, "Of each side at most; again as many with rare tokens.", lower_bound=2
)
PROMPT = flags.DEFINE_integer("prompt", 32, "Tokens of a timeline that a continuation starts from.", lower_bound=1)
DRAWS = flags.DEFINE_integer("draws", 1000, "Resamples of patients, for intervals.", lower_bound=20)
SEED = flags.DEFINE_integer("seed", 0, "Of which patients are asked about, and of the resamples.", lower_bound=0)
common.define_process_flags()
OUT = flags.DEFINE_string("out", None, "Another folder for the audits [default: W/audit].")
# What messages of the stages call the flags that have other names here
NAMES = {
    NO_MEMORY: f"{NO_MEMORY}: fewer --patients",
    "another --workdir": "the --workdir it was trained in",
}


def main() -> None:
    print(f"auditing models of {WORKDIR.value}", flush=True)
    workdir = storage.local(WORKDIR.value)
    common.ask_together(lambda: audit_models(workdir), workdir, steps)


def steps() -> "Mapping[str, StepOfModel]":
    """Of processes that ask with process 0."""
    from ehr_scaling.audit import asking

    return asking.STEPS


def audit_models(workdir: Path) -> None:
    """By process 0 of those that ask as one."""
    log.keep(workdir)
    manifest.read(Layout(workdir).grid)  # a folder without models is told before what takes seconds to import
    from ehr_scaling.audit import audit, words
    from ehr_scaling.grid.executors.claims import Cost
    from ehr_scaling.grid.executors.progress import Progress

    out = Path(OUT.value).absolute() if OUT.value else Layout(workdir).audit
    settings = audit.Settings(PATIENTS.value, PROMPT.value, DRAWS.value, SEED.value)
    plans = audit.of_grid(workdir, CELL.value, settings, out)
    costs = [Cost(plan.cost, plan.positions) for plan in plans]
    progress = Progress("auditing", [[plan.cell] for plan in plans], costs)
    audited, records = 0, list[dict[str, Any]]()
    for i, (_, record, was_there) in enumerate(audit.audits(workdir, plans, settings, progress.advance)):
        progress.finish(i)
        audited += not was_there
        records.append(record)
    progress.close()
    print(words.table(records))
    print(f"{audited} audited, {len(records) - audited} there before: {out}")


if __name__ == "__main__":
    common.run(main, NAMES)
