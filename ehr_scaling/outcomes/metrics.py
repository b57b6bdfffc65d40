"""How well scores tell patients with an outcome from those without, with an interval."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ehr_scaling.errors import UserError

_AT_ONCE = 4_000_000  # weights


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: P(a positive scores higher than a negative) + ½ P(they tie) (Hanley & McNeil 1982).

    Args: labels, bool (n,); scores, (n,), finite; weights, ≥ 0, (..., n), or None for 1 each.
    Returns: float64 (...); NaN where either class has no weight.
    """
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    order = np.argsort(scores, kind="stable")
    tie_starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    positive, negative = (
        np.add.reduceat(weights[..., order] * is_class[order], tie_starts, axis=-1) for is_class in (labels, ~labels)
    )
    below = np.cumsum(negative, axis=-1) - 0.5 * negative
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return (positive * below).sum(axis=-1) / pairs


def bootstrap_weights(clusters: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n rows is in each of `draws` samples of whole clusters with replacement: int64 (k, n) parts.

    The same clusters and seed give the same weights, so that all models are judged on the same resamples.
    """
    _, index = np.unique(clusters, return_inverse=True)
    count, rng = int(index.max()) + 1, np.random.default_rng(seed)
    part = max(1, _AT_ONCE // len(index))
    for first in range(0, draws, part):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(part, draws - first))[:, index]


def evaluate(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, *, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """AUROC with its 95 % percentile interval over bootstrap samples of patients.

    Stays of one patient are not independent, so patients are drawn, with all their stays.

    Args: labels, bool (n,); scores, float (n,); patients, int (n,), the same number for stays of the same patient.
    Returns: auroc, low, high, n (stays), positives, patients, draws. The interval is None, with `interval_missing`
      that says why, when fewer than two patients have the outcome or fewer than two have a stay without it.
    Raises: UserError when all stays have the outcome, or none.
    """
    labels = np.asarray(labels, bool)
    positives = int(labels.sum())
    if not 0 < positives < len(labels):
        raise UserError(
            f"an AUROC needs stays with the outcome and stays without: {positives} of {len(labels)} have it; "
            "take more samples (--config.outcome.samples) or patients"
        )
    result: dict[str, Any] = {
        "auroc": float(auroc(labels, scores)),
        "low": None,
        "high": None,
        "n": len(labels),
        "positives": positives,
        "patients": len(np.unique(patients)),
        "draws": draws,
    }
    for kind, rows in (("with", labels), ("without", ~labels)):
        if len(np.unique(patients[rows])) < 2:
            return {**result, "interval_missing": f"fewer than two patients {kind} the outcome"}
    values = [auroc(labels, scores, weights) for weights in bootstrap_weights(patients, draws, seed)]
    # A resample that drew one class only has no AUROC; leaving it out conditions on both being there, as the data do.
    low, high = np.nanpercentile(np.concatenate(values), [2.5, 97.5])
    return {**result, "low": float(low), "high": float(high)}
