"""Fixtures that more than one package's tests use."""

import os
import tempfile
from pathlib import Path

import pytest

# A program that one test has compiled, no other has to, nor its subprocesses
_programs = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _programs.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# What LLVM does for speed takes three times as long as these small programs run
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real records: $EHR_SCALING_TEST_DATA, by default shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EHR_SCALING_TEST_DATA", default))
    if not (folder / "physionet" / "files").is_dir():
        pytest.skip(f"no real records at {folder}: set EHR_SCALING_TEST_DATA to their folder")
    return folder
