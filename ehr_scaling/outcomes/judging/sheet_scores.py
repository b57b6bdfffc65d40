"""How well a model ranks patients by each question of a sheet: first occurrences and recurrences told apart.

Who had a code before is likely to have it again, and any model that repeats the past ranks such patients above the
rest. So each question has three scores: of all stays, of those without the code before (does it foresee a first
occurrence?), and of those who had it (a recurrence?).
"""

from typing import Any

import numpy as np

from ehr_scaling.data import disclosure
from ehr_scaling.outcomes.judging.metrics import subgroups
from ehr_scaling.outcomes.judging.metrics.delong import delong, interval
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE

ALL, FIRST, AGAIN = "all", "first", "again"
OCCURRENCES = (ALL, FIRST, AGAIN)
NO_STAY = "no stay"
# Of a rate of counts: with more digits the counts could be worked out from it


def question(
    labels: np.ndarray, before: np.ndarray, probability: np.ndarray, patients: np.ndarray, generated: bool
) -> dict[str, Any]:
    """The scores of one code and one horizon.

    Of real records nothing is told of under 11 patients, with the code or without: neither where that is so, nor where
    it would follow by subtraction, of first occurrences from recurrences, or of either from all (`subgroups`). Counts
    are rounded to tens (`disclosure.told`), so that they cannot be had by subtraction either, of one horizon from the
    next, or of a code from its family.

    Args:
      labels, int8 (n,): POSITIVE and NEGATIVE stays are scored, OPEN ones and those not followed for long enough left
        out, and counted.
      before, bool (n,): had the code by the time of the prediction; probability, float (n,).
      patients, (n,), the same number for stays of the same patient; generated, whether the patients are nobody's.
    Returns: {all, first, again: each {stays, patients, with_outcome, auroc, error, low, high} or {suppressed: why},
      left_open, not_followed: stays left out}. auroc's error is DeLong's, with patients as clusters.
    """
    scored = (labels == POSITIVE) | (labels == NEGATIVE)
    yes, who, p = labels[scored] == POSITIVE, patients[scored], probability[scored]

    def judge(rows: np.ndarray) -> dict[str, Any]:
        return _auroc(yes[rows], p[rows], who[rows], generated)

    scores: dict[str, Any] = {name: {"suppressed": NO_STAY} for name in OCCURRENCES}
    if scored.any():
        scores |= subgroups.by_group(np.full(len(yes), ALL), who, yes, judge)
        scores |= subgroups.by_group(np.where(before[scored], AGAIN, FIRST), who, yes, judge)
    open_, short = int((labels == OPEN).sum()), int((~scored & (labels != OPEN)).sum())
    told_open, told_short = (disclosure.told(count, generated) for count in (open_, short))
    return {**scores, "left_open": told_open, "not_followed": told_short}


def _auroc(labels: np.ndarray, probability: np.ndarray, patients: np.ndarray, generated: bool) -> dict[str, Any]:
    areas = delong(labels, probability[None], patients)
    area, error = float(areas.areas[0]), float(np.sqrt(np.maximum(areas.covariance[0, 0], 0)))
    low, high = interval(area, error) or (None, None)

    def rounded(value: float | None) -> float | None:
        return None if value is None or not np.isfinite(value) else round(value, disclosure.DIGITS)

    counts = {"stays": len(labels), "patients": len(np.unique(patients)), "with_outcome": int(labels.sum())}
    return {
        **{name: disclosure.told(count, generated) for name, count in counts.items()},
        **{name: rounded(value) for name, value in (("auroc", area), ("error", error), ("low", low), ("high", high))},
    }
