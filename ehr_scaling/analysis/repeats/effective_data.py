"""What repeated data are worth: the law of Muennighoff et al. 2023 (arXiv 2305.16264, eqs. 5 to 7 and 10).

Chinchilla's law in effective N' and D'. Of D tokens of which U are unique, D' = U + U R_D* (1 - exp(-R_D / R_D*)) with
R_D = D / U - 1 repeats; likewise N' from the N that suits U, beyond which parameters are worth less and less.
"""

from typing import NamedTuple

import numpy as np

from ehr_scaling.analysis.draws import Floats

_FARTHEST = 200.0  # log of how many times too large a model is counted; the powers of more overflow


def effective(N: Floats, D: Floats, U: Floats, base: dict[str, float], R_D: float, R_N: float) -> tuple[Floats, Floats]:
    """N' and D', float64, in the units of N and D, broadcast together; N and D themselves where nothing is repeated.

    base: {A, B, alpha, beta, ...} of the law of unrepeated data. R_D, R_N: repeats after which data, and parameters,
    have given 1 - 1/e of what they will.
    """
    A, B, alpha, beta = np.log(base["A"]), np.log(base["B"]), base["alpha"], base["beta"]
    logs = worth(np.log(N), np.log(D), np.log(np.minimum(U, D)), A, B, alpha, beta, np.log(R_D), np.log(R_N))
    return np.exp(logs.N), np.exp(logs.D)


class Worth(NamedTuple):
    """Logs of N', of D', of the N that suits U, and slopes: of N' by the log of what suits and of R_N*, of D' by that
    of R_D*."""

    N: Floats
    D: Floats
    suits: Floats
    by_suits: Floats
    by_R_N: Floats
    by_R_D: Floats


def worth(
    N: Floats, D: Floats, U: Floats, A: Floats | float, B: Floats | float, alpha: Floats | float, beta: Floats | float,
    R_D: Floats | float, R_N: Floats | float,
) -> Worth:  # fmt: skip
    """Logs of N' and D' from logs of N, D, U <= D, A, B, R_D*, R_N*; all broadcast together."""
    suits = (np.log(alpha / beta) + A - B + beta * U) / alpha
    held = np.clip(suits, N - _FARTHEST, N)
    more_D, _, by_R_D = _saturating(D - U, R_D)
    more_N, by_times, by_R_N = _saturating(N - held, R_N)
    by_suits = np.where((suits < N) & (suits > N - _FARTHEST), 1 - by_times, 0.0)
    return Worth(held + more_N, U + more_D, suits, by_suits, by_R_N, by_R_D)


def _saturating(times: Floats, R: Floats | float) -> tuple[Floats, Floats, Floats]:
    """log of 1 + R (1 - exp(-q / R)), where 1 + q = e^times, and its slopes by `times` and by log R; R is a log."""
    repeats, R = np.expm1(times), np.exp(R)
    # expm1: with 1 - exp the sum would lose all digits where R* is large, and find an optimum that is none.
    more, left = -R * np.expm1(-repeats / R), np.exp(-repeats / R)
    return np.log1p(more), left * (1 + repeats) / (1 + more), (more - left * repeats) / (1 + more)
