"""Imports lead one way, as data do: no room of the package is needed by one that it needs."""

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ehr_scaling"


@functools.cache
def imports(path):
    """Modules of the package that a file imports, also inside of functions, as paths of names."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [name.split(".")[1:] for name in names if name.split(".")[0] == PACKAGE.name]
    return found


ROOMS = [PACKAGE, *sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)]


def needs(folder):
    """Of each module and room of a folder: those beside it that it needs."""
    here = list(folder.relative_to(PACKAGE).parts)
    graph = {}
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        wanted = {name[len(here)] for name in imports(path) if name[: len(here)] == here and len(name) > len(here)}
        graph.setdefault(room, set()).update(wanted - {room})
    graph.pop("__init__", None)
    return {room: wanted & graph.keys() for room, wanted in graph.items()}


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: ".".join(folder.relative_to(PACKAGE.parent).parts))
def test_no_two_rooms_need_each_other(folder):
    try:
        tuple(TopologicalSorter(needs(folder)).static_order())
    except CycleError as e:
        pytest.fail(f"{folder.name}: {' → '.join(reversed(e.args[1]))}")


def test_the_way_of_the_data():
    above = needs(PACKAGE)
    assert "training" not in above["grid"] and "grid" in above["training"] and "training" in above["outcomes"]
    assert above["study"] >= {"data", "grid", "training", "outcomes", "analysis"}


def test_no_command_is_needed_by_another_nor_by_what_they_share():
    launch = PACKAGE.parent / "launch"
    commands = {path.stem for path in launch.glob("*.py")} - {"__init__", "console"}
    seen = 0
    for path in sorted(launch.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and path.parents[node.level - 1] == launch:
                names = {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
                assert not names & commands, path
                seen += 1
    assert seen >= len(commands)


def test_one_module_knows_where_artifacts_lie():
    """The analysis reads folders of runs that may lie anywhere, and knows no work directory."""
    named = re.compile(r"""/ f?["'](raw|events|timelines|packed|grid|runs|outcomes|report|slurm)["'/]""")
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "analysis"]
    assert len(files) > 100
    assert [path.name for path in files if named.search(path.read_text(encoding="utf-8"))] == ["layout.py"]
