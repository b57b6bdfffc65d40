"""Fixtures that more than one package's tests use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real records: $EHR_SCALING_TEST_DATA, by default shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EHR_SCALING_TEST_DATA", default))
    if not (folder / "physionet" / "files").is_dir():
        pytest.skip(f"no real records at {folder}: set EHR_SCALING_TEST_DATA to their folder")
    return folder
