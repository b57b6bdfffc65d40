"""What stands in the figures, by their artists."""

import simulated

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.report.figures import plots


def test_every_run_is_drawn_once_and_runs_alike_together():
    """An artist a run is what most of the time of a figure goes to."""
    r = results.fit(simulated.table(budgets=4, sizes=8, seeds=3), Options(draws=24))
    for draw in (plots.fan, plots.joint_fit):
        lines = [line for line in draw(r).axes[0].lines if line.get_marker() in plots.MARKERS]
        points = sorted(float(x) for line in lines for x in line.get_xdata())
        assert points == sorted(r.table.N.tolist())
        assert len(lines) <= 4 * 3 * 2
        assert {line.get_marker() for line in lines} == set(plots.MARKERS[:3])
