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

from ehr_scaling.errors import UserError

from .common import common, slurm_flags

common.define_config_flags()
common.define_process_flags()
flags.adopt_module_key_flags(slurm_flags)
RETRY = flags.DEFINE_bool("retry_failed", False, "Train runs again that diverged; else they are left out.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the grid and what it will cost, and train nothing.")
STATUS = flags.DEFINE_bool("status", False, "Print where each unit of the grid is, and train nothing.")
WATCH = flags.DEFINE_bool("watch", False, "With --status: again every two seconds, until all are finished.")
EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm", "tpu-pod", "gke"], "Who trains.")

POD_NAME = flags.DEFINE_string("pod_name", None, "tpu-pod: the TPU VM.")
POD_ZONE = flags.DEFINE_string("pod_zone", None, "tpu-pod: its zone.")
POD_PROJECT = flags.DEFINE_string("pod_project", None, "tpu-pod: its project [default: gcloud's].")
POD_FOLDER = flags.DEFINE_string("pod_folder", None, "tpu-pod: the folder of this repository on its hosts.")
POD_CHIPS = flags.DEFINE_integer(
    "pod_chips", None, "tpu-pod: chips of a host, each of which then works for itself [default: all hosts are one]."
)
GKE_NAME = flags.DEFINE_string("gke_name", "sweep", "gke: name of the job.")
GKE_IMAGE = flags.DEFINE_string("gke_image", None, "gke: image that holds this repository with its packages.")
GKE_VOLUME = flags.DEFINE_string("gke_volume", None, "gke: PersistentVolumeClaim that is mounted at --workdir.")
GKE_ACCELERATOR = flags.DEFINE_string("gke_accelerator", None, "gke: such as tpu-v5-lite-podslice, nvidia-h100-80gb.")
GKE_TOPOLOGY = flags.DEFINE_string("gke_topology", None, "gke: of TPUs, such as 4x4.")
GKE_HOSTS = flags.DEFINE_integer("gke_hosts", 1, "gke: machines that train as one.")
GKE_PARALLEL = flags.DEFINE_integer("gke_parallel", 1, "gke: machines that share the units, each for itself.")
GKE_SLICES = flags.DEFINE_integer("gke_slices", 1, "gke: slices of TPUs, of --gke_hosts each, that train as one.")
GKE_SPOT = flags.DEFINE_bool("gke_spot", False, "gke: on Spot machines, which may be taken away.")
GKE_CHIPS = flags.DEFINE_integer("gke_chips", 1, "gke: devices of a machine.")


def needed(flag: "flags.FlagHolder[str | None]") -> str:
    if not flag.value:
        raise UserError(f"--executor={EXECUTOR.value} needs --{flag.name}: {flags.FLAGS[flag.name].help}")
    return flag.value


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


def print_command() -> None:
    from ehr_scaling.grid.executors import pods

    workdir = flags.FLAGS.workdir
    in_bucket = "://" in (workdir or "")
    if EXECUTOR.value == "tpu-pod":
        if workdir is None:
            raise UserError("--executor=tpu-pod needs --workdir: a folder that all hosts see, as by NFS")
        if in_bucket and POD_CHIPS.value is None:
            raise UserError(
                "--executor=tpu-pod makes all hosts one program, which needs a --workdir on a file system that they "
                "share: give that, or --pod_chips, with which each host works for itself"
            )
        where = {"name": needed(POD_NAME), "zone": needed(POD_ZONE), "folder": needed(POD_FOLDER)}
        print(pods.tpu_pod(sys.argv[1:], project=POD_PROJECT.value, chips=POD_CHIPS.value, **where))
        return
    if workdir is None:
        raise UserError("--executor=gke needs --workdir: the folder in the container where --gke_volume is mounted")
    if in_bucket:
        raise UserError("--executor=gke mounts --gke_volume at --workdir: give that folder, not a bucket")
    manifest = pods.gke(
        sys.argv[1:],
        name=GKE_NAME.value,
        image=needed(GKE_IMAGE),
        workdir=Path(workdir),
        volume=needed(GKE_VOLUME),
        accelerator=needed(GKE_ACCELERATOR),
        topology=GKE_TOPOLOGY.value,
        hosts=GKE_HOSTS.value,
        chips=GKE_CHIPS.value,
        parallel=GKE_PARALLEL.value,
        slices=GKE_SLICES.value,
        spot=GKE_SPOT.value,
    )
    print(manifest)


def main() -> None:
    if EXECUTOR.value in ("tpu-pod", "gke") and not flags.FLAGS.print_config:
        print_command()
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
