"""What the report says of repeated data: which law of it holds, its parameters, and what a pass is worth."""

from typing import Any

import numpy as np

from ehr_scaling.analysis.repeats import worth_of_passes
from ehr_scaling.analysis.repeats.repeated_data import IGNORED, PENALTY, Repeated
from ehr_scaling.analysis.report.html import Raw, chip, figure, formula, join, paragraph, table
from ehr_scaling.analysis.report.html import section as section_of
from ehr_scaling.analysis.wording import DASH, count, decimal, percent, plural, significant, span

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
    level = percent(found.options.level)
    lead = (
        f"The law that forecasts held-out runs best is that of {NAMES[found.selected]}: {found.verdict.reason}"
        f"{_gain(found)}."
    )
    caption = (
        "Validation loss against passes for the sizes with most repeats: a mark is a run, a colour a number of unique "
        "tokens, lines are the laws. Dots: the same law form fitted as if every token were new."
    )
    drawn = f" Of more runs {plural(len(found.table), 'run')} were drawn for the fits." if found.left_out else ""
    note = (
        f"{plural(found.folds, 'fold')} over {plural(len(found.table), 'run')}; rows of one run, and runs that differ "
        f"by seed only, are held out together. All parameters of a law are fitted together.{drawn} R = D/U − 1 are "
        "repeats, D′ and N′ the effective tokens and parameters of arXiv 2305.16264; the penalty is that of arXiv "
        "2605.01640."
    )
    return section_of(
        "repeated", "What repeated data are worth", paragraph(join(chip(found.verdict.word), " ", lead)),
        figure(svg or "", caption, "Loss against passes, runs and laws"), _laws(found, level),
        paragraph(note, "muted"), *_worth(found, level),
    )  # fmt: skip


def _gain(found: Repeated) -> str:
    if found.selected == IGNORED or not np.isfinite(found.gain_interval[0]):
        return ""
    bounds = span(found.gain_interval, lambda v: percent(v, 2))
    return f"; the difference is {percent(found.gain, 2)} ({bounds})"


def _laws(found: Repeated, level: str) -> Raw:
    rows: list[list[Any]] = []
    for name, error in sorted(found.errors.items(), key=lambda item: item[1]):
        law = found.laws[name]
        words = law.words(found.options)
        for k, (parameter, value) in enumerate(law.parameters.items()):
            first = [NAMES[name], formula(FORMULAS[name]), percent(error, 2)] if k == 0 else ["", "", ""]
            word = words[parameter]
            rows.append(
                [*first, LETTERS.get(parameter, parameter), significant(value),
                 span(law.intervals[parameter], significant),
                 join(chip(word.word), Raw("<small>"), word.reason, Raw("</small>"))]
            )  # fmt: skip
    header = ["Law", "Loss L", "Held-out error", "Parameter", "Value", f"{level} interval", "Word"]
    return table(header, rows, words=(0, 1, 3), long=(6,))


def _worth(found: Repeated, level: str) -> list[Any]:
    N, U = worth_of_passes.largest(found)
    rows = [
        [significant(row.passes), count(row.D), count(row.worth), span(row.worth_interval, count),
         significant(row.worth / (row.passes * U), 2), decimal(row.loss), span(row.loss_interval),
         join(chip(row.verdict.word), Raw("<small>"), row.verdict.reason, Raw("</small>"))]
        for row in worth_of_passes.values(found)
    ]  # fmt: skip
    header = [
        "Passes", "Positions D", "Worth, in unique tokens", f"{level} interval", "Of a new token", "Loss",
        f"{level} interval", "Word",
    ]  # fmt: skip
    turn = worth_of_passes.turn(found)
    said = "none that costs loss" if np.isinf(turn.passes) else f"{significant(turn.passes, 2)} passes"
    low, high = turn.interval
    bounds = f"{significant(low, 2)} to {significant(high, 2)}" if np.isfinite(high) else DASH
    title = f"What a pass is worth at N = {count(N)} and U = {count(U)}"
    return [
        Raw(f"<h3>{title}</h3>"),
        table(header, rows, long=(7,)),
        paragraph(
            "Worth: the unique tokens that, seen once, reach the same loss by the selected law. N and U are the "
            "largest of the runs.", "muted",
        ),
        paragraph(
            join(chip(turn.verdict.word), f" By the penalty law loss is lowest after {said} ({bounds}); more of them "
                 f"cost loss: {turn.verdict.reason}.")
        ),
    ]  # fmt: skip
