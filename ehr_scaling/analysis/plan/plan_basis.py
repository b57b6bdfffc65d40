"""What a planner is made of, and its way through laws.json."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from ehr_scaling.analysis.draws import Floats, normal_quantile
from ehr_scaling.analysis.forecast import choice, extrapolation, holdout
from ehr_scaling.analysis.forecast.extrapolation import Forecaster, Rolling
from ehr_scaling.analysis.forecast.misfit import Misfit
from ehr_scaling.analysis.isoflop import isoflop, power_laws
from ehr_scaling.analysis.joint.joint_laws import JointLaw
from ehr_scaling.analysis.joint.optimum import Cost, cost_of
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import downstream, sigmoid
from ehr_scaling.analysis.outcomes.outcome_curve import Curve
from ehr_scaling.analysis.plan.plan_words import TOLERANCE
from ehr_scaling.analysis.plan.planner import BAND, GRID, REACH
from ehr_scaling.analysis.plan.record import Planner, Sizing
from ehr_scaling.analysis.repeats.repeated_data import IGNORED, Repeated
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.words import WIDE, Verdict

KEPT = 200  # bootstrap draws that go into laws.json
LEAST_BRACKETED = 3  # budgets under a line whose exponent is not told
_NOTHING = -1e3  # the logarithm of zero, which JSON lacks


def planner(
    forecaster: Forecaster,
    table: RunTable,
    outcomes: Sequence[downstream.Outcome] = (),
    repeated: Repeated | None = None,
    line: power_laws.PowerLaw | None = None,
    sealed: dict[str, Any] | None = None,
    laws: Mapping[str, JointLaw] | None = None,
) -> Planner:
    """Of the table that the forecaster was fitted to, the outcomes scored for its runs, and the laws of repeated data.

    A law of repeats is used where held-out runs tell it from counting every token as new. line: N* of the bracketed
    budgets, fitted here where it is not given. sealed: `holdout.compare` of the sealed budget. laws: by name, fitted to
    all cells alike; those that are given are not fitted again.
    """
    line = line or power_laws.fit(isoflop.fit(table, forecaster.options), forecaster.options)["N"]
    passes = table.passes[np.isfinite(table.passes)]
    unique = table.largest("unique_tokens")
    positions = table.D / (table.passes * table.unique_tokens)
    padding = float(np.nanmedian(positions)) if np.isfinite(positions).any() else 1.0
    return Planner(
        forecaster=forecaster,
        sizing=Sizing(_all_alike(forecaster, table, laws or {}), _line(line, forecaster.options)),
        cost=cost_of(table),
        seen={
            "N": (float(table.N.min()), float(table.N.max())),
            "D": (float(table.D.min()), float(table.D.max())),
            "C": (float(table.C.min()), float(table.C.max())),
            "passes": (float(passes.min()), float(passes.max())) if len(passes) else (np.nan, np.nan),
        },
        patients=table.largest("patients"),
        unique_tokens=unique,
        positions=padding,
        batch=_power_law(table.batch, table.D),
        rate=_power_law(table.lr, table.N, table.batch),
        outcomes=[_curve(o.task, o.curve, forecaster.options.level) for o in outcomes if o.curve and o.verdict.told],
        repeats=_repeats(repeated, unique * padding),
        missed=_missed(sealed),
        doubt=forecaster.options.doubt,
    )


def _all_alike(forecaster: Forecaster, table: RunTable, laws: Mapping[str, JointLaw]) -> tuple[JointLaw, ...]:
    """The forms in the running, each fitted to all cells alike; draws of the first."""
    names = list(dict.fromkeys(name.removesuffix(extrapolation.LOCAL) for name in forecaster.rolling.close))
    first = laws.get(names[0]) or extrapolation.fit(names[0], table, forecaster.options)
    others = [extrapolation.fit(name, table, replace(forecaster.options, draws=0)) for name in names[1:]]
    return tuple(law for law in (first, *others) if law is not None)


def _line(line: power_laws.PowerLaw, options: Options) -> dict[str, Any] | None:
    """An exponent too wide to be called one still belongs to a line between its budgets; beyond them the line is as
    wide as that makes it."""
    wide = np.ptp(line.interval) > options.wide and line.failed <= options.failed and len(line.C) >= LEAST_BRACKETED
    draws = line.draws[np.isfinite(line.draws).all(1)][:KEPT, :2]
    if (not line.verdict.told and not wide) or len(draws) < 20:
        return None
    return {
        "C0": line.C0,
        "log_k": line.log_k,
        "exponent": line.exponent,
        "draws": draws.tolist(),
        "C": [float(line.C[0]), float(line.C[-1])],
    }


def _missed(sealed: dict[str, Any] | None) -> float:
    failed = sealed is not None and not holdout.judged(sealed).told
    return float(sealed["error_percent"]) / 100 if sealed is not None and failed else np.nan


def _repeats(repeated: Repeated | None, unique: float) -> dict[str, Any] | None:
    if repeated is None or repeated.selected == IGNORED or not repeated.verdict.supported or not np.isfinite(unique):
        return None
    drawn = repeated.law.named(repeated.law.good[:KEPT])
    draws = [dict(zip(drawn, map(float, row), strict=True)) for row in zip(*drawn.values(), strict=True)]
    return {"law": repeated.selected, "parameters": repeated.law.parameters, "draws": draws, "unique": unique}


def _curve(task: str, curve: Curve, level: float) -> dict[str, Any]:
    good = curve.draws[np.isfinite(curve.draws).all(1)][:KEPT]
    return {
        "task": task,
        "floor": sigmoid.FORMS[curve.form][0],
        "centre": curve.centre,
        "spread": curve.spread,
        "theta": curve.theta.tolist(),
        "draws": good.tolist(),
        "noise_reach": curve.noise * float(special.stdtrit(curve.freedom, (1 + level) / 2)),
        "others": [[sigmoid.FORMS[form][0], *theta.tolist()] for form, theta in curve.others.items()],
        "losses": list(curve.losses),
    }


def _power_law(y: Floats, *of: Floats) -> list[float] | None:
    """Coefficients of log y in 1 and the logs of `of`, by least squares; None where a column is not recorded."""
    if not all(np.isfinite(column).all() and (column > 0).all() for column in (y, *of)):
        return None
    X = np.column_stack([np.ones(len(y)), *(np.log(column) for column in of)])
    # The least change that explains what was done: a quantity that did not vary gets the exponent 0.
    middle = X[:, 1:].mean(0)
    slopes = np.linalg.pinv(X[:, 1:] - middle, rcond=1e-8) @ (np.log(y) - np.log(y).mean())
    return [float(np.log(y).mean() - middle @ slopes), *map(float, slopes)]


def to_json(known: Planner | None) -> dict[str, Any] | None:
    """The planner as laws.json has it: what `from_json` and planner.js compute plans from."""
    if known is None:
        return None
    forecaster = known.forecaster
    return {
        "laws": [_law(law) for law in forecaster.laws],
        "sizing": {"laws": [_law(law) for law in known.sizing.laws], "line": known.sizing.line},
        "candidates": forecaster.rolling.close,
        "drift": forecaster.rolling.drift,
        "size_drift": known.size_drift,
        "doubt": known.doubt,
        "usual_drift": choice.UNSEEN_DRIFT,
        "nearest": extrapolation.NEAREST,
        "noise": forecaster.noise,
        "misfit": {"level": forecaster.misfit.level, "deviation": forecaster.misfit.deviation},
        "widened": forecaster.widened,
        "shared": forecaster.shared,
        "top": forecaster.top,
        "level": forecaster.options.level,
        "z": normal_quantile(forecaster.options.level),
        "cost": {"sizes": known.cost.sizes, "flops": known.cost.flops, "slopes": known.cost.slopes},
        "seen": known.seen,
        "patients": known.patients,
        "unique_tokens": known.unique_tokens,
        "batch": known.batch,
        "rate": known.rate,
        "outcomes": known.outcomes,
        "positions": known.positions,
        "repeats": known.repeats,
        "grid": GRID,
        "reach": REACH,
        "band": BAND,
        "tolerance": TOLERANCE,
        "wide": WIDE,
        "missed": known.missed,
    }


def _law(law: JointLaw) -> dict[str, Any]:
    return {
        "name": law.name,
        "theta": np.maximum(law.theta, _NOTHING),
        "scale": law.scale,
        "draws": np.maximum(law.good[:KEPT], _NOTHING),
        "word": law.verdict.word,
        "reason": law.verdict.reason,
    }


def _law_of(record: dict[str, Any], level: float) -> JointLaw:
    return JointLaw(
        name=record["name"], theta=_floats(record["theta"]), scale=tuple(record["scale"]), objective=np.nan,
        delta=np.nan, lowest=np.nan, residuals=np.empty(0), draws=_floats(record["draws"]).reshape(-1, 6),
        failed=np.nan, optima=(0, 0), basins=0, level=level, verdict=Verdict.read(record),
    )  # fmt: skip


def from_json(record: dict[str, Any]) -> Planner:
    """What `to_json` wrote, after its way through JSON; the laws keep what a forecast needs, and no residuals.

    Raises: KeyError, TypeError or ValueError for a record that is none.
    """
    level = float(record["level"])
    laws = tuple(_law_of(law, level) for law in record["laws"])
    sizing = Sizing(tuple(_law_of(law, level) for law in record["sizing"]["laws"]), record["sizing"]["line"])
    close = tuple(record["candidates"])
    rolling = Rolling([], {}, close[0], close, float(_floats(record["drift"])))
    misfit = Misfit(_floats(record["misfit"]["level"]), _floats(record["misfit"]["deviation"]))
    forecaster = Forecaster(
        laws,
        rolling,
        float(record["top"]),
        _floats(record["noise"]),
        Options(level=level),
        misfit,
        record["widened"],
        record["shared"],
    )
    seen = {
        name: (float(low), float(high)) for name, (low, high) in ((k, _floats(v)) for k, v in record["seen"].items())
    }
    cost = Cost(*(_floats(record["cost"][name]) for name in ("sizes", "flops", "slopes")))
    return Planner(
        forecaster, sizing, cost, seen, float(_floats(record["patients"])),
        float(_floats(record["unique_tokens"])), float(record["positions"]), record["batch"], record["rate"],
        record["outcomes"], record["repeats"],
        float(_floats(record["missed"])), float(record["size_drift"]), str(record["doubt"]),
    )  # fmt: skip


def _floats(value: Any) -> Floats:
    """JSON's null is NaN."""
    return np.array(value, np.float64)
