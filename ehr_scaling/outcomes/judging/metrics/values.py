"""How near predicted numbers come (lengths of stay, scores), and how often the right class is named."""

from typing import Any

import numpy as np

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging.metrics.delong import influence, interval
from ehr_scaling.outcomes.judging.metrics.metrics import Statistics, bootstrap, ones_for, summary

_LEAST = float(np.finfo(np.float64).eps)  # a probability of 0 in the log-loss, as scikit-learn takes it


def evaluate_values(
    truth: np.ndarray,
    predicted: np.ndarray,
    patients: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Errors of predicted numbers, with 95 % percentile intervals over bootstrap samples of patients.

    For an ordinal scale predict its expectation (`estimators.expectation`).

    Args: truth, predicted, float (n,), finite; patients and weights as in `metrics.evaluate`.
    Returns: n, patients, draws; mae, rmse, r2 (1 − squared error / that of the mean of these stays), spearman, each
      value, low and high, None where it does not exist, as a correlation with a constant; `interval_missing` where
      fewer than two patients are there.
    Raises: UserError when there is no stay; ValueError when a number is not finite.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
        raise ValueError("a value is not finite")
    weighs, order = _checked(len(truth), weights), np.argsort(truth, kind="stable")  # in order memory is read faster
    truth, predicted, patients, weighs = truth[order], predicted[order], np.asarray(patients)[order], weighs[order]
    ranks = _Midranks(truth), _Midranks(predicted)
    centre = truth[0] if truth[0] == truth[-1] else truth.mean()  # of a constant, exactly that
    columns = np.stack([np.abs(predicted - truth), (predicted - truth) ** 2, truth - centre], axis=1)
    columns = np.concatenate([columns, columns[:, 2:] ** 2], axis=1)

    def of(drawn: np.ndarray) -> dict[str, np.ndarray]:
        total = drawn.sum(axis=1)
        absolute, squared, centred, around = (drawn @ columns / total[:, None]).T
        variance = around - centred**2
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(variance > 1e-12 * truth.var(), 1 - squared / variance, np.nan)
        return {"mae": absolute, "rmse": np.sqrt(squared), "r2": r2, "spearman": _spearman(*ranks, drawn)}

    return _report(of, patients, weighs, draws, seed)


def evaluate_classes(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How often the right one of K classes is named, with 95 % intervals that resample patients.

    Args: labels, int (n,), 0 to K − 1; probabilities, float (n, K), rows sum to 1; the rest as `evaluate_values`.
    Returns: n, patients, draws, classes (of which there is a stay); top1 and top5, the share of stays whose class is
      among the 1, or 5, most probable (ties share: as by drawing among them); log_loss, nats, a probability of 0
      counting as 2e-16; and macro_auroc, the mean over the `classes_ranked` classes that some stays have and others
      lack of the AUROC of a class against the rest. Each is value, low, high: percentiles of the bootstrap, but for
      macro_auroc, whose error is found in closed form, as DeLong's, with patients as clusters.
    """
    labels, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= p.shape[1]:
        raise ValueError(f"a class is not among 0 to {p.shape[1] - 1}")
    if not np.isfinite(p).all():
        raise ValueError("a probability is not finite")
    weighs = _checked(len(labels), weights)
    p_true = np.take_along_axis(p, labels[:, None], axis=1)
    above, level = (p > p_true).sum(axis=1), (p == p_true).sum(axis=1)
    hits = [np.clip((top - above) / level, 0, 1) for top in (1, 5)]
    columns = np.stack([*hits, -np.log(np.clip(p_true[:, 0], _LEAST, 1))], axis=1)

    def of(drawn: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(("top1", "top5", "log_loss"), (drawn @ columns / drawn.sum(axis=1)[:, None]).T, strict=True))

    result = _report(of, patients, weighs, draws, seed)
    result["classes"] = len(np.unique(labels))
    return result | _macro_auroc(labels, p, patients, weighs)


def _macro_auroc(labels: np.ndarray, p: np.ndarray, patients: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    index = np.unique(patients, return_inverse=True)[1]
    ranked = [k for k in np.unique(labels) if (labels != k).any()]
    if not ranked:
        return {"macro_auroc": {"value": None, "low": None, "high": None}, "classes_ranked": 0}
    areas, errors = [], np.zeros(int(index.max()) + 1)
    for k in ranked:
        area, with_class, without = influence(labels == k, p[:, k], index, weights)
        areas.append(area)
        errors += (with_class + without) / len(ranked)
    count, value = len(errors), float(np.mean(areas))
    error = float(np.sqrt(count / (count - 1) * (errors @ errors))) if count > 1 else np.nan
    low, high = interval(value, error) or (None, None)
    return {"macro_auroc": {"value": value, "low": low, "high": high}, "classes_ranked": len(ranked)}


def _checked(n: int, weights: np.ndarray | None) -> np.ndarray:
    if not n:
        raise UserError("there is no stay to judge: take more samples (--config.outcome.samples) or patients")
    return ones_for(weights, n)


def _report(of: Statistics, patients: np.ndarray, weights: np.ndarray, draws: int, seed: int) -> dict[str, Any]:
    count = len(np.unique(patients))
    missing = {"interval_missing": "fewer than two patients"} if count < 2 else {}
    point, drawn = bootstrap(of, patients, weights, 1 if missing else draws, seed)
    summaries = {name: summary(value, None if missing else drawn[name]) for name, value in point.items()}
    return {"n": len(weights), "patients": count, "draws": draws, **missing, **summaries}


class _Midranks:
    """Ranks of values from their middle, ties sharing theirs, where a row counts as often as it weighs."""

    def __init__(self, values: np.ndarray) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] > ordered[:-1]])
        self.group = np.empty(len(values), np.int64)
        self.group[self.order] = np.repeat(np.arange(len(self.starts)), np.diff([*self.starts, len(values)]))

    def of(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ranks (d, n) of weights (d, n), whose weighted mean is 0, and their weighted sum of squares (d,)."""
        tied = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        below = np.cumsum(tied, axis=1)
        ranks = below - 0.5 * tied - 0.5 * below[:, -1:]
        return ranks[:, self.group], np.einsum("ij,ij,ij->i", tied, ranks, ranks)


def _spearman(x: _Midranks, y: _Midranks, weights: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks: (d,), NaN where one is constant."""
    (x_ranks, xx), (y_ranks, yy) = x.of(weights), y.of(weights)
    xy = np.einsum("ij,ij,ij->i", weights, x_ranks, y_ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > 0) & (yy > 0), xy / np.sqrt(xx * yy), np.nan)
