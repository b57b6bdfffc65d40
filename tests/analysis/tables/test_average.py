import numpy as np
import simulated

from ehr_scaling.analysis.tables import cells
from ehr_scaling.analysis.tables.run_table import COLUMNS, from_rows


def test_a_cell_is_the_geometric_mean_of_its_seeds():
    rows = simulated.rows(budgets=2, sizes=3, seeds=2)
    order = np.random.default_rng(0).permutation(len(rows))
    table = from_rows([rows[i] for i in order], source="x")
    found = cells.average(table)
    assert len(found) == 6 and len(np.unique(found.clusters)) == 6
    for N, D, loss in zip(found.N, found.D, found.loss, strict=True):
        own = [r["loss"] for r in rows if (r["N"], r["D"]) == (N, D)]
        np.testing.assert_allclose(loss, np.sqrt(own[0] * own[1]))
    places = list(zip(table.N, table.D, strict=True))
    assert list(zip(found.N, found.D, strict=True)) == list(dict.fromkeys(places))


def test_cells_of_cells_are_the_same():
    once = cells.average(simulated.table(budgets=3, sizes=4, seeds=3))
    again = cells.average(once)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name))


def test_cells_of_one_run_hang_together():
    rows = simulated.rows(budgets=2, sizes=3, seeds=2)
    # Two seeds that were both read twice: the four rows hang together through runs and places.
    pair = [{**rows[0], "run": run, "D": D, "C": 6 * rows[0]["N"] * D} for run in "ab" for D in (1e5, 2e5)]
    found = cells.average(from_rows([*pair, {**rows[4], "run": "c"}], source="x"))
    assert len(found) == 3 and found.clusters[0] == found.clusters[1] != found.clusters[2]
