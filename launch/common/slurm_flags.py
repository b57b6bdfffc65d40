"""What Slurm has to know of the tasks of a command, and units put into its queue so; for launch.sweep and .evaluate."""

from pathlib import Path
from typing import Any

from absl import flags

from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout

TIME = flags.DEFINE_string(
    "slurm_time", None, "Limit of a task, as sbatch takes it (90, 4:00:00, 1-12); it goes on after it."
)
PARALLEL = flags.DEFINE_integer("slurm_parallel", 256, "Tasks at once, at most.")
SAVE = flags.DEFINE_integer("slurm_save_seconds", 90, "Seconds before its limit at which a task saves.", lower_bound=1)
NODES = flags.DEFINE_integer("slurm_nodes", 1, "Nodes of a task, a process on each, which work as one.", lower_bound=1)
GPUS = flags.DEFINE_integer("slurm_gpus", 0, "GPUs of a task, on each of its nodes.", lower_bound=0)
CPUS = flags.DEFINE_integer("slurm_cpus", 1, "Cores of a task, on each of its nodes.", lower_bound=1)
MEMORY = flags.DEFINE_float("slurm_memory_gb", None, "Memory of a task, on each of its nodes.")
SETUP = flags.DEFINE_multi_string("slurm_setup", [], "A shell command before a task, such as 'module load cuda'.")
OPTIONS = {
    name: flags.DEFINE_string(f"slurm_{name}", None, f"Slurm's --{name}.")
    for name in ("partition", "account", "qos", "constraint")
}


def check() -> None:
    """Raises UserError where --executor=slurm lacks what it needs, before any work."""
    if not TIME.value:
        raise UserError(f"--executor=slurm needs --slurm_time: {flags.FLAGS['slurm_time'].help}")


def submit(job: Any, units: list[Any], workdir: Path, **about: Any) -> bool:
    """As `executors.slurm.submit`, which takes what is in `about`; says what is queued, and whether anything is."""
    from ehr_scaling.grid.executors import slurm

    jobs = slurm.submit(
        job,
        units,
        workdir,
        time=TIME.value or "",
        parallel=PARALLEL.value,
        save_seconds=SAVE.value,
        nodes=NODES.value,
        cpus=CPUS.value,
        gpus=GPUS.value,
        memory_gb=MEMORY.value,
        setup=tuple(SETUP.value),
        options={name: flag.value for name, flag in OPTIONS.items()},
        **about,
    )
    if jobs:
        print(f"job {jobs[0].job_id.split('_')[0]}, {len(jobs)} tasks; logs are in {Layout(workdir).slurm}")
    return bool(jobs)
