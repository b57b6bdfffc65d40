"""The folder of a report: made in private, swapped in whole under a lock, and what is not of the analysis kept."""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from ehr_scaling.errors import UserError

MARK = "laws.json"  # what makes a folder a report; its "files" are what the analysis wrote there
FORECAST = "forecast.json"
ALWAYS = (MARK, FORECAST, "report.html")  # of any report, those of versions that kept no list too


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A folder of this process alone, to be filled; it takes the place of the report `out` when the block ends well.

    Files in `out` that no analysis wrote are kept. Several processes may do this at once: the last to end stands.
    Raises: UserError when `out` holds something that is not a report, or the user's file has a name of the new ones.
    """
    out = out.resolve()  # a link stays a link, and "." gets a name
    with _locked(out.parent):
        _recover(out)
        _check(out)
        _sweep(out)
        partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.partial")
        partial.mkdir()
        held = os.open(partial, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)  # as long as this process lives; see _sweep
    try:
        yield partial
        with _locked(out.parent):
            _recover(out)
            _check(out)
            _swap(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(held)


def files(folder: Path) -> list[str]:
    """Of everything below a folder, the names from there."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


@contextlib.contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Hold the folder in which reports are swapped, for moments; the kernel lets go of it when a process dies."""
    parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise UserError(
            f"{out} exists and is not a report: take it away or name another folder, nothing is overwritten"
        )


def _sweep(out: Path) -> None:
    """Removes what analyses of `out` left that were killed: folders that nobody holds."""
    for folder in out.parent.glob(f".{_literal(out.name)}.*.partial"):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _swap(partial: Path, out: Path) -> None:
    """Puts the finished folder in place of the old one; what a kill in between leaves, `_recover` mends."""
    if out.exists():
        ours = _written(out)
        clash = set() if ours is None else (set(files(out)) - ours) & set(files(partial))
        if clash:
            raise UserError(f"{out / min(clash)} is not of the analysis, which needs that name: rename your file")
        out.replace(_old(out))
    partial.replace(out)
    _recover(out)


def _recover(out: Path) -> None:
    """Ends what `_swap` began: the old folder comes back, or the user's files in it move to the new one."""
    old = _old(out)
    if not old.exists():
        return
    if not out.exists():
        old.replace(out)
        return
    for name in sorted(set(files(old)) - (_written(old) or set(ALWAYS)) - set(files(out))):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).replace(out / name)
    shutil.rmtree(old)


def _written(report: Path) -> set[str] | None:
    """The files that an analysis wrote into a report; None where it kept no list of them."""
    try:
        listed = json.loads((report / MARK).read_text(encoding="utf-8"))["files"]
        return {*ALWAYS, *map(str, listed)}
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


def names(values: Iterable[str]) -> list[str]:
    """Values of a column as names of folders, numbered where they would be the same: <1B and >1B are 1B and 1B_2."""
    taken: list[str] = []
    for value in values:
        name = again = re.sub(r"[^\w.+-]+", "_", value).strip("._")[:80] or "empty"
        for number in itertools.count(2):
            if again.lower() not in map(str.lower, taken):  # some file systems do not tell them apart
                break
            again = f"{name}_{number}"
        taken.append(again)
    return taken
