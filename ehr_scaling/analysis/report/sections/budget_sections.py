"""What the report says of budgets, laws and forecasts: plain data for the templates; nothing here computes a result."""

import numpy as np

from ehr_scaling.analysis.forecast import extrapolation, holdout
from ehr_scaling.analysis.isoflop import isoflop, parabola
from ehr_scaling.analysis.report.figures import plots
from ehr_scaling.analysis.report.html import Chip, Noted, Raw, Table, formula, render
from ehr_scaling.analysis.report.results import Results, budget_verdict, joint_optimum, parameters, verdicts
from ehr_scaling.analysis.wording import DASH, count, decimal, percent, power, signed, significant, span

LAWS = {"N": "N* = k (C/C0)^a", "D": "D* = k (C/C0)^b", "L": "L* = E + k (C/C0)^c"}
FORMULAS = {
    "chinchilla": "L = E + A N^{−α} + B D^{−β}",
    "coupled": "L = E + (A N^{−α} + B D^{−β})^{k}",
    "kaplan": "L = (A N^{−α} + B D^{−1})^{k}",
}
PARAMETERS = {"alpha": "α", "beta": "β", "a": "a of N* ∝ C^a", "b": "b of D* ∝ C^b"}


def profiles(r: Results) -> Raw:
    """The section of the IsoFLOP budgets, whose figure stands on the first screen."""
    rows = []
    for b in r.budgets:
        word = budget_verdict(b, r.options)
        rows.append(
            [
                power(b.C), Chip(b.verdict, word.reason), count(b.N), span(b.N_interval, count),
                Chip(word.word), _band(b.near), count(b.D), decimal(b.L), f"{len(b.rows)} ({b.sizes})",
                decimal(b.depth), f"{decimal(b.scatter, 4)} / {decimal(b.seed_noise, 4)}", percent(b.failed),
                count(joint_optimum(r, b)),
            ]
        )  # fmt: skip
    header = [
        "C (FLOPs)", "Verdict", "N*", f"{percent(r.options.level)} interval", "Word",
        f"N within {percent(r.options.near, 1)}", "D*", "L*", "Runs (sizes)", "Depth",
        "Scatter / seed noise", "Failed draws", "N* by joint law",
    ]  # fmt: skip
    table = Table(header, rows, words=(4,), long=(1,))
    return render("isoflop.html", table=table, near=r.options.near, rule=isoflop.rule(r.options))


def _band(near: parabola.Near | None) -> Noted | str:
    """The near-optimal sizes: an arrow at an end that runs out of the grid, which is no bound then."""
    if near is None:
        return DASH
    low, high = ("← " if near.open_low else "") + count(near.low), count(near.high) + (" →" if near.open_high else "")
    return Noted(f"{low} to {high}", f"{span(near.low_interval, count)}; {span(near.high_interval, count)}")


def power_laws(r: Results, svg: str, loss_svg: str) -> Raw:
    """The section of the lines through the optima. svg: of `plots.scaling`; loss_svg: of `plots.loss_of_compute`."""
    rows = []
    for name, how in LAWS.items():
        law = r.lines[name]
        rows.append(
            [
                how, decimal(law.exponent), span(law.interval), law.verdict, significant(np.exp(law.log_k)),
                power(law.C0), significant(law.floor) if law.floor else DASH, len(law.C), percent(law.failed),
                decimal(law.misfit, 2),
            ]
        )  # fmt: skip
    header = [
        "Law", "Exponent", f"{percent(r.options.level)} interval", "Word", "k", "C0", "Floor E", "Budgets",
        "Failed draws", "Widened by",
    ]  # fmt: skip
    return render(
        "laws.html",
        svg=Raw(svg),
        loss_svg=Raw(loss_svg),
        table=_formulas(Table(header, rows, words=(0,), long=(3,)), 0),
        of_patients=r.table.of_patients,
        published=plots.PUBLISHED,
        source=plots.PUBLISHED_SOURCE,
    )


def _formulas(table: Table, column: int) -> Table:
    """`table` with what this column says set as formulas."""
    rows = [[formula(v) if k == column else v for k, v in enumerate(row)] for row in table.rows]
    return table._replace(rows=rows)


def joint(r: Results, svg: str | None) -> Raw:
    """The section of the selected law and of those it was compared with. svg: of `plots.joint_fit`."""
    law = r.joint
    if law is None:
        return render("joint.html", law=None, reason=verdicts(r)[r.rolling.selected].reason)
    rows = [
        [PARAMETERS.get(n, n), significant(v, 4), span(bounds, lambda x: significant(x, 4)), word]
        for n, (v, bounds, word) in parameters(r, law).items()
    ]
    header = ["Parameter", "Value", f"{percent(r.options.level)} interval", "Word"]
    return render(
        "joint.html",
        law=law,
        formula=FORMULAS[law.name],
        runs=len(r.table),
        parameters=Table(header, rows, words=(0,), long=(3,)),
        rolling=r.rolling,
        reach=max((fold["decades"] for fold in r.rolling.folds), default=0.0),
        laws=_laws(r),
        svg=Raw(svg) if svg else "",
        apart=_disagreement(r),
        method=r.options.isoflop,
    )


def _laws(r: Results) -> Table:
    """How each law forecasts what lies above the runs it is fitted to."""
    rolling = r.rolling
    exponents = {name: parameters(r, law)["a"] for name, law in r.laws.items()}
    rows = [
        [name.capitalize(), FORMULAS[name], significant(law.objective, 4), decimal(exponents[name][0]),
         span(exponents[name][1]), decimal(rolling.error_percent.get(name), 2),
         decimal(rolling.error_percent.get(name + extrapolation.LOCAL), 2), Chip(law.verdict.word),
         _chosen(name, rolling)]
        for name, law in r.laws.items()
    ]  # fmt: skip
    header = ["Law", "Formula", "Objective", "a", "Interval", "Hold-out error (%)", "Fitted locally (%)", "Word", ""]
    return _formulas(Table(header, rows, words=(0, 1, 7, 8)), 1)


def _chosen(name: str, rolling: extrapolation.Rolling) -> str:
    how = " (local)" if rolling.chosen.endswith(extrapolation.LOCAL) else ""
    return f"selected{how}" if name == rolling.selected else ""


def _disagreement(r: Results) -> tuple[float, float] | None:
    """C, and by what factor the joint law's best size differs from the budget's there, where it does most."""
    pairs = [(b.C, joint_optimum(r, b) / b.N) for b in r.budgets if b.verdict == parabola.BRACKETED]
    ratios = [(C, ratio) for C, ratio in pairs if np.isfinite(ratio)]
    return max(ratios, key=lambda pair: abs(np.log(pair[1])), default=None)


def sealed(r: Results, svg: str | None) -> Raw:
    """The section of the budget that was forecast before it was read. svg: of `plots.sealed`."""
    h = r.holdout
    if h is None:
        return render("sealed.html", held=None)
    rows = [
        [x["run"], count(x["N"]), count(x["D"]), power(x["C"]), decimal(x["forecast"]), span((x["low"], x["high"])),
         decimal(x["loss"]), f"{signed(100 * (x['forecast'] / x['loss'] - 1))} %", Chip(x["word"])]
        for x in sorted(h["rows"], key=lambda x: (x["N"], x["D"], x["run"]))
    ]  # fmt: skip
    header = ["Run", "N", "D", "C", "Forecast", "Interval", "Result", "Error", "Word"]
    runs = Table(header, rows, words=(0, 8))
    optima = [
        [power(o["C"]), count(o["N"]), span((o["N_low"], o["N_high"]), count), count(o["result_N"]),
         span((o["result_N_low"], o["result_N_high"]), count), decimal(o["L"]), span((o["L_low"], o["L_high"])),
         decimal(o["result_L"]), Chip(o["verdict"]), Chip(o["word"], o["reason"])]
        for o in h["optima"]
    ]  # fmt: skip
    header = [
        "C (FLOPs)", "N* forecast", "Interval", "N* result", "Interval", "L* forecast", "Interval", "L* result",
        "Verdict of the budget", "Word of the forecast",
    ]  # fmt: skip
    return render(
        "sealed.html",
        held=h,
        first=h["sealed_losses_read"] == holdout.AFTER,
        level=r.options.level,
        runs=runs,
        optima=Table(header, optima, words=(8,), long=(9,)),
        svg=Raw(svg) if svg else "",
    )
