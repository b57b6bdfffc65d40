"""Commands that ask trained models, by several processes that hold a model together: as one device does, or not at all.

How SIGTERM and a death end all of them is in test_leading.py, for steps of any kind."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import answering, predict
from ehr_scaling.outcomes.asking import sheet_stays
from ehr_scaling.outcomes.asking.tasks import sheets
from ehr_scaling.processes import companions
from tests import small
from tests.outcomes import as_one
from tests.outcomes.scored import same

pytestmark = pytest.mark.nightly  # tests/outcomes/test_answering.py has two processes that each hold the model
SHEET = """
description: What comes after a discharge.
anchor: HOSPITAL_DISCHARGE
hours: 0
top: 4
horizons: [7, 30]
at_end: negative
"""
ASK = ("--config.data.context=64", "--config.outcome.copies=3", "--config.outcome.new_tokens=24")
PREDICT = ("--split=held_out", "--positive=ICU_ADMISSION", "--negative=HOSPITAL_DISCHARGE", "--copies=3")
MEMORY = {"cut": 0.0, "held": 1e9}  # of a device: two processes cut the model between them, or each holds it


def together(memory, command, *flags):
    """As `as_one.ends`, of two processes of a command."""
    return as_one.ends(as_one.start("-c", as_one.WITH_MEMORY, memory, command, *flags))


def copied(workdir, folder):
    """The study without what was asked."""
    shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns("outcomes"), symlinks=True)
    return folder


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """A folder with a sheet of questions, and labels of the test stays."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "sheet.yaml").write_text(SHEET)
    workdir, cell, _ = trained
    asked = pq.read_table(workdir / "outcomes" / "icu_admission" / f"{cell.id}.parquet")
    pq.write_table(asked.select(asked.column_names[:3]), folder / "labels.parquet")
    return folder


@pytest.mark.parametrize("way", MEMORY)
def test_a_sheet(trained, files, tmp_path, way):
    workdir, cell, _ = trained
    one, two = (copied(workdir, tmp_path / name) for name in ("one", "two"))
    sheet = sheets.load(files / "sheet.yaml")
    sheet_stays.prepare(one, sheet, context=64, copies=3, new_tokens=24)
    (expected,) = answering.job([cell], one, small.silent, name=sheet.name)
    flags = (f"--workdir={two}", f"--questions={files / 'sheet.yaml'}", *ASK)
    first, second = together(MEMORY[way], "launch.ask", *flags)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert ("one process holds this model" in first[2]) == (way == "held")
    ours, theirs = (Layout(folder).task(sheet.name) / f"{cell.id}.json" for folder in (two, one))
    assert same(artifacts.read_json(ours), expected)
    said = [pq.read_table(path.with_suffix(".parquet"))["probability"].to_numpy() for path in (ours, theirs)]
    np.testing.assert_allclose(*said, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("way", MEMORY)
def test_predictions(trained, files, tmp_path, way):
    """Each process has as many devices as there are cores; the one that is alone too, whose kernels round as theirs."""
    flags = (f"--model={trained[0]}", f"--labels={files / 'labels.parquet'}", *PREDICT, "--new_tokens=24")
    subprocess.run([sys.executable, "-m", "launch.predict", *flags, f"--out={tmp_path / 'one'}"], check=True)
    first, second = together(MEMORY[way], "launch.predict", *flags, f"--out={tmp_path / 'two'}")
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "predictions by cell" in first[1] and "predictions by cell" not in second[1]
    one, two = (pq.read_table(tmp_path / name / predict.FILE) for name in ("one", "two"))
    assert one.column_names == two.column_names and len(one) > 20
    for name in one.column_names:
        if name == "predicted_boolean_probability":
            np.testing.assert_allclose(two[name].to_numpy(), one[name].to_numpy(), rtol=1e-4, atol=1e-7)
        else:
            assert one[name] == two[name]


@pytest.mark.parametrize("way", MEMORY)
def test_an_audit(trained, tmp_path, way):
    """Losses and ranks of windows, and continuations: what is told of them is the same."""
    workdir, cell, _ = trained
    flags = (f"--workdir={workdir}", "--patients=60", "--prompt=8", "--draws=50")
    subprocess.run([sys.executable, "-m", "launch.audit", *flags, f"--out={tmp_path / 'one'}"], check=True)
    first, second = together(MEMORY[way], "launch.audit", *flags, f"--out={tmp_path / 'two'}")
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "1 audited" in first[1] and "audited" not in second[1]
    one, two = (artifacts.read_json(tmp_path / name / f"{cell.id}.json") for name in ("one", "two"))
    assert one["continuation"]["rows"] and one["rare"] and same(two, one)


@pytest.mark.parametrize("way", MEMORY)
def test_probes(trained, tmp_path, way):
    workdir, cell, _ = trained
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(workdir, folder, symlinks=True)
    flags = ("--task=icu_admission", "--methods=probe", "--workers=1")
    subprocess.run([sys.executable, "-m", "launch.supervise", f"--workdir={one}", *flags], check=True)
    first, second = together(MEMORY[way], "launch.supervise", f"--workdir={two}", *flags)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "probe, all labels" in first[1] and "probe, all labels" not in second[1]
    head = f"outcomes/icu_admission/supervised/probe/all/{cell.id}"
    ours, theirs = (artifacts.read_json(folder / f"{head}.json") for folder in (two, one))
    assert ours["strength"] == theirs["strength"] and ours["auroc"] == pytest.approx(theirs["auroc"], abs=1e-3)
    risks = [pq.read_table(f / f"{head}.parquet")["predicted_boolean_probability"].to_numpy() for f in (two, one)]
    np.testing.assert_allclose(*risks, rtol=1e-3)


def mistakes(workdir, files, damaged, out):
    """{what the user did: (command, flags, what is said of it)}"""
    ask, asked = (f"--workdir={workdir}", *ASK), f"--questions={files / 'sheet.yaml'}"
    of, labels = (f"--out={out}", "--new_tokens=24", *PREDICT), f"--labels={files / 'labels.parquet'}"
    return {
        "no sheet": ("launch.ask", (*ask, f"--questions={files / 'none.yaml'}"), "none.yaml"),
        "no such model": ("launch.ask", (*ask, asked, "--cell=none"), "none"),
        "damaged": ("launch.ask", (f"--workdir={damaged}", *ASK, asked), "is damaged"),
        "no labels": ("launch.predict", (f"--model={workdir}", f"--labels={files / 'none'}", *of), "none"),
        "no such stay": ("launch.predict", (f"--model={workdir}", labels, *of, "--split=train"), "train"),
        "damaged too": ("launch.predict", (f"--model={damaged}", labels, *of), "is damaged"),
    }


def test_mistakes_end_all_in_a_line_each(trained, files, tmp_path):
    """That of process 0 says what is to be mended, those of others that it has ended. Nobody waits."""
    workdir, cell, _ = trained
    damaged = copied(workdir, tmp_path / "damaged")
    shutil.copytree(workdir / "outcomes", damaged / "outcomes")
    file = max((f for f in Layout(damaged).run(cell.id).rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    for name, (command, flags, said) in mistakes(workdir, files, damaged, tmp_path / "out").items():
        first, second = as_one.ends(as_one.start("-m", command, *flags))
        assert (first[0], second[0]) == (1, companions.STATUS), (name, first, second)
        (line,) = (line for line in first[2].splitlines() if line.startswith("error: "))
        assert said in line and "Traceback" not in first[2] + second[2], (name, line)
        assert "error: process 0 of 2 has ended before the others: see what it said" in second[2], name
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["asked 0", "asked 1", "killed 1"])
def test_the_end_of_one_while_futures_are_drawn(trained, files, tmp_path, how):
    """Of launch.predict, which keeps nothing of it."""
    flags = (f"--model={trained[0]}", f"--labels={files / 'labels.parquet'}", f"--out={tmp_path / 'out'}")
    started = as_one.start("-m", "launch.predict", *flags, *PREDICT[:-1], "--copies=1000", "--new_tokens=512")
    until = time.monotonic() + 60
    while b"simulating" not in (read := started[0].stderr.buffer.read1()) and time.monotonic() < until:
        assert read
    time.sleep(2)
    begun, victim = time.monotonic(), int(how[-1])
    (started[victim].kill if how.startswith("killed") else started[victim].terminate)()
    ended = as_one.ends(started)
    assert time.monotonic() - begun < 10
    expected = [75, 75] if how.startswith("asked") else [companions.STATUS, -signal.SIGKILL]
    assert [status for status, *_ in ended] == expected, ended
    assert "Traceback" not in "".join(error for _, _, error in ended)
    assert not (tmp_path / "out" / predict.FILE).exists()
