"""Where events come from. Each module turns one kind of raw records into the `events/` artifact."""

import importlib
from pathlib import Path
from types import ModuleType

from ehr_scaling.errors import UserError

MODULES = {
    "synthetic": "synthetic",
    "challenge-2012": "challenge_2012",
    "mimic-iv": "mimic_iv",
    "mimic-iv-demo": "mimic_iv",
    "meds": "meds",
}
# Releases that PhysioNet gives to anybody: project and version. The module's FILES says what is needed of them.
PUBLIC = {"challenge-2012": ("challenge-2012", "1.0.0"), "mimic-iv-demo": ("mimic-iv-demo", "2.2")}


def get(name: str) -> ModuleType:
    """The module of a source: `extract(raw, out, *, seed, splits, **options)` and `inputs(raw, **options)`.

    Raises: UserError for a name that is not in MODULES.
    """
    if name not in MODULES:
        raise UserError(f"no source is called {name!r}: take one of {', '.join(MODULES)}")
    return importlib.import_module(f"{__name__}.{MODULES[name]}")


def fetch(name: str, dest: Path, *, base_url: str | None = None, workers: int = 4) -> Path:
    """Download what the source `name` needs into `dest`, which can then be its `raw`. See physionet.download.

    Raises: UserError for a source without a public release.
    """
    from ehr_scaling.data.sources import physionet

    if name not in PUBLIC:
        raise UserError(f"the source {name!r} has no public release to download: give its folder with --raw=DIR")
    project, version = PUBLIC[name]
    return physionet.download(
        project, version, dest, base_url=base_url or physionet.BASE_URL, files=get(name).FILES, workers=workers
    )
