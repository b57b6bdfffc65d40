"""Figures of what a study varied beside size and compute: learning rate, and passes over the same patients."""

from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.isoflop import parabola, rates
from ehr_scaling.analysis.report.figures.plots import ACCENT, shades
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.tables.selection import grouped
from ehr_scaling.analysis.wording import count, significant

PANELS = 4
LINES = 8


def share(fraction: float) -> str:
    """0.125 -> '1/8', where it is near a fraction of small numbers."""
    near = Fraction(fraction).limit_denominator(64)
    return str(near) if abs(float(near) / fraction - 1) < 1e-6 else significant(fraction)


def _spread(number: int, at_most: int) -> list[int]:
    """Indices of at most so many of `number` things, first and last among them."""
    return sorted({int(i) for i in np.linspace(0, number - 1, min(number, at_most)).round()})


def learning_rates(results: Results) -> Figure:
    """Loss against learning rate for each size, a panel for each kind of run, with the optima that are bracketed."""
    sweep = results.rates
    assert sweep is not None
    panels = {kind: [sweep.curves[i] for i in group] for kind, group in grouped([c.kind for c in sweep.curves]).items()}
    shown = list(panels.items())[:PANELS]
    sizes = sorted({curve.N for _, curves in shown for curve in curves})
    sizes = [sizes[i] for i in _spread(len(sizes), LINES)]
    colours = dict(zip(sizes, shades(sizes), strict=True))
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    row = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (kind, curves) in zip(row, shown, strict=True):
        drawn = [c for c in rates.longest(curves) if c.N in colours]
        for curve in drawn:
            _rate_curve(axes, curve, colours[curve.N])
        axes.set_xscale("log", base=2)
        _ticks(axes, np.concatenate([c.x for c in drawn]))
        axes.set_xlabel("Peak rate, multiple of the rule's" if sweep.unit == "multiple" else "Peak learning rate")
        axes.set_title(kind)
    row[0].set_ylabel("Validation loss (nats a token)")
    _cut(row, [c for _, curves in shown for c in rates.longest(curves) if c.N in colours], colours)
    handles = [Line2D([], [], color=colours[N], lw=2.2, marker="o", ms=5, label=f"N = {count(N)}") for N in sizes[::-1]]
    if any(c.fit.verdict == parabola.BRACKETED for c in sweep.curves):
        handles.append(Line2D([], [], color=ACCENT, marker="*", ms=11, mec="white", lw=2.2, label="optimum, interval"))
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _rate_curve(axes: Axes, curve: rates.RateCurve, colour: Floats) -> None:
    x, at = np.unique(curve.x, return_inverse=True)
    axes.plot(x, np.bincount(at, weights=curve.loss) / np.bincount(at), color=colour, lw=1.1, alpha=0.6, zorder=2)
    axes.plot(curve.x, curve.loss, "o", color=colour, ms=4.5, alpha=0.85, zorder=3)
    if curve.fit.verdict == parabola.BRACKETED:
        line = np.geomspace(curve.x[curve.fit.window].min(), curve.x[curve.fit.window].max(), 100)
        axes.plot(line, curve.fit.curve(line), color=colour, lw=2, ls=(0, (2.2, 1.4)), zorder=2)
        lowest = curve.fit.lowest
        axes.plot(curve.fit.optimum_interval, [lowest] * 2, color=ACCENT, lw=2.2, solid_capstyle="butt", zorder=4)
        axes.plot(curve.fit.optimum, lowest, "*", color=ACCENT, ms=13, mec="white", mew=0.9, zorder=5)


def _ticks(axes: Axes, x: Floats) -> None:
    """Ticks of a log axis at what was run, every other one or so where that is much; near ones count as one."""
    ticks = [x.min()]
    for value in np.unique(x):
        if value > 1.15 * ticks[-1]:
            ticks.append(value)
    axes.xaxis.set_major_locator(FixedLocator([ticks[i] for i in _spread(len(ticks), 9)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 2)))


def _cut(row: list[Axes], curves: list[rates.RateCurve], colours: dict[float, Floats]) -> None:
    """The axis ends where the sizes differ: runs whose rate was far too large are drawn as arrows at its top."""
    best = [c.x[c.loss.argmin()] for c in curves]
    near = [np.abs(np.log(c.x / x)) <= np.log(rates.REACH) + 1e-9 for c, x in zip(curves, best, strict=True)]
    bottom = min(c.loss.min() for c in curves)
    top = max(c.loss[inside].max() for c, inside in zip(curves, near, strict=True))
    pad = 0.06 * (top - bottom) or 0.01
    if max(c.loss.max() for c in curves) <= top + 4 * pad:
        return
    for axes, kind in zip(row, dict.fromkeys(c.kind for c in curves), strict=True):
        for c in curves:
            over = c.loss > top + pad
            if c.kind == kind and over.any():
                height = np.full(over.sum(), top + pad)
                axes.plot(c.x[over], height, "^", color=colours[c.N], ms=6, clip_on=False, zorder=5)
    row[0].set_ylim(bottom - pad, top + pad)


def passes(results: Results) -> Figure:
    """Loss against passes over the patients, a panel for each size, a line for each fraction of the patients."""
    data = "patients" if results.table.of_patients else "data"
    sizes = sorted({row["N"] for row in results.repeats})
    sizes = [sizes[i] for i in _spread(len(sizes), PANELS)]
    fractions = sorted({row["fraction"] for row in results.repeats})
    colours = dict(zip(fractions, shades(fractions), strict=True))
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    row = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, N in zip(row, sizes, strict=True):
        for line in (r for r in results.repeats if r["N"] == N):
            colour, points = colours[line["fraction"]], line["points"]
            axes.plot([p["passes"] for p in points], [p["loss"] for p in points], color=colour, lw=1.8, zorder=2)
            for p in points:
                axes.plot([p["passes"]] * len(p["runs"]), p["runs"], "o", color=colour, ms=4.5, alpha=0.85, zorder=3)
        axes.set_xscale("log")
        _ticks(axes, np.array([p["passes"] for r in results.repeats if r["N"] == N for p in r["points"]]))
        axes.set_xlabel(f"Passes over the {data}")
        axes.set_title(f"N = {count(N)}")
    row[0].set_ylabel("Validation loss (nats a token)")
    unique = {r["fraction"]: r["unique_tokens"] for r in results.repeats}
    handles = [
        Line2D([], [], color=colours[f], lw=2.2, marker="o", ms=5,
               label=f"{f'all {data}' if f == 1 else share(f) + ' of them'}: U = {count(unique[f])}")
        for f in fractions[::-1]
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right upper")
    return figure
