"""The lowest Huber sum of a joint law, for many problems at once: starts, bootstrap draws, points of a profile.

A law is log L = log(E + (A N^-α + B D^-β)^k); its parameters are a row of theta, in the columns named here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats

# Columns of theta
LOG_E, LOG_A, LOG_B, ALPHA, BETA, LOG_K = range(6)
_LOWEST = np.array([-60.0, -60.0, -60.0, 1e-3, 1e-3, -3.0])
_HIGHEST = np.array([60.0, 60.0, 60.0, 10.0, 10.0, 3.0])

CACHED = 1 << 15  # problems times rows whose arrays stay in a core's cache: a third faster than all at once

# (theta [b, 6], which problems those are [b], damping [b] or None) -> what is added to their sums [b] and, unless None,
# its gradients [b, free] and damped Hessians [b, free, free]
Penalty = Callable[[Floats, NDArray[np.int64], Floats | None], tuple[Floats, Floats, Floats]]


def minimise(
    theta: Floats,
    x: Floats,
    z: Floats,
    y: Floats,
    weight: Floats,
    delta: float,
    free: NDArray[np.int64],
    steps: int = 200,
    penalty: Penalty | None = None,
    least: float = 1e-10,
) -> tuple[Floats, Floats]:
    """Damped Newton on the Huber sum with the exact Hessian, many problems at once.

    theta: [b, 6] starts. x, z, y: [n] centred log N, log D, and log L. weight: [b, n] row weights. free: the columns
    of theta that are fitted. penalty: added to each problem's sum, see `Penalty`; the objective holds it.
    Negative curvature is turned positive (saddle-free), so every accepted step descends; a problem leaves the batch
    when its objective no longer falls by more than `least` of itself. Where most residuals are beyond delta the Hessian
    knows of few rows; steps are damped by the curvature of parabolas that touch the Huber losses from above (Huber &
    Ronchetti 2009, section 7.8), because damped by multiples of the identity they stall, starts and draws alike.
    Returns: theta [b, 6] and objective [b].
    """
    some = max(CACHED // len(x), 1)
    if penalty or len(theta) <= some:
        return _together(theta, x, z, y, weight, delta, free, steps, penalty, least)
    parts = [
        _together(theta[i : i + some], x, z, y, weight[i : i + some], delta, free, steps, None, least)
        for i in range(0, len(theta), some)
    ]
    return np.concatenate([own[0] for own in parts]), np.concatenate([own[1] for own in parts])


def _together(
    theta: Floats,
    x: Floats,
    z: Floats,
    y: Floats,
    weight: Floats,
    delta: float,
    free: NDArray[np.int64],
    steps: int,
    penalty: Penalty | None,
    least: float,
) -> tuple[Floats, Floats]:
    theta = within(theta, free)
    damping = np.full(len(theta), 1e-3)
    objective, residual, parts = evaluate(theta, x, z, y, weight, delta)
    active = np.arange(len(theta))
    if penalty:
        objective += penalty(theta, active, None)[0]
    for _ in range(steps):
        now = parts[active], residual[active], x, z, weight[active]
        gradient, hessian = derivatives(*now, delta, free, damping[active])
        if penalty:
            _, slope, curvature = penalty(theta[active], active, damping[active])
            gradient, hessian = gradient + slope, hessian + curvature
        values, vectors = np.linalg.eigh(hessian)
        values = np.abs(values)
        values = np.maximum(values, 1e-10 * values.max(1, keepdims=True)) + 1e-300
        along = np.einsum("bij,bi->bj", vectors, gradient) / values
        trial = theta[active]
        trial[:, free] -= np.einsum("bij,bj->bi", vectors, along)
        trial = within(trial, free)
        reached, new_residual, new_parts = evaluate(trial, x, z, y, weight[active], delta)
        if penalty:
            reached += penalty(trial, active, None)[0]
        better = reached < objective[active]
        gain = np.where(better, objective[active] - reached, 0.0)
        moved = active[better]
        theta[moved], objective[moved] = trial[better], reached[better]
        residual[moved], parts[moved] = new_residual[better], new_parts[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 6)
        done = (better & (gain < least * reached)) | (damping[active] > 1e3)
        active = active[~done]
        if not len(active):
            break
    return theta, objective


def within(theta: Floats, free: NDArray[np.int64]) -> Floats:
    """theta [b, 6], its free columns brought within their bounds."""
    theta = theta.copy()
    theta[:, free] = np.clip(theta[:, free], _LOWEST[free], _HIGHEST[free])
    return theta


def objective_of(
    theta: Floats, x: Floats, z: Floats, y: Floats, weight: Floats, delta: float, penalty: Penalty
) -> Floats:
    """[b] what `minimise` minimises, at theta [b, 6]."""
    return evaluate(theta, x, z, y, weight, delta)[0] + penalty(theta, np.arange(len(theta)), None)[0]


def huber(residual: Floats, delta: float) -> Floats:
    """Half the square up to `delta`, linear beyond (Huber 1964); any shape."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def evaluate(
    theta: Floats, x: Floats, z: Floats, y: Floats, weight: Floats, delta: float
) -> tuple[Floats, Floats, Floats]:
    """Huber sum [b], residuals [b, n] of log L, and what derivatives need [b, 4, n]: the share of the sum of terms in
    the predicted loss, that of A's term in the sum, k times the log of the sum, and k."""
    E, A, B, alpha, beta, log_k = (theta[:, j, None] for j in range(6))
    k = np.exp(log_k)
    u, v = A - alpha * x, B - beta * z
    sum_ = np.logaddexp(u, v)
    t = k * sum_
    f = np.logaddexp(E, t)
    residual = f - y
    parts = np.stack([np.exp(t - f), np.exp(u - sum_), t, np.broadcast_to(k, t.shape)], 1)
    return (weight * huber(residual, delta)).sum(1), residual, parts


def derivatives(
    parts: Floats,
    residual: Floats,
    x: Floats,
    z: Floats,
    weight: Floats,
    delta: float,
    free: NDArray[np.int64],
    damping: Floats | float = 0.0,
) -> tuple[Floats, Floats]:
    """Gradient [b, free] and Hessian [b, free, free] of the Huber sum; see `minimise` for damping [b].

    f = log(e^E + e^t), t = k log(e^u + e^v), with u and v linear in the parameters, has
    ∂f = (1 - p) ∂E + p ∂t and ∂²f = p (1 - p) (∂t - ∂E)(∂t - ∂E)ᵀ + p ∂²t, where p is the share of e^t, and
    ∂²t = k w (1 - w) (∂u - ∂v)(∂u - ∂v)ᵀ, where w is the share of e^u, and for log k: ∂²t/∂log k ∂θ = ∂t/∂θ.
    """
    p, w, k = parts[:, 0], parts[:, 1], parts[:, 3]
    dt, J = _slopes(parts, x, z, free)
    apart = np.stack([np.broadcast_to(v, x.shape) for v in (0.0, 1.0, -1.0, -x, z, 0.0)])[free]
    slope = np.clip(residual, -delta, delta) * weight
    gradient = np.einsum("bkn,bn->bk", J, slope)
    size = np.abs(residual)
    bend = (size <= delta) + np.reshape(damping, (-1, 1)) * delta / np.maximum(size, delta)
    hessian = np.matmul(J * (weight * bend)[:, None], J.transpose(0, 2, 1))
    across = dt.copy()
    across[:, free == LOG_E] -= 1.0
    hessian += np.matmul(across * (slope * p * (1 - p))[:, None], across.transpose(0, 2, 1))
    hessian += np.matmul(apart * (slope * p * k * w * (1 - w))[:, None], apart.T)
    if LOG_K in free:
        own = int(np.flatnonzero(free == LOG_K)[0])
        mixed = np.einsum("bkn,bn->bk", dt, slope * p)
        hessian[:, own] += mixed
        hessian[:, :, own] += mixed
        hessian[:, own, own] -= mixed[:, own]
    return gradient, hessian


def _slopes(parts: Floats, x: Floats, z: Floats, free: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """∂t and ∂f [b, free, n] by the free columns of theta."""
    p, w, t, k = (parts[:, j] for j in range(4))
    by_A, by_B = k * w, k * (1 - w)
    columns = (np.zeros_like(w), by_A, by_B, -by_A * x, -by_B * z, t)
    dt = np.stack([columns[j] for j in free], 1)
    df = p[:, None] * dt
    df[:, free == LOG_E] += (1 - p)[:, None]
    return dt, df


def jacobian(theta: Floats, x: Floats, z: Floats, free: NDArray[np.int64]) -> Floats:
    """[n, free] derivatives of log L at centred log N and log D [n] by the free columns of theta [6]."""
    parts = evaluate(theta[None], x, z, np.zeros_like(x), np.ones((1, len(x))), 1.0)[2]
    return _slopes(parts, x, z, free)[1][0].T
