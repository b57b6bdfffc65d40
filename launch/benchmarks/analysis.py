"""The laws against published fits of public run tables, and what they forecast beyond the runs they saw."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.forecast import choice, extrapolation, holdout
from ehr_scaling.analysis.isoflop import isoflop, parabola, power_laws
from ehr_scaling.analysis.joint import joint_laws, newton
from ehr_scaling.analysis.joint.optimum import optimum, proportional
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan.record import repeated_loss
from ehr_scaling.analysis.repeats import repeated_laws
from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.tables.run_table import RunTable, drop_highest_loss, from_rows
from ehr_scaling.analysis.words import UNIDENTIFIED

from . import simulated_studies
from .flags import TABLES
from .rows import Row, row, seconds

OPTIONS = Options()
# Exponents of N*, from the configuration of Kaplan et al. to a tuned one (Porian et al. 2024, arXiv 2406.19146)
LADDER = {
    "rw/base/long/kaplan/kaplan/train": ("as Kaplan et al.", 0.835),
    "rw/base/long/kaplan/standard/val": ("the last layer's FLOPs counted", 0.706),
    "rw/base/short/kaplan/standard/val": ("warm-up scaled to the model", 0.602),
    "rw/base/short/chinchilla/standard/val": ("cosine matched to the length", 0.571),
    "rw/tuned/short/const/standard/val": ("optimizer tuned", 0.497),
}
HELD_OUT = 0.25  # of the range of log C, at its top
COMPARED = (*joint_laws.FORMS, extrapolation.USUAL)
SIMULATED = 10  # studies of each family
# Of unrepeated C4 (Muennighoff et al. 2023, appendix A)
C4 = {"E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974), "alpha": 0.3526596, "beta": 0.3526596}


def rows() -> Iterator[Row]:
    folder = Path(TABLES.value)
    if not folder.is_dir():
        yield row(f"public tables: left out, for there is no {folder}: see --tables", float("nan"), "")
        yield from _speed(*_made_up())
        return
    chinchilla = drop_highest_loss(readers.read(folder / "chinchilla_epoch_245.csv"), 5)
    yield from _speed(chinchilla.N, chinchilla.C / (6 * chinchilla.N), chinchilla.loss)
    yield from _published(chinchilla)
    yield from _isoflop_ladder(folder)
    yield from _repeated(folder / "muennighoff_182.csv")
    yield from _held_out(_tables(folder, chinchilla))


def _made_up() -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7.5, 10, 240), 10 ** rng.uniform(9, 11.5, 240)
    return N, D, (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.01 * rng.standard_normal(240))


def _speed(N: Floats, D: Floats, loss: Floats) -> Iterator[Row]:
    laws = []
    for name in joint_laws.FORMS:
        taken = seconds(lambda name=name: laws.append(joint_laws.fit(name, N, D, loss, None, OPTIONS)))  # type: ignore[misc]
        target = 2.0 if name == "chinchilla" else None
        yield row(f"{name}: fit and 1,000 bootstrap draws, {len(N)} runs", taken, "s", target, False)
    x, z, y, delta = np.log(N), np.log(D), np.log(loss), OPTIONS.delta

    def objective(p: Any) -> float:
        r = np.abs(np.logaddexp.reduce([np.full(len(x), p[0]), p[1] - p[3] * x, p[2] - p[4] * z]) - y)
        return float(np.sum(np.where(r < delta, r * r / 2, delta * (r - delta / 2))))

    starts = [
        (e, a, b, i, j) for e in (0.0, 1.0) for a in (0, 10) for b in (0, 10) for i in (0.3, 0.8) for j in (0.3, 0.8)
    ]
    best = []
    s = seconds(lambda: best.append(min(minimize(objective, start, method="L-BFGS-B").fun for start in starts)))
    yield row(f"  compare: {len(starts)} starts of L-BFGS, Chinchilla's law alone, no draws", s, "s")
    ours = next(law.objective for law in laws if law is not None and law.name == "chinchilla")
    yield row("  Chinchilla's objective, ours", ours, "", best[-1] * (1 + 1e-6), False)


def _within(name: str, value: float, published: float, tolerance: float) -> Row:
    """`tolerance` is absolute, in the value's own unit."""
    record = row(f"{name} (published {published:g}, ± {tolerance:.3g})", value, "")
    return {**record, "target": published, "ok": bool(abs(value - published) <= tolerance)}


def _published(table: RunTable) -> Iterator[Row]:
    """Besiroglu et al. 2024, arXiv 2404.10102."""
    law = joint_laws.fit("chinchilla", table.N, table.C / (6 * table.N), table.loss, table.clusters, OPTIONS)
    assert law is not None
    yield row("Chinchilla's runs: objective", law.objective, "", 1.018275e-3, False)
    expected = {
        "E": (1.81722, 5e-4), "A": (477.83, 4.7783), "B": (2143.4, 64.3), "alpha": (0.34731, 5e-4),
        "beta": (0.36717, 1e-3), "a": (0.51390, 5e-4),
    }  # fmt: skip
    for name, (value, tolerance) in expected.items():
        yield _within(f"  {name}", law.parameters[name], value, tolerance)
    draws = law.named(law.draws)
    for name, published in (("E", 0.0257), ("alpha", 0.0154), ("beta", 0.0206)):
        yield _within(f"  standard error of {name}", float(np.nanstd(draws[name])), published, 0.12 * published)
    best = optimum(law, 5.76e23, proportional())
    low, high = best.interval("D/N", 0.8)
    yield _within("  best size at 5.76e23 FLOPs, 10⁹ parameters", best.N / 1e9, 73.2, 0.3)
    yield _within("  tokens a parameter there", best.D / best.N, 17.9, 0.3)
    yield row("    low end of its 80 % interval (published about 10.4)", low, "")
    yield row("    high end (published about 28.7)", high, "")


def _repeated(path: Path) -> Iterator[Row]:
    table = list(csv.DictReader(path.open()))
    N, D, U, loss = (np.array([float(r[name]) for r in table]) for name in ("N", "D", "U", "loss"))
    missed = np.log(repeated_loss({**C4, "R_D": 15.39, "R_N": 5.31}, N, D, U) / loss)
    published = float(newton.huber(missed, OPTIONS.delta).sum())
    # Published to seven digits
    yield _within("Repeated data: objective at the published R*", published, 0.0158259, 5e-8)
    effective = repeated_laws.fit("effective", N, D, U, loss, None, OPTIONS)
    assert effective is not None
    # The lowest for the published base; here that is fitted too
    yield row("  objective, ours", effective.objective, "", 0.0158047, False)
    for end, value in zip(("low", "high"), effective.intervals["R_D"], strict=True):
        yield row(f"  R_D*, {end} end of its interval", value, "repeats")
    # One split is published, and not given: means of ten here
    for name, error in (("penalty", 2.98), ("effective", 3.65), ("chinchilla", 4.83)):
        law = repeated_laws.fit(name, N, D, U, loss, None, replace(OPTIONS, draws=0))
        assert law is not None
        folds = [np.random.default_rng(seed).permutation(len(N)) % 10 for seed in range(10)]
        missed = [repeated_laws.held_out(law, N, D, U, loss, fold, OPTIONS.delta) for fold in folds]
        mean = float(np.mean([100 * np.abs(np.expm1(m)).mean() for m in missed]))
        yield row(f"  {name}: error of 10-fold cross-validation (published {error})", mean, "%")


def _isoflop_ladder(folder: Path) -> Iterator[Row]:
    tables, akima, wide = _configurations(folder), replace(OPTIONS, isoflop="akima"), replace(OPTIONS, window=np.inf)

    def law(config: str) -> power_laws.PowerLaw:
        return power_laws.fit(isoflop.fit(tables[config], akima), akima)["N"]

    for config, (what, published) in LADDER.items():
        yield _within(f"IsoFLOP ladder, {what}: exponent of N*", law(config).exponent, published, 0.012)
    taken = seconds(lambda: law(next(iter(LADDER))))
    yield row("  the first of these: curves, laws and 1,000 bootstrap draws", taken, "s", 2.0, False)
    first = isoflop.fit(tables[next(iter(LADDER))], wide)
    slope = np.polyfit(np.log([b.C for b in first]), np.log([b.vertex for b in first]), 1)[0]
    yield row("  compare: parabolas through all sizes, every vertex taken, as Kaplan et al.", float(slope), "")
    flagged = power_laws.fit(first, wide)["N"].verdict.word == UNIDENTIFIED
    yield row("  and our word for the law of these: 1 where it is unidentified", float(flagged), "", 1.0)


def _configurations(folder: Path) -> dict[str, RunTable]:
    rows = list(csv.DictReader((folder / "porian_isoflop_long.csv").open()))
    return {
        config: from_rows([{**r, "budget": r["C"]} for r in rows if r["config"] == config], source=config)
        for config in dict.fromkeys(r["config"] for r in rows)
    }


def _tables(folder: Path, chinchilla: RunTable) -> dict[str, RunTable]:
    return {"chinchilla": chinchilla, **_configurations(folder)}


def _groups(tables: dict[str, RunTable]) -> dict[str, list[RunTable]]:
    """The tables by the study they come from: configurations of one study err alike, and are not as many witnesses."""
    groups: dict[str, list[RunTable]] = {}
    for name, table in tables.items():
        groups.setdefault(name.split("/")[0], []).append(table)
    return groups


def _beyond(what: str, tables: Iterable[RunTable], targets: bool) -> Iterator[Row]:
    """Every table's top quarter of the range of log C, forecast from what lies below; and its largest budget's N*."""
    errors, inside, widths, sizes = [], [], [], []
    fixed: dict[str, list[float]] = {name: [] for name in COMPARED}
    quick, count = replace(OPTIONS, draws=200), 0
    for table in tables:
        level = np.log(table.C)
        above = level > level.max() - HELD_OUT * np.ptp(level)
        known, ahead = table.take(~above), table.take(above)
        forecaster = extrapolation.forecaster(known, quick)
        if forecaster is None:
            continue
        count += 1
        central, low, high = forecaster(ahead.N, ahead.D, ahead.C)
        errors.append(100 * float(np.abs(central / ahead.loss - 1).mean()))
        inside.append(float(np.mean((low <= ahead.loss) & (ahead.loss <= high))))
        widths.append(100 * float(np.median((high - low) / central)))
        for name, values in fixed.items():
            law = extrapolation.fit(name, known, replace(OPTIONS, draws=0))
            assert law is not None
            values.append(100 * float(np.abs(law(ahead.N, ahead.D) / ahead.loss - 1).mean()))
        sizes += _sealed_size(table, quick)

    def met(target: float) -> float | None:
        return target if targets else None

    what = f"{what}, top {HELD_OUT:.0%} of log C held out, {count} tables"
    yield row(f"{what}: mean error", _mean(errors), "%", met(1.6), False)
    yield row("  median error", float(np.median(errors)), "%", met(1.4), False)
    yield row("  95 % intervals that hold the result", 100 * _mean(inside), "%", met(90))
    yield row("  median width", float(np.median(widths)), "%", met(8), False)
    yield row(f"  N* of the largest budget inside its interval, of {len(sizes)}", 100 * _mean(sizes), "%", met(90))
    for name, values in fixed.items():
        yield row(f"  compare: always {name}, mean error", _mean(values), "%")


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _sealed_size(table: RunTable, options: Options) -> list[float]:
    """[1 or 0] whether N* of the largest budget lies inside its forecast; empty where either cannot be told."""
    parts = holdout.seal(table, None)
    if parts is None:
        return []
    fits, top = isoflop.fit(parts[0], options), float(parts[1].budgets[-1])
    forecast = holdout.optimum(fits, power_laws.fit(fits, options), top, choice.UNSEEN_DRIFT, options)
    actual = isoflop.fit(parts[1], options)[0]
    if actual.verdict != parabola.BRACKETED or forecast["N_low"] is None:
        return []
    return [float(forecast["N_low"] <= actual.N <= forecast["N_high"])]


def _held_out(tables: dict[str, RunTable]) -> Iterator[Row]:
    """The public tables together and by study, and simulated studies by family.

    What the forecasts are made with was chosen on simulated studies of other seeds; those here, and the public tables,
    only report.
    """
    yield from _beyond("Public tables", tables.values(), True)
    for study, study_tables in _groups(tables).items():
        yield from _beyond(f"  of them {study}", study_tables, False)
    for family in simulated_studies.FAMILIES:
        simulated = (simulated_studies.study(family, seed).table for seed in range(SIMULATED))
        yield from _beyond(f"Simulated studies, {family}", simulated, True)
