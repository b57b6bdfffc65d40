"""Thresholds on a risk that may be told. Rows are in ascending order of the prediction."""

from collections.abc import Iterable

import numpy as np

from ehr_scaling.outcomes.judging.metrics.calibration import SMALLEST


def may_be_told(labels: np.ndarray, patients: np.ndarray, rows: Iterable[int], before: Iterable[int] = ()) -> set[int]:
    """Of cuts in the order in which they matter, those that leave no small group between them and those before.

    Whom all and nobody of would be flagged are the totals, which are told anyway. Between two neighbouring cuts are no
    patients with the outcome or SMALLEST of them, and so of those without: what is told of both cuts tells of them, by
    subtraction.
    Args: rows, at which they cut; before, those of cuts that are told already.
    """

    def small(first: int, end: int) -> bool:
        return any(
            0 < _distinct(patients[first:end][kind]) < SMALLEST for kind in (labels[first:end], ~labels[first:end])
        )

    told: list[int] = sorted({0, len(labels), *before})
    for row in rows:
        at = int(np.searchsorted(told, row))
        if told[at] != row and not (small(told[at - 1], row) or small(row, told[at])):
            told.insert(at, row)
    return set(told)


def _distinct(patients: np.ndarray) -> int:
    """How many patients, SMALLEST or more being the same."""
    begun = len(np.unique(patients[: 100 * SMALLEST]))
    return begun if begun >= SMALLEST else len(np.unique(patients))
