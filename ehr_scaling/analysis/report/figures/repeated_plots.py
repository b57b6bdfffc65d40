"""The figure of repeated data: runs and the laws fitted to them, loss against passes."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.repeats.repeated_data import IGNORED, Repeated
from ehr_scaling.analysis.repeats.repeated_laws import LEAST_REPEATS
from ehr_scaling.analysis.report.figures.plots import MUTED, shades
from ehr_scaling.analysis.wording import count, significant

PANELS = 4
LINES = 6
NEAR = 0.05  # of the log of unique tokens, to be one line: whole steps make passes of a cell differ by a little
DASHES = {"effective": (0, (4, 2)), "penalty": "-", IGNORED: (0, (1, 1.5))}


def passes(repeated: Repeated) -> Figure:
    """Loss against passes, a panel for each size with most repeats, a colour for each number of unique tokens."""
    table = repeated.table
    pool = _pools(repeated.unique)
    repeating = table.passes > 1 + LEAST_REPEATS
    sizes = _most(table.N[repeating], PANELS)
    here = repeating & np.isin(table.N, sizes)
    pools = _most(pool[here], LINES)
    colours = dict(zip(pools, shades(pools), strict=True))
    shown = ([] if repeated.selected == IGNORED else [repeated.selected]) + [IGNORED]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    row = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, N in zip(row, sizes, strict=True):
        for U, colour in colours.items():
            rows = (table.N == N) & (pool == U)
            if (rows & repeating).any():
                _line(axes, repeated, N, rows, shown, colour)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, numticks=5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 2)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(f"N = {count(N)}")
    figure.supxlabel("Passes over the unique tokens", fontsize=mpl.rcParams["axes.labelsize"])
    row[0].set_ylabel("Validation loss (nats a token)")
    handles = [
        Line2D([], [], color=colours[U], lw=2.2, marker="o", ms=5, label=f"U = {count(U / repeated.positions)}")
        for U in pools[::-1]
    ]
    names = {IGNORED: "repeats counted as new"}
    handles += [
        Line2D([], [], color=MUTED, lw=1.8, ls=DASHES[name], label=names.get(name, f"{name} law")) for name in shown
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _line(axes: Axes, repeated: Repeated, N: float, rows: NDArray[np.bool_], shown: list[str], colour: Floats) -> None:
    seen = repeated.table.passes[rows]
    unique = float(np.exp(np.log(repeated.unique[rows]).mean()))
    axes.plot(seen, repeated.table.loss[rows], "o", color=colour, ms=4.5, alpha=0.85, zorder=3)
    line = np.geomspace(min(1.0, seen.min()), seen.max(), 100)
    for name in shown:
        losses = repeated.laws[name](N, line * unique, unique)
        axes.plot(line, losses, color=colour, lw=1.8 if name == repeated.selected else 1.1, ls=DASHES[name], zorder=2)


def _pools(unique: Floats) -> Floats:
    """[n] a number of unique tokens for each run, the same for those that are near each other."""
    order = np.argsort(unique)
    group = np.concatenate([[0], np.cumsum(np.diff(np.log(unique[order])) > NEAR)])
    typical = np.exp(np.bincount(group, weights=np.log(unique[order])) / np.bincount(group))
    out = np.empty(len(unique))
    out[order] = typical[group]
    return out


def _most(values: Floats, at_most: int) -> list[float]:
    """The values that occur most often, ascending."""
    distinct, times = np.unique(values, return_counts=True)
    return sorted(float(v) for v in distinct[np.argsort(-times, kind="stable")[:at_most]])
