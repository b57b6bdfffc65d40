"""What a reader needs to repeat a result: versions, the commit of the code, the machine."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of packages, and the commit of the code; "not installed" for one on the path alone."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("ehr_scaling", *packages)},
        "commit": commit(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # as a checkout on PYTHONPATH: no reason to lose a study at its end
        return "not installed"


def machine() -> dict[str, str]:
    return {"system": platform.system(), "processor": platform.machine(), "cores": str(os.cpu_count())}


def commit() -> str:
    """The code's git commit, with + when tracked files differ from it; "unknown" outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed within somebody else's repository, it is none of it
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
