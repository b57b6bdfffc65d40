"""What the curve of AUROC against loss owes to patients, to models and to forms, on curves made by hand."""

import numpy as np
import pytest

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import downstream, outcome_curve, sigmoid

FEW = Options(draws=400)


def truth(loss):
    return 0.5 + 0.4 / (1 + np.exp(2.0 * (loss - 2.8)))


def curve_of(rng, n=8, by_patients=0.0, of_models=0.0, shared=0.0, options=FEW, seeds=1):
    """Models off by what patients do to each, to all alike, and by noise of their own (standard deviations)."""
    loss = np.repeat(np.linspace(2.3, 3.3, n), seeds)
    off = by_patients * rng.standard_normal(n * seeds) + shared * rng.standard_normal()
    patients = by_patients * rng.standard_normal((options.draws, n * seeds))
    patients += shared * rng.standard_normal((options.draws, 1)) + 1e-6 * rng.standard_normal(patients.shape)
    auroc = truth(loss) + off + of_models * rng.standard_normal(n * seeds)
    cells = np.repeat(np.arange(n), seeds)
    return outcome_curve.fit(loss, auroc, patients, cells, np.arange(n * seeds), options)


def noise_of(studies=40, **made):
    rng, few = np.random.default_rng(0), Options(draws=40)
    return np.sqrt(np.mean([curve_of(rng, options=few, **made).noise ** 2 for _ in range(studies)]))


@pytest.mark.nightly
def test_the_noise_of_models_is_what_patients_do_not_explain():
    assert noise_of(of_models=0.01) == pytest.approx(0.01, rel=0.12)
    assert noise_of(of_models=0.01, by_patients=0.01) == pytest.approx(0.01, rel=0.2)
    assert noise_of(by_patients=0.01) < 0.006  # none but what chance leaves over, and none is found below zero
    assert noise_of(shared=0.02) < 0.004  # what moves all models alike is no scatter about a curve
    assert noise_of(n=5, studies=100, of_models=0.01) == pytest.approx(0.01, rel=0.22)  # a form was chosen


def test_near_chance_what_moves_all_models_alike_hides_no_noise():
    """A curve along ½ cannot go up and down with the patients, whose error would else pass for the models' scatter."""
    rng, noise = np.random.default_rng(0), []
    loss, cells = np.linspace(2.3, 6.0, 20), np.arange(20)
    for _ in range(40):
        patients = 0.01 * rng.standard_normal((40, 1)) + 1e-6 * rng.standard_normal((40, 20))
        auroc = 0.5 + 0.04 / (1 + np.exp(4 * (loss - 2.8))) + 0.005 * rng.standard_normal(20)
        curve = outcome_curve.fit(loss, auroc, patients, cells, cells, Options(draws=40))
        noise.append(curve.noise)
    assert np.median(noise) == pytest.approx(0.005, rel=0.25)


def reach(values):
    """Of 95 % over that of the middle half: 2.9 for normal values, 3.7 for Student's of four degrees."""
    low, lower, upper, high = np.quantile(values, [0.025, 0.25, 0.75, 0.975])
    return (high - low) / (upper - lower)


def test_draws_of_few_models_have_students_tails():
    curve = curve_of(np.random.default_rng(1), n=6, of_models=0.004, options=Options(draws=4000))
    assert curve.freedom in (3, 4)
    ends = curve.sample(np.array(curve.losses))
    assert reach(ends[:, 0] - ends[:, 1]) > 3.3


def test_forms_nearly_as_good_are_in_the_running():
    curve = curve_of(np.random.default_rng(3), of_models=0.01)
    least = curve.errors[curve.form]
    assert set(curve.others) == {f for f, e in curve.errors.items() if f in sigmoid.FORMS and least < e <= 1.25 * least}
    assert curve.others


def test_seeds_of_a_cell_are_left_out_together():
    """Copies of every model, left out one at a time, would be forecast by their own twins."""
    one, three = (curve_of(np.random.default_rng(4), n=7, seeds=s) for s in (1, 3))
    bumps = 0.03 * np.random.default_rng(5).standard_normal(7)
    errors = []
    for seeds in (1, 3):
        loss, cells = np.repeat(np.linspace(2.3, 3.3, 7), seeds), np.repeat(np.arange(7), seeds)
        auroc = truth(loss) + bumps[cells]
        patients = 1e-3 * np.random.default_rng(6).standard_normal((60, 1)) * np.ones(7 * seeds)
        errors.append(outcome_curve.fit(loss, auroc, patients, cells, np.arange(7 * seeds), FEW).errors)
    assert one.errors.keys() == three.errors.keys()
    for name, error in errors[0].items():
        assert errors[1][name] == pytest.approx(error, rel=1e-3)
    assert errors[0][outcome_curve.CONSTANT] > np.std(truth(np.linspace(2.3, 3.3, 7)))


def test_no_model_weighs_more_than_four_times_the_median():
    patients = np.random.default_rng(7).standard_normal((4000, 5)) * [1e-6, 1.0, 1.0, 2.0, 4.0]
    weight = outcome_curve._weights(patients, 5)
    np.testing.assert_allclose(weight / weight[1], [4, 1, 1, 1 / 4, 1 / 16], rtol=0.15)
    assert weight.mean() == pytest.approx(1)


def test_the_noise_between_seeds_is_pooled_over_cells():
    rng = np.random.default_rng(8)
    groups = [np.arange(2 * k, 2 * k + 2) for k in range(6)]
    of_cell = np.repeat(0.1 * rng.standard_normal(6), 2)
    found = [downstream._seed_noise(of_cell + 0.01 * rng.standard_normal(12), groups) for _ in range(300)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(0.01, rel=0.1)
