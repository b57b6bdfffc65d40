"""Every metric by group of patients, and how far groups are apart, without telling of small groups."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ehr_scaling.outcomes.judging.metrics import calibration
from ehr_scaling.outcomes.judging.metrics.calibration import SMALLEST
from ehr_scaling.outcomes.judging.metrics.metrics import bootstrap, one_class, ones_for, ranking, summary, too_few

SUPPRESSED = f"suppressed: a count under {SMALLEST} patients"
COMPLEMENTARY = "suppressed: it would tell another group's by subtraction"


def by_group(
    groups: np.ndarray,
    patients: np.ndarray,
    labels: np.ndarray | None,
    judge: Callable[[np.ndarray], dict[str, Any]],
    order: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """What `judge` says of each group of an attribute (sex, age band, race), or that it is suppressed.

    A group is suppressed when it has under 11 patients, or under 11 with the outcome, or under 11 with a stay without
    it: none at all too, as there is nothing to judge. What is suppressed could be had as the total less the groups
    that are told, so more are, the nearest in `order` or those of fewest patients first, until the suppressed together
    have no count under 11. Then they are judged as one group: it tells of nobody whom the others do not.

    Args:
      groups, (n,), name of each stay's group; patients, (n,), the same number for stays of the same patient.
      labels, bool (n,), whether the outcome came; None for an outcome that is a number or a class.
      judge, of rows, int64 (r,), the stays of a group: what `metrics.evaluate` returns of them, say.
      order, names of groups where one lies between others, as age bands do.
    Returns: by name, in `order` or ascending: judge's answer, or {"suppressed": why}, nothing else; and last, by their
      names joined, what it says of the suppressed together.
    """
    places = {name: k for k, name in enumerate(order)}
    names = sorted(np.unique(groups).tolist(), key=lambda name: (places.get(name, len(order)), name))
    rows = {name: np.flatnonzero(groups == name) for name in names}
    kinds = [np.ones(len(patients), bool)] if labels is None else [np.ones(len(patients), bool), labels, ~labels]

    def smallest_cell(chosen: list[str]) -> int:
        at = np.concatenate([rows[name] for name in chosen])
        return min(len(np.unique(patients[at[kind[at]]])) for kind in kinds)

    size = {name: len(np.unique(patients[at])) for name, at in rows.items()}
    hidden = {name: SUPPRESSED for name in names if smallest_cell([name]) < SMALLEST}
    told = [name for name in names if name not in hidden]

    def cost(name: str) -> tuple[int, int, str]:
        near = min(abs(names.index(name) - names.index(other)) for other in hidden) if order else 0
        return near, size[name], name

    while told and hidden and smallest_cell(list(hidden)) < SMALLEST:
        told.remove(nearest := min(told, key=cost))
        hidden[nearest] = COMPLEMENTARY
    answers = {name: {"suppressed": hidden[name]} if name in hidden else judge(rows[name]) for name in names}
    if told and hidden:
        together = [name for name in names if name in hidden]
        answers[" or ".join(together)] = judge(np.sort(np.concatenate([rows[name] for name in together])))
    return answers


def gaps(
    rows: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    patients: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How far a group is from the rest of the stays: its AUROC, and its calibration in the large, less theirs.

    Both parts are of one resample of all patients, so that a patient with stays in both moves both. What is told of a
    group that `by_group` tells gives no count away: the rest is all other groups, whose counts together are the told
    total less the told group's, and of those that are suppressed it holds all together, which have 11 at least.

    Args: rows, int64 (r,), the stays of the group; all others as `metrics.evaluate` has them, of all stays.
    Returns: auroc and calibration_in_the_large (log-odds), each value, low, high; told, whether the interval excludes
      0; and could_hide, the largest gap of either sign within the interval, None where there is no interval. Empty
      where all are of the group, or one part has one kind of outcome only.
    """
    group = np.zeros(len(labels), bool)
    group[rows] = True
    parts = [np.flatnonzero(of_part) for of_part in (group, ~group)]
    if any(one_class(labels[at]) for at in parts):
        return {}
    weighs = ones_for(weights, len(labels))
    ranked = [ranking(labels[at], predicted[at]) for at in parts]
    shifts = [calibration.in_the_large(labels[at], predicted[at], weighs[at]) for at in parts]

    def of(drawn: np.ndarray) -> dict[str, np.ndarray]:
        each = [drawn[:, at] for at in parts]
        areas = [one.areas(part[:, one.order])[0] for one, part in zip(ranked, each, strict=True)]
        shifted = [shift(part) for shift, part in zip(shifts, each, strict=True)]
        return {"auroc": areas[0] - areas[1], "calibration_in_the_large": shifted[0] - shifted[1]}

    missing = any(too_few(labels[at], patients[at]) for at in parts)
    point, drawn = bootstrap(of, patients, weighs, 1 if missing else draws, seed)
    return {name: _gap(value, None if missing else drawn[name]) for name, value in point.items()}


def _gap(value: float, drawn: np.ndarray | None) -> dict[str, Any]:
    about = summary(value, drawn)
    low, high = about["low"], about["high"]
    if low is None or high is None:
        return {**about, "told": False, "could_hide": None}
    return {**about, "told": low > 0 or high < 0, "could_hide": max(abs(low), abs(high))}
