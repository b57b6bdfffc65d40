"""How far predicted probabilities are to be believed. Rows are in ascending order of the prediction throughout."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri

NAMES = ("brier", "calibration_slope", "calibration_intercept", "calibration_in_the_large", "ece")
BINS = 10
SMALLEST = 11  # patients in a cell that may be told: the rule of US health agencies
CLIP = 1e-6  # a probability of 0 or 1 has no logit: it is taken for one this far from it
# Newton's method ends after a step this small, on an axis of standard deviation 1; what is left is about its square.
# A resample starts next to its solution: where its step is below the second, as with thousands of outcomes, the rest is
# below 1/1000, less than the noise of 1,000 resamples.
_STEPS, _SETTLED, _NEAR = 25, 1e-6, 0.05


def statistics(
    labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function of weights (d, n), as of d resamples, that gives float64 (d,) of each of NAMES.

    - brier: mean of (prediction − label)².
    - calibration_slope, calibration_intercept: of a logistic regression, without penalty, of the label on the logit
      of the prediction (Cox 1958); 1 and 0 where predictions are right. NaN where it does not exist: all predictions
      are the same, or they separate the labels.
    - calibration_in_the_large: the intercept when the slope is held at 1; positive where outcomes are more frequent
      than predicted.
    - ece: expected calibration error, Σ share · |mean prediction − share of positives| over 10 bins of equal weight,
      as near as ties allow. Bins are those of all rows. It cannot be negative, so noise raises it, and resamples have
      more of it than the rows themselves: read its interval with that in mind.

    Args: labels, bool (n,), both kinds present; predicted, float (n,), ascending; weights, (n,), those of all rows.
    Raises: ValueError when a prediction is not within 0 and 1.
    """
    if not (predicted[0] >= 0 and predicted[-1] <= 1):
        raise ValueError("a prediction is not within 0 and 1")
    y = labels.astype(np.float64)
    x = logit(np.clip(predicted, CLIP, 1 - CLIP))
    starts = _starts(predicted, weights)
    in_bin = np.arange(len(starts)) == (np.searchsorted(starts, np.arange(len(y)), side="right") - 1)[:, None]
    # On a standardised axis, so that steps can be bounded, and the same for a sharp and a flat model.
    middle, spread = np.average(x, weights=weights), x.std() or 1.0
    line = _Logistic(np.stack([np.ones_like(x), (x - middle) / spread], axis=1), np.zeros_like(x), y)
    shift = _Logistic(np.ones((len(x), 1)), x, y)
    sloped = line.fit(weights[None], np.zeros((1, 2)), _SETTLED)[0] if x[0] < x[-1] else np.full(2, np.nan)
    shifted = shift.fit(weights[None], np.zeros((1, 1)), _SETTLED)[0]
    # All that is a plain weighted sum, in one product
    columns = [np.ones((len(y), 1)), ((predicted - y) ** 2)[:, None], (y - predicted)[:, None] * in_bin]
    columns += [line.terms(sloped), shift.terms(shifted)]
    summed, cuts = np.concatenate(columns, axis=1), np.cumsum([c.shape[1] for c in columns])[:-1]

    def of(drawn: np.ndarray) -> dict[str, np.ndarray]:
        total, squared, excess, of_line, of_shift = np.split(drawn @ summed, cuts, axis=1)
        at, rise = line.refit(drawn, sloped, of_line).T
        return {
            "brier": (squared / total)[:, 0],
            "calibration_slope": rise / spread,
            "calibration_intercept": at - rise * middle / spread,
            "calibration_in_the_large": shift.refit(drawn, shifted, of_shift)[:, 0],
            "ece": np.abs(excess).sum(axis=1) / total[:, 0],
        }

    return of


def line(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> tuple[float, float] | None:
    """Intercept and slope of a logistic regression, without penalty, of the label on the logit of the prediction.

    As `statistics` has them, of rows in any order; None where they do not exist. `moved` applies them.
    """
    order = np.argsort(predicted, kind="stable")
    ordered = weights[order]
    estimates = statistics(labels[order], predicted[order], ordered)(ordered[None])
    intercept, slope = (float(estimates[name][0]) for name in ("calibration_intercept", "calibration_slope"))
    return (intercept, slope) if np.isfinite([intercept, slope]).all() else None


def moved(predicted: np.ndarray, intercept: float, slope: float) -> np.ndarray:
    """Probabilities whose logit is intercept + slope · that of the predictions (Cox 1958; Platt 1999): float64 (n,)."""
    return expit(intercept + slope * logit(np.clip(predicted, CLIP, 1 - CLIP)))


class Steps(NamedTuple):
    """A curve that never falls: risks (k,) at predictions (k,), ascending, straight in between, level beyond."""

    predicted: np.ndarray
    risk: np.ndarray

    def moved(self, predicted: np.ndarray) -> np.ndarray:
        """The risks of predictions (n,): float64 (n,). Predictions of one level become one risk, so ranks may tie."""
        return np.interp(predicted, self.predicted, self.risk)


def isotonic(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> Steps:
    """The curve that never falls and is nearest to the labels, by weighted squares (Zadrozny & Elkin 2002), of rows in
    any order.

    At its ends its levels are shares of few stays, 0 or 1 as a rule, and no stay is certain: it is kept within half a
    stay of all that it is fitted to, 1/2m and 1 − 1/2m, m being the weighted count (Σw)²/Σw².
    """
    from sklearn.isotonic import IsotonicRegression  # takes a second: only where it is asked for

    least = 0.5 * (weights**2).sum() / weights.sum() ** 2
    model = IsotonicRegression(y_min=least, y_max=1 - least)
    model.fit(predicted, labels.astype(np.float64), sample_weight=weights)
    return Steps(np.atleast_1d(model.X_thresholds_), np.atleast_1d(model.y_thresholds_))


def in_the_large(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Calibration in the large alone, as `statistics` has it: of weights (d, n) float64 (d,); rows in any order."""
    x = logit(np.clip(predicted, CLIP, 1 - CLIP))
    shift = _Logistic(np.ones((len(x), 1)), x, labels.astype(np.float64))
    shifted = shift.fit(weights[None], np.zeros((1, 1)), _SETTLED)[0]
    terms = shift.terms(shifted)
    return lambda drawn: shift.refit(drawn, shifted, drawn @ terms)[:, 0]


class _Logistic:
    """Logistic regressions of one label on the same one or two columns, d at once that differ in weights."""

    def __init__(self, columns: np.ndarray, offset: np.ndarray, y: np.ndarray) -> None:
        """Args: columns, (n, c), c of 1 or 2; offset, (n,), added to the linear predictor; y, (n,)."""
        self.columns, self.offset, self.y = columns, offset, y
        i, j = np.triu_indices(columns.shape[1])
        self.products = columns[:, i] * columns[:, j]

    def terms(self, beta: np.ndarray) -> np.ndarray:
        """What each row, of weight 1, adds to gradient and curvature of the log-likelihood: (n, c + c(c + 1)/2)."""
        p = expit(self.offset + self.columns @ beta)[:, None]
        return np.concatenate([(self.y[:, None] - p) * self.columns, p * (1 - p) * self.products], axis=1)

    def move(self, sums: np.ndarray) -> np.ndarray:
        """Newton's step from sums of `terms` (d, ·): (d, c), bounded, as far from the solution it may lead away."""
        gradient, second = np.split(sums, [self.columns.shape[1]], axis=1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            if gradient.shape[1] == 1:
                return np.clip(gradient / second, -2, 2)
            (g, h), (a, b, c) = gradient.T, second.T
            return np.clip(np.stack([c * g - b * h, a * h - b * g], axis=1) / (a * c - b * b)[:, None], -2, 2)

    def fit(self, weights: np.ndarray, beta: np.ndarray, settled: float) -> np.ndarray:
        """Coefficients (d, c) from weights (d, n), beginning at beta (d, c); NaN for those that do not settle."""
        for _ in range(_STEPS):
            p = expit(self.offset + beta @ self.columns.T)
            gradient = (weights * (self.y - p)) @ self.columns
            move = self.move(np.concatenate([gradient, (weights * (p * (1 - p))) @ self.products], axis=1))
            beta = beta + move
            done = np.abs(move).max(axis=1) < settled
            if (done | ~np.isfinite(beta).all(axis=1)).all():
                break
        return np.where(done[:, None], beta, np.nan)

    def refit(self, weights: np.ndarray, start: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """`fit` to resamples (d, n) of the rows that `start` (c,) was fitted to, given their sums of terms(start)."""
        move = self.move(sums)
        beta = start + move
        far = np.flatnonzero(np.abs(move).max(axis=1) >= _NEAR)
        if len(far):
            beta[far] = self.fit(weights[far], beta[far], _NEAR)
        return beta


def _starts(predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """First row of each bin of about equal weight, rows of one prediction together: int64 (at most BINS,)."""
    before = np.cumsum(weights) - weights
    edges = np.searchsorted(before, np.arange(BINS) / BINS * weights.sum() * (1 - 1e-12))
    firsts = np.searchsorted(predicted, predicted[np.minimum(edges, len(predicted) - 1)])
    return np.unique(firsts)


def curve(
    labels: np.ndarray, predicted: np.ndarray, patients: np.ndarray, weights: np.ndarray, cuts: Sequence[int]
) -> list[dict[str, Any]]:
    """Observed against predicted risk in bins of a BINS-th of the weight or more, for a plot.

    Args: all in ascending order of the prediction; cuts, rows that may end a bin, those of `cuts.may_be_told`, so that
      the curve tells of no small group. The last bin may have less weight.
    Returns: of each bin, predicted (mean), observed (share of positives), low and high (95 % Wilson 1927 interval of
      observed, with the weighted count (Σw)²/Σw² of its stays for n; stays of one patient are taken as independent),
      n (stays) and patients.
    """
    before = np.concatenate([[0.0], np.cumsum(weights)])
    kept = [0]
    for cut in sorted({*cuts} - {0, len(labels)}):
        if before[cut] - before[kept[-1]] >= before[-1] / BINS * (1 - 1e-12):
            kept.append(cut)
    kept.append(len(labels))
    out = []
    for begin, end in pairwise(kept):
        w = weights[begin:end]
        count = w.sum() ** 2 / (w**2).sum()
        observed = float(np.average(labels[begin:end], weights=w))
        low, high = wilson(observed, count)
        out.append(
            {
                "predicted": float(np.average(predicted[begin:end], weights=w)),
                "observed": observed,
                "low": low,
                "high": high,
                "n": int(end - begin),
                "patients": len(np.unique(patients[begin:end])),
            }
        )
    return out


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a binomial share (Wilson 1927), within 0 and 1 and not empty at either end."""
    z = ndtri(0.5 + level / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))
