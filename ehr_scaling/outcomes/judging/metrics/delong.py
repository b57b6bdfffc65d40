"""The area under the ROC curve with its variance in closed form, of several models on the same stays.

DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837), computed by ranks (Sun & Xu 2014); for stays of the same
patient, which are not independent, its extension to clusters (Obuchowski 1997, Biometrics 53:567), which is DeLong's
where every patient has one stay.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri


class Areas(NamedTuple):
    areas: np.ndarray  # float64 (m,)
    covariance: np.ndarray  # float64 (m, m); NaN where fewer than two clusters have the outcome, or lack it


def delong(
    labels: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None, weights: np.ndarray | None = None
) -> Areas:
    """Areas of m models and the covariance of their errors.

    Args: labels, bool (n,), both kinds present; scores, float (m, n); clusters, (n,), the same value for stays that
      are not independent, None where all are; weights, > 0, (n,), or None for 1 each. Weights that depend on the
      label alone change nothing.
    """
    index = np.arange(len(labels)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    parts = [influence(labels, row, index, weights) for row in scores]
    areas, with_outcome, without = (np.stack(field) for field in zip(*parts, strict=True))
    ones, zeros, count = len(np.unique(index[labels])), len(np.unique(index[~labels])), with_outcome.shape[1]
    if min(ones, zeros) < 2:
        return Areas(areas, np.full((len(areas), len(areas)), np.nan))
    both = with_outcome @ without.T
    covariance = ones / (ones - 1) * with_outcome @ with_outcome.T + zeros / (zeros - 1) * without @ without.T
    return Areas(areas, covariance + count / (count - 1) * (both + both.T))


def influence(
    labels: np.ndarray, scores: np.ndarray, index: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """The area, and what each cluster's stays with the outcome, and those without, add to its error: float64 (I,) both.

    A stay with the outcome adds its weight · (share of the others it scores above − area), over the sum of weights;
    one without likewise. Args: index, int (n,), cluster of each stay, from 0 to I − 1.
    """
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    group = np.cumsum(np.r_[False, ordered[1:] > ordered[:-1]])
    positive, negative = (np.bincount(group, (weights * kind)[order]) for kind in (labels, ~labels))
    total_positive, total_negative = positive.sum(), negative.sum()
    below = np.cumsum(negative) - 0.5 * negative
    above = total_positive - np.cumsum(positive) + 0.5 * positive
    area = float(positive @ below / (total_positive * total_negative))
    share = np.empty(len(labels))
    share[order] = np.where(labels[order], below[group] / total_negative, above[group] / total_positive)
    error = weights * (share - area) / np.where(labels, total_positive, total_negative)
    count = int(index.max()) + 1
    return area, np.bincount(index, error * labels, count), np.bincount(index, error * ~labels, count)


def interval(area: float, error: float, level: float = 0.95) -> tuple[float, float] | None:
    """Normal on the logit scale, so within 0 and 1; None where the error is unknown, or the area is 0 or 1.

    Delta method: the error of logit(A) is error / (A·(1 − A)) (Pepe 2003, §5.2).
    """
    if not 0 < area < 1 or not np.isfinite(error):
        return None
    z = ndtri(0.5 + level / 2) * error / (area * (1 - area))
    return float(expit(logit(area) - z)), float(expit(logit(area) + z))
