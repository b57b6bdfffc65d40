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

# Floor, and the values of c that are tried
FORMS = {
    "logit": (0.0, np.ones(1)),
    "chance": (0.5, np.ones(1)),
    "ceiling": (0.5, np.linspace(0.55, 1.0, 19)),
}
_STEEPEST = 30.0  # of a and b: a steeper curve is a step between two models


def solve(form: str, u: Floats, y: Floats, weight: Floats, start: Floats | None = None) -> Floats:
    """[b, n] AUROC at u [n] with weights [b, n] -> [b, 3] a, b, c of least weighted squares, many problems at once.

    a and b by damped Gauss-Newton for each c of the form's list, and of these the best. start: [3] for all problems.
    """
    floor, ceilings = FORMS[form]
    if start is None:
        theta = _line(u, special.logit(np.clip((y - floor) / (1 - floor), 0.03, 0.97)), weight)
    else:
        theta = np.tile(start[:2], (len(y), 1))
    tried = len(ceilings)
    y, weight, theta = (np.repeat(x, tried, 0) for x in (y, weight, theta))
    c = np.tile(ceilings, len(y) // tried)[:, None]
    theta, cost = _descend(theta, u, y, weight, floor, c)
    best = cost.reshape(-1, tried).argmin(1) + tried * np.arange(len(y) // tried)
    return np.hstack([theta[best], c[best]])


def _line(u: Floats, z: Floats, weight: Floats) -> Floats:
    """[b, 2] a, b of the weighted lines z = a - b u."""
    s0, s1, s2 = weight.sum(1), weight @ u, weight @ u**2
    t0, t1 = (weight * z).sum(1), (weight * z) @ u
    determinant = np.maximum(s0 * s2 - s1**2, 1e-12 * s0 * s0)
    return np.column_stack([(s2 * t0 - s1 * t1) / determinant, (s1 * t0 - s0 * t1) / determinant])


def _descend(
    theta: Floats, u: Floats, y: Floats, weight: Floats, floor: float, c: Floats, steps: int = 60
) -> tuple[Floats, Floats]:
    """Levenberg-Marquardt in a and b [b, 2] from `theta`, with c [b, 1]. Returns: both, and squares [b]."""
    theta, damping, active = np.clip(theta, -_STEEPEST, _STEEPEST), np.full(len(y), 1e-3), np.arange(len(y))
    cost = (weight * (y - at(u, theta[:, :1], theta[:, 1:], c, floor)) ** 2).sum(1)
    for _ in range(steps):
        w, height = weight[active], c[active] - floor
        share = special.expit(theta[active, :1] - theta[active, 1:] * u)
        residual, slope = y[active] - floor - height * share, height * share * (1 - share)
        pull, squares = w * residual * slope, w * slope**2
        g_a, g_b = pull.sum(1), -(pull @ u)
        aa, ab, bb = squares.sum(1), -(squares @ u), squares @ u**2
        more = 1 + damping[active]
        determinant = aa * bb * more**2 - ab**2 + 1e-300
        step = np.column_stack([bb * more * g_a - ab * g_b, aa * more * g_b - ab * g_a]) / determinant[:, None]
        trial = np.clip(theta[active] + step, -_STEEPEST, _STEEPEST)
        reached = (w * (y[active] - at(u, trial[:, :1], trial[:, 1:], c[active], floor)) ** 2).sum(1)
        better, gain = reached < cost[active], cost[active] - reached
        done = (better & (gain <= 1e-7 * reached)) | (damping[active] > 1e3)
        theta[active[better]], cost[active[better]] = trial[better], reached[better]
        damping[active] *= np.where(better, 0.1, 10.0)
        active = active[~done]
        if not len(active):
            break
    return theta, cost


def at(u: Floats, a: Floats, b: Floats, c: Floats | float, floor: float) -> Floats:
    """AUROC at u, broadcast together."""
    return floor + (c - floor) * special.expit(a - b * u)
