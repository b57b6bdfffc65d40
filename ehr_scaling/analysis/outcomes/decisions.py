"""What scores say of acting on a risk: decision curves, tables of thresholds, and how far groups are apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from ehr_scaling.analysis.outcomes.measures import Measure, measure, number
from ehr_scaling.analysis.wording import known

HELPS, HARMS, SAME, OPEN = "helps", "harms", "the same", "not told"  # of a threshold, against treating all or none
OF_POINT = ("net_benefit", "treat_all", "difference")
OF_ROW = ("alerts", "sensitivity", "specificity", "ppv", "npv", "number_needed")
OF_GAP = ("auroc", "calibration_in_the_large")


class Point(NamedTuple):
    """Of a decision curve: the net benefit of acting from a threshold on, that of treating all, and how much the first
    is above the better of treating all and treating none."""

    threshold: float
    net_benefit: Measure
    treat_all: Measure
    difference: Measure
    word: str

    @property
    def flags(self) -> str:
        """Whom it flags: "nobody", "all" or "some"."""
        if self.net_benefit[:3] == (0, 0, 0):
            return "nobody"
        return "all" if self.net_benefit.value == self.treat_all.value else "some"


class Row(NamedTuple):
    """Of a table of thresholds: by risk, or by the share of stays that may alert (by: risk or budget). target: that
    risk or share, from 0 to 1; `asked` in files. suppressed: why it is empty, or ""."""

    by: str
    target: float
    threshold: float
    measures: dict[str, Measure]
    suppressed: str


class Gap(NamedTuple):
    """A group's measure less that of all others. told: whether the interval excludes 0; could_hide: the largest gap of
    either sign in it."""

    value: float
    low: float
    high: float
    told: bool
    could_hide: float


@dataclass(frozen=True)
class Decision:
    """points ascend; thresholds_suppressed: how many more would tell of a small group."""

    prevalence: Measure
    points: tuple[Point, ...]
    rows: tuple[Row, ...]
    thresholds_suppressed: int


def read(part: Any) -> Decision | None:
    """`decision` of a score; None where it has none, and without what is damaged in it."""
    if not isinstance(part, dict) or (prevalence := measure(part.get("prevalence"))) is None:
        return None
    points = [point for one in _dicts(part.get("curve")) if (point := _point(one)) is not None]
    rows = [row for one in _dicts(part.get("table")) if (row := _row(one)) is not None]
    if not points and not rows:
        return None
    more = number(part.get("thresholds_suppressed"))
    points.sort(key=lambda point: point.threshold)
    return Decision(prevalence, tuple(points), tuple(rows), int(more) if known(more) else 0)


def read_gaps(part: Any) -> dict[str, Gap]:
    gaps = {}
    for name in OF_GAP if isinstance(part, dict) else ():
        gap = part.get(name)
        if (about := measure(gap)) is not None and known(about.low) and known(about.high):
            gaps[name] = Gap(*about[:3], gap.get("told") is True, number(gap.get("could_hide")))
    return gaps


def stretches(points: Iterable[Point]) -> list[tuple[str, str, list[float]]]:
    """Neighbouring thresholds of which the same is said: word, whom they flag where it is SAME, and the thresholds."""

    def wording(point: Point) -> tuple[str, str]:
        return point.word, point.flags if point.word == SAME else ""

    grouped = [(words, list(group)) for words, group in groupby(points, wording)]
    return [(*words, [point.threshold for point in group]) for words, group in grouped]


def to_json(decision: Decision | None) -> dict[str, Any] | None:
    """Of laws.json."""
    if decision is None:
        return None
    return {
        "prevalence": decision.prevalence.interval(),
        "curve": [
            {
                "threshold": point.threshold,
                "numbers": {name: getattr(point, name).interval() for name in OF_POINT},
                "word": point.word,
            }
            for point in decision.points
        ],
        "thresholds_suppressed": decision.thresholds_suppressed,
        "table": [
            {
                "by": row.by,
                "asked": row.target,
                "threshold": row.threshold,
                "suppressed": row.suppressed or None,
                "numbers": {name: about.interval() for name, about in row.measures.items()},
            }
            for row in decision.rows
        ],
    }


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _point(part: dict[str, Any]) -> Point | None:
    threshold, word = number(part.get("threshold")), part.get("word")
    numbers = {name: about for name in OF_POINT if (about := measure(part.get(name))) is not None}
    if not 0 < threshold < 1 or word not in (HELPS, HARMS, SAME, OPEN) or len(numbers) < len(OF_POINT):
        return None
    return Point(threshold, **numbers, word=str(word))


def _row(part: dict[str, Any]) -> Row | None:
    target, by = number(part.get("asked")), part.get("by")
    if not 0 < target < 1 or by not in ("risk", "budget"):
        return None
    why = str(part.get("suppressed") or part.get("missing") or "")
    measures = {name: about for name in OF_ROW if (about := measure(part.get(name))) is not None}
    if not why and "alerts" not in measures:
        return None
    return Row(str(by), target, number(part.get("threshold")), {} if why else measures, why)
