"""What the report says of settings a study varied beside size and compute; shown only where it did."""

from typing import Any

from ehr_scaling.analysis.isoflop import rates
from ehr_scaling.analysis.isoflop.parabola import rule
from ehr_scaling.analysis.repeats import repeats
from ehr_scaling.analysis.report.html import Raw, chip, figure, join, paragraph, section, table
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.report.sweep_plots import share
from ehr_scaling.analysis.tables import selection
from ehr_scaling.analysis.wording import count, decimal, known, percent, plural, power, signed, significant, span


def learning_rates(r: Results, svg: str | None) -> Raw:
    """The optimum of the rate for each size, how far it moves, and which setting stands for each cell."""
    if not r.tuning and r.rates is None:
        return Raw("")
    parts: list[Any] = []
    if r.rates is not None:
        parts += _curves(r, r.rates, svg or "")
    if r.tuning:
        edges = [cell for cell in r.tuning if cell["edge"]]
        parts.append(Raw("<h3>The setting that stands for each cell</h3>"))
        word = join(chip("edge"), " ") if edges else ""
        parts.append(
            paragraph(
                join(word, f"{len(edges)} of {plural(len(r.tuning), 'cell')} run at several settings have their best "
                     f"one at the edge of what was tried. {selection.RULE}")
            )
        )  # fmt: skip
        parts.append(_choices(r))
    return section("rates", "Learning rates", *parts)


def _curves(r: Results, found: rates.Rates, svg: str) -> list[Any]:
    unit = "multiple of the rule's rate" if found.unit == "multiple" else "learning rate"
    kinds = any(c.kind for c in found.curves)
    parts: list[Any] = []
    for s in found.shifts:
        ratio = significant(s.large.N / s.small.N, 2)
        of = f"{s.kind}: " if s.kind else ""
        move = (
            f"from {count(s.small.N)} to {count(s.large.N)} body parameters ({ratio} times as many) the best {unit} "
            f"moves by {signed(s.value, 2)} factors of two ({span(s.interval, lambda v: signed(v, 2))}); "
            if known(s.value)
            else ""
        )
        parts.append(paragraph(join(chip(s.verdict.word), f" {of}{move}{s.verdict.reason}.")))
    caption = (
        "Validation loss against the peak learning rate, each size at its longest training; a mark is a run, a line "
        "joins the means over seeds, dashes are the parabola. Arrows at the top: runs whose loss lies above."
    )
    rows = [
        [*([c.kind] if kinds else []), count(c.N), count(c.D), *([share(c.fraction)] if _fractions(found) else []),
         len(set(c.x)), join(chip(c.fit.verdict), Raw("<small>"), c.fit.reason, Raw("</small>")),
         significant(c.fit.optimum), span(c.fit.optimum_interval, significant), decimal(c.fit.lowest),
         percent(c.fit.failed)]
        for c in found.curves
    ]  # fmt: skip
    header = [
        *(["Kind"] if kinds else []), "N", "D", *(["Patients"] if _fractions(found) else []), "Rates", "Verdict",
        f"Best {unit}", f"{percent(r.options.level)} interval", "Loss there", "Failed draws",
    ]  # fmt: skip
    verdict = header.index("Verdict")
    text = (
        f"At each size a parabola of loss in the logarithm of the rate is {rule('learning rate', rates.REACH)} The "
        "loss rises faster above the best rate than below it, so that a parabola over a wide or coarse grid puts the "
        f"optimum too low. Stays put: the interval of the shift lies within {rates.NEAR:g} factor of two on either "
        "side. Moves: it leaves out 0. Unidentified: neither."
    )
    return [
        *parts, figure(svg, caption, "Loss against learning rate for each size"),
        table(header, rows, words=(0,) if kinds else (), long=(verdict,)), paragraph(text, "muted"),
    ]  # fmt: skip


def _fractions(found: rates.Rates) -> bool:
    return len({c.fraction for c in found.curves}) > 1


def _choices(r: Results) -> Raw:
    rows = []
    for cell in sorted(r.tuning, key=lambda c: (c["N"], c["D"])):
        best = ", ".join(f"{selection.LEVERS[k]} {significant(v)}" for k, v in cell["best"].items())
        tried = "; ".join(
            f"{selection.LEVERS[k]} {', '.join(significant(v) for v in values)}" for k, values in cell["tried"].items()
        )
        edge = join(chip("edge"), " ", ", ".join(selection.LEVERS[k] for k in cell["edge"])) if cell["edge"] else "no"
        rows.append([count(cell["N"]), count(cell["D"]), decimal(cell["loss"]), best, edge, tried])
    header = ["N", "D", "Loss", "Best", "At the edge", "Tried"]
    body = table(header, rows, words=(3, 4), long=(5,))
    return Raw(f"<details><summary>{plural(len(rows), 'cell')}</summary>{body}</details>")


def repeated(r: Results, svg: str | None) -> Raw:
    if not r.repeats:
        return Raw("")
    rows = [
        [count(x["N"]), share(x["fraction"]), count(x["unique_tokens"]), count(x["patients"]),
         f"{significant(x['points'][0]['passes'], 2)} to {significant(x['points'][-1]['passes'], 2)}",
         decimal(x["best"]["loss"]), significant(x["best"]["passes"], 2), decimal(x["points"][-1]["loss"]),
         x["verdict"]]
        for x in r.repeats
    ]  # fmt: skip
    header = [
        "N", "Fraction", "Unique tokens U", "Patients", "Passes", "Lowest loss", "after passes", "Loss after the most",
        "Loss",
    ]  # fmt: skip
    caption = (
        "Validation loss against passes over the training patients, for fractions of them that are nested in each "
        "other: a mark is a run, a line joins the means over seeds. Tokens seen are passes times U."
    )
    text = (
        f"Each point is the cell's best setting. {repeats.TURNED.capitalize()}: more passes than the best were worse, "
        f"the model learns the patients by heart. {repeats.FALLING.capitalize()}: the most passes are the best. The "
        "laws above rest on the largest fraction only and count every token seen as new."
    )
    return section(
        "repeats", "Repeated data", figure(svg or "", caption, "Loss against passes over the patients"),
        table(header, rows, words=(8,)), paragraph(text, "muted"),
    )  # fmt: skip


def branches(r: Results) -> Raw:
    found = r.schedules
    if found is None and r.saved is None:
        return Raw("")
    parts: list[Any] = []
    if r.saved is not None:
        parts.append(
            paragraph(
                f"Trunks and cooldown branches cost {power(r.saved['own'])} FLOPs; the same cells trained separately "
                f"would cost {power(r.saved['alone'])}: the share is {percent(r.saved['own'] / r.saved['alone'])}."
            )
        )
    if found is not None:
        bounds = f" ({span(found.interval, lambda v: signed(v, 4))})" if known(found.interval[0]) else ""
        mean = f" Branch minus cosine: {signed(found.mean, 4)} nats a token{bounds}; " if found.cells else " "
        apart = sum(row["verdict"] == "differs" for row in found.rows)
        alone = (
            f"{apart} of {plural(len(found.rows), 'cell')} differ by themselves; about {percent(1 - r.options.level)} "
            "would by chance."
        )
        parts.append(paragraph(join(chip(found.verdict.word), f"{mean}{found.verdict.reason}. {alone}")))
        rows = [
            [count(x["N"]), count(x["D"]), decimal(x["branch"], 4), decimal(x["cosine"], 4),
             signed(x["difference"], 4), span(x["interval"], lambda v: signed(v, 4)),
             f"{x['branches']} / {x['cosines']}", chip(x["verdict"])]
            for x in found.rows
        ]  # fmt: skip
        header = ["N", "D", "Branch", "Cosine", "Difference", f"{percent(r.options.level)} interval", "Runs", "Word"]
        parts.append(table(header, rows, words=(7,)))
        parts.append(
            paragraph(
                f"Standard deviation between seeds of a cell, pooled: {decimal(found.noise, 4)}. The interval of the "
                f"mean is over the {plural(found.cells, 'cell')} with two seeds both ways and takes branches of one "
                "trunk together. The laws rest on one of the two schedules; the runs of the other are listed with the "
                "cells.",
                "muted",
            )
        )
    return section("branches", "Trunk and branches", *parts)
