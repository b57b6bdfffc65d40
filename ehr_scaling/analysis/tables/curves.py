"""Learning curves, which the trainer keeps with each run."""

from pathlib import Path

import numpy as np

from ehr_scaling.analysis.tables.raw_columns import Floats
from ehr_scaling.analysis.tables.readers import newest_metrics
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.artifacts import read_json


def read(path: Path, table: RunTable) -> dict[str, Floats]:
    """By the name of each run of `table` in this directory of runs: [points, 2], tokens seen and the training loss.

    Runs that kept no curve, or whose batch is not known, are left out.
    Raises: UserError for a metrics file that is damaged.
    """
    curves = {}
    for run, batch in zip(table.run, table.batch, strict=True):
        newest = newest_metrics(path / str(run))
        metrics = read_json(newest) if newest else {}
        points = [p for p in metrics.get("curve") or () if isinstance(p, list) and len(p) == 2 and None not in p]
        curve = np.array(points, np.float64).reshape(-1, 2) * (batch, 1.0)
        if (curve := curve[np.isfinite(curve).all(1) & (curve > 0).all(1)]).size:
            curves[str(run)] = curve
    return curves
