"""The wheel where nothing else is installed, with the lowest and with the newest versions that pyproject.toml allows.

  make check-versions                            Python 3.11, 3.12 and 3.13, which uv finds or downloads
  make check-versions PYTHONS=/usr/bin/python3.12

In each environment: every module is imported, every command starts, and `ehr-scaling check` runs a study. Then the
extras of users are installed into it, in the same versions of the two kinds, and imported.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = ("lowest-direct", "highest")
# Commands define their flags where they are imported, one a process; the other two are run with an extra
IMPORT = """
import importlib, pkgutil, ehr_scaling
apart = ("ehr_scaling.launch.", "ehr_scaling.models.modeling_ehr_scaling")
names = [m.name for m in pkgutil.walk_packages(ehr_scaling.__path__, "ehr_scaling.") if not m.name.startswith(apart)]
for name in names:
    importlib.import_module(name)
print(len(names), "modules")
"""
# But for those of accelerators, which are gigabytes, and Beam, which `make test` has
EXTRAS = {"cloud": ("gcsfs", "s3fs"), "slurm": ("submitit",), "tensorboard": ("tensorboardX",), "wandb": ("wandb",)}
IMPORT_EXTRAS = f"import {', '.join(module for modules in EXTRAS.values() for module in modules)}"
COMMANDS = "from ehr_scaling.launch.console import COMMANDS; print(*COMMANDS)"


def run(*command: object, elsewhere: Path) -> str:
    """What a command prints on stdout; where it fails, all that it said, and the end."""
    done = subprocess.run([str(part) for part in command], cwd=elsewhere, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nstatus {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


def main(pythons: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        venv.create(work / "uv", with_pip=True)
        run(work / "uv/bin/pip", "install", "--quiet", "uv", elsewhere=work)
        uv = work / "uv/bin/uv"
        run(uv, "build", "--quiet", "--out-dir", work, ROOT, elsewhere=work)  # by way of the source distribution
        (wheel,) = work.glob("*.whl")
        for python in pythons:
            for resolution in RESOLUTIONS:
                began, place = time.monotonic(), work / "environment"
                run(uv, "venv", "--quiet", "--clear", "--python", python, place, elsewhere=work)
                into = (uv, "pip", "install", "--quiet", "--python", place)
                run(*into, "--resolution", resolution, "-r", ROOT / "pyproject.toml", elsewhere=work)
                run(*into, "--no-deps", wheel, elsewhere=work)
                run(uv, "pip", "check", "--quiet", "--python", place, elsewhere=work)
                modules = run(place / "bin/python", "-c", IMPORT, elsewhere=work).strip()
                commands = run(place / "bin/python", "-c", COMMANDS, elsewhere=work).split()
                for command in commands:
                    run(place / "bin/ehr-scaling", command, "--help", elsewhere=work)
                said = run(place / "bin/ehr-scaling", "check", elsewhere=work).splitlines()
                extras = [part for extra in EXTRAS for part in ("--extra", extra)]
                run(*into, "--resolution", resolution, *extras, "-r", ROOT / "pyproject.toml", elsewhere=work)
                run(uv, "pip", "check", "--quiet", "--python", place, elsewhere=work)
                run(place / "bin/python", "-c", f"{IMPORT_EXTRAS}; {IMPORT}", elsewhere=work)
                seconds = time.monotonic() - began
                print(
                    f"{python} {resolution}: {modules}, {len(commands)} commands, {said[-1]}, {len(EXTRAS)} extras; "
                    f"{seconds:.0f} s",
                    flush=True,
                )
                print(f"  {said[1]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
