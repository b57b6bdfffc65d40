"""Train one cell of a planned grid, and those it is trained together with: grid/ and packed/ → runs/<cell>/.

  python -m launch.train --workdir=W --cell=0123456789abcdef
  python -m launch.train --workdir=W --cell=0123456789abcdef --profile      and a trace of a few steps

On a CPU one run uses all cores; a sweep gives each core a run of its own, which is faster for a grid.

The ids of the cells are in W/grid/manifest.jsonl.
"""

from dataclasses import replace
from typing import Any

from absl import flags

from ehr_scaling import storage
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout

from .common import common, log

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study.", required=True)
CELL = flags.DEFINE_string("cell", None, "Id of the cell.", required=True)
PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of a few steps to W/runs/<cell>/profile.")
common.define_process_flags()


def traced(cell: Any) -> Any:
    """A cell whose run writes a trace."""
    return replace(cell, engine=replace(cell.engine, tracking={**cell.engine.tracking, "profile": True}))


def main() -> None:
    workdir = storage.local(WORKDIR.value)
    # May start the program anew: what takes seconds to import comes after it
    common.use_all_cores(f"training cell {CELL.value} of {WORKDIR.value}")
    log.keep(workdir)
    common.join_processes()
    from ehr_scaling.grid import executors, manifest
    from ehr_scaling.grid.cell import units

    grid = Layout(workdir).grid
    chosen = [unit for unit in units(manifest.read(grid)) if any(cell.id == CELL.value for cell in unit)]
    if not chosen:
        raise UserError(f"--cell={CELL.value} is not in {grid / manifest.MANIFEST}: take an id from there")
    from ehr_scaling.training import loop  # takes seconds, and a mistake above needs none

    if PROFILE.value:
        chosen = [[traced(cell) for cell in chosen[0]]]
    (done,) = executors.run(
        loop.job, chosen, workdir, workers=1, title="training", done=loop.finished, before=loop.verify
    )
    metrics = next(metrics for metrics in done or () if metrics["id"] == CELL.value)
    print(f"validation loss {metrics['validation_loss']:.4f} ± {metrics['validation_loss_se']:.4f} nats a token")


if __name__ == "__main__":
    common.run(main)
