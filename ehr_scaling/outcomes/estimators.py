"""From simulated futures to the probability of an outcome. Each takes and returns numpy arrays."""

import numpy as np

from ehr_scaling.outcomes.simulate import NEGATIVE, POSITIVE, Futures


def monte_carlo(futures: Futures) -> np.ndarray:
    """Share of copies that came to the positive token first, of those that came to either: float64 (n,).

    NaN for a sample none of whose copies came to either. Before the division, the share of all copies is an unbiased
    estimate of the probability of the outcome within the simulated tokens.
    """
    positive = (futures.ended == POSITIVE).sum(axis=1)
    determined = positive + (futures.ended == NEGATIVE).sum(axis=1)
    return np.where(determined > 0, positive / np.maximum(determined, 1), np.nan)


def scope(futures: Futures) -> np.ndarray:
    """SCOPE, the sum of the outcome's conditional probabilities (arXiv 2602.03730): float64 (n,).

    P(outcome) = E[Σ_t p(outcome | what was drawn before t)], the sum running over the draws of an ordinary future,
    its last one included; so the mean over copies is unbiased, for the positive tokens and for the negative ones.
    Returned is positive / (positive + negative), the probability given that one of them comes, as the Monte Carlo
    share estimates it; a ratio of two unbiased means, so consistent. A copy that reaches neither token still says
    how likely each was, hence less noise than counting, which for few copies has few different values.
    """
    positive = futures.positive.mean(axis=1, dtype=np.float64)
    negative = futures.negative.mean(axis=1, dtype=np.float64)
    tiny = float(np.finfo(np.float32).tiny)  # both probabilities underflow: nothing is known, 0.5
    return (positive + tiny) / (positive + negative + 2 * tiny)


def undetermined(futures: Futures) -> float:
    """Share of copies that came to neither token, because they ran out of length or the record ended."""
    return float(((futures.ended != POSITIVE) & (futures.ended != NEGATIVE)).mean())
