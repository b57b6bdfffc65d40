"""The figure of the profile likelihoods: how much worse the fit gets as a number is held away from its estimate."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.joint.identifiability import Identifiability, Profile
from ehr_scaling.analysis.report.figures.plots import ACCENT, INK, MUTED, log_ticks
from ehr_scaling.analysis.wording import count, known, percent, power, significant

COLUMNS = 4
TOP = 2.4  # of the rise over its threshold: the ends lie at 1
SAME_CURVE = ("D", "D/N")  # of N read otherwise, since N D is given by C
GREEK = {"alpha": "α", "beta": "β"}
MANY_DECADES = 50.0  # high over low, from which powers of ten are enough of labels
LOGARITHMIC = 4.0  # high over low of an axis, above which it is


def shown(identified: Identifiability) -> list[Profile]:
    return [p for p in identified.profiles if p.name not in SAME_CURVE]


def profiles(identified: Identifiability) -> Figure:
    """A panel for every quantity: the rise of the objective over what ends the interval, which is drawn at 1.

    A side on which the curve never gets there is dashed, and its end marked as open.
    """
    panels = shown(identified)
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(9, 0.5 + 2.0 * lines), layout="constrained")
    grid = figure.subplots(lines, COLUMNS, squeeze=False)
    for axes, profile in zip(grid.ravel(), panels, strict=False):
        _panel(axes, profile)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel("rise / threshold")
    handles = [
        Line2D([], [], color=INK, lw=1.8, label="profile"),
        Line2D([], [], color=ACCENT, lw=1.8, ls=(0, (3, 1.5)), label="open side: never clearly worse"),
        Line2D([], [], color=MUTED, lw=1.2, ls=":", label=f"{percent(identified.level)} line"),
        Line2D([], [], color=INK, marker="o", ms=5, lw=0, label="estimate"),
        Line2D([], [], color=MUTED, lw=5, alpha=0.45, label=f"bootstrap, {percent(identified.level)}"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _panel(axes: Axes, profile: Profile) -> None:
    x, rise = profile.curve.T
    low, high = x[0], x[-1]
    log = low > 0 and high > LOGARITHMIC * low
    axes.axhline(1, color=MUTED, lw=1.2, ls=":", zorder=1)
    for side, end in ((x <= profile.estimate, profile.interval[0]), (x >= profile.estimate, profile.interval[1])):
        # The curve passes the estimate at 0, which is a point of both sides.
        at, height = np.append(x[side], profile.estimate), np.append(rise[side], 0.0)
        order = np.argsort(at)
        style: Any = {"color": INK, "lw": 1.8} if known(end) else {"color": ACCENT, "lw": 1.8, "ls": (0, (3, 1.5))}
        axes.plot(*_smooth(at[order], np.maximum(height[order], 0), log), zorder=3, **style)
        if known(end):
            axes.plot([end, end], [0, 1], color=INK, lw=0.8, zorder=2)
    axes.plot(profile.estimate, 0, "o", color=INK, ms=5, zorder=4, clip_on=False)
    if known(profile.bootstrap[0]):
        axes.plot(np.clip(profile.bootstrap, low, high), [TOP * 0.05] * 2, color=MUTED, lw=5, alpha=0.45, zorder=1)
    axes.set_ylim(-TOP / 40, TOP)  # so that a flat side does not lie on the axis
    if log:
        axes.set_xscale("log")
    axes.set_xlim(low, high) if high > low else None
    _ticks(axes, profile, log)
    where = f" at {power(profile.C, 2)}" if profile.C else ""
    name = GREEK.get(profile.name, profile.name) + ("*" if profile.C else "")
    axes.set_title(f"{name}{where}", color=INK if profile.verdict.told else ACCENT, fontsize=9.5)
    axes.tick_params(labelsize=8)


def _smooth(x: Floats, rise: Floats, log: bool) -> tuple[Floats, Floats]:
    """The curve between its few points: the root of the rise is nearly straight on either side of the estimate."""
    at = np.log(x) if log else x
    line = np.unique(np.concatenate([np.linspace(float(at[0]), float(at[-1]), 60), at]))
    return np.exp(line) if log else line, np.interp(line, at, np.sqrt(rise)) ** 2


def _ticks(axes: Axes, profile: Profile, log: bool) -> None:
    def text(value: float) -> str:
        return count(value, 2) if profile.name == "N" else significant(value, 2)

    if log:
        log_ticks(axes.xaxis, text)
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_xlim()
        if high > MANY_DECADES * low:
            axes.xaxis.set_major_locator(LogLocator(10, numticks=4))
    else:
        axes.locator_params(axis="x", nbins=3)
        axes.xaxis.set_major_formatter(lambda value, _: text(value) if profile.name == "N" else f"{value:.3g}")
