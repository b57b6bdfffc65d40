"""Whoever installs the package has all that it imports: what pyproject.toml declares, and nothing by luck."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Files that are run where an extra is installed, by themselves: nothing of the package imports them
OF_AN_EXTRA = {"ehr_scaling/models/modeling_ehr_scaling.py", "launch/benchmarks/torch_peer.py"}


def normal(name):
    """The name of a distribution as an index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements):
    return {normal(re.match(r"[\w.-]+", requirement).group()) for requirement in requirements}


BASE = distributions(PROJECT["dependencies"])
EXTRAS = {distribution for extra in PROJECT["optional-dependencies"].values() for distribution in distributions(extra)}


def imports(tree, lazy=False):
    """Names of the modules that code imports, and whether only in a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, lazy
        else:
            yield from imports(node, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def third_party():
    """(distribution, only in a function, file) of every import that is neither Python's own nor ours."""
    ours = {"ehr_scaling", "launch", "configs", *sys.stdlib_module_names}
    for folder in ("ehr_scaling", "launch", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for module, lazy in imports(ast.parse(path.read_text(encoding="utf-8"))):
                if (top := module.split(".")[0]) not in ours:
                    yield top, lazy, str(path.relative_to(ROOT))


def test_what_is_imported_is_declared():
    installed, imported = metadata.packages_distributions(), set(third_party())
    assert {"yaml", "sklearn", "torch", "wandb"} <= {top for top, _, _ in imported}
    for top, lazy, file in sorted(imported):
        names = {normal(name) for name in installed.get(top, [top])}  # what is not installed is called as its module
        assert names & (BASE | EXTRAS if lazy or file in OF_AN_EXTRA else BASE), f"{file} imports {top}: {names}"


def test_what_a_test_skips_without_is_installed_by_some_job_that_runs_it():
    """By the extras and the files that the Makefile names, and the targets of CI."""
    recipe = re.search(r"^test-extras:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    extras = re.search(r"'\.\[(.*)\]'", recipe)[1].split(",")
    has = {extra: distributions(PROJECT["optional-dependencies"][extra]) for extra in extras}
    ran = re.findall(r"tests/\S+", recipe)
    skipped = re.compile(r"importorskip\(\"([\w.]+)\"")
    seen = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for name in map(normal, skipped.findall(path.read_text(encoding="utf-8"))):
            seen.add(name)
            file = path.relative_to(ROOT).as_posix()
            assert name in BASE | has["dev"] or (name in set().union(*has.values()) and file.startswith(tuple(ran)))
    assert seen > {"torch", "transformers", "mlcroissant", "wandb"}
    jobs = (ROOT / ".github/workflows/ci.yml").read_text()
    assert {"test", "test-extras", "docs", "check"} <= set(re.findall(r"- run: make ([\w-]+)", jobs))
    assert "docker build -t ehr-scaling ." in jobs and "docker run --rm ehr-scaling check" in jobs


def test_the_extra_for_other_machines_has_what_the_runners_shown_need():
    """Those of docs/data.md that are not called untested."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    shown = {name for name, end in re.findall(r"--runner=(\w+)Runner\b(.*)", page) if "untested" not in end}
    needs = {"Direct": "apache-beam", "Dask": "distributed"}
    assert shown == needs.keys()
    assert set(needs.values()) <= distributions(PROJECT["optional-dependencies"]["beam"])
