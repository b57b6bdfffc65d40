"""Units as tasks of a Slurm job array, by submitit: each saves and queues itself again when its time is over."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ehr_scaling import storage
from ehr_scaling.artifacts import fingerprint
from ehr_scaling.errors import Preempted, RunFailed, Unavailable, UserError, first_line, needs
from ehr_scaling.grid.cell import Unit
from ehr_scaling.grid.executors.claims import Cost
from ehr_scaling.grid.executors.job import Check, Done, Job
from ehr_scaling.grid.executors.local import run
from ehr_scaling.layout import Layout
from ehr_scaling.processes import companions, endings, leading, preemption

Steps = Callable[[Path], Mapping[str, leading.Step]]
PATIENCE = 120.0  # seconds for the lock of a node that went down to be let go of
REQUEUES = 10_000  # a run is as long as it is; submitit would stop after three times the time limit
# As sbatch's --time takes it: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S
_TIME = re.compile(r"(?P<days>\d+)-(?P<rest>\d+(?::\d+){0,2})|(?P<plain>\d+(?::\d+){0,2})")
_PORTS = (20_000, 32_000)  # of which a job of several nodes takes one by its number: below those that systems hand out
_AFTER = 5.0  # seconds
_ANSWER = 10.0  # seconds for a command of Slurm to answer
_SCONTROL = ("/usr/bin", "/usr/local/bin", "/opt/slurm/bin", "/usr/slurm/bin", "/cm/shared/apps/slurm/current/bin")


class Task:
    """One unit, as submitit pickles it for a node: functions by name, and the cells."""

    steps: Steps | None = None  # of tasks that an earlier version queued

    def __init__(
        self,
        job: Job,
        unit: Unit,
        workdir: Path,
        title: str,
        done: Done | None,
        before: Check | None = None,
        cost: Cost | None = None,
        steps: Steps | None = None,
    ):
        self.job, self.unit, self.title, self.done = job, unit, title, done
        # On a node a bucket may have its mirror elsewhere. str() where it is used: tasks that an earlier version queued
        # hold a Path
        self.workdir = storage.given(workdir)
        self.before, self.cost, self.steps = before, cost, steps
        self.scontrol = _scontrol()  # where it is submitted; a node may have it elsewhere, or not on its PATH

    def __call__(self) -> None:
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: it stores what `checkpoint` returns, and requeues
        try:
            together = _join_nodes()
            with preemption.deferred(signal.SIGTERM, signal.SIGUSR2):
                if (steps := self.steps) is not None:
                    leading.run(self._do, lambda: steps(storage.local(str(self.workdir))))
                else:
                    self._do()
            companions.leave()
        except Preempted:
            companions.leave()
            print(preemption.SAVED, file=sys.stderr, flush=True)
            scontrol = _scontrol() or self.scontrol
            if callable(requeue) and _is_ours_to_requeue(scontrol):
                _requeue(requeue, scontrol)
            if together:
                _leave_nodes()
            sys.exit(Preempted.status)
        except Exception as e:
            endings.tell(e, status=1)
            raise  # submitit keeps the traceback

    def _do(self) -> None:
        run(
            self.job,
            [self.unit],
            storage.local(str(self.workdir)),
            workers=1,
            title=self.title,
            costs=self.cost and [self.cost],
            done=self.done,
            patience=PATIENCE,
            before=self.before,
        )

    def checkpoint(self) -> Any:
        """What submitit is to run when the job starts again: the same, for it goes on from its own checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _join_nodes() -> bool:
    """Where a task has several processes, make them one of JAX's; gives whether it has. Before JAX sees a device."""
    from submitit import JobEnvironment

    here = JobEnvironment() if "SUBMITIT_EXECUTOR" in os.environ else None
    if here is None or here.num_tasks == 1:
        return False
    import jax

    port = _PORTS[0] + int(here.raw_job_id) % (_PORTS[1] - _PORTS[0])
    where = f"{here.hostnames[0]}:{port}", here.num_tasks, here.global_rank
    try:
        jax.distributed.initialize(*where, heartbeat_timeout_seconds=companions.HEARTBEAT)
    except (ValueError, RuntimeError) as e:
        kind = UserError if isinstance(e, ValueError) else Unavailable
        raise kind(
            f"the nodes cannot be joined ({first_line(e)}): all must reach {where[0]}, so let TCP through between them"
        ) from None
    companions.watch()
    return True


def _leave_nodes() -> None:
    """End after the process that queues the job again: one that ends with an error may end them all."""
    import jax

    jax.distributed.shutdown()  # which waits for all
    time.sleep(_AFTER)


def _scontrol() -> str | None:
    """Where Slurm's command is: on the PATH, beside sbatch, or in one of its usual places."""
    beside = shutil.which("sbatch")
    folders = [*([str(Path(beside).parent)] if beside else []), *_SCONTROL]
    return shutil.which("scontrol") or shutil.which("scontrol", path=os.pathsep.join(folders))


def _requeue(requeue: Callable[[int, None], Any], scontrol: str | None) -> None:
    """Have submitit queue the task again. Of several processes the first does, and does not come back, but where that
    fails: with a line."""
    if scontrol is not None:  # which submitit calls by its name alone
        folders = [os.environ.get("PATH", os.defpath), str(Path(scontrol).parent)]
        os.environ["PATH"] = os.pathsep.join(filter(None, folders))
    try:
        requeue(signal.SIGUSR2, None)
    except (OSError, subprocess.SubprocessError) as e:
        message = f"the task cannot queue itself again ({first_line(e)}): its work is saved, so submit it again"
        print(endings.line(message), file=sys.stderr, flush=True)


def _is_ours_to_requeue(scontrol: str | None) -> bool:
    """Whether Slurm still counts the task as running. Else it has decided: cancelled by somebody, or requeued by it.

    Without an answer of scontrol nobody can tell, and the work of a task that was cancelled goes on: the lesser harm.
    """
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:  # which is the number of one of its tasks too: by it Slurm tells of all of them
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or job is None or scontrol is None:
        return True
    command = [scontrol, "show", "job", "-o", job]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER)
    except (OSError, subprocess.TimeoutExpired):  # it may be where the task was submitted, but not here
        return True
    return told.returncode != 0 or " JobState=RUNNING " in told.stdout


def minutes(text: str) -> int:
    """A time limit as sbatch takes it (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S) in whole minutes, rounded up.

    Raises: UserError for anything else.
    """
    if (match := _TIME.fullmatch(text)) is None:
        raise UserError(f"--slurm_time={text}: give minutes, HH:MM:SS or D-HH:MM:SS")
    parts = [int(part) for part in (match["rest"] or match["plain"]).split(":")]
    if match["days"] is not None:  # the first is hours
        hours, mins, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, mins, seconds = 0, *parts, 0
    else:  # the last is seconds
        hours, mins, seconds = (0, *parts)[-3:]
    return -(-(3600 * (24 * int(match["days"] or 0) + hours) + 60 * mins + seconds) // 60)


def submit(
    job: Job,
    units: list[Unit],
    workdir: Path,
    *,
    title: str,
    time: str,
    parallel: int,
    done: Done | None = None,
    before: Check | None = None,
    costs: Sequence[Cost] | None = None,
    steps: Steps | None = None,
    kind: str = "sweep",
    nodes: int = 1,
    cpus: int = 1,
    gpus: int = 0,
    memory_gb: float | None = None,
    setup: tuple[str, ...] = (),
    save_seconds: int = 90,
    options: dict[str, str | None] | None = None,
    cluster: str = "slurm",
) -> list[Any]:
    """Put every unit that is not finished into the queue, as one job array; logs go to `workdir`/slurm, in a
    bucket to its mirror here, which the nodes have to see.

    Args:
      time: limit of a task; `save_seconds` before it is over, a task saves and queues itself again.
      parallel: tasks that may run at once.
      done, before, costs: as `executors.run` takes them.
      steps: of a job by which one of several nodes leads the others, see `leading.run`; None: all do it together.
      kind: of work, whose tasks are queued once for a work directory.
      nodes: of a task, with a process on each; together they are one of `jax.distributed`.
      cpus, gpus, memory_gb: of a task, on each of its nodes.
      setup: shell commands before it starts, such as "module load cuda".
      options: more of sbatch, such as {"partition": "gpu"}; None: as Slurm has it.
      cluster: "slurm"; submitit's "local" or "debug" run the same tasks without one.
    Returns: submitit's jobs, in the order of the units that are not finished.
    Raises: UserError when submitit or sbatch is missing, when tasks of this folder are queued already, and with what
      Slurm says when it refuses.
    """
    limit = minutes(time)
    if limit < 1 or parallel < 1:
        raise UserError(f"--slurm_time={time} --slurm_parallel={parallel}: give 1 or more of each")
    try:
        import submitit
    except ImportError:
        raise needs("--executor=slurm needs submitit", "slurm") from None
    todo = []
    with storage.listed(Layout(workdir).runs):
        for i, unit in enumerate(units):
            try:
                if done is None or done(unit, workdir) is None:
                    todo.append((unit, costs[i] if costs else None))
            except RunFailed as e:
                print(f"warning: left out: {e}", file=sys.stderr, flush=True)
    if not todo:
        return []
    name = _name(workdir, kind)
    if cluster == "slurm":
        _check_queue(name, workdir)
    folder = Layout(workdir).slurm
    most = {f"{cluster}_max_num_timeout": REQUEUES} if cluster in ("slurm", "local") else {}
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **most)
    huge_pages = () if gpus else ("export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}",)
    executor.update_parameters(
        name=name,
        timeout_min=limit,
        # submitit's "local" is one node, on which processes stand for several
        **({"tasks_per_node": nodes} if cluster == "local" else {"nodes": nodes}),
        cpus_per_task=cpus,
        gpus_per_node=gpus,
        slurm_array_parallelism=parallel,
        slurm_setup=[*huge_pages, *setup],
        slurm_signal_delay_s=save_seconds,
        slurm_additional_parameters={"requeue": True},
        **({"mem_gb": memory_gb} if memory_gb else {}),
        **{f"slurm_{key}": value for key, value in (options or {}).items() if value is not None},
    )
    try:
        with executor.batch():
            return [executor.submit(Task(job, unit, workdir, title, done, before, cost, steps)) for unit, cost in todo]
    except submitit.core.utils.FailedJobError as e:
        raise UserError(f"Slurm refused the job: {_said(e)}") from None


def waits(workdir: Path) -> bool:
    """Whether tasks that train in a folder wait in the queue, as far as Slurm tells."""
    if not Layout(workdir).slurm.is_dir() or shutil.which("squeue") is None:
        return False
    command = ["squeue", "-h", "-n", _name(workdir, "sweep"), "-t", "PENDING,CONFIGURING"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER)
    except subprocess.TimeoutExpired:
        return False
    return told.returncode == 0 and bool(told.stdout.split())


def _name(workdir: Path, kind: str) -> str:
    """Of the tasks of a folder, by which the queue is asked for them."""
    return f"{kind}-{fingerprint(str(workdir))[:8]}"


def _said(error: BaseException) -> str:
    """Slurm's own line of what submitit's error holds."""
    lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
    return lines[-1] if lines else first_line(error)


def _check_queue(name: str, workdir: Path) -> None:
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here: run this where Slurm jobs are submitted, or take --executor=local")
    command = ["squeue", "-h", "-n", name, "-o", "%F"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER)
    except subprocess.TimeoutExpired:
        raise UserError(f"squeue says nothing for {_ANSWER:g} s: is Slurm up? Run this again when it answers") from None
    if told.returncode:
        raise UserError(f"squeue fails ({(told.stderr.splitlines() or ['no message'])[-1]}): is Slurm up?")
    if told.stdout.split():
        raise UserError(
            f"job {told.stdout.split()[0]} of {workdir} is in the queue: see --status; to submit anew, scancel it first"
        )
