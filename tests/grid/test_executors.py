"""Cells done in other processes come back in order; what goes wrong there is one line here."""

import os
import signal
import time

import pytest

from ehr_scaling.errors import UserError
from ehr_scaling.grid import executors


def cells(n, **changes):
    return [
        {"id": f"cell{i}", "size": f"s{i % 3}", "flops": 1.0 + i, "tokens": 10, "number": i, **changes}
        for i in range(n)
    ]


def square(cell, workdir, report):
    report(cell["tokens"])
    return cell["number"] ** 2, os.getpid(), len(os.sched_getaffinity(0))


def refuse(cell, workdir, report):
    if cell["number"] == 2:
        raise UserError("the third cell is broken: mend it")
    time.sleep(0.05)
    (workdir / cell["id"]).touch()


def crash(cell, workdir, report):
    raise ZeroDivisionError


def die(cell, workdir, report):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_cells(tmp_path, workers):
    results = executors.run(square, cells(7), tmp_path, workers=workers, title="test")
    assert [value for value, _, _ in results] == [i**2 for i in range(7)]
    processes = {pid for _, pid, _ in results}
    if workers == 1:
        assert processes == {os.getpid()}
    else:
        assert os.getpid() not in processes
        assert {cores for _, _, cores in results} == {1}  # pinned


@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_mistake_comes_through(tmp_path, workers):
    with pytest.raises(UserError, match="the third cell is broken: mend it"):
        executors.run(refuse, cells(4), tmp_path, workers=workers, title="test")


def test_a_bug_in_a_worker_is_one_line_with_its_trace_above(tmp_path, capfd):
    with pytest.raises(UserError, match=r"cell cell\d \(s\d\) failed with ZeroDivisionError"):
        executors.run(crash, cells(4), tmp_path, workers=2, title="test")
    assert "in crash" in capfd.readouterr().err


def test_a_killed_worker_is_noticed(tmp_path):
    with pytest.raises(UserError, match=r"a worker died \(status -9\) on cell cell\d.*--config.workers"):
        executors.run(die, cells(4), tmp_path, workers=2, title="test")
