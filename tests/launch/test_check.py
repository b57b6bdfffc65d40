"""launch.check as a user runs it, on a system that has no more than macOS has; and the system that has less."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ehr_scaling
from ehr_scaling import hardware, study
from ehr_scaling.errors import UserError
from ehr_scaling.progress import Steps
from launch import check

ROOT = Path(__file__).parents[2]
LINUX_ALONE = ("sched_getaffinity", "sched_setaffinity")
FOR_DEVELOPERS = {"bench", "cards-test", "dev", "docs", "export-test"}


@pytest.mark.nightly  # another study, as short as those of test_study.py
def test_it_works_and_leaves_nothing_where_a_process_cannot_be_pinned(tmp_path):
    """In all processes, since Python imports a sitecustomize first."""
    (tmp_path / "sitecustomize.py").write_text(f"import os\nfor name in {LINUX_ALONE}: delattr(os, name)\n")
    (tmp_path / "temporary").mkdir()
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "temporary")}
    code = f"import os; assert not any(hasattr(os, name) for name in {LINUX_ALONE})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "launch.check"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"ehr_scaling {ehr_scaling.__version__} in ") and lines[-1] == "it works"
    assert any("attention: blocked in float32" in line for line in lines) and "training: 4/4 cells" in done.stderr
    assert not [left for left in (tmp_path / "temporary").iterdir() if left.name.startswith("ehr_scaling")]


def test_a_model_that_learns_nothing_is_no_working_one(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "prepare", lambda *_: {"summary": {"vocab_size": 700}})
    monkeypatch.setattr(study, "plan", lambda *_: [])
    for loss in (6.5, float("nan")):
        monkeypatch.setattr(study, "train", lambda *_, loss=loss: [{"size": "1.7k", "validation_loss": loss}])
        with pytest.raises(UserError, match=r"1\.7k learnt nothing"), Steps() as steps:
            check.try_it(check.small(), tmp_path, steps)


def test_it_knows_the_extras_that_users_want():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(check.EXTRAS) == set(extras) - FOR_DEVELOPERS


def test_an_accelerator_that_jax_does_not_find_is_told():
    assert check.idle(("cloud", "slurm"), "cpu") == check.idle(("cuda", "tpu"), "gpu") == []
    (told,) = check.idle(("cloud", "cuda"), "cpu")
    assert told.startswith("warning: the extra cuda is installed, but JAX found no GPU: does nvidia-smi list one")
    assert check.ACCELERATORS.keys() == {"cuda", "tpu"} <= check.EXTRAS.keys()


def test_its_first_line_waits_for_no_jax():
    code = "import sys, launch.check; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_windows_is_one_line():
    code = "import sys; sys.platform = 'win32'; import launch.plan"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "WSL" in done.stderr and done.stderr.count("\n") == 1


def test_processors_where_they_cannot_be_asked_for(monkeypatch):
    for name in LINUX_ALONE:
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert hardware.cores() == [0, 1, 2]
    hardware.pin({1})
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert hardware.cores() == [0]


def test_one_module_asks_for_processors():
    """But for the peer, which needs torch alone."""
    asking = {
        path.name
        for folder in ("ehr_scaling", "launch", "configs")
        for path in (ROOT / folder).rglob("*.py")
        if "os.sched_" in path.read_text(encoding="utf-8")
    }
    assert asking == {"hardware.py", "torch_peer.py"}
