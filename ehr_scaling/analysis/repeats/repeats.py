"""What repeating the same patients' records does: loss against passes for each fraction of the patients."""

from typing import Any

import numpy as np

from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.tables.selection import grouped

LEAST_PASSES = 3
FALLING, TURNED = "still falling", "turned"


def fit(table: RunTable) -> list[dict[str, Any]]:
    """JSON, one for each size and fraction: {N, fraction, unique_tokens, patients, points, best, verdict}.

    points: [{passes, D, loss, runs: [losses of the seeds]}], ascending in passes; best: one of them, of lowest loss.
    verdict: "turned" where more passes were worse than the best, "still falling" where the most passes are the best;
    None of a single length.

    Args: table, of cooled runs of one kind, each cell at its best setting.
    Empty unless the study varied it: several fractions, or lengths that are passes and not budgets.
    """
    fraction = np.where(np.isfinite(table.fraction), table.fraction, 1.0)
    known = np.isfinite(table.passes)
    out = []
    for (N, f), rows in grouped(list(zip(table.N.tolist(), fraction.tolist(), strict=True))).items():
        rows = rows[known[rows]]
        if not len(rows):
            continue
        points = []
        for D, members in sorted(grouped(table.D[rows].tolist()).items()):
            losses = table.loss[rows[members]]
            passes = float(table.passes[rows[members]].mean())
            points.append({"passes": passes, "D": D, "loss": float(losses.mean()), "runs": losses.tolist()})
        best = min(points, key=lambda p: p["loss"])
        out.append(
            {
                "N": N,
                "fraction": f,
                "unique_tokens": float(table.unique_tokens[rows].max()),
                "patients": float(table.patients[rows].max()),
                "points": points,
                "best": best,
                "verdict": (FALLING if best is points[-1] else TURNED) if len(points) > 1 else None,
            }
        )
    by_passes = not np.isfinite(table.budget).any() and max((len(r["points"]) for r in out), default=0) >= LEAST_PASSES
    if len({row["fraction"] for row in out}) < 2 and not by_passes:
        return []
    return sorted(out, key=lambda row: (row["N"], -row["fraction"]))
