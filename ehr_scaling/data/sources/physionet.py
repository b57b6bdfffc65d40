"""Releases on PhysioNet or a mirror of it: resumable downloads, checked against the release's SHA256SUMS.txt.

Credentialed releases ask for the name and password of an account that has signed the data use agreement. They are
shown to the server of `base_url` only, over https, and only after it has asked or when the release is known to.
"""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from ehr_scaling import artifacts
from ehr_scaling.artifacts import write_text
from ehr_scaling.data.deadline import Deadline
from ehr_scaling.data.sources import credentials
from ehr_scaling.errors import UserError
from ehr_scaling.progress import Bar, each

MANIFEST = "SHA256SUMS.txt"
BASE_URL = "https://physionet.org"
# PhysioNet answers scripts that do not say they are wget with a web page instead of the file.
_HEADERS = {"User-Agent": "Wget/1.21 (ehr_scaling)", "Accept-Encoding": "identity"}
_TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of a body
_ATTEMPTS = 6  # in a row without a new byte
_PIECE = 1 << 14  # bytes written at a time: what a broken connection may lose
_PATIENCE = 60.0  # seconds that a piece may take, however many of its bytes trickle in: 270 bytes a second
_PAUSE = 0.5  # seconds before the second attempt; doubles each time
_DROPPED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_REDIRECTS = 5
_GRACE = 1.5  # seconds that Ctrl-C waits for the workers; one that waits for a silent server is left behind
_FLAGS = "use --raw=DIR for files that are already here, or --physionet_url for a mirror"

Selection = Iterable[str] | Callable[[str], bool] | None


def download(
    project: str,
    version: str,
    dest: Path,
    *,
    base_url: str = BASE_URL,
    files: Selection = None,
    workers: int = 4,
    credentialed: bool = False,
) -> Path:
    """Bring files of a release into the folder `dest`, under their paths in the release.

    What is already in `dest` with the right checksum is not fetched again; nothing is asked of the server when
    that is everything. A file has its name only when it is whole and verified; until then it ends in `.partial`,
    and the next call goes on from there.

    Args:
      project, version: as in PhysioNet's paths, `<base_url>/files/<project>/<version>/<path>`.
      files: paths in the release, or a predicate on them; None for the whole release.
      workers: connections at a time (PhysioNet limits the rate of each).
      credentialed: that the release is known to want credentials (see credentials.find). They are found before
        anything is asked of the server; otherwise when it asks.
    Returns: dest.
    Raises: UserError for a server that cannot be reached, a file that is not there, credentials that are wanted or
      wrong, a connection that keeps breaking, and bytes that do not match the manifest.
    """
    server = _Server(base_url, f"{base_url.rstrip('/')}/content/{project}/{version}/")
    url = f"{base_url.rstrip('/')}/files/{project}/{version}"
    dest.mkdir(parents=True, exist_ok=True)
    if credentialed:  # whatever the folder it lies in, and the umask, let others do
        dest.chmod(0o700)
    local = dest / MANIFEST
    if not local.is_file():
        if credentialed:
            server.find_credentials(f"{url}/{MANIFEST}")
        text = server.answer("GET", f"{url}/{MANIFEST}").text
        parse_manifest(text, f"{url}/{MANIFEST}")
        write_text(local, text)
    sums = parse_manifest(local.read_text(encoding="utf-8"), local)
    wanted = [name for name in sums if files(name)] if callable(files) else list(sums if files is None else files)
    for name in wanted:
        if name not in sums:
            raise UserError(f"{local} does not list {name}: is {project} {version} the right release?")
    todo = [name for name in wanted if not (dest / name).is_file()]
    _check(dest, {name: sums[name] for name in wanted if name not in todo})
    if not todo:
        return dest

    if credentialed:
        server.find_credentials(f"{url}/{todo[0]}")
    # The first in this thread, in which the user can be asked for a password and can answer with Ctrl-C.
    first = _size(server, f"{url}/{todo[0]}")
    sizes = [first, *_each(lambda name: _size(server, f"{url}/{name}"), todo[1:], workers, server.stop)]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with Bar(f"{project} {version}", total, "B", scaled=True) as bar:
        _each(lambda n: _fetch(server, f"{url}/{n}", dest / n, sums[n], bar), todo, workers, server.stop)
    return dest


def verify(folder: Path, files: Iterable[str]) -> None:
    """Check files that the user brought: each is there and, where the folder has the release's manifest, unchanged.

    Raises: UserError that names the first file which is missing, or differs from SHA256SUMS.txt.
    """
    names = list(files)
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: copy it there from the release")
    manifest = folder / MANIFEST
    if manifest.is_file():
        sums = parse_manifest(manifest.read_text(encoding="utf-8"), manifest)
        _check(folder, {name: sums[name] for name in names if name in sums})


def parse_manifest(text: str, where: object) -> dict[str, str]:
    """{path: SHA-256 in lower-case hex} from the lines of a SHA256SUMS.txt.

    Raises: UserError with the line's number where it is not a checksum and a relative path.
    """
    sums = {}
    for row, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *]?(\S.*?)\s*", line)
        # A path that climbs out of the release would be written outside of the user's folder.
        if not match or PurePosixPath(match[2]).is_absolute() or ".." in PurePosixPath(match[2]).parts:
            raise UserError(
                f"{where}, row {row}: not '<SHA-256> <path>': is this PhysioNet or a mirror of it? {_FLAGS}"
            )
        sums[match[2]] = match[1].lower()
    if not sums:
        raise UserError(f"{where} is empty: delete it and run again")
    return sums


def _check(folder: Path, sums: dict[str, str]) -> None:
    for name in each(sums, "checksums", "file"):
        if artifacts.sha256(folder / name) != sums[name]:
            raise UserError(f"{folder / name} does not match {MANIFEST}: delete it and fetch it again")


def _each(function: Callable[[str], Any], items: list[str], workers: int, stop: threading.Event) -> list[Any]:
    """function(item) of each item, in order, in threads; the first error, or Ctrl-C, sets `stop` and is raised.

    The threads are daemons: nothing, not even the end of the program, waits for one that a silent server holds.
    """
    todo: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    for entry in enumerate(items):
        todo.put(entry)

    def work() -> None:
        while not stop.is_set():
            try:
                i, item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((i, function(item), None))
            except BaseException as e:
                done.put((i, None, e))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(items)))]
    results: list[Any] = [None] * len(items)
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            i, results[i], error = done.get()
            if error is not None:
                raise error
    except BaseException:
        stop.set()
        end = time.monotonic() + _GRACE
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        raise
    return results


class _Server:
    """The server of one release, asked by several threads."""

    def __init__(self, base_url: str, page: str) -> None:
        base = urlsplit(base_url)
        if base.username or base.password:
            raise UserError(
                "--physionet_url holds a name or password, which would end up in records: set "
                f"{credentials.USERNAME} and {credentials.PASSWORD} instead"
            )
        self.stop = threading.Event()  # set when the user does not want to wait any longer
        self._origin = (base.scheme, base.netloc)
        self._page = page  # where the agreement is signed
        self._known: credentials.Credentials | None = None
        self._asked = False
        self._lock = threading.Lock()

    def find_credentials(self, url: str) -> None:
        """Have credentials from now on. Raises UserError where there are none, or they cannot be sent to `url`."""
        with self._lock:
            if not self._asked:
                self._known = credentials.find(url)
                self._asked = True
            if self._known is None:
                raise UserError(
                    f"{url} wants credentials: set {credentials.USERNAME} and {credentials.PASSWORD}, or give the host "
                    "an entry in ~/.netrc, or run in a terminal to be asked; or use --raw=DIR for files already here"
                )

    def answer(self, method: str, url: str, start: int = 0) -> requests.Response:
        """The server's answer, body not read yet unless it is small. `start`: first byte wanted.

        Raises: UserError for what a further attempt will not mend; ConnectionError for what it may (5xx).
        """
        attempt = 0
        while True:
            shown = self._known is not None
            try:
                response = self._follow(method, url, {"Range": f"bytes={start}-"} if start else {})
                if url.endswith(MANIFEST):
                    # Read here, where a dropped connection is tried again
                    _deadline(url)(lambda read=response: read.content)
            except _DROPPED as e:
                if attempt + 1 == _ATTEMPTS or _refused(e) or self.stop.is_set():
                    raise UserError(f"cannot connect to {url}: {_FLAGS}") from None
            except (requests.RequestException, ValueError) as e:  # requests looks at where a redirect leads, too
                raise UserError(f"{url} is no address to download from ({type(e).__name__}): {_FLAGS}") from None
            else:
                status = response.status_code
                if status in (401, 403) and not shown:
                    response.close()
                    self.find_credentials(url)
                    continue
                if (status < 500 and status != 429) or attempt + 1 == _ATTEMPTS:
                    break
                response.close()
            self.stop.wait(min(_PAUSE * 2**attempt, 30))
            attempt += 1
        if status in (401, 403):
            raise UserError(
                f"{url} answers {status} to your credentials: the password is wrong, or the agreement of this release "
                f"is not signed: see {self._page}"
            )
        if status == 404:
            raise UserError(f"{url} is not there (404): {_FLAGS}")
        if status not in (200, 206, 416):
            raise UserError(f"{url} answers {status} {response.reason}: run again later, or {_FLAGS}")
        return response

    def _follow(self, method: str, url: str, headers: dict[str, str]) -> requests.Response:
        """The answer at the end of redirects, which `requests` would follow with whatever ~/.netrc has for a host."""
        for _ in range(_REDIRECTS):
            home = (urlsplit(url).scheme, urlsplit(url).netloc) == self._origin
            response = requests.request(
                method,
                url,
                headers={**_HEADERS, **headers},
                auth=self._known if home and self._known else _anonymous,
                stream=True,
                timeout=_TIMEOUT,
                allow_redirects=False,
            )
            if not response.is_redirect:
                return response
            response.close()
            try:
                target = urljoin(url, response.headers["Location"])
                host = urlsplit(target).hostname
            except ValueError:  # such as an address with an open bracket
                host = None
            if host is None:
                raise UserError(f"{url} leads to what is no address: {_FLAGS}")
            if url.startswith("https:") and not target.startswith("https:"):
                raise UserError(f"{url} leads away from https: {_FLAGS}")
            url = target
        raise UserError(f"{url} redirects without end: {_FLAGS}")


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """No credentials; with auth=None `requests` would take those of ~/.netrc, unasked and over http too."""
    return request


def _refused(error: Exception) -> bool:
    """No such host, or nobody listens there: unlike a dropped connection, waiting will not help."""
    return bool(re.search(r"NameResolutionError|ConnectionRefused|Connection refused", repr(error)))


def _size(server: _Server, url: str) -> int | None:
    """Bytes of a file, None where the server does not say. Finds a missing one before gigabytes are fetched."""
    with server.answer("HEAD", url) as response:
        return _length(response)


def _length(response: requests.Response) -> int | None:
    """Bytes of the body as the server says; None where it does not, or says what is no number of bytes."""
    length = response.headers.get("Content-Length", "").strip()
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


@contextmanager
def _closed(response: requests.Response) -> Iterator[requests.Response]:
    """Close it at the end; not when that is given up, since a read that hangs holds it, and closing would wait too."""
    try:
        yield response
    except UserError:
        raise
    except BaseException:
        response.close()
        raise
    response.close()


def _deadline(url: str) -> Deadline:
    """For calls that read from the body of an answer: a server that trickles keeps no timeout of the socket."""
    rate = f"{_PIECE / _PATIENCE:,.0f} bytes a second"
    return Deadline(_PATIENCE, f"{url} comes at less than {rate}: run again later to go on from there, or {_FLAGS}")


def _fetch(server: _Server, url: str, path: Path, sha256: str, bar: Bar) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    resumed = partial.is_file()
    bar.update(partial.stat().st_size if resumed else 0)
    while True:
        _fill(server, url, partial, bar)
        if artifacts.sha256(partial) == sha256:
            partial.replace(path)
            return
        bar.update(-partial.stat().st_size)
        partial.unlink()
        if not resumed:
            raise UserError(f"{url} does not match {MANIFEST}: what came was deleted, run again to fetch it anew")
        resumed = False  # what an earlier run left may be to blame: once more from the first byte


def _fill(server: _Server, url: str, partial: Path, bar: Bar) -> None:
    """Append to `partial` until it is as long as the server says; go on where a connection breaks."""
    best, barren = -1, 0
    while True:
        start = partial.stat().st_size if partial.exists() else 0
        try:
            with _closed(server.answer("GET", url, start)) as response:
                if response.status_code == 416:  # nothing after `start`: it is whole, or of another file
                    return
                if start and response.status_code == 200:  # a server without ranges begins again
                    bar.update(-start)
                    start = 0
                length = _length(response)
                size = 0 if length is None else start + length
                # Unbuffered: a thread that is left behind at Ctrl-C has written all that came.
                with partial.open("ab" if start else "wb", buffering=0) as f:
                    pieces, in_time = response.iter_content(_PIECE), _deadline(url)
                    while piece := in_time(next, pieces, b""):
                        if server.stop.is_set():
                            raise UserError(f"{url}: stopped, run again to go on")
                        f.write(piece)
                        bar.update(len(piece))
            if size in (0, partial.stat().st_size):  # 0: the server names no length, but it closed in good order
                return
        except _DROPPED:
            pass
        have = partial.stat().st_size if partial.exists() else 0
        best, barren = (have, 0) if have > best else (best, barren + 1)
        if server.stop.is_set():
            raise UserError(f"{url}: stopped, run again to go on")
        if barren == _ATTEMPTS:
            raise UserError(f"{url} is truncated: the connection keeps breaking at byte {have}, run again to go on")
        server.stop.wait(min(_PAUSE * 2**barren, 30))
