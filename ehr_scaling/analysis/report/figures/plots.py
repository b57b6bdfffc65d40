"""The figures: matplotlib without a display, one style, colours that survive colour blindness, grey print and the dark.

Whatever grows (compute, size, tokens) is drawn from pale to dark, so that any eye tells its order by lightness alone.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.isoflop import isoflop, parabola
from ehr_scaling.analysis.isoflop.power_laws import PowerLaw
from ehr_scaling.analysis.report.results import Results, residuals
from ehr_scaling.analysis.wording import count, known, percent, power

INK, MUTED, RULE, ACCENT = "#1d2733", "#66727f", "#d9dee4", "#c2410c"
MARKERS = "osD^vPX<>"
PUBLISHED = {"N": 0.58, "D": 0.44}
PUBLISHED_SOURCE = "arXiv 2505.22964"
CURVES = {isoflop.PARABOLA: "parabola", isoflop.AKIMA: "Akima's interpolation"}
MANY = 9  # more budgets than this are told apart by a colour bar, not by a legend

HERO = (5.0, 4.0)  # inches: of figures that are read on a phone as they are

# The palest yellow of viridis is left out, it vanishes on white, as its darkest blue does in the dark.
SHADES = mpl.colors.ListedColormap(mpl.colormaps["viridis"](np.linspace(0.8, 0.0, 256)), "shades")
_IN_THE_DARK = mpl.colormaps["viridis"](np.linspace(0.36, 1.0, 256))
# What a browser may change of a figure that stands in a page: colours by the names of its style sheet.
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", "#ffffff": "--page"}
_VARIABLES |= {mpl.colors.to_hex(SHADES(k)): f"--shade-{k}" for k in reversed(range(256))}

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titley": 1.0,  # where it comes to stand anyway: else every drawing looks for ticks above the axes
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": INK,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "ehr_scaling",
}


def render(draw: Callable[..., Figure], folder: Path, name: str, *args: Any) -> str:
    """Draws a figure, writes `<folder>/<name>.png` and `.svg`, and returns it as SVG that can stand inside HTML.

    There its colours are those of the page's style sheet and of `palette`.
    """
    with mpl.rc_context(STYLE):
        figure = draw(*args)
        FigureCanvasAgg(figure)
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)  # laid out once for both files: else each is drawn twice and laid out anew
        figure.savefig(folder / f"{name}.png", dpi=160)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # the XML prologue names a DTD on the network
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    # Marks and clips are referenced by id, which must differ between figures of one page.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var({_VARIABLES[m[0]]})" if m[0] in _VARIABLES else m[0], svg)
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" class="plot" aria-hidden="true">', svg, count=1
    )


def palette(svgs: Iterable[str]) -> str:
    """CSS of the shades that these figures have, for a bright page and for a dark one."""
    used = sorted({int(k) for svg in svgs for k in re.findall(r"var\(--shade-(\d+)\)", svg)})
    bright, dark = (
        " ".join(f"--shade-{k}: {mpl.colors.to_hex(colours[k])};" for k in used)
        for colours in (SHADES(np.arange(256)), _IN_THE_DARK)
    )
    return f":root {{ {bright} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def shades(values: Sequence[float] | Floats) -> Floats:
    """[n, 4] colours of values in ascending order: the first pale, the last dark; evenly apart where they are few."""
    n = len(values)
    if n <= MANY:
        return SHADES(np.linspace(0, 1, n) if n > 1 else np.ones(n))
    logs = np.log(np.asarray(values, np.float64))
    return SHADES((logs - logs[0]) / (np.ptp(logs) or 1.0))


def budget_colours(results: Results) -> Floats:
    """[budgets, 4] by C, ascending."""
    return shades([b.C for b in results.budgets])


def fan(results: Results) -> Figure:
    """Loss against size at each budget: a point a run, the fitted curve, its minimum where one is bracketed."""
    figure = Figure(figsize=HERO, layout="constrained")
    axes = figure.subplots()
    table, colours = results.table, budget_colours(results)
    seeds = _seeds(table.seed)
    top = _top(results)
    for budget, colour in zip(results.budgets, colours, strict=True):
        good = budget.verdict == parabola.BRACKETED
        above = table.loss[budget.rows] > top
        if above.any():
            N = table.N[budget.rows][above]
            axes.plot(N, np.full(len(N), top), ls="", marker=r"$\uparrow$", ms=7, color=colour, clip_on=False, zorder=3)
        for seed in sorted(set(seeds[budget.rows])):
            for inside in (False, True):
                rows = budget.rows[~above & (budget.window == inside) & (seeds[budget.rows] == seed)]
                axes.plot(
                    table.N[rows], table.loss[rows], MARKERS[seed % len(MARKERS)], ms=5.5, mec=colour, mew=1.2,
                    mfc=colour if inside else "white", alpha=0.85, zorder=3,
                )  # fmt: skip
        if known(budget.centre):
            N = table.N[budget.rows][budget.window]
            line = np.geomspace(N.min(), N.max(), 200)
            axes.plot(line, budget.curve(line), color=colour, lw=1.8, ls="-" if good else (0, (4, 3)), zorder=2)
        if good:
            low, high = budget.N_interval
            axes.plot([low, high], [budget.L] * 2, color=ACCENT, lw=2.2, solid_capstyle="butt", zorder=4)
            axes.plot(budget.N, budget.L, "*", color=ACCENT, ms=13, mec="white", mew=0.9, zorder=5)
    axes.set_xscale("log")
    _counts(axes.xaxis)
    axes.set(xlabel="Body parameters N", ylabel="Validation loss (nats a token)")
    dashed: Any = (0, (2.2, 1.4))
    if len(results.budgets) <= MANY:
        handles = [
            Line2D([], [], color=c, lw=2.5, ls="-" if b.verdict == parabola.BRACKETED else dashed,
                   label=f"{power(b.C)} FLOPs")
            for b, c in zip(results.budgets[::-1], colours[::-1], strict=True)
        ]  # fmt: skip
    else:
        handles = [Line2D([], [], color=MUTED, lw=2, label=f"{CURVES[results.options.isoflop]}, bracketed")]
        budget_bar(figure, axes, results)
    if any(b.verdict != parabola.BRACKETED for b in results.budgets):
        handles.append(Line2D([], [], color=MUTED, lw=2, ls=dashed, label="dashed: not bracketed"))
    star = Line2D([], [], color=ACCENT, marker="*", ms=11, mec="white", lw=2.2, label="best size, interval")
    handles += [star] if any(b.verdict == parabola.BRACKETED for b in results.budgets) else []
    handles += _seed_handles(table.seed)
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _top(results: Results) -> float:
    """Loss above which single runs would press all curves flat; they are drawn as arrows at it."""
    rows = np.concatenate([b.rows[b.window] for b in results.budgets] or [np.zeros(0, np.int64)])
    losses = results.table.loss
    near = losses[rows] if len(rows) else losses
    top = near.max() + 0.25 * np.ptp(near)
    return float(top) if losses.max() > near.max() + 0.5 * np.ptp(near) else np.inf


def best_sizes(results: Results) -> Figure:
    """N_opt against compute, with its band."""
    figure = Figure(figsize=HERO, layout="constrained")
    _optima(figure.subplots(), results, "N", "Optimal parameters N*")
    return figure


def scaling(results: Results) -> Figure:
    """N_opt and D_opt against compute, with bands; for studies of records the published exponents as slopes beside."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _optima(left, results, "N", "Optimal parameters N*")
    _optima(right, results, "D", "Optimal tokens D*")
    return figure


def _optima(axes: Axes, results: Results, name: str, what: str) -> None:
    law = results.lines[name]
    _points(axes, results, name)
    _band(axes, law, results)
    if len(law.C):
        axes.set_yscale("log")
    else:
        axes.set_yticks([])
    if np.isfinite(law.exponent):
        if results.table.of_patients:
            C = _reach(results)
            anchor = float(np.exp(law.log_k) + law.floor)
            axes.plot(C, anchor * (C / law.C0) ** PUBLISHED[name], color=MUTED, lw=1.3, ls=":", zorder=1,
                      label=f"slope {PUBLISHED[name]} ({PUBLISHED_SOURCE})")  # fmt: skip
        axes.legend(loc="upper left")
    if len(law.C):
        _counts(axes.yaxis)
    axes.set(ylabel=what)
    axes.set_title("exponent unidentified" if not np.isfinite(law.exponent) else _exponent(name, law))


def loss_of_compute(results: Results) -> Figure:
    """Loss at the optimum against compute, over all runs."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = budget_colours(results)
    table, law = results.table, results.lines["L"]
    _compute_axis(axes, results)
    axes.scatter(
        table.C, table.loss, s=16, color=colours[table.group], alpha=0.45, linewidths=0, zorder=2, label="runs"
    )
    _points(axes, results, "L")
    _band(axes, law, results)
    axes.set(ylabel="Validation loss (nats a token)")
    if np.isfinite(law.exponent):
        floor = f", floor {law.floor:.3g}" if law.floor > 0 else ", no floor told from zero"
        axes.set_title(_exponent("L", law) + floor)
        axes.legend(loc="upper right")
    return figure


def joint_fit(results: Results) -> Figure:
    """What the joint law leaves unexplained, run by run."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    law, table = results.joint, results.table
    assert law is not None
    colours, seeds = budget_colours(results), _seeds(table.seed)
    axes.axhline(0, color=MUTED, lw=1)
    error = 100 * np.expm1(residuals(results))
    for group, seed in sorted(set(zip(table.group.tolist(), seeds.tolist(), strict=True))):
        rows = (table.group == group) & (seeds == seed)
        axes.plot(table.N[rows], error[rows], MARKERS[seed % len(MARKERS)], color=colours[group], ms=5.5, alpha=0.85)
    axes.set_xscale("log")
    _counts(axes.xaxis)
    axes.set(xlabel="Body parameters N", ylabel="Joint law minus run (%)")
    if len(results.budgets) <= MANY:
        dots = [
            Line2D([], [], ls="", marker="o", color=c, label=f"{power(b.C)} FLOPs")
            for b, c in zip(results.budgets[::-1], colours[::-1], strict=True)
        ]
        figure.legend(handles=dots, loc="outside right upper")
    else:
        budget_bar(figure, axes, results)
    return figure


def sealed(results: Results) -> Figure:
    """The forecast of the sealed runs, made without them, against what they reached."""
    assert results.holdout is not None
    rows = [r for r in results.holdout["rows"] if known(r["low"])]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    forecast, loss = (np.array([r[k] for r in rows]) for k in ("forecast", "loss"))
    reach = np.abs(np.array([[r["low"], r["high"]] for r in rows]).T - forecast)
    N = np.array([r["N"] for r in rows])
    if len(results.holdout["optima"]) > 1:  # several budgets: forecast against result
        axes.errorbar(loss, forecast, yerr=reach, fmt="o", color=ACCENT, ms=5, lw=1.2, capsize=2, label="sealed runs")
        ends = [min(loss.min(), forecast.min()), max(loss.max(), forecast.max())]
        axes.plot(ends, ends, color=MUTED, lw=1.2, ls=":", label="forecast = result")
        axes.set(xlabel="Loss reached", ylabel="Loss forecast (nats a token)")
    else:
        order = np.argsort(N, kind="stable")
        _, first = np.unique(N[order], return_index=True)
        one = order[first]  # seeds of a size share their forecast
        low, high = forecast[one] - reach[0][one], forecast[one] + reach[1][one]
        axes.fill_between(N[one], low, high, color=ACCENT, alpha=0.13, lw=0)
        axes.errorbar(N[one], forecast[one], yerr=reach[:, one], fmt="-s", color=ACCENT, ms=5, lw=1.4, capsize=3,
                      label="forecast from the smaller budgets, with interval")  # fmt: skip
        axes.plot(N, loss, "o", color=INK, ms=6, mfc="white", mew=1.5, label="result of each run", zorder=4)
        axes.set_xscale("log")
        _counts(axes.xaxis)
        axes.set(xlabel="Body parameters N", ylabel="Validation loss (nats a token)")
        axes.set_title(f"Sealed budget: {power(results.holdout['optima'][0]['C'])} FLOPs")
    axes.legend(loc="best")
    return figure


def _exponent(name: str, law: PowerLaw) -> str:
    left = f"{name}^*" + (" - E" if name == "L" and law.floor else "")
    low, high = law.interval
    bounds = f"  [{low:.2f}, {high:.2f}]".replace("-", "−") if np.isfinite(low) else ""
    return rf"$\mathbf{{{left} \propto C^{{{law.exponent:.2f}}}}}${bounds}, {law.verdict.word}"


def _points(axes: Axes, results: Results, name: str) -> None:
    """The optima of the bracketed budgets with intervals; crosses on the axis for those that are in no law."""
    _compute_axis(axes, results)
    for budget, colour in zip(results.budgets, budget_colours(results), strict=True):
        if budget.verdict == parabola.BRACKETED:
            value = getattr(budget, name)
            low, high = getattr(budget, f"{name}_interval")
            bar = [[max(value - low, 0)], [max(high - value, 0)]] if np.isfinite(low) else None
            axes.errorbar(
                budget.C, value, yerr=bar, fmt="o", color=colour, mec="white", ms=8, lw=1.8, capsize=3, zorder=4
            )
        elif name != "L" and len(results.budgets) <= MANY:
            axes.annotate(budget.verdict.replace("vertex outside the grid", "outside"), (budget.C, 0.03),
                          xycoords=axes.get_xaxis_transform(), xytext=(0, 5), textcoords="offset points",
                          ha="center", fontsize=7.5, color=MUTED)  # fmt: skip
    outside = [b.C for b in results.budgets if b.verdict != parabola.BRACKETED]
    if outside and name != "L":
        low = np.full(len(outside), 0.03)
        axes.plot(outside, low, "x", color=MUTED, ms=6, transform=axes.get_xaxis_transform(), zorder=3)


def _reach(results: Results) -> Floats:
    C = np.array([b.C for b in results.budgets])
    return np.geomspace(C.min() / 1.6, C.max() * 1.6, 120)


def _compute_axis(axes: Axes, results: Results) -> None:
    """Limits before any point, because matplotlib warns about an axis with a single budget on it."""
    C = _reach(results)
    axes.set_xscale("log")
    axes.set(xlim=(C[0], C[-1]), xlabel="Compute C (FLOPs)")
    log_ticks(axes.xaxis, power)


def _band(axes: Axes, law: PowerLaw, results: Results) -> None:
    """The law: solid over its budgets, dashed beyond them, its band throughout; grey when it is unidentified."""
    if not np.isfinite(law.exponent):
        axes.text(0.5, 0.5, f"no law: {len(law.C)} bracketed", transform=axes.transAxes, ha="center", color=MUTED)
        return
    C = _reach(results)
    colour = INK if law.verdict.told else MUTED
    low, high = law.band(C, results.options.level)
    axes.fill_between(
        C, low, high, color=colour, alpha=0.13, lw=0, zorder=1, label=f"{percent(results.options.level)} band"
    )
    axes.plot(C, law(C), color=colour, lw=1.3, ls=(0, (4, 3)), zorder=2)
    inside = np.geomspace(law.C[0], law.C[-1], 60)
    axes.plot(inside, law(inside), color=colour, lw=2, zorder=2, label=f"law ({law.verdict.word})")


def _counts(axis: Any) -> None:
    """Tick labels as 10 k, 1 M."""
    log_ticks(axis, lambda value: count(value, 2))


def log_ticks(axis: Any, text: Callable[[float], str]) -> None:
    """Labels at powers of ten, with 2 and 5 between them where the axis is short."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if low > 0 else 3
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if decades < 2.2 else (1, 3) if decades < 3.5 else (1,)))
    axis.set_minor_formatter(NullFormatter())


def _seeds(seed: Floats) -> NDArray[np.int64]:
    """[n] ordinal of each run's seed; 0 for unknown."""
    values = np.unique(seed[np.isfinite(seed)])
    return np.where(np.isfinite(seed), np.searchsorted(values, seed), 0)


def _seed_handles(seed: Floats) -> list[Line2D]:
    values = sorted({float(s) for s in seed if np.isfinite(s)})
    return [
        Line2D([], [], ls="", marker=MARKERS[i % len(MARKERS)], color=MUTED, ms=5.5, label=f"seed {value:g}")
        for i, value in enumerate(values[: len(MARKERS)])
    ]


def budget_bar(figure: Figure, axes: Axes, results: Results) -> None:
    C = [b.C for b in results.budgets]
    log_bar(figure, axes, min(C), max(C), "Compute C (FLOPs)")


def log_bar(figure: Figure, axes: Axes, low: float, high: float, label: str) -> Any:
    """A bar beside `axes` of the shades from low to high. Returns it."""
    norm = mpl.colors.LogNorm(low, high)
    bar: Any = figure.colorbar(mpl.cm.ScalarMappable(norm, SHADES), ax=axes, pad=0.01)
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.solids.set(rasterized=False, edgecolor="face")  # as lines and areas, not as an image inside the SVG
    return bar
