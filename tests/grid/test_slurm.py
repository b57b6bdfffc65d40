"""Tasks of a job array save, queue themselves again and go on: by submitit alone, and by Slurm where it runs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import count, count_on_nodes, crash, finished, full, hand_over, lose_touch, refuse, save, units

from ehr_scaling import storage
from ehr_scaling.errors import Unavailable, UserError
from ehr_scaling.grid.executors import claims, slurm
from tests import buckets

ROOT = Path(__file__).resolve().parents[2]
SUBMIT = {"title": "test", "time": "5", "parallel": 2, "done": finished}


@pytest.fixture(autouse=True)
def nodes_find_the_jobs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(Path(__file__).parent))))
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def a_slurm():
    """Skips where no Slurm takes jobs."""
    command = ["timeout", "5", "sinfo", "-h", "-o", "%a %t"]
    told = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("sbatch") else None
    if told is None or not any(state in told.stdout for state in ("up idle", "up mix", "up alloc")):
        pytest.skip("no Slurm takes jobs here: apt-get install slurm-wlm")


def until(condition, jobs=(), seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, [job.stderr() for job in jobs]
        time.sleep(0.02)


def steps(tmp_path):
    """Processes that made each step, of each unit; waits where a file is half written."""
    return {path.name: path.read_text().split() for path in (tmp_path / "counts").glob("cell*")}


def whole(tmp_path, todo):
    return all(finished(unit, tmp_path) for unit in todo)


def test_by_submitit_alone(tmp_path):
    todo = units(3, pause=0.05)
    (tmp_path / "counts").mkdir()
    (tmp_path / "counts" / "cell0").write_text("1 " * 20)  # finished: no task for it
    jobs = slurm.submit(count, todo, tmp_path, cluster="local", **SUBMIT)
    assert len(jobs) == 2
    until(lambda: steps(tmp_path).get("cell1"), jobs)
    os.kill(int(steps(tmp_path)["cell1"][0]), signal.SIGUSR2)  # what Slurm sends before the time is over
    until(lambda: whole(tmp_path, todo), jobs)
    until(lambda: all(job.done() for job in jobs), jobs)
    assert (tmp_path / "counts" / "saved").exists()
    assert len(set(steps(tmp_path)["cell1"])) == 2  # another process went on where the first had saved
    assert "interrupted by SIGTERM: saved" in jobs[0].stderr()
    assert slurm.submit(count, todo, tmp_path, cluster="local", **SUBMIT) == []


def test_a_node_opens_the_bucket_in_a_mirror_of_its_own(tmp_path, monkeypatch):
    url = buckets.url("file", tmp_path)
    monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / "submits"))
    here = storage.local(url)
    monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / "node"))
    (job,) = slurm.submit(hand_over, units(1), here, cluster="local", **{**SUBMIT, "done": None})
    until(job.done, [job])
    storage.fetch(here / "made")
    (made,) = (here / "made").iterdir()
    assert made.read_text() == str(storage.local(url)) != str(here)


def test_a_task_of_several_nodes_is_one_of_jax_saves_together_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CPU_COLLECTIVES_IMPLEMENTATION", "gloo")
    submit = {name: value for name, value in SUBMIT.items() if name != "done"}
    (job,) = slurm.submit(count_on_nodes, units(1, pause=0.05), tmp_path, cluster="local", nodes=2, **submit)
    steps = [tmp_path / f"cell0-{i}" for i in range(2)]
    until(lambda: all(path.exists() for path in steps), [job])
    first = (tmp_path / "pids" / steps[0].name).read_text()
    os.kill(int(first), signal.SIGUSR2)  # to one of them: all hear of it
    until(lambda: all(path.read_text() == "x" * 20 for path in steps), [job])
    until(job.done, [job])
    assert (tmp_path / "pids" / steps[0].name).read_text() != first


@pytest.mark.nightly
def test_where_one_of_several_nodes_fails_the_job_ends_with_what_both_say(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CPU_COLLECTIVES_IMPLEMENTATION", "gloo")
    submit = {name: value for name, value in SUBMIT.items() if name != "done"}
    (job,) = slurm.submit(full, units(1), tmp_path, cluster="local", nodes=2, **submit)
    until(lambda: job.done() or job.state == "FAILED", [job])
    said = "".join(path.read_text() for path in (tmp_path / "slurm").glob("*_log.err"))
    assert "error: the disk is full: free some space" in said and "Traceback" not in said


def test_a_users_mistake_is_one_line_in_the_log(tmp_path):
    (job,) = slurm.submit(refuse, units(2)[1:], tmp_path, cluster="local", **SUBMIT)
    until(lambda: "error: the second unit is broken: mend it" in (job.stderr() or ""))
    assert "Traceback" not in job.stderr()


def test_what_may_pass_ends_a_task_with_its_status(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        slurm.Task(lose_touch, units(1)[0], tmp_path, "test", finished)()
    assert end.value.code == 69 and capsys.readouterr().err.endswith("error: the bucket does not answer\n")


@pytest.mark.parametrize(("error", "kind"), [(RuntimeError("no answer"), Unavailable), (ValueError("x"), UserError)])
def test_nodes_that_cannot_be_joined_may_be_later(monkeypatch, error, kind):
    import jax
    import submitit

    def initialize(*args, **options):
        raise error

    here = types.SimpleNamespace(num_tasks=2, raw_job_id="7", hostnames=["node1", "node2"], global_rank=1)
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: here)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=r"the nodes cannot be joined .*: all must reach node1:20007") as told:
        slurm._join_nodes()
    assert told.type is kind


def test_a_unit_that_somebody_holds_is_left_to_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "PATIENCE", 0.1)
    monkeypatch.setattr(claims, "POLL", 0.02)
    with claims.claim(tmp_path, units(1)[0]), pytest.raises(SystemExit):
        slurm.Task(count, units(1)[0], tmp_path, "test", finished)()
    assert "another process holds cell cell0" in capsys.readouterr().err


def test_of_our_own_mistake_submitit_keeps_the_trace(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError):
        slurm.Task(crash, units(1)[0], tmp_path, "test", finished)()
    assert capsys.readouterr().err.rstrip().endswith("ZeroDivisionError")


def test_scontrol_is_looked_for_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "_SCONTROL", ())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert slurm._scontrol() is None
    for folder, said in (("apart", "JobId=7 JobState=RUNNING Reason=None"), ("bin", "JobId=7 JobState=CANCELLED x")):
        (tmp_path / folder).mkdir()
        for name in ("scontrol", "sbatch"):
            tool = tmp_path / folder / name
            tool.write_text(f"#!/bin/sh\necho '{said}'\n")
            tool.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert not slurm._is_ours_to_requeue(slurm._scontrol())
    (tmp_path / "bin" / "scontrol").unlink()
    monkeypatch.setattr(slurm, "_SCONTROL", (str(tmp_path / "apart"),))
    assert slurm._scontrol() == str(tmp_path / "apart" / "scontrol") and slurm._is_ours_to_requeue(slurm._scontrol())
    assert slurm._is_ours_to_requeue(None) and slurm._is_ours_to_requeue(str(tmp_path / "none"))


def scontrol(folder, *, show, requeue="exit 0"):
    """A stand-in for it: what it does when asked for the task 7_3 of the array 7, and to requeue. Gives its calls."""
    folder.mkdir(parents=True)
    tool, calls = folder / "scontrol", folder / "calls"
    others = "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobState=RUNNING Reason=None"
    tool.write_text(
        f'''#!/bin/sh
echo "$@" >> "{calls}"
case "$*" in
    "show job -o 7_3") {show};;
    "show job -o 7") echo "{others}"; {show};;
    "requeue 7_3") {requeue};;
    *) exit 9;;
esac
'''
    )
    tool.chmod(0o755)
    return calls


@pytest.fixture
def of_an_array(monkeypatch):
    """This process is the task 3 of the array 7, which has the number of the array for one of its own."""
    about = {"JOB_ID": "7", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3", "NTASKS": "1", "PROCID": "0"}
    for name, value in about.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")


TOLD = 'echo "JobId=7 ArrayJobId=7 ArrayTaskId=3 JobState={} Reason=None"'


@pytest.mark.parametrize(
    ("show", "ours"),
    [
        (TOLD.format("RUNNING"), True),
        (TOLD.format("CANCELLED"), False),  # others of the array still run
        (TOLD.format("PREEMPTED"), False),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", True),
        ("exec sleep 30", True),
    ],
)
def test_a_task_asks_for_itself_alone_whether_it_is_to_go_on(tmp_path, monkeypatch, of_an_array, show, ours):
    monkeypatch.setattr(slurm, "_ANSWER", 0.5)
    calls = scontrol(tmp_path / "bin", show=show)
    began = time.monotonic()
    assert slurm._is_ours_to_requeue(str(tmp_path / "bin" / "scontrol")) is ours
    assert calls.read_text() == "show job -o 7_3\n" and time.monotonic() - began < 10


@pytest.fixture
def ask_to_end(tmp_path, monkeypatch, of_an_array):
    """A task is asked to end when no scontrol is on the PATH; gives how it ends."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    def requeue(*_):  # as submitit's handler does, once it has stored the task
        SlurmJobEnvironment()._requeue(1)
        sys.exit(-1)

    def end():
        heard = signal.signal(signal.SIGUSR2, requeue)
        try:
            with pytest.raises(SystemExit) as end:
                slurm.Task(save, units(1)[0], tmp_path / "w", "test", None)()
        finally:
            signal.signal(signal.SIGUSR2, heard)
        return end.value.code

    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    monkeypatch.setattr(slurm, "_SCONTROL", (str(tmp_path / "apart"),))
    return end


def test_a_task_queues_itself_again_where_scontrol_is_not_on_its_path(tmp_path, ask_to_end):
    calls = scontrol(tmp_path / "apart", show=TOLD.format("RUNNING"))
    assert ask_to_end() == -1
    assert calls.read_text().splitlines() == ["show job -o 7_3", "requeue 7_3"]


def test_that_a_task_cannot_be_queued_again_is_one_line(tmp_path, ask_to_end, capfd):
    assert ask_to_end() == 75  # nobody has a scontrol
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the task cannot queue itself again (") and "'scontrol'" in last
    refuses = "echo 'slurm_requeue error: Access/permission denied' >&2; exit 1"
    scontrol(tmp_path / "apart", show=TOLD.format("RUNNING"), requeue=refuses)
    assert ask_to_end() == 75
    *before, last = capfd.readouterr().err.splitlines()
    assert before[-1] == "slurm_requeue error: Access/permission denied" and "Traceback" not in str(before)
    assert re.match(r"error: the task cannot queue itself again \(.* exit status 1\.\): .* submit it again", last)


TIMES = {"90": 90, "10:30": 11, "01:30:00": 90, "1-12": 2160, "1-12:30": 2190, "2-00:00:30": 2881, "120:00": 120}


@pytest.mark.parametrize(("text", "expected"), TIMES.items())
def test_time_limits_are_read_as_slurm_writes_them(text, expected):
    assert slurm.minutes(text) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"time": "an hour"}, "--slurm_time=an hour: give minutes, HH:MM:SS"),
        ({"time": "1:2:3:4"}, "--slurm_time=1:2:3:4: give minutes"),
        ({"time": "0"}, "give 1 or more"),
        ({"parallel": 0}, "--slurm_parallel=0: give 1 or more"),
    ],
)
def test_senseless_limits_are_refused(tmp_path, changes, expected):
    with pytest.raises(UserError, match=expected):
        slurm.submit(count, units(2), tmp_path, **SUBMIT | changes)


def test_without_submitit_or_sbatch_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no sbatch here"):
        slurm.submit(count, units(2), tmp_path, **SUBMIT)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[slurm\]'"):
        slurm.submit(count, units(2), tmp_path, **SUBMIT)


def test_a_slurm_that_does_not_answer_is_named(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, does in (("sbatch", "exit 1"), ("squeue", "exec sleep 30")):
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\n{does}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "_ANSWER", 0.2)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"squeue says nothing for 0\.2 s: is Slurm up"):
        slurm.submit(count, units(2), tmp_path / "w", **SUBMIT)
    (tmp_path / "w" / "slurm").mkdir(parents=True)
    assert not slurm.waits(tmp_path / "w")
    assert time.monotonic() - started < 10


def test_slurm_runs_requeues_and_refuses(tmp_path, a_slurm):
    todo = units(2, pause=0.2)
    jobs = slurm.submit(count, todo, tmp_path, **SUBMIT)
    with pytest.raises(UserError, match=r"is in the queue: .*scancel"):
        slurm.submit(count, todo, tmp_path, **SUBMIT)
    until(lambda: (tmp_path / "counts" / "cell0").exists(), jobs)
    subprocess.run(["scancel", "--signal=USR2", jobs[0].job_id], check=True)  # as Slurm does before the time is over
    until(lambda: at_once(jobs[0]) and whole(tmp_path, todo), jobs)
    assert (tmp_path / "counts" / "saved").exists()
    assert len(set(steps(tmp_path)["cell0"])) == 2
    with pytest.raises(UserError, match=r"Slurm refused the job: .*Invalid partition"):
        slurm.submit(
            count, [[replace(todo[0][0], id="other")]], tmp_path / "b", options={"partition": "nowhere"}, **SUBMIT
        )
    until(lambda: not queued(jobs[0]), jobs)


def test_what_is_cancelled_stays_cancelled(tmp_path, a_slurm):
    (job,) = slurm.submit(count, units(1, pause=0.2), tmp_path, **SUBMIT)
    until(lambda: (tmp_path / "counts" / "cell0").exists(), [job])
    subprocess.run(["scancel", job.job_id], check=True)
    until(lambda: not queued(job), [job])
    assert len(steps(tmp_path)["cell0"]) < 20


def at_once(job):
    """Slurm lets two minutes pass before a requeued job starts again; not here. Always true."""
    time.sleep(1)
    subprocess.run(["scontrol", "update", f"jobid={job.job_id}", "StartTime=now"], capture_output=True, check=False)
    return True


def queued(job):
    told = subprocess.run(["squeue", "-h", "-j", job.job_id.split("_")[0], "-o", "%t"], capture_output=True, text=True)
    return bool(told.stdout.split())
