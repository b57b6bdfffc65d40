"""A small cohort of hospital stays, told as events, with what can be asked of each and what is true of it."""

from pathlib import Path

import pytest

from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import HOUR
from tests.data import made_up

NOON = 50 * 365 * 24 * HOUR


def stay(*events, start=0.0):
    """Events of a stay from (hours after the admission, code[, value])."""
    return [(NOON + round((start + hours) * HOUR), code, *(value or (None,))) for hours, code, *value in events]


ADMIT, ALIVE, DEATH = "HOSPITAL_ADMISSION//URGENT//ED", "HOSPITAL_DISCHARGE//HOME", "MEDS_DEATH"
FACTS = [(None, "GENDER//F", None), (NOON - 40 * 366 * 24 * HOUR, "MEDS_BIRTH", None)]
# Each patient, and (known tokens, label) of the stays that can be asked for death in hospital at 24 hours; the numbers
# count the tokens by hand.
PATIENTS = {
    # ADMISSION TYPE, 6h-12h LAB Q are known; 12h-1d LAB Q, 6h-12h DEATH … are not: their intervals lead past 24 h
    "dies": ([(0, ADMIT), (10, "LAB//1//MG", 3.0), (30, "LAB//1//MG", 4.0), (40, DEATH), (40, ALIVE)], [(5, True)]),
    "lives": ([(0, ADMIT), (24, "LAB//1//MG", 1.0), (50, ALIVE), (60, DEATH)], [(5, False)]),  # at 24 h is known
    "early": ([(0, ADMIT), (20, ALIVE)], []),
    "on the hour": ([(0, ADMIT), (24, ALIVE)], []),
    "no end": ([(0, ADMIT), (30, "LAB//1//MG", 2.0)], []),
    "lost end": ([(0, ADMIT), (200, ADMIT), (300, ALIVE)], [(5, False)]),
    "twice": ([(0, ADMIT), (48, ALIVE), (1000, ADMIT), (1030, DEATH), (1030, ALIVE)], [(2, False), (8, True)]),
    "never in": ([(0, "LAB//1//MG", 2.0)], []),
}


def cohort(first):
    return {first + i: FACTS + stay(*events) for i, (events, _) in enumerate(PATIENTS.values())}


@pytest.fixture(scope="session")
def admissions(tmp_path_factory) -> Path:
    """Timelines of the cohort: twice in train and in test (ids from 300 and from 350), once in validation."""
    root = tmp_path_factory.mktemp("admissions")
    made_up.write(
        root / "events", train=cohort(100) | cohort(150), tuning=cohort(200), held_out=cohort(300) | cohort(350)
    )
    (root / "timelines").mkdir()
    timelines.build(root / "events", root / "timelines", min_count=1, min_values=1, value_tokens="separate")
    return root
