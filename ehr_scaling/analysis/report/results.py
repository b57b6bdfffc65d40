"""Everything an analysis found, and how it is written to laws.json."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.compare import schedules
from ehr_scaling.analysis.draws import Floats, interval
from ehr_scaling.analysis.forecast import extrapolation, holdout
from ehr_scaling.analysis.isoflop import isoflop, parabola, power_laws, rates, windows
from ehr_scaling.analysis.joint import conventions, identifiability, joint_laws, optimum, quality
from ehr_scaling.analysis.options import Options, silent
from ehr_scaling.analysis.outcomes import audits, downstream, memory, scores, scores_json, sheets
from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.plan import plan_basis
from ehr_scaling.analysis.plan.record import Planner
from ehr_scaling.analysis.repeats import repeated_data, repeats, worth_of_passes
from ehr_scaling.analysis.tables import cells, selection
from ehr_scaling.analysis.tables.run_table import Note, RunTable, describe, drop_highest_loss
from ehr_scaling.analysis.wording import plural
from ehr_scaling.analysis.words import Verdict, doubted
from ehr_scaling.data import disclosure

SCHEMA = 1


@dataclass(frozen=True)
class Results:
    """table: the runs in the fits. all_runs: also those that were dropped. lines: "N", "D", "L". doubts: of `quality`.

    tuning: of every cell run at several settings. saved: see `schedules.saving`.
    """

    table: RunTable
    all_runs: RunTable
    options: Options
    budgets: list[isoflop.BudgetFit]
    lines: dict[str, power_laws.PowerLaw]
    laws: dict[str, joint_laws.JointLaw]
    identifiability: identifiability.Identifiability | None
    rolling: extrapolation.Rolling
    planner: Planner | None
    conventions: conventions.Conventions
    doubts: tuple[Note, ...]
    forecast: dict[str, Any] | None
    holdout: dict[str, Any] | None
    outcomes: list[downstream.Outcome]
    valued: list[scores.Valued]
    sheets: list[sheets.Sheet]
    tuning: list[dict[str, Any]]
    rates: rates.Rates | None
    repeats: list[dict[str, Any]]
    repeated: repeated_data.Repeated | None
    schedules: schedules.Comparison | None
    saved: dict[str, float] | None
    audits: list[audits.Audit]
    memory: dict[str, memory.Law]

    @property
    def joint(self) -> joint_laws.JointLaw | None:
        """The law that rolling hold-outs select."""
        return self.laws.get(self.rolling.selected)

    @cached_property
    def cost(self) -> optimum.Cost:
        """What compute costs: FLOPs a parameter and token of the runs in the fits."""
        return optimum.cost_of(self.table)


def fit(
    runs: RunTable,
    options: Options,
    outcomes: Path | None = None,
    on_forecast: Callable[[dict[str, Any]], None] = lambda forecast: None,
    filed: dict[str, Any] | None = None,
    say: Callable[[str], None] = silent,
    audited: Path | None = None,
) -> Results:
    """The whole analysis. say: is told each step as it begins.

    filed: a forecast of the sealed budget made before `runs` was read (`holdout.of_directory`); without one it is made
    here, and handed to `on_forecast`, before the sealed losses are used. audited: the folder of launch.audit.
    """
    cooled = selection.cooled(runs)
    alike = holdout.alike(runs)
    say(f"checking {plural(len(runs), 'run')}")
    doubts = quality.check(alike, options)
    options = replace(options, doubt=quality.grave(doubts))
    forecast, sealed = filed, None
    if parts := holdout.seal(alike, options.hold_out_above):
        known, sealed = parts
        if forecast is None:
            say("forecasting the largest budget from the others")
            forecast = holdout.of_table(known, sealed, options)
            on_forecast(forecast)
    tuning = selection.tuned(alike)
    table = alike.take(tuning.keep, tuning.notes) if tuning.cells else alike
    table = drop_highest_loss(table, options.drop_highest_loss)
    say("fitting the IsoFLOP curves of each budget")
    budgets = isoflop.fit(table, options)
    compared = None
    if forecast is not None and sealed is not None:
        sealed = sealed.take(selection.tuned(sealed).keep)
        compared = holdout.compare(forecast, sealed, _fits_of(sealed, table, budgets, options))
    best_of_all = cooled.take(selection.tuned(cooled).keep)
    of_a_kind = selection.of_one_kind(best_of_all)
    say("choosing a joint law by rolling hold-outs")
    forecaster = extrapolation.forecaster(table, options)
    repeated = _repeated(of_a_kind, options)
    say("fitting the joint laws and their bootstrap")
    scored = downstream.read(outcomes, table, options, runs.cell) if outcomes else []
    done = _plainly_fitted(forecaster)
    fitted = {name: done.get(name) or extrapolation.fit(name, table, options) for name in joint_laws.FORMS}
    laws = {name: law for name, law in fitted.items() if law is not None}
    remembered = audits.read(audited, set(map(str, runs.cell))) if audited else []
    say("profiling what the runs tell of each number")
    lines = windows.lines(table, budgets, options)
    rolling = forecaster.rolling if forecaster else extrapolation.rolling(table, options)
    results = Results(
        table=table,
        all_runs=replace(runs, notes=table.notes),
        options=options,
        budgets=budgets,
        lines=lines,
        laws=laws,
        identifiability=_identify(laws.get(rolling.selected), cells.average(table), options),
        rolling=rolling,
        planner=plan_basis.planner(forecaster, table, scored, repeated, lines["N"], compared, laws)
        if forecaster
        else None,
        conventions=conventions.fit(table, options, laws, lines),
        doubts=doubts,
        forecast=forecast,
        holdout=compared,
        outcomes=scored,
        valued=scores.valued(outcomes, table) if outcomes else [],
        sheets=sheets.read(outcomes, table) if outcomes else [],
        tuning=tuning.cells,
        rates=rates.fit(cooled, options),
        repeats=repeats.fit(of_a_kind),
        repeated=repeated,
        schedules=schedules.compare(best_of_all, options),
        saved=schedules.saving(runs),
        audits=remembered,
        memory=memory.fit_all(remembered, options),
    )
    return doubted(results, options.doubt) if options.doubt else results


def _plainly_fitted(forecaster: extrapolation.Forecaster | None) -> dict[str, joint_laws.JointLaw]:
    """The law that the forecaster fitted to all cells alike, with its draws, by name."""
    if forecaster is None or forecaster.rolling.chosen not in joint_laws.FORMS:
        return {}
    return {forecaster.law.name: forecaster.law}


def _identify(
    law: joint_laws.JointLaw | None, table: RunTable, options: Options
) -> identifiability.Identifiability | None:
    """At the largest compute of the runs and ten times it; of a law without draws there is nothing to compare with."""
    if law is None or not options.draws:
        return None
    top = float(table.C.max())
    return identifiability.identify(law, table, (top, 10 * top), options)


def _repeated(table: RunTable, options: Options) -> repeated_data.Repeated | None:
    """None where all runs draw on the same tokens: passes are then as good as D, and no law tells the two apart."""
    unique = table.unique_tokens[np.isfinite(table.unique_tokens)]
    return repeated_data.compare(table, options) if len(np.unique(unique)) > 1 else None


def _fits_of(
    sealed: RunTable, table: RunTable, budgets: list[isoflop.BudgetFit], options: Options
) -> list[isoflop.BudgetFit]:
    """The fit of each sealed budget: the one of the full table where it saw the same runs, else one of its own."""
    seen = {tuple(sorted(table.run[b.rows])): b for b in budgets}
    fits = isoflop.fit(sealed, options)
    return [seen.get(tuple(sorted(sealed.run[b.rows])), b) for b in fits]


def budget_verdict(budget: isoflop.BudgetFit, options: Options) -> Verdict:
    """The word beside N*, D*, L* of one budget."""
    bracketed = budget.verdict == parabola.BRACKETED and not budget.doubtful
    verdict = words.budget(budget.reason, bracketed=bracketed, thin=budget.thin, failed=budget.failed, options=options)
    return doubted(verdict, options.doubt) if options.doubt else verdict


def shared(budget: isoflop.BudgetFit, level: float) -> float:
    """What seeds add to either side of L*, as a share of it; NaN where it has no interval."""
    if budget.shift is None:
        return np.nan
    low, high = interval(budget.shift, level)
    return (high - low) / 2 / budget.L


def joint_optimum(results: Results, budget: isoflop.BudgetFit) -> float:
    """N* of the joint law at this budget's compute; NaN without a law."""
    law = results.joint
    return np.nan if law is None else optimum.optimum(replace(law, draws=law.draws[:0]), budget.C, results.cost).N


def residuals(results: Results) -> Floats:
    """[n] log loss by the joint law, minus that of each run."""
    assert results.joint is not None
    return np.asarray(np.log(results.joint(results.table.N, results.table.D) / results.table.loss))


def parameters(results: Results, law: joint_laws.JointLaw) -> dict[str, tuple[float, tuple[float, float], Verdict]]:
    """Value, interval and word of every parameter of a law of `results.laws`, of which a and b are the slopes of its
    N* and D* under counted C (`optimum.exponents`)."""
    estimates = {
        name: (value, law.intervals[name], law.words(results.options)[name]) for name, value in law.parameters.items()
    }
    through = optimum.computes(law, results.cost, results.table)
    slopes = optimum.exponents(law, np.vstack([law.theta[None], law.good]), through, results.cost)
    for k, name in enumerate("ab"):
        bounds = interval(slopes[1:, k], law.level)
        word = words.slope(bounds, law.apart, len(through), law.failed, results.options)
        estimates[name] = (float(slopes[0, k]), bounds, word)
    return doubted(estimates, results.options.doubt) if results.options.doubt else estimates


def verdicts(results: Results) -> dict[str, Verdict]:
    missing = words.missing(joint_laws.TOO_FEW)
    loss = results.lines["L"].verdict
    if results.planner is not None and results.planner.repeating:
        again = "the runs saw their data again, and no law tells what that costs: beyond them the loss may fall less"
        loss = loss.also(again)
    return {
        "a": results.lines["N"].verdict,
        "b": results.lines["D"].verdict,
        "loss": loss,
        **{name: results.laws[name].verdict if name in results.laws else missing for name in joint_laws.FORMS},
    }


def to_json(results: Results) -> dict[str, Any]:
    """laws.json: plain JSON; unknown numbers are null.

    data: what the laws rest on. options: every choice of the analysis.
    laws.<name>: {formula, parameters, objective, delta, intervals, failed_draws, optima, words, runs}, of
    joint_laws.FORMS. identifiability: of the selected law.
    selected: the one of least error in rolling: {chosen, error_percent: {candidate: mean over folds},
    drift_percent_a_decade, folds: [{above, decades, runs, bias_percent, error_percent}]}, or that of --law.
    isoflop: {a, b, intervals: {a, b, loss}, failed_draws, lines: {N, D, L}, budgets: [one each, with verdict, and
    near: {within, low, high, low_interval, high_interval, open_low, open_high}, the sizes whose fitted loss is at most
    that share above the lowest, and whether they run out of the sizes that the curve saw], method, rule}.
    holdout: {error_percent, median_error_percent, bias_percent, coverage, same_sign, rows: [{run, N, D, C, loss,
    forecast, low, high, word}], optima: [forecast and result of N*, D*, L*]}, null with a single budget.
    outcomes: one each, {task, models, baseline, spearman, compared, ...}; valued: those that are numbers or classes,
    {task, kind, models, compared}; sheets: of questions, {sheet, cell, codes, horizons, scores, ...}.
    verdicts: {a, b, loss, <law>: {word, reason}}.
    left_out: [{run, code, text}]. doubts: the same, of runs that are in the fits. conventions: exponents by what is
    called N, C and D. tuning: the cells run at several settings, with the one chosen and whether it is at
    the edge. rates, repeats, repeated, schedules: null or empty where the study did not vary them. memory: what audits
    found, {models, laws}; null where there are none.
    planner: what `launch.plan` computes plans from, see `plan_basis.to_json`; null without a law.
    Intervals are [low, high] at options.level; C in FLOPs, loss in nats a token.
    """
    table, lines = results.table, results.lines
    told = {name: parameters(results, law) for name, law in results.laws.items()}
    laws = {
        name: {
            "formula": law.form.formula,
            "parameters": {parameter: value for parameter, (value, _, _) in told[name].items()},
            "objective": law.objective,
            "delta": law.delta,
            "intervals": {parameter: bounds for parameter, (_, bounds, _) in told[name].items()},
            "failed_draws": law.failed,
            "optima": {"starts": law.optima[1], "in_the_best": law.optima[0]},
            "words": {parameter: word._asdict() for parameter, (_, _, word) in told[name].items()},
            "runs": len(law.residuals),
        }
        for name, law in results.laws.items()
    }
    record = {
        "schema": SCHEMA,
        "data": {
            "description": describe(table),
            "generated": table.generated,
            "source": table.source,
            "runs": len(table),
            "patients": table.largest("patients"),
            "unique_tokens": table.largest("unique_tokens"),
        },
        "options": asdict(results.options),
        "laws": laws,
        "selected": results.rolling.selected if results.laws else None,
        "identifiability": results.identifiability and identifiability.to_json(results.identifiability),
        "rolling": {
            "chosen": results.rolling.chosen,
            "error_percent": results.rolling.error_percent,
            "drift_percent_a_decade": 100 * results.rolling.drift,
            "folds": results.rolling.folds,
        },
        "isoflop": {
            "a": lines["N"].exponent,
            "b": lines["D"].exponent,
            "intervals": {"a": lines["N"].interval, "b": lines["D"].interval, "loss": lines["L"].interval},
            "failed_draws": lines["N"].failed,
            "lines": {name: _line(law, results.options.level) for name, law in lines.items()},
            "budgets": [_budget(results, b) for b in results.budgets],
            "method": results.options.isoflop,
            "rule": isoflop.rule(results.options),
        },
        "holdout": results.holdout,
        "outcomes": disclosure.rounded([downstream.to_json(o) for o in results.outcomes], table.generated is not False),
        "valued": disclosure.rounded(scores_json.valued(results.valued), table.generated is not False),
        "sheets": sheets.to_json(results.sheets),
        "verdicts": {name: v._asdict() for name, v in verdicts(results).items()},
        "left_out": [note._asdict() for note in table.notes],
        "doubts": [note._asdict() for note in results.doubts],
        "conventions": conventions.to_json(results.conventions),
        "tuning": results.tuning,
        "rates": rates.to_json(results.rates),
        "repeats": results.repeats,
        "repeated": worth_of_passes.to_json(results.repeated),
        "schedules": schedules.to_json(results.schedules, results.saved),
        "memory": memory.to_json(results.audits, results.memory),
        "planner": plan_basis.to_json(results.planner),
    }
    return plain(record)


def _line(law: power_laws.PowerLaw, level: float) -> dict[str, Any]:
    return {
        "formula": "floor + k (C / C0)^exponent",
        "k": np.exp(law.log_k),
        "C0": law.C0,
        "exponent": law.exponent,
        "floor": law.floor,
        "floor_interval": interval(law.draws[:, 2], level) if law.floor > 0 else None,
        "interval": law.interval,
        "budgets": len(law.C),
        "widened_by": law.misfit,
        "windows": law.windows,
        "word": law.verdict.word,
    }


def _budget(results: Results, b: isoflop.BudgetFit) -> dict[str, Any]:
    word = budget_verdict(b, results.options)
    return {
        "C": b.C,
        "runs": len(b.rows),
        "sizes": b.sizes,
        "verdict": b.verdict,
        "reason": b.reason,
        "word": word.word,
        "N": b.N,
        "D": b.D,
        "L": b.L,
        "intervals": {"N": b.N_interval, "D": b.D_interval, "L": b.L_interval},
        "near": _near(b.near, results.options),
        "vertex": b.vertex,
        "failed_draws": b.failed,
        "shared": shared(b, results.options.level),
        "depth": b.depth,
        "scatter": b.scatter,
        "seed_noise": b.seed_noise,
        "lopsided_p": b.lopsided,
        "systematic_p": b.systematic,
        "doubtful": b.doubtful,
        "joint_law_N": joint_optimum(results, b),
    }


def _near(band: parabola.Near | None, options: Options) -> dict[str, Any] | None:
    return band and {"within": options.near, **band._asdict()}
