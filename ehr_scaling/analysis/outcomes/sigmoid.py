"""AUROC as a sigmoid of the loss: A = floor + (c - floor) / (1 + exp(b u - a)), u the loss, centred and scaled.

Three forms are in the running:
  logit    floor 0, c = 1: logit A = a - b u
  chance   floor ½, c = 1: logit (2A - 1) = a - b u, so that a model that has learned nothing guesses
  ceiling  floor ½, c fitted: what these records leave open, no model tells
All are fitted in AUROC itself, since a model that scores below the floor has no logit.
"""

import numpy as np
from scipy import special

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.joint import newton

# Floor, and the values of c that are tried
FORMS = {
    "logit": (0.0, np.ones(1)),
    "chance": (0.5, np.ones(1)),
    "ceiling": (0.5, np.linspace(0.55, 1.0, 19)),
}
_NO_OUTLIER = 10.0  # where Huber's loss turns linear: beyond all differences of AUROC, so that it is their squares
_STEEPEST = 30.0  # of a and b: a steeper curve is a step between two models


def solve(form: str, u: Floats, y: Floats, weight: Floats, start: Floats | None = None) -> Floats:
    """[b, n] AUROC at u [n] with weights [b, n] -> [b, 3] a, b, c of least weighted squares, many problems at once.

    a and b by damped Newton for each c of the form's list, and of these the best. start: [3] for all problems.
    """
    floor, ceilings = FORMS[form]
    if start is None:
        theta = _line(u, special.logit(np.clip((y - floor) / (1 - floor), 0.03, 0.97)), weight)
    else:
        theta = np.tile(start[:2], (len(y), 1))
    tried = len(ceilings)
    y, weight, theta = (np.repeat(x, tried, 0) for x in (y, weight, theta))
    theta = np.column_stack([theta, np.tile(ceilings, len(y) // tried)])
    theta, cost = newton.minimise(_Curve(u, floor), theta, y, weight, _NO_OUTLIER, least=1e-7)
    return theta[cost.reshape(-1, tried).argmin(1) + tried * np.arange(len(y) // tried)]


def _line(u: Floats, z: Floats, weight: Floats) -> Floats:
    """[b, 2] a, b of the weighted lines z = a - b u."""
    s0, s1, s2 = weight.sum(1), weight @ u, weight @ u**2
    t0, t1 = (weight * z).sum(1), (weight * z) @ u
    determinant = np.maximum(s0 * s2 - s1**2, 1e-12 * s0 * s0)
    return np.column_stack([(s2 * t0 - s1 * t1) / determinant, (s1 * t0 - s0 * t1) / determinant])


class _Curve:
    """AUROC at u [n], in place of a law's log loss: theta a, b, c, of which c is held; see `newton.Law`."""

    def __init__(self, u: Floats, floor: float) -> None:
        self.u, self.floor, self.free = u, floor, np.arange(2)
        self.low, self.high = np.full(2, -_STEEPEST), np.full(2, _STEEPEST)
        self._squares = np.stack([np.ones_like(u), -u, -u, u**2], 1)

    def log_loss(self, theta: Floats) -> tuple[Floats, tuple[Floats, ...]]:
        share, height = special.expit(theta[:, :1] - theta[:, 1:2] * self.u), theta[:, 2:] - self.floor
        return self.floor + height * share, (share, height)

    def slopes(self, parts: tuple[Floats, ...]) -> Floats:
        share, height = parts
        slope = height * share * (1 - share)
        return np.stack([slope, -slope * self.u], 1)

    def bends(self, parts: tuple[Floats, ...], pull: Floats) -> Floats:
        share, height = parts
        slope = height * share * (1 - share)
        return np.asarray((pull * slope * (1 - 2 * share + slope)) @ self._squares).reshape(-1, 2, 2)


def at(u: Floats, a: Floats, b: Floats, c: Floats | float, floor: float) -> Floats:
    """AUROC at u, broadcast together."""
    return floor + (c - floor) * special.expit(a - b * u)
