"""What a reader sees of the report, in headless Chromium: the first screen, a phone, the dark, and paper."""

import json
import re
from dataclasses import replace

import browser
import numpy as np
import pytest
import simulated
import sweeps
from matplotlib.colors import to_rgb

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan import planner
from ehr_scaling.analysis.report import html, report
from ehr_scaling.analysis.report.figures import plots
from ehr_scaling.analysis.report.sections import plan_section
from ehr_scaling.analysis.tables import curves
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import Verdict

FEW = Options(draws=40)
DESKTOP, PHONE = (1280, 900), (390, 844)
seen = pytest.mark.skipif(browser.binary() is None, reason="needs Chromium")


def text_of(page):
    bare = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(re.sub("<[^>]+>", " ", bare).split())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A study of generated patients with an outcome and learning curves."""
    work = tmp_path_factory.mktemp("study")
    simulated.write_runs(work / "runs", simulated.rows(budgets=4, noise=0.004), curve=[[1, 6.0], [60, 3.2], [120, 3.0]])
    simulated.write_scores(work / "outcomes", report.readers.read(work / "runs"), noise=0.01)
    report.analyze(work / "runs", work / "report", outcomes=work / "outcomes", options=FEW)
    return work / "report" / "report.html"


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A table of another field, with repeats and rates so that all sections stand in the page."""
    folder = tmp_path_factory.mktemp("table")
    rows = [{k: v for k, v in row.items() if k != "patients"} for row in [*sweeps.rates(), *sweeps.repeated(seeds=1)]]
    report.analyze(from_rows(rows, source="runs.csv"), folder / "report", options=FEW)
    return folder / "report" / "report.html"


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as found:
        yield found


def test_the_first_sentence_says_what_was_found(records):
    page = records.read_text()
    said = text_of(page[page.index('<p class="found">') : page.index('<div class="heroes">')])
    assert re.match(
        r"The best size grows as N\* ∝ C 0\.\d\d \(95 % interval 0\.\d\d to 0\.\d\d, (supported|extrapolated) ?\); "
        r"the lowest loss is \d\.\d{3} nats a token\. For “made up task” the model with it reaches an AUROC of "
        r"0\.\d{3} \(0\.\d{3} to 0\.\d{3}\); logistic regression reaches 0\.\d{3}\.$",
        said,
    ), said


def test_a_study_that_does_not_tell_says_so_first(tmp_path):
    report.analyze(simulated.profile([3.0, 2.9, 2.8, 2.75, 2.7]), tmp_path / "r", options=FEW)
    page = (tmp_path / "r" / "report.html").read_text()
    said = text_of(page[page.index('<p class="found">') : page.index('<div class="heroes">')])
    assert said.startswith("These runs do not tell how the best size grows with compute: 0 of 1 budget")
    assert "the lowest loss is 2.700 nats a token" in said and "AUROC" not in said


def test_the_first_table_has_a_row_for_every_optimum(records):
    page = records.read_text()
    table = page[page.index('<div class="heroes">') : page.index('id="plan"')]
    assert re.findall("<th(?: [^>]*)?>(.*?)</th>", table) == [
        "C (FLOPs)", "N*, parameters", "D*, tokens", "Tokens a parameter", "L*, nats a token", "Word",
    ]  # fmt: skip
    assert table.count("<tr>") == 1 + 4


def test_other_fields_hear_nothing_of_patients(others):
    page = others.read_text()
    assert '<section id="rates">' in page and '<section id="repeats">' in page
    said = text_of(page)
    assert said.startswith(report.TABLE_TITLE) and "Runs from a table: runs.csv" in said
    assert not re.search(r"patient|clinical|MIMIC|2505\.22964", said + "".join(re.findall('label="(.*?)"', page)), re.I)


def test_learning_curves_are_those_of_the_runs(records, tmp_path):
    table = report.readers.read(records.parents[1] / "runs")
    found = curves.read(records.parents[1] / "runs", table)
    assert set(found) == set(table.run)
    assert found[table.run[0]].tolist() == [[2048, 6.0], [60 * 2048, 3.2], [120 * 2048, 3.0]]
    assert '<section id="curves">' in records.read_text()
    simulated.write_runs(tmp_path, simulated.rows(budgets=1, sizes=2, seeds=1))
    assert curves.read(tmp_path, report.readers.read(tmp_path)) == {}


def lightness(colour):
    """CIE L* of an sRGB colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    Y = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return 116 * Y ** (1 / 3) - 16 if Y > 0.008856 else 903.3 * Y


@pytest.mark.parametrize("n", range(2, plots.MANY + 1))
def test_shades_differ_for_any_eye_and_the_largest_is_dark(n):
    bright = [lightness(c) for c in plots.shades(range(1, n + 1))]
    assert (np.diff(bright) < -5).all() and bright[0] < 80 and bright[-1] < 20
    css = plots.palette(f"var(--shade-{round(255 * k / (n - 1))})" for k in range(n))
    dark = [lightness(c) for c in re.findall("#[0-9a-f]{6}", css.split("@media")[1])]
    assert (np.diff(dark) > 5).all() and dark[0] > 30 and dark[-1] > 85


def test_figures_take_their_colours_from_the_page(records):
    page = records.read_text()
    drawn = "".join(re.findall("<svg.*?</svg>", page, re.S))
    assert not re.findall("#[0-9a-f]{6}", drawn)
    assert set(re.findall(r"var\((--[\w-]+)\)", drawn)) <= set(re.findall(r"(--[\w-]+):", page))


def test_cells_of_a_table_are_words_notes_and_text():
    page = html.table(["a", "b"], [[Verdict("supported", "x < y"), html.Noted("<1>", "2")]], words=(0,))
    assert '<td class="text"><span class="chip good">supported</span><small>x &lt; y</small></td>' in page
    assert "<td>&lt;1&gt;<small>2</small></td>" in page
    assert html.formula("N^{−α} <") == "N<sup>−α</sup> &lt;"


@pytest.fixture(scope="module")
def known():
    return simulated.planner_of(simulated.table(budgets=5, decades=2.0, noise=0.003, extra=simulated.RECORDED), FEW)


def refusing(limit):
    """`planner.plan`, but with no plan for more than so many FLOPs."""

    def plan(known, C, *rest):
        made = planner_plan(known, C, *rest)
        return replace(made, refused=["it is too far"] if limit * 1.01 < C else [])

    planner_plan = planner.plan
    return plan


def test_the_plan_begins_where_it_has_an_answer(known, monkeypatch):
    top = known.forecaster.top
    monkeypatch.setattr(plan_section.planner, "plan", refusing(top))
    page = plan_section.plan(known)
    low, start, high = json.loads(re.search(r'id="planner-data">(.*?)</script>', page)[1])["panel"]["C"]
    assert low <= top / 10 and start == top and high > 100 * top
    assert "no plan" not in text_of(page) and "Drag what you have" in page


def test_a_study_without_any_plan_says_so_in_one_line(known, monkeypatch):
    monkeypatch.setattr(plan_section.planner, "plan", refusing(0.0))
    assert text_of(plan_section.plan(known)) == "Plan no plan It is too far."
    assert plan_section.plan(None) == ""


@seen
@pytest.mark.parametrize("page", ["records", "others"])
def test_nothing_runs_out_of_a_phone(chromium, page, request):
    chromium.open(request.getfixturevalue(page), *PHONE)
    chromium.run("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    assert chromium.run("document.documentElement.scrollWidth") == PHONE[0]
    wide = "[...document.querySelectorAll('.wide')].filter(box => box.scrollWidth > box.clientWidth)"
    assert chromium.run(f"{wide}.length") > 0
    assert chromium.run(f"{wide}.every(box => getComputedStyle(box).backgroundAttachment.includes('scroll'))")


@seen
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_sentence_and_the_first_figure_stand_on_the_first_screen(chromium, records, size):
    chromium.open(records, *size)
    for part in (".rests", ".found", ".hero svg"):
        top, bottom = chromium.run(
            f"(({{top, bottom}}) => [top, bottom])(document.querySelector('{part}').getBoundingClientRect())"
        )
        assert 0 <= top < bottom <= size[1], part
    assert chromium.run("document.querySelectorAll('.fold[open]').length") == 0


@seen
def test_the_plan_answers(chromium, records):
    chromium.open(records, *DESKTOP)
    assert "Size N*" in chromium.run("document.querySelector('#panel').innerText")
    chromium.run("{ const s = document.querySelector('#plan-compute'); s.value = s.max; "
                 "s.dispatchEvent(new Event('input')); }")  # fmt: skip
    said = chromium.run("document.querySelector('#panel [aria-live]').innerText")
    assert said.startswith(("no plan ", "extrapolated ")) and "NaN" not in said


@seen
def test_links_open_what_they_lead_to(chromium, records):
    chromium.open(records, *DESKTOP)
    chromium.run("location.hash = '#limits'")
    chromium.run("new Promise(done => setTimeout(done, 100))")
    assert chromium.run("document.querySelector('#limits').closest('details').open")


@seen
def test_the_dark_is_dark(chromium, records):
    colours = {}
    for scheme in ("light", "dark"):
        chromium.open(records, *DESKTOP, scheme=scheme)
        paint = "getComputedStyle(document.querySelector('{}')).{}"
        parts = (("body", "backgroundColor"), (".hero svg path", "fill"), (".found", "color"))
        colours[scheme] = [sum(map(int, re.findall(r"\d+", chromium.run(paint.format(*part)))[:3])) for part in parts]
    assert colours["light"][:2] == [765, 765] and colours["light"][2] < 200
    assert max(colours["dark"][:2]) < 120 and colours["dark"][2] > 600


@seen
@pytest.mark.parametrize("page", ["records", "others"])
def test_paper_holds_all_of_it(chromium, page, request):
    folds = "[...document.querySelectorAll('.fold section')]"
    chromium.open(request.getfixturevalue(page), 718, 1000, media="print", scheme="dark")
    assert min(chromium.run(f"{folds}.map(part => part.getBoundingClientRect().height)")) > 20
    assert chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    edge = chromium.run(
        "Math.max(...[...document.querySelectorAll('td, th, svg')].map(x => x.getBoundingClientRect().right))"
    )
    assert edge <= 719
    assert chromium.pdf().startswith(b"%PDF")


def test_sentences_stand_apart(records, others):
    """A template swallows the end of a line after a block."""
    for page in (records, others):
        assert not re.findall(r"[a-z)%]{2}\.[A-Z][a-z]+ \w+", text_of(page.read_text()))
