import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.analysis.joint import newton
from ehr_scaling.analysis.plan import record
from ehr_scaling.analysis.repeats import effective_data

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


def test_real_repeated_runs_give_the_published_objective(muennighoff):
    N, D, U, loss = muennighoff
    missed = np.log(record.repeated_loss({**BASE, "R_D": 15.39, "R_N": 5.31}, N, D, U) / loss)
    assert newton.huber(missed, 1e-3).sum() == pytest.approx(0.0158259, abs=5e-8)  # published to seven digits


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
