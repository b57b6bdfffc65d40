"""What the report says of what models remember of their patients, where they were audited; and its figure."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ehr_scaling.analysis.outcomes import memory
from ehr_scaling.analysis.outcomes.audits import FOUND, GIVEN_BACK, LOSS, RARE, RATIO, UNSHARED, Audit
from ehr_scaling.analysis.outcomes.memory import Law
from ehr_scaling.analysis.outcomes.scores import Measure
from ehr_scaling.analysis.report.figures.plots import MARKERS, MUTED, shades
from ehr_scaling.analysis.report.html import Noted, Raw, Table, render
from ehr_scaling.analysis.wording import DASH, count, decimal, known, percent, signed, significant, span

TITLES = {
    RATIO: "Membership AUROC, by the loss less that of a reference",
    LOSS: "Membership AUROC, by the loss alone",
    UNSHARED: "Excess share of unshared continuations given back",
}
LETTERS = {"N": "size N", "times": "times read", "patients": "patients"}
MANY = 12  # numbers of patients with a marker of their own


def section(audits: list[Audit], laws: dict[str, Law], svg: str | None) -> Raw:
    """svg: of `figure`. Empty where no model was audited."""
    if not audits:
        return Raw("")
    told = [a for a in audits if np.isfinite(a.patients)]
    most = max(told, key=lambda a: (a.patients, a.N)) if told else None
    examples = []
    if most is not None:
        passes = sorted({1.0, *(p for p in (4.0, 16.0) if p <= max(a.passes for a in told))})
        examples = [s for p in passes if (s := memory.sentence(laws, most.N, p, most.patients))]
    return render(
        "memory.html",
        laws=[{"law": law, "title": TITLES[name], "exponents": _exponents(law)} for name, law in laws.items()],
        examples=examples,
        table=_models(audits),
        unfair=any(RATIO in a.measures and not a.fair for a in audits),
        started=any(a.started for a in audits),
        svg=Raw(svg or ""),
    )


def _exponents(law: Law) -> str:
    return "; ".join(
        f"{LETTERS[name]}: {signed(value, 2)} ({span(ends, lambda x: signed(x, 2))})"
        for name, (value, ends) in law.exponents.items()
    )


def _models(audits: list[Audit]) -> Table:
    """Those that remember most first."""

    def strength(a: Audit) -> float:
        return max((a.measures[m].value for m in (RATIO, LOSS) if m in a.measures), default=0.0)

    rows = [
        [(a.size or count(a.N)) + "†" * a.started, significant(a.passes), significant(a.times), count(a.patients),
         *(_measure(a.measures.get(m), decimal) for m in (LOSS, RATIO)), _measure(a.measures.get(FOUND), _share),
         *(_measure(a.measures.get(m), _share) for m in (GIVEN_BACK, UNSHARED)),
         _measure(a.measures.get(RARE), decimal)]
        for a in sorted(audits, key=lambda a: (-strength(a), a.cell))
    ]  # fmt: skip
    header = [
        "Model", "Passes", "Times read", "Patients", "AUROC, loss", "AUROC, ratio", "Found at 1 %",
        "8 tokens given back, excess", "of unshared ones", "Rare tokens, log-ratio",
    ]  # fmt: skip
    return Table(header, rows, words=(0,))


def _share(value: float | None) -> str:
    return percent(value, 1)


def _measure(m: Measure | None, text: Any) -> Noted | str:
    if m is None:
        return DASH
    if not known(m.value):
        return f"at most {text(m.high)}"
    return Noted(text(m.value), span((m.low, m.high), text))


def figure(audits: list[Audit], laws: dict[str, Law]) -> Figure:
    """Membership AUROC against how often a patient was read: a panel for each attack, a colour for each size, a marker
    for each number of patients; lines are the law at the sizes and patients that several models have."""
    panels = [m for m in (RATIO, LOSS) if any(m in a.measures for a in audits)]
    drawn = Figure(figsize=(4.6 * len(panels), 4.4), layout="constrained")
    sizes = sorted({a.N for a in audits})
    patients = sorted({a.patients for a in audits if np.isfinite(a.patients)}, reverse=True)[:MANY]
    colours = dict(zip(sizes, shades(sizes), strict=True))
    markers = {p: MARKERS[k % len(MARKERS)] for k, p in enumerate(patients)}
    for axes, measure in zip(drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for a in audits:
            if m := a.measures.get(measure):
                axes.errorbar(
                    a.times, m.value, yerr=[[max(m.value - m.low, 0)], [max(m.high - m.value, 0)]],
                    fmt=markers.get(a.patients, "o"), color=colours[a.N], ms=5, elinewidth=0.8, alpha=0.85,
                )  # fmt: skip
        if law := laws.get(measure):
            _lines(axes, law, [a for a in audits if measure in a.measures], colours)
        axes.axhline(0.5, color=MUTED, lw=1.2, ls=(0, (1, 2)))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 2)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="Times that a patient was read", title=TITLES[measure].replace(", ", ",\n"))
    drawn.axes[0].set_ylabel("AUROC")
    handles = [Line2D([], [], color=colours[N], lw=2.2, label=f"N = {count(N)}") for N in sizes]
    handles += [
        Line2D([], [], ls="", marker=markers[p], color=MUTED, ms=5, label=f"{count(p)} patients") for p in patients
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=4)
    return drawn


def _lines(axes: Axes, law: Law, audits: list[Audit], colours: dict[float, Any]) -> None:
    for N, patients in sorted({(a.N, a.patients) for a in audits if np.isfinite(a.patients)}):
        times = [a.times for a in audits if (a.N, a.patients) == (N, patients)]
        if max(times) > memory.VARIES * min(times):
            line = np.geomspace(min(times), max(times), 40)
            axes.plot(line, [law(N, t, patients)[0] for t in line], color=colours[N], lw=1.1, alpha=0.7, zorder=1)
