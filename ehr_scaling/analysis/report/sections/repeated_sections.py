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


def section(repeated: Repeated | None, svg: str | None) -> Raw:
    """svg: of `repeated_plots.passes`. Empty where no law of repeats was fitted."""
    if repeated is None:
        return Raw("")
    N, U = worth_of_passes.largest(repeated)
    return render(
        "repeated.html",
        repeated=repeated,
        name=NAMES[repeated.selected],
        ignored=repeated.selected == IGNORED,
        laws=_laws(repeated),
        worth=_worth(repeated, U),
        turn=worth_of_passes.turn(repeated),
        N=N,
        U=U,
        svg=Raw(svg or ""),
    )


def _laws(repeated: Repeated) -> Table:
    rows: list[list[Any]] = []
    for name, error in sorted(repeated.errors.items(), key=lambda item: item[1]):
        law = repeated.laws[name]
        words = law.words(repeated.options)
        for k, (parameter, value) in enumerate(law.parameters.items()):
            first = [NAMES[name], formula(FORMULAS[name]), percent(error, 2)] if k == 0 else ["", "", ""]
            bounds = span(law.intervals[parameter], significant)
            rows.append([*first, LETTERS.get(parameter, parameter), significant(value), bounds, words[parameter]])
    header = [
        "Law", "Loss L", "Held-out error", "Parameter", "Value", f"{percent(repeated.options.level)} interval", "Word",
    ]  # fmt: skip
    return Table(header, rows, words=(0, 1, 3), long=(6,))


def _worth(repeated: Repeated, U: float) -> Table:
    level = percent(repeated.options.level)
    rows = [
        [significant(row.passes), count(row.D), count(row.worth), span(row.worth_interval, count),
         significant(row.worth / (row.passes * U), 2), decimal(row.loss), span(row.loss_interval), row.verdict]
        for row in worth_of_passes.values(repeated)
    ]  # fmt: skip
    header = [
        "Passes", "Positions D", "Worth, in unique tokens", f"{level} interval", "Of a new token", "Loss",
        f"{level} interval", "Word",
    ]  # fmt: skip
    return Table(header, rows, long=(7,))
