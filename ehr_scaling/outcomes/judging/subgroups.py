"""Every metric by group of patients, without telling of small groups."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ehr_scaling.outcomes.judging.calibration import SMALLEST

SUPPRESSED = f"suppressed: a count under {SMALLEST} patients"
COMPLEMENTARY = "suppressed: it would tell another group's by subtraction"


def by_group(
    groups: np.ndarray,
    patients: np.ndarray,
    labels: np.ndarray | None,
    judge: Callable[[np.ndarray], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """What `judge` says of each group of an attribute (sex, age band, race), or that it is suppressed.

    A group is suppressed when it has under 11 patients, or under 11 with the outcome, or under 11 with a stay without
    it: none at all too, as there is nothing to judge. What is suppressed could be had as the total less the groups
    that are told, so more are, those of fewest patients first, until the suppressed together have no count under 11.

    Args:
      groups, (n,), name of each stay's group; patients, (n,), the same number for stays of the same patient.
      labels, bool (n,), whether the outcome came; None for an outcome that is a number or a class.
      judge, of rows, int64 (r,), the stays of a group: what `metrics.evaluate` returns of them, say.
    Returns: by name in ascending order: judge's answer, or {"suppressed": why}, nothing else.
    """
    names = sorted(np.unique(groups).tolist())
    rows = {name: np.flatnonzero(groups == name) for name in names}
    kinds = [np.ones(len(patients), bool)] if labels is None else [np.ones(len(patients), bool), labels, ~labels]

    def smallest_cell(chosen: list[str]) -> int:
        at = np.concatenate([rows[name] for name in chosen])
        return min(len(np.unique(patients[at[kind[at]]])) for kind in kinds)

    size = {name: len(np.unique(patients[at])) for name, at in rows.items()}
    hidden = {name: SUPPRESSED for name in names if smallest_cell([name]) < SMALLEST}
    told = sorted((name for name in names if name not in hidden), key=lambda name: (size[name], name))
    while told and hidden and smallest_cell(list(hidden)) < SMALLEST:
        hidden[told.pop(0)] = COMPLEMENTARY
    return {name: {"suppressed": hidden[name]} if name in hidden else judge(rows[name]) for name in names}
