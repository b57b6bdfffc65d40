"""Releases on PhysioNet or a mirror of it: resumable downloads, checked against the release's SHA256SUMS.txt."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from ehr_scaling.artifacts import write_text
from ehr_scaling.errors import UserError

MANIFEST = "SHA256SUMS.txt"
BASE_URL = "https://physionet.org"
# PhysioNet answers scripts that do not say they are wget with a web page instead of the file.
_HEADERS = {"User-Agent": "Wget/1.21 (ehr_scaling)", "Accept-Encoding": "identity"}
_TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of a body
_ATTEMPTS = 6  # in a row without a new byte
_PIECE = 1 << 14  # bytes written at a time: what a broken connection may lose
_PAUSE = 0.5  # seconds before the second attempt; doubles each time
_DROPPED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
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
) -> Path:
    """Bring files of a release into the folder `dest`, under their paths in the release.

    What is already in `dest` with the right checksum is not fetched again; nothing is asked of the server when
    that is everything. A file has its name only when it is whole and verified; until then it ends in `.partial`,
    and the next call goes on from there.

    Args:
      project, version: as in PhysioNet's paths, `<base_url>/files/<project>/<version>/<path>`.
      files: paths in the release, or a predicate on them; None for the whole release.
      workers: connections at a time (PhysioNet limits the rate of each).
    Returns: dest.
    Raises: UserError for a server that cannot be reached, a file that is not there, credentials that are wanted, a
      connection that keeps breaking, and bytes that do not match the manifest.
    """
    url = f"{base_url.rstrip('/')}/files/{project}/{version}"
    dest.mkdir(parents=True, exist_ok=True)
    local = dest / MANIFEST
    if not local.is_file():
        text = _answer("GET", f"{url}/{MANIFEST}").text
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

    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            sizes = _results([pool.submit(_size, f"{url}/{name}") for name in todo])
            total = None if None in sizes else sum(size or 0 for size in sizes)
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"{project} {version}", disable=None) as bar:
                _results([pool.submit(_fetch, f"{url}/{n}", dest / n, sums[n], bar, stop) for n in todo])
        except BaseException:  # Ctrl-C too: the workers leave at their next piece, and keep what they have
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
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
    for name in tqdm(sums, desc="checksums", unit="file", disable=None, leave=False):
        if _sha256(folder / name) != sums[name]:
            raise UserError(f"{folder / name} does not match {MANIFEST}: delete it and fetch it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _results(futures: list[Future]) -> list:
    """Results in order; the first failure is raised at once, not when the others end."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in futures]


def _answer(method: str, url: str, start: int = 0) -> requests.Response:
    """The server's answer, body not read yet unless it is small. `start`: first byte wanted.

    Raises: UserError for what a further attempt will not mend; ConnectionError for what it may (5xx).
    """
    headers = {**_HEADERS, **({"Range": f"bytes={start}-"} if start else {})}
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(_PAUSE * 2 ** (attempt - 1), 30))
        try:
            response = requests.request(
                method, url, headers=headers, stream=True, timeout=_TIMEOUT, allow_redirects=True
            )
            if url.endswith(MANIFEST):
                response.content  # noqa: B018  (read here, where a dropped connection is tried again)
        except _DROPPED as e:
            if attempt + 1 < _ATTEMPTS and not _refused(e):
                continue
            raise UserError(f"cannot connect to {url}: {_FLAGS}") from None
        except requests.RequestException as e:
            raise UserError(f"{url} is no address to download from ({type(e).__name__}): {_FLAGS}") from None
        if response.status_code < 500 and response.status_code != 429:
            break
        response.close()
    status = response.status_code
    if status in (401, 403):
        raise UserError(
            f"{url} wants credentials ({status}), which this program does not send: "
            "download the release with your PhysioNet account and give its folder with --raw=DIR"
        )
    if status == 404:
        raise UserError(f"{url} is not there (404): {_FLAGS}")
    if status not in (200, 206, 416):
        raise UserError(f"{url} answers {status} {response.reason}: run again later, or {_FLAGS}")
    return response


def _refused(error: Exception) -> bool:
    """No such host, or nobody listens there: unlike a dropped connection, waiting will not help."""
    return bool(re.search(r"NameResolutionError|ConnectionRefused|Connection refused", repr(error)))


def _size(url: str) -> int | None:
    """Bytes of a file, None where the server does not say. Finds a missing one before gigabytes are fetched."""
    with _answer("HEAD", url) as response:
        length = response.headers.get("Content-Length")
        return int(length) if length else None


def _fetch(url: str, path: Path, sha256: str, bar: tqdm, stop: threading.Event) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    resumed = partial.is_file()
    bar.update(partial.stat().st_size if resumed else 0)
    while True:
        _fill(url, partial, bar, stop)
        if _sha256(partial) == sha256:
            partial.replace(path)
            return
        bar.update(-partial.stat().st_size)
        partial.unlink()
        if not resumed:
            raise UserError(f"{url} does not match {MANIFEST}: what came was deleted, run again to fetch it anew")
        resumed = False  # what an earlier run left may be to blame: once more from the first byte


def _fill(url: str, partial: Path, bar: tqdm, stop: threading.Event) -> None:
    """Append to `partial` until it is as long as the server says; go on where a connection breaks."""
    best, barren = -1, 0
    while True:
        start = partial.stat().st_size if partial.exists() else 0
        try:
            with _answer("GET", url, start) as response:
                if response.status_code == 416:  # nothing after `start`: it is whole, or of another file
                    return
                if start and response.status_code == 200:  # a server without ranges begins again
                    bar.update(-start)
                    start = 0
                size = start + int(response.headers.get("Content-Length", -start))
                with partial.open("ab" if start else "wb") as f:
                    for piece in response.iter_content(_PIECE):
                        f.write(piece)
                        bar.update(len(piece))
                        if stop.is_set():
                            raise UserError(f"{url}: stopped, run again to go on")
            if size in (0, partial.stat().st_size):  # 0: the server names no length, but it closed in good order
                return
        except _DROPPED:
            pass
        have = partial.stat().st_size if partial.exists() else 0
        best, barren = (have, 0) if have > best else (best, barren + 1)
        if barren == _ATTEMPTS:
            raise UserError(f"{url} is truncated: the connection keeps breaking at byte {have}, run again to go on")
        stop.wait(min(_PAUSE * 2**barren, 30))
