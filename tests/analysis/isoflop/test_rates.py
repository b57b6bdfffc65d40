"""Which runs a curve of learning rates holds, and which curve stands for a size."""

import numpy as np
import sweeps

from ehr_scaling.analysis.isoflop import rates
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import from_rows

FEW = Options(draws=40)


def test_a_curve_holds_the_other_settings_that_reach_the_lowest_loss():
    """The better decay was tried at rates where it is also worse than the other anywhere."""
    better = sweeps.rates(sizes=(1e5,), multiples=(0.25, 0.5, 1, 2, 4), curvature=0.1)
    worse = sweeps.rates(sizes=(1e5,), multiples=(0.7, 1, 1.4), curvature=0.01)
    rows = [{**r, "weight_decay": 0.1} for r in better]
    rows += [{**r, "run": r["run"] + " more", "weight_decay": 0.3, "loss": r["loss"] + 0.05} for r in worse]
    (curve,) = rates.fit(from_rows(rows, source="x"), FEW).curves
    assert sorted(curve.rows) == list(range(len(better))) and len(np.unique(curve.x)) == 5


def test_of_each_size_the_curve_of_its_longest_runs_stands_for_it():
    short = sweeps.rates(sizes=(1e5, 1e6), D=3e6)
    long = sweeps.rates(sizes=(1e5, 1e6), D=1.2e7, optimum=lambda N: 2.0 if N > 3e5 else 1.0)
    found = rates.fit(from_rows([{**r, "run": f"{r['run']}-{r['D']:g}"} for r in long + short], source="x"), FEW)
    assert [c.D for c in rates.longest(found.curves)] == [1.2e7, 1.2e7] and len(found.curves) == 4
    (shift,) = found.shifts
    assert shift.small.D == shift.large.D == 1.2e7 and 0.6 < shift.value < 1.4
