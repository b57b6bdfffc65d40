"""Train one cell of a planned grid, as a scheduler's job would: grid/ and packed/ → runs/<cell>/.

  python -m launch.train --workdir=W --cell=0123456789abcdef

The ids of the cells are in W/grid/manifest.jsonl.
"""

from pathlib import Path

from absl import flags

from ehr_scaling.errors import UserError
from ehr_scaling.grid import executors, manifest
from ehr_scaling.training import loop
from launch import common

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study.", required=True)
CELL = flags.DEFINE_string("cell", None, "Id of the cell.", required=True)


def main() -> None:
    workdir = Path(WORKDIR.value).absolute()
    chosen = [cell for cell in manifest.read(workdir / "grid") if cell["id"] == CELL.value]
    if not chosen:
        raise UserError(f"--cell={CELL.value} is not in {workdir / 'grid' / manifest.MANIFEST}: take an id from there")
    (metrics,) = executors.run(loop.job, chosen, workdir, workers=1, title="training")
    print(f"validation loss {metrics['validation_loss']:.4f} ± {metrics['validation_loss_se']:.4f} nats a token")


if __name__ == "__main__":
    common.run(main)
