"""What a score says beside its own measures: of acting on the baselines' risks, of counting futures, of the fitting."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ehr_scaling.analysis.outcomes.measures import Measure, measure, number
from ehr_scaling.analysis.wording import known, significant


class Less(NamedTuple):
    """A difference in net benefit at a threshold."""

    threshold: float
    difference: Measure


class Counted(NamedTuple):
    """The AUROC of the share of futures with the outcome, of the stays of which a future came to an end."""

    auroc: float
    stays: float  # share of all, NaN where it would tell of a few
    rest: float  # how many are not among them


def net_benefits(part: Any) -> dict[str, tuple[Less, ...]]:
    """By baseline."""
    differences = {}
    for name, points in part.items() if isinstance(part, dict) else ():
        read = [
            Less(threshold, about)
            for point in (points if isinstance(points, list) else [])
            if (about := measure(point)) is not None and 0 < (threshold := number(point.get("threshold"))) < 1
        ]
        if read:
            differences[str(name)] = tuple(read)
    return differences


def counted(record: Mapping[str, Any]) -> Counted | None:
    area, some, every = (number(record.get(name)) for name in ("monte_carlo_auroc", "monte_carlo_stays", "n"))
    return Counted(area, some / every, every - some) if known(area) and known(some) and every > 0 else None


def fitting(record: Mapping[str, Any]) -> str:
    """What was chosen for a baseline, and from what; "" where its score does not say."""
    columns, trees, most = (number(record.get(name)) for name in ("columns", "trees", "most_trees"))
    parts = [f"{columns:,.0f} columns"] if known(columns) else []
    for name, choices, said in (("strength", "strengths", "inverse penalty C"), ("penalty", "penalties", "penalty")):
        tried = [value for value in _list(record.get(choices)) if known(number(value))]
        if tried and known(chosen := number(record.get(name))):
            ends = f"from {significant(min(tried))} to {significant(max(tried))}"
            parts.append(f"{said} {significant(chosen)}, of {len(tried)} tried {ends} by folds of train patients")
    if known(trees) and known(most):
        parts.append(f"{trees:,.0f} trees of at most {most:,.0f}")
    settings = [one for one in _list(record.get("tried")) if isinstance(one, dict)]
    for one in settings:
        if one and all(record.get(name) == value for name, value in one.items()):
            told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in one.items())
            parts.append(f"{told}, of {len(settings)} settings tried on train patients held out")
    return "; ".join(parts)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
