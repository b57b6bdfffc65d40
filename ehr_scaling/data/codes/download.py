"""The public code maps, from the Centers for Medicare & Medicaid Services (works of the US government, no licence).

What is kept of a download is its canonical content — sorted rows, without what a repackaged zip may change — and its
SHA-256 must be the one given here.
"""

import hashlib
import io
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import requests

from ehr_scaling.artifacts import write_text
from ehr_scaling.data.codes import map_files
from ehr_scaling.errors import UserError

BASE_URL = "https://www.cms.gov"
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of a body
_ATTEMPTS = 4
_PAUSE = 1.0  # seconds before the second attempt; doubles each time
_LARGEST = 64 << 20  # bytes of a zip or of its member: the real ones have 1 and 15 MB
_BY_HAND = "or fetch the file by hand and give its folder to launch.prepare with --code_maps=DIR"


class _Public(NamedTuple):
    path: str  # of the zip below the base URL
    member: str  # how the name of the file in the zip ends, lower case
    name: str  # of the file that is written
    header: str
    rows: Callable[[str, object], Iterable[tuple[str, ...]]]
    sha256: str  # of what is written


def _gem(text: str, where: object) -> Iterable[tuple[str, ...]]:
    return (tuple(fields) for _, fields in map_files.fixed_width("icd9cm", text, where))


def _categories(text: str, where: object) -> Iterable[tuple[str, ...]]:
    for _, (code, title) in map_files.fixed_width("titles", text, where):
        if len(code) == 3:
            yield code, f'"{title}"' if "," in title else title


PUBLIC = {
    "icd9cm": _Public(
        "/Medicare/Coding/ICD10/Downloads/2018-ICD-10-CM-General-Equivalence-Mappings.zip",
        "i9gem.txt",
        "gem2018_icd9cm_to_icd10cm.csv",
        "source,target,flag",
        _gem,
        "28fb62f61f1d102bf3aec5f1e2c8bc450527f367f9671fc32059e8d84cdb32c6",
    ),
    "icd9pcs": _Public(
        "/Medicare/Coding/ICD10/Downloads/2018-ICD-10-PCS-General-Equivalence-Mappings.zip",
        "gem_i9pcs.txt",
        "gem2018_icd9proc_to_icd10pcs.csv",
        "source,target,flag",
        _gem,
        "439c2357bdaf90fa6c701e8b25653240fc4575f59771266928306e379f1398d4",
    ),
    "titles": _Public(
        "/files/zip/2021-code-descriptions-tabular-order-updated-12162020.zip",
        "icd10cm_order_2021.txt",
        "icd10cm_order_2021_categories.csv",
        "code,long",
        _categories,
        "1c7bbbfeb4a3fab049c185d76d94b5edddc4bc9763da94dba7ba3b22ffb8a1bb",
    ),
}


def download(dest: Path, kinds: Iterable[str] = tuple(PUBLIC), *, base_url: str = BASE_URL) -> Path:
    """Bring public code maps into the folder `dest`, where `maps.load` finds them.

    A map that is there with the right checksum is not fetched again.

    Args:
      kinds: of "icd9cm" and "icd9pcs", the General Equivalence Mappings of 2018 (their last year), and "titles", the
        categories of ICD-10-CM 2021.
      base_url: of CMS, or of a mirror with the same paths.
    Returns: dest.
    Raises: UserError for an unknown kind, a server that does not answer, a damaged zip, and other content than this
      program knows; nothing is written then.
    """
    for kind in (kinds := list(kinds)):
        if kind not in PUBLIC:
            raise UserError(f"no public code map is called {kind}: choose from {', '.join(PUBLIC)}")
    dest.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        public = PUBLIC[kind]
        path = dest / public.name
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() != public.sha256:
                raise UserError(f"{path} is not what this program fetched: take it away and run again")
            continue
        url = base_url.rstrip("/") + public.path
        text = canonical(kind, _member(_fetch(url), public.member, url), url)
        if hashlib.sha256(text.encode()).hexdigest() != public.sha256:
            raise UserError(f"{url} has other content than the release this program knows: run again later, {_BY_HAND}")
        write_text(path, text)
    return dest


def canonical(kind: str, text: str, where: object) -> str:
    """The comma-separated table that is written of a file in CMS's form: a header, then its rows, sorted, each once.

    Raises: UserError for a row that is not in that form.
    """
    public = PUBLIC[kind]
    return "\n".join([public.header, *sorted({",".join(row) for row in public.rows(text, where)}), ""])


def _fetch(url: str) -> bytes:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            with requests.get(url, stream=True, timeout=_TIMEOUT) as response:
                if response.status_code >= 500 or response.status_code == 429:
                    continue
                if response.status_code != 200:
                    raise UserError(f"{url} answers {response.status_code}: name a mirror, {_BY_HAND}")
                body = bytearray()
                for piece in response.iter_content(1 << 16):
                    body += piece
                    if len(body) > _LARGEST:
                        raise UserError(f"{url} is larger than a code map can be: name another mirror, {_BY_HAND}")
                return bytes(body)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            continue
        except requests.RequestException as e:
            raise UserError(f"{url} is no address to download from ({type(e).__name__})") from None
    raise UserError(f"cannot fetch {url}: run again later, name a mirror, {_BY_HAND}")


def _member(data: bytes, name: str, url: str) -> str:
    """The text of the file in a zip whose name ends so."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info for info in archive.infolist() if info.filename.lower().endswith(name)]
            if len(members) != 1 or members[0].file_size > _LARGEST:
                raise UserError(f"{url} does not hold one file {name}: name another mirror, {_BY_HAND}")
            return archive.read(members[0]).decode("latin-1")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError):
        raise UserError(f"{url} is no zip, or a damaged one: run again, {_BY_HAND}") from None
