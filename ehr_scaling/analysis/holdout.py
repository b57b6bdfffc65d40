"""The sealed top of the compute range: forecast from the smaller budgets first, compared with its result after."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis import extrapolation, isoflop, power_laws
from ehr_scaling.analysis.run_table import RunTable
from ehr_scaling.analysis.uncertainty import EXTRAPOLATED, UNIDENTIFIED, Floats, Options
from ehr_scaling.artifacts import fingerprint
from ehr_scaling.errors import UserError


@dataclass(frozen=True)
class Design:
    """What is known of the sealed runs before they are read: no losses. Arrays [m]."""

    run: NDArray[np.str_]
    N: Floats
    D: Floats
    C: Floats
    group: NDArray[np.int64]
    budgets: Floats


def seal(table: RunTable, above: float | None) -> tuple[RunTable, RunTable] | None:
    """Splits the runs: (open, sealed). The sealed ones have C > above, or are the largest budget when above is None.

    Returns: None when there is nothing to forecast from (a single budget).
    Raises: UserError when `above` leaves one side empty.
    """
    if above is None:
        if len(table.budgets) < 2:
            return None
        sealed = table.group == len(table.budgets) - 1
    else:
        sealed = above < table.C
        if sealed.all() or not sealed.any():
            side = "above" if not sealed.any() else "at or below"
            raise UserError(
                f"--hold_out_above={above:g}: no run lies {side} it; "
                f"C runs from {table.C.min():.3g} to {table.C.max():.3g} FLOPs"
            )
    return table.take(~sealed), table.take(sealed)


def design(sealed: RunTable) -> Design:
    """The sealed runs without their losses."""
    return Design(sealed.run, sealed.N, sealed.D, sealed.C, sealed.group, sealed.budgets)


def forecast(known: RunTable, ahead: Design, options: Options) -> dict[str, Any]:
    """Forecasts every sealed cell from the joint law and every sealed optimum from the IsoFLOP laws of `known`.

    The law is the one that rolling hold-outs among `known` select; intervals are those of `extrapolation.Forecaster`.

    Returns: JSON, with "cells" [{run, N, D, C, forecast, low, high}] and "optima" [{C, N, L, ... , word}]; the
    field "reason" says what could not be forecast.
    """
    found = extrapolation.forecaster(known, options)
    lines = power_laws.fit(isoflop.fit(known, options), options)
    rows = [[float(v) for v in row] for row in zip(known.N, known.D, known.C, known.loss, strict=True)]
    result: dict[str, Any] = {
        "made_from": {
            "runs": len(known),
            "budgets": [float(C) for C in known.budgets],
            "fingerprint": fingerprint(rows),
        },
        "law": None,
        "reason": "too few runs below the sealed budget for a joint law",
        "cells": [],
        "optima": [_optimum(lines, float(C), options) for C in ahead.budgets],
    }
    if found is not None:
        law = found.law
        result |= {
            "law": {
                "name": law.name,
                "fit": found.rolling.chosen,
                "parameters": law.parameters,
                "word": law.verdict.word,
            },
            "reason": "",
            "drift_percent_a_decade": _known(100 * found.rolling.drift),
            "cells": _cells(found, ahead),
        }
    return result


def _cells(found: extrapolation.Forecaster, ahead: Design) -> list[dict[str, Any]]:
    word = EXTRAPOLATED if found.law.verdict.word != UNIDENTIFIED else UNIDENTIFIED
    columns = zip(ahead.run, ahead.N, ahead.D, ahead.C, *found(ahead.N, ahead.D, ahead.C), strict=True)
    return [
        {
            "run": str(run),
            "N": float(N),
            "D": float(D),
            "C": float(C),
            "forecast": float(central),
            "low": _known(low),
            "high": _known(high),
            "word": word,
        }
        for run, N, D, C, central, low, high in columns
    ]


def _optimum(lines: dict[str, power_laws.PowerLaw], C: float, options: Options) -> dict[str, Any]:
    point: dict[str, Any] = {"C": C}
    for name in ("N", "D", "L"):
        line = lines[name]
        low, high = line.band(np.array([C]), options.level)
        point[name] = _known(float(line(np.array([C]))[0]))
        point[f"{name}_low"], point[f"{name}_high"] = _known(float(low[0])), _known(float(high[0]))
    point["word"] = lines["N"].word(C)
    point["reason"] = lines["N"].verdict.reason
    return point


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def dated(made: dict[str, Any]) -> dict[str, Any]:
    """A forecast as it is filed: with the time (UTC) and its own fingerprint, which laws.json repeats."""
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), "fingerprint": fingerprint(made), **made}


def compare(made: dict[str, Any], sealed: RunTable, fits: list[isoflop.BudgetFit]) -> dict[str, Any]:
    """Puts the results beside a forecast that was already made.

    fits: the IsoFLOP fits of the sealed budgets themselves, in the order of `made["optima"]`.
    Returns: JSON, {"error_percent": mean |error| of the cells, "median_error_percent", "bias_percent",
    "coverage": share inside the interval, "same_sign": all misses on one side, "rows", "optima",
    "forecast_fingerprint": of the forecast as it was made}.
    """
    digest, made = fingerprint(made), json.loads(json.dumps(made))
    rows = [{**cell, "loss": float(loss)} for cell, loss in zip(made["cells"], sealed.loss, strict=False)]
    result: dict[str, Any] = {
        "rows": rows,
        "made_from": made["made_from"],
        "reason": made["reason"],
        "forecast_fingerprint": digest,
    }
    if rows:
        error = np.array([100 * (r["forecast"] / r["loss"] - 1) for r in rows])
        inside = [r["low"] is not None and r["low"] <= r["loss"] <= r["high"] for r in rows]
        result |= {
            "error_percent": float(np.abs(error).mean()),
            "median_error_percent": float(np.median(np.abs(error))),
            "bias_percent": float(error.mean()),
            "coverage": float(np.mean(inside)),
            "same_sign": bool(len(rows) >= 4 and (np.all(error > 0) or np.all(error < 0))),
        }
    result["optima"] = [
        {
            **point,
            "verdict": fit.verdict,
            "result_N": _known(fit.N),
            "result_N_low": _known(fit.N_interval[0]),
            "result_N_high": _known(fit.N_interval[1]),
            "result_L": _known(fit.L),
        }
        for point, fit in zip(made["optima"], fits, strict=True)
    ]
    return result
