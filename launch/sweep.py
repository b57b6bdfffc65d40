"""Train the grid of a prepared work directory: packed/ → grid/ → runs/.

  python -m launch.sweep --config=configs/mimic_iv.py --workdir=W --dry_run     what it will cost
  python -m launch.sweep --config=configs/mimic_iv.py --workdir=W               train; finished cells are skipped
  python -m launch.sweep --workdir=W --status [--watch]                         where it is
  python -m launch.sweep … --executor=slurm --slurm_partition=gpu --slurm_time=4:00:00 --slurm_gpus=1

Cells that were broken off go on from their last checkpoint. The same command on several machines that share W shares
the work. --executor=tpu-pod and gke print a command and run nothing. docs/clusters.md has more.
"""

import shutil
import sys
import time
from pathlib import Path

from absl import flags

from .common import common, pod_flags, slurm_flags

common.define_config_flags()
common.define_process_flags()
flags.adopt_module_key_flags(slurm_flags)
flags.adopt_module_key_flags(pod_flags)
RETRY = flags.DEFINE_bool("retry_failed", False, "Train runs again that diverged; else they are left out.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the grid and what it will cost, and train nothing.")
STATUS = flags.DEFINE_bool("status", False, "Print where each unit of the grid is, and train nothing.")
WATCH = flags.DEFINE_bool("watch", False, "With --status: again every two seconds, until all are finished.")
EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm", "tpu-pod", "gke"], "Who trains.")


def show_status(workdir: Path) -> None:
    from ehr_scaling.grid import status

    watching = WATCH.value and sys.stdout.isatty()
    while True:
        width, height = shutil.get_terminal_size((160, 40))
        text, finished = status.text(workdir, width=width, height=height if watching else None, colour=watching)
        print(f"\033[H\033[J{text}" if watching else text, flush=True)
        if finished or not watching:
            return
        time.sleep(2)


def main() -> None:
    if EXECUTOR.value in ("tpu-pod", "gke") and not flags.FLAGS.print_config:
        print(pod_flags.command(EXECUTOR.value))
        return
    config, points, workdir = common.read_flags()
    if STATUS.value:
        show_status(workdir)
        return
    if EXECUTOR.value == "slurm":
        slurm_flags.check()
    common.begin(config, workdir)
    common.join_processes()
    # Not above: --status needs no JAX.
    from ehr_scaling import study
    from ehr_scaling.grid import cost
    from ehr_scaling.grid.cell import units

    grid = study.plan(config, points, workdir)
    print(cost.table(grid, workdir=workdir, workers=cost.workers(config.workers, grid)))
    if DRY_RUN.value:
        return
    if EXECUTOR.value == "local":
        study.train(config, workdir, retry_failed=RETRY.value)
        return
    from ehr_scaling.training import loop

    if RETRY.value:
        loop.retry(grid, workdir)
    queued = slurm_flags.submit(
        loop.job, units(grid), workdir, title="training", done=loop.finished, before=loop.verify
    )
    watch = f"python -m ehr_scaling.launch.sweep --workdir={workdir} --status"
    print(watch if queued else "every cell is finished")


if __name__ == "__main__":
    common.run(main)
