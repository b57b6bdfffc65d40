"""The reporting checklist of Li, Kudugunta & Zettlemoyer 2025, "(Mis)Fitting: A Survey of Scaling Laws" (arXiv
2502.18969), answered from the runs and the options of the analysis. What the table does not hold is "not recorded"."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.isoflop import parabola
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.joint_laws import AUTO
from ehr_scaling.analysis.report.html import Chip, Raw, Table, render
from ehr_scaling.analysis.report.results import Results, residuals
from ehr_scaling.analysis.report.sections.limits import left_out
from ehr_scaling.analysis.tables.run_table import Floats, RunTable, describe
from ehr_scaling.analysis.wording import count, decimal, percent, plural, power, significant, span

NOT_RECORDED = "not recorded"
FORM, SETUP, COLLECTION, FITTING = "The law", "Training", "Data collection", "Fitting"


class Item(NamedTuple):
    """One question of a part of the checklist. known: whether the runs answer it."""

    part: str
    question: str
    answer: str
    known: bool


def items(results: Results) -> list[Item]:
    """Every question, in the order of the paper: the form of the law, training, data collection, fitting."""
    answers = {FORM: _form, SETUP: _setup, COLLECTION: _collection, FITTING: _fitting}
    return [
        Item(part, question, answer or NOT_RECORDED, bool(answer))
        for part, about in answers.items()
        for question, answer in about(results).items()
    ]


def _form(r: Results) -> dict[str, str]:
    law = r.joint
    forms = "; ".join(f"{name}: L = {form.formula}" for name, form in joint_laws.FORMS.items())
    how = f"taken by --law={r.options.law}"
    if r.options.law == AUTO:
        how = f"the usual one, or clearly better over {plural(len(r.rolling.folds), 'rolling hold-out')}"
    fitted = "" if law is None else ", ".join(name for name in law.parameters if name not in ("a", "b"))
    return {
        "What is the form of the law?": f"{forms}; N* = k C^a, D* = k C^b, L* = E + k C^c over the IsoFLOP vertices",
        "Which variables does it relate?": "N (body parameters), D (tokens processed), C (FLOPs), L (validation loss)",
        "Which form stands for the study, and why?": f"{r.rolling.selected}, {how}" if law else "",
        "Which parameters are fitted?": fitted,
        "What does the form assume?": (
            "unseen tokens, or repeats that cost nothing; one recipe for all runs; no interaction of N and D in "
            "Chinchilla's form"
        ),
    }


def _setup(r: Results) -> dict[str, str]:
    t = r.table
    return {
        "On which data were models trained?": describe(t),
        "Is any data repeated in the training of a model?": _range(t.passes, "passes over the training tokens"),
        "How are parameters counted?": _parameters(t),
        "How is compute counted?": _compute(t),
        "How are tokens counted?": _tokens(t),
        "Which optimizer and parametrization?": _names(t.optimizer, t.parametrization),
        "Which learning-rate schedule, and is it cooled to the end?": _names(t.schedule, t.phase),
        "How is the learning rate chosen, and does it change with scale?": _setting(t, t.lr, "peak"),
        "How is the batch chosen, and does it change with scale?": _setting(t, t.batch, "tokens a step"),
        "Weight decay and dropout?": "; ".join(
            filter(None, (_range(t.weight_decay, "weight decay"), _range(t.dropout, "dropout")))
        ),
        "Were hyper-parameters searched?": _searched(r),
    }


def _collection(r: Results) -> dict[str, str]:
    t, everything = r.table, r.all_runs
    runs, rows = len(np.unique(t.run)), len(t)
    seeds = np.unique(t.seed[np.isfinite(t.seed)])
    dropped: dict[str, int] = {}
    for note in everything.notes:
        dropped[note.code] = dropped.get(note.code, 0) + 1
    checkpoints = "the last one" if runs == rows else f"{rows / runs:.1f} on average, resampled together"
    return {
        "How many models were trained?": f"{plural(runs, 'run')} in the fits, {len(np.unique(everything.run))} read",
        "Of which sizes?": f"{len(np.unique(t.N))} sizes, {_range(t.N, 'parameters', count)}",
        "On how many tokens each?": _range(t.D, "tokens", count),
        "At which compute?": f"{plural(len(t.budgets), 'budget')}, {_range(t.C, 'FLOPs', power)}",
        "How many seeds?": f"{len(seeds)}: {', '.join(significant(s) for s in seeds[:8])}" if len(seeds) else "",
        "How many checkpoints of a run are in the fits?": checkpoints,
        "Which metric, on which data?": "loss in nats a token, on held-out patients" if t.generated is not None else "",
        "Are losses changed before the fit?": "no: neither smoothed nor interpolated, every seed a point of its own",
        "Are checkpoints and training code public?": "",
        "How precisely is it measured?": _range(
            t.loss_se, "nats, standard error" + (" over patients" if t.of_patients else "")
        ),
        "Are runs excluded?": ", ".join(f"{n} {left_out(code, t)}" for code, n in dropped.items()) or "none",
    }


def _fitting(r: Results) -> dict[str, str]:
    o, law = r.options, r.joint
    held = r.holdout
    forecast = ""
    if held and held["rows"]:
        forecast = (
            f"the largest budget was forecast before it was fitted: mean error {held['error_percent']:.2f} %, "
            f"{percent(held['coverage'])} inside the intervals"
        )
    rolling = ""
    if r.rolling.folds:
        error = r.rolling.error_percent.get(r.rolling.chosen)
        rolling = f"{plural(len(r.rolling.folds), 'rolling hold-out')}, mean error {decimal(error, 2)} %"
    bracketed = sum(b.verdict == parabola.BRACKETED for b in r.budgets)
    goodness = ""
    if law is not None:
        goodness = f"objective {significant(law.objective, 4)}, median |residual| {_residual(residuals(r))}"
    return {
        "Which loss is minimised?": f"the sum of Huber losses (δ = {o.delta:g}) of the residuals of log L",
        "With which algorithm?": "saddle-free, damped Newton steps with exact derivatives, δ lowered in three steps",
        "How is it initialised?": (
            f"variable projection on a grid of exponents, floors and k, of which the best {joint_laws.STARTS}"
            + (f"; {law.optima[0]} of them ended in the optimum" if law else "")
        ),
        "Are points weighted?": "runs alike in the joint law; IsoFLOP vertices by 1 / variance of their bootstrap",
        "How are IsoFLOP optima found?": (
            f"the lowest point of a curve of loss in log N, budget by budget; {bracketed} of {len(r.budgets)} are "
            "bracketed, and only these enter a law"
        ),
        "Are outliers dropped?": f"{o.drop_highest_loss} of highest loss, by flag" if o.drop_highest_loss else "none",
        "How is the uncertainty found?": (
            f"bootstrap of runs (not rows), {o.draws:,} draws, seed {o.seed}, {percent(o.level)} intervals; beyond the "
            "data also the drift found in hold-outs and the disagreement of laws"
        ),
        "How good is the fit?": goodness,
        "Is extrapolation validated?": "; ".join(filter(None, (forecast, rolling))),
        "Is the code of the fit available?": "yes: ehr_scaling.analysis, with every option in laws.json",
    }


def _range(values: Floats, unit: str, text=significant) -> str:
    """'2 to 8 passes'; "" where nothing is known, and how many rows are not where some are."""
    known = values[np.isfinite(values)]
    if not len(known):
        return ""
    low, high = float(known.min()), float(known.max())
    some = f" (of {len(known)} of {len(values)} runs)" if len(known) < len(values) else ""
    return f"{text(low) if low == high else span((low, high), text)} {unit}{some}"


def _names(*columns: NDArray[np.str_]) -> str:
    names = [", ".join(sorted({str(v) for v in column} - {""})) for column in columns]
    return "; ".join(filter(None, names))


def _setting(t: RunTable, values: Floats, unit: str) -> str:
    """Range, and what the smallest and the largest size have."""
    said = _range(values, unit)
    if not said or len(np.unique(values[np.isfinite(values)])) == 1:
        return said and f"{said}, the same in all runs"
    sizes = np.unique(t.N)
    middle = np.array(
        [np.nanmedian(values[t.N == N]) if np.isfinite(values[t.N == N]).any() else np.nan for N in sizes]
    )
    middle = middle[np.isfinite(middle)]
    way = "differs between runs of one size alone"
    if len(middle) > 1 and middle[0] != middle[-1]:
        way = f"from {significant(middle[0])} at the smallest size to {significant(middle[-1])} at the largest"
    return f"{said}; {way}"


def _parameters(t: RunTable) -> str:
    known = [name for name in ("head", "embedding") if np.isfinite(getattr(t, f"N_{name}")).all()]
    if not known:
        return ""
    return f"N is the body; {' and '.join(known)} beside it"


def _compute(t: RunTable) -> str:
    if np.allclose(t.C, 6 * t.N * t.D, rtol=1e-3):
        return "C = 6 N D"
    ratio = t.C / (t.N * t.D)
    return f"as counted in the column C: {_range(ratio, 'FLOPs a parameter and token')}, where 6ND has 6"


def _tokens(t: RunTable) -> str:
    if not np.isfinite(t.real_tokens).any():
        return ""
    return f"D is positions processed; {_range(100 * t.real_tokens / t.D, '% real targets')}"


def _searched(r: Results) -> str:
    if r.tuning:
        edges = sum(bool(cell["edge"]) for cell in r.tuning)
        levers = sorted({lever for cell in r.tuning for lever in cell["tried"]})
        return f"{', '.join(levers)} in {plural(len(r.tuning), 'cell')}, the best at the edge of {edges} of them"
    return "no: one setting a cell" if np.isfinite(r.table.lr).any() else ""


def _residual(residuals: Floats) -> str:
    return f"{100 * float(np.median(np.abs(residuals))):.2g} %"


def checklist(results: Results) -> Raw:
    """The section of the report."""
    entries = items(results)
    rows = [[i.part, i.question, i.answer if i.known else Chip(i.answer)] for i in entries]
    table = Table(["Part", "Question", "Answer"], rows, words=(0,), long=(1, 2))
    return render("checklist.html", table=table, known=sum(i.known for i in entries))
