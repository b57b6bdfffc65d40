"""The figures of an outcome: AUROC against loss and compute, ROC curves, and calibration."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.outcomes.downstream import Outcome
from ehr_scaling.analysis.outcomes.scores import BASELINE, LEAST_LOSS, RECALIBRATED, SMALLEST_MODEL, Score, of_role
from ehr_scaling.analysis.report.figures.plots import (
    ACCENT,
    HERO,
    INK,
    MANY,
    MARKERS,
    MUTED,
    log_bar,
    log_ticks,
    shades,
)
from ehr_scaling.analysis.wording import count, decimal, known, percent, power

CHANCE = (0, (1, 2))
DASHES = ("-", (0, (5, 2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1.5)))  # of baselines
_OF_CALIBRATION = {LEAST_LOSS: (INK, "o"), RECALIBRATED: (MUTED, "D"), BASELINE: (ACCENT, "s")}
RARE = 0.1  # mean share with the outcome, under which calibration is drawn on logarithmic axes


def of_loss(task: Outcome) -> Figure:
    """AUROC of every model against its loss, better models to the right, with the law and its band; marked by size."""
    figure = Figure(figsize=HERO, layout="constrained")
    axes = figure.subplots()
    for N, (colour, marker) in _sizes(task).items():
        for r in task.rows:
            if r["N"] != N:
                continue
            low, high = (r[k] if known(r[k]) else r["auroc"] for k in ("low", "high"))
            axes.errorbar(
                r["loss"], r["auroc"], yerr=[[max(r["auroc"] - low, 0)], [max(high - r["auroc"], 0)]], fmt=marker,
                ms=5, color=colour, lw=1, elinewidth=0.8, alpha=0.85,
            )  # fmt: skip
    handles = []
    if task.curve:
        ink = INK if task.verdict.told else MUTED
        line = np.linspace(*task.curve.losses, 100)
        axes.fill_between(line, *task.curve.band(line), color=ink, alpha=0.13, lw=0, zorder=1)
        axes.plot(line, task.curve(line), color=ink, lw=1.6, zorder=2)
        handles.append(Line2D([], [], color=ink, lw=1.6, label=f"law and band ({task.verdict.word})"))
    axes.invert_xaxis()
    axes.set(xlabel="Validation loss (nats a token), lower to the right", ylabel="AUROC")
    _legend(figure, axes, task, handles)
    return figure


def of_compute(task: Outcome) -> Figure:
    """AUROC of every model against its compute, beside the baselines; marked by size."""
    figure = Figure(figsize=HERO, layout="constrained")
    axes = figure.subplots()
    C = np.array([r["C"] for r in task.rows])
    axes.set_xscale("log")
    middle, reach = np.sqrt(C.min() * C.max()), max(1.5 * np.sqrt(C.max() / C.min()), np.sqrt(10))
    axes.set_xlim(middle / reach, middle * reach)  # a decade at least, for the sake of ticks
    for N, (colour, marker) in _sizes(task).items():
        _by_compute(axes, [r for r in task.rows if r["N"] == N], colour, marker)
    axes.set(xlabel="Compute C (FLOPs)", ylabel="AUROC")
    log_ticks(axes.xaxis, power)
    _legend(figure, axes, task, [])
    return figure


def _sizes(task: Outcome) -> dict[float, tuple[Floats, str]]:
    """Colour and marker of each size, ascending."""
    sizes = sorted({r["N"] for r in task.rows})
    markers = ["o" if len(sizes) > MANY else MARKERS[k % len(MARKERS)] for k in range(len(sizes))]
    return dict(zip(sizes, zip(shades(sizes), markers, strict=True), strict=True))


def _legend(figure: Figure, axes: Axes, task: Outcome, handles: list[Line2D]) -> None:
    """Draws the baselines and says what all marks are."""
    handles = handles + _baselines(task, axes)
    sizes = _sizes(task)
    if len(sizes) > MANY:
        bar = log_bar(figure, axes, min(sizes), max(sizes), "Body parameters N")
        log_ticks(bar.ax.yaxis, lambda value: count(value, 2))
    else:
        handles += [
            Line2D([], [], ls="", marker=marker, color=tuple(colour), ms=5.5, label=f"N = {count(N)}")
            for N, (colour, marker) in sizes.items()
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _by_compute(axes: Axes, rows: list[dict[str, Any]], colour: Floats, marker: str) -> None:
    """The marks of one size, and a line through the means of its budgets, which lie closer than a factor of 1.2."""
    C, reached = (np.array([r[k] for r in rows]) for k in ("C", "auroc"))
    order = np.argsort(C, kind="stable")
    group = np.concatenate([[0], np.cumsum(np.diff(np.log(C[order])) > np.log(1.2))])
    size = np.bincount(group)
    means = np.exp(np.bincount(group, np.log(C[order])) / size), np.bincount(group, reached[order]) / size
    axes.plot(C, reached, marker, color=colour, ms=5, alpha=0.85, zorder=3)
    axes.plot(*means, color=colour, lw=1.1, alpha=0.7, zorder=2)


def _baselines(task: Outcome, axes: Axes) -> list[Line2D]:
    """Lines of the baselines, the first with its interval, and that of chance; one that ranks nothing is chance."""
    handles, chance = [], ["chance"]
    if task.baseline and known(task.baseline["low"]) and known(task.baseline["high"]):
        axes.axhspan(task.baseline["low"], task.baseline["high"], color=ACCENT, alpha=0.1, lw=0, zorder=0)
    for score, dash in dashed(task.compared):
        if "auroc" not in score.measures:
            continue
        reached = score.measures["auroc"].value
        if _constant(score):
            chance.append(score.name)
            continue
        axes.axhline(reached, color=ACCENT, lw=1.6, ls=dash, zorder=1)
        handles.append(Line2D([], [], color=ACCENT, lw=1.6, ls=dash, label=f"{score.name}: {decimal(reached)}"))
    axes.axhline(0.5, color=MUTED, lw=1.2, ls=CHANCE)
    return [*handles, Line2D([], [], color=MUTED, lw=1.2, ls=CHANCE, label=", ".join(chance))]


def dashed(scores: list[Score]) -> list[tuple[Score, Any]]:
    """Every baseline, with the dashes of its line in all figures."""
    return [(score, DASHES[k % len(DASHES)]) for k, score in enumerate(of_role(scores, BASELINE))]


def _constant(score: Score) -> bool:
    """Whether it says the same of all, so that its AUROC is one half for certain."""
    auroc = score.measures.get("auroc")
    return auroc is not None and auroc.low == auroc.high == 0.5


def has_accuracy(scores: list[Score]) -> bool:
    return bool(_with_roc(scores) or _with_bins(scores))


def _with_roc(scores: list[Score]) -> list[Score]:
    return [score for score in scores if score.roc is not None]


def _with_bins(scores: list[Score]) -> list[Score]:
    """The model of least loss, as it is and recalibrated, and the first baseline."""
    of_model = (*of_role(scores, LEAST_LOSS), *of_role(scores, RECALIBRATED))
    return [score for score in (*of_model, *of_role(scores, BASELINE)[:1]) if score.bins]


def accuracy(scores: list[Score]) -> Figure:
    """ROC curves, and calibration curves beside them; the panel of which nothing is known is left out."""
    drawn = [panel for panel, there in ((_roc, _with_roc(scores)), (_calibration, _with_bins(scores))) if there]
    figure = Figure(figsize=(4.5 * len(drawn), 5.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        panel(axes, scores)
        axes.set_aspect("equal")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8.5, borderaxespad=0)
    return figure


def _roc(axes: Axes, scores: list[Score]) -> None:
    styles: dict[str, Any] = {
        LEAST_LOSS: {"color": INK, "lw": 2, "zorder": 4},
        SMALLEST_MODEL: {"color": MUTED, "lw": 1.5, "zorder": 3},
    }
    dashes, chance = {score.name: dash for score, dash in dashed(scores)}, ["chance"]
    for score in _with_roc(scores):
        assert score.roc is not None
        if score.role == BASELINE and _constant(score):
            chance.append(score.name)
            continue
        style = styles.get(score.role) or {"color": ACCENT, "lw": 1.5, "ls": dashes[score.name], "zorder": 2}
        axes.plot(*score.roc, label=_told(score, "auroc"), **style)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1.2, ls=CHANCE, zorder=1, label=", ".join(chance))
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 − specificity", ylabel="Sensitivity")
    axes.set_title("ROC: AUROC [95 % interval]")


def _calibration(axes: Axes, scores: list[Score]) -> None:
    """Observed against predicted risk. Logarithmic where outcomes are rare; what lies below the axes is drawn on them.

    Both axes have the same reach, that of the bins and of the upper ends, so that the diagonal is one of the square.
    """
    shown = _with_bins(scores)
    bins = np.array([b for score in shown for b in score.bins])
    predicted, observed, low, high, n = bins.T
    top = min(1.0, 1.08 * max(predicted.max(), high.max()))
    bottom = 0.0
    if rare := bool(np.average(observed, weights=n) < RARE):
        positive = np.concatenate([x[x > 0] for x in (predicted, observed, low)])
        bottom = max(0.7 * positive.min(), top / 1e5)
        axes.set_xscale("log")
        axes.set_yscale("log")
    edge = bottom if rare else -0.02 * top
    axes.set(xlim=(edge, top), ylim=(edge, top))
    for score in shown:
        best = score.role == LEAST_LOSS
        colour, marker = _OF_CALIBRATION[score.role]
        x, y, below, above = (np.maximum([getattr(b, k) for b in score.bins], bottom)
                              for k in ("predicted", "observed", "low", "high"))  # fmt: skip
        axes.errorbar(
            x, y, yerr=[np.maximum(y - below, 0), np.maximum(above - y, 0)], fmt=f"-{marker}", color=colour, ms=5,
            lw=1.5 if best else 1.2, elinewidth=1, capsize=2, zorder=4 if best else 3,
            label=_told(score, "calibration_slope", "slope "), clip_on=False,
        )  # fmt: skip
    axes.plot([bottom, top], [bottom, top], color=MUTED, lw=1.2, ls=CHANCE, zorder=1, label="perfect")
    for axis in (axes.xaxis, axes.yaxis):
        if rare:
            log_ticks(axis, lambda value: percent(value, 0 if value >= 0.0095 else 1 if value >= 0.00095 else 2))
            axis.set_minor_formatter(NullFormatter())
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0 if top > 0.05 else 1)))
    axes.set(xlabel="Predicted risk", ylabel="Share with the outcome")
    axes.set_title("Calibration" + (", logarithmic" if rare else ""))


def _told(score: Score, measure: str, word: str = "") -> str:
    metric = score.measures.get(measure)
    if metric is None:
        return score.name
    bounds = f" [{decimal(metric.low)}, {decimal(metric.high)}]" if known(metric.low) and known(metric.high) else ""
    return f"{score.name}: {word}{decimal(metric.value)}{bounds}"
