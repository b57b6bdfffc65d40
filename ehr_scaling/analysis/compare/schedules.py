"""Do cooldown branches from a trunk reach the losses of separate cosine runs, and what did the trunk save?

Hägele et al. 2024 (arXiv 2405.18392) find that they do; here it is checked on the cells that were run both ways.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.tables.selection import cell_keys, grouped
from ehr_scaling.analysis.wording import plural
from ehr_scaling.analysis.words import Verdict

BRANCH, COSINE = "wsd branch", "cosine"
NEAR = 0.01  # of D: whole steps of another batch


@dataclass(frozen=True)
class Comparison:
    """rows: JSON, one a cell (N, D) run both ways: {N, D, branch, cosine: mean losses, branches, cosines: runs,
    difference: branch - cosine, interval, verdict}. noise: pooled standard deviation between seeds of one cell.
    mean, interval, verdict: of the difference over the `cells` that have two seeds both ways.
    """

    rows: list[dict[str, Any]]
    noise: float
    mean: float
    interval: tuple[float, float]
    cells: int
    verdict: Verdict


def compare(table: RunTable, options: Options) -> Comparison | None:
    """Branches against cosine runs of equal (N, D), patients, optimizer and parametrization; None without any.

    Args: table, of cooled runs, each cell at its best setting (`selection.tuned`).
    The interval of a cell is Student's, from the noise pooled over all cells. That of the mean takes the runs of one
    trunk together, which share most of their way (cluster-robust variance; seeds of a cell are centred on its mean).
    """
    ways = grouped(cell_keys(table))
    pairs = []
    for ((schedule, *kind), fraction, N, D), rows in ways.items():
        if schedule != BRANCH:
            continue
        others = [
            (abs(np.log(d / D)), cell)
            for ((way, *theirs), f, n, d), cell in ways.items()
            if (way, theirs, f, n) == (COSINE, kind, fraction, N) and abs(d / D - 1) <= NEAR
        ]
        if others:
            pairs.append((N, D, rows, min(others, key=lambda pair: pair[0])[1]))
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[:2])
    loss = table.loss
    cells = [rows for _, _, *both in pairs for rows in both]
    freedom = sum(len(rows) - 1 for rows in cells)
    squares = sum(((loss[rows] - loss[rows].mean()) ** 2).sum() for rows in cells)
    noise = float(np.sqrt(squares / freedom)) if freedom else np.nan
    reach = float(special.stdtrit(freedom, (1 + options.level) / 2)) if freedom else np.nan
    out = []
    for N, D, branch, cosine in pairs:
        difference = float(loss[branch].mean() - loss[cosine].mean())
        half = reach * noise * np.sqrt(1 / len(branch) + 1 / len(cosine))
        bounds = (difference - half, difference + half)
        out.append(
            {
                "N": N,
                "D": D,
                "branch": float(loss[branch].mean()),
                "cosine": float(loss[cosine].mean()),
                "branches": len(branch),
                "cosines": len(cosine),
                "difference": difference,
                "interval": bounds,
                "verdict": words.difference(bounds, "the difference").word,
            }
        )
    return Comparison(out, noise, *_mean(table, pairs, options))


def _mean(
    table: RunTable, pairs: list[tuple[float, float, NDArray[np.int64], NDArray[np.int64]]], options: Options
) -> tuple[float, tuple[float, float], int, Verdict]:
    repeated = [pair for pair in pairs if len(pair[2]) > 1 and len(pair[3]) > 1]
    if not repeated:
        reason = "no cell was run with two seeds both ways, so the noise between seeds is not known"
        return np.nan, (np.nan, np.nan), 0, words.missing(reason)
    parts: dict[str, float] = {}  # of each trunk, or of each cosine run: its share in the error of the mean
    trunks: dict[float, set[str]] = {}
    differences = []
    for N, _, branch, cosine in repeated:
        differences.append(table.loss[branch].mean() - table.loss[cosine].mean())
        trunks.setdefault(N, set()).update(table.trunk[branch].tolist())
        for rows, names in ((branch, table.trunk), (cosine, table.run)):
            n = len(rows)
            residual: Floats = (table.loss[rows] - table.loss[rows].mean()) * np.sqrt(n / (n - 1)) / n / len(repeated)
            for name, value in zip(names[rows].tolist(), residual, strict=True):
                parts[name] = parts.get(name, 0.0) + float(value)
    freedom = sum(len(names) - 1 for names in trunks.values())
    mean, error = float(np.mean(differences)), float(np.sqrt(sum(value**2 for value in parts.values())))
    half = float(special.stdtrit(freedom, (1 + options.level) / 2)) * error if freedom else np.nan
    bounds = (mean - half, mean + half)
    if not freedom:
        return mean, bounds, len(repeated), words.missing("all branches of a size come from one trunk")
    over = f"the mean difference over {plural(len(repeated), 'cell')}"
    return mean, bounds, len(repeated), words.difference(bounds, over)


def saving(runs: RunTable) -> dict[str, float] | None:
    """FLOPs of all trunks and branches, {"own"}, and of as many separate runs, {"alone"}; None where unknown."""
    branch = runs.trunk != ""
    trunk = np.isin(runs.cell, runs.trunk[branch])
    flops = runs.own_flops[branch | trunk]
    if not branch.any() or set(runs.trunk[branch]) - set(runs.cell[trunk]) or not np.isfinite(flops).all():
        return None
    return {"own": float(flops.sum()), "alone": float(runs.C[branch].sum())}


def to_json(comparison: Comparison | None, saved: dict[str, float] | None) -> dict[str, Any] | None:
    if comparison is None and saved is None:
        return None
    result: dict[str, Any] = {"saving": saved}
    if comparison is not None:
        result |= {
            "cells": comparison.rows,
            "seed_noise": comparison.noise,
            "mean_difference": comparison.mean,
            "interval": comparison.interval,
            "cells_in_mean": comparison.cells,
            **comparison.verdict._asdict(),
        }
    return result
