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


def test_lengths_apart_by_rounding_are_one():
    """Seeds of a cell may end a step apart: they repeat it all the same."""
    rows = simulated.rows(budgets=2, sizes=3, seeds=3, noise=0.01)
    rounded = [{**r, "D": r["D"] * (1 + 0.003 * r["seed"]), "C": r["C"] * (1 + 0.003 * r["seed"])} for r in rows]
    plain, found = (cells.average(from_rows(each, source="x")) for each in (rows, rounded))
    assert len(found) == 6
    np.testing.assert_array_equal(found.loss, plain.loss)
    np.testing.assert_allclose(found.D, plain.D * 1.003)
    np.testing.assert_allclose(found.C, plain.C * 1.003)
    again = cells.average(found)
    np.testing.assert_array_equal(again.D, found.D)


def test_lengths_that_follow_each_other_closely_are_as_many():
    """Checkpoints half a percent apart are no rounding of one length, and lengths of another size are others."""
    D = 1e6 * 1.005 ** np.arange(8)
    assert len(set(cells.of(np.full(8, 1e5), D))) == 8
    assert len(set(cells.of(np.array([1e5, 1e5, 2e5]), np.array([1e6, 1.009e6, 1e6])))) == 2
    assert len(set(cells.of(np.full(2, 1e5), np.array([1e6, 1.011e6])))) == 2
    assert cells.of(np.array([2.0, 1.0, 2.0]), np.array([3.0, 3.0, 3.0])).tolist() == [1, 0, 1]
    assert cells.of(np.full(3, 1e5), np.array([1e6, 1.02e6, 1e6])).tolist() == [0, 1, 0]


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
