import numpy as np
import pytest
from scipy.special import expit

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes.predictions import Predictions
from ehr_scaling.analysis.outcomes.seeds import of_cells

OPTIONS = Options(draws=400)


def told(rng, models, noise, base=1.0, stays=400, shared=0.0):
    """Models that see a risk, each through a noise of its own, and a baseline that sees it through `base`."""
    risk = rng.standard_normal(stays)
    labels = rng.random(stays) < expit(1.5 * risk - 1)
    common = shared * rng.standard_normal(stays)
    seen = [risk + common + noise * rng.standard_normal(stays) for _ in range(models)]
    said = expit(np.array([*seen, risk + base * rng.standard_normal(stays)]))
    return Predictions(labels, np.arange(stays), said)


def rows(*cells):
    return [{"N": N, "D": 1e6, "C": C} for N, C in cells]


def test_each_cell_of_several_seeds_and_no_other():
    said = told(np.random.default_rng(0), 6, 1.0)
    groups = [np.array([0, 1]), np.array([2]), np.array([3, 4, 5])]
    found = of_cells(rows((10, 1), (10, 1), (20, 1), (30, 2), (30, 2), (30, 2)), said, groups, OPTIONS)
    assert [(own.N, own.C, own.models) for own in found] == [(30, 2, 3), (10, 1, 2)]
    own = found[0]
    assert own.mean == pytest.approx(said.auroc[3:6].mean()) and own.deviation == pytest.approx(
        said.auroc[3:6].std(ddof=1)
    )
    assert own.lead == pytest.approx(own.mean - said.auroc[6]) and own.average_lead == pytest.approx(
        own.average - said.auroc[6]
    )
    together = Predictions(said.labels, said.patients, said.probability[3:6].mean(0, keepdims=True))
    assert own.average == pytest.approx(together.auroc[0])
    assert own.average > own.mean  # noise of each alone is averaged out
    apart = np.std(said.probability[3:6], axis=0, ddof=1)
    few = Predictions(said.labels[:60], said.patients[:60], said.probability[:, :60])
    for generated, hidden in ((True, False), (False, True)):
        (one, _) = of_cells(rows((10, 1), (10, 1), (20, 1), (30, 2), (30, 2), (30, 2)), few, groups, OPTIONS, generated)
        assert np.isnan(one.apart_most) == hidden
    assert own.apart == pytest.approx(apart.mean()) and (apart > own.apart_most).mean() == pytest.approx(0.1)


def test_few_seeds_are_in_the_interval_of_the_mean_alone():
    rng = np.random.default_rng(1)
    base = told(rng, 2, 0.0)
    same = Predictions(base.labels, base.patients, base.probability[[0, 0, 2]])
    apart = Predictions(
        base.labels, base.patients, np.array([base.probability[0], 1 - base.probability[0], base.probability[2]])
    )
    (one,), (two,) = (of_cells(rows((1, 1), (1, 1)), s, [np.arange(2)], OPTIONS) for s in (same, apart))
    assert one.deviation == 0 and np.ptp(one.interval) == pytest.approx(np.ptp(one.average_interval), rel=0.02)
    assert np.ptp(two.interval) > 3 * np.ptp(one.interval)


def test_intervals_of_leads_hold_what_is_true():
    """Models and a baseline of equal noise: the lead of one more seed is 0 on average."""
    held = []
    for seed in range(60):
        said = told(np.random.default_rng(seed), 3, 1.0, base=1.0)
        (own,) = of_cells(rows((1, 1), (1, 1), (1, 1)), said, [np.arange(3)], OPTIONS)
        held.append(own.lead_interval[0] <= 0 <= own.lead_interval[1])
    assert np.mean(held) >= 0.85


def test_without_a_baseline_or_enough_patients_there_is_no_lead():
    said = told(np.random.default_rng(2), 2, 1.0)
    alone = Predictions(said.labels, said.patients, said.probability[:2])
    (own,) = of_cells(rows((1, 1), (1, 1)), alone, [np.arange(2)], OPTIONS)
    assert np.isnan([own.lead, own.average_lead, *own.lead_interval, *own.average_lead_interval]).all()
    assert own.interval[0] < own.mean < own.interval[1]
    one_patient = Predictions(said.labels, np.zeros(400, int), said.probability)
    assert of_cells(rows((1, 1), (1, 1)), one_patient, [np.arange(2)], OPTIONS) == []


def test_what_seeds_differ_by_is_told_by_all_cells_of_the_same_compute():
    rng = np.random.default_rng(3)
    said = told(rng, 8, 1.0)
    pairs = [np.arange(2 * k, 2 * k + 2) for k in range(4)]
    together = of_cells(rows(*[(n, 1) for n in (1, 1, 2, 2, 3, 3, 4, 4)]), said, pairs, OPTIONS)
    apart = of_cells(rows(*[(n, 10.0**n) for n in (1, 1, 2, 2, 3, 3, 4, 4)]), said, pairs, OPTIONS)
    wide = [[np.ptp(own.interval) for own in found] for found in (together, apart)]
    assert max(wide[0]) < 1.2 * min(wide[0]) and max(wide[1]) > 2 * max(wide[0])
