"""A linear probe: logistic regression on the states of a frozen model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as _log_loss

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C
_LEAST = 1e-6  # standard deviation of a feature that is not taken to be constant


class Probe(NamedTuple):
    """Log-odds of the outcome: coefficients · (x − mean) / deviation + intercept."""

    features: tuple[str, ...]  # names of the states, in the order in which they are put together
    mean: np.ndarray  # float64 (F,), as the two that follow
    deviation: np.ndarray
    coefficients: np.ndarray
    intercept: float
    strength: float  # scikit-learn's C
    tuning_loss: float  # log-loss of the tuning stays, nats

    def probability(self, states: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of the outcome, float64 (n,). Args: states by name, (n, D) each."""
        x = (_together(states, self.features) - self.mean) / self.deviation
        return np.asarray(expit(x @ self.coefficients + self.intercept))


def fit(
    train: Mapping[str, np.ndarray],
    labels: np.ndarray,
    tuning: Mapping[str, np.ndarray],
    tuning_labels: np.ndarray,
    choices: Sequence[tuple[str, ...]],
    *,
    class_weights: bool = False,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """The L2-penalised logistic regression, on standardised states, of least log-loss of the tuning stays.

    Args: train and tuning, states by name, (n, D) each; labels, bool (n,), both kinds among them; choices, names of
      states to be put together, of which, as of the strengths of the penalty, the tuning stays choose; class_weights,
      whether both kinds of labels weigh the same in all.
    """
    best: Probe | None = None
    weighs = weights(tuning_labels, class_weights)
    for features in choices:
        x = _together(train, features)
        mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), _LEAST)
        x = (x - mean) / deviation
        model = LogisticRegression(
            tol=1e-4, max_iter=1000, warm_start=True, class_weight="balanced" if class_weights else None
        )
        for strength in strengths:
            model.set_params(C=strength).fit(x, labels)
            fitted = Probe(features, mean, deviation, model.coef_[0].copy(), float(model.intercept_[0]), strength, 0.0)
            loss = log_loss(tuning_labels, fitted.probability(tuning), weighs)
            if best is None or loss < best.tuning_loss:
                best = fitted._replace(tuning_loss=loss)
    assert best is not None
    return best


def weights(labels: np.ndarray, balanced: bool) -> np.ndarray:
    """What each stay weighs: 1, or so much that both outcomes weigh the same in all. float64 (n,), their mean 1."""
    share = labels.mean()
    return np.where(labels, 0.5 / share, 0.5 / (1 - share)) if balanced else np.ones(len(labels))


def log_loss(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean, in nats, of -log of the probability of what came true."""
    return float(_log_loss(labels, probability, sample_weight=weights, labels=[False, True]))


def _together(states: Mapping[str, np.ndarray], features: Sequence[str]) -> np.ndarray:
    return np.concatenate([states[name] for name in features], axis=1).astype(np.float64)
