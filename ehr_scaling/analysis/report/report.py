"""From runs to a report: laws.json, forecast.json, figures and one page that stands alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.forecast import holdout
from ehr_scaling.analysis.options import Options, silent
from ehr_scaling.analysis.report import folder, html
from ehr_scaling.analysis.report.figures import (
    curve_plots,
    decision_plots,
    label_plots,
    outcome_plots,
    plots,
    profile_plots,
    repeated_plots,
    sweep_plots,
)
from ehr_scaling.analysis.report.folder import FORECAST, MARK
from ehr_scaling.analysis.report.html import Raw
from ehr_scaling.analysis.report.results import Results, fit, to_json
from ehr_scaling.analysis.report.sections import (
    answer,
    budget_sections,
    checklist,
    law_sections,
    listings,
    memory_section,
    outcome_sections,
    plan_section,
    repeated_sections,
    sheet_section,
    sweep_sections,
)
from ehr_scaling.analysis.report.sections.limits import limits
from ehr_scaling.analysis.tables import curves, readers
from ehr_scaling.analysis.tables.run_table import RunTable, describe
from ehr_scaling.artifacts import write_json, write_text

Provenance = dict[str, Any] | Callable[[], dict[str, Any]] | None
TITLE = "Scaling laws for electronic health records"
TABLE_TITLE = "Scaling laws of a table of runs"


def analyze(
    runs: str | Path | RunTable,
    out: str | Path,
    *,
    provenance: Provenance = None,
    outcomes: Path | None = None,
    audited: Path | None = None,
    options: Options | None = None,
    drop_bad_rows: bool = False,
    say: Callable[[str], None] = silent,
) -> dict[str, Any]:
    """Fits everything and writes the report.

    runs: a directory of runs, a file (`readers.read`), or a table already read. outcomes: the directory of tasks.
    audited: the directory of audits.
    provenance: dict of dicts shown as tables (versions, commit, fingerprints, config), or what makes it, called when
    all runs are read. drop_bad_rows: as `readers.read` takes it. say: is told each step as it begins.
    out: takes laws.json, forecast.json (written before the sealed losses are used; of a directory of runs beside its
    grid, before the files that hold them are opened), report.html and figures/*.png. A report that is there already is
    replaced whole, see `folder.writing`; files in it that no analysis wrote are kept.

    Returns: what laws.json holds.
    Raises: UserError for unusable input, and as `folder.writing`.
    """
    options = options or Options()
    runs = Path(runs) if isinstance(runs, str) else runs
    with folder.writing(Path(out)) as partial:

        def file(forecast: dict[str, Any]) -> None:
            write_json(partial / FORECAST, holdout.dated(forecast))

        filed = None
        if isinstance(runs, Path) and runs.is_dir():
            say("forecasting the largest budget, whose results are not opened")
            filed = holdout.of_directory(runs, options, drop_bad_rows=drop_bad_rows)
        if filed is not None:
            file(filed)
        table = runs if isinstance(runs, RunTable) else readers.read(runs, drop_bad_rows=drop_bad_rows)
        results = fit(table, options, outcomes, on_forecast=file, filed=filed, say=say, audited=audited)
        learnt = curves.read(runs, results.table) if isinstance(runs, Path) and runs.is_dir() else {}
        return _fill(partial, results, provenance, say, learnt)


def write(results: Results, out: Path, provenance: Provenance = None) -> dict[str, Any]:
    """As `analyze`, of what is fitted already."""
    with folder.writing(out) as partial:
        if results.forecast is not None:
            write_json(partial / FORECAST, holdout.dated(results.forecast))
        return _fill(partial, results, provenance, silent, {})


def _fill(
    partial: Path,
    results: Results,
    provenance: Provenance,
    say: Callable[[str], None],
    learnt: Mapping[str, Floats],
) -> dict[str, Any]:
    laws = to_json(results)
    facts = provenance() if callable(provenance) else provenance or {}
    laws["provenance"] = facts
    say("drawing the figures")
    (partial / "figures").mkdir()
    write_text(partial / "report.html", render(results, partial / "figures", facts, learnt))
    laws["files"] = sorted([*folder.files(partial), MARK])
    write_json(partial / MARK, laws)
    return laws


def draw(results: Results, figures: Path, learnt: Mapping[str, Floats]) -> dict[str, str]:
    """Every figure as SVG by its name; writes `<name>.png` and `<name>.svg` of each into `figures`."""
    r = results
    drawn: dict[str, tuple[Any, ...]] = {
        "isoflop": (plots.fan, r),
        "power_laws": (plots.scaling, r),
        "loss_of_compute": (plots.loss_of_compute, r),
    }
    if any(a.measures for a in r.audits):
        drawn["memory"] = memory_section.figure, r.audits, r.memory
    tasks = [task for task in r.outcomes if task.rows]
    if not tasks and any(len(line.C) for line in r.lines.values()):
        drawn["best_sizes"] = plots.best_sizes, r
    if learnt:
        drawn["learning_curves"] = curve_plots.learning, r, learnt
    if r.joint:
        drawn["joint_law"] = plots.joint_fit, r
    if r.identifiability:
        drawn["profiles"] = profile_plots.profiles, r.identifiability
    if r.holdout and any(row["low"] is not None for row in r.holdout["rows"]):
        drawn["sealed_forecast"] = plots.sealed, r
    if r.rates:
        drawn["learning_rates"] = sweep_plots.learning_rates, r
    if r.repeats:
        drawn["passes"] = sweep_plots.passes, r
    if r.repeated:
        drawn["repeated_data"] = repeated_plots.passes, r.repeated
    for task in tasks:
        drawn[f"auroc_{task.task}"] = outcome_plots.of_compute, task
        drawn[f"outcome_{task.task}"] = outcome_plots.of_loss, task
    for task in r.outcomes:
        if task.supervised and not all(point.every for point in task.supervised.points):
            drawn[f"labels_{task.task}"] = label_plots.of_labels, task
        if outcome_plots.has_accuracy(task.compared):
            drawn[f"accuracy_{task.task}"] = outcome_plots.accuracy, task.compared
        if decision_plots.decided(task.compared):
            drawn[f"decision_{task.task}"] = decision_plots.curves, task.compared
    for sheet in r.sheets:
        drawn[f"sheet_{sheet.sheet}"] = sheet_section.heat_map, sheet
    return {name: plots.render(how, figures, name, *what) for name, (how, *what) in drawn.items()}


def render(
    results: Results, figures: Path, provenance: dict[str, Any], learnt: Mapping[str, Floats] | None = None
) -> str:
    """The page; writes every figure into `figures`. learnt: of `tables.curves.read`."""
    r, svg = results, draw(results, figures, learnt or {})
    body = [
        answer.answer(r, svg),
        plan_section.plan(r.planner),
        budget_sections.profiles(r),
        budget_sections.power_laws(r, svg["power_laws"], svg["loss_of_compute"]),
        budget_sections.joint(r, svg.get("joint_law")),
        law_sections.identifiability(r.identifiability, svg.get("profiles")),
        budget_sections.sealed(r, svg.get("sealed_forecast")),
        sweep_sections.learning_rates(r, svg.get("learning_rates")),
        sweep_sections.repeated(r, svg.get("passes")),
        repeated_sections.section(r.repeated, svg.get("repeated_data")),
        sweep_sections.branches(r),
        outcome_sections.outcomes(r, svg),
        memory_section.section(r.audits, r.memory, svg.get("memory")),
        sheet_section.section(r.sheets, svg),
        listings.learning_curves(svg.get("learning_curves")),
        law_sections.counting(r.conventions),
        law_sections.doubtful(r.doubts),
        listings.cells(r),
        checklist.checklist(r),
        listings.provenance(provenance or {"analysis": {"source": r.table.source}}),
        html.render("limits.html", limits=limits(r)),
    ]
    return str(
        html.render(
            "report.html",
            heading=TABLE_TITLE if r.table.generated is None else TITLE,
            first_line=f"{describe(r.all_runs)}.",
            body=body,
            style=Raw(plots.palette(svg.values())),
        )
    )
