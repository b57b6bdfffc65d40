"""Two tokenizations or recipes, A and B: how their losses differ at equal cells, and what that is worth in compute.

Losses are in one unit (`comparable`). The compute multiplier is C_A / C_B at equal loss, C being the least compute that
reaches it (`frontiers`): below 1, A is the cheaper way to B's loss.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from ehr_scaling.analysis import words
from ehr_scaling.analysis.compare import frontiers, loss_to_loss
from ehr_scaling.analysis.compare.comparable import Common
from ehr_scaling.analysis.compare.frontiers import Frontier
from ehr_scaling.analysis.compare.loss_to_loss import LossToLoss, Pairs
from ehr_scaling.analysis.draws import interval
from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.isoflop import isoflop
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.joint_laws import AUTO, JointLaw
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.tables import selection
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import decimal, plural, power, signed, significant, span
from ehr_scaling.analysis.words import PENDING, Verdict

LEVELS = 5  # losses at which the multiplier is told


@dataclass(frozen=True)
class Paired:
    """Loss of A over that of B at equal cells, mean of the logarithm over cells.

    at: what is equal: "N and D" or "N and C". percent: 100 (A / B - 1). lower: in how many cells A is lower.
    """

    at: str
    cells: int
    lower: int
    percent: float
    interval: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True)
class Multiplier:
    """C_A / C_B at the losses that both reach inside their own compute.

    rows: {loss, C_a, C_b, multiplier, low, high}, by falling loss. The number is that of the last, the lowest loss
    that both reach. trend: its ratio to that of the first, with interval. kind: the law it comes from.
    failed: share of draws that do not come to one of the losses. by_law: what each law says of the number; NaN where
    it does not come to that loss.
    """

    kind: str
    rows: list[dict[str, float]]
    value: float
    interval: tuple[float, float]
    trend: float
    trend_interval: tuple[float, float]
    failed: float
    by_law: dict[str, float]
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """tables: the runs compared. loss_to_loss: the loss of B as a law of that of A, over the paired cells.

    in_units: {unit: {tokens_a, tokens_b: tokens a unit, percent: the paired difference in that unit}}, of every unit
    that both directories of runs know. notes: of `comparable.Common`.
    """

    unit: str
    tables: tuple[RunTable, RunTable]
    paired: Paired
    multiplier: Multiplier
    loss_to_loss: LossToLoss
    options: Options
    in_units: dict[str, dict[str, float]]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return summary(self)


def compare(common: Common, options: Options | None = None) -> Comparison:
    """Compares runs whose losses are in one unit. Of each table the runs that a law is fitted to: cooled, of one kind,
    on all patients, each cell at its best setting."""
    options = options or Options()
    tables = (_ready(common.a), _ready(common.b))
    at, pairs = "N and D", loss_to_loss.matched(*tables)
    if not len(pairs):
        at, pairs = "N and C", loss_to_loss.matched(*tables, at="C")
    difference = paired(pairs, at, options)
    return Comparison(
        common.unit,
        tables,
        difference,
        multiplier(*tables, options),
        loss_to_loss.fit(pairs.L1, pairs.L2, pairs.cluster, options),
        options,
        _in_units(difference, common),
        common.notes,
    )


def _in_units(difference: Paired, common: Common) -> dict[str, dict[str, float]]:
    """Tokens a unit are one number for all runs of a directory, so that a ratio of losses a token is one in any unit
    but for a factor."""
    per = common.tokens_per
    if common.unit not in per:
        return {}
    a, b = per[common.unit]
    ratio = (1 + difference.percent / 100) * b / a  # of the losses a token
    return {u: {"tokens_a": x, "tokens_b": y, "percent": 100 * (ratio * x / y - 1)} for u, (x, y) in per.items()}


def _ready(table: RunTable) -> RunTable:
    table = selection.on_all_patients(selection.of_one_kind(selection.cooled(table)))
    tuning = selection.tuned(table)
    return table.take(tuning.keep, tuning.notes) if tuning.cells else table


def paired(pairs: Pairs, at: str, options: Options) -> Paired:
    """By Student's t over cells: their seeds, and checkpoints of one run, count as one, and few make it wide."""
    differences = np.log(pairs.L1 / pairs.L2)
    units, unit = np.unique(pairs.cluster, return_inverse=True)
    if not len(units):
        nothing = "no cell of A has its N with the D, or the C, of one of B"
        return Paired(at, 0, 0, np.nan, (np.nan, np.nan), words.missing(nothing))
    means = np.bincount(unit, weights=differences) / np.bincount(unit)
    of_cells = np.bincount(pairs.cell, weights=differences)
    lower, mean = int((of_cells < 0).sum()), float(means.mean())
    low = high = np.nan
    if len(units) > 1:
        reach = float(
            special.stdtrit(len(units) - 1, (1 + options.level) / 2) * means.std(ddof=1) / np.sqrt(len(units))
        )
        low, high = (100 * float(np.expm1(mean + side * reach)) for side in (-1, 1))
    told = "" if low > 0 or high < 0 else "; which is lower is not told"
    reason = f"A is lower in {lower} of {plural(len(of_cells), 'cell')} at equal {at}{told}"
    verdict = words.paired(len(units), at, reason)
    bounds = (low, high) if verdict.told else (np.nan, np.nan)
    return Paired(at, len(of_cells), lower, 100 * float(np.expm1(mean)), bounds, verdict)


def multiplier(a: RunTable, b: RunTable, options: Options) -> Multiplier:
    """By the optima of the bracketed budgets, between which log L is taken as straight in log C, where both tables have
    three of them: inside the data no law is needed. On four pairs of public IsoFLOP tables the joint laws were off by
    up to a factor of 1.8 at the lowest loss, and the optima by 2 %.

    Otherwise by one joint law for both tables, so that what its form gets wrong is wrong for both: options.law, or of
    all that can be fitted the one of least n log(objective) + 2 parameters (AIC). Half of the widest distance between
    the laws is then added to the interval. Where no law is told, and both ran the same sizes at the same budgets, by
    the least losses of these: of 3 × 3 × 2 simulated runs these held a known factor in 87 to 97 %, and were twice as
    far off as laws that are told. The tables' draws are independent, which is wide where they share test patients.
    """
    tables = (a, b)
    seeds = [replace(options, seed=options.seed + k) for k in range(2)]  # the same seed would pair runs by accident
    fits = {name: laws for name in joint_laws.FORMS if (laws := _laws(name, tables, seeds, draws=0))}
    each = {name: frontiers.of_laws(laws, tables) for name, laws in fits.items()}
    budgets = [isoflop.fit(table, seeded) for table, seeded in zip(tables, seeds, strict=True)]
    optima = [side for table_fits in budgets if (side := frontiers.of_optima(table_fits))]
    if len(optima) == 2:
        lines = [side for table_fits in budgets if (side := frontiers.of_line(table_fits, options))]
        each |= {frontiers.LINES: lines} if len(lines) == 2 else {}
        return _between(optima, each, options, widened=False)
    if not fits:
        return _by_least(tables, each, seeds, "A or B has too few bracketed budgets, and too few runs for a joint law")
    best = min(fits, key=lambda name: _criterion(fits[name])) if options.law == AUTO else options.law
    laws = _laws(best, tables, seeds)
    if not laws:
        return _by_least(tables, each, seeds, f"law={best} cannot be fitted to both")
    sides = frontiers.of_laws(laws, tables)
    for name, law in zip("AB", laws, strict=True):
        if not law.verdict.told:
            return _by_least(tables, each, seeds, f"the law of {name} is unidentified: {law.verdict.reason}")
    return _between(sides, each, options, widened=True)


def _by_least(
    tables: tuple[RunTable, RunTable], each: dict[str, list[Frontier]], seeds: list[Options], why: str
) -> Multiplier:
    sides = [frontiers.of_least(table, seeded) for table, seeded in zip(tables, seeds, strict=True)]
    usable = [side for side in sides if side is not None]
    same = loss_to_loss.matched(*tables, at="C").unmatched == (0, 0)
    return _between(usable, each, seeds[0], widened=False) if len(usable) == 2 and same else _no_multiplier("none", why)


def _laws(
    name: str, tables: tuple[RunTable, RunTable], seeds: list[Options], draws: int | None = None
) -> list[JointLaw]:
    """That law of both tables; empty where one has none."""
    fitted = []
    for table, seeded in zip(tables, seeds, strict=True):
        options = seeded if draws is None else replace(seeded, draws=draws)
        fitted.append(extrapolation.fit(name, table, options))
    laws = [law for law in fitted if law is not None]
    return laws if len(laws) == len(fitted) else []


def _criterion(laws: list[JointLaw]) -> float:
    n = [len(law.residuals) for law in laws]
    objectives = [max(law.objective, 1e-300) for law in laws]
    return float(np.dot(n, np.log(objectives))) + 2 * len(laws) * len(laws[0].form.free)


def _between(
    sides: list[Frontier], others: dict[str, list[Frontier]], options: Options, *, widened: bool
) -> Multiplier:
    kind = sides[0].kind
    ends = np.array([side.curve(np.array(side.C))[0] for side in sides])  # [2, 2] at least and most compute
    high, low = ends[:, 0].min(), ends[:, 1].max()
    if not low < high:
        reach = " and ".join(f"{significant(e[0])} to {significant(e[1])}" for e in ends)
        return _no_multiplier(kind, f"the curves do not overlap: A and B reach losses of {reach} in their compute")
    levels = np.exp(np.linspace(np.log(high), np.log(low), LEVELS))
    ratios, reached = frontiers.log_ratios(sides, levels)
    by_law = {name: frontiers.log_ratios(pair, levels)[0][0] for name, pair in others.items()}
    apart = np.zeros(LEVELS)
    if widened:
        distances = [np.nan_to_num(np.abs(value - ratios[0])) for value in by_law.values()]
        apart = np.max([apart, *distances], axis=0) / 2
    rows, bounds = [], np.full((LEVELS, 2), np.nan)
    for k, loss in enumerate(levels):
        offsets = interval(ratios[1:, k], options.level) - ratios[0, k]
        bounds[k] = ratios[0, k] + np.hypot(offsets, apart[k]) * (-1, 1)
        C_a, C_b = (float(np.exp(r[0, k])) for r in reached)
        row = {"loss": float(loss), "C_a": C_a, "C_b": C_b, "multiplier": C_a / C_b}
        rows.append(row | dict(zip(("low", "high"), np.exp(bounds[k]).tolist(), strict=True)))
    trends = ratios[:, -1] - ratios[:, 0]
    trend = trends[0] + np.hypot(interval(trends[1:], options.level) - trends[0], np.hypot(*apart[[0, -1]])) * (-1, 1)
    unjudged = Multiplier(
        kind=kind,
        rows=rows,
        value=rows[-1]["multiplier"],
        interval=(rows[-1]["low"], rows[-1]["high"]),
        trend=float(np.exp(trends[0])),
        trend_interval=(float(np.exp(trend[0])), float(np.exp(trend[1]))),
        failed=float(np.isnan(ratios[1:]).any(1).mean()) if len(ratios) > 1 else 1.0,
        by_law={name: float(np.exp(value[-1])) for name, value in by_law.items()},
        verdict=PENDING,
    )
    return replace(unjudged, verdict=_judge(unjudged, options))


def _judge(m: Multiplier, options: Options) -> Verdict:
    low, high = m.interval
    which = "A needs less compute" if high < 1 else "A needs more compute" if low > 1 else "not told from equal"
    before, after = m.trend_interval
    drift = "falls with compute" if after < 1 else "grows with compute" if before > 1 else "no change with compute told"
    inside = f"losses {significant(m.rows[0]['loss'])} to {significant(m.rows[-1]['loss'])} are inside both"
    return words.multiplier(m.interval, m.failed, f"{which}; {inside}; {drift}", options)


def _no_multiplier(kind: str, reason: str) -> Multiplier:
    nan = np.nan
    return Multiplier(kind, [], nan, (nan, nan), nan, (nan, nan), nan, {}, words.missing(reason))


def to_json(comparison: Comparison) -> dict[str, Any]:
    """compare.json: unit; a, b: {source, runs, left_out}; paired; units {unit: {tokens_a, tokens_b, percent}};
    multiplier (C_A / C_B); loss_to_loss (B of A); notes. Unknown numbers are null. Intervals at `level`."""
    sides = {
        name: {"source": t.source, "runs": len(t), "left_out": [note._asdict() for note in t.notes]}
        for name, t in zip("ab", comparison.tables, strict=True)
    }
    p, m = comparison.paired, comparison.multiplier
    record = {
        "unit": comparison.unit,
        "level": comparison.options.level,
        "draws": comparison.options.draws,
        "seed": comparison.options.seed,
        **sides,
        "paired": {**vars(p), "verdict": p.verdict._asdict()},
        "units": comparison.in_units,
        "multiplier": {**vars(m), "verdict": m.verdict._asdict()},
        "loss_to_loss": loss_to_loss.to_json(comparison.loss_to_loss),
        "notes": list(comparison.notes),
    }
    return dict(plain(record))


def summary(comparison: Comparison) -> str:
    """The comparison in the few lines that a terminal has room for."""
    p, m, law = comparison.paired, comparison.multiplier, comparison.loss_to_loss
    a, b = comparison.tables
    article = "an" if comparison.unit[0] in "aeiou" else "a"
    lines = [
        f"A: {plural(len(a), 'run')} of {a.source}; B: {plural(len(b), 'run')} of {b.source}; "
        f"nats {article} {comparison.unit}",
        f"loss of A against B at equal {p.at}: {_signed_percent(p.percent)}  "
        f"[{span(p.interval, _signed_percent)}]  {p.verdict.word}: {p.verdict.reason}",
        *_units_line(comparison),
        f"compute of A for the loss of B: x {significant(m.value)}  [{span(m.interval, significant)}]  "
        f"{m.verdict.word}: {m.verdict.reason} ({m.kind})",
    ]
    lines += [
        f"  loss {decimal(row['loss'])}: A {power(row['C_a'])}, B {power(row['C_b'])} FLOPs, "
        f"x {significant(row['multiplier'])}  [{span((row['low'], row['high']), significant)}]"
        for row in m.rows
    ]
    if m.by_law:
        lines.append("  by law: " + ", ".join(f"{name} x {significant(value)}" for name, value in m.by_law.items()))
    fitted = ", ".join(
        f"{name} {significant(value)} [{span(law.intervals[name], significant)}]"
        for name, value in law.parameters.items()
    )
    lines.append(f"loss of B by that of A ({law.form}): {fitted}  {law.verdict.word}: {law.verdict.reason}")
    return "\n".join([*lines, *comparison.notes])


def _units_line(comparison: Comparison) -> list[str]:
    parts = [
        f"{_signed_percent(in_unit['percent'])} a {unit} ({significant(in_unit['tokens_a'])} tokens of A, "
        f"{significant(in_unit['tokens_b'])} of B)"
        for unit, in_unit in comparison.in_units.items()
    ]
    return ["  the same in every unit: " + "; ".join(parts).replace(" a event", " an event")] if parts else []


def _signed_percent(value: float | None) -> str:
    return f"{signed(value, 2)} %" if value is not None and np.isfinite(value) else "–"
