"""Jobs that stand for training in tests of the executors; other processes import them from here."""

import os
import signal
import threading
import time
from dataclasses import dataclass

from ehr_scaling import storage
from ehr_scaling.errors import Preempted, RunFailed, Unavailable, UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.grid.executors import claims
from ehr_scaling.processes import preemption
from tests import blank


@dataclass(frozen=True, kw_only=True)
class Made(Cell):
    """With what the jobs here go by."""

    number: int = 0
    pause: float | None = None


def units(n, **changes):
    """n units of one cell, but the second, which has two."""
    about = {"kind": Made, "own_tokens": 10}
    cells = [
        blank.cell(f"cell{i}", **{**about, "number": i, "size": f"s{i % 3}", "own_flops": 1.0 + i, **changes})
        for i in range(n + 1)
    ]
    return [cells[:1], cells[1:3], *([cell] for cell in cells[3:])][:n]


def square(unit, workdir, report):
    for cell in unit:
        report(cell.own_tokens)
    return [(cell.number**2, os.getpid(), len(os.sched_getaffinity(0))) for cell in unit]


def hand_over(unit, workdir, report):
    """Of a work directory in a bucket: what it was made in."""
    path = workdir / "made" / unit[0].id
    path.parent.mkdir(exist_ok=True)
    path.write_text(str(workdir))
    storage.store(path)
    return [None for _ in unit]


def refuse(unit, workdir, report):
    if unit[0].number == 1:
        raise UserError("the second unit is broken: mend it")
    time.sleep(0.05)
    return [None for _ in unit]


def lose_touch(unit, workdir, report):
    raise Unavailable("the bucket does not answer")


def lose_device(unit, workdir, report):
    raise RuntimeError("INTERNAL: the device is gone")


def lose_hold(unit, workdir, report):
    """Of a work directory in a bucket: the first unit, when it is first done, is taken over by another machine, which
    lets go of it half a second later. Gives, for the last cell of a unit, what this process had begun before."""
    claims.POLL_BUCKET = 0.05
    _BEGUN.append(unit[0].id)
    time.sleep(unit[0].pause or 0.0)
    if unit[0].number == 0 and not (workdir / "lost").exists():
        (workdir / "lost").touch()
        ours = storage.lease(claims.file_of(workdir, unit).with_suffix(""))
        ours._renewed = (-1e9, -1e9)  # as one that has slept
        theirs, key = ours._bucket, f"{ours._name}/{ours._number + 1}"
        assert theirs.create(key, ours._content(held=True))
        threading.Timer(0.5, lambda: theirs.write(key, ours._content(held=False))).start()
    return [*hand_over(unit, workdir, report)[1:], _BEGUN[:-1]]


_BEGUN = []


def fail(unit, workdir, report):
    if unit[0].number == 1 or (workdir / "all").exists():
        raise RunFailed(f"{unit[0].id} cannot go on")
    return square(unit, workdir, report)


def crash(unit, workdir, report):
    raise ZeroDivisionError


def die(unit, workdir, report):
    os.kill(os.getpid(), signal.SIGKILL)


def count(unit, workdir, report):
    """Twenty steps of 0.02 s or of `pause`, saved at SIGTERM and gone on with; writes down who did which."""
    folder = workdir / "counts"
    folder.mkdir(exist_ok=True)
    path = folder / unit[0].id
    begun = len(path.read_text().split()) if path.exists() else 0
    report(begun, before=True)
    for _ in range(begun, 20):
        if preemption.requested():
            (folder / "saved").touch()
            raise Preempted(preemption.SAVED)
        time.sleep(unit[0].pause or 0.02)
        with path.open("a") as file:
            file.write(f"{os.getpid()} ")
        report(1)
    return [begun for _ in unit]


def await_help(unit, workdir, report):
    """The first unit ends when another process has helped it, and tells which; the second at once."""
    until = time.monotonic() + 60
    while unit[0].number == 0 and not (workdir / "helped").exists():
        (workdir / "wanted").touch()
        assert time.monotonic() < until
        time.sleep(0.02)
    if unit[0].number:
        return [os.getpid()]
    helper = int((workdir / "helped").read_text())
    assert helper != os.getpid()
    return [helper]


def help_out(unit, workdir, report):
    if unit[0].number or not (workdir / "wanted").exists() or (workdir / "helped").exists():
        return False
    if (workdir / "broken").exists():
        raise UserError(f"the help of {unit[0].id} is broken")
    report(5)
    partial = workdir / "partial"
    partial.write_text(str(os.getpid()))
    partial.rename(workdir / "helped")
    return True


def save(unit, workdir, report):
    """Asked to end at once."""
    raise Preempted(preemption.SAVED)


def hang(unit, workdir, report):
    (workdir / "begun").touch()
    time.sleep(60)


def finished(unit, workdir):
    """What is there of `count`."""
    path = workdir / "counts" / unit[0].id
    return [0 for _ in unit] if path.exists() and len(path.read_text().split()) == 20 else None


def full(unit, workdir, report):
    """By two processes of `jax.distributed`: the disk of one is full, the other waits for it."""
    import errno

    import jax

    if jax.process_index() == 1:
        raise OSError(errno.ENOSPC, "x")
    preemption.requested_anywhere()


def count_together(unit, workdir, report):
    """As `count`, by all processes of `jax.distributed` at once; each writes down its own steps."""
    import jax

    path = workdir / f"{unit[0].id}-{jax.process_index()}"
    (workdir / "pids").mkdir(exist_ok=True)
    (workdir / "pids" / path.name).write_text(str(os.getpid()))
    for _ in range(len(path.read_text()) if path.exists() else 0, 20):
        if preemption.requested_anywhere():
            raise Preempted
        time.sleep(unit[0].pause or 0.0)
        with path.open("a") as file:
            file.write("x")
    return [jax.process_index() for _ in unit]


def count_on_nodes(unit, workdir, report):
    """As `count_together`, by nodes of one task; who queues it again is soon done here, and not waited for long."""
    from ehr_scaling.grid.executors import slurm

    slurm._AFTER = 1.0
    return count_together(unit, workdir, report)
