"""Units done in other processes come back in order; what goes wrong there is one line here."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from jax._src import compilation_cache
from jobs import await_help, crash, die, fail, help_out, lose_device, lose_hold, lose_touch, refuse, square, units

from ehr_scaling import storage
from ehr_scaling.errors import RunFailed, Unavailable, UserError
from ehr_scaling.grid import executors
from ehr_scaling.grid.executors import claims, local, processes, progress
from ehr_scaling.grid.executors.progress import Progress
from tests import blank, buckets

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_units(tmp_path, workers):
    results = executors.run(square, units(7), tmp_path, workers=workers, title="test")
    assert [[value for value, _, _ in unit] for unit in results] == [[0], [1, 4], [9], [16], [25], [36], [49]]
    processes = {pid for unit in results for _, pid, _ in unit}
    if workers == 1:
        assert processes == {os.getpid()}
    else:
        assert os.getpid() not in processes
        assert {cores for unit in results for _, _, cores in unit} == {1}  # pinned


def test_a_cache_of_programs_that_was_chosen_stays():
    import jax

    chosen = os.environ["JAX_COMPILATION_CACHE_DIR"]
    executors.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == chosen


def test_what_a_killed_process_wrote_of_a_program_goes_and_so_do_old_ones(tmp_path):
    compress = compilation_cache.compress_executable
    programs = {name: tmp_path / f"{name}-cache" for name in ("good", "cut", "old")}
    for path in programs.values():
        path.write_bytes(compress(b"a program" * 99))
    programs["cut"].write_bytes(programs["cut"].read_bytes()[:-9])
    os.utime(programs["old"], (1e9, 1e9))
    processes.tidy_programs(tmp_path, oldest=1.1e9)
    assert [name for name, path in programs.items() if path.exists()] == ["good"]
    programs["good"].write_bytes(b"x")
    os.utime(programs["good"], (1.2e9, 1.2e9))
    processes.tidy_programs(tmp_path)
    assert programs["good"].exists()  # it was looked at before
    os.utime(programs["good"])
    processes.tidy_programs(tmp_path)
    assert not programs["good"].exists()


def test_what_workers_are_given_is_left_to_nobody_else(tmp_path):
    before = dict(os.environ)
    executors.run(square, units(3), tmp_path, workers=2, title="test")
    assert dict(os.environ) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_finished_goes_to_no_worker(tmp_path, workers):
    have = executors.run(die, units(4), tmp_path, workers=workers, title="test", done=lambda unit, workdir: ["here"])
    assert have == [["here"]] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_mistake_comes_through(tmp_path, workers):
    with pytest.raises(UserError, match="the second unit is broken: mend it"):
        executors.run(refuse, units(4), tmp_path, workers=workers, title="test")


def test_a_bug_in_a_worker_is_one_line_with_its_trace_above(tmp_path, capfd):
    with pytest.raises(UserError, match=r"cell cell\d \(s\d\) failed with ZeroDivisionError") as told:
        executors.run(crash, units(4), tmp_path, workers=2, title="test")
    assert told.type is UserError
    assert "in crash" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("job", "workers", "expected"),
    [(lose_touch, 1, "does not answer"), (lose_touch, 2, "does not answer"), (lose_device, 2, "its trace is above")],
)
def test_what_may_pass_is_known_as_such_where_workers_meet_it(tmp_path, job, workers, expected):
    with pytest.raises(Unavailable, match=expected):
        executors.run(job, units(4), tmp_path, workers=workers, title="test")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_another_machine_takes_over_is_left_to_it_and_the_sweep_goes_on(tmp_path, workers, monkeypatch, capfd):
    monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / "mirrors"))
    monkeypatch.setattr(claims, "POLL_BUCKET", 0.05)
    todo = units(4, own_flops=1.0, pause=0.3 * (workers - 1))  # so that each worker has something to do
    workdir = storage.local(buckets.url("file", tmp_path))
    results = executors.run(lose_hold, todo, workdir, workers=workers, title="test")
    assert "warning: cell cell0 is left to another machine, which took it over" in capfd.readouterr().err
    assert all(result is not None for result in results)
    if workers == 1:
        *_, last = before = results[0][-1]
        assert sorted(before) == ["cell0", "cell1", "cell3", "cell4"] and last != "cell0"  # others were done in between


def test_a_killed_worker_is_noticed(tmp_path):
    with pytest.raises(Unavailable, match=r"a worker died \(status -9\) on cell cell\d.*--config.workers"):
        executors.run(die, units(4), tmp_path, workers=2, title="test")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_alone_is_left_out_and_told(tmp_path, workers, capsys):
    results = executors.run(fail, units(4), tmp_path, workers=workers, title="test")
    assert [unit and [value for value, _, _ in unit] for unit in results] == [[0], None, [9], [16]]
    told = capsys.readouterr().err
    assert "left out: cell1 cannot go on" in told and "1 of 4 units failed" in told
    (tmp_path / "all").touch()
    with pytest.raises(UserError, match=r"cell\d cannot go on"):
        executors.run(fail, units(4), tmp_path, workers=workers, title="test")


def test_a_result_that_cannot_be_read_fails_alone(tmp_path, capsys):
    def done(unit, workdir):
        if unit[0].number == 1:
            raise RunFailed("the metrics of cell1 are damaged")
        return ["here"] if unit[0].number == 0 else None

    results = executors.run(square, units(3), tmp_path, workers=1, title="test", done=done)
    assert results[:2] == [["here"], None] and results[2][0][0] == 9
    assert "the metrics of cell1 are damaged" in capsys.readouterr().err


class Counted(list):
    """A list that counts how often it is looked into."""

    looks = 0

    def __getitem__(self, i):
        self.looks += 1
        return super().__getitem__(i)


def test_a_claim_takes_as_long_however_many_are_finished_behind_one_that_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: None)
    for many in (50, 400):
        folder, todo, finished = tmp_path / str(many), units(many, size="s"), Counted([0] * many)
        with claims.claim(folder, todo[-1]) as held:  # the costliest
            assert held
            turns = in_turn(folder, todo, [-1] * many, finished)
            done = list(itertools.takewhile(lambda i: i is not None, turns))
            turns.close()
        assert sorted(done) == list(range(many - 1))
        assert finished.looks < 10 * many


def test_looks_at_what_others_hold_take_a_part_of_the_time(tmp_path, monkeypatch):
    """In a bucket each is requests, and there may be as many as there are machines."""
    now, looks = [0.0], []

    @contextlib.contextmanager
    def claim(workdir, unit):
        now[0] += 1.0
        looks.append(number[unit[0].id])
        yield looks[-1] not in held

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(claims, "claim", claim)
    monkeypatch.setattr(claims.time, "sleep", sleep)
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    todo, held = units(300, size="s"), set(range(290, 300))  # the costliest
    number = {unit[0].id: i for i, unit in enumerate(todo)}
    turns = in_turn(tmp_path, todo, [-1] * 300, [0] * 300)
    done = list(itertools.islice(turns, 200))
    assert done == list(range(289, 89, -1)) and looks[:11] == list(range(299, 288, -1))
    assert 80 <= sum(i >= 290 for i in looks) <= 110  # each of the 200 claims looked at all ten before
    now[0] += 10_000.0  # a long unit
    done += itertools.islice(turns, 30)
    assert sum(i >= 290 for i in looks[-45:]) <= 20
    held.clear()  # they are let go of: the costliest is taken within a round of looks
    done += itertools.islice(turns, 21)
    assert 299 in done
    done += [i for i in turns if i is not None]
    assert sorted(done) == list(range(300))


def in_turn(workdir, todo, owners, finished, **more):
    return claims.in_turn(workdir, todo, list(map(claims.of_training, todo)), 0, owners, finished, **more)


def test_the_costliest_first_and_the_sizes_that_are_compiled(tmp_path):
    order = list(in_turn(tmp_path, units(6), [-1] * 6, [0] * 6))
    # sizes s0 s1+s2 s0 s1 s2 s0 and costs 1 5 4 5 6 7: all of s0, then of what is left s2, then s1
    assert order == [5, 2, 0, 4, 1, 3]
    others = in_turn(tmp_path, units(6), [-1, -1, -1, -1, -1, 1], [0, 0, 0, 0, 0, 1])
    assert next(others) == 4  # another process has s0 compiled


def test_a_held_unit_is_passed_over_then_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "POLL", 0.02)
    todo = units(3)
    with claims.claim(tmp_path, todo[2]) as ours:
        assert ours
        assert claims.holder(tmp_path, todo[2])["pid"] == os.getpid()
        assert claims.holder(tmp_path, todo[0]) is None
        turns = in_turn(tmp_path, todo, [-1] * 3, [0] * 3)
        assert [next(turns), next(turns), next(turns)] == [1, 0, None]
    assert next(turns) == 2
    turns.close()
    assert claims.holder(tmp_path, todo[2]) is None


def test_who_has_nothing_to_claim_helps(tmp_path):
    todo, done, helped = units(3), [0] * 3, []

    def lend_a_hand(i):
        helped.append(i)
        return len(helped) == 1

    with claims.claim(tmp_path, todo[2]):
        turns = in_turn(tmp_path, todo, [-1] * 3, done, patience=0.1, lend_a_hand=lend_a_hand)
        assert [next(turns), next(turns), next(turns)] == [1, 0, None]
        assert helped == [2, 2] and done == [1, 1, 0]  # the second time there was nothing to do


@pytest.mark.parametrize("workers", [2, 3])
def test_a_unit_that_wants_help_gets_it(tmp_path, workers):
    results = executors.run(await_help, units(2), tmp_path, workers=workers, title="test", help=help_out)
    assert [pid != os.getpid() for pid in results[0]] == [True]


def test_what_fails_in_help_is_told_with_its_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.2)  # for the worker that waits for the help
    (tmp_path / "broken").touch()
    with pytest.raises(UserError, match="the help of cell0 is broken"):
        executors.run(await_help, units(2), tmp_path, workers=2, title="test", help=help_out)


def test_patience_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "POLL", 0.02)
    todo = units(2)
    with claims.claim(tmp_path, todo[1]), pytest.raises(UserError, match="another process holds cell cell1"):
        executors.run(square, todo, tmp_path, workers=1, title="test", patience=0.1)


@pytest.mark.parametrize("leads", [True, False])
def test_what_is_left_is_told_by_the_process_that_claims(tmp_path, monkeypatch, leads):
    """Of several that train as one another may not see what the first found done, or failed, before it began."""
    monkeypatch.setattr(local, "_processes", lambda: 2)
    monkeypatch.setattr(local, "_leads", lambda: leads)
    monkeypatch.setattr(local, "_together", lambda turns: iter(()))
    monkeypatch.setattr(local.preemption, "requested_anywhere", lambda: False)
    expected = pytest.raises(UserError, match="another process holds cell cell0") if leads else contextlib.nullcontext()
    with expected:
        assert executors.run(square, units(1), tmp_path, workers=1, title="test") == [None]


def sweep(tmp_path, workers, saves=True):
    """A sweep in a process of its own, as a launch script runs it."""
    program = f"""
import sys
from pathlib import Path
from ehr_scaling.grid import executors
from launch.common import common
import jobs as t
sys.argv = ["x"]
def main():
    job = t.count if {saves} else t.hang
    print(executors.run(job, t.units(4), Path({str(tmp_path)!r}), workers={workers}, title="test", saves={saves}))
if __name__ == "__main__":
    common.run(main)
"""
    script = tmp_path / "sweep.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
    return subprocess.Popen(
        [sys.executable, script],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def until(path, process):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps(tmp_path):
    return {path.name: path.read_text().split() for path in (tmp_path / "counts").glob("cell*")}


def test_two_sweeps_on_one_folder_share_the_work_and_take_over_from_a_killed_one(tmp_path):
    first, second = sweep(tmp_path, 1), sweep(tmp_path, 2)
    until(tmp_path / "counts", second)
    time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    out, error = second.communicate(timeout=60)
    assert second.returncode == 0, error
    assert len(json.loads(out.replace("'", '"'))) == 4
    done = steps(tmp_path)
    assert {name: len(pids) for name, pids in done.items()} == dict.fromkeys(("cell0", "cell1", "cell3", "cell4"), 20)
    for pids in done.values():  # never two at one unit: each process's steps are in one piece
        changes = sum(a != b for a, b in pairwise(pids))
        assert changes == len(set(pids)) - 1


@pytest.mark.parametrize(("workers", "group"), [(1, False), (2, False), (2, True)])
def test_sigterm_saves_and_exits_with_its_own_status(tmp_path, workers, group):
    """To the parent alone, as `kill` sends it, and to all processes of the job at once, as Slurm does."""
    process = sweep(tmp_path, workers)
    until(tmp_path / "counts" / "cell4", process)
    if group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    _, error = process.communicate(timeout=30)
    assert process.returncode == 75, error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert lines == ["error: interrupted by SIGTERM: saved; run the same command again to go on"]
    assert "Traceback" not in error
    assert (tmp_path / "counts" / "saved").exists()
    begun = steps(tmp_path)
    assert any(len(pids) < 20 for pids in begun.values()) or len(begun) < 4
    if not group:
        return
    again = sweep(tmp_path, workers)
    _, error = again.communicate(timeout=60)
    assert again.returncode == 0, error
    assert {len(pids) for pids in steps(tmp_path).values()} == {20}


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_breaks_off_what_saves_nothing(tmp_path, workers):
    process = sweep(tmp_path, workers, saves=False)
    until(tmp_path / "begun", process)
    process.terminate()
    _, error = process.communicate(timeout=20)
    assert process.returncode == 75, error
    assert "Traceback" not in error


def test_sigterm_in_a_worker_that_is_starting_is_not_lost(tmp_path):
    process = sweep(tmp_path, 2)
    until(Path(f"/proc/{process.pid}/task/{process.pid}/children"), process)
    deadline = time.monotonic() + 30
    while len(children(process.pid)) < 2:  # the tracker of multiprocessing's resources, then the first worker
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 75, error
    assert "died" not in error


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_workers_end_with_the_sweep_that_is_killed(tmp_path):
    process = sweep(tmp_path, 2)
    until(tmp_path / "counts" / "cell4", process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):  # until nobody of the group is left
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def test_what_was_there_before_does_not_count_towards_the_rate(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress, "A_TOKEN", 0.0)
    monkeypatch.setattr("ehr_scaling.grid.executors.progress.time.monotonic", lambda: clock[0])
    todo = units(3, own_flops=10.0)
    bar = Progress(
        "test", todo, [claims.of_training(unit) for unit in todo]
    )  # 40 FLOPs, of which the second unit is 20
    bar.finish(1)
    bar.advance(0, 5, before=True)
    assert (bar.worked, bar.tokens, bar.eta()) == (25.0, 0.0, None)
    clock[0] += 10.0
    bar.advance(0, 5)  # 5 FLOPs in 10 s, 10 left
    assert bar.eta() == pytest.approx(20.0)
    bar.finish(0)
    assert bar.done == 3
    bar.advance(2, 100)  # more than there was: a job may round up
    assert bar.worked == bar.total
    bar.close()


def test_the_last_units_are_worked_on_alone_and_small_ones_are_slower_a_flop(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("ehr_scaling.grid.executors.progress.time.monotonic", lambda: clock[0])
    flops, tokens = [60.0, 30.0, 20.0, 10.0], [6.0, 3.0, 2.0, 10.0]
    costs = [claims.Cost(f * progress.A_TOKEN, t) for f, t in zip(flops, tokens, strict=True)]
    bar = Progress("test", units(4), costs, workers=2)
    assert bar.total == pytest.approx((sum(flops) + sum(tokens)) * progress.A_TOKEN)
    clock[0] = 33.0
    bar.advance(0, 3.0), bar.advance(1, 3.0)  # 66 of 141 by two workers in 33 s, one a second each
    # 33 of the first are left, and 22 and 20 of two more: one worker takes those two, the other ends earlier
    assert bar.eta() == pytest.approx(42.0)
    bar.advance(2, 2.0), bar.advance(3, 10.0)
    clock[0] = 54.0
    assert bar.eta() == pytest.approx(33.0)
    bar.close()


def test_a_branch_counts_what_it_adds():
    trunk = blank.cell("t", flops=100.0, own_flops=100.0, tokens=1000, own_tokens=1000)
    branch = blank.cell("b", flops=80.0, own_flops=16.0, tokens=800, own_tokens=160)
    assert claims.of_training([trunk, branch]) == (116.0, 1160, 0)


def test_each_worker_has_its_gpu_or_its_core(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert processes.gpus() == []  # JAX has nothing for them here
    monkeypatch.setattr(processes, "_knows_cuda", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert processes.gpus() == ["2", "5"]
    places = processes._places(4, list(range(8)), ["2", "5"], [])
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in places] == ["2", "5", "2", "5"]
    assert {environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for _, environment in places} == {"0.45"}
    assert [cores for cores, _ in places] == [{0, 4}, {1, 5}, {2, 6}, {3, 7}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert processes.gpus() == ["0", "1", "2"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert processes.gpus() == []
    assert processes._places(3, [4, 6], [], []) == [({4}, {}), ({6}, {}), ({4}, {})]
