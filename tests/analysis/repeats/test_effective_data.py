import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.repeats import effective_data
from ehr_scaling.analysis.words import SUPPORTED, UNIDENTIFIED

# Of unrepeated C4 (Muennighoff et al. 2023, appendix A)
BASE = {
    "E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974), "alpha": 0.3526596, "beta": 0.3526596,
}  # fmt: skip


@pytest.fixture(scope="module")
def muennighoff(real_data):
    path = real_data / "laws" / "muennighoff_182.csv"
    if not path.is_file():
        pytest.skip(f"no table of real runs at {path}: set EHR_SCALING_TEST_DATA")
    rows = list(csv.DictReader(path.open()))
    return tuple(np.array([float(row[name]) for row in rows]) for name in ("N", "D", "U", "loss"))


def test_real_repeated_runs_give_the_published_objective_and_a_lower_optimum(muennighoff):
    published = effective_data.objective(*muennighoff, BASE, 15.39, 5.31, 1e-3).sum()
    assert published == pytest.approx(0.0158259, abs=5e-8)  # published to seven digits
    found = effective_data.fit(*muennighoff, BASE, None, Options(draws=1000))
    assert found.objective <= 0.0158047 + 2e-8
    assert pytest.approx(95.4, rel=0.02) == found.R_D and pytest.approx(1.71, rel=0.02) == found.R_N
    low, high = found.intervals["R_D"]  # a flat ridge
    assert 3 < low < 8 and high > 1e5
    assert found.verdicts["R_D"].word == UNIDENTIFIED


def test_known_constants_are_recovered():
    rng = np.random.default_rng(0)
    N, U = 10 ** rng.uniform(7.5, 9.5, 120), 10 ** rng.uniform(8, 9.5, 120)
    D = U * 10 ** rng.uniform(0, 2.5, 120)
    truth = effective_data.EffectiveData(12.0, 4.0, BASE, 0.0, np.zeros((0, 2)), {}, {})
    loss = truth(N, D, U) * np.exp(0.002 * rng.standard_normal(120))
    found = effective_data.fit(N, D, U, loss, BASE, None, Options(draws=200))
    assert pytest.approx(12, rel=0.1) == found.R_D and pytest.approx(4, rel=0.15) == found.R_N
    for name, value in (("R_D", 12), ("R_N", 4)):
        low, high = found.intervals[name]
        assert low <= value * 1.25 and high >= value / 1.25 and found.verdicts[name].word == SUPPORTED
    exact = effective_data.fit(N, D, U, truth(N, D, U), BASE, None, Options(draws=20))
    assert pytest.approx(12, rel=1e-3) == exact.R_D and exact.objective < 1e-9


@given(st.floats(1e6, 1e10), st.floats(0.1, 1e6), st.floats(1, 1e4), st.floats(0.05, 1e12))
def test_effective_data_lie_between_the_unique_and_the_seen(U, repeats, N, R):
    D = U * (1 + repeats)
    N_eff, D_eff = effective_data.effective(1e4 * N, D, U, BASE, R, R)
    assert U * (1 - 1e-9) <= D_eff <= D * (1 + 1e-9) and D_eff <= U * (1 + R) * (1 + 1e-9)
    assert 0 < N_eff <= 1e4 * N * (1 + 1e-9)
    if 1e4 * repeats < R:  # repeats as good as new
        assert D_eff == pytest.approx(D, rel=1e-3)
    small, once = effective_data.effective(1e3, U / 2, U, BASE, R, R)  # fewer than there are: nothing is repeated
    assert once == pytest.approx(U / 2) and small == pytest.approx(1e3)


def test_nothing_repeated_or_too_few_runs_is_no_law():
    N, D, loss = np.full(8, 1e7), np.geomspace(1e7, 1e8, 8), np.linspace(4, 3, 8)
    assert effective_data.fit(N, D, 2 * D, loss, BASE) is None
    assert effective_data.fit(N[:5], D[:5], D[:5] / 2, loss[:5], BASE) is None
