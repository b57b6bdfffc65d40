"""Scores of a question: first occurrences and recurrences apart, and nothing told of a few patients."""

import numpy as np
import pytest

from ehr_scaling.outcomes.judging import sheet_scores
from ehr_scaling.outcomes.judging.metrics import metrics, subgroups
from ehr_scaling.outcomes.judging.metrics.delong import delong
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE

SHORT = 0


def made(first=(200, 40), again=(100, 60), more=0):
    """Stays without the code before and with it, (all, with the outcome) of each; `more` that are left open."""
    asked = [(False, first[0] - first[1], NEGATIVE), (False, first[1], POSITIVE),
             (True, again[0] - again[1], NEGATIVE), (True, again[1], POSITIVE)]  # fmt: skip
    counts = [*asked, (False, more, OPEN), (True, 2 * more, SHORT)]
    before = np.concatenate([np.full(n, b) for b, n, _ in counts])
    labels = np.concatenate([np.full(n, kind, np.int8) for _, n, kind in counts])
    rng = np.random.default_rng(0)
    # The model knows who had it before, and nothing else
    return labels, before, np.clip(0.3 * before + 0.1 * rng.random(len(labels)), 0, 1), np.arange(len(labels))


def test_a_model_that_repeats_the_past_foresees_no_first_occurrence():
    labels, before, p, patients = made(more=20)
    score = sheet_scores.question(labels, before, p, patients, generated=True)
    assert score["all"]["auroc"] > 0.68 and score["first"]["auroc"] < 0.62 and score["again"]["auroc"] < 0.62
    assert score["left_open"] == 20 and score["not_followed"] == 40
    for name, rows in (("all", slice(0, 300)), ("first", slice(0, 200)), ("again", slice(200, 300))):
        yes = labels[rows] == POSITIVE
        told, areas = score[name], delong(yes, p[rows][None], patients[rows])
        assert told["auroc"] == pytest.approx(metrics.auroc(yes, p[rows]), abs=6e-5)
        assert told["error"] == pytest.approx(np.sqrt(areas.covariance[0, 0]), abs=6e-5)
        assert told["low"] < told["auroc"] < told["high"]
        assert (told["stays"], told["with_outcome"], told["patients"]) == (len(yes), yes.sum(), len(yes))


def test_stays_of_a_patient_are_no_independent_ones():
    labels, before, p, patients = made()
    alone, together = (sheet_scores.question(labels, before, p, who, True) for who in (patients, patients // 4))
    assert together["all"]["auroc"] == alone["all"]["auroc"] and together["all"]["error"] != alone["all"]["error"]
    assert together["all"]["patients"] == 75


@pytest.mark.parametrize(
    ("first", "again", "hidden"),
    [
        ((200, 40), (100, 60), {}),
        ((200, 10), (100, 60), {"first": subgroups.SUPPRESSED, "again": subgroups.COMPLEMENTARY}),
        ((200, 40), (100, 95), {"again": subgroups.SUPPRESSED, "first": subgroups.COMPLEMENTARY}),
        ((200, 5), (100, 5), dict.fromkeys(sheet_scores.OCCURRENCES, subgroups.SUPPRESSED)),
        ((200, 40), (0, 0), {"again": sheet_scores.NO_STAY}),
    ],
)
def test_what_few_patients_have_is_not_told_nor_what_it_would_follow_from(first, again, hidden):
    score = sheet_scores.question(*made(first, again), generated=False)
    assert {
        name: score[name]["suppressed"] for name in sheet_scores.OCCURRENCES if "suppressed" in score[name]
    } == hidden
    assert all(set(score[name]) == {"suppressed"} for name in hidden)


def test_counts_of_real_patients_cannot_be_had_by_subtraction():
    """From one horizon to the next three more have the code; told are tens, and rates with few digits."""
    week, month = (sheet_scores.question(*made((200, n)), generated=False)["first"] for n in (40, 43))
    assert week["with_outcome"] == month["with_outcome"] == 40 and week["stays"] == 200
    values = [score[name] for score in (week, month) for name in ("auroc", "error", "low", "high")]
    assert all(round(value, 4) == value for value in values)
    left_out = sheet_scores.question(*made(more=4), generated=False)
    assert left_out["left_open"] is None and left_out["not_followed"] is None


def test_nobody_asked():
    labels, before, p, patients = made()
    score = sheet_scores.question(np.full(len(labels), OPEN, np.int8), before, p, patients, True)
    assert {score[name]["suppressed"] for name in sheet_scores.OCCURRENCES} == {sheet_scores.NO_STAY}
    assert score["left_open"] == len(labels)
