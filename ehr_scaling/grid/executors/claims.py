"""Who trains what: a claim is a lock on a file of `runs/.claims/`, which the kernel lets go of when its holder dies.

So there is no hand-out and nothing to tidy up: worker processes, sweeps started by hand on one folder, and jobs on
nodes that share a file system with working `flock` (NFS from v4, Lustre mounted with it) all take what nobody holds.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, MutableSequence, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling import preemption, storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Unit
from ehr_scaling.layout import Layout

NOBODY = -1
POLL = 0.5  # seconds between two looks at units that others hold
POLL_BUCKET = 5.0  # where each look is a request


class Cost(NamedTuple):
    """What it takes to do a unit."""

    flops: float
    tokens: float
    stays: int = 0  # of a job that scores them, for which the tokens are drawn


def of_training(unit: Unit) -> Cost:
    return Cost(sum(cell.own_flops for cell in unit), sum(cell.own_tokens for cell in unit))


def _path(workdir: Path, unit: Unit) -> Path:
    """Named by one of its cells, so that the order of cells does not matter, nor what else they are grouped by."""
    return Layout(workdir).claim(min(cell.id for cell in unit))


def _lock(handle: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise UserError(
                f"{path.parent} is on a file system without flock, by which processes share the work: mount it with "
                "locks, or take a --workdir elsewhere"
            ) from None
        raise
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """Hold a file until the block ends: its handle, or None where another holds it. Raises: FileNotFoundError."""
    handle = os.open(path, os.O_RDWR)  # NFS locks for writing only what is open for it
    try:
        yield handle if _lock(handle, fcntl.LOCK_EX, path) else None
    finally:
        os.close(handle)


@contextlib.contextmanager
def claim(workdir: Path, unit: Unit) -> Iterator[bool]:
    """Hold `unit` until the block ends, unless another holds it; gives whether it is ours."""
    path = _path(workdir, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    # Of a work directory in a bucket the lock is between processes here, the lease between machines
    lease = storage.lease(path.with_suffix(""))
    with locked(path) as handle:
        ours = handle is not None and (lease is None or lease.take())
        if ours and handle is not None:
            about = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
            os.ftruncate(handle, 0)
            os.pwrite(handle, about.encode(), 0)
        try:
            yield ours
        finally:
            if ours and lease is not None:
                lease.release()


def holder(workdir: Path, unit: Unit) -> dict[str, Any] | None:
    """host, pid and since (Unix time) of who holds `unit`, or None when nobody does."""
    path = _path(workdir, unit)
    if (lease := storage.lease(path.with_suffix(""))) is not None:
        held = lease.holder()
        return held._asdict() if held else None
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _lock(handle, fcntl.LOCK_SH, path):
            return None
        try:
            return dict(json.loads(os.pread(handle, 4096, 0)))
        except json.JSONDecodeError:  # it is being written
            return {"host": "?", "pid": 0, "since": time.time()}
    finally:
        os.close(handle)


def in_turn(
    workdir: Path,
    units: list[Unit],
    costs: Sequence[Cost],
    me: int,
    owners: MutableSequence[int],
    finished: MutableSequence[int],
    patience: float | None = None,
    lend_a_hand: Callable[[int], bool] = lambda i: False,
) -> Generator[int | None]:
    """Units to do, by number, each claimed while it is out; None now and then while all that are left are held.

    The costliest come first, those of sizes this process has compiled before the others, and sizes compiled by another
    process of the sweep last. Ends when all are finished, when SIGTERM has come, or when for `patience` seconds there
    was nothing to claim.

    Args:
      me: number of this process in its sweep.
      owners, finished: of each unit, the process of this sweep that took it (or NOBODY), and whether its result is
        there; shared between the processes of a sweep, and changed here.
      lend_a_hand: does a part of a unit that another process holds, where there is one to do; gives whether there was.
    """
    compiled: set[str] = set()
    size = [unit[0].size for unit in units]
    idle_since = time.monotonic()
    while not preemption.requested():
        left = [i for i in range(len(units)) if not finished[i]]
        if not left:
            return
        others = {size[i] for i, who in enumerate(owners) if who not in (NOBODY, me)}
        ranks = {i: (0 if size[i] in compiled else 1 if size[i] not in others else 2, -costs[i].flops) for i in left}
        for i in sorted(left, key=ranks.__getitem__):
            with claim(workdir, units[i]) as ours:
                if not ours or finished[i]:
                    continue
                owners[i] = me
                compiled.add(size[i])
                yield i
                finished[i] = 1
                idle_since = time.monotonic()
                break
        else:
            if any(map(lend_a_hand, left)):
                idle_since = time.monotonic()
                continue
            if patience is not None and time.monotonic() - idle_since > patience:
                return
            yield None
            time.sleep(POLL_BUCKET if storage.in_bucket(workdir) else POLL)
