"""Sheets of questions in the report: the model of least loss, a map with blanks where nothing may be told, a table."""

import json

import numpy as np
import pytest
import simulated
from test_schema import write_sheet

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import downstream, scores, sheets
from ehr_scaling.analysis.report.figures import plots
from ehr_scaling.analysis.report.sections import sheet_section
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.errors import UserError


@pytest.fixture
def study(tmp_path):
    table = from_rows(simulated.rows(budgets=2, sizes=3, seeds=1), source="x")
    write_sheet(tmp_path / "many_questions", table)
    return tmp_path, table


def test_the_model_of_least_loss_answers(study):
    folder, table = study
    (sheet,) = sheets.read(folder, table)
    best = table.loss[:3].argmin()
    assert (sheet.cell, sheet.loss, sheet.models) == (table.cell[best], table.loss[best], 3)
    first = sheet.of("first", "auroc")
    np.testing.assert_array_equal(first, [[np.nan, 0.7]])
    assert sheet.of("all", "auroc").tolist() == [[0.7, 0.7]] and np.isnan(sheet.of("again", "stays")).all()


def test_a_model_in_no_fit_is_told_where_no_other_has_answered(study):
    """As the best of all, of which launch.ask --cell=best asks, where its learning rate lost to another."""
    folder, table = study
    sheet = folder / "many_questions"
    first, *others = [sheet / f"{cell}.json" for cell in table.cell[:3]]
    first.rename(sheet / "lost.json")
    (found,) = sheets.read(folder, table)
    assert found.cell in table.cell and found.models == 2
    assert found.text.endswith("in no fit have answered too, and are passed over: 1.")
    for path in others:
        path.unlink()
    (found,) = sheets.read(folder, table)
    assert (found.cell, found.models) == ("lost", 1) and np.isnan(found.loss)
    assert found.text == (
        "What comes. The answers are those of lost, which is in no fit, as models of a learning rate that lost."
    )
    np.testing.assert_array_equal(found.of("first", "auroc"), [[np.nan, 0.7]])
    assert "lost" in sheet_section.section([found], {})


def test_a_sheet_is_no_task(study):
    folder, table = study
    assert downstream.read(folder, table, Options(draws=20), table.cell) == [] and scores.valued(folder, table) == []


def test_answers_to_other_questions_are_refused(study):
    folder, table = study
    path = folder / "many_questions" / "sheet.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "horizons": [1, 30]}))
    with pytest.raises(UserError, match=r"does not answer .*sheet\.json: delete it"):
        sheets.read(folder, table)


def test_what_is_suppressed_is_blank(study, tmp_path):
    folder, table = study
    (sheet,) = sheets.read(folder, table)
    figure = sheet_section.heat_map(sheet)
    (panel, _) = figure.axes
    (mesh,) = panel.collections
    assert np.ma.getmaskarray(mesh.get_array()).tolist() == [[True, False]]  # the second horizon alone is told
    mesh.update_scalarmappable()
    np.testing.assert_allclose(mesh.get_facecolor()[1], plots.SHADES(0.4), atol=0.01)
    assert mesh.get_facecolor()[0, 3] == 0
    svg = plots.render(sheet_section.heat_map, tmp_path, "sheet_many_questions", sheet)
    page = sheet_section.section([sheet], {"sheet_many_questions": svg})
    assert svg in page and "Of 2 questions 1 have an AUROC" in page
    (row,) = sheet_section.table(sheet).rows
    assert row[:2] == ["A", "–"] and row[2] == ("0.700", "0.600 to 0.800") and row[5] == "–"
    assert sheet_section.section([], {}) == ""


def test_two_hundred_codes_stand_in_panels(study):
    folder, table = study
    (sheet,) = sheets.read(folder, table)
    many = [f"{'LONG' * 10}//{k}" for k in range(200)]
    sheet = sheets.Sheet(**{**vars(sheet), "codes": many, "scores": sheet.scores * 200})
    figure = sheet_section.heat_map(sheet)
    panels = figure.axes[:-1]
    assert len(panels) == 3 and sum(len(axes.get_yticks()) for axes in panels) == 200
    assert sum(axes.collections[0].get_array().size for axes in panels) == 400
    assert max(len(label.get_text()) for axes in panels for label in axes.get_yticklabels()) == sheet_section.LONGEST
