"""From runs to a report: laws.json, forecast.json, figures and one page that stands alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ehr_scaling.analysis.forecast import holdout
from ehr_scaling.analysis.report import (
    checklist,
    folder,
    law_sections,
    listings,
    outcome_plots,
    outcome_sections,
    plan_section,
    plots,
    profile_plots,
    repeated_plots,
    repeated_sections,
    sections,
    sweep_plots,
    sweep_sections,
)
from ehr_scaling.analysis.report.folder import FORECAST, MARK
from ehr_scaling.analysis.report.html import Raw, bullets, page, section
from ehr_scaling.analysis.report.limits import limits
from ehr_scaling.analysis.report.results import Results, fit, silent, to_json
from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.tables.run_table import RunTable, describe
from ehr_scaling.analysis.uncertainty import Options
from ehr_scaling.analysis.wording import plural
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
    options: Options | None = None,
    drop_bad_rows: bool = False,
    say: Callable[[str], None] = silent,
) -> dict[str, Any]:
    """Fits everything and writes the report.

    runs: a directory of runs, a file (`readers.read`), or a table already read. outcomes: the directory of tasks.
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
        results = fit(table, options, outcomes, on_forecast=file, filed=filed, say=say)
        return _fill(partial, results, provenance, say)


def write(results: Results, out: Path, provenance: Provenance = None) -> dict[str, Any]:
    """As `analyze`, of what is fitted already."""
    with folder.writing(out) as partial:
        if results.forecast is not None:
            write_json(partial / FORECAST, holdout.dated(results.forecast))
        return _fill(partial, results, provenance, silent)


def _fill(partial: Path, results: Results, provenance: Provenance, say: Callable[[str], None]) -> dict[str, Any]:
    laws = to_json(results)
    facts = provenance() if callable(provenance) else provenance or {}
    laws["provenance"] = facts
    say("drawing the figures")
    (partial / "figures").mkdir()
    write_text(partial / "report.html", render(results, partial / "figures", facts))
    laws["files"] = sorted([*folder.files(partial), MARK])
    write_json(partial / MARK, laws)
    return laws


def render(results: Results, figures: Path, provenance: dict[str, Any]) -> str:
    """The page; writes the PNG of every figure into `figures`."""
    svg = {
        "fan": plots.render(plots.fan, figures, "isoflop", results),
        "laws": plots.render(plots.scaling, figures, "power_laws", results),
        "loss": plots.render(plots.loss_of_compute, figures, "loss_of_compute", results),
    }
    if results.joint:
        svg["joint"] = plots.render(plots.joint_fit, figures, "joint_law", results)
    if results.identifiability:
        svg["profiles"] = plots.render(profile_plots.profiles, figures, "profiles", results.identifiability)
    if results.holdout and any(row["low"] is not None for row in results.holdout["rows"]):
        svg["sealed"] = plots.render(plots.sealed, figures, "sealed_forecast", results)
    if results.rates:
        svg["rates"] = plots.render(sweep_plots.learning_rates, figures, "learning_rates", results)
    if results.repeats:
        svg["repeats"] = plots.render(sweep_plots.passes, figures, "passes", results)
    if results.repeated:
        svg["repeated"] = plots.render(repeated_plots.passes, figures, "repeated_data", results.repeated)
    scored = {
        task.task: plots.render(outcome_plots.auroc, figures, f"outcome_{task.task}", task)
        for task in results.outcomes
        if task.rows
    }
    accuracy = {
        task.task: plots.render(outcome_plots.accuracy, figures, f"accuracy_{task.task}", task.compared)
        for task in results.outcomes
        if outcome_plots.has_accuracy(task.compared)
    }
    lead = (
        f"{plural(len(results.table), 'run')} in {plural(len(results.budgets), 'compute budget')}. Every number "
        "stands with its interval and one of three words: supported (inside the data, bracketed), extrapolated, "
        "unidentified."
    )
    body = [
        sections.answer(results),
        plan_section.plan(results.planner),
        sections.profiles(results, svg["fan"]),
        sections.power_laws(results, svg["laws"], svg["loss"]),
        sections.joint(results, svg.get("joint")),
        law_sections.identifiability(results.identifiability, svg["profiles"]) if results.identifiability else Raw(""),
        sections.sealed(results, svg.get("sealed")),
        sweep_sections.learning_rates(results, svg.get("rates")),
        sweep_sections.repeated(results, svg.get("repeats")),
        repeated_sections.section(results.repeated, svg.get("repeated")),
        sweep_sections.branches(results),
        outcome_sections.outcomes(results, scored, accuracy),
        law_sections.counting(results.conventions),
        law_sections.doubtful(results.doubts),
        listings.cells(results),
        checklist.checklist(results),
        listings.provenance(provenance or {"analysis": {"source": results.table.source}}),
        section("limits", "Limits", bullets(limits(results))),
    ]
    title = TABLE_TITLE if results.table.generated is None else TITLE
    headings = [(name, label) for name, label in sections.HEADINGS if any(f'<section id="{name}">' in p for p in body)]
    return page(title, f"{describe(results.all_runs)}.", lead, headings, body)
