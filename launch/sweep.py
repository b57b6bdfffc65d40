"""Train the grid of a prepared work directory: packed/ → grid/ → runs/.

  python -m launch.sweep --config=configs/mimic_iv.py --workdir=W --dry_run     what it will cost
  python -m launch.sweep --config=configs/mimic_iv.py --workdir=W               train; finished cells are skipped

Cells that were broken off go on from their last checkpoint.
"""

from absl import flags

from ehr_scaling import study
from ehr_scaling.grid import cells
from launch import common

common.define_config_flags()
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the grid and its cost, and train nothing.")


def main() -> None:
    config, points, workdir = common.read_flags()
    print(cells.table(study.plan(config, points, workdir)))
    if not DRY_RUN.value:
        study.train(config, workdir)


if __name__ == "__main__":
    common.run(main)
