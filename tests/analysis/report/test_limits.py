"""What the report says of the bounds of a study, for runs made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.report.sections.limits import limits
from ehr_scaling.analysis.report.summary import by_seeds, few_patients, summary
from ehr_scaling.analysis.tables.run_table import from_rows


def test_what_seeds_share_is_said_with_how_much_it_adds():
    rows = simulated.rows(budgets=5, decades=2.0, noise=0.001)
    moved = [{**r, "loss": r["loss"] * np.exp(0.01 * (-1) ** r["seed"])} for r in rows]
    found = results.fit(from_rows(moved, source="x"), Options(draws=60))
    (line,) = [line for line in summary(results.to_json(found)).splitlines() if line.startswith("seeds: ")]
    assert "on L* of a budget" in line and "on losses forecast and planned" in line
    assert sum(line.removeprefix("seeds: ") in said for said in limits(found)) == 1
    budget = found.budgets[0]
    assert results.shared(budget, 0.95) > 0.01 and results.shared(replace(budget, shift=0 * budget.shift), 0.95) == 0

    alike = results.fit(
        from_rows([{k: v for k, v in r.items() if k != "seed"} for r in moved], source="x"), Options(draws=60)
    )
    assert "seeds: " not in summary(results.to_json(alike)) and not any("Seeds: " in said for said in limits(alike))


def test_what_is_next_to_nothing_is_not_said():
    assert by_seeds([], 0.0) == by_seeds([None, 4e-4], 4e-4) == ""
    assert by_seeds([None, 0.004, 0.002], 0.0).endswith(
        "(± 0.40 % on L* of a budget, added in squares)".replace(" %", "\u00a0%")
    )


@pytest.mark.parametrize(("patients", "told"), [(80.0, True), (499.0, True), (500.0, False), (None, False)])
def test_few_patients_are_said_first(patients, told):
    line = few_patients(patients)
    assert line.startswith(f"{patients:.0f} patients to train on determine nothing") if told else not line
