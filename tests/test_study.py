"""The whole way, from generated patients to a report, as a user runs it: launch scripts in processes of their own."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from ehr_scaling import analysis as laws
from ehr_scaling import study as stages
from ehr_scaling.analysis.tables import readers
from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.layout import Layout
from ehr_scaling.training import setup
from tests import forked, small

STAGES = ("events", "timelines", "packed", "grid", "runs", "outcomes", "report")
SMALL = (
    "--config.data.patients=400",
    "--config.data.seed=3",  # of which some of the test split die
    "--config.data.context=64",
    "--config.data.block=4",
    "--config.training.dispatch_sequences=16",
    "--config.training.batch.sequences=4",
    "--config.training.batch.exponent=0.0",
    "--config.validation.sequences=64",
    "--config.validation.batch=32",
    "--config.grid.budgets=(1.2e9,2.4e9)",
    "--config.grid.sizes=('1.7k','3.5k')",
    "--config.grid.seeds=(0,1)",
    "--config.outcome.new_tokens=24",
    "--config.outcome.samples=40",
    "--config.outcome.positive_share=0.3",
    "--config.analysis.draws=50",
    "--config.workers=1",
)


def launch(script, *flags, start=forked.run, **more):
    """Run `python -m launch.<script>` to its end."""
    return start(
        [sys.executable, "-m", f"launch.{script}", *flags], capture_output=True, text=True, check=False, **more
    )


def one_line(done):
    """The error of a run that failed as it should: one line, no traceback, a status that says so."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr[-3000:]
    return errors[0]


@pytest.fixture(scope="module", autouse=True)
def emitter_of_users():
    """Losses are compared to the last bit between one worker and several: so by the programs that a user gets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("--xla_cpu_use_fusion_emitters=false", ""))
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "w"
    command = [sys.executable, "-c", small.FEW_TREES, "launch.study", f"--workdir={workdir}", *SMALL[:-1]]
    done = forked.run(command, capture_output=True, text=True, check=False)  # with as many workers as a user gets
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


def test_a_study_ends_in_a_report(study):
    workdir, done = study
    assert f"the report is {workdir / 'report' / 'report.html'}" in done.stdout
    budgets = json.loads((workdir / "report" / "laws.json").read_text())["isoflop"]["budgets"]
    assert len(budgets) == 2 and all(budget["verdict"] for budget in budgets)
    page = (workdir / "report" / "report.html").read_text()
    assert "Generated patients" in page
    assert "logistic regression" in page.lower()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    cells = [json.loads(line) for line in (workdir / "grid" / "manifest.jsonl").read_text().splitlines()]
    assert len(cells) == 8
    task = next((workdir / "outcomes").iterdir())
    for cell in cells:
        assert cell["id"] in page
        assert 0 <= json.loads((task / f"{cell['id']}.json").read_text())["auroc"] <= 1
        assert (task / f"{cell['id']}.parquet").exists()


def test_no_patient_is_named_in_what_a_person_reads(study):
    workdir, done = study
    import pyarrow.parquet as pq

    ids = set(pq.read_table(workdir / "events" / "metadata" / "subject_splits.parquet")["subject_id"].to_pylist())
    read = done.stdout + done.stderr + (workdir / "report" / "laws.json").read_text()
    read += re.sub(r"<svg.*?</svg>", "", (workdir / "report" / "report.html").read_text(), flags=re.S)
    assert not ids & {int(number) for number in re.findall(r"\d{8,}", read)}


def test_run_again_it_skips_what_is_there(study):
    workdir, _ = study
    kept = {p: p.stat().st_mtime_ns for p in (workdir / "runs").rglob("metrics")} | {
        p: p.stat().st_mtime_ns for p in (workdir / "outcomes").rglob("*.json")
    }
    done = launch("study", f"--workdir={workdir}", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert kept == {p: p.stat().st_mtime_ns for p in kept}


def test_every_stage_is_a_command_too(study, tmp_path):
    """On a finished study each finds its work done; the report of the runs is the study's."""
    workdir, _ = study
    for script in ("prepare", "sweep", "evaluate"):
        done = launch(script, f"--workdir={workdir}", *SMALL)
        assert done.returncode == 0, done.stderr[-3000:]
    cell = json.loads((workdir / "grid" / "manifest.jsonl").read_text().splitlines()[0])["id"]
    done = launch("train", f"--workdir={workdir}", f"--cell={cell}")
    assert "validation loss" in done.stdout, done.stderr[-3000:]
    assert "is not in" in one_line(launch("train", f"--workdir={workdir}", "--cell=0"))
    again = tmp_path / "report"
    done = launch("analyze", f"--runs={workdir / 'runs'}", f"--out={again}", "--draws=50")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((folder / "laws.json").read_text()) for folder in (workdir / "report", again)]
    assert found[0]["isoflop"] == found[1]["isoflop"]


def test_what_is_published_gives_the_same_laws(study, tmp_path):
    workdir, _ = study
    claims = tmp_path / "claims.yaml"
    claims.write_text(
        "study: small\nruns:\n- {budgets: [1.2e+9, 2.4e+9], sizes: [1.7k, 3.5k], seeds: [0, 1]}\n"
        "claims:\n- {claim: none is bracketed, figure: isoflop.budgets.verdict.count(bracketed), is: 0}\n"
    )
    done = launch("publish", f"--workdir={workdir}", f"--claims={claims}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0 and "held: none is bracketed" in done.stdout, done.stderr[-3000:]
    published = json.loads((tmp_path / "out" / "laws.json").read_text())
    again = laws.fit(laws.read(tmp_path / "out" / "runs.csv"), draws=50).to_json()
    # Files of a study say more of it than its table does: whose patients, what was scored, when losses were read.
    for name in ("outcomes", "planner", "holdout", "data", "provenance", "files"):
        published.pop(name, None), again.pop(name, None)
    assert again == published
    assert str(workdir) not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.*"))


def test_other_data_or_another_grid_is_refused(study):
    workdir, _ = study
    other = launch("study", f"--workdir={workdir}", "--config.data.patients=401", *SMALL[1:])
    assert re.search(r"events was made from other inputs \(patients was 400, now 401\).*--workdir", one_line(other))
    other = launch("study", f"--workdir={workdir}", *SMALL, "--config.training.rate.peak=0.5")
    assert "training.rate.peak was" in one_line(other)


@pytest.mark.nightly  # test_loop.py, test_pipeline.py and test_executors.py kill a run, a preparation, a sweep
@pytest.mark.parametrize("moment", ("timelines", "runs", "outcomes"))
def test_killed_at_any_moment_it_goes_on(study, tmp_path, moment):
    """SIGKILL to the whole process group when a stage has begun; the next run ends as the undisturbed one did."""
    whole, _ = study
    workdir = tmp_path / "w"
    if moment != "timelines":  # begin where that stage begins
        shutil.copytree(whole, workdir)
        for later in ("report", "outcomes", *(("runs",) if moment == "runs" else ())):
            shutil.rmtree(workdir / later)
    command = [sys.executable, "-m", "launch.study", f"--workdir={workdir}", *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    watched = workdir / (moment if moment != "timelines" else "events")
    deadline = time.monotonic() + 120
    while not watched.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = launch("study", f"--workdir={workdir}", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(workdir) == losses(whole)


@pytest.mark.nightly
def test_killed_fifty_times_it_ends_as_if_undisturbed(study, tmp_path):
    """SIGKILL to the whole group whenever a few more files are there, in all stages: the same losses and scores."""
    whole, _ = study
    workdir, kills = tmp_path / "w", Counter()
    command = [sys.executable, "-m", "launch.study", f"--workdir={workdir}", *SMALL]
    stages = ("events", "timelines", "packed", "grid", "runs", "outcomes", "report")

    def files() -> int:
        return sum(len(names) for _, _, names in os.walk(workdir))

    for _ in range(200):  # until it ends: what is made anew after each takes more of them where others are at work
        before, pipes = files(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **pipes, start_new_session=True)
        while process.poll() is None and files() < before + 3:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills[next((stage for stage in reversed(stages) if (workdir / stage).exists()), "")] += 1
    done = launch("study", f"--workdir={workdir}", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(workdir) == losses(whole)
    assert scores(workdir) == scores(whole) and len(scores(whole)) == len(losses(whole))
    assert sum(kills.values()) >= 50 and {"runs", "outcomes"} <= kills.keys(), kills
    assert kills.keys() & {"events", "timelines", "packed"}, kills  # by the newest that was there


def scores(workdir: Path) -> dict[str, float]:
    """AUROC of each model and task; a model's file is named by its cell."""
    files = (path for cell in losses(workdir) for path in (workdir / "outcomes").glob(f"*/{cell}.json"))
    return {f"{path.parent.name}/{path.stem}": json.loads(path.read_text())["auroc"] for path in files}


def losses(workdir: Path) -> dict[str, float]:
    found = {}
    for path in (workdir / "runs").glob("*/*/metrics/metrics"):
        metrics = json.loads(path.read_text())
        assert metrics["finished"]
        found[metrics["id"]] = metrics["validation_loss"]
    assert len(found) == 8
    return found


def test_control_c_is_one_line_and_stops_the_workers(study, tmp_path):
    whole, _ = study
    workdir = tmp_path / "w"
    shutil.copytree(whole, workdir)
    for later in ("report", "outcomes", "runs"):
        shutil.rmtree(workdir / later)
    command = [sys.executable, "-m", "launch.study", f"--workdir={workdir}", *SMALL[:-1], "--config.workers=2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (workdir / "runs").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "error: interrupted: finished work is kept" in stderr
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):  # until nobody of the group is left
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--config.grid.bugets=(1e9,)",), r"bugets"),
        (("--config.data.patients=many",), r"patients"),
        (("--config=configs/nowhere.py",), r"nowhere"),
        (("--data=nowhere",), r"--data=nowhere is no folder: give one of synthetic, challenge-2012"),
        (("--data=.",), r"holds neither hosp/ \(MIMIC-IV\) nor data/ and metadata/ \(MEDS\)"),
        (("--raw=nowhere", "--data=challenge-2012"), r"--raw=nowhere is no folder"),
        (("--raw=tests", "--data=challenge-2012"), r"set-a.tar.gz is missing"),
        (("--config.data.source=mimic",), r"no source is called 'mimic'"),
        (("--config.grid.sizes=('3.5k','4k')",), r"unknown model size '4k'"),
        (("--config.grid.budgets=(1e6,)",), r"no feasible cell .*--config.training.min_steps"),
        (("--config.grid.seeds=()",), r"no feasible cell"),
        (("--config.data.splits=(1.0,0.0,0.0)",), r"split"),
        (("surplus",), r"unexpected argument 'surplus'"),
    ],
)
def test_bad_input_ends_in_one_clear_line(tmp_path, flags, expected):
    named = {flag.split("=")[0] for flag in flags}
    small = [] if named & {"--data", "--raw", "--config"} else [f for f in SMALL if f.split("=")[0] not in named]
    done = launch("study", f"--workdir={tmp_path / 'w'}", "--dry_run", *small, *flags)
    assert re.search(expected, one_line(done)), done.stderr


def test_a_rate_that_no_run_survives_is_one_line(study, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(study[0], workdir)
    for later in ("grid", "runs", "outcomes", "report"):
        shutil.rmtree(workdir / later)
    done = launch("study", f"--workdir={workdir}", *SMALL, "--config.training.rate.peak=1e38")
    assert "gives a learning rate of 1e+38" in one_line(done)
    assert not list((workdir / "runs").glob("*/*/metrics/metrics"))


@pytest.mark.parametrize(
    "error",
    [
        "OSError(28, 'No space left on device', 'work/runs/x')",
        "ValueError('RESOURCE_EXHAUSTED: write failed: No space left on device')",  # as tensorstore says it
    ],
)
def test_a_full_disk_is_one_line(error):
    program = f"""
import sys
from launch.common import common
sys.argv = ["x"]
def main():
    raise {error}
common.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    where = "work/runs/x: " if error.startswith("OSError") else ""
    assert one_line(done) == f"error: {where}the disk is full: free some space and run the same command again"


def test_dry_run_prints_the_cost_and_trains_nothing(tmp_path):
    done = launch("study", f"--workdir={tmp_path / 'w'}", "--dry_run", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "8 cells, " in done.stdout
    assert not (tmp_path / "w" / "runs").exists()


def test_help_teaches():
    done = launch("study", "--help")
    assert "--data=challenge-2012" in done.stdout
    assert "--dry_run" in done.stdout


def settings():
    config = base.get_config()
    for flag in SMALL:
        name, _, value = flag.removeprefix("--config.").partition("=")
        config.update_from_flattened_dict({name: ast.literal_eval(value)})
    return config


def flipped(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]


def halved(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize("stage", ["events", "timelines", "packed", "grid", "runs", "outcomes"])
def test_what_was_damaged_is_named_by_whoever_reads_it(study, tmp_path, stage):
    """Every file of a study that a later stage reads: with a bit flipped, cut in half, and gone."""
    config, workdir = settings(), tmp_path / "w"
    shutil.copytree(study[0], workdir)
    for later in STAGES[STAGES.index(stage) + 1 :]:
        if (stage, later) != ("packed", "grid"):
            shutil.rmtree(workdir / later, ignore_errors=True)
    cell = manifest.read(workdir / "grid")[0] if stage == "runs" else None

    def read():
        match stage:
            case "events" | "timelines":
                pipeline.prepare(config.data, workdir, until=STAGES[STAGES.index(stage) + 1])
            case "packed":
                stages.train(config, workdir)
            case "grid":
                manifest.read(workdir / "grid")
                stages.write_report(config, workdir, "")
            case "runs":
                readers.read_directory(workdir / "runs")
                setup.restored_params(cell, Layout(workdir).run(cell.id))
            case "outcomes":
                stages.score(config, workdir)
                stages.write_report(config, workdir, "")

    folder = Layout(workdir).run(cell.id) if cell else workdir / stage
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "metrics.jsonl"]
    assert len(files) > 1
    for path in files:
        if path.parent.name == "baselines":  # for people: no stage reads them
            continue
        data = path.read_bytes()
        for harm in (flipped, halved, None):
            # A score that is gone is made again; checkpoints of earlier versions have no list of their files.
            if harm is None and (stage == "outcomes" or path.name == "files.json"):
                continue
            path.write_bytes(harm(data)) if harm else path.unlink()
            with pytest.raises(UserError) as told:
                read()
            assert str(path.parent) in str(told.value), (path, harm)
            path.write_bytes(data)
