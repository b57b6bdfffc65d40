"""What the report says of repeated data: which law of it holds, its parameters, and what a pass is worth."""

from typing import Any

from ehr_scaling.analysis.repeats import worth_of_passes
from ehr_scaling.analysis.repeats.repeated_data import IGNORED, PENALTY, Repeated
from ehr_scaling.analysis.report.html import Raw, Table, formula, render
from ehr_scaling.analysis.wording import count, decimal, percent, significant, span

NAMES = {IGNORED: "repeats ignored", "effective": "effective data", PENALTY: "over-fit penalty"}
FORMULAS = {
    IGNORED: "E + A N^−α + B D^−β",
    "effective": "E + A N′^−α + B D′^−β",
    PENALTY: "E + A N^−α + B D^−β + P R^δ (N/U)^κ",
}
LETTERS = {"alpha": "α", "beta": "β", "delta": "δ", "kappa": "κ", "R_D": "R_D*", "R_N": "R_N*"}


def section(found: Repeated | None, svg: str | None) -> Raw:
    """svg: of `repeated_plots.passes`. Empty where no law of repeats was fitted."""
    if found is None:
        return Raw("")
    N, U = worth_of_passes.largest(found)
    return render(
        "repeated.html",
        found=found,
        name=NAMES[found.selected],
        ignored=found.selected == IGNORED,
        laws=_laws(found),
        worth=_worth(found, U),
        turn=worth_of_passes.turn(found),
        N=N,
        U=U,
        svg=Raw(svg or ""),
    )


def _laws(found: Repeated) -> Table:
    rows: list[list[Any]] = []
    for name, error in sorted(found.errors.items(), key=lambda item: item[1]):
        law = found.laws[name]
        words = law.words(found.options)
        for k, (parameter, value) in enumerate(law.parameters.items()):
            first = [NAMES[name], formula(FORMULAS[name]), percent(error, 2)] if k == 0 else ["", "", ""]
            bounds = span(law.intervals[parameter], significant)
            rows.append([*first, LETTERS.get(parameter, parameter), significant(value), bounds, words[parameter]])
    header = [
        "Law", "Loss L", "Held-out error", "Parameter", "Value", f"{percent(found.options.level)} interval", "Word",
    ]  # fmt: skip
    return Table(header, rows, words=(0, 1, 3), long=(6,))


def _worth(found: Repeated, U: float) -> Table:
    level = percent(found.options.level)
    rows = [
        [significant(row.passes), count(row.D), count(row.worth), span(row.worth_interval, count),
         significant(row.worth / (row.passes * U), 2), decimal(row.loss), span(row.loss_interval), row.verdict]
        for row in worth_of_passes.values(found)
    ]  # fmt: skip
    header = [
        "Passes", "Positions D", "Worth, in unique tokens", f"{level} interval", "Of a new token", "Loss",
        f"{level} interval", "Word",
    ]  # fmt: skip
    return Table(header, rows, long=(7,))
