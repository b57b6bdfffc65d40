"""Which code made a result."""

import importlib.util
import shutil
import subprocess

import pytest

from ehr_scaling import provenance


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_code_and_not_of_whom_it_is_installed_with(tmp_path):
    def git(*arguments):
        own = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *own, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    package = tmp_path / ".venv" / "ehr_scaling"
    package.mkdir(parents=True)
    module = shutil.copy(provenance.__file__, package)
    spec = importlib.util.spec_from_file_location("installed", module)
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    assert installed.commit() == "unknown"
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "a project that uses the package")
    assert installed.commit() == "unknown"
    git("add", "-f", module)
    git("commit", "-q", "-m", "the package itself")
    head = git("rev-parse", "--short=12", "HEAD")
    assert installed.commit() == head
    (package / "provenance.py").write_text("changed")
    assert installed.commit() == f"{head}+"
