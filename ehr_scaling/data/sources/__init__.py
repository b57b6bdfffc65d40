"""Where events come from. Each module turns one kind of raw records into the `events/` artifact."""

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ehr_scaling.errors import UserError

MODULES = {
    "synthetic": "synthetic",
    "challenge-2012": "challenge_2012",
    "mimic-iv": "mimic",
    "mimic-iv-demo": "mimic",
    "meds": "meds",
}


def _of_ed(path: str) -> bool:
    return path.startswith("ed/") and path.endswith(".csv.gz")


class Release(NamedTuple):
    """A release on PhysioNet, in the versions that are known to work, the one to take first."""

    project: str
    versions: tuple[str, ...]
    credentialed: bool  # an account that has signed its data use agreement is needed
    files: Callable[[str], bool] | None = None  # those needed; None: FILES of the source's module


RELEASES = {
    "challenge-2012": Release("challenge-2012", ("1.0.0",), credentialed=False),
    "mimic-iv-demo": Release("mimic-iv-demo", ("2.2",), credentialed=False),
    "mimic-iv-ed-demo": Release("mimic-iv-ed-demo", ("2.2",), credentialed=False, files=_of_ed),
    "mimic-iv": Release("mimiciv", ("3.1", "3.0", "2.2"), credentialed=True),
    "mimic-iv-ed": Release("mimic-iv-ed", ("2.2",), credentialed=True, files=_of_ed),
}


def get(name: str) -> ModuleType:
    """The module of a source: `extract(raw, out, *, seed, splits, runner, **options)`, `inputs(raw, **options)`, FILES.

    Raises: UserError for a name that is not in MODULES.
    """
    if name not in MODULES:
        raise UserError(f"no source is called {name!r}: take one of {', '.join(MODULES)}")
    return importlib.import_module(f"{__name__}.{MODULES[name]}")


def fetch(
    name: str,
    dest: Path,
    *,
    version: str | None = None,
    files: Iterable[str] | Callable[[str], bool] | None = None,
    base_url: str | None = None,
    workers: int = 4,
) -> Path:
    """Download a release into the folder `dest`, which can then be the `raw` of its source. See physionet.download.

    A credentialed release finds name and password as credentials.find says. Each release has a folder of its own, as
    its SHA256SUMS.txt has.
    Args: name, in RELEASES; version, by default the first that RELEASES lists; files, paths in the release or a
      predicate on them, by default what the source needs; base_url of a mirror; workers, connections at a time.
    Returns: dest.
    Raises: UserError for a name without a release, a version that is not known, and as physionet.download does.
    """
    from ehr_scaling.data.sources import physionet

    if name not in RELEASES:
        raise UserError(f"the source {name!r} has no release to download: give its folder with --raw=DIR")
    release = RELEASES[name]
    version = version or release.versions[0]
    if version not in release.versions:
        raise UserError(f"{name} has no version {version!r} here: take one of {', '.join(release.versions)}")
    url = base_url or physionet.BASE_URL
    return physionet.download(
        release.project,
        version,
        dest,
        base_url=url,
        files=files or release.files or get(name).FILES,
        workers=workers,
        credentialed=release.credentialed and url.rstrip("/") == physionet.BASE_URL,
    )
