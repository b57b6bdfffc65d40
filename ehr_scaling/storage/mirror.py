"""The mirror of a bucket on this machine's disk, in which everything is worked on: what comes, goes and is kept."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any

from ehr_scaling.errors import TakenOver, UserError
from ehr_scaling.storage import leases
from ehr_scaling.storage.bucket import AT_ONCE, SCHEMES, Bucket

LEASES = ".leases"  # folder of a bucket
BUCKET = ".bucket.json"  # in the root of a mirror: {"url", "exclusive"}, the latter once it is known
CHECKPOINT = "files.json"  # record of a checkpoint, which lies in a folder named by its step
RECORDS = ("artifact.json", CHECKPOINT)  # written last


def local(workdir: str, flag: str = "--workdir") -> Path:
    """The folder to work in for a work directory that may be in a bucket: itself, or its mirror.

    Mirrors lie in $EHR_SCALING_MIRRORS, by default ~/.cache/ehr_scaling/mirrors. It is warned of a store in
    which two machines may hold one lease.
    Args: flag, by which it was given.
    Raises: UserError for a scheme that is none of SCHEMES, one whose package is missing, and a bucket that cannot be
      listed.
    """
    if not (match := re.match(r"([a-z][a-z0-9+.-]*)(://.*)", workdir, re.IGNORECASE)):
        return Path(workdir).absolute()
    scheme = match[1].lower()
    url = scheme + match[2].rstrip("/")
    if scheme not in SCHEMES:
        raise UserError(f"{flag}={workdir}: take a folder, or a bucket of {', '.join(f'{s}://' for s in SCHEMES)}")
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ehr_scaling" / "mirrors"
    root = Path(os.environ.get("EHR_SCALING_MIRRORS", base))
    mirror = root / f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    bucket = Bucket(url)
    bucket.check(flag)
    mirror.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = mirror / BUCKET
    known = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
    if "exclusive" not in known:
        exclusive = bucket.exclusive(f"{LEASES}/.asked/{uuid.uuid4().hex}")
        known = {"url": url} if exclusive is None else {"url": url, "exclusive": exclusive}
        _write(about, known)
    if not known.get("exclusive", True):
        print(
            f"warning: {url} is in a store that writes an object although it was to be made only where there is none: "
            "two machines may take the same work, so run one at a time there (AWS S3 and Google's own store do not)",
            file=sys.stderr,
            flush=True,
        )
    return mirror.absolute()


def given(workdir: Path) -> str:
    """A work directory as commands take it, on any machine: of a mirror the bucket that it is of."""
    return _url(workdir) or str(workdir)


def fetch(path: Path, pattern: str = "*", *, overwrite: bool = False, gone: bool = False) -> None:
    """Bring what the bucket has of the file or folder `path` and is not here, or is another version here.

    A file that has changed here since it came or went stays, unless `overwrite`: for whoever works on it alone. One
    that was there, and is not any more, goes here too where `path` is its own, or with `gone`: for what others take
    away, since an object that was just written may not be listed yet. With `overwrite` a checkpoint that the bucket
    lacks goes here: the log that comes ends before it, and it is made again, as it would be on another machine. One of
    which `pattern` has brought a part alone goes in any case.

    What lies in a folder below `path` whose name begins with a dot is scratch: it comes to who asks for that folder.

    Args: pattern, of names below `path` (fnmatch, whose * crosses folders).
    Raises: Unavailable where the bucket does not answer.
    """
    if (mirror := _mirror(path)) is None:
        return
    bucket, root = mirror
    wanted = []
    listed = bucket.glance(_key(root, path))
    for file in [path] if path.is_file() else path.glob("**/*" if pattern == "*" else pattern) if gone else ():
        key = _key(root, file)
        if key not in listed and (note := _note(root, key)).is_file() and (file == path or not _changed(root, key)):
            file.unlink(missing_ok=True)  # another process of this machine may do the same
            note.unlink(missing_ok=True)
    for key, about in _whole(listed).items():
        if not overwrite and _changed(root, key):
            continue
        below = "" if root / key == path else (root / key).relative_to(path).as_posix()
        if (not below or fnmatch(below, pattern)) and not _scratch(below) and not _same(root, key, about):
            wanted.append((key, about["version"], about["size"]))
    for step in _checkpoints(root, path):
        if f"{_key(root, step)}/{CHECKPOINT}" not in listed and (overwrite or _part(root, step, path, pattern)):
            _drop(root, step)
    # Records last, so that a reader beside us finds no folder that only looks whole
    for part in _by_record(wanted, lambda entry: entry[0]):
        _all(partial(_bring, bucket, root), part)


_STEP = re.compile(r"(?:.*/)?runs/[^/]+/\d+")  # key of a checkpoint's folder


def _checkpoints(root: Path, path: Path) -> Iterator[Path]:
    """The folders of checkpoints that are here, at or below `path`, whole or not."""
    if "runs" not in _key(root, path).split("/"):
        return
    for place, folders, _ in os.walk(path):
        if _STEP.fullmatch(_key(root, Path(place))):
            folders.clear()  # it is not looked into
            yield Path(place)


def _part(root: Path, step: Path, path: Path, pattern: str) -> bool:
    """Whether all that is here of a checkpoint is what `fetch(path, pattern)` brought of it, and not its record."""
    files = [file for file in step.rglob("*") if file.is_file()]
    return bool(files) and all(
        fnmatch(file.relative_to(path).as_posix(), pattern)
        and file != step / CHECKPOINT
        and not _changed(root, _key(root, file))
        for file in files
    )


def _drop(root: Path, folder: Path) -> None:
    """Take a folder of the mirror away, at once for whoever looks at it."""
    going = folder.with_name(f".{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):  # another process of this machine may do the same
        folder.rename(going)
    for place in (going, _note(root, _key(root, folder))):
        shutil.rmtree(place, ignore_errors=True)


def _whole(listed: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the checkpoints that lack their record: whoever handed them over died on the way, or is not through."""
    kept = {}
    for key, about in listed.items():
        step = _STEP.match(key)
        if step is None or key[step.end() :][:1] != "/" or f"{step[0]}/{CHECKPOINT}" in listed:
            kept[key] = about
    return kept


def store(path: Path, *, alone: bool = False) -> None:
    """Hand the file or folder `path` over: what the bucket has not, and then the records of it.

    Names below it that begin with a dot are scratch, and stay here.
    Args: alone, whether whatever else the bucket has there goes before the records are written: of one who died.
    Raises: Unavailable where the bucket does not answer, TakenOver where another machine has taken over what this
      process holds.
    """
    if (mirror := _mirror(path)) is None:
        return
    _may_write(path)
    bucket, root = mirror
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    there = bucket.list(_key(root, path))
    entries = []
    for file in files:
        key = _key(root, file)
        if not _scratch(file.relative_to(path).as_posix()) and not _same(root, key, there.get(key)):
            entries.append((key,))
    if alone:
        others = there.keys() - {_key(root, file) for file in files}
        _all(partial(_remove, bucket, root), [(key,) for key in sorted(others)])
    for part in _by_record(entries, lambda entry: entry[0]):
        _all(partial(_hand_over, bucket, root), part)


def _scratch(below: str) -> bool:
    return any(part.startswith(".") for part in Path(below).parts)


def handed_over(path: Path) -> bool:
    """Whether the bucket has the file `path`; True where there is no bucket."""
    return (mirror := _mirror(path)) is None or _key(mirror[1], path) in mirror[0].glance(_key(mirror[1], path))


def unsent(path: Path) -> bool:
    """Whether the file `path` was written here and never handed over since; False where there is no bucket."""
    return (mirror := _mirror(path)) is not None and _changed(mirror[1], _key(mirror[1], path))


def forget(path: Path) -> None:
    """Take what lies at and below `path` out of the bucket, records first, and leases of it. Here it stays.

    Raises: as `store`, but where there is nothing to take.
    """
    if (mirror := _mirror(path)) is None:
        return
    bucket, root = mirror
    of_path = _key(root, path)
    entries = [(key,) for place in (of_path, f"{LEASES}/{of_path}") for key in bucket.list(place)]
    for part in reversed(_by_record(entries, lambda entry: entry[0])):
        _all(partial(_remove, bucket, root), part)


def names(path: Path) -> set[str]:
    """Of what lies directly in `path`, here and in its bucket."""
    here: set[str] = set()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it may go while this looks
        here = {entry.name for entry in path.iterdir()}
    if (mirror := _mirror(path)) is None:
        return here
    bucket, root = mirror
    prefix = _key(root, path)
    return here | {key.removeprefix(f"{prefix}/").split("/")[0] for key in bucket.list(prefix)}


@contextlib.contextmanager
def listed(*paths: Path) -> Iterator[None]:
    """Until the block ends, `fetch`, `handed_over` and `Lease.holder` of what lies at and below `paths` go by one
    listing of each, made when the first is asked: for a look at many, which need not see what others do meanwhile."""
    if (mirror := _mirror(paths[0])) is None:
        yield
        return
    bucket, root = mirror
    keys = [_key(root, path) for path in paths]
    with bucket.listed(*keys, *(f"{LEASES}/{key}" for key in keys)):
        yield


def in_bucket(path: Path) -> bool:
    """Whether `path` is in the mirror of one."""
    return _mirror(path) is not None


def doubtful_locks(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The kind of file system of `path` where it is one in user space (gcsfuse, s3fs, rclone): those grant locks that
    other machines know nothing of. None elsewhere, and where mounts are not told."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    resolved = path.resolve()
    over = [(m[1], m[2]) for m in lines if len(m) > 2 and resolved.is_relative_to(m[1].replace("\\040", " "))]
    kind = max(over, key=lambda mount: len(mount[0]), default=("", ""))[1]
    return kind if kind == "fuse" or kind.startswith("fuse.") else None


@cache
def lease(path: Path) -> leases.Lease | None:
    """The lease named by `path`, which need not be a file; None where that is not in a mirror.

    It is the same at every call, since it knows since when it has watched its holder.
    """
    if (mirror := _mirror(path)) is None:
        return None
    bucket = _bucket(mirror[0].url, apart=True)  # it is renewed in time whatever is being transferred
    return leases.Lease(bucket, f"{LEASES}/{_key(mirror[1], path)}")


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Until the block ends nobody else, on any machine, is in such a block of the same path."""
    ours = lease(path)
    told = False
    while ours is not None and not ours.take():
        if not told:
            print(f"{path}: another machine is making the same thing, waiting for it", flush=True)
            told = True
        time.sleep(min(leases.TTL / 6, 5.0))
    try:
        yield
    finally:
        if ours is not None:
            ours.release()


def _mirror(path: Path) -> tuple[Bucket, Path] | None:
    """The bucket that `path` is a mirror of, and the mirror's root."""
    for folder in (path, *path.parents):
        if (url := _url(folder)) is not None:
            return _bucket(url), folder
    return None


@cache
def _known(folder: Path) -> str:
    return str(json.loads((folder / BUCKET).read_text(encoding="utf-8"))["url"])


def _url(folder: Path) -> str | None:
    return _known(folder) if (folder / BUCKET).is_file() else None


@cache
def _bucket(url: str, *, apart: bool = False) -> Bucket:
    return Bucket(url, apart=apart)


def _key(root: Path, path: Path) -> str:
    return "" if path == root else path.relative_to(root).as_posix()


def _by_record(entries: list[Any], key: Callable[[Any], str]) -> list[list[Any]]:
    """Entries in the order in which they may be seen: files, then the records of what they lie in."""
    rank = {name: i for i, name in enumerate(RECORDS, 1)}
    parts: dict[int, list[Any]] = {}
    for entry in entries:
        parts.setdefault(rank.get(key(entry).rsplit("/", 1)[-1], 0), []).append(entry)
    return [parts[i] for i in sorted(parts)]


def _same(root: Path, key: str, about: dict[str, Any] | None) -> bool:
    """Whether a file of the mirror is what the bucket holds: of its size, and not touched since it came or went."""
    here = root / key
    if about is None or not here.is_file() or (stat := here.stat()).st_size != about["size"]:
        return False
    try:
        known = json.loads(_note(root, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return known == [about["version"], stat.st_mtime_ns]


def _changed(root: Path, key: str) -> bool:
    """Whether a file of the mirror was written here since it came or went, or never did."""
    here = root / key
    try:
        return bool(json.loads(_note(root, key).read_text(encoding="utf-8"))[1] != here.stat().st_mtime_ns)
    except FileNotFoundError:
        return here.is_file()
    except (OSError, ValueError, IndexError):
        return True


def _note(root: Path, key: str) -> Path:
    return root / ".versions" / key


def _remember(root: Path, key: str, version: str) -> None:
    """That a file of the mirror is that version of its object, for whoever works in this mirror next."""
    note = _note(root, key)
    note.parent.mkdir(parents=True, exist_ok=True)
    _write(note, [version, (root / key).stat().st_mtime_ns])


def _write(path: Path, content: Any) -> None:
    new = path.with_name(f".{uuid.uuid4().hex}")
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(path)


def _bring(bucket: Bucket, root: Path, key: str, version: str, size: int) -> None:
    """An object to the mirror, whole or not at all."""
    here = root / key
    here.parent.mkdir(parents=True, exist_ok=True)
    incoming = here.with_name(f".{uuid.uuid4().hex}")
    try:
        bucket.get(key, incoming, size)
        if incoming.exists():
            incoming.replace(here)
            _remember(root, key, version)
    finally:
        incoming.unlink(missing_ok=True)


def _hand_over(bucket: Bucket, root: Path, key: str) -> None:
    _may_write(root / key, leases.TTL / 2)
    _remember(root, key, bucket.put(key, root / key))


def _remove(bucket: Bucket, root: Path, key: str) -> None:
    _may_write(root / key, leases.TTL / 2)
    bucket.remove(key)


def _may_write(path: Path, patience: float = 0.0) -> None:
    """Asked object by object, since a machine may sleep between two. Raises TakenOver where its work is another's."""
    if leases.any_lost(patience):
        raise TakenOver(
            f"{path}: this machine did not answer for {leases.TTL:g} s, and another has taken its work over: what was "
            "done since is left out; run the same command again to go on with something else"
        )


def _all(do: Callable[..., Any], entries: Iterable[tuple[Any, ...]]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda entry: do(*entry), entries))
