"""Statistics of an audit, each with its 95 % interval over patients, and without telling of few real patients.

Shapes: m members, h held-out patients, d resamples.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.data import disclosure
from ehr_scaling.outcomes.judging.metrics import metrics
from ehr_scaling.outcomes.judging.metrics.calibration import SMALLEST, wilson
from ehr_scaling.outcomes.judging.metrics.delong import delong, interval

FALSE_POSITIVES = 0.01  # rate at which a loss attack is judged (Carlini et al. 2022, arXiv 2112.03570)
SUPPRESSED = f"suppressed: a count under {SMALLEST} patients"
FEW = SMALLEST - 1

Difference = dict[str, Any]  # value, low and high; each may be None


class Count(NamedTuple):
    """For which share of patients something holds, as far as it may be told: `share`, and the ends of what it may be.

    Of real patients a count from 1 to 10, or of all but so many, has no share; another is told in steps of ten patients
    or more, but for none and all. n: patients, of real ones to the nearest ten. So that neither, nor what is made of
    them, gives away how many there are.
    """

    share: float | None
    least: float
    most: float
    n: int
    generated: bool

    @property
    def fewest(self) -> int:
        """As few patients as n may stand for: an interval of so many is not too narrow."""
        return _fewest(self.n, self.generated)

    @property
    def value(self) -> float:
        """The share, or where it is not told the middle of what it may be."""
        return (self.least + self.most) / 2 if self.share is None else self.share

    def to_json(self) -> dict[str, Any]:
        if self.share is not None:
            return {"share": self.share}
        return {"share": None, "at_least": self.least, "at_most": self.most}


def count(holds: np.ndarray, generated: bool) -> Count:
    """Args: holds, bool (n,), a patient each, n ≥ 11, or 1 where `generated`: whether the patients are nobody's."""
    yes, n = int(holds.sum()), len(holds)
    if generated or yes in (0, n):
        return Count(yes / n, yes / n, yes / n, n if generated else _about(n), generated)
    about = _about(n)
    step = 10 / (about - 6)  # over ten patients, since there are more than so many
    if FEW < yes < n - FEW:
        share = round(yes / n / step) * step
        return _between(share, share - step / 2, share + step / 2, about)
    return _between(None, 0.0, step, about) if yes <= FEW else _between(None, 1 - step, 1.0, about)


def _about(n: int) -> int:
    return disclosure.told(n, generated=False) or n


def _fewest(n: int, generated: bool) -> int:
    """Of n patients, or of `_about` so many real ones, how many there are at least; of real ones there are 11."""
    return n if generated else max(_about(n) - disclosure.FEWEST // 2, SMALLEST)


def _between(share: float | None, least: float, most: float, n: int) -> Count:
    """To `disclosure.DIGITS`, ends outwards."""
    scale = 10**disclosure.DIGITS
    low, high = max(math.floor(least * scale) / scale, 0.0), min(math.ceil(most * scale) / scale, 1.0)
    return Count(None if share is None else round(share, disclosure.DIGITS), low, high, n, generated=False)


class Counts:
    """Counts of sets of the same patients, of which none gives another away.

    Two of real patients are not both told where one set holds the other and 1 to 10 patients more: of the second only
    what it may be is told then, by the first.
    """

    def __init__(self, generated: bool) -> None:
        self.generated = generated
        self._told: list[tuple[np.ndarray, Count]] = []

    def of(self, holds: np.ndarray, among: np.ndarray) -> Count:
        """Args: holds, bool (n,), of all patients; among, bool (n,), of whom a share is told."""
        counted = count(holds[among], self.generated)
        if self.generated or counted.share is None:
            return counted
        holders = holds & among
        for other, told in self._told:
            more, fewer = int((holders & ~other).sum()), int((other & ~holders).sum())
            if min(more, fewer) == 0 and 1 <= more + fewer <= FEW:
                # In patients, of both sides as many as their rounded numbers allow
                least = told.least * told.fewest - (FEW if fewer else 0)
                most = told.most * (told.n + 5) + (FEW if more else 0)
                return _between(None, least / (counted.n + 5), most / counted.fewest, counted.n)
        self._told.append((holders, counted))
        return counted


def excess(members: Count, held_out: Count) -> Difference:
    """Share of members less that of held-out patients, with Newcombe's interval of such a difference.

    Square-and-add of two Wilson intervals (Newcombe 1998, Stat. Med. 17:873, method 10). Of real patients the
    ends are those of the counts that both may be, of as few patients as there may be, and there is no value unless one
    of the counts is told.
    """
    low = newcombe(members.least, members.fewest, held_out.most, held_out.fewest)[0]
    high = newcombe(members.most, members.fewest, held_out.least, held_out.fewest)[1]
    value = None if members.share is None and held_out.share is None else members.value - held_out.value
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
      percentile interval over patients, which of none or all is at least as wide as Wilson's; without a value where it
      tells of few patients, and where one held-out patient is more than `rate`. Of real patients all are rounded, to
      `disclosure.DIGITS` or as `count` does.
    """
    scores = np.concatenate([members, held_out]).astype(np.float64)
    labels = np.arange(len(scores)) < len(members)
    areas, covariance = delong(labels, scores[None])
    area, error = float(areas[0]), float(np.sqrt(max(covariance[0, 0], 0.0)))
    bounds = interval(area, error)
    if bounds is None or error == 0:
        inner = 0.025 ** (1 / min(len(members), len(held_out)))
        bounds = (inner, 1.0) if area == 1 else (0.0, 1 - inner) if area == 0 else (area, area)
    told = {
        "auroc": area,
        "error": error if 0 < area < 1 else None,
        "low": bounds[0],
        "high": bounds[1],
        "true_positives": _true_positives(scores, labels, generated, draws, seed, rate),
    }
    return dict(disclosure.rounded(told, generated))


def _true_positives(
    scores: np.ndarray, labels: np.ndarray, generated: bool, draws: int, seed: int, rate: float
) -> Difference:
    members, held_out = int(labels.sum()), int((~labels).sum())
    nothing: Difference = {"value": None, "low": None, "high": None}
    if held_out * rate < 1:
        return {**nothing, "missing": f"one of so few held-out patients is more than {rate:.0%} of them"}
    order = np.argsort(-scores, kind="stable")
    statistics: metrics.Statistics = lambda weights: {  # noqa: E731
        "found": found_at(scores[order], labels[order], weights[:, order], rate)
    }
    point, drawn = metrics.bootstrap(statistics, np.arange(len(scores)), np.ones(len(scores)), draws, seed)
    share = count(np.arange(members) < round(point["found"] * members), generated).share
    if share is None:
        return {**nothing, "suppressed": SUPPRESSED}
    told: Difference = metrics.summary(share, drawn["found"])
    if share in (0, 1):  # of patients who are all alike a resample says nothing
        low, high = wilson(share, _fewest(members, generated))
        told |= {"low": min(low, told["low"]), "high": max(high, told["high"])}
    return told


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


def stratified(
    at: Occurrences, values: dict[str, np.ndarray], *, generated: bool, draws: int, seed: int
) -> dict[str, Difference]:
    """By how much values are larger where members have a token than where held-out patients have the same one.

    The mean over tokens of the difference of means, weighted by m·h / (m + h) as of Mantel & Haenszel 1959, so that a
    token which one side lacks does not count; with the percentile interval over patients. Where that has no width,
    since all of a side are alike, it is Newcombe's for what is or is not, and there is none for what has a size.

    Args: values, float or bool (n,) by name; generated, whether the patients are nobody's.
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
    told: dict[str, Difference] = {name: metrics.summary(value, drawn[name]) for name, value in point.items()}
    both = np.isin(at.tokens, np.intersect1d(at.tokens[at.members], at.tokens[~at.members]))
    sides = [both & side for side in (at.members, ~at.members)]
    for name, difference in told.items():
        if difference["value"] is not None and difference["low"] == difference["high"]:
            difference["low"], difference["high"] = None, None
            if values[name].dtype == bool:
                of_side = [
                    (sorted_values[name][side].mean(), _fewest(len(np.unique(at.patients[side])), generated))
                    for side in sides
                ]
                difference["low"], difference["high"] = newcombe(*of_side[0], *of_side[1])
    return told
