import pytest

from tests import small


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """(work directory, record of its packed data)."""
    workdir = tmp_path_factory.mktemp("study")
    return workdir, small.prepare(workdir)
