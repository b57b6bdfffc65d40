"""The figure of a ladder of recipes: the compute that each change needs for the loss of what it changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ehr_scaling.analysis.report.figures.plots import ACCENT, INK, MARKERS, MUTED
from ehr_scaling.analysis.wording import known, significant

_ROW = 0.42  # inches


def ladder(ladders: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Args: rungs as `compare.ladder.to_json` has them, by the name of the patients; rungs of one name share a row."""
    names = list(dict.fromkeys(r["name"] for rungs in ladders.values() for r in rungs if r["units"]))
    figure = Figure(figsize=(6.4, 1.1 + _ROW * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for k, (label, rungs) in enumerate(ladders.items()):
        colour, offset = (INK, MUTED)[k % 2], 0.14 * (k - (len(ladders) - 1) / 2)
        for rung in rungs:
            multiplier = rung["units"].get("event", {}).get("multiplier")
            if not multiplier or not known(multiplier["value"]):
                continue
            y, (low, high) = names.index(rung["name"]) + offset, multiplier["interval"]
            if known(low) and known(high):
                axes.plot([low, high], [y, y], color=colour, lw=1.6, solid_capstyle="butt", zorder=2)
            axes.plot(multiplier["value"], y, MARKERS[k], color=colour, ms=6, zorder=3)
        axes.plot([], [], MARKERS[k], color=colour, ms=6, label=label)
    axes.axvline(1.0, color=ACCENT, lw=1, zorder=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"× {significant(x, 2)}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("compute for the loss of the rung that it changes")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(ladders))
    return figure
