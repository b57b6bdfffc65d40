"""Statistics of an audit, each with its 95 % interval over patients, and without telling of few patients.

Shapes: m members, h held-out patients, d resamples.
"""

from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.data import disclosure
from ehr_scaling.outcomes.judging import metrics
from ehr_scaling.outcomes.judging.calibration import SMALLEST, wilson
from ehr_scaling.outcomes.judging.delong import delong, interval

FALSE_POSITIVES = 0.01  # rate at which a loss attack is judged (Carlini et al. 2022, arXiv 2112.03570)
SUPPRESSED = f"suppressed: a count under {SMALLEST} patients"

Difference = dict[str, Any]  # value, low and high; each may be None


class Count(NamedTuple):
    """For which share of patients something holds, as far as it may be told: between least and most.

    Both are the share itself where it is told. Of real patients a count from 1 to 10, or of all but so many, is not:
    then they are the ends of what it may be. n: patients, of real ones to the nearest ten, and their share to three
    digits; so that neither, nor what is made of them, gives away how many there are.
    """

    least: float
    most: float
    n: int

    @property
    def told(self) -> bool:
        return self.least == self.most

    @property
    def value(self) -> float:
        """The share, or where it is not told the middle of what it may be."""
        return (self.least + self.most) / 2

    def to_json(self) -> dict[str, Any]:
        if self.told:
            return {"share": self.value}
        return {"share": None, "at_least": self.least, "at_most": self.most}


def count(holds: np.ndarray, generated: bool) -> Count:
    """Args: holds, bool (n,), a patient each, n ≥ 11, or 1 where `generated`: whether the patients are nobody's."""
    yes, n, few = int(holds.sum()), len(holds), SMALLEST - 1
    if generated:
        return Count(yes / n, yes / n, n)
    about = disclosure.told(n, generated) or n
    if yes in (0, n) or few < yes < n - few:
        return Count(round(yes / n, 3), round(yes / n, 3), about)
    part = min(few / about, 1.0)
    return Count(0.0, part, about) if yes <= few else Count(1 - part, 1.0, about)


def excess(members: Count, held_out: Count) -> Difference:
    """Share of members less that of held-out patients, with Newcombe's interval of such a difference.

    Square-and-add of two Wilson intervals (Newcombe 1998, Stat. Med. 17:873, method 10). Where a count is not told, the
    ends are those of the counts that it may be, and there is no value unless the other count is told.
    """
    low = newcombe(members.least, members.n, held_out.most, held_out.n)[0]
    high = newcombe(members.most, members.n, held_out.least, held_out.n)[1]
    value = members.value - held_out.value if members.told or held_out.told else None
    return {"value": value, "low": low, "high": high}


def newcombe(share: float, n: int, other: float, m: int) -> tuple[float, float]:
    """Newcombe's interval of share − other, of n and m patients."""
    (low, high), (low_other, high_other) = wilson(share, n), wilson(other, m)
    difference = share - other
    below = np.hypot(share - low, high_other - other)
    above = np.hypot(high - share, other - low_other)
    return float(max(difference - below, -1.0)), float(min(difference + above, 1.0))


def attack(
    members: np.ndarray, held_out: np.ndarray, *, generated: bool, draws: int, seed: int, rate: float = FALSE_POSITIVES
) -> dict[str, Any]:
    """How well scores tell members from held-out patients.

    Args: members (m,) and held_out (h,), a score of each patient, higher where a member is suspected.
    Returns: auroc, error, low, high: DeLong's, the interval on the logit scale. Where no score of one kind lies above
      one of the other, there is no error, and the end on the inner side is exact: min(m, h) pairs that share no patient
      are all in order, and with an area A that happens with probability A^min(m, h). true_positives: value, low, high,
      the share of members that are found where at most `rate` of the held-out patients are (`found_at`), with the
      percentile interval over patients; without a value where it tells of few patients.
    """
    scores = np.concatenate([members, held_out]).astype(np.float64)
    labels = np.arange(len(scores)) < len(members)
    areas, covariance = delong(labels, scores[None])
    area, error = float(areas[0]), float(np.sqrt(max(covariance[0, 0], 0.0)))
    bounds = interval(area, error)
    if bounds is None or error == 0:
        inner = 0.025 ** (1 / min(len(members), len(held_out)))
        bounds = (inner, 1.0) if area == 1 else (0.0, 1 - inner) if area == 0 else (area, area)
    order = np.argsort(-scores, kind="stable")
    found: metrics.Statistics = lambda weights: {  # noqa: E731
        "found": found_at(scores[order], labels[order], weights[:, order], rate)
    }
    point, drawn = metrics.bootstrap(found, np.arange(len(scores)), np.ones(len(scores)), draws, seed)
    told = count(np.arange(len(members)) < round(point["found"] * len(members)), generated).told
    nothing = {"value": None, "low": None, "high": None, "suppressed": SUPPRESSED}
    return {
        "auroc": area,
        "error": error if 0 < area < 1 else None,
        "low": bounds[0],
        "high": bounds[1],
        "true_positives": metrics.summary(point["found"], drawn["found"]) if told else nothing,
    }


def found_at(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, rate: float) -> np.ndarray:
    """The largest true positive rate at a false positive rate of at most `rate`: float64 (d,).

    Args: scores (n,) in descending order; labels, bool (n,); weights (d, n).
    """
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # a threshold does not part equal scores
    positive, negative = (np.cumsum(weights * kind, axis=1) for kind in (labels, ~labels))
    with np.errstate(invalid="ignore", divide="ignore"):
        true, false = positive[:, ends] / positive[:, -1:], negative[:, ends] / negative[:, -1:]
    return np.asarray(np.where(false <= rate + 1e-12, true, 0.0).max(axis=1))


class Occurrences(NamedTuple):
    """The first time that a token stands in a patient's window, of many tokens and patients: a row each."""

    tokens: np.ndarray  # int64 (n,)
    patients: np.ndarray  # int64 (n,), the same number for one patient; no member has that of a held-out patient
    members: np.ndarray  # bool (n,)

    def take(self, rows: np.ndarray) -> "Occurrences":
        return Occurrences(*(field[rows] for field in self))


def stratified(at: Occurrences, values: dict[str, np.ndarray], draws: int, seed: int) -> dict[str, Difference]:
    """By how much values are larger where members have a token than where held-out patients have the same one.

    The mean over tokens of the difference of means, weighted by m·h / (m + h) as of Mantel & Haenszel 1959, so that a
    token which one side lacks does not count; with the percentile interval over patients.

    Args: values, float (n,) by name.
    Returns: by name value, low, high; None where no token is on both sides.
    """
    order = np.argsort(at.tokens, kind="stable")
    at = at.take(order)
    starts = np.flatnonzero(np.diff(at.tokens, prepend=-1))
    sorted_values = {name: np.asarray(of, np.float64)[order] for name, of in values.items()}

    def sums(weights: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weights, starts, axis=1)

    def differences(weights: np.ndarray) -> dict[str, np.ndarray]:
        of_members, of_others = weights * at.members, weights * ~at.members
        m, h = sums(of_members), sums(of_others)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = np.where((m > 0) & (h > 0), m * h / (m + h), 0.0)
            total = weight.sum(1)
            return {
                name: np.where(
                    total > 0,
                    np.nansum(weight * (sums(of_members * of) / m - sums(of_others * of) / h), 1) / total,
                    np.nan,
                )
                for name, of in sorted_values.items()
            }

    point, drawn = metrics.bootstrap(differences, at.patients, np.ones(len(order)), draws, seed)
    return {name: metrics.summary(value, drawn[name]) for name, value in point.items()}
