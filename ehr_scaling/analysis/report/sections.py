"""What the report says, section by section; nothing here computes a result."""

from typing import Any

import numpy as np

from ehr_scaling.analysis.forecast import extrapolation, holdout
from ehr_scaling.analysis.isoflop import isoflop, parabola
from ehr_scaling.analysis.outcomes import downstream
from ehr_scaling.analysis.report import plots
from ehr_scaling.analysis.report.html import (
    Raw,
    card,
    chip,
    figure,
    formula,
    join,
    paragraph,
    section,
    table,
)  # fmt: skip
from ehr_scaling.analysis.report.results import Results, budget_verdict, joint_optimum, parameters, verdicts
from ehr_scaling.analysis.uncertainty import UNIDENTIFIED
from ehr_scaling.analysis.wording import DASH, count, decimal, percent, plural, power, signed, significant, span, title

HEADINGS = [
    ("answer", "Answer"),
    ("plan", "Plan"),
    ("isoflop", "IsoFLOP profiles"),
    ("laws", "Power laws"),
    ("joint", "Joint law"),
    ("identifiability", "What is told"),
    ("sealed", "Sealed forecast"),
    ("rates", "Learning rates"),
    ("repeats", "Repeated data"),
    ("repeated", "Worth of passes"),
    ("branches", "Trunk and branches"),
    ("outcomes", "Outcomes"),
    ("conventions", "Conventions"),
    ("quality", "Doubtful runs"),
    ("cells", "All cells"),
    ("checklist", "Checklist"),
    ("provenance", "Data and provenance"),
    ("limits", "Limits"),
]


def answer(r: Results) -> Raw:
    lines, words = r.lines, verdicts(r)
    level = percent(r.options.level)
    cards = []
    for name, key, what in (("N", "a", "Optimal size, N* ∝ C^a"), ("D", "b", "Optimal tokens, D* ∝ C^b")):
        law = lines[name]
        bounds = (
            f"{level} interval {span(law.interval, lambda v: decimal(v, 2))}. " if np.isfinite(law.interval[0]) else ""
        )
        cards.append(
            card(
                formula(what),
                f"{key} = {decimal(law.exponent, 2)}" if np.isfinite(law.exponent) else f"{key} is not known",
                join(chip(words[key].word), f" {bounds}{_sentence(words[key].reason)}"),
            )
        )
    bracketed = [b for b in r.budgets if b.verdict == parabola.BRACKETED]
    others = [f"{power(b.C)}: {b.verdict}" for b in r.budgets if b.verdict != parabola.BRACKETED]
    note = (
        "Not in the laws: " + "; ".join(others[:6]) + (" …" if len(others) > 6 else "")
        if others
        else "Every budget has its optimum inside the grid."
    )
    cards.append(card("Budgets whose optimum is bracketed", f"{len(bracketed)} of {len(r.budgets)}", note))
    if r.holdout and r.holdout["rows"]:
        h = r.holdout
        inside = f"{percent(h['coverage'])} of {plural(len(h['rows']), 'run')} inside the {level} interval."
        cards.append(card("Sealed budget, mean error of the forecast", f"{h['error_percent']:.1f} %", inside))
    for task in r.outcomes[:2]:
        if task.rows:
            cards.append(_outcome_card(task))
    sentences: list[Any] = []
    if bracketed:
        top = bracketed[-1]
        sentences.append(
            join(
                chip(budget_verdict(top, r.options).word),
                f" At {power(top.C)} FLOPs, the largest bracketed budget, the best size is {count(top.N)} body "
                f"parameters ({span(top.N_interval, count)}) trained on {count(top.D)} tokens "
                f"({span(top.D_interval, count)}), reaching {decimal(top.L)} nats a token ({span(top.L_interval)}).",
            )
        )
    a, b = lines["N"], lines["D"]
    if UNIDENTIFIED in (a.verdict.word, b.verdict.word):
        sentences.append(
            "This study does not determine how the best size grows with compute. The numbers are shown so that "
            "they can be checked, not so that they can be used."
        )
    return section(
        "answer", "The answer", Raw('<div class="cards">' + "".join(cards) + "</div>"), *map(paragraph, sentences)
    )


def _outcome_card(task: downstream.Outcome) -> Raw:
    shapes = sorted({(m["N"], m["C"]) for m in task.rows})
    ends = [np.mean([m["auroc"] for m in task.rows if (m["N"], m["C"]) == shape]) for shape in (shapes[0], shapes[-1])]
    name = str((task.baseline or {}).get("name", "baseline"))
    base = f" {name[:1].upper()}{name[1:]}: {decimal(task.baseline['auroc'])}." if task.baseline else ""
    note = f"Smallest model ({count(shapes[0][0])}) to largest ({count(shapes[-1][0])}), seeds averaged.{base}"
    return card(f"Zero-shot AUROC, {title(task.task)}", f"{decimal(float(ends[0]))} → {decimal(float(ends[1]))}", note)


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "." if reason else ""


def profiles(r: Results, svg: str) -> Raw:
    rows = []
    for b in r.budgets:
        word = budget_verdict(b, r.options)
        why = join(chip(b.verdict), Raw("<small>"), word.reason, Raw("</small>"))
        rows.append(
            [
                power(b.C), why, count(b.N), span(b.N_interval, count), chip(word.word), _band(b.near), count(b.D),
                decimal(b.L),
                f"{len(b.rows)} ({b.sizes})", decimal(b.depth), f"{decimal(b.scatter, 4)} / {decimal(b.seed_noise, 4)}",
                percent(b.failed), count(joint_optimum(r, b)),
            ]
        )  # fmt: skip
    header = [
        "C (FLOPs)", "Verdict", "N*", f"{percent(r.options.level)} interval", "Word",
        f"N within {percent(r.options.near, 1)}", "D*", "L*", "Runs (sizes)", "Depth",
        "Scatter / seed noise", "Failed draws", "N* by joint law",
    ]  # fmt: skip
    caption = (
        "Validation loss against body parameters at each compute budget. Filled marks lie in the window of the best "
        "size, hollow ones outside it; dashed curves belong to budgets that enter no law."
    )
    legend = (
        f"N within {percent(r.options.near, 1)}: the sizes whose fitted loss is at most that much above the lowest, so "
        "how little it costs to be off; below each end its interval, and an arrow where the loss is still as good at "
        "the last size that the curve saw. Depth: rise of the curve over its window. Scatter: standard deviation of "
        "the sizes' mean losses about a smooth curve. Seed noise: standard deviation between seeds of a size; scatter "
        "well above it means that the profile is not of the curve's shape or that some cells are badly tuned. Failed "
        "draws: bootstrap draws whose minimum left the grid. Losses in nats a token."
    )
    return section(
        "isoflop", "IsoFLOP profiles",
        figure(svg, caption, "Loss against model size at each compute budget"),
        table(header, rows, words=(4,), long=(1,)), paragraph(legend, "muted"),
        paragraph(isoflop.rule(r.options), "muted"),
    )  # fmt: skip


def _band(near: parabola.Near | None) -> Raw:
    """The near-optimal sizes: an arrow at an end that runs out of the grid, which is no bound then."""
    if near is None:
        return Raw(DASH)
    low, high = ("← " if near.open_low else "") + count(near.low), count(near.high) + (" →" if near.open_high else "")
    bounds = f"{span(near.low_interval, count)}; {span(near.high_interval, count)}"
    return join(f"{low} to {high}", Raw("<small>"), bounds, Raw("</small>"))


def power_laws(r: Results, svg: str, loss_svg: str) -> Raw:
    rows = []
    for name, law_text in (("N", "N* = k (C/C0)^a"), ("D", "D* = k (C/C0)^b"), ("L", "L* = E + k (C/C0)^c")):
        law = r.lines[name]
        rows.append(
            [
                formula(law_text), decimal(law.exponent), span(law.interval),
                join(chip(law.verdict.word), Raw("<small>"), law.verdict.reason, Raw("</small>")),
                significant(np.exp(law.log_k)), power(law.C0), significant(law.floor) if law.floor else DASH,
                len(law.C),
                percent(law.failed), decimal(law.misfit, 2),
            ]
        )  # fmt: skip
    header = [
        "Law", "Exponent", f"{percent(r.options.level)} interval", "Word", "k", "C0", "Floor E", "Budgets",
        "Failed draws", "Widened by",
    ]  # fmt: skip
    caption = (
        "Optima of the bracketed budgets and the lines through them, weighted by their precision. Solid: inside "
        "the data. Dashed: extrapolated. Crosses on the axis: budgets that were run and are in no law. Dotted: the "
        f"exponents reported on MIMIC-IV in {plots.PUBLISHED_SOURCE} ({plots.PUBLISHED['N']} and "
        f"{plots.PUBLISHED['D']}), drawn through the middle of these points as slopes to compare with; that study's "
        "data, sizes and conventions differ."
    )
    method = (
        "Intervals: wild bootstrap of sizes, seeds averaged (each size's leverage-corrected residual is multiplied "
        "by one normal draw), the noise of budgets drawn together as far as chance explains its differences, the "
        "whole chain repeated on every draw; where the points scatter about a line more "
        "than their intervals allow, the draws are widened by that factor. A draw in which a bracketed budget "
        "loses its vertex counts as failed and is in no interval. The exponents need not sum to 1, because C "
        "counts head and attention too. The floor is fitted only where four budgets or more tell it from zero."
    )
    return section(
        "laws", "Power laws", figure(svg, caption, "Optimal size and tokens against compute"),
        table(header, rows, words=(0,), long=(3,)), paragraph(method, "muted"),
        figure(loss_svg, "Loss at the optimum of each bracketed budget; faint marks are runs.", "Loss against compute"),
    )  # fmt: skip


def joint(r: Results, svg: str | None) -> Raw:
    law = r.joint
    if law is None:
        return section("joint", "Joint law", paragraph(_sentence(verdicts(r)[r.rolling.selected].reason)))
    names = {"alpha": "α", "beta": "β", "a": "a of N* ∝ C^a", "b": "b of D* ∝ C^b"}
    rows = [
        [names.get(n, n), significant(v, 4), span(bounds, lambda x: significant(x, 4)),
         join(chip(word.word), Raw("<small>"), word.reason, Raw("</small>"))]
        for n, (v, bounds, word) in parameters(r, law).items()
    ]  # fmt: skip
    text = (
        f" over {plural(len(r.table), 'run')}, Huber loss (δ = {law.delta:g}) on log L. Objective "
        f"{law.objective:.6g}, reached from {law.optima[0]} of {law.optima[1]} starts. "
        f"{_sentence(law.verdict.reason)}"
    )
    return section(
        "joint", "Joint law",
        join(Raw("<p>"), chip(law.verdict.word), f" {law.name.capitalize()}: ", FORMULAS[law.name], text, Raw("</p>")),
        table(["Parameter", "Value", f"{percent(r.options.level)} interval", "Word"], rows, words=(0,), long=(3,)),
        _laws(r),
        figure(svg, "What the joint law leaves unexplained.", "Residuals of the joint law against size") if svg else "",
        _disagreement(r),
    )  # fmt: skip


FORMULAS = {
    "chinchilla": formula("L = E + A N^{−α} + B D^{−β}"),
    "coupled": formula("L = E + (A N^{−α} + B D^{−β})^{k}"),
    "kaplan": formula("L = (A N^{−α} + B D^{−1})^{k}"),
}


def _laws(r: Results) -> Raw:
    """How each law forecasts what lies above the runs it is fitted to."""
    found = r.rolling
    if not found.folds:
        text = "There are too few budgets to hold any out, so no law was selected, nor is known how far off it is."
        return paragraph(text, "muted")
    exponents = {name: parameters(r, law)["a"] for name, law in r.laws.items()}
    rows = [
        [name.capitalize(), FORMULAS[name], significant(law.objective, 4), decimal(exponents[name][0]),
         span(exponents[name][1]), decimal(found.error_percent[name], 2),
         decimal(found.error_percent[name + extrapolation.LOCAL], 2), chip(law.verdict.word),
         _chosen(name, found)]
        for name, law in r.laws.items()
    ]  # fmt: skip
    header = ["Law", "Formula", "Objective", "a", "Interval", "Hold-out error (%)", "Fitted locally (%)", "Word", ""]
    reach = max(fold["decades"] for fold in found.folds)
    text = (
        f"Hold-out error: mean over {plural(len(found.folds), 'fold')} in each of which the runs below one budget "
        f"forecast all above it, {decimal(reach, 1)} decades away at most; fitted locally, runs count less the further "
        "they lie below the largest compute and above the best loss. The chosen law was off by "
        f"{significant(100 * found.drift, 2)} % for each decade of compute; forecasts widen by that, and by what laws "
        "nearly as good say otherwise."
    )
    return join(
        Raw("<h3>Laws compared by what they forecast</h3>"), table(header, rows, words=(0, 1, 7, 8)),
        paragraph(text, "muted"),
    )  # fmt: skip


def _chosen(name: str, found: extrapolation.Rolling) -> str:
    how = " (local)" if found.chosen.endswith(extrapolation.LOCAL) else ""
    return f"selected{how}" if name == found.selected else ""


def _disagreement(r: Results) -> Raw:
    pairs = [(b.C, b.N, joint_optimum(r, b)) for b in r.budgets if b.verdict == parabola.BRACKETED]
    ratios = [(C, joint / N) for C, N, joint in pairs if np.isfinite(joint)]
    if not ratios:
        return Raw("")
    C, worst = max(ratios, key=lambda pair: abs(np.log(pair[1])))
    return paragraph(
        f"Cross-check: the joint law puts the optimum at {significant(worst, 2)} × the {r.options.isoflop}'s where "
        f"they differ most ({power(C)} FLOPs). A parabola is biased where the profile is lopsided or the grid off "
        "centre; a factor near 1 says that this matters little here.",
        "muted",
    )


def _sealed_until(read: str) -> str:
    if read == holdout.AFTER:
        return "before the files that hold their losses were opened"
    return "before their losses, which were read with the others, were used"


def sealed(r: Results, svg: str | None) -> Raw:
    h, title = r.holdout, "The sealed budget: forecast and result"
    if h is None:
        return section(
            "sealed", title, paragraph("There is only one budget, so nothing could be forecast from smaller ones.")
        )
    made = h["made_from"]
    parts: list[Any] = [
        paragraph(
            f"The runs above the seal were forecast from {plural(made['runs'], 'run')} at "
            f"{plural(len(made['budgets']), 'smaller budget')} and written to forecast.json, with the time and the "
            f"fingerprint {h['forecast_fingerprint']}, {_sealed_until(h['sealed_losses_read'])}; only then were they "
            "compared and added to the fits above."
        )
    ]
    if not h["rows"]:
        parts.append(paragraph(_sentence(f"No loss could be forecast: {h['reason']}")))
    else:
        parts.append(
            figure(svg, "Loss of every sealed run: forecast with its interval, and result.", "Forecast against result")
            if svg
            else ""
        )
        bias = (
            "All misses lie on one side: the law bends beyond its data, do not extrapolate further with it."
            if h["same_sign"]
            else ""
        )
        parts.append(
            paragraph(
                f"Mean error {h['error_percent']:.2f} %, median {h['median_error_percent']:.2f} %, mean signed "
                f"error {signed(h['bias_percent'], 2)} %; {percent(h['coverage'])} of the results inside the "
                f"{percent(r.options.level)} interval. {bias}"
            )
        )
        rows = [
            [x["run"], count(x["N"]), count(x["D"]), power(x["C"]), decimal(x["forecast"]), span((x["low"], x["high"])),
             decimal(x["loss"]), f"{signed(100 * (x['forecast'] / x['loss'] - 1))} %", chip(x["word"])]
            for x in sorted(h["rows"], key=lambda x: (x["N"], x["D"], x["run"]))
        ]  # fmt: skip
        header = ["Run", "N", "D", "C", "Forecast", "Interval", "Result", "Error", "Word"]
        parts.append(
            Raw(
                f"<details><summary>{plural(len(rows), 'sealed run')}</summary>"
                + table(header, rows, words=(0, 8))
                + "</details>"
            )
        )
    optima = [
        [power(o["C"]), count(o["N"]), span((o["N_low"], o["N_high"]), count), count(o["result_N"]),
         span((o["result_N_low"], o["result_N_high"]), count), decimal(o["L"]), span((o["L_low"], o["L_high"])),
         decimal(o["result_L"]), chip(o["verdict"]),
         join(chip(o["word"]), Raw("<small>"), o["reason"], Raw("</small>"))]
        for o in h["optima"]
    ]  # fmt: skip
    header = [
        "C (FLOPs)", "N* forecast", "Interval", "N* result", "Interval", "L* forecast", "Interval", "L* result",
        "Verdict of the budget", "Word of the forecast",
    ]  # fmt: skip
    parts += [Raw("<h3>The optimum of the sealed budget, by the power laws of the smaller ones</h3>"),
              table(header, optima, words=(8,), long=(9,))]  # fmt: skip
    return section("sealed", title, *parts)
