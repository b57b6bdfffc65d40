"""Every command that documents and docstrings show is run as it stands there, on a small study, or marked with why not.

Places such as W, DIR or table.csv are taken for those of one folder, made once, and flags that make a command small are
put behind it. `make test` runs the quick ones, `make nightly` all.
"""

import ast
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow import csv

from ehr_scaling.outcomes.asking.tasks.tasks import Task
from launch.console import COMMANDS
from tests import forked, meds_dev_files

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(path for path in sorted(ROOT.glob("*.md")) if path.stem != "CHANGELOG"),
    *sorted(path for folder in ("docs", "studies", "meds_dev") for path in (ROOT / folder).rglob("*.md")),
    *sorted(path for folder in ("launch", "configs") for path in (ROOT / folder).rglob("*.py")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
PROGRAM = re.compile(
    r"(?:\S*/)?(?:python|pip|pytest|make|ehr-scaling|docker|kubectl|xpk|gcloud|zensical) |EHR_\w+=|--\w"
)
INLINE = re.compile(r"`((?:(?:\S*/)?(?:python -m|pip|make|ehr-scaling|docker|xpk|gcloud) |EHR_\w+=)[^`]+)`")

# Not run here, and why
MARKED = {
    r"DATA=challenge-2012|--data=challenge-2012|challenge_2012_(reference|forecast)\.py": "a download, and hours",
    r"mimic-iv-demo": "a download",
    r"launch\.fetch_maps|--code_maps=DIR": "a download: code maps are not shipped",
    r"^pip wheel|^\S*pip install|^make setup": "a download; see the extras below, and test_package.py",
    r"gs://BUCKET": "credentials of a bucket; tests/test_storage.py runs studies on an emulator",
    r"^docker ": "no daemon; test_package.py has what an image is built of",
    r"^ehr-scaling \w+$": "says no more than what a command is for",
    r"--executor=slurm": "a cluster",
    r"--coordinator=host0|xpk|gcloud|kubectl|--distributed": "several machines",
    r"FlinkRunner|SparkRunner|DaskRunner|DataflowRunner": "a cluster; tests/data/test_pipeline.py has Dask on one",
    r"torch_peer|--torch_python": "PyTorch, of the extra bench",
    r"launch\.bench accelerator": "a GPU",
    r"wandb:PROJECT": "an account of Weights & Biases; tests/test_publish.py has a stand-in",
    r"^EHR_SCALING_FUZZ": "the tests of tests/fuzz themselves, for longer",
    r"^EHR_SCALING_MESHES": "the tests of meshes themselves, all of them",
    r"launch\.sweep … --workdir=W$": "says no more than that a sweep is one command",
}
# What each command is given so that it takes seconds
DATA = "--config.data.patients=400 --config.data.context=64 --config.data.block=4"
TRAINING = (
    "--config.training.dispatch_sequences=16 --config.training.min_steps=8 --config.validation.sequences=32 "
    "--config.validation.batch=16 --config.grid.budgets=(1e9,) --config.grid.sizes=('1.7k',) --config.workers=1"
)
SCORING = "--config.outcome.samples=20 --config.outcome.train_samples=2000 --config.outcome.copies=1"
SMALL = f"{DATA} {TRAINING} {SCORING} --config.outcome.new_tokens=8 --config.analysis.draws=20"
ONE_SEED = "--config.grid.seeds=(1,)"
SHORT = {
    r"launch\.study|launch\.sweep.*mimic_iv(?!.*--executor)": f"{SMALL} --dry_run",
    r"launch\.(evaluate|ask)": f"{SMALL} {ONE_SEED}",
    r"launch\.audit": "--patients=40 --prompt=8 --draws=20",
    r"launch\.predict": "--copies=1 --new_tokens=8 --workers=1",
    r"launch\.(analyze|compare)": "--draws=20",
    r"layout=mimic-iv": "--fraction=0.0003",
    r"launch\.prepare": "--config.data.context=64 --config.workers=1",
    # Many minutes each, and no flag makes them small
    r"launch\.bench|launch\.recipes.*--workdir|launch\.leaderboard": "--help",
    r"launch\.supervise": "--help",  # so few patients answer no task; tests/outcomes/supervised runs it
}
QUICK = re.compile(
    r"^make|^--config|--help|--status|--tasks$|--executor=|launch\.(inspect|plan|recipes)|e\.csv --out=report$"
)
# What stands for the places of the documents, in a folder that `places` makes. {n} is another one for each command
PLACES = {
    r"^(\S*/)?python$": sys.executable,
    r"^(--raw|--config\.data\.raw|--data)=[/D].*": r"\1={raw}",
    r"^--(out|trajectories)=(DIR|P|LOOK|studies/\w+)$": r"--\1=made/{n}",
    r"^--out=(?=reports?$|W/report$|c\w*\.json$)": "--out=made/{n}-",
    r"^--report=.*": "--report=report",
    r"^--labels=.*": "--labels=labels/mortality/in_icu/first_24h",
    r"^--task_file=.*": "--task_file=TASK.yaml",
    r"^--predicates=.*": "--predicates=PREDICATES.yaml",
    r"^--data=OTHERS": "--data=W/events",
    r"^--model=.*": "--model=W",
    r"^--cell=.*": "--cell={cell}",
    r"^--workdir=.*": "--workdir={workdir}",
    r"^--claims=.*": "--claims=claims.yaml",
    r"^--runs=runs_([ab])$": r"--runs=\1.csv",
    r"^--runs=W[12]/runs$": "--runs=W/runs",
    r"^--html=": "--html=made/{n}-",
}


def shown(path):
    """The command lines of a document: of its blocks, of docstrings, of a notebook's text, and between backticks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    fence, block, prose = "", [], []
    for line in text.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        inside = fence in ("```bash", "```sh") or (not fence and re.match(r" {2,}\S", line))
        block.append(line.strip() if inside else "")
        prose.append("" if inside else line)
    lines = re.sub(r"\s*\\\n\s*", " ", "\n".join(block)).splitlines()
    found = [re.split(r"\s{3,}|\s+# ", line)[0] for line in lines if PROGRAM.match(line)]
    inline = [" ".join(match.split()) for match in INLINE.findall("\n".join(prose))]
    return found + inline


SHOWN = {command: path for path in DOCUMENTS for command in shown(path)}  # each once
RUN = [command for command in SHOWN if not any(re.search(pattern, command) for pattern in MARKED)]


def whole(command):
    """A command line, with a command before flags that stand alone and modules in place of what is installed."""
    line = re.sub(r"^ehr-scaling ", "python -m launch.console ", command)
    line = re.sub(r"^(?=--config\.)", "python -m launch.sweep --status --workdir=W ", line)
    return re.sub(r"^(?=--runner=)", "python -m launch.prepare --workdir=W ", line)


def test_commands_are_found():
    assert len(SHOWN) > 80
    shown_in = {path.name for path in SHOWN.values()}
    assert shown_in >= {"README.md", "clusters.md", "predict.py", "CONTRIBUTING.md", "p12.py", "timelines.ipynb"}
    assert any(command.startswith("docker run ") for command in SHOWN)
    modules = {match for command in RUN for match in re.findall(r"launch\.(\w+)", command)}
    assert modules == set(COMMANDS) - {"fetch_maps"}


@pytest.mark.parametrize("command", RUN)
def test_a_command_is_run_or_marked(command):
    """What fails here is of a new kind: run it below, or mark it above and say why."""
    named = re.match(r"(?:\S*/)?python -m launch\.(\w+)|(make) ", whole(command))
    assert named and (named[2] or named[1] in (*COMMANDS, "console")), SHOWN[command]


def test_each_mark_is_of_a_command_and_names_tests_that_are_there():
    assert not [pattern for pattern in MARKED if not any(re.search(pattern, command) for command in SHOWN)]
    named = re.findall(r"tests/[\w/]+\.py", " ".join(MARKED.values()))
    assert named and not [path for path in named if not (ROOT / path).is_file()]


def test_extras_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for command in SHOWN for name in re.findall(r"pip install .*\[(\w+)\]", command)}
    assert named and named <= set(extras)


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if "```yaml" in p.read_text()], ids=lambda p: p.name)
def test_tasks_of_documents_have_the_fields_of_a_task(path):
    for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.S):
        for task in yaml.safe_load(block).values():
            assert set(task) <= {field.name for field in fields(Task)}


def split(line):
    """Flags of a line, with their quotes."""
    return shlex.split(line, posix=False)


def execute(folder, *arguments):
    return forked.run(
        arguments, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def table():
    """Runs of a law of loss at four budgets, with whatever columns the documents speak of."""
    rng = np.random.default_rng(0)
    budget = np.repeat([1e17, 4e17, 1.6e18, 6.4e18, 2.56e19], 7)
    n = 0.1 * budget**0.5 * np.tile(np.geomspace(0.2, 5, 7), 5)
    d = budget / 6 / n
    loss = (1.7 + 406 / n**0.34 + 410 / d**0.28) * np.exp(rng.normal(0, 5e-4, n.size))
    rows = {"params": n, "tokens": d, "C": budget, "loss": loss, "loss_per_event": 4 * loss}
    return pa.table(
        {**rows, "patients": [300_000] * n.size, "unique_tokens": [3e11] * n.size, "corpus": ["notes"] * n.size}
    )


CLAIMS = """
study: of documents
runs:
  - {budgets: [1.0e9], sizes: [1.7k], seeds: [1, 2]}
claims:
  - {claim: some runs, figure: data.runs, at_least: 1}
"""
UNANSWERED = "not scored, for the reason above"
MINE = """
mine: {description: x, anchor: HOSPITAL_ADMISSION, hours: 0, positive: [MEDS_DEATH], negative: [HOSPITAL_DISCHARGE]}
"""
SHEET = """
anchor: HOSPITAL_ADMISSION
hours: 24
codes: {death: MEDS_DEATH, laboratory: LAB}
top: 3
horizons: [7, 365]
"""


def launch(folder, *arguments):
    done = execute(folder, sys.executable, "-m", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with the places of the documents: a planned study W, tables and a report."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("table", "a", "b"):
        csv.write_csv(table(), folder / f"{name}.csv")
    pq.write_table(table().select(["params", "C", "loss"]).rename_columns(["params", "C", "val"]), folder / "t.parquet")
    shutil.copytree(ROOT / "studies" / "challenge_2012", folder / "studies" / "challenge_2012")
    (folder / "made").mkdir()
    (folder / "mine.yaml").write_text(MINE)
    (folder / "sheet.yaml").write_text(SHEET)
    (folder / "claims.yaml").write_text(CLAIMS)
    (folder / "answers.yaml").write_text("tripod.18a: none\n")
    meds_dev_files.write(folder / "TASK.yaml", meds_dev_files.task(meds_dev_files.MORTALITY))
    meds_dev_files.write(folder / "PREDICATES.yaml", meds_dev_files.predicates())
    with ThreadPoolExecutor() as pool:
        planned = pool.submit(launch, folder, "launch.study", "--workdir=W", *split(SMALL), ONE_SEED, "--dry_run")
        launch(folder, "launch.analyze", "--runs=table.csv", "--out=report", "--draws=20")
        planned.result()
    return folder


@pytest.fixture(scope="module")
def finished(places):
    """And W is run to its end, MIMIC-IV's own files are generated in G, and planned in M; labels."""
    launch(places, "launch.study", "--workdir=W", *split(SMALL), ONE_SEED)
    launch(
        places,
        "launch.prepare",
        "--workdir=G",
        "--source=synthetic",
        "--layout=mimic-iv",
        "--fraction=0.0003",
        *split(DATA),
    )
    launch(places, "launch.audit", "--workdir=W", *split(SHORT[r"launch\.audit"]))
    mimic = ("--config=configs/mimic_iv.py", "--config.data.raw=G/raw", "--workdir=M", "--dry_run")
    launch(places, "launch.study", *mimic, *split(SMALL))
    events = pa.concat_tables(map(pq.read_table, (places / "W" / "events" / "data" / "held_out").glob("*.parquet")))
    stays = events.filter(pc.starts_with(events["code"], "HOSPITAL_ADMISSION")).slice(0, 20)
    labels = {"subject_id": stays["subject_id"], "prediction_time": stays["time"], "boolean_value": [True] * len(stays)}
    folder = places / "labels" / "mortality" / "in_icu" / "first_24h"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(labels), folder / "0.parquet")
    return places


def arguments_of(command, n, folder):
    """What a command of the documents is here; n: its number."""
    line = whole(command).split(" > ")[0].replace("[--watch]", "--watch").replace("${k}", "61").replace("$k", "61")
    if line.startswith("make"):
        return ["make", "-n", "-C", str(ROOT), *line.split()[1:]]
    line = line.replace(" …", "").replace("<part>", "data").replace("=F", "=0.1")
    arguments, line = shlex.split(line), line.replace("launch.console ", "launch.")
    cell = json.loads((folder / "W" / "grid" / "manifest.jsonl").read_text().splitlines()[0])["id"]
    workdir = "W"
    if re.search(r"launch\.(study|prepare)|launch\.recipes.*--workdir", line):
        workdir = f"made/{n}"
        arguments.append("--workdir=DIR")
    if "mimic_iv" in line and "--executor" not in line:
        workdir = "M"
        arguments.append("--workdir=DIR")
    for pattern, ours in PLACES.items():
        ours = ours.format(n=n, cell=cell, workdir=workdir, raw="W/events" if "--source=meds" in line else "G/raw")
        arguments = [re.sub(pattern, ours, argument) for argument in arguments]
    return arguments + [flag for pattern, more in SHORT.items() if re.search(pattern, line) for flag in split(more)]


def said_by(command, folder):
    """What is wrong with a command; nothing where it ends as it should, or says that so few patients answer no task."""
    arguments = arguments_of(command, list(SHOWN).index(command), folder)
    done = execute(folder, *arguments)
    return (
        f"{SHOWN[command].name}: {shlex.join(arguments)}\n{done.stderr[-2000:]}"
        if done.returncode and UNANSWERED not in done.stderr
        else ""
    )


def test_quick_commands(places):
    quick = [command for command in RUN if QUICK.search(command)]
    assert len(quick) > 30
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wrong = [said for said in pool.map(lambda command: said_by(command, places), quick) if said]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.nightly
@pytest.mark.parametrize("command", [c for c in RUN if not QUICK.search(c)])
def test_long_commands(finished, command):
    assert not said_by(command, finished)
