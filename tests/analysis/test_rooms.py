"""The house of the analysis: imports lead downwards, statistics know no page, and a laptop without JAX can fit."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ehr_scaling import analysis

ROOT = Path(analysis.__file__).parent
ROOMS = ("tables", "isoflop", "joint", "repeats", "forecast", "outcomes", "plan", "compare", "report")
FILES = [path.relative_to(ROOT).with_suffix("") for path in sorted(ROOT.rglob("*.py"))]


def floor(parts):
    """0 for what lies below all rooms, then the rooms in their order."""
    return ROOMS.index(parts[0]) + 1 if parts and parts[0] in ROOMS else 0


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "__init__"], ids=str)
def test_imports_lead_downwards(file):
    for node in ast.walk(ast.parse((ROOT / file).with_suffix(".py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ehr_scaling"):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            package, *parts = module.split(".")
            if package != "ehr_scaling":
                continue
            if parts[0] == "analysis":
                assert floor(parts[1:]) <= floor(file.parts), module
            else:
                # What may be told of patients needs nothing of the data's own
                assert parts[0] in ("artifacts", "errors", "flops") or parts == ["data", "disclosure"], module


def test_fitting_needs_no_accelerator():
    """Nor what reads and trains: a statistician's notebook has none of it."""
    code = """
import importlib, sys
class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "torch"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    modules = [
        ".".join(("ehr_scaling.analysis", *(part for part in file.parts if part != "__init__"))) for file in FILES
    ]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_takes_a_second_to_import_is_only_imported_where_outcomes_are():
    code = "import sys, ehr_scaling.analysis.report.report; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_slips_that_mutants_puts_in_have_a_place():
    entries = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    assert len(entries) > 280
    assert [e["old"] for e in entries if (ROOT / e["file"]).read_text(encoding="utf-8").count(e["old"]) != 1] == []
