"""Train one cell of a planned grid, and those it is trained together with: grid/ and packed/ → runs/<cell>/.

  python -m launch.train --workdir=W --cell=0123456789abcdef

The ids of the cells are in W/grid/manifest.jsonl.
"""

from pathlib import Path

from absl import flags

from ehr_scaling.errors import UserError
from ehr_scaling.grid import cells, executors, manifest
from ehr_scaling.training import loop
from launch import common

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study.", required=True)
CELL = flags.DEFINE_string("cell", None, "Id of the cell.", required=True)
common.define_process_flags()


def main() -> None:
    workdir = Path(WORKDIR.value).absolute()
    common.join_processes()
    units = cells.units(manifest.read(workdir / "grid"))
    chosen = [unit for unit in units if any(cell["id"] == CELL.value for cell in unit)]
    if not chosen:
        raise UserError(f"--cell={CELL.value} is not in {workdir / 'grid' / manifest.MANIFEST}: take an id from there")
    (done,) = executors.run(loop.job, chosen, workdir, workers=1, title="training", done=loop.finished)
    metrics = next(metrics for metrics in done if metrics["id"] == CELL.value)
    print(f"validation loss {metrics['validation_loss']:.4f} ± {metrics['validation_loss_se']:.4f} nats a token")


if __name__ == "__main__":
    common.run(main)
