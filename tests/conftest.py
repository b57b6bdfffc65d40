"""Fixtures that more than one package's tests use."""

import gc
import os
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

# A program that one test has compiled, no other has to, nor its subprocesses, nor the tests of the next days: compiling
# is a third of their time
_PROGRAMS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ehr_scaling" / "tests"
_KEPT = 14 * 86_400  # seconds
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# These small programs take far longer to compile than to run: so neither what LLVM does for speed, nor the emitter of
# fusions that goes by MLIR, which takes twice as long as the other
_quick = "--xla_backend_optimization_level=0"
if metadata.version("jax").startswith("0.10."):  # an unknown flag ends the program, and later ones may lack it
    _quick += " --xla_cpu_use_fusion_emitters=false"
# What is imported is compiled once, not in each of the hundreds of processes that import it, nor at each start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Every core has a test, or a process of one: threads of a library (trees are fitted by some) only wait for each other
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# As the package sets it: what is set before the server of tests/forked.py starts is no reason against forking
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["XLA_FLAGS"] = f"{_quick} {os.environ.get('XLA_FLAGS', '')}"

# Files of twenty seconds or more, longest first
LONGEST = (
    "test_study.py", "test_distributed.py", "test_simulate.py", "test_loop.py", "test_executors.py", "test_storage.py",
    "test_together.py", "test_pipeline.py", "test_supervise.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    from tests import forked  # which takes the environment as it is set above for that of the server

    forked.fork_workers()
    if not hasattr(config, "workerinput"):
        from ehr_scaling.grid.executors.processes import tidy_programs

        tidy_programs(_PROGRAMS, time.time() - _KEPT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that at the end no worker waits for one; otherwise the order stays."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """What is imported and collected stays: garbage is looked for among the rest, and not at every 700th object that
    JAX makes while it traces, which is a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real records: $EHR_SCALING_TEST_DATA, by default shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EHR_SCALING_TEST_DATA", default))
    if not (folder / "physionet" / "files").is_dir():
        pytest.skip(f"no real records at {folder}: set EHR_SCALING_TEST_DATA to their folder")
    return folder


_BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with ours in it alone, from the wheel."""
    root = Path(__file__).resolve().parents[1]
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    # Of a copy, so that no build/ of a checkout gets into it
    names = ("pyproject.toml", "README.md", "LICENSE", "ehr_scaling", "launch", "configs", "studies")
    subprocess.run(["cp", "-rP", *(root / name for name in names), source], check=True)
    subprocess.run([sys.executable, "-c", _BUILD, site], cwd=source, check=True, capture_output=True)
    (wheel,) = site.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    wheel.unlink()
    return site
