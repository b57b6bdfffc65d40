"""What the report says of acting on a risk: from which threshold on it helps, at what cost, and whom it fails."""

from typing import Any

from ehr_scaling.analysis.outcomes import decisions
from ehr_scaling.analysis.outcomes.decisions import Decision, Gap
from ehr_scaling.analysis.outcomes.measures import Measure
from ehr_scaling.analysis.outcomes.scores import LEAST_LOSS, RECALIBRATED, Group, Score, of_role, recalibrated_groups
from ehr_scaling.analysis.report.figures.decision_plots import decided, looked_at
from ehr_scaling.analysis.report.html import Noted, Table
from ehr_scaling.analysis.wording import DASH, decimal, known, percent, signed, span, title

ROWS = {
    "alerts": "Alerts per 100 stays", "sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV",
    "npv": "NPV", "number_needed": "Number needed to evaluate",
}  # fmt: skip
USUAL = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # thresholds that are shown of a difference to a baseline
SIDES = {
    decisions.HELPS: "is above treating all and treating none",
    decisions.HARMS: "is below the better of the two",
    decisions.OPEN: "may be either, as these patients cannot tell",
}
BEFORE_AND_AFTER = {"calibration_slope": "Slope", "calibration_in_the_large": "In the large", "ece": "ECE"}


def in_words(scores: list[Score]) -> list[str]:
    """A sentence of each score that is looked at: at which thresholds it helps, harms, or cannot be told."""
    return [
        f"{_name(score, scores)}: of {len(decision.points)} thresholds, {_stretches(decision)}."
        for score, decision in looked_at(decided(scores))
    ]


def _name(score: Score, scores: list[Score]) -> str:
    """That of a recalibrated model with the model's, which need not stand above it."""
    return (
        score.name.replace("the same", of_role(scores, LEAST_LOSS)[0].name, 1)
        if score.role == RECALIBRATED
        else score.name
    )


def _stretches(decision: Decision) -> str:
    parts = []
    for word, flags, of in decisions.stretches(decision.points):
        where = f"at {_risk(of[0])}" if len(of) == 1 else f"at {len(of)} from {_risk(of[0])} to {_risk(of[-1])}"
        said = SIDES.get(word) or ("flags nobody" if flags == "nobody" else "flags everybody")
        parts.append(f"{where} it {said}")
    return "; ".join(parts)


def _risk(value: float) -> str:
    return percent(value, 0 if value >= 0.0095 else 1)


def thresholds(scores: list[Score]) -> Table | None:
    """What acting at some thresholds costs and finds: a row for each score, at each threshold."""
    shown = [(_name(score, scores), decision.rows) for score, decision in looked_at(decided(scores))]
    if not any(table for _, table in shown):
        return None
    rows: list[list[Any]] = []
    targets = list(dict.fromkeys((row.by, row.target) for _, table in shown for row in table))
    for by, share in targets:
        first = f"Risk of {_risk(share)} or more" if by == "risk" else f"Top {_risk(share)} of stays"
        for name, table in shown:
            for row in table:
                if (row.by, row.target) == (by, share):
                    numbers = [_row_number(key, row.measures.get(key)) for key in ROWS]
                    threshold = decimal(row.threshold, 3) if known(row.threshold) else DASH
                    rows.append([first, name, threshold, *numbers, row.suppressed])
                    first = ""
    header = ["Flagged", "By", "Threshold", *ROWS.values(), "Note"]
    if any(row[-1] for row in rows):
        return Table(header, rows, words=(0, 1), long=(len(header) - 1,))
    return Table(header[:-1], [row[:-1] for row in rows], words=(0, 1))


def _row_number(name: str, measure: Measure | None) -> Noted | str:
    if measure is None:
        return DASH

    def text(value: float) -> str:
        return decimal(value, 1) if name == "number_needed" else decimal(100 * value, 1) + _unit(name)

    interval = span((measure.low, measure.high), text)
    return Noted(text(measure.value), "" if interval == DASH else interval)


def _unit(name: str) -> str:
    return "" if name == "alerts" else "\N{NO-BREAK SPACE}%"


def less_baselines(scores: list[Score]) -> Table | None:
    """Net benefit of acting on the risks of the model of least loss less that of acting on each baseline's."""
    best = next(iter(of_role(scores, LEAST_LOSS)), None)
    if best is None or not best.net_benefits:
        return None
    by_threshold: dict[float, dict[str, Measure]] = {}
    for name, points in best.net_benefits.items():
        for threshold, difference in points:
            by_threshold.setdefault(threshold, {})[name] = difference
    names = list(best.net_benefits)
    rows = [
        [_risk(threshold), *(_less(by_threshold[threshold].get(name)) for name in names)]
        for threshold in _some(sorted(by_threshold))
    ]
    return Table(["Acting from", *(f"Less {name}" for name in names)], rows)


def _some(thresholds: list[float]) -> list[float]:
    """Those that tables of thresholds have; of another set of them a few."""
    usual = [threshold for threshold in thresholds if threshold in USUAL]
    return usual or thresholds[:: max(1, len(thresholds) // len(USUAL))]


def _less(difference: Measure | None) -> Noted | str:
    if difference is None:
        return DASH
    interval = span((difference.low, difference.high), lambda value: signed(value, 4))
    return Noted(signed(difference.value, 4), "" if interval == DASH else interval)


def gap(name: str, group: Group) -> Noted | str:
    """A group's measure less that of the rest, its interval, and whether these patients tell it."""
    if (apart := group.gaps.get(name)) is None:
        return DASH
    places = 3 if name == "auroc" else 2
    interval = span((apart.low, apart.high), lambda value: signed(value, places))
    return Noted(signed(apart.value, places), f"{interval}: {_told(apart, places)}")


def _told(apart: Gap, places: int) -> str:
    return "a difference" if apart.told else f"none shown, one of {decimal(apart.could_hide, places)} not excluded"


def recalibrated(scores: list[Score]) -> Table | None:
    """Calibration of each group that is told, before and after recalibration."""
    moved = recalibrated_groups(scores)
    rows: list[list[Any]] = []
    attribute = ""
    for g in (g for s in of_role(scores, LEAST_LOSS) for g in s.groups):
        after = moved.get((g.attribute, g.name))
        if g.suppressed or after is None:
            continue
        numbers = [_number(name, of.measures.get(name)) for name in BEFORE_AND_AFTER for of in (g, after)]
        who = ["" if g.attribute == attribute else title(g.attribute).capitalize(), group_name(g)]
        rows.append([*who, *numbers, *(gap("calibration_in_the_large", of) for of in (g, after))])
        attribute = g.attribute
    if not rows:
        return None
    heads = [head for name in (*BEFORE_AND_AFTER.values(), "In the large less the rest") for head in (name, "after")]
    return Table(["", "Group", *heads], rows, words=(0, 1))


def recalibration(scores: list[Score]) -> str:
    """Whether recalibration brought the risks of the model of least loss nearer to what came, "" without any."""
    pairs = list(zip(of_role(scores, LEAST_LOSS), of_role(scores, RECALIBRATED), strict=False))
    if not pairs:
        return ""
    before, after = pairs[0]
    moved, off = [], []
    for name, what, right in (
        ("calibration_slope", "the slope", 1),
        ("calibration_in_the_large", "calibration in the large", 0),
    ):
        old, new = before.measures.get(name), after.measures.get(name)
        if old is None or new is None:
            continue
        moved.append(f"{what} from {decimal(old.value, 2)} to {decimal(new.value, 2)}, where {right} is right")
        if new.low > right or new.high < right:
            off.append(what)
    if not moved:
        return ""
    left = f" The interval of {' and of '.join(off)} still excludes that: here the risks stay off." if off else ""
    return f"Recalibration moved {'; '.join(moved)}.{left}"


def group_name(group: Group) -> str:
    return group.name if group.attribute == "age" else title(group.name)


def _number(name: str, measure: Measure | None) -> Noted | str:
    if measure is None:
        return DASH
    places = 4 if name == "ece" else 2
    interval = span((measure.low, measure.high), lambda value: decimal(value, places))
    return Noted(decimal(measure.value, places), "" if interval == DASH else interval)
