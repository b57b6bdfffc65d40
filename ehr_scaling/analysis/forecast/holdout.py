"""The sealed top of the compute range: forecast from the smaller budgets first, compared with its result after.

Of a directory of runs beside its grid, the forecast is filed before any file with a sealed loss is opened
(`of_directory`). In one table the columns come together: the sealed losses are read, but go into nothing (`of_table`).
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, normal_quantile
from ehr_scaling.analysis.forecast import choice, extrapolation
from ehr_scaling.analysis.isoflop import isoflop, parabola, power_laws, windows
from ehr_scaling.analysis.joint import quality
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables import planned_runs, readers, selection
from ehr_scaling.analysis.tables.run_table import RunTable, drop_highest_loss
from ehr_scaling.analysis.wording import power
from ehr_scaling.analysis.words import Place, Verdict
from ehr_scaling.artifacts import fingerprint
from ehr_scaling.errors import UserError

# When the sealed losses were read, beside the forecast
AFTER, WITH_THE_TABLE = "after", "with the table"


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


def alike(runs: RunTable) -> RunTable:
    """The runs that one law can hold, by what is known before their losses."""
    return selection.on_all_patients(selection.of_one_kind(selection.cooled(runs)))


def of_directory(runs: Path, options: Options, *, drop_bad_rows: bool = False) -> dict[str, Any] | None:
    """The forecast of a directory's sealed runs, whose files stay closed.

    Returns: as `forecast`; None where it cannot be made without them: no grid tells of the runs (`planned_runs`), or
    there is a single budget.
    Raises: UserError as `seal`, and `readers.read_directory` for the open runs.
    """
    planned = planned_runs.read(runs)
    if planned is None or not (parts := seal(alike(planned), options.hold_out_above)):
        return None
    known, sealed = parts
    read = readers.read_directory(runs, drop_bad_rows=drop_bad_rows, without=frozenset(sealed.run.tolist()))
    quality.affordable(read, options)
    return _of_open(read.take(np.isin(read.run, known.run)), design(sealed), options, AFTER)


def of_table(known: RunTable, sealed: RunTable, options: Options) -> dict[str, Any]:
    """As `of_directory`, of tables that `seal` made from one."""
    return _of_open(known, design(sealed), options, WITH_THE_TABLE)


def _of_open(known: RunTable, ahead: Design, options: Options, losses: str) -> dict[str, Any]:
    # Settings and highest losses are sought among the open runs only, so that the forecast owes nothing to the sealed.
    known = known.take(selection.tuned(known).keep)
    known = drop_highest_loss(known, min(options.drop_highest_loss, len(known) - 1))
    return {**forecast(known, ahead, options), "sealed_losses_read": losses}


def forecast(known: RunTable, ahead: Design, options: Options) -> dict[str, Any]:
    """Forecasts every sealed cell from the joint law and every sealed optimum from the IsoFLOP laws of `known`.

    The law is the one that rolling hold-outs among `known` select; intervals are those of `extrapolation.Forecaster`.

    Returns: JSON, with "cells" [{run, N, D, C, forecast, low, high}] and "optima" [{C, N, L, ... , word}]; the
    field "reason" says what could not be forecast.
    """
    forecaster = extrapolation.forecaster(known, options)
    fits = isoflop.fit(known, options)
    lines = windows.lines(known, fits, options)
    off = forecaster.drift if forecaster else choice.UNSEEN_DRIFT
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
        "optima": [optimum(fits, lines, float(C), off, options) for C in ahead.budgets],
    }
    if forecaster is not None:
        law = forecaster.law
        result |= {
            "law": {
                "name": law.name,
                "fit": forecaster.rolling.chosen,
                "parameters": law.parameters,
                "word": law.verdict.word,
            },
            "reason": "",
            "drift_percent_a_decade": _known(100 * forecaster.rolling.drift),
            "cells": _cells(forecaster, ahead),
        }
    return result


def _cells(forecaster: extrapolation.Forecaster, ahead: Design) -> list[dict[str, Any]]:
    columns = zip(ahead.run, ahead.N, ahead.D, ahead.C, *forecaster(ahead.N, ahead.D, ahead.C), strict=True)
    return [
        {
            "run": str(run),
            "N": float(N),
            "D": float(D),
            "C": float(C),
            "forecast": float(central),
            "low": _known(low),
            "high": _known(high),
            "word": words.at(forecaster.law.verdict, Place(C, (0.0, forecaster.top), "FLOPs", power), slack=1.0).word,
        }
        for run, N, D, C, central, low, high in columns
    ]


def optimum(
    fits: list[isoflop.BudgetFit], lines: dict[str, power_laws.PowerLaw], C: float, off: float, options: Options
) -> dict[str, Any]:
    """N*, D* and L* as the runs of a budget of C FLOPs would find them, by the lines through the optima of `fits`.

    off: by how much a forecast of loss is, log loss a decade. The draws of a line know how the optima scatter about it
    and not that the truth bends away from it, nor how near a budget finds its own: alone they held N* of a sealed
    budget in 56 % of simulated studies. The first grows with the decades beyond the line; the second is what the
    least certain of the budgets under it says of itself, as the largest are run at the fewest sizes. All add up as
    squares.
    """
    used = [fit for fit in fits if fit.verdict == parabola.BRACKETED]
    point: dict[str, Any] = {"C": C}
    for name, drift in (("N", choice.SIZE_DRIFT), ("D", choice.SIZE_DRIFT), ("L", off)):
        line = lines[name]
        central, (low, high) = line(np.array([C])), line.band(np.array([C]), options.level)
        low = _positive(low)
        beyond = max(float(np.log10(C / line.C[-1])), 0.0) if used else 0.0
        spans = [np.log(high / _positive(low)) / 2 for low, high in (getattr(fit, f"{name}_interval") for fit in used)]
        further = np.hypot(normal_quantile(options.level) * drift * beyond, np.max(spans) if used else np.nan)
        below, above = np.hypot(np.log([central / low, high / central]), further)
        bounds = {name: central, f"{name}_low": central / np.exp(below), f"{name}_high": central * np.exp(above)}
        point |= {key: _known(float(value[0])) for key, value in bounds.items()}
    point["word"] = lines["N"].word(C).word
    point["reason"] = lines["N"].verdict.reason
    return point


def _positive(value: Any) -> Floats:
    """NaN where it is not: an interval of a loss that may be negative is none."""
    return np.where(np.asarray(value) > 0, value, np.nan)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def dated(forecasts: dict[str, Any]) -> dict[str, Any]:
    """A forecast as it is filed: with the time (UTC) and its own fingerprint, which laws.json repeats."""
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), "fingerprint": fingerprint(forecasts), **forecasts}


def compare(forecasts: dict[str, Any], sealed: RunTable, fits: list[isoflop.BudgetFit]) -> dict[str, Any]:
    """Puts the results beside a forecast that was already made.

    sealed: of the runs with a forecast those to compare. fits: the IsoFLOP fits of the sealed budgets themselves.
    Returns: JSON, {"error_percent": mean |error| of the cells, "median_error_percent", "bias_percent",
    "coverage": share inside the interval, "same_sign": all misses on one side, "rows", "optima",
    "forecast_fingerprint": of the forecast as it was made}.
    """
    digest, forecasts = fingerprint(forecasts), json.loads(json.dumps(forecasts))
    rows = [{**cell, "loss": loss} for cell, loss in _paired(forecasts["cells"], sealed)]
    if forecasts["cells"] and not rows:  # all that was forecast is damaged, and what is on top now is another budget
        fits = []
    result: dict[str, Any] = {
        "rows": rows,
        "made_from": forecasts["made_from"],
        "reason": forecasts["reason"],
        "forecast_fingerprint": digest,
        "sealed_losses_read": forecasts.get("sealed_losses_read", WITH_THE_TABLE),
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
        for point, fit in ((_nearest(forecasts["optima"], fit.C), fit) for fit in fits)
    ]
    return result


def judged(compared: dict[str, Any] | None) -> Verdict:
    """What the sealed forecast says of forecasts beyond the data.

    compared: as `compare` returns it; None where nothing was sealed.
    Returns: supported where they came out as forecast, unidentified where they did not, extrapolated where that was not
    tried (`words.sealed`). Only the first lets a forecast beyond the data be called supported.
    """
    if compared is None or not compared["rows"]:
        return words.sealed(np.nan, np.nan, compared["reason"] if compared else "")
    return words.sealed(compared["error_percent"] / 100, compared["coverage"], "")


def _paired(cells: list[dict[str, Any]], sealed: RunTable) -> list[tuple[dict[str, Any], float]]:
    """Each forecast with the loss of its run; rows of one name (checkpoints) in their order."""
    losses: dict[tuple[str, float], list[float]] = {}
    for run, D, loss in zip(sealed.run.tolist(), sealed.D.tolist(), sealed.loss.tolist(), strict=True):
        losses.setdefault((run, D), []).append(loss)
    pairs = []
    for cell in cells:
        if remaining := losses.get((cell["run"], cell["D"])):
            pairs.append((cell, remaining.pop(0)))
    return pairs


def _nearest(points: list[dict[str, Any]], C: float) -> dict[str, Any]:
    """A budget's C is a mean over its runs, and moves a little where one of them is not compared."""
    return min(points, key=lambda point: abs(float(np.log(point["C"] / C))))
