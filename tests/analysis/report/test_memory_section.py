"""What the report and a plan say of memory, from audits to the page."""

import re
import sys

import pytest
import simulated
from test_schema import write_audits

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import report
from ehr_scaling.analysis.report.sections import memory_section
from ehr_scaling.analysis.tables import readers
from ehr_scaling.artifacts import read_json, write_json
from tests import forked


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("audited")
    simulated.write_runs(work / "runs", simulated.rows(budgets=3, sizes=5))
    write_audits(work / "audit", readers.read(work / "runs"))
    laws = report.analyze(work / "runs", work / "report", audited=work / "audit", options=Options(draws=30))
    return work, laws, (work / "report" / "report.html").read_text(encoding="utf-8")


def test_the_page_says_what_models_remember(made):
    work, laws, page = made
    section = page[page.index('<section id="memory">') :]
    section = " ".join(re.sub("<[^>]+>", " ", section[: section.index("</details>")]).split())
    law = laws["memory"]["laws"]["ratio"]
    assert law["word"] == "supported" and " ".join(law["reason"].split()) in section
    assert re.search(r"with 900 patients and 1 pass a model of .* body parameters: membership AUROC 0\.\d+", section)
    assert "where the grid has none, of one that was" in section
    assert section.count("x†") == 1 and "†: started from another model" in section
    assert "at most 2.0" in section  # an excess that is not told
    assert (work / "report" / "figures" / "memory.png").is_file()
    assert len(laws["memory"]["models"]) == 30 and law["models"] < laws["memory"]["laws"]["loss"]["models"] == 28


def test_without_audits_there_is_no_section():
    assert memory_section.section([], {}, None) == ""


def test_a_plan_has_a_line_of_it(made, tmp_path):
    laws = read_json(made[0] / "report" / "laws.json")
    flops, flags = laws["isoflop"]["budgets"][1]["C"], ("--patients=900", "--most_passes=inf", "--tolerance=1")
    for kept, lines in ((laws, 1), ({**laws, "memory": None}, 0)):
        write_json(tmp_path / "laws.json", kept)
        command = [sys.executable, "-m", "launch.plan", f"--report={tmp_path}", f"--flops={flops}", *flags]
        done = forked.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr and "  loss " in done.stdout, done
        assert done.stdout.count("  memory  with 900 patients and ") == lines
