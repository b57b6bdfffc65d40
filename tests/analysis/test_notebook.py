"""notebooks/laws.ipynb on a table whose law is known: its answers are those of the law.

tests/test_notebooks.py runs all notebooks as they are."""

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import simulated

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "laws.ipynb"


def code_cells():
    return [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, the notebook's names, what each cell shows), on a simulated table, with few draws."""
    folder = tmp_path_factory.mktemp("notebook")
    rows = simulated.rows(budgets=4, sizes=5, seeds=1)
    rows[5]["loss"] *= 1.5
    lines = [f"{r['N']},{r['D']},{r['C']},{r['loss']}\n" for r in rows]
    (folder / "runs.csv").write_text("params,tokens,flops,val_loss\n" + "".join(lines))
    names, shown = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for cell in code_cells():
            source = "".join(cell["source"])
            if "%pip install" in source or "IPython" in source:
                continue
            if "parameters" in cell["metadata"].get("tags", ()):
                names |= {"table": "runs.csv", "draws": 25}
                continue
            *body, last = ast.parse(source.replace("seed=4", "N>")).body
            exec(compile(ast.Module(body, []), cell["id"], "exec"), names)
            shown.append(repr(eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)))
    return folder, names, shown


def test_it_reads_checks_fits_and_answers(ran):
    folder, names, (read, fitted, isoflop, law, page, optimum, forecast, plan, compared) = ran
    assert read.startswith("20 runs in 4 compute budgets (runs.csv): N ")
    assert "N* ~ C^a" in fitted and "doubtful: row 6: loss 5" in fitted
    assert isoflop.count("FLOPs  N* ") == 4 and "a = " in isoflop
    assert re.search(r"alpha +[\d.]+  \(95", law)
    assert re.search(r"^N +[\d.]+.*\(95.*\nD +", optimum, re.M) and "extrapolated" in optimum
    best = names["best"]
    low, high = names["found"].forecast(best.N, best.D).intervals["loss"]
    assert low < simulated.loss(best.N, best.D) < high and re.search(r"loss +[\d.]+  \(95", forecast)
    assert plan.startswith(("size ", "refused: "))
    assert (folder / "report" / "report.html").is_file() and "report.html" in page
    assert "A" in compared and "B" in compared


def test_it_is_short_and_has_no_code_but_calls():
    text = "\n".join("".join(c["source"]) for c in code_cells()[1:])  # behind how it is installed
    assert not re.search(r"^\s*(def|class|for) ", text, re.M)
    assert len([line for line in text.splitlines() if line.strip()]) <= 20


def test_every_figure_is_also_an_svg_file_that_stands_alone(ran):
    figures = ran[0] / "report" / "figures"
    stems = {p.stem for p in figures.glob("*.png")}
    assert {"isoflop", "power_laws", "loss_of_compute"} <= stems
    assert {p.stem for p in figures.glob("*.svg")} == stems
    for path in figures.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("viewBox")
        links = [v for node in root.iter() for k, v in node.attrib.items() if k.endswith("href")]
        ids = {node.get("id") for node in root.iter()}
        assert all(link.startswith("#") and link[1:] in ids for link in links)
