"""The figure of the learning curves."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.report.figures.plots import INK, MANY, budget_bar, budget_colours, log_ticks
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.wording import count, power, significant

MOST_RUNS = 300  # drawn, those of least loss: more would be a blot, and many megabytes
BINS = 80  # of log tokens, in each of which a curve is averaged


def learning(results: Results, curves: Mapping[str, Floats]) -> Figure:
    """Training loss against tokens seen, a line a run in the shade of its budget; dots: validation loss at the end."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    table, colours = results.table, budget_colours(results)
    drawn = [i for i in np.argsort(table.loss, kind="stable") if str(table.run[i]) in curves][:MOST_RUNS]
    for i in drawn:
        colour = colours[table.group[i]]
        axes.plot(*_averaged(curves[str(table.run[i])]).T, color=colour, lw=1, alpha=0.8, zorder=2)
        axes.plot(table.D[i], table.loss[i], "o", color=colour, ms=4.5, mec="white", mew=0.6, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    log_ticks(axes.xaxis, lambda value: count(value, 2))
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 2)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="Tokens seen", ylabel="Loss (nats a token)")
    handles = [Line2D([], [], ls="", marker="o", color=INK, ms=4.5, label="validation loss at the end")]
    if len(results.budgets) <= MANY:
        handles += [
            Line2D([], [], color=colour, lw=2.5, label=f"{power(budget.C)} FLOPs")
            for budget, colour in zip(results.budgets[::-1], colours[::-1], strict=True)
        ]
    else:
        budget_bar(figure, axes, results)
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _averaged(curve: Floats) -> Floats:
    """[<= BINS, 2] means of tokens and loss over equal steps of log tokens."""
    at = np.log(curve[:, 0])
    bins = np.floor((at - at[0]) / (np.ptp(at) or 1.0) * (BINS - 1)).astype(int)
    size = np.bincount(bins)
    means = np.stack([np.bincount(bins, column) for column in curve.T], 1)[size > 0]
    return means / size[size > 0, None]
