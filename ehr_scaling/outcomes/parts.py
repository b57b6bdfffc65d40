"""What a model says of many stays, computed in parts that are kept: who is killed goes on, and others help.

A folder is of one such computation. Of each part there is a mark in it, `<begin>.part`, which whoever computes the part
locks, between machines of a bucket by a lease, and later the part itself, `<begin>.npz`. So processes and machines
share a computation whoever began it, and nothing of it is made twice, but for what one that hangs was at.
"""

import contextlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid.executors import claims
from ehr_scaling.processes import preemption

AT_ONCE = 1_024  # stays that are computed between two saves
PATIENCE = 120.0  # seconds without anything new from helpers, at least, after which one is taken to hang
OPEN = ".part"  # beside where a part will be: what is locked by who computes it

Report = Callable[..., None]  # an `executors.Report`
T = TypeVar("T", bound=NamedTuple)


class Work(NamedTuple, Generic[T]):
    """What is to be computed of each of n stays.

    kind: what comes of m of them: a NamedTuple of arrays, whose first axis is the stays.
    compute: of some stays, int (m,) rows; calls its second argument with what is done, in all m · each.
    each: what a stay counts as, of what is reported.
    """

    stays: int
    kind: type[T]
    compute: Callable[[np.ndarray, Report], T]
    each: int = 1


def compute_all(work: Work[T], scratch: Path, report: Report) -> T:
    """What comes of all stays, in parts that are kept in the folder `scratch`: what is there is not computed again.

    The folder must be that of this work alone. Whoever finds it may compute parts too, see `compute_free`, where it is
    in a bucket on other machines; parts are in the bucket then. Those are waited for, but not for ever: what a helper
    has not brought in PATIENCE, or twice the time that a part took here, is computed here too.
    Raises: UserError where a part is damaged; Preempted after SIGTERM, where that was put off.
    """
    artifacts.work_directory(scratch)
    storage.fetch(scratch)
    files = [scratch / f"{begin}.npz" for begin in range(0, work.stays, AT_ONCE)]
    for file in files:
        if not (mark := file.with_suffix(OPEN)).exists():
            mark.write_text("to be computed\n", encoding="utf-8")
    storage.store(scratch)
    parts = {file: _loaded(work, file) for file in files if file.exists()}  # by earlier processes
    for part in parts.values():
        report(len(part[0]) * work.each, before=True)
    slowest, heard = 0.0, time.monotonic()  # seconds of a part; when one last came
    while True:
        begun = time.monotonic()
        new = compute_free(work, scratch, report)
        if new:
            slowest = max(slowest, (time.monotonic() - begun) / len(new))
        storage.fetch(scratch, "*.npz")
        new |= {file: _loaded(work, file) for file in files if file not in parts | new and file.exists()}  # by helpers
        parts |= new
        if len(parts) == len(files):
            return work.kind._make(map(np.concatenate, zip(*(parts[file] for file in files), strict=True)))
        preemption.check()
        if not scratch.exists():
            raise UserError(f"{scratch} has gone, in which parts of what a model says are kept: run it again")
        if new:
            heard = time.monotonic()
        elif time.monotonic() - heard > max(PATIENCE, 2 * slowest):  # hung: what it may yet bring will be the same
            file = next(file for file in files if file not in parts)
            parts[file] = _computed(work, file, report)
        else:
            claims.pause(scratch)  # a helper computes the rest, or has died


def compute_free(work: Work[T], scratch: Path, report: Report) -> dict[Path, T]:
    """Compute the parts of a work under way that nobody has computed or is at; gives them by their files."""
    parts = {}
    with contextlib.closing(_free(scratch)) as files:
        for file in files:
            try:
                parts[file] = _computed(work, file, report)
            except UserError:
                if scratch.exists():
                    raise
                break  # all was there while this was computed once more
    return parts


def forget(scratch: Path) -> None:
    """Of a folder of parts, or one of such folders, here and in the bucket: what comes to it later is not kept."""
    storage.forget(scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def wants_help(scratch: Path) -> bool:
    """Whether a work is under way in the folder `scratch` of which a part is neither there nor being computed."""
    with contextlib.closing(_free(scratch)) as files:
        return next(files, None) is not None


def _computed(work: Work[T], file: Path, report: Report) -> T:
    """Compute and keep one part."""
    begin, every = int(file.stem), np.arange(work.stays)
    part = work.compute(every[begin : begin + AT_ONCE], report)
    with artifacts.writing(file) as partial:
        np.savez(partial, **part._asdict())
    # Of a lease that was lost another machine computes the part; without the mark all was there meanwhile
    lost = (lease := storage.lease(file.with_suffix(""))) is not None and lease.lost
    if not lost and storage.handed_over(mark := file.with_suffix(OPEN)):
        try:
            storage.store(file)
        except UserError:
            if lease is None or not lease.lost:
                raise
        if not storage.handed_over(mark):  # forgotten while it was stored
            storage.forget(file)
    return part


def _free(scratch: Path) -> Generator[Path]:
    """The files of parts that nobody has computed or is at, each ours while it is out."""
    there, marks = storage.names(scratch), []
    with contextlib.suppress(FileNotFoundError):  # the folder goes at the end
        marks = sorted(scratch.glob(f"*{OPEN}"), key=lambda mark: int(mark.stem))
    for mark in marks:
        file = mark.with_suffix(".npz")
        if file.name in there:
            continue
        with contextlib.suppress(FileNotFoundError), claims.held(mark) as handle:
            if handle is None or file.name in (there := storage.names(scratch)):
                continue
            # What was locked may have gone with it before it was
            if os.path.samestat(os.fstat(handle), mark.stat()) and storage.handed_over(mark):
                yield file


def _loaded(work: Work[T], path: Path) -> T:
    try:
        with np.load(path, allow_pickle=False) as file:
            return work.kind._make(file[name] for name in work.kind._fields)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is damaged ({type(e).__name__}): delete it and run again") from None
