import json
import os
import re
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
import simulated

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import folder, report
from ehr_scaling.analysis.report.figures import plots
from ehr_scaling.artifacts import fingerprint
from ehr_scaling.errors import UserError
from tests import forked

FEW = Options(draws=60)


class Page(HTMLParser):
    """Collects what a browser would load, the text, and whether tags close in order."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, text):
        super().__init__()
        self.loads, self.words, self.open, self.tags, self.ids, self.links = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        facts = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [facts["id"]] if "id" in facts else []
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            value = facts.get(name)
            if value is not None:
                (self.links if value.startswith("#") else self.loads).append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not (self.open and self.open[-1] == "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study with one budget off its optimum, an unfinished cell, an outcome and odd provenance."""
    work = tmp_path_factory.mktemp("study")
    rows = simulated.rows(budgets=4, noise=0.01)
    lowest = min(r["C"] for r in rows)
    off = [r for r in simulated.rows(budgets=4, noise=0.01, shift=5) if r["C"] == lowest]
    simulated.write_runs(work / "runs", [r for r in rows if r["C"] != lowest] + off)
    (work / "runs" / "unborn").mkdir()
    table = report.readers.read(work / "runs")
    simulated.write_scores(work / "outcomes", table, noise=0.01)
    facts = {"versions": {"numpy": "2", "deep": {"er": "<b>x</b> & y"}}, "config": {"path": "a/b"}}
    laws = report.analyze(work / "runs", work / "report", provenance=facts, outcomes=work / "outcomes", options=FEW)
    return work, laws, Page((work / "report" / "report.html").read_text())


def test_the_page_loads_nothing_and_is_well_formed(made):
    work, _, page = made
    text = (work / "report" / "report.html").read_text()
    assert page.loads == ["data:,"]  # the empty icon that keeps browsers from asking for one
    assert page.open == [] and "<script src" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert not re.search(r"https?://", text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert re.search(r'name="viewport"', text)


def test_the_first_line_says_what_the_data_are(made):
    words = [w.strip() for w in made[2].words if w.strip()]
    body = words[1:]  # after <title>
    assert body[0].startswith("Generated patients: made-up patients") and "800 patients" in body[0]


def test_every_budget_stands_in_the_report_with_its_verdict(made):
    work, laws, page = made
    budgets = laws["isoflop"]["budgets"]
    assert [b["verdict"] for b in budgets] == ["vertex outside the grid", "bracketed", "bracketed", "bracketed"]
    assert page.words.count("vertex outside the grid") >= 1 and page.words.count("bracketed") >= 3
    text = (work / "report" / "report.html").read_text()
    profiles = text[text.index('id="isoflop"') : text.index('id="laws"')]
    assert profiles.count("<tr>") == 1 + len(budgets)


def test_the_page_says_that_plans_and_budgets_are_two_estimates(made):
    text = (made[0] / "report" / "report.html").read_text()
    answer = text[text.index('id="answer"') : text.index('id="plan"')]
    assert re.search(r'what one budget alone says.*<a href="#plan">plan</a> rests on\s+all runs', answer, re.S)


def test_every_cell_stands_in_the_report(made):
    work, laws, page = made
    everything = " ".join(page.words)
    for cell in (work / "runs").iterdir():
        assert cell.name in everything
    assert {n["run"]: n["code"] for n in laws["left_out"]} == {"unborn": "unfinished"}
    for name in ("logistic regression", "A made-up outcome.", "<b>x</b> & y", "deep.er"):
        assert name in everything


def test_laws_json_holds_the_schema(made):
    work, laws, _ = made
    assert json.loads((work / "report" / "laws.json").read_text()) == json.loads(json.dumps(laws))
    law = laws["laws"][laws["selected"]]
    assert set(law) >= {"parameters", "objective", "intervals"}
    assert set(law["parameters"]) >= {"E", "A", "B", "alpha", "beta"}
    assert set(laws["isoflop"]) >= {"a", "b", "intervals", "budgets"}
    assert set(laws["holdout"]) >= {"error_percent", "coverage", "rows"}
    assert set(laws["holdout"]["rows"][0]) >= {"N", "D", "C", "loss", "forecast", "low", "high"}
    assert {v["word"] for v in laws["verdicts"].values()} <= {"supported", "extrapolated", "unidentified"}
    low, high = laws["isoflop"]["intervals"]["a"]
    assert low < laws["isoflop"]["a"] < high


def test_laws_json_lists_its_files_and_names_no_folder_of_this_machine(made):
    work, laws, _ = made
    assert laws["files"] == sorted(p.relative_to(work / "report").as_posix() for p in (work / "report").rglob("*.*"))
    assert str(work.parent) not in (work / "report" / "laws.json").read_text()
    assert str(work.parent) not in (work / "report" / "forecast.json").read_text()


def test_forecast_and_figures_are_there(made):
    folder = made[0] / "report"
    forecast = json.loads((folder / "forecast.json").read_text())
    assert len(forecast["cells"]) == 12 and "loss" not in forecast["cells"][0]
    made_at, digest = forecast.pop("made"), forecast.pop("fingerprint")
    assert datetime.fromisoformat(made_at) <= datetime.now(UTC)
    laws = json.loads((folder / "laws.json").read_text())
    assert digest == fingerprint(forecast) == laws["holdout"]["forecast_fingerprint"]
    names = {p.name for p in (folder / "figures").glob("*.png")}
    assert "profiles.png" in names and 'id="profiles-' in (folder / "report.html").read_text()
    assert {"isoflop.png", "power_laws.png", "sealed_forecast.png", "outcome_made_up_task.png"} <= names
    assert sorted(p.name for p in folder.iterdir()) == ["figures", "forecast.json", "laws.json", "report.html"]


def test_the_same_runs_give_the_same_bytes(made, tmp_path):
    work, _, _ = made
    facts = {"versions": {"numpy": "2", "deep": {"er": "<b>x</b> & y"}}, "config": {"path": "a/b"}}
    report.analyze(work / "runs", tmp_path / "r", provenance=facts, outcomes=work / "outcomes", options=FEW)
    for name in ("laws.json", "report.html"):
        assert (tmp_path / "r" / name).read_bytes() == (work / "report" / name).read_bytes()
    one, other = (json.loads((p / "forecast.json").read_text()) for p in (tmp_path / "r", work / "report"))
    assert {**one, "made": other["made"]} == other


def test_a_broken_run_leaves_the_old_report_and_nothing_half_written(tmp_path, monkeypatch):
    table = simulated.profile([3.0, 2.9, 2.8, 2.75, 2.7])
    out = tmp_path / "report"
    report.analyze(table, out, options=FEW)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "scaling", fail)
    with pytest.raises(OSError):
        report.analyze(simulated.table(budgets=2), out, options=FEW)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_report_is_replaced_and_anything_else_is_not(tmp_path):
    table = simulated.profile([3.0, 2.9, 2.8, 2.75, 2.7])
    out = tmp_path / "report"
    report.analyze(table, out, options=FEW)
    (out / "figures" / "mine.png").write_bytes(b"x")
    report.analyze(table, out, options=FEW)
    assert (out / "figures" / "mine.png").read_bytes() == b"x"
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not a report"):
        report.analyze(table, foreign, options=FEW)
    assert (foreign / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "losses",
    [[3.0], [3.0, 2.9], [3.0] * 6, [2, 3, 3.5, 3.6, 3.5, 3, 2.1], [3, 2.9, 2.8, 2.7, 2.6]],
    ids=["one run", "two runs", "all equal", "upside down", "monotone"],
)
def test_poor_tables_get_a_reasoned_report_not_a_traceback(tmp_path, losses):
    laws = report.analyze(simulated.profile(losses), tmp_path / "r", options=FEW)
    (budget,) = laws["isoflop"]["budgets"]
    assert budget["verdict"] != "bracketed" and budget["reason"]
    assert laws["isoflop"]["a"] is None and laws["verdicts"]["a"]["word"] == "unidentified"
    assert laws["holdout"] is None
    Page((tmp_path / "r" / "report.html").read_text())


def run(*flags):
    root = Path(__file__).resolve().parents[3]
    return forked.run(
        [sys.executable, "-m", "launch.analyze", *flags], cwd=root, capture_output=True, text=True, env=dict(os.environ)
    )


def test_command_line(tmp_path):
    table = tmp_path / "t.csv"
    rows = simulated.rows(budgets=3, noise=0.005)
    table.write_text("params,D,C,val\n" + "".join(f"{r['N']},{r['D']},{r['C']},{r['loss']}\n" for r in rows))
    out = tmp_path / "out"
    done = run(f"--runs={table}", "--columns=N=params,loss=val", f"--out={out}", "--draws=50", "--drop_highest_loss=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bracketed") >= 3 and f"report: {out / 'report.html'}" in done.stdout
    assert json.loads((out / "laws.json").read_text())["left_out"][0]["code"] == "highest_loss"

    assert (
        re.match(r"\[ +\d s\] reading .*\n(\[.*\n)*\[ +\d+ s\] fitting the IsoFLOP", done.stdout) and done.stderr == ""
    )

    bad = run(f"--runs={table}", f"--out={tmp_path / 'no'}")
    assert bad.returncode == 1
    assert re.fullmatch(r"error: .*t\.csv row 2: no column 'loss' for loss; .*--columns=loss=.*\n", bad.stderr)
    assert not (tmp_path / "no").exists()


def test_reports_of_several_values_have_folders_of_their_own():
    values = ["<1B", ">1B", "", "MIMIC IV", "MIMIC_IV", "mimic iv", "1B_2", "-"]
    names = folder.names(values)
    assert names[:5] == ["1B", "1B_2", "empty", "MIMIC_IV", "MIMIC_IV_2"] and names[6] == "1B_2_2"
    assert len({name.lower() for name in names}) == len(values)


@pytest.mark.nightly
def test_a_report_for_each_corpus(tmp_path):
    rows = [{**r, "corpus": corpus} for corpus in ("notes", "labs/icu") for r in simulated.rows(budgets=2, sizes=4)]
    table = tmp_path / "t.csv"
    table.write_text(";".join(rows[0]) + "\n" + "".join(";".join(map(str, r.values())) + "\n" for r in rows))
    done = run(f"--runs={table}", "--group_by=corpus", "--where=seed=0", f"--out={tmp_path / 'out'}", "--draws=20")
    assert done.returncode == 0, done.stderr
    for name, corpus in (("notes", "notes"), ("labs_icu", "labs/icu")):
        data = json.loads((tmp_path / "out" / name / "laws.json").read_text())["data"]
        assert (data["runs"], data["source"]) == (8, f"t.csv, corpus {corpus}")
