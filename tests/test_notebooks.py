"""The notebooks run from their first cell to their last where only the wheel is installed, and what they show is there.

Their cell of parameters is replaced by a small one, with the same names.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST = 300_000  # bytes, outputs included

_SMALL = """
    "data.patients": 400,
    "data.seed": 3,
    "data.context": 64,
    "data.block": 4,
    "training.dispatch_sequences": 16,
    "training.batch.sequences": 4,
    "training.batch.exponent": 0.0,
    "validation.sequences": 64,
    "validation.batch": 32,
"""
PARAMETERS = {
    "laws": "import ehr_scaling as ehr\ntable, draws = ehr.published('challenge_2012'), 40",
    "study": f"""workdir = "work/small"
settings = {{{_SMALL}
    "grid.budgets": (1.5e9, 3e9, 6e9),
    "grid.sizes": ("1.7k", "3.5k", "6.7k"),
    "grid.seeds": (0, 1),
    "outcome.tasks": (),
    "analysis.draws": 50,
}}""",
    "timelines": f"""workdir = "work/small"
settings = {{{_SMALL}
    "grid.budgets": (1.5e9,),
    "grid.sizes": ("3.5k",),
    "grid.seeds": (1,),
}}
asked, copies = range(40), 4""",
}


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def is_of_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", ())


def assigned(source):
    targets = [t for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign) for t in node.targets]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def shown(cell):
    """What the outputs of a cell say, and the kinds of those that are no text."""
    texts, kinds = [], set()
    for output in cell["outputs"]:
        data = output.get("data", {})
        texts.append("".join(output["text"] if output["output_type"] == "stream" else data.get("text/plain", "")))
        kinds |= set(data)
    return "\n".join(texts), kinds


@pytest.fixture
def run(site, tmp_path, monkeypatch):
    """Runs a notebook elsewhere, with the packages of the wheel; gives its cells of code."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: take the extra dev")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: take the extra dev")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def run(name):
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
        (parameters,) = filter(is_of_parameters, notebook.cells)
        parameters.source = PARAMETERS[name]
        notebook.cells.append(nbformat.v4.new_code_cell("import ehr_scaling; print(ehr_scaling.__file__)"))
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
        assert shown(notebook.cells[-1])[0].strip() == str(site / "ehr_scaling" / "__init__.py")
        return folder, code(notebook)

    return run


def everything(cells):
    texts, kinds = zip(*map(shown, cells), strict=True)
    return "\n".join(texts), set.union(*kinds)


def test_the_laws_of_the_published_table(run):
    folder, cells = run("laws")
    text, kinds = everything(cells)
    assert re.search(r"N\* ~ C\^a: a = 0?\.5", text) and "image/png" in kinds
    assert (folder / "report" / "report.html").is_file()


@pytest.mark.nightly
def test_a_study(run):
    folder, cells = run("study")
    text, kinds = everything(cells)
    assert text.count("FLOPs  N* ") == 3 and "image/png" in kinds
    assert (folder / "work" / "small" / "report" / "laws.json").is_file()


@pytest.mark.nightly
def test_timelines_and_futures(run):
    _, cells = run("timelines")
    text, kinds = everything(cells)
    assert re.search(r"^risk of death [\d.]+% ± ", text, re.M) and "image/png" in kinds
    assert text.count(" → ") > 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_whole_and_says_nothing_of_a_machine(path):
    assert path.stat().st_size < MOST
    text = path.read_text(encoding="utf-8")
    cells = code(json.loads(text))
    (parameters,) = filter(is_of_parameters, cells)
    assert assigned("".join(parameters["source"])) == assigned(PARAMETERS[path.stem])
    outputs = [output for cell in cells for output in cell["outputs"]]
    # Of one run, from the first cell to the last
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    made = [cell for cell in cells if re.search(r"ehr\.(prepare|run_study)\(", "".join(cell["source"]))]
    assert not [cell for cell in made if "events: from" not in shown(cell)[0]]  # in a folder that held nothing
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not re.search(r"(/home/|/root/|/tmp/|site-packages|Warning)", json.dumps(outputs))
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / target).is_file(), target


def test_the_face_is_there_at_once_and_without_what_trains(site, tmp_path):
    """`import`, `dir` and `help` need nothing beyond Python's own library."""
    program = (
        "import sys, pydoc, ehr_scaling as ehr\n"
        "text = pydoc.render_doc(ehr)\n"
        "assert set(ehr.__all__) <= set(dir(ehr)) and ehr.__version__\n"
        "assert all(name in text and getattr(ehr, name).__doc__ for name in ehr.__all__)\n"
        "print(sorted(sys.modules.keys() & {'jax', 'numpy', 'scipy', 'pyarrow', 'absl', 'tensorflow_datasets'}))\n"
        "from importlib.util import find_spec\n"
        "print([name for name in ehr.__all__ if find_spec(f'ehr_scaling.{name}')])  # would hide a function\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n['analysis']\n"), done.stderr
