"""What the report says of settings a study varied beside size and compute; shown only where it did."""

from typing import Any

from ehr_scaling.analysis import words
from ehr_scaling.analysis.isoflop import rates
from ehr_scaling.analysis.isoflop.parabola import rule
from ehr_scaling.analysis.repeats import repeats
from ehr_scaling.analysis.report.figures.sweep_plots import share
from ehr_scaling.analysis.report.html import Chip, Noted, Raw, Table, render
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.tables import selection
from ehr_scaling.analysis.wording import DASH, count, decimal, percent, signed, significant, span


def learning_rates(r: Results, svg: str | None) -> Raw:
    """The optimum of the rate for each size, how far it moves, and which setting stands for each cell."""
    if not r.tuning and r.rates is None:
        return Raw("")
    sweep = r.rates
    unit = "multiple of the rule's rate" if sweep and sweep.unit == "multiple" else "learning rate"
    return render(
        "rates.html",
        sweep=sweep,
        unit=unit,
        curves=sweep and _curves(r, sweep, unit),
        rule=rule("learning rate", rates.REACH),
        near=words.NEAR,
        choices=_choices(r),
        edges=sum(bool(cell["edge"]) for cell in r.tuning),
        how=selection.RULE,
        svg=Raw(svg or ""),
    )


def _curves(r: Results, sweep: rates.Rates, unit: str) -> Table:
    """A row for each size, kind of run and fraction of the data at which several rates were run."""
    kinds, fractions = any(c.kind for c in sweep.curves), len({c.fraction for c in sweep.curves}) > 1
    rows = [
        [*([c.kind] if kinds else []), count(c.N), count(c.D), *([share(c.fraction)] if fractions else []),
         len(set(c.x)), Chip(c.fit.verdict, c.fit.reason), significant(c.fit.optimum),
         span(c.fit.optimum_interval, significant), decimal(c.fit.lowest), percent(c.fit.failed)]
        for c in sweep.curves
    ]  # fmt: skip
    header = [
        *(["Kind"] if kinds else []), "N", "D", *(["Data"] if fractions else []), "Rates", "Verdict",
        f"Best {unit}", f"{percent(r.options.level)} interval", "Loss there", "Failed draws",
    ]  # fmt: skip
    return Table(header, rows, words=(0,) if kinds else (), long=(header.index("Verdict"),))


def _choices(r: Results) -> Table:
    rows = []
    for cell in sorted(r.tuning, key=lambda c: (c["N"], c["D"])):
        best = ", ".join(f"{selection.LEVERS[k]} {significant(v)}" for k, v in cell["best"].items())
        tried = "; ".join(
            f"{selection.LEVERS[k]} {', '.join(significant(v) for v in values)}" for k, values in cell["tried"].items()
        )
        levers = ", ".join(selection.LEVERS[k] for k in cell["edge"])
        edge: Any = Noted(Chip("edge"), levers) if levers else "no"
        rows.append([count(cell["N"]), count(cell["D"]), decimal(cell["loss"]), best, edge, tried])
    return Table(["N", "D", "Loss", "Best", "At the edge", "Tried"], rows, words=(3, 4), long=(5,))


def repeated(r: Results, svg: str | None) -> Raw:
    """Loss against passes over the same data, where runs of one size made several numbers of them."""
    if not r.repeats:
        return Raw("")
    patients = r.table.of_patients
    rows = [
        [count(x["N"]), share(x["fraction"]), count(x["unique_tokens"]), *([count(x["patients"])] if patients else []),
         f"{significant(x['points'][0]['passes'], 2)} to {significant(x['points'][-1]['passes'], 2)}",
         decimal(x["best"]["loss"]), significant(x["best"]["passes"], 2), decimal(x["points"][-1]["loss"]),
         x["verdict"] or DASH]
        for x in r.repeats
    ]  # fmt: skip
    header = [
        "N", "Fraction", "Unique tokens U", *(["Patients"] if patients else []), "Passes", "Lowest loss",
        "after passes", "Loss after the most", "Loss",
    ]  # fmt: skip
    return render(
        "repeats.html",
        table=Table(header, rows, words=(len(header) - 1,)),
        svg=Raw(svg or ""),
        data="patients" if patients else "data",
        turned=repeats.TURNED,
        falling=repeats.FALLING,
    )


def branches(r: Results) -> Raw:
    """Cooldown branches from a trunk against runs of their own, where there are both, and what they saved."""
    comparison = r.schedules
    if comparison is None and r.saved is None:
        return Raw("")
    rows = [
        [count(x["N"]), count(x["D"]), decimal(x["branch"], 4), decimal(x["cosine"], 4), signed(x["difference"], 4),
         span(x["interval"], lambda v: signed(v, 4)), f"{x['branches']} / {x['cosines']}", Chip(x["verdict"])]
        for x in (comparison.rows if comparison else ())
    ]  # fmt: skip
    header = ["N", "D", "Branch", "Cosine", "Difference", f"{percent(r.options.level)} interval", "Runs", "Word"]
    return render(
        "branches.html",
        saved=r.saved,
        comparison=comparison,
        interval=span(comparison.interval, lambda v: signed(v, 4)) if comparison else "",
        table=Table(header, rows, words=(7,)),
        apart=sum(row["verdict"] == words.DIFFERS for row in comparison.rows) if comparison else 0,
        chance=1 - r.options.level,
    )
