"""The figure of acting on a risk: net benefit over thresholds, and what it is above treating all and treating none."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.outcomes.decisions import Decision
from ehr_scaling.analysis.outcomes.measures import Measure
from ehr_scaling.analysis.outcomes.scores import BASELINE, LEAST_LOSS, RECALIBRATED, Score, of_role, telling
from ehr_scaling.analysis.report.figures.outcome_plots import CHANCE, RARE, dashed
from ehr_scaling.analysis.report.figures.plots import ACCENT, INK, MUTED, log_ticks
from ehr_scaling.analysis.wording import percent

ALL = (0, (6, 1.5, 1, 1.5))  # dashes of treating all
_STYLES: dict[str, dict[str, Any]] = {
    LEAST_LOSS: {"color": INK, "lw": 1.2, "ls": (0, (4, 1.5)), "marker": "o", "ms": 3.5, "zorder": 3},
    RECALIBRATED: {"color": INK, "lw": 2, "marker": "D", "ms": 4, "zorder": 4},
    BASELINE: {"color": ACCENT, "lw": 1.5, "marker": "s", "ms": 3.5, "zorder": 3},
}
_BELOW = 0.3  # how far under 0 the axis of net benefit reaches, as a share of the prevalence


def decided(scores: list[Score]) -> list[tuple[Score, Decision]]:
    """The model of least loss, as it is and recalibrated, and the baselines that tell patients apart, as far as they
    have a curve."""
    shown = (*of_role(scores, LEAST_LOSS), *of_role(scores, RECALIBRATED), *telling(scores))
    return [(score, score.decision) for score in shown if score.decision is not None and score.decision.points]


def looked_at(shown: list[tuple[Score, Decision]]) -> list[tuple[Score, Decision]]:
    """Those whose risks are to be acted on: where there are recalibrated ones, not those they were made of."""
    moved = any(score.role == RECALIBRATED for score, _ in shown)
    return [(score, of) for score, of in shown if not (moved and score.role == LEAST_LOSS)]


def curves(scores: list[Score]) -> Figure:
    shown, acted_on = decided(scores), looked_at(decided(scores))
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    prevalence = shown[0][1].prevalence
    reach = _reach(acted_on)  # those alone have limits of their own there
    dashes = {score.name: dash for score, dash in dashed(scores)}
    for score, decision in shown:
        t = np.array([point.threshold for point in decision.points])
        style = _STYLES[score.role] | ({"ls": dashes[score.name]} if score.role == BASELINE else {})
        if (score, decision) not in acted_on:
            # Of these fewest thresholds are told: a line over the gaps would show what nobody measured
            style["ls"] = ""
        banded = (score, decision) in acted_on[:2]  # more bands would hide one another
        for axes, name in ((left, "net_benefit"), (right, "difference")):
            value, low, high = np.array([getattr(point, name)[:3] for point in decision.points]).T
            axes.plot(t, value, label=score.name, clip_on=True, **style)
            if banded:
                axes.fill_between(t, low, high, color=style["color"], alpha=0.13, lw=0, zorder=1)
    _treat_all(left, prevalence, reach)
    for axes, label in ((left, "treat none"), (right, "the better of treating all and none")):
        axes.axhline(0, color=MUTED, lw=1.2, ls=CHANCE, zorder=2, label=label)
        _thresholds(axes, reach, prevalence)
    left.set(ylim=(-_BELOW * prevalence.value, 1.08 * _most(shown, prevalence)), ylabel="Net benefit")
    right.set(ylim=_within(shown, reach), ylabel="Net benefit less that of the better")
    left.set_title("Net benefit")
    right.set_title("Above treating all and treating none")
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8.5, borderaxespad=0)
    return figure


def _reach(shown: list[tuple[Score, Decision]]) -> tuple[float, float]:
    """Thresholds that are drawn: up to the first at which none of the scores flags anybody."""
    flagging = [point.threshold for _, of in shown for point in of.points if point.flags != "nobody"]
    every = sorted({point.threshold for _, of in shown for point in of.points})
    last = max(flagging, default=every[-1])
    return every[0], min([t for t in every if t > last], default=last)


def _most(shown: list[tuple[Score, Decision]], prevalence: Measure) -> float:
    ends = [point.net_benefit.high for _, of in shown for point in of.points]
    return max(float(np.nanmax([prevalence.high, *ends, prevalence.value])), 1e-6)


def _within(shown: list[tuple[Score, Decision]], reach: tuple[float, float]) -> tuple[float, float]:
    """Limits for what is above treating all and none, of the scores that are looked at."""
    inside = [p.difference for _, of in looked_at(shown) for p in of.points if reach[0] <= p.threshold <= reach[1]]
    values = np.array([x for difference in inside for x in difference[:3] if np.isfinite(x)])
    top = max(values.max(), 1e-6)
    return float(max(min(1.1 * values.min(), -0.05 * top), -top)), float(1.1 * top)


def _treat_all(axes: Axes, prevalence: Measure, reach: tuple[float, float]) -> None:
    t = np.linspace(*reach, 300)
    odds = t / (1 - t)

    def of(share: float) -> Floats:
        return share - (1 - share) * odds

    axes.plot(t, of(prevalence.value), color=MUTED, lw=1.4, ls=ALL, zorder=2, label="treat all")
    axes.fill_between(t, of(prevalence.low), of(prevalence.high), color=MUTED, alpha=0.13, lw=0, zorder=1)


def _thresholds(axes: Axes, reach: tuple[float, float], prevalence: Measure) -> None:
    axes.set(xlim=reach, xlabel="Threshold: risk from which on one acts")
    if prevalence.value < RARE:
        axes.set_xscale("log")
        log_ticks(axes.xaxis, lambda value: percent(value, 0 if value >= 0.0095 else 1))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, reach[1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
