"""Run a whole study: records → events → timelines → packed → grid → runs → outcomes → report.

  python -m launch.study                              generated patients, the quickstart grid
  python -m launch.study --data=challenge-2012        12,000 real ICU stays, downloaded from PhysioNet
  python -m launch.study --data=/path/to/mimic-iv     your copy of MIMIC-IV; a folder of MEDS works too
  python -m launch.study --config=configs/mimic_iv.py --config.data.raw=/path/to/mimic-iv --workdir=/scratch/study

Run the same command again after an interruption: it goes on where it was. --dry_run prepares the data and prints
the grid with its cost, and trains nothing.
"""

import time

from absl import flags

from ehr_scaling.layout import Layout
from ehr_scaling.progress import Steps

from .common import common

common.define_config_flags()
RETRY = flags.DEFINE_bool("retry_failed", False, "Train runs again that diverged; else they are left out.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Prepare the data, print the grid and its cost, and stop.")


def main() -> None:
    started = time.monotonic()
    config, points, workdir = common.read_flags()
    common.begin(config, workdir, makes=True)
    # Not above: the processes that prepare data import this module again, and need no JAX.
    from ehr_scaling import study
    from ehr_scaling.analysis.report.summary import summary
    from ehr_scaling.grid import cost

    if DRY_RUN.value:
        study.prepare(config, workdir)
        grid = study.plan(config, points, workdir)
        print(cost.table(grid, workdir=workdir, workers=cost.workers(config.workers, grid)))
        return
    with Steps() as steps:
        laws = study.run(config, points, workdir, steps.say, retry_failed=RETRY.value)
    print(summary(laws))
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes; the report is {Layout(workdir).report / 'report.html'}")


if __name__ == "__main__":
    common.run(main)
