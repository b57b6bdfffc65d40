"""One finished study for all tests of cards."""

import shutil
from pathlib import Path

import pytest

from ehr_scaling.cards import evidence, write
from tests.cards import finished


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """A finished study of patients that are called real."""
    folder = tmp_path_factory.mktemp("cards")
    return finished.write(folder / "w", finished.prepare(folder / "prepared"), generated=False)


@pytest.fixture(scope="session")
def found(study):
    return evidence.read(study)


@pytest.fixture(scope="session")
def cards(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    write.write(study, out)
    return out


@pytest.fixture
def copy(study, tmp_path):
    """The study, to be changed."""
    return Path(shutil.copytree(study, tmp_path / "w"))
