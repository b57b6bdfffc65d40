"""Who trains what: a claim is a lock on a file of `runs/.claims/`, which the kernel lets go of when its holder dies.

So there is no hand-out and nothing to tidy up: worker processes, sweeps started by hand on one folder, and jobs on
nodes that share a file system with working `flock` (NFS from v4, Lustre mounted with it) all take what nobody holds.
"""

import contextlib
import errno
import fcntl
import heapq
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling import storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Unit
from ehr_scaling.layout import Layout
from ehr_scaling.processes import preemption

NOBODY = -1
POLL = 0.5  # seconds between two looks at units that others hold
_SHARE = 3.0  # of its time at most one part in so many goes on looks at what others hold, which a bucket makes slow
_LOOKED_AT = 32  # units of a size, by which to know whether another process has compiled it
POLL_BUCKET = 5.0  # where each look is a request


class Cost(NamedTuple):
    """What it takes to do a unit."""

    flops: float
    tokens: float
    stays: int = 0  # of a job that scores them, for which the tokens are drawn


def of_training(unit: Unit) -> Cost:
    return Cost(sum(cell.own_flops for cell in unit), sum(cell.own_tokens for cell in unit))


def file_of(workdir: Path, unit: Unit) -> Path:
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
def held(path: Path) -> Iterator[int | None]:
    """As `locked`, between machines too: of a work directory in a bucket the lock is between processes here, and there
    is a lease between machines."""
    lease = storage.lease(path.with_suffix(""))
    with locked(path) as handle:
        ours = handle is not None and (lease is None or lease.take())
        try:
            yield handle if ours else None
        finally:
            if ours and lease is not None:
                lease.release()


def pause(path: Path) -> None:
    """Between two looks at what others hold in a work directory, at any `path` in it."""
    time.sleep(POLL_BUCKET if storage.in_bucket(path) else POLL)


@contextlib.contextmanager
def claim(workdir: Path, unit: Unit) -> Iterator[bool]:
    """Hold `unit` until the block ends, unless another holds it; gives whether it is ours."""
    path = file_of(workdir, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with held(path) as handle:
        if handle is not None:
            about = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
            os.ftruncate(handle, 0)
            os.pwrite(handle, about.encode(), 0)
        yield handle is not None


def holder(workdir: Path, unit: Unit) -> dict[str, Any] | None:
    """host, pid and since (Unix time) of who holds `unit`, or None when nobody does."""
    path = file_of(workdir, unit)
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
        there; shared between the processes of a sweep, and changed here. A unit that was out and is NOBODY's when it
        comes back is not finished: another machine took it over (`job.leave`).
      lend_a_hand: does a part of a unit that another process holds, where there is one to do; gives whether there was.
    """
    by_size: dict[str, _Left] = {}
    for i in sorted(range(len(units)), key=lambda i: (costs[i].flops, -i)):
        by_size.setdefault(units[i][0].size, _Left([], [])).rest.append(i)
    compiled, by_others = set[str](), set[str]()  # sizes
    idle_since = time.monotonic()
    look_again = 0.0  # at what others hold, of which there may be as many as there are machines
    while not preemption.requested():
        for size, left in by_size.items():
            if any(owners[i] not in (NOBODY, me) for i in (*left.tried, *left.rest[-_LOOKED_AT:])):
                by_others.add(size)  # who takes a size begins with its costliest units
            left.tried[:] = [i for i in left.tried if not finished[i]]
            while left.rest and finished[left.rest[-1]]:
                left.rest.pop()
        by_size = {size: left for size, left in by_size.items() if left.tried or left.rest}
        if not by_size:
            return
        all_of_them = time.monotonic() >= look_again
        for i in _by_rank(by_size, costs, compiled, by_others, tried=all_of_them):
            left = by_size[units[i][0].size]
            if left.rest and left.rest[-1] == i:
                left.tried.append(left.rest.pop())
            if finished[i]:
                continue
            looked = time.monotonic()
            with claim(workdir, units[i]) as ours:
                if not ours or finished[i]:
                    look_again = max(look_again, looked) + _SHARE * (time.monotonic() - looked)
                    continue
                owners[i] = me
                compiled.add(units[i][0].size)
                yield i
                finished[i] = int(owners[i] == me)
                idle_since = time.monotonic()
                break
        else:
            held = [i for left in by_size.values() for i in left.tried if not finished[i]]
            if any(map(lend_a_hand, held)):
                idle_since = time.monotonic()
                continue
            if patience is not None and all_of_them and time.monotonic() - idle_since > patience:
                return
            yield None
            pause(workdir)


class _Left(NamedTuple):
    """Units of a size that are left. Each goes from `rest` to `tried` once: what is finished behind one that somebody
    holds is not walked over again at every claim."""

    tried: list[int]  # held by others, as far as is known, or just finished; the costliest first
    rest: list[int]  # the costliest last


def _by_rank(
    by_size: Mapping[str, _Left], costs: Sequence[Cost], first: Collection[str], last: Collection[str], *, tried: bool
) -> Iterator[int]:
    """The units that are left, one by one as they are asked for.

    Args: first, last, sizes that come before the others, and after. tried, whether those come too that others held.
    """
    ranks: dict[int, list[Iterator[int]]] = {0: [], 1: [], 2: []}
    for size, left in by_size.items():
        in_order = itertools.chain(list(left.tried) if tried else [], reversed(left.rest))
        ranks[0 if size in first else 2 if size in last else 1].append(in_order)
    for sizes in ranks.values():
        yield from heapq.merge(*sizes, key=lambda i: (-costs[i].flops, i))
