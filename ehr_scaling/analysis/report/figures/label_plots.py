"""The figure of what labels are worth: AUROC of heads by the number of labels, beside zero-shot and the baselines."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ehr_scaling.analysis.outcomes.downstream import Outcome
from ehr_scaling.analysis.outcomes.supervised import METHODS, TREES, ZERO_SHOT
from ehr_scaling.analysis.report.figures.plots import ACCENT, HERO, INK, MUTED
from ehr_scaling.analysis.wording import decimal, integer, known

_STYLES = {"probe": (INK, "o", "-"), "finetune": (INK, "s", (0, (5, 2)))}
_APART = {"probe": 0.97, "finetune": 1.03}  # so that bars of one number of labels are told apart


def of_labels(task: Outcome) -> Figure:
    """Means of heads with their intervals, and each head as a small mark; zero-shot and baselines as lines."""
    figure = Figure(figsize=HERO, layout="constrained")
    axes = figure.subplots()
    assert task.supervised is not None
    handles = []
    axes.set_xscale("log")
    for method, name in METHODS.items():
        points = [point for point in task.supervised.points if point.method == method]
        if not points:
            continue
        colour, marker, dash = _STYLES[method]
        for point in points:
            x = point.labels * _APART[method]
            axes.plot([x] * len(point.reached), point.reached, ls="", marker=marker, ms=2.5, color=MUTED, zorder=2)
            if known(point.auroc.low) and known(point.auroc.high):
                axes.plot([x, x], [point.auroc.low, point.auroc.high], color=colour, lw=1, zorder=3)
        at = [point.labels * _APART[method] for point in points]
        axes.plot(at, [p.auroc.value for p in points], marker=marker, ms=5.5, ls=dash, color=colour, lw=1.4, zorder=4)
        handles.append(Line2D([], [], color=colour, marker=marker, ls=dash, ms=5.5, label=name))
    for row in task.supervised.rows:
        if row.name in METHODS.values():
            continue
        zero_shot = row.name == ZERO_SHOT
        colour, dash = (MUTED, "-") if zero_shot else (ACCENT, (0, (5, 2)) if row.name == TREES else "-")
        if zero_shot and known(row.mean.low) and known(row.mean.high):
            axes.axhspan(row.mean.low, row.mean.high, color=MUTED, alpha=0.12, lw=0, zorder=0)
        axes.axhline(row.mean.value, color=colour, ls=dash, lw=1.6, zorder=1)
        label = f"{row.name}: {decimal(row.mean.value)}"
        handles.append(Line2D([], [], color=colour, ls=dash, lw=1.6, label=label))
    ticks = sorted({point.labels for point in task.supervised.points})
    axes.set_xticks(ticks, [integer(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(ticks) / 1.4, max(ticks) * 1.4)
    low = min(min(point.reached) for point in task.supervised.points)
    axes.set_ylim(bottom=float(np.clip(low - 0.02, 0.0, 1.0)))
    axes.set(xlabel="Labelled train stays", ylabel="AUROC")
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
