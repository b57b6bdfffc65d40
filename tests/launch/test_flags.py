"""An error names flags that the command has."""

import ast
import functools
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

import launch
from ehr_scaling.data.sources.meds import dataset
from ehr_scaling.errors import NO_MEMORY, UserError
from launch.common import common
from launch.predict import NAMES
from tests import forked

ROOT = Path(launch.__file__).parents[1]
COMMANDS = [
    path
    for path in sorted((ROOT / "launch").glob("*.py"))
    if re.search(r"^    (common\.)?run\(main", path.read_text(), re.M)
]
FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)(\.\w+)*")
OF_OTHERS = re.compile(r"launch\.\w+[^;:]*")  # "... launch.sweep --status": the flag is that command's


@pytest.fixture(scope="module")
def told():
    """{command: (names of its flags, absl's own among them, and of the modules imported when its help is told)}. All at
    once: most of their time is their imports."""
    code = """
import runpy, sys
name = sys.argv.pop()
sys.argv.append("--help")
try:
    runpy.run_module(f"launch.{name}", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
from absl import flags
print(*flags.FLAGS)
print(*sys.modules)
"""
    running = {
        path.stem: subprocess.Popen([sys.executable, "-c", code, path.stem], stdout=subprocess.PIPE, text=True)
        for path in COMMANDS
    }
    said = {name: process.communicate(timeout=300)[0].splitlines() for name, process in running.items()}
    assert all("flags" in "".join(help_text) for *help_text, _, _ in said.values())
    return {name: tuple(set(line.split()) for line in lines[-2:]) for name, lines in said.items()}


@pytest.fixture(scope="module")
def flags(told):
    """{command: names of its flags}"""
    return {name: names for name, (names, _) in told.items()}


@functools.cache
def imports(file):
    """Files of this repository that a file imports; a package stands for all that it may import by name."""
    found = set(file.parent.rglob("*.py")) if file.parts[-2:] == ("sources", "__init__.py") else set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{name}" for name in names)] if node.module else names
        here = file.parents[node.level - 1] if isinstance(node, ast.ImportFrom) and node.level else ROOT
        for place in (here.joinpath(*name.split(".")) for name in names):
            found |= {p.resolve() for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()}
    return found


def reached(path):
    """A file, what it imports, and so on."""
    found, waiting = set(), [path]
    while waiting:
        if (file := waiting.pop()) not in found:
            found.add(file)
            waiting += imports(file)
    return found


def messages(file):
    """What a file says in errors, with "…" for what is filled in: strings of sentences, not of style sheets."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.JoinedStr):
                    yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in part.values)
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_errors_name_flags_of_the_command(flags):
    """Every flag in an error is one of some command that reaches it; of the only one, where it is one."""
    assert set(flags) >= {"analyze", "compare", "plan", "predict", "study", "train"}
    by_file = defaultdict(set)
    configs = set().union(*map(reached, (ROOT / "configs").glob("*.py")))  # read by name
    for path in COMMANDS:
        for file in reached(path) | (configs if "config" in flags[path.stem] else set()):
            by_file[file].add(path.stem)
    seen, unknown = 0, []
    for file, commands in sorted(by_file.items()):
        for message in messages(file):
            own = FLAG.findall(OF_OTHERS.sub("", message))
            seen += len(own)
            unknown += [
                (str(file.relative_to(ROOT)), name, message)
                for name, _ in own
                if not any(name in flags[command] for command in commands)
            ]
    assert not unknown and seen > 100


def test_no_help_waits_for_what_is_slow_to_import(told):
    slow = {"jax", "tensorflow_datasets", "scipy", "matplotlib", "orbax", "ehr_scaling.data.timelines.timelines"}
    assert set(told) >= {"bench", "inspect", "prepare", "study"}
    assert not {name: here for name, (_, modules) in told.items() if (here := slow & modules)}


def test_names_of_flags_elsewhere_lead_to_flags(flags):
    assert {name for ours in NAMES.values() for name, _ in FLAG.findall(ours)} <= flags["predict"]
    assert "config" not in flags["predict"] and "config" not in flags["train"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("lower --config.outcome.new_tokens or raise --config.data.context",
         "lower --new_tokens or raise config.data.context of the study"),
        ("take another --workdir, or delete it", "take another --out, or delete it"),
        ("take the --workdir it was trained in", "take the --model it was trained in"),
        ("or take --config.workers=1", "or take --workers=1"),
        ("give their folder with --raw=DIR", "give their folder with --data=DIR"),
        ("change --config.data.splits.", "change config.data.splits of the study."),
        ("--config.training.mesh.tensor=3: take 2", "config.training.mesh.tensor=3 of the study: take 2"),
        (NO_MEMORY, f"{NO_MEMORY}: fewer --copies or --new_tokens"),
    ],
)  # fmt: skip
def test_a_command_without_a_config_says_what_it_has(monkeypatch, said, told):
    monkeypatch.setattr(common.flags, "FLAGS", {})
    assert common.own_flags(said, NAMES) == told
    monkeypatch.setattr(common.flags, "FLAGS", {"config": None})
    more = ": --config.workers=1, --config.training.microbatch=1" if said == NO_MEMORY else ""
    assert common.own_flags(said, {}) == said + more


class Flag(NamedTuple):
    value: object


@pytest.mark.parametrize("path", ["gs://b/x", "GS://b/x", "s3a://b/x", "abfss://b/x", "https://b/x"])
def test_what_looks_like_a_bucket_is_one_or_refused(monkeypatch, path):
    """A path would be a folder of that name here."""
    elsewhere = {"workdir": path, "config.training.init_from": path, "physionet_url": path, "n": 3, "runs": ["a"]}
    monkeypatch.setattr(common.flags, "FLAGS", {name: Flag(value) for name, value in elsewhere.items()})
    common._refuse_buckets()
    for name, value in (("out", path), ("runs", ["a", path])):
        monkeypatch.setattr(common.flags, "FLAGS", {name: Flag(value)})
        with pytest.raises(UserError, match=f"--{name}={path}: only --workdir can be in a bucket"):
            common._refuse_buckets()


def test_a_tuple_of_the_config_is_a_list_in_a_flag(monkeypatch):
    with pytest.raises(UserError) as told:
        dataset._check_families([{"LAB": [10**6, 10**6, "no value"]}], "meds", ())
    monkeypatch.setattr(common.flags, "FLAGS", {})
    said = common.own_flags(str(told.value), NAMES)
    assert said.endswith("with --may_lose=LAB") and "--dialect=" in said and "config" not in said


def said_of_commands():
    """(module, its flags) of each command line in a string that is no docstring, with W for what is filled in."""
    for file in sorted({*(ROOT / "ehr_scaling").rglob("*.py"), *(ROOT / "launch").rglob("*.py")}):
        passed = set()
        for node in ast.walk(ast.parse(file.read_text())):  # what holds others before these
            if isinstance(node, ast.Expr):
                passed.add(node.value)
            if node in passed or not isinstance(node, ast.JoinedStr | ast.Constant):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            passed.update(parts)
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "W" for part in parts)
            for module, given in re.findall(r"python -m ([\w.]*launch\.\w+)((?: --\w+(?:=\w+)?)*)", text):
                yield module, tuple(given.split())


def test_commands_that_people_are_told_can_be_given():
    """As they stand, with a checkout and without one; all at once: most of their time is their imports."""
    told = {one for one in said_of_commands() if one[1]}
    assert {module.rpartition(".")[2] for module, _ in told} >= {"export", "inspect", "predict", "sweep"}
    assert {module.rpartition(".")[0] for module, _ in told} == {"ehr_scaling.launch"}
    assert all("--out=DIR" in given for module, given in told if module.endswith("export"))
    code = "import sys, {0}; from absl import flags; flags.FLAGS(sys.argv)"
    running = {
        one: forked.Popen([sys.executable, "-c", code.format(one[0]), *one[1]], stderr=subprocess.PIPE, text=True)
        for one in told
    }
    wrong = {one: process.communicate(timeout=300)[1] for one, process in running.items()}
    assert not {one: error[-300:] for one, error in wrong.items() if error}
