"""docs/laws.ipynb runs from its first cell to its last, and its figures stand alone."""

import contextlib
import io
import json
import re
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import pytest
import simulated

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "laws.ipynb"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, the notebook's names, what it printed, what it displayed), on a simulated table, with few draws."""
    folder = tmp_path_factory.mktemp("notebook")
    rows = simulated.rows(budgets=4, sizes=5, seeds=1)
    rows[5]["loss"] *= 1.5
    lines = [f"{r['N']},{r['D']},{r['C']},{r['loss']}\n" for r in rows]
    (folder / "runs.csv").write_text("N,D,C,loss\n" + "".join(lines))
    cells = [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    names, shown, said = {}, [], io.StringIO()
    display = types.ModuleType("IPython.display")  # which a notebook has and an installation need not
    display.SVG, display.display = lambda filename: filename, shown.append
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setitem(sys.modules, "IPython.display", display)
        patch.chdir(folder)
        for cell in cells:
            source = "".join(cell["source"])
            if not source.startswith("%pip install"):
                exec(compile(source.replace("draws=1000", "draws=25"), cell["id"], "exec"), names)
    return folder, names, said.getvalue(), shown


def test_it_reads_checks_fits_and_answers(ran):
    folder, names, said, _ = ran
    assert "20 runs in 4 budgets" in said and "row 6: high_outlier: loss 5" in said
    assert (folder / "report" / "report.html").is_file() and "N* ~ C^a" in said
    low, loss, high = (float(names[name][0]) for name in ("low", "loss", "high"))
    truth = simulated.loss(names["best"].N, names["best"].D)
    assert low < truth < high and low < loss < high
    assert re.search(r"loss [\d.]+, 95% interval [\d.]+ to [\d.]+: extrapolated", said)


def test_it_holds_no_output_and_no_code_but_calls():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    assert not re.search(r"^\s*(def|class) ", "\n".join("".join(c["source"]) for c in code), re.M)


def test_every_figure_is_also_an_svg_file_that_stands_alone(ran):
    folder, _, _, shown = ran
    figures = folder / "report" / "figures"
    stems = {p.stem for p in figures.glob("*.png")}
    assert {"isoflop", "power_laws", "loss_of_compute"} <= stems
    assert {p.stem for p in figures.glob("*.svg")} == stems and {Path(s).stem for s in shown} == stems
    for path in figures.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("viewBox")
        links = [v for node in root.iter() for k, v in node.attrib.items() if k.endswith("href")]
        ids = {node.get("id") for node in root.iter()}
        assert all(link.startswith("#") and link[1:] in ids for link in links)
