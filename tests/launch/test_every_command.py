"""What the system refuses is one line, whatever command meets it."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from ehr_scaling.errors import UserError, of_system, unreadable
from launch.common import common
from tests import forked

SMALL = ("--config.data.patients=20", "--config.data.context=64")
# A command, and flags by which it is to make something in a folder that is {file}, a file
COMMANDS = {
    "analyze": ("--runs={table}", "--out={file}/report"),
    "ask": ("--workdir={file}/w", "--questions={file}/sheet.yaml", *SMALL),
    "bench": ("accelerator", "--json={file}/rows.json"),
    "audit": ("--workdir={file}/w",),
    "cards": ("--workdir={file}/w",),
    "compare": ("--runs={table}", "--runs={table}", "--out={file}/compare.json"),
    "evaluate": ("--workdir={file}/w", *SMALL),
    "export": ("--workdir={file}/w", "--out={file}/out"),
    "fetch_maps": ("--dest={file}/maps", "--base_url=http://127.0.0.1:9"),
    "inspect": ("--workdir={file}/w",),
    "leaderboard": ("--workdir={file}/w", "--split_file={file}"),
    "plan": ("--report={file}/report", "--flops=1e18", "--patients=1000"),
    "predict": ("--model={file}/w", "--out={file}/out", "--labels={file}", "--split=held_out"),
    "prepare": ("--workdir={file}/w", *SMALL),
    "study": ("--workdir={file}/w", *SMALL),
    "publish": ("--workdir={file}/w", "--claims={file}", "--out={file}/out"),
    "recipes": ("--workdir={file}/w", "--rungs=published"),
    "supervise": ("--workdir={file}/w",),
    "sweep": ("--workdir={file}/w", *SMALL),
    "train": ("--workdir={file}/w", "--cell=0"),
}


def test_every_command_is_here():
    """So that a new one is not forgotten; but for one that makes nothing."""
    scripts = Path(launch.__file__).parent.glob("*.py")
    running = {p.stem for p in scripts if re.search(r"^    (common\.)?run\(main", p.read_text(), re.M)}
    assert running == {*COMMANDS, "check"}


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path):
    """All commands at once; and told before JAX is imported, which takes a second, but by three that go by more."""
    file, table = tmp_path / "file", tmp_path / "runs.csv"
    file.write_text("no folder")
    rows = [f"{n:g},{d:g},{6 * n * d:g},{3 + n**-0.3 + d**-0.3}" for n in (1e5, 2e5, 4e5) for d in (1e6, 2e6, 4e6)]
    table.write_text("\n".join(["N,D,C,loss", *rows]) + "\n")
    running = {}
    for name, flags in COMMANDS.items():
        given = (flag.format(file=file, table=table) for flag in flags)
        command = [sys.executable, "-X", "importtime", "-m", f"launch.{name}", *given]
        running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for name, process in running.items():
        said = process.communicate(timeout=300)[1]
        assert name in ("ask", "predict", "train") or not re.search(r"\| +jax$", said, re.M), name
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert process.returncode and "Traceback" not in said, (name, said[-2000:])
        assert len(errors) == 1 and "file" in errors[0], (name, said[-2000:])
    assert file.read_text() == "no folder"


def test_benchmarks_tell_a_mistake_in_one_line(tmp_path):
    """All at once: most of their time is their imports. Generated patients are a part of `data`, and take a second."""
    said = {
        (): "say which part: data, training, ",
        ("nothing",): "say which part: data, training, ",
        ("accelerator", "data"): "unexpected argument 'data'",
        ("training", "--bench_sizes=huge", f"--torch_python={sys.executable}"): "unknown model size 'huge'",
        ("analysis", f"--tables={tmp_path}"): f"--tables={tmp_path}/chinchilla_epoch_245.csv: no such file",
        ("data", f"--mimic_demo={tmp_path}/demo", "--repeats=1"): f"--mimic_demo={tmp_path}/demo is no folder",
        ("data", f"--json={tmp_path}/nowhere/rows.json"): f"--json={tmp_path}/nowhere/rows.json: the folder ",
    }
    running = {
        given: forked.Popen(
            [sys.executable, "-m", "launch.bench", *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(launch.__file__).parents[1])},
        )
        for given in said
    }
    for given, process in running.items():
        errors = process.communicate(timeout=300)[1]
        assert process.returncode in (1, 2), (given, errors)
        assert errors.startswith(f"error: {said[given]}") and errors.count("\n") == 1, (given, errors)


def test_help_is_no_error():
    """All commands at once: most of their time is their imports."""
    running = {
        (name, flag): subprocess.Popen(
            [sys.executable, "-m", f"launch.{name}", flag], stdout=subprocess.PIPE, text=True
        )
        for name, flag in [("analyze", "--help"), ("compare", "--helpfull"), ("study", "--help"), ("bench", "--help")]
    }
    for command, process in running.items():
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0 and "--" in said, command


def test_fields_of_the_config_are_told(tmp_path):
    """All at once: a misspelt one in a line with the nearest, in a file of the user's too; and the list of all."""
    files = {name: tmp_path / f"{name}.py" for name in ("sets", "lacks", "fails")}
    begin = "from ehr_scaling.configs.base import *\nours = get_config\ndef get_config():\n    c = ours()\n"
    files["sets"].write_text(f"{begin}    c.training.rte = 3.0\n    return c\n")
    files["lacks"].write_text(f"{begin}    del c.training.rate\n    return c\n")
    files["fails"].write_text(f"{begin}    c.grid.seeds = ('a',)\n    return c\n")
    base = "configs/base.py"
    expected = {
        (
            "sweep",
            "--config.trainig.floor=1",
        ): f"--config.trainig.floor is no field of {base}: did you mean --config.tra",
        ("evaluate", "-config.data.tokens=1"): "--config.data.tokens is a group of fields: set one of them, such as ",
        ("prepare", "--config.grid.seeds[5]=1"): "--config: tuple index out of range",
        ("study", f"--config={files['sets']}"): (
            f"training.rte, which --config={files['sets']} sets, is no field of {base}: did you mean training.rate."
        ),
        ("sweep", f"--config={files['lacks']}"): f"--config={files['lacks']} lacks training.rate.at_tokens, ",
        ("sweep", f"--config={files['fails']}"): "--config: invalid literal for int() with base 10: 'a'",
        ("sweep", "--config=records"): "--config: TypeError: get_config() missing 1 required positional argument",
        ("sweep", "--config=recipes:no", "--config.data.seed=3"): "--config=configs/recipes.py:no: take one of synthet",
    }
    named = ("--config=mimic_iv", "--config.grid.seeds=(3,4)", "--print_config", "--data=challenge-2012")
    listed = [(name, *named) for name in ("study", "sweep", "prepare", "evaluate")]
    spaced = [("sweep", flag, "challenge-2012", "--print_config") for flag in ("--data", "-source")]
    running = {
        command: subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", f"launch.{command[0]}", *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(launch.__file__).parents[1])},
        )
        for command in (*expected, *listed, *spaced)
    }
    pages = {command: process.communicate(timeout=300) for command, process in running.items()}
    for command, start in expected.items():
        lines = [line for line in pages[command][1].splitlines() if not line.startswith("import time:")]
        assert running[command].returncode and len(lines) == 1 and lines[0].startswith(f"error: {start}"), lines
    for command in listed:
        out, err = pages[command]
        assert running[command].returncode == 0 and not re.search(r"\| +jax$", err, re.M)
        assert "* grid.seeds = (3, 4)  # configs/base.py: (1, 2)\n" in out and "  data.url = " in out
        assert "* data.source = 'mimic-iv'  # configs/base.py: 'synthetic'\n" in out
    for command in spaced:  # and so without the sign in between
        assert "* data.source = 'challenge-2012'  # configs/base.py: 'synthetic'\n" in pages[command][0]
    made = {path for path in tmp_path.iterdir() if path.name != "__pycache__"}  # which is Python's, of the files
    assert made == set(files.values())


def test_help_that_nobody_reads_to_the_end_is_no_error():
    command = f"{sys.executable} -c 'import time; from launch import plan; time.sleep(0.5); plan.run(plan.main)' --help"
    done = subprocess.run(f"{command} | true", shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


# Of POSIX' numbers those that reading, writing, making or locking files, and starting processes, may give
_NUMBERS = """
EACCES EAGAIN EBUSY EDQUOT EEXIST EFBIG EHOSTDOWN EINVAL EIO EISDIR ELOOP EMFILE EMLINK ENAMETOOLONG ENFILE
ENODEV ENOENT ENOLCK ENOMEM ENOSPC ENOTCONN ENOTDIR ENOTEMPTY ENXIO EOPNOTSUPP EPERM EROFS ESTALE ETIMEDOUT ETXTBSY
EXDEV"""


@pytest.mark.parametrize("name", _NUMBERS.split())
def test_every_error_of_the_system_has_a_line(name, tmp_path, monkeypatch, capsys):
    number, path = getattr(errno, name), tmp_path / "shard.parquet"
    error = OSError(number, os.strerror(number), str(path))
    told = of_system(error)
    assert isinstance(told, UserError) and "\n" not in str(told)
    assert str(path) in str(told) or number in (errno.ENOMEM, errno.EAGAIN)

    def main():
        try:
            raise error
        except OSError as e:  # as a library passes it on
            raise RuntimeError("could not do it") from e

    monkeypatch.setattr(common.app, "run", lambda guarded, flags_parser: guarded(["x"]))
    with pytest.raises(SystemExit) as end:
        common.run(main)
    passing = {"EHOSTDOWN", "EIO", "ENOTCONN", "ESTALE", "ETIMEDOUT"}  # of drives: they may be there again
    assert end.value.code == (69 if name in passing else 1)
    assert capsys.readouterr().err == f"error: {told}\n"
    if number != errno.ENOENT:  # nobody is told to delete what only may not be read
        assert "delete" not in str(unreadable(error, path, f"{path} is damaged: delete it"))
