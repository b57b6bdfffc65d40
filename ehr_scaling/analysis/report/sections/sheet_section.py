"""What the report says of sheets of questions: a map of AUROCs, codes × horizons, and a table of them."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.outcomes.sheets import OCCURRENCES, Sheet
from ehr_scaling.analysis.report.figures.plots import INK, MUTED, SHADES
from ehr_scaling.analysis.report.html import Noted, Raw, Table, render
from ehr_scaling.analysis.wording import DASH, decimal, integer, known, span

ROWS = 40  # codes beside each other in one panel, before there is another
PANELS = 3
LONGEST = 34  # characters of a code beside the map; the table has all
CHANCE = 0.5
WORDS = {"all": "All", "first": "First occurrence", "again": "Recurrence"}


def section(sheets: list[Sheet], figures: Mapping[str, str]) -> Raw:
    """Empty without any. figures: SVG by the names that `report.draw` gives them."""
    if not sheets:
        return Raw("")
    shown = [
        {"sheet": sheet, "svg": Raw(figures.get(f"sheet_{sheet.sheet}", "")), "table": table(sheet), **_told(sheet)}
        for sheet in sheets
    ]
    return render("sheets.html", sheets=shown)


def _told(sheet: Sheet) -> dict[str, int]:
    first = sheet.of("first", "auroc")
    return {"told": int(np.isfinite(first).sum()), "asked": first.size}


def table(sheet: Sheet) -> Table:
    """A row a code: first occurrences at each horizon with the interval, and all three at the longest."""
    of = {
        (name, occurrence): sheet.of(occurrence, name)
        for name in ("auroc", "low", "high", "with_outcome")
        for occurrence in OCCURRENCES
    }

    def cell(occurrence: str, q: int, h: int) -> Noted | str:
        value, low, high = (float(of[name, occurrence][q, h]) for name in ("auroc", "low", "high"))
        bounds = span((low, high))
        return Noted(decimal(value), "" if bounds == DASH else bounds) if known(value) else DASH

    last = len(sheet.horizons) - 1
    rows = [
        [code, *(cell("first", q, h) for h in range(last + 1)), integer(of["with_outcome", "first"][q, last]),
         cell("all", q, last), cell("again", q, last), integer(of["with_outcome", "again"][q, last])]
        for q, code in enumerate(sheet.codes)
    ]  # fmt: skip
    days = [f"{horizon:g} d" for horizon in sheet.horizons]
    header = ["Code", *(f"First, {name}" for name in days), f"With it, {days[-1]}", f"All, {days[-1]}",
              f"Recurrence, {days[-1]}", f"With it, {days[-1]}"]  # fmt: skip
    return Table(header, rows, words=(0,))


def heat_map(sheet: Sheet) -> Figure:
    """AUROC of first occurrences: a row a code, a column a horizon; blank where nothing is told."""
    values = sheet.of("first", "auroc")
    panels = min(PANELS, -(-len(values) // ROWS))
    rows = -(-len(values) // panels)
    size = 2.6 + 0.36 * len(sheet.horizons) * panels + 2.2 * panels, 1.5 + 0.17 * rows
    figure = Figure(figsize=size)
    # Laid out at one resolution and drawn at another, in which letters are a little wider
    figure.set_layout_engine("constrained", w_pad=0.15)
    norm = Normalize(CHANCE, 1)
    axes_of = figure.subplots(1, panels, squeeze=False)[0]
    for k, axes in enumerate(axes_of):
        _panel(axes, sheet, values, range(k * rows, min((k + 1) * rows, len(values))), rows, norm)
    bar = figure.colorbar(ScalarMappable(norm, SHADES), ax=list(axes_of), pad=0.01, shrink=min(1.0, 12 / rows + 0.3))
    bar.set_label("AUROC of first occurrences")
    bar.outline.set_visible(False)
    bar.solids.set(rasterized=False, edgecolor="face")  # type: ignore[union-attr]
    return figure


def _panel(axes: Axes, sheet: Sheet, values: Floats, shown: range, rows: int, norm: Normalize) -> None:
    columns = len(sheet.horizons)
    # Worse than chance is drawn as chance: the table has the number. What is not told is not drawn
    there = np.ma.masked_invalid(np.maximum(values[shown.start : shown.stop], CHANCE))
    edges = np.arange(columns + 1), np.arange(len(shown) + 1)
    axes.pcolormesh(*edges, there, cmap=SHADES, norm=norm, edgecolors="#ffffff", linewidth=1.2)
    names = [sheet.codes[q] for q in shown]
    axes.set_yticks(np.arange(len(names)) + 0.5, [n if len(n) <= LONGEST else f"{n[: LONGEST - 1]}…" for n in names])
    axes.set_xticks(np.arange(columns) + 0.5, [f"{days:g}" for days in sheet.horizons])
    axes.tick_params(length=0, labelsize=7.5, labelcolor=INK)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_xlabel("days", color=MUTED)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
