"""A work directory in a bucket: everything is worked on in a mirror of it on this machine's disk.

`--workdir=gs://bucket/study` (or s3://) gives a local folder, the mirror, in which `BUCKET` names the bucket. Whoever
reads something asks for it first (`fetch`), whoever has made something hands it over (`store`); of a folder that is
not in a mirror both do nothing. A commit is the record that is written last: `store` puts it after the files that it
vouches for. Who works on what is told by leases (`lease`), since buckets have no locks.

Only four things are asked of a bucket, which all have had for years: put an object, put it unless it is there, get it,
list them. They come from fsspec (gcsfs, s3fs: the extra `cloud`).
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ehr_scaling.errors import UserError, first_line

T = TypeVar("T")
LEASES = ".leases"  # folder of a bucket
BUCKET = ".bucket.json"  # in the root of a mirror: {"url"}
SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "file": "fsspec"}  # and the package that each needs
CHECKPOINT = "files.json"  # record of a checkpoint, which lies in a folder named by its step
RECORDS = ("artifact.json", CHECKPOINT)  # written last
TTL = 60.0  # seconds after which a lease that nobody renews is taken over
TIMEOUT, TRIES = 120.0, 5  # seconds of one request without an answer; tries of it
SLOWEST = 1e6  # bytes/s of a transfer, below which it is given up
_AT_ONCE = 16  # requests of one fetch or store


class Held(NamedTuple):
    """Who holds a lease."""

    host: str
    pid: int
    since: float  # Unix time


def local(workdir: str) -> Path:
    """The folder to work in for a work directory that may be in a bucket: itself, or its mirror.

    Mirrors lie in $EHR_SCALING_MIRRORS, by default ~/.cache/ehr_scaling/mirrors.
    Raises: UserError for a scheme that is none of SCHEMES, one whose package is missing, and a bucket that cannot be
      listed.
    """
    if not (match := re.match(r"([a-z][a-z0-9+.-]*)://", workdir)):
        return Path(workdir).absolute()
    scheme, url = match[1], workdir.rstrip("/")
    if scheme not in SCHEMES:
        raise UserError(f"--workdir={workdir}: take a folder, or a bucket of {', '.join(f'{s}://' for s in SCHEMES)}")
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ehr_scaling" / "mirrors"
    root = Path(os.environ.get("EHR_SCALING_MIRRORS", base))
    mirror = root / f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    _Bucket(url).check()
    mirror.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = mirror / BUCKET
    if not about.exists():
        partial = about.with_name(f".{uuid.uuid4().hex}")
        partial.write_text(json.dumps({"url": url}), encoding="utf-8")
        partial.replace(about)
    return mirror.absolute()


def fetch(path: Path, pattern: str = "*", *, overwrite: bool = False) -> None:
    """Bring what the bucket has of the file or folder `path` and is not here, or is another version here.

    A file that has changed here since it came or went stays, unless `overwrite`: for whoever works on it alone. One
    that was there, and is not any more, goes here too where `path` is its own.

    Args: pattern, of names below `path` (fnmatch, whose * crosses folders).
    Raises: UserError where the bucket does not answer.
    """
    if (found := _mirror(path)) is None:
        return
    bucket, root = found
    wanted = []
    listed = bucket.list(_key(root, path))
    if not listed and path.is_file() and (note := _note(root, _key(root, path))).is_file():
        path.unlink()
        note.unlink()
    for key, about in _whole(listed).items():
        if not overwrite and _changed(root, key):
            continue
        below = "" if root / key == path else (root / key).relative_to(path).as_posix()
        if (not below or fnmatch(below, pattern)) and not _same(root, key, about):
            wanted.append((key, root, about["version"], about["size"]))
    # Records last, so that a reader beside us finds no folder that only looks whole
    for part in _by_record(wanted, lambda entry: entry[0]):
        _all(bucket.get, part)


def _whole(listed: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the checkpoints that lack their record: whoever handed them over died on the way, or is not through."""
    of_step = re.compile(r"(?:.*/)?runs/[^/]+/\d+(?=/)")
    kept = {}
    for key, about in listed.items():
        step = of_step.match(key)
        if step is None or f"{step[0]}/{CHECKPOINT}" in listed:
            kept[key] = about
    return kept


def store(path: Path) -> None:
    """Hand the file or folder `path` over: what the bucket has not, and then the records of it.

    Names that begin with a dot are scratch, and stay here. Raises: UserError where the bucket does not answer.
    """
    if (found := _mirror(path)) is None:
        return
    if any(lease.lost for lease in _holding):
        raise UserError(
            f"{path}: this machine did not answer for {TTL:g} s, and another has taken its work over: what was done "
            "since is left out; run the same command again to go on with something else"
        )
    bucket, root = found
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    there = bucket.list(_key(root, path))
    entries = []
    for file in files:
        key = _key(root, file)
        if not any(part.startswith(".") for part in Path(key).parts) and not _same(root, key, there.get(key)):
            entries.append((key, root))
    for part in _by_record(entries, lambda entry: entry[0]):
        _all(bucket.put, part)


def forget(path: Path) -> None:
    """Take what lies at and below `path` out of the bucket, records first. Here it stays."""
    if (found := _mirror(path)) is None:
        return
    bucket, root = found
    entries = [(key,) for key in bucket.list(_key(root, path))]
    for part in reversed(_by_record(entries, lambda entry: entry[0])):
        _all(bucket.remove, part)


def names(path: Path) -> set[str]:
    """Of what lies directly in `path`, here and in its bucket."""
    here = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if (found := _mirror(path)) is None:
        return here
    bucket, root = found
    prefix = _key(root, path)
    return here | {key.removeprefix(f"{prefix}/").split("/")[0] for key in bucket.list(prefix)}


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


class Lease:
    """Of one thing to do, told by objects NAME/1, NAME/2, …: who made the last of them holds it.

    It is made only where it is not there, so that of two who want it one gets it. Its holder writes it anew every
    third of TTL; who has watched it for TTL without a change makes the next. A holder that slept too long finds that
    next one (`lost`), and must not store what it did: clocks of machines need not agree.
    """

    def __init__(self, bucket: "_Bucket", name: str) -> None:
        self._bucket, self._name = bucket, name
        self._seen: tuple[str, str, float] | None = None  # object, what it held, since when by our clock
        self._number = 0
        self._stop = threading.Event()  # of the holding now; another one has another
        self._since = time.time()
        self.lost = False

    def take(self) -> bool:
        """Whether it is ours now."""
        last, content = self._last()
        if content is not None and _read(content)["held"]:
            seen = (last, content)
            if self._seen is None or self._seen[:2] != seen:
                self._seen = (*seen, time.monotonic())
            if time.monotonic() - self._seen[2] < TTL:
                return False
        self._number = int(last.rsplit("/", 1)[-1]) + 1 if last else 1
        self._since, self.lost = time.time(), False
        if not self._bucket.create(self._mine(), self._content(held=True)) or self._last()[0] != self._mine():
            return False
        if last:
            self._bucket.remove(last)
        self._stop = threading.Event()
        _holding.add(self)
        threading.Thread(target=self._renew, args=(self._stop, self._mine()), daemon=True).start()
        return True

    def _mine(self) -> str:
        return f"{self._name}/{self._number}"

    def release(self) -> None:
        self._stop.set()
        _holding.discard(self)
        if not self.lost:
            self._bucket.write(self._mine(), self._content(held=False))

    def holder(self) -> Held | None:
        """Who holds it, as far as its last object tells."""
        _, content = self._last()
        if content is None or not (told := _read(content))["held"]:
            return None
        return Held(told["host"], told["pid"], told["since"])

    def _last(self, patience: float = 0.0) -> tuple[str, str | None]:
        keys = [key for key in self._bucket.list(self._name, patience) if key.rsplit("/", 1)[-1].isdecimal()]
        if not keys:
            return "", None
        last = max(keys, key=lambda key: int(key.rsplit("/", 1)[-1]))
        return last, self._bucket.read(last, patience)

    def _content(self, *, held: bool) -> bytes:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since, "held": held}
        return json.dumps({**about, "renewed": uuid.uuid4().hex}).encode()

    def _renew(self, stop: threading.Event, mine: str) -> None:
        while not stop.wait(TTL / 3):
            with contextlib.suppress(UserError):  # the next try may reach the bucket
                last = self._last(patience=TTL / 6)[0]
                if stop.is_set():
                    return
                if last != mine:
                    self.lost = True
                    return
                self._bucket.write(mine, self._content(held=True), patience=TTL / 6)


_holding: set[Lease] = set()  # by this process


def _read(content: str) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except ValueError:  # it is being written
        return {"held": True, "host": "?", "pid": 0, "since": time.time()}


@cache
def lease(path: Path) -> Lease | None:
    """The lease named by `path`, which need not be a file; None where that is not in a mirror.

    It is the same at every call, since it knows since when it has watched its holder.
    """
    if (found := _mirror(path)) is None:
        return None
    return Lease(found[0], f"{LEASES}/{_key(found[1], path)}")


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Until the block ends nobody else, on any machine, is in such a block of the same path."""
    ours = lease(path)
    told = False
    while ours is not None and not ours.take():
        if not told:
            print(f"{path}: another machine is making the same thing, waiting for it", flush=True)
            told = True
        time.sleep(min(TTL / 6, 5.0))
    try:
        yield
    finally:
        if ours is not None:
            ours.release()


def _mirror(path: Path) -> tuple["_Bucket", Path] | None:
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
def _bucket(url: str) -> "_Bucket":
    return _Bucket(url)


def _key(root: Path, path: Path) -> str:
    return "" if path == root else path.relative_to(root).as_posix()


def _by_record(entries: list[Any], key: Callable[[Any], str]) -> list[list[Any]]:
    """Entries in the order in which they may be seen: files, then the records of what they lie in."""
    rank = {name: i for i, name in enumerate(RECORDS, 1)}
    parts: dict[int, list[Any]] = {}
    for entry in entries:
        parts.setdefault(rank.get(key(entry).rsplit("/", 1)[-1], 0), []).append(entry)
    return [parts[i] for i in sorted(parts)]


def _all(do: Callable[..., Any], entries: Iterable[tuple[Any, ...]]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda entry: do(*entry), entries))


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
    partial = note.with_name(f".{uuid.uuid4().hex}")
    partial.write_text(json.dumps([version, (root / key).stat().st_mtime_ns]), encoding="utf-8")
    partial.replace(note)


class _Bucket:
    """A folder of a bucket, by keys below it. Each request has a limit, and is made again where it fails."""

    def __init__(self, url: str) -> None:
        self.url = url
        scheme = url.partition("://")[0]
        try:
            import fsspec

            options = {"use_listings_cache": False} if scheme != "file" else {"auto_mkdir": True}
            self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        except ImportError:
            need = SCHEMES[scheme]
            raise UserError(
                f"{scheme}:// needs {need}, which is not installed: pip install 'ehr_scaling[cloud]'"
            ) from None
        self._pool = ThreadPoolExecutor(2 * _AT_ONCE)

    def check(self) -> None:
        """Raises UserError where there is no such bucket, or it cannot be reached."""
        bucket, _, folder = self.url.partition("://")[2].partition("/")
        if not folder:
            raise UserError(f"--workdir={self.url}: give a folder in the bucket too, as {self.url}/study")

        def there() -> bool:
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                return bool(self._fs.ls(self._root, detail=False)) or True
            return bool(self.url.startswith("file:") or self._fs.exists(bucket))

        if not self._request(there, missing=False):
            raise UserError(f"--workdir={self.url}: there is no bucket {bucket}, or you may not see it: make it first")

    def list(self, prefix: str, patience: float = 0.0) -> dict[str, dict[str, Any]]:
        """{key: {"size", "version"}} of all objects at or below a key."""
        start = self._path(prefix)

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            if prefix and self._fs.isfile(start):
                return {start: self._fs.info(start)}
            return dict(self._fs.find(start, detail=True))

        found = self._request(find, missing={}, patience=patience)
        out = {}
        for path, about in found.items():
            key = path.removeprefix(self._root).lstrip("/")
            version = next((about[n] for n in ("generation", "ETag", "etag", "mtime", "created") if about.get(n)), "")
            out[key] = {"size": int(about["size"]), "version": str(version)}
        return out

    def read(self, key: str, patience: float = 0.0) -> str | None:
        content = self._request(lambda: self._fs.cat_file(self._path(key)), missing=None, patience=patience)
        return None if content is None else content.decode()

    def write(self, key: str, content: bytes, patience: float = 0.0) -> None:
        self._request(lambda: self._fs.pipe_file(self._path(key), content), patience=patience)

    def create(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of that key; gives whether the one there is this one."""
        # Of a try whose answer was lost the next one finds the object there: what it holds tells whose it is
        with contextlib.suppress(FileExistsError):
            self._request(lambda: self._fs.pipe_file(self._path(key), content, mode="create"))
        return self.read(key) == content.decode()

    def remove(self, key: str) -> None:
        self._request(lambda: self._fs.rm_file(self._path(key)), missing=None)

    def get(self, key: str, root: Path, version: str, size: int) -> None:
        """Bring an object to the mirror, whole or not at all; one that has gone since it was listed is passed over."""
        here = root / key
        here.parent.mkdir(parents=True, exist_ok=True)
        partial = here.with_name(f".{uuid.uuid4().hex}")
        try:
            self._request(lambda: self._fs.get_file(self._path(key), str(partial)), missing=None, size=size)
            if partial.exists():
                partial.replace(here)
                _remember(root, key, version)
        finally:
            partial.unlink(missing_ok=True)

    def put(self, key: str, root: Path) -> None:
        size = (root / key).stat().st_size
        self._request(lambda: self._fs.put_file(str(root / key), self._path(key)), size=size)
        _remember(root, key, self.list(key)[key]["version"])

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _request(self, do: Callable[[], T], missing: Any = ..., *, size: int = 0, patience: float = 0.0) -> T:
        """What `do` gives. missing: what to give where the object is not there.

        Args: size, bytes that are moved. patience, seconds after which there is no other try; 0: TRIES of TIMEOUT each.
        Raises: FileExistsError; UserError where all tries fail.
        """
        tries, limit = (1, patience) if patience else (TRIES, TIMEOUT + size / SLOWEST)
        for attempt in range(1, tries + 1):
            try:
                return self._pool.submit(do).result(limit)
            except FileExistsError:
                raise
            except FileNotFoundError:
                if missing is not ...:
                    return missing
                raise UserError(f"{self.url}: an object has gone while it was read: run again") from None
            except FutureTimeout:
                said = f"no answer in {limit:g} s"
            except PermissionError as e:
                raise UserError(
                    f"{self.url}: not allowed ({first_line(e)}): see its rights and your credentials"
                ) from None
            except Exception as e:  # gcsfs, s3fs and their clients share no base class
                said = first_line(e)
            if attempt < tries:
                time.sleep(min(2.0**attempt, 20.0) / 4)
        raise UserError(f"{self.url} cannot be reached ({said}): see its name, your network and your credentials")
