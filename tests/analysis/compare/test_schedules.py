"""Branches from trunks beside cosine runs: what counts as one piece of evidence, and what is compared."""

from dataclasses import replace

import numpy as np
import simulated
import sweeps

from ehr_scaling.analysis.compare import schedules
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables import selection
from ehr_scaling.analysis.tables.run_table import from_rows


def cooled(seed=0, **made):
    return selection.cooled(from_rows(sweeps.both_ways(seed=seed, **made), source="x"))


def test_branches_of_one_trunk_are_one_piece_of_evidence():
    """Two trunks a size, whose branches share all that moves them: a mean of nine cells is one of six trunks."""
    table, held = cooled(seeds=2), []
    branch = table.trunk != ""
    trunks, of = np.unique(table.trunk, return_inverse=True)
    expected = simulated.loss(table.N, table.D)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        noise = np.where(branch, 0.01 * rng.standard_normal(len(trunks))[of], 0.002 * rng.standard_normal(len(table)))
        low, high = schedules.compare(replace(table, loss=expected + noise), Options()).interval
        held.append(low <= 0 <= high)
    assert 0.92 <= np.mean(held) <= 0.99


def test_only_runs_of_one_length_are_compared():
    table = cooled()
    cosine = table.schedule == "cosine"
    for factor, cells in ((1.0, 9), (1.005, 9), (0.995, 9), (1.3, 0), (0.77, 0)):
        found = schedules.compare(replace(table, D=np.where(cosine, factor * table.D, table.D)), Options())
        assert (len(found.rows) if found else 0) == cells
