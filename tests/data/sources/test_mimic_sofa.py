"""SOFA against scores worked out by hand from Vincent et al. 1996."""

import numpy as np
import pytest

from ehr_scaling.data.sources.mimic import sofa
from ehr_scaling.data.sources.mimic.sofa import DAY, HOUR, Series

T0 = 5_000_000_000


def series(*rows, patient=0):
    """Of pairs (hours after admission, value)."""
    return Series(
        np.full(len(rows), patient),
        np.array([T0 + int(h * HOUR) for h, _ in rows], np.int64),
        np.array([float(v) for _, v in rows]),
    )


def score(measured, hours=48.0):
    stay = np.array([0]), np.array([T0]), np.array([T0 + int(hours * HOUR)])
    values, lacking = sofa.first_day(*stay, measured)
    return values[0], lacking


@pytest.mark.parametrize(
    ("measured", "points"),
    [
        ({sofa.PLATELETS: [(1, 150)]}, 0),
        ({sofa.PLATELETS: [(1, 149)]}, 1),
        ({sofa.PLATELETS: [(1, 300), (5, 60), (9, 99)]}, 2),
        ({sofa.PLATELETS: [(1, 49)]}, 3),
        ({sofa.PLATELETS: [(1, 19)]}, 4),
        ({sofa.BILIRUBIN: [(1, 1.1)]}, 0),
        ({sofa.BILIRUBIN: [(1, 1.2)]}, 1),
        ({sofa.BILIRUBIN: [(1, 2.0)]}, 2),
        ({sofa.BILIRUBIN: [(1, 6.0)]}, 3),
        ({sofa.BILIRUBIN: [(1, 12.0)]}, 4),
        ({sofa.CREATININE: [(1, 1.2), (2, 0.8)]}, 1),
        ({sofa.CREATININE: [(1, 3.5)]}, 3),
        ({sofa.CREATININE: [(1, 5.0)]}, 4),
        ({226559: [(1, 300), (20, 199)]}, 3),
        ({226559: [(1, 100), (20, 99)]}, 4),
        ({226559: [(1, 400), (20, 200)]}, 0),
        ({226559: [(1, 600)], sofa.IRRIGANT: [(1, 450)]}, 4),  # 150 ml are the patient's own
        ({226559: [(1, 100)], sofa.CREATININE: [(1, 1.3)]}, 4),
        ({220052: [(1, 80), (2, 69)]}, 1),
        ({220181: [(1, 70)]}, 0),
        ({220181: [(1, 0), (2, 75)]}, 0),  # a cuff that failed
        ({sofa.DOBUTAMINE: [(1, 1)]}, 2),
        ({sofa.DOPAMINE: [(1, 5)]}, 2),
        ({sofa.DOPAMINE: [(1, 5.1)]}, 3),
        ({sofa.DOPAMINE: [(1, 15.1)]}, 4),
        ({sofa.NOREPINEPHRINE: [(1, 0.1)], 220052: [(1, 60)]}, 3),
        ({sofa.EPINEPHRINE: [(1, 0.11)]}, 4),
        ({sofa.EYES: [(1, 4)], sofa.VERBAL: [(1, 5)], sofa.MOTOR: [(1, 6)]}, 0),
        ({sofa.EYES: [(1, 4)], sofa.VERBAL: [(1, 4)], sofa.MOTOR: [(1, 6)]}, 1),
        ({sofa.EYES: [(1, 3)], sofa.VERBAL: [(1, 4)], sofa.MOTOR: [(1, 5)]}, 2),
        ({sofa.EYES: [(1, 1)], sofa.VERBAL: [(1, 1)], sofa.MOTOR: [(1, 4)]}, 3),
        ({sofa.EYES: [(1, 1)], sofa.VERBAL: [(1, 1)], sofa.MOTOR: [(1, 3)]}, 4),
        ({sofa.PAO2: [(2, 80)], sofa.FIO2: [(1, 21)]}, 1),  # 381
        ({sofa.PAO2: [(2, 80)], sofa.FIO2: [(1, 0.4)]}, 2),  # 200, as a fraction
        ({sofa.PAO2: [(2, 80)], sofa.FIO2: [(1, 60)]}, 2),  # 133, but not ventilated
        ({sofa.PAO2: [(2, 80)], sofa.FIO2: [(1, 60)], 220339: [(0.5, 5)]}, 3),
        ({sofa.PAO2: [(2, 55)], sofa.FIO2: [(1, 60)], 220339: [(0.5, 5)]}, 4),  # 92
    ],
)
def test_one_organ(measured, points):
    found, lacking = score({item: series(*rows) for item, rows in measured.items()})
    assert found == points
    assert sum(lacking.values()) == 5


def test_all_organs_and_what_is_lacking():
    measured = {
        sofa.PLATELETS: series((1, 99)),
        sofa.BILIRUBIN: series((1, 2.5)),
        sofa.CREATININE: series((1, 1.9)),
        220052: series((1, 65)),
        sofa.EYES: series((1, 3)),
        sofa.VERBAL: series((1, 4)),
        sofa.MOTOR: series((1, 6)),
    }
    assert score(measured) == (7, {o: int(o == "respiration") for o in sofa.ORGANS})
    assert score(measured | {sofa.PAO2: series((3, 90)), sofa.FIO2: series((2, 50))})[0] == 9


def test_what_does_not_count():
    assert np.isnan(score({})[0])
    late = {sofa.PLATELETS: series((-0.1, 10), (24.1, 10))}
    assert np.isnan(score(late)[0])
    assert score({sofa.PLATELETS: series((24, 10))})[0] == 4
    assert np.isnan(score({sofa.PLATELETS: series((9, 10))}, hours=8)[0])  # after the stay
    assert np.isnan(score({226559: series((1, 100))}, hours=23)[0])  # not a day of urine
    stale = {sofa.PAO2: series((6, 80)), sofa.FIO2: series((1, 60))}
    assert np.isnan(score(stale)[0])
    apart = {sofa.EYES: series((1, 1)), sofa.VERBAL: series((2, 1)), sofa.MOTOR: series((1, 1))}
    assert np.isnan(score(apart)[0])


def test_stays_do_not_mix():
    """Three patients, one of them with two stays; patient 1 has nothing."""
    both = sofa._merged([series((1, 10), (100, 60)), series((1, 120), patient=2)])
    patient = np.array([0, 1, 2, 0])
    begin = np.array([T0, T0, T0, T0 + 90 * HOUR])
    values, lacking = sofa.first_day(patient, begin, begin + 2 * DAY, {sofa.PLATELETS: both})
    np.testing.assert_array_equal(values, [4, np.nan, 1, 2])
    assert lacking["liver"] == 3


def test_the_worst_value_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    n = 400
    patient, time = rng.integers(0, 5, n), T0 + rng.integers(0, 6 * DAY, n)
    values = sofa._merged([Series(patient, time, rng.uniform(0, 300, n))])
    stays = rng.integers(0, 6, 40), T0 + rng.integers(0, 6 * DAY, 40)
    end = stays[1] + rng.integers(0, 2 * DAY, 40)
    found, _ = sofa.first_day(*stays, end, {sofa.PLATELETS: values})
    for p, begin, until, got in zip(*stays, end, found, strict=True):
        own = [v for q, t, v in zip(*values, strict=True) if q == p and begin <= t <= min(until, begin + DAY)]
        want = sum(min(own) < limit for limit in (150, 100, 50, 20)) if own else np.nan
        np.testing.assert_equal(got, want)
