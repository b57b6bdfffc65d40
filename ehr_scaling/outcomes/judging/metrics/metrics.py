"""How well scores tell patients with an outcome from those without, with intervals over patients."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging.metrics import calibration
from ehr_scaling.outcomes.judging.metrics.delong import delong, interval

_AT_ONCE = 1_000_000  # weights

Statistics = Callable[[np.ndarray], dict[str, np.ndarray]]  # of weights (d, n), float64: (d,) of each name


class Ranking(NamedTuple):
    """Stays in ascending order of their score, those of one score together."""

    order: np.ndarray  # int64 (n,)
    labels: np.ndarray  # bool (n,), in that order
    # Of the t different scores that a stay with the outcome has: where the stays of that score begin and end in the
    # order, and where those with the outcome begin among all with the outcome. int64 (t,)
    begins: np.ndarray
    ends: np.ndarray
    firsts: np.ndarray

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AUROC and average precision, float64 (...) both, of weights (..., n) in the order of the scores.

        All that counts of a stay without the outcome is how much such weight lies below each stay with it, so the
        work on all n is one running sum.
        """
        below = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1))
        np.cumsum(weights, axis=-1, out=below[..., 1:])
        total = below[..., -1]
        positive = np.add.reduceat(weights[..., self.labels], self.firsts, axis=-1)
        cumulative = np.cumsum(positive, axis=-1)
        begins, ends, positives = below[..., self.begins], below[..., self.ends], cumulative[..., -1]
        before = begins - (cumulative - positive)  # weight without the outcome that scores lower
        with np.errstate(invalid="ignore", divide="ignore"):
            tied = ends - begins - positive
            auroc = (positive * (before + 0.5 * tied)).sum(axis=-1) / (positives * (total - positives))
            found_from, flagged = positives[..., None] - cumulative + positive, total[..., None] - begins
            precision = np.where(positive > 0, found_from / flagged, 0.0)
            average_precision = (positive * precision).sum(axis=-1) / positives
        # Sums in two orders differ in their last digits.
        one_class = (positives <= 0) | (total - positives <= 1e-9 * total)
        return np.where(one_class, np.nan, auroc), np.where(one_class, np.nan, average_precision)


def ranking(labels: np.ndarray, scores: np.ndarray) -> Ranking:
    """Raises ValueError when a score is not finite."""
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    order = np.argsort(scores, kind="stable")
    ordered, labels = scores[order], np.asarray(labels, bool)[order]
    values, firsts = np.unique(ordered[labels], return_index=True)
    begins, ends = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return Ranking(order, labels, begins, ends, firsts)


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: P(a positive scores higher than a negative) + ½ P(they tie) (Hanley & McNeil 1982).

    Args: labels, bool (n,); scores, (n,), finite; weights, ≥ 0, (..., n), or None for 1 each.
    Returns: float64 (...); NaN where either class has no weight.
    """
    return _areas(labels, scores, weights)[0]


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the precision-recall curve, Σ (rise of recall) · precision, as scikit-learn's.

    Unlike the AUROC it depends on the share of positives: of stays sampled by outcome it needs weights that undo
    that. Args and returns as `auroc`.
    """
    return _areas(labels, scores, weights)[1]


def _areas(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    ranked = ranking(labels, scores)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    return ranked.areas(weights[..., ranked.order])


def bootstrap_weights(clusters: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n rows is in each of `draws` samples of whole clusters with replacement: float64 (k, n) parts.

    The same clusters and seed give the same weights, so that all models are judged on the same resamples.
    """
    _, index = np.unique(clusters, return_inverse=True)
    count, rng = int(index.max()) + 1, np.random.default_rng(seed)
    part = max(1, _AT_ONCE // len(index))
    for first in range(0, draws, part):
        rows = min(part, draws - first)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield counts.astype(np.float64)[:, index]


def bootstrap(
    statistics: Statistics, clusters: np.ndarray, weights: np.ndarray, draws: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Statistics of all rows, and of each resample of whole clusters: floats, and float64 (draws,), by name.

    Args: statistics, of weights (d, n); weights, (n,), what a row weighs in all rows and once in a resample.
    """
    point = {name: float(values[0]) for name, values in statistics(weights[None]).items()}
    parts = [statistics(drawn * weights) for drawn in bootstrap_weights(clusters, draws, seed)]
    return point, {name: np.concatenate([part[name] for part in parts]) for name in point}


def summary(point: float, drawn: np.ndarray | None) -> dict[str, float | None]:
    """value, low and high, the 95 % percentile interval; None for what does not exist.

    A resample without the statistic, as one that drew one class only, is left out: this conditions on its being
    there, as the data do.
    """
    low, high = None, None
    if drawn is not None and np.isfinite(point) and np.isfinite(drawn).any():
        low, high = (float(x) for x in np.nanpercentile(drawn, [2.5, 97.5]))
    return {"value": point if np.isfinite(point) else None, "low": low, "high": high}


def ones_for(weights: np.ndarray | None, n: int) -> np.ndarray:
    """The weights, or 1 each: float64 (n,). Raises ValueError when they are not positive numbers of that shape."""
    weights = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (n,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(f"weights must be {n} positive numbers")
    return weights


def too_few(labels: np.ndarray, patients: np.ndarray) -> str | None:
    """Why there is no interval, if there is none: resamples of so few patients say nothing."""
    for kind, rows in (("with", labels), ("without", ~labels)):
        if len(np.unique(patients[rows])) < 2:
            return f"fewer than two patients {kind} the outcome"
    return None


def one_class(labels: np.ndarray) -> UserError | None:
    """The error to raise when all stays have the outcome, or none."""
    positives = int(labels.sum())
    if 0 < positives < len(labels):
        return None
    return UserError(
        f"an AUROC needs stays with the outcome and stays without: {'all' if positives else 'none'} of them have it; "
        "take more samples (--config.outcome.samples) or patients"
    )


def evaluate(
    labels: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    probabilities: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How well scores rank stays, and, of probabilities, how far they are to be believed.

    Intervals are 95 % percentile intervals over bootstrap samples of patients, the same for every statistic and model:
    stays of one patient are not independent, so patients are drawn, with all their stays.

    Args:
      labels, bool (n,); scores, float (n,); patients, int (n,), the same number for stays of the same patient.
      weights: > 0, (n,), one over the probability with which a stay was sampled, for stays sampled by outcome. The
        AUROC does not depend on such a sampling; the AUPRC, the Brier score and calibration do, and without weights are
        those of the sample, not of the cohort.
      probabilities: whether scores are probabilities of the outcome.
    Returns: auroc, low, high, n (stays), positives, patients, draws. The interval is None, with `interval_missing`
      that says why, when fewer than two patients have the outcome or fewer than two have a stay without it. Then
      delong: error, low, high of the AUROC in closed form with patients as clusters (see `delong`), the interval on
      the logit scale; auprc: value, low, high (as all that follow). With `probabilities` also what
      `calibration.statistics` has, and `weighted`.
    Raises: UserError when all stays have the outcome, or none.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if error := one_class(labels):
        raise error
    ranked, weighs = ranking(labels, scores), ones_for(weights, len(labels))
    weighs, ordered, owners = weighs[ranked.order], scores[ranked.order], np.asarray(patients)[ranked.order]
    parts: list[Statistics] = [lambda drawn: dict(zip(("auroc", "auprc"), ranked.areas(drawn), strict=True))]
    if probabilities:
        parts.append(calibration.statistics(ranked.labels, ordered, weighs))
    both: Statistics = lambda drawn: {k: v for part in parts for k, v in part(drawn).items()}  # noqa: E731
    missing = too_few(ranked.labels, owners)
    point, drawn = bootstrap(both, owners, weighs, 1 if missing else draws, seed)
    summaries = {name: summary(value, None if missing else drawn[name]) for name, value in point.items()}
    areas, covariance = delong(ranked.labels, ordered[None], owners, weighs)
    spread = float(np.sqrt(covariance[0, 0]))
    closed = interval(float(areas[0]), spread)
    result: dict[str, Any] = {
        "auroc": point["auroc"],
        "low": summaries["auroc"]["low"],
        "high": summaries["auroc"]["high"],
        "n": len(labels),
        "positives": int(labels.sum()),
        "patients": len(np.unique(patients)),
        "draws": draws,
        **({"interval_missing": missing} if missing else {}),
        "delong": {
            "error": spread if np.isfinite(spread) else None,
            "low": closed[0] if closed else None,
            "high": closed[1] if closed else None,
        },
        "auprc": summaries["auprc"],
    }
    if probabilities:
        result |= {name: summaries[name] for name in calibration.NAMES}
        result["weighted"] = weights is not None
    return result
