"""The figure of a fan: history to the left of the prediction, simulated futures to the right, risks under them. SVG."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from ehr_scaling.analysis.wording import percent, plural
from ehr_scaling.outcomes.pages.incidence import Incidence

WIDTH = 1120  # units of the drawing; the page scales it
_LEFT, _NOW, _END = 152, 330, 950  # x of the farthest past, of the prediction, and of the last simulated hour
_TOP, _HEAD, _FOOT = 8, 46, 34  # heights: of the margin, of the headings, and of the labels of an axis
_LINEAR = 1.0  # hours up to which the axis of time is about linear, and logarithmic beyond
_RISK, _GAP = 112, 34  # height of a panel of risk, and what is between two of them
_LEAST = 15  # between two labels, from baseline to baseline
_LONGEST = 20  # characters to the right of the fan
_TICK, _PREDICTION = 58, 68  # between two ticks, and between the first one and the prediction

HOUR_NAMES = (
    *((0.25, "15 min"), (1, "1 h"), (3, "3 h"), (8, "8 h"), (24, "1 day"), (72, "3 days"), (168, "1 week")),
    *((504, "3 weeks"), (1461, "2 months"), (4383, "6 months"), (17532, "2 years"), (61362, "7 years")),
    *((219150, "25 years"), (876600, "100 years")),
)
# Groups of events, in the order of their lanes: class of the colours, name, half the height of a mark
GROUPS = (
    ("care", "Stays and moves", 1.0),
    ("diagnosis", "Diagnoses", 0.8),
    ("procedure", "Procedures", 0.8),
    ("drug", "Medication", 0.7),
    ("measure", "Measurements", 0.55),
    ("other", "Other", 0.55),
)
# Colours of Okabe and Ito (2008), which colour-blind people tell apart, darkened on white and lightened on black
STYLE = """
:root { --care: #0064a3; --diagnosis: #c04f00; --procedure: #a8497f; --drug: #007a58; --measure: #7d8894;
  --other: #8a6a00; --band: rgba(0, 100, 163, .17); --line: #b9c2cb; }
@media screen and (prefers-color-scheme: dark) { :root { --care: #66b8f0; --diagnosis: #f08a45; --procedure: #e29cc4;
  --drug: #35c79b; --measure: #8f9ba8; --other: #d9b341; --band: rgba(102, 184, 240, .25); --line: #4a5663; } }
.fan { display: block; width: 100%; min-width: 54rem; height: auto; font-size: 13px; }
.fan text { fill: var(--ink); } .fan .quiet { fill: var(--muted); } .fan .strong { font-weight: 650; }
.fan .big { font-size: 19px; font-weight: 650; }
.fan .grid { stroke: var(--rule); fill: none; } .fan .now { stroke: var(--ink); stroke-width: 1.6; }
.fan .copy line { stroke: var(--line); stroke-width: 1; } .fan .copy:hover line { stroke: var(--ink); }
.fan .end { stroke: var(--ink); stroke-width: 1.4; fill: none; } .fan .full { fill: var(--ink); }
.fan .brace { stroke: var(--muted); fill: none; }
.fan .band { fill: var(--band); stroke: none; }
.fan .risk { stroke: var(--care); stroke-width: 2; fill: none; }
.fan .horizon { stroke: var(--muted); stroke-dasharray: 4 3; fill: none; }
"""
STYLE += "".join(
    f".fan .m-{name} {{ stroke: var(--{name}); stroke-width: 1.7; fill: none; }} "
    f".fan .t-{name} {{ fill: var(--{name}); }} .event.{name} {{ --own: var(--{name}); }}\n"
    for name, _, _ in GROUPS
)


class Mark(NamedTuple):
    """One event: hours before or after the prediction, its group, and what it is."""

    hours: float
    group: str
    words: str


class Copy(NamedTuple):
    """One simulated future: its events, and how it ends."""

    marks: Sequence[Mark]
    hours: float
    end: str  # as a reader is told: "died"
    shape: str  # of the mark at its end, a key of _SHAPES
    title: str


class Risk(NamedTuple):
    """One outcome under the fan."""

    name: str
    estimate: str  # the number with its error
    notes: Sequence[str]  # lines under it
    incidence: Incidence
    horizon: float  # hours, infinite where there is none


# Relative to the place of the mark and in units of its size
_SHAPES = {
    "cross": ("end", "M-1-1L1 1M-1 1L1-1"),
    "circle": ("end", "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0"),
    "triangle": ("end", "M-1 .9L0-1L1 .9Z"),
    "square": ("end full", "M-.8-.8H.8V.8H-.8Z"),
    "bar": ("end", "M0-1.3V1.3"),
    "arrow": ("end", "M-1-1L.6 0L-1 1"),
    "dots": ("end", "M-.2 0h.4M1.3 0h.4M2.8 0h.4"),
}


class Axis:
    """Hours to x: linear up to about an hour, logarithmic beyond, so that minutes and months are both to be seen."""

    def __init__(self, most: float, start: float, end: float) -> None:
        self.most = max(most, _LINEAR)
        self.start, self.end = start, end

    def __call__(self, hours: float) -> float:
        share = math.log1p(max(hours, 0.0) / _LINEAR) / math.log1p(self.most / _LINEAR)
        return self.start + min(share, 1.0) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """x and text of the ticks, from the prediction outwards, with room for their texts and for its own."""
        ticks: list[tuple[float, str]] = []
        last, least = self.start, _PREDICTION
        for hours, name in HOUR_NAMES:
            x = self(hours)
            if hours < self.most and abs(x - last) >= least and abs(self.end - x) >= 6:
                ticks.append((x, name))
                last, least = x, _TICK
        return ticks


def draw(history: Sequence[Mark], copies: Sequence[Copy], risks: Sequence[Risk], label: str) -> str:
    """The SVG. Args: history, by hours before the prediction; copies, as `order` has them; label, its words aloud."""
    pitch = min(max(420 / len(copies), 6.0), 17.0)
    top = _TOP + _HEAD
    fan = max(pitch * len(copies), 150.0)
    horizons = [risk.horizon for risk in risks if math.isfinite(risk.horizon)]
    after = Axis(max([copy.hours for copy in copies] + [h for h in horizons if h < 24 * 400]), _NOW, _END)
    before = Axis(max([hours for hours, *_ in history], default=24.0), _NOW, _LEFT)
    ticks = after.ticks()
    panels = top + fan + _FOOT + 8
    height = panels + len(risks) * (_RISK + _GAP) + (8 if risks else 0)
    parts = [
        f'<svg class="fan" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">',
        _text(_NOW - 12, _TOP + 14, "history", "quiet", "end"),
        _text(_NOW + 12, _TOP + 14, f"{plural(len(copies), 'simulated future')}, a line each", "quiet"),
        *(f'<path class="grid" d="M{x:.1f} {top - 6}V{top + fan + 6:.1f}"/>' for x, _ in ticks),
        *(_text(x, top + fan + 22, name, "quiet", "middle") for x, name in ticks),
        *(f'<path class="grid" d="M{x:.1f} {top - 6}V{top + fan + 6:.1f}"/>' for x, _ in before.ticks()),
        *(_text(x, top + fan + 22, name, "quiet", "middle") for x, name in before.ticks()),
        *_lanes(history, before, top, fan),
        *_rows(copies, after, top + (fan - pitch * len(copies)) / 2, pitch),
        *(_panel(risk, after, panels + 8 + i * (_RISK + _GAP), ticks) for i, risk in enumerate(risks)),
        f'<path class="now" d="M{_NOW} {top - 20}V{top + fan + 8:.1f}"/>',
        _text(_NOW, top + fan + 22, "prediction", "strong", "middle"),
        "</svg>",
    ]
    return "\n".join(parts)


def order(copies: Sequence[Copy]) -> list[Copy]:
    """Those that end alike together, the short ones first; death before other events, and those without one last."""
    rank = {"cross": 0, "bar": 2, "arrow": 3, "dots": 4}
    return sorted(copies, key=lambda copy: (rank.get(copy.shape, 1), copy.end, copy.hours))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text, quote=False)}</text>'


def _ticks(x_and_groups: Sequence[tuple[float, str]], y: float, half: float) -> str:
    """Upright marks of each group on one line; marks of a group that would touch are one."""
    parts = []
    for group, _, height in GROUPS:
        places: list[float] = []
        for x in sorted(x for x, name in x_and_groups if name == group):
            if not places or x - places[-1] >= 1.5:
                places.append(x)
        if places:
            h = half * height
            strokes = "".join(f"M{x:.1f} {y - h:.1f}v{2 * h:.1f}" for x in places)
            parts.append(f'<path class="m-{group}" d="{strokes}"/>')
    return "".join(parts)


def _lanes(history: Sequence[Mark], axis: Axis, top: float, height: float) -> list[str]:
    """The history, a lane a group; the names of the lanes are the legend of the colours."""
    step, parts = height / len(GROUPS), []
    for i, (group, name, _) in enumerate(GROUPS):
        y = top + (i + 0.5) * step
        marks = [(axis(hours), group) for hours, of, _ in history if of == group]
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_NOW}"/>')
        parts.append(f'<rect class="t-{group}" x="2" y="{y - 5:.1f}" width="10" height="10" rx="2"/>')
        parts.append(_text(19, y + 4.5, name))
        parts.append(_ticks(marks, y, min(step * 0.36, 13)))
    return parts


def _rows(copies: Sequence[Copy], axis: Axis, top: float, pitch: float) -> list[str]:
    parts = []
    for i, copy in enumerate(copies):
        y, end = top + (i + 0.5) * pitch, axis(copy.hours)
        kind, path = _SHAPES[copy.shape]
        size = min(pitch * 0.42, 4.6)
        parts.append(
            f'<g class="copy"><title>{escape(copy.title, quote=False)}</title>'
            f'<line x1="{_NOW}" y1="{y:.1f}" x2="{end:.1f}" y2="{y:.1f}"/>'
            f"{_ticks([(axis(hours), group) for hours, group, _ in copy.marks], y, pitch * 0.48)}"
            f'<path class="{kind}" vector-effect="non-scaling-stroke" '
            f'transform="translate({end + 1.6 * size:.1f} {y:.1f}) scale({size:.2f})" d="{path}"/></g>'
        )
    return parts + _braces(copies, top, pitch)


def _braces(copies: Sequence[Copy], top: float, pitch: float) -> list[str]:
    """To the right, how many copies end in the same way."""
    parts, begin, last = [], 0, -math.inf
    x = _END + 26
    for i in range(1, len(copies) + 1):
        if i < len(copies) and copies[i].end == copies[begin].end:
            continue
        high, low = top + begin * pitch + 1.5, top + i * pitch - 1.5
        y = max((high + low) / 2 + 4.5, last + _LEAST)
        parts.append(f'<path class="brace" d="M{x} {high:.1f}h4V{low:.1f}h-4"/>')
        label = f"{i - begin} {copies[begin].end}"
        if len(label) > _LONGEST:
            label = label.partition(",")[0]
        parts.append(_text(x + 10, y, label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"))
        begin, last = i, y
    return parts


def _panel(risk: Risk, axis: Axis, top: float, ticks: Sequence[tuple[float, str]]) -> str:
    """Cumulative incidence of one outcome over the same axis of time."""
    known = min(risk.incidence.until, risk.horizon, axis.most)
    steps = [row for row in zip(*risk.incidence[:4], strict=True) if row[0] <= known]
    most = max(row[3] for row in steps)
    most = next(limit for limit in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if most <= limit * 1.0001)
    bottom = top + _RISK

    def y(share: float) -> float:
        return bottom - min(share / most, 1.0) * _RISK

    def path(column: int) -> list[tuple[float, float]]:
        """Corners of the steps, from the prediction to where nothing more is known."""
        corners = [(axis(0), y(steps[0][column]))]
        for row in steps[1:]:
            corners += [(axis(row[0]), corners[-1][1]), (axis(row[0]), y(row[column]))]
        return [*corners, (axis(known), corners[-1][1])]

    def line(corners: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in corners)

    parts = [
        *(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>' for x, _ in ticks),
        *(f'<path class="grid" d="M{_NOW} {y(share):.1f}H{_END}"/>' for share in (0, most / 2, most)),
        *(_text(_NOW - 8, y(share) + 4.5, percent(share), "quiet", "end") for share in (0, most / 2, most)),
        f'<path class="band" d="{line(path(3) + path(2)[::-1])}Z"/>',
        f'<path class="risk" d="{line(path(1))}"/>',
        _text(2, top + 14, risk.name, "strong"),
        _text(2, top + 41, risk.estimate, "big"),
        *(_text(2, top + 63 + 17 * i, text, "quiet") for i, text in enumerate(risk.notes)),
        _text(_END + 12, y(steps[-1][1]) + 4.5, percent(steps[-1][1], 0 if steps[-1][1] >= 0.1 else 1), "strong"),
    ]
    if math.isfinite(risk.horizon) and risk.horizon < axis.most:
        x = axis(risk.horizon)
        parts.append(f'<path class="horizon" d="M{x:.1f} {top - 4:.1f}V{bottom:.1f}"/>')
    return "".join(parts)
