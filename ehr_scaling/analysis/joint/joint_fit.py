"""log L = log(E + (A N^-α + B D^-β)^k) and its derivatives, for `newton`.

The parameters of a law are a row of theta, in the columns named here.
"""

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.joint.newton import log_sum

# Columns of theta
LOG_E, LOG_A, LOG_B, ALPHA, BETA, LOG_K = range(6)
_LOWEST = np.array([-60.0, -60.0, -60.0, 1e-3, 1e-3, -3.0])
_HIGHEST = np.array([60.0, 60.0, 60.0, 10.0, 10.0, 3.0])


class Coupled:
    """At centred log N and log D, x and z [n], with some of the columns free; see `newton.Law`."""

    def __init__(self, x: Floats, z: Floats, free: NDArray[np.int64]) -> None:
        self.x, self.z, self.free = x, z, free
        self.low, self.high = _LOWEST[free], _HIGHEST[free]
        ones = np.ones_like(x)
        by_A, by_B = np.stack([ones, -x]), np.stack([ones, -z])  # of log(A N^-α) by log A, α; of log(B D^-β)
        self._by_A, self._by_B = by_A.T, by_B.T
        self._A_A, self._A_B, self._B_B = (
            np.stack([a * b for a in first for b in second], 1)
            for first, second in ((by_A, by_A), (by_A, by_B), (by_B, by_B))
        )

    def log_loss(self, theta: Floats) -> tuple[Floats, tuple[Floats, ...]]:
        E, A, B, alpha, beta, log_k = (theta[:, j, None] for j in range(6))
        k = np.exp(log_k)
        terms, both = np.empty((2, len(theta), 2, len(self.x)))
        terms[:, 0], terms[:, 1] = A - alpha * self.x, B - beta * self.z
        sum_, share = log_sum(terms)
        both[:, 0], both[:, 1] = E, (t := k * sum_)
        f, of = log_sum(both)
        return f, (of, share, t, k)

    def slopes(self, parts: tuple[Floats, ...]) -> Floats:
        of, share, t, k = parts
        by_E, p = of[:, 0], of[:, 1]
        by_A, by_B = p * k * share[:, 0], p * k * share[:, 1]
        columns = (by_E, by_A, by_B, -by_A * self.x, -by_B * self.z, p * t)
        J = np.empty((len(t), len(self.free), len(self.x)))
        for i, j in enumerate(self.free):
            J[:, i] = columns[j]
        return J

    def bends(self, parts: tuple[Floats, ...], pull: Floats) -> Floats:
        """With t = k s and s = log(e^u + e^v), ∂²L / L is the share of E for log E, and p (∂t ∂tᵀ + ∂²t) for the
        others, with p the share of e^t in L, ∂t = k (w ∂u + (1 - w) ∂v) and ∂²t = k w (1 - w) (∂u - ∂v)(∂u - ∂v)ᵀ,
        where w is the share of e^u; for log k: ∂t = t, ∂²t/∂log k ∂θ = ∂t/∂θ."""
        of, share, t, k = parts
        p = pull * of[:, 1]
        a, b = k * share[:, 0], k * share[:, 1]
        mixed = p * a * share[:, 1]
        out = np.zeros((len(t), 6, 6))
        terms, other = np.array([LOG_A, ALPHA]), np.array([LOG_B, BETA])
        out[:, LOG_E, LOG_E] = (pull * of[:, 0]).sum(1)
        out[:, terms[:, None], terms] = ((p * a * a + mixed) @ self._A_A).reshape(-1, 2, 2)
        out[:, terms[:, None], other] = ((p * a * b - mixed) @ self._A_B).reshape(-1, 2, 2)
        out[:, other[:, None], terms] = out[:, terms[:, None], other].transpose(0, 2, 1)
        out[:, other[:, None], other] = ((p * b * b + mixed) @ self._B_B).reshape(-1, 2, 2)
        if LOG_K in self.free:
            p = p * (1 + t)
            out[:, LOG_K, terms] = out[:, terms, LOG_K] = (p * a) @ self._by_A
            out[:, LOG_K, other] = out[:, other, LOG_K] = (p * b) @ self._by_B
            out[:, LOG_K, LOG_K] = (p * t).sum(1)
        return out[:, self.free[:, None], self.free]

    def jacobian(self, theta: Floats) -> Floats:
        """[n, free] derivatives of log L by the free columns of theta [6]."""
        return np.asarray(self.slopes(self.log_loss(theta[None])[1])[0].T)
