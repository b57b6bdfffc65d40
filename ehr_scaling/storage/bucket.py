"""What is asked of a bucket: put an object, put it unless it is there, get it, list them; each within a limit.

All stores have had these four for years. They come from fsspec (gcsfs, s3fs: the extra `cloud`).
"""

import bisect
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from ehr_scaling.errors import Unavailable, UserError, first_line, needs

T = TypeVar("T")
SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "file": "fsspec"}  # and the package that each needs
TIMEOUT, TRIES = 120.0, 5  # seconds of one request without an answer; tries of it
SLOWEST = 1e6  # bytes/s of a transfer, below which it is given up
AT_ONCE = 16  # requests of one fetch or store
_SLOW = 10.0  # seconds of a request that moves little: whoever has to be quick may not have come through


class Bucket:
    """A folder of a bucket, by keys below it. Each request has a limit, and is made again where it fails."""

    def __init__(self, url: str, *, apart: bool = False) -> None:
        """Args: apart, whether it has connections of its own, which no transfer of others keeps busy."""
        self.url = url
        self.troubled = -math.inf  # when it last failed, or was slow, in the time of `time.monotonic`
        scheme = url.partition("://")[0]
        try:
            import fsspec

            options = {"use_listings_cache": False} if scheme != "file" else {"auto_mkdir": True}
            self._fs, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=apart, **options)
        except ImportError:
            raise needs(f"{scheme}:// needs {SCHEMES[scheme]}", "cloud") from None

    def check(self, flag: str) -> None:
        """Raises UserError, which names `flag`, where there is no such bucket, or it cannot be reached."""
        bucket, _, folder = self.url.partition("://")[2].partition("/")
        if not folder:
            raise UserError(f"{flag}={self.url}: give a folder in the bucket too, as {self.url}/study")

        def there(**limit: float) -> bool:
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                return bool(self._fs.ls(self._root, detail=False, **limit)) or True
            return bool(self.url.startswith("file:") or self._fs.exists(bucket, **limit))

        if not self._request(there, missing=False):
            raise UserError(f"{flag}={self.url}: there is no bucket {bucket}, or you may not see it: make it first")

    def list(self, prefix: str, patience: float = 0.0) -> dict[str, dict[str, Any]]:
        """{key: {"size", "version"}} of all objects at or below a key."""
        start = self._path(prefix)

        def find(**limit: float) -> dict[str, Any]:
            self._fs.invalidate_cache()
            if prefix and self._fs.isfile(start, **limit):
                return {start: self._fs.info(start, **limit)}
            return dict(self._fs.find(start, detail=True, **limit))

        listing = self._request(find, missing={}, patience=patience)
        out = {}
        for path, about in listing.items():
            key = path.removeprefix(self._root).lstrip("/")
            version = next((about[n] for n in ("generation", "ETag", "etag", "mtime", "created") if about.get(n)), "")
            out[key] = {"size": int(about["size"]), "version": str(version)}
        return out

    @contextlib.contextmanager
    def listed(self, *prefixes: str) -> Iterator[None]:
        """Until the block ends, in which many things are looked at, `glance` goes by one listing of each key, made when
        first looked at."""
        before = _listings.get(self.url, {})
        _listings[self.url] = {prefix: _Listing(partial(self.list, prefix)) for prefix in prefixes}
        try:
            yield
        finally:
            _listings[self.url] = before

    def glance(self, prefix: str) -> dict[str, dict[str, Any]]:
        """As `list`, but it may be as old as the block of `listed` is that this is called in."""
        for place, listing in _listings.get(self.url, {}).items():
            if prefix == place or prefix.startswith(f"{place}/"):
                return listing.below(prefix)
        return self.list(prefix)

    def read(self, key: str, patience: float = 0.0) -> str | None:
        content = self._request(partial(self._fs.cat_file, self._path(key)), missing=None, patience=patience)
        return None if content is None else content.decode()

    def write(self, key: str, content: bytes, patience: float = 0.0) -> None:
        self._request(partial(self._fs.pipe_file, self._path(key), content), patience=patience)

    def create(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of that key; gives whether the one there is this one."""

        def put(**limit: float) -> None:
            if not self.url.startswith("file:"):
                self._fs.pipe_file(self._path(key), content, mode="create", **limit)
                return
            with self._fs.open(self._path(key), "xb") as file:  # pipe_file looks first and writes then: two may win
                file.write(content)

        # Of a try whose answer was lost the next one finds the object there: what it holds tells whose it is
        with contextlib.suppress(FileExistsError):
            self._request(put)
        return self.read(key) == content.decode()

    def exclusive(self, key: str) -> bool | None:
        """Whether `create` makes an object only where there is none, by which leases go.

        Seen by making one of that key, which nobody else has, twice. None where it cannot be told, as for who may only
        read.
        """
        try:
            self.create(key, b"first")
            twice = self.create(key, b"second")
        except UserError:
            return None
        with contextlib.suppress(UserError):
            self.remove(key)
        return not twice

    def remove(self, key: str) -> None:
        self._request(partial(self._fs.rm_file, self._path(key)), missing=None)

    def get(self, key: str, to: Path, size: int) -> None:
        """Write an object of so many bytes to a file; one that has gone since it was listed makes none."""
        self._request(partial(self._fs.get_file, self._path(key), str(to)), missing=None, size=size)

    def put(self, key: str, file: Path) -> str:
        """Put a file; gives the version that its object has now."""
        size = file.stat().st_size
        self._request(partial(self._fs.put_file, str(file), self._path(key)), size=size)
        for attempt in range(2 * TRIES):
            # Seen with an emulator of GCS that others wrote to: the listing did not have it yet
            if (about := self.list(key).get(key)) is not None:
                return str(about["version"])
            time.sleep(0.1 * (attempt + 1))
        raise Unavailable(f"{self.url}: an object has gone while it was written: run again")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _request(self, do: Callable[..., T], missing: Any = ..., *, size: int = 0, patience: float = 0.0) -> T:
        """What `do` gives. missing: what to give where the object is not there.

        A try that is given up is cancelled, else it might write after a later one; on a file system it cannot be.

        Args: do, takes the limit of its calls where those can be cancelled. size, bytes that are moved. patience,
          seconds after which there is no other try; 0: TRIES of TIMEOUT each.
        Raises: FileExistsError; Unavailable where all tries fail; UserError where it is not allowed.
        """
        tries, limit = (1, patience) if patience else (TRIES, TIMEOUT + size / SLOWEST)
        if self._fs.async_impl:
            do = partial(do, timeout=limit)
        begun = time.monotonic()
        for attempt in range(1, tries + 1):
            try:
                answer = _in_thread(do).result(limit)
                if not size and time.monotonic() - begun > _SLOW:
                    self.troubled = time.monotonic()
                return answer
            except FileExistsError:
                raise
            except FileNotFoundError:
                if missing is not ...:
                    return missing
                raise Unavailable(f"{self.url}: an object has gone while it was read: run again") from None
            except TimeoutError:
                said = f"no answer in {limit:g} s"
            except PermissionError as e:
                raise UserError(
                    f"{self.url}: not allowed ({first_line(e)}): see its rights and your credentials"
                ) from None
            except Exception as e:  # gcsfs, s3fs and their clients share no base class
                said = first_line(e)
            if attempt < tries:
                time.sleep(min(2.0**attempt, 20.0) / 4)
        self.troubled = time.monotonic()
        raise Unavailable(f"{self.url} cannot be reached ({said}): see its name, your network and your credentials")


class _Listing:
    """What `Bucket.list` gives, from which parts are taken."""

    def __init__(self, make: Callable[[], dict[str, dict[str, Any]]]) -> None:
        self._make = make

    @cached_property
    def _listed(self) -> dict[str, dict[str, Any]]:
        return self._make()

    @cached_property
    def _keys(self) -> list[str]:
        return sorted(self._listed)

    def below(self, prefix: str) -> dict[str, dict[str, Any]]:
        first, last = (bisect.bisect_left(self._keys, prefix + end) for end in "/0")  # 0 comes after /
        keys = [prefix] * (prefix in self._listed) + self._keys[first:last]
        return {key: self._listed[key] for key in keys}


_listings: dict[str, dict[str, _Listing]] = {}  # of the blocks that this process is in: by URL, by key


def _in_thread(do: Callable[[], T]) -> Future[T]:
    """What a call will give, which is made in a thread of its own: one that hangs delays no other, and as a daemon it
    does not keep the process from its end, as those of `concurrent.futures` would."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(do())
        except BaseException as e:  # the caller's to judge
            answer.set_exception(e)

    threading.Thread(target=work, name="bucket", daemon=True).start()
    return answer
