"""Laws of loss that are sums of terms, L = e^t_1 + e^t_2 + ..., fitted to many weightings of the runs at once.

The sum of Huber losses of the residuals of log L is lowered by damped Newton steps. One batch holds the draws of a
bootstrap, or the folds of a cross-validation (weight 0 for what is held out).
"""

from collections.abc import Callable

import numpy as np

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.joint.joint_fit import huber

AT_ONCE = 20_000_000  # slopes held at a time

# theta [b, p] -> the terms t [b, terms, n] of log L = logsumexp of t, and their slopes by theta [b or 1, terms, p, n].
# A term of a run may be -inf, its slopes then 0.
Terms = Callable[[Floats], tuple[Floats, Floats]]


def fit(
    theta: Floats,
    terms: Terms,
    y: Floats,
    weight: Floats,
    delta: float,
    bounds: tuple[Floats, Floats],
    least_gain: float = 1e-10,
    steps: int = 200,
) -> tuple[Floats, Floats]:
    """Lowers the Huber sum of log L - y for each start and its weights.

    theta: [b, p] starts. y: [n] log of the observed loss. weight: [b, n] of the runs. delta: of the Huber loss.
    bounds: lowest and highest theta, [p] each. least_gain: a step that gains less, as a share of the sum, is the last.
    The curvature is exact but for that of the terms themselves, which is 0 where they are linear in theta. Negative
    curvature is turned positive, and a step that does not descend is taken back.
    Returns: theta [b, p] and the sums [b].
    """
    done = [_fit(theta[own], terms, y, weight[own], delta, bounds, least_gain, steps) for own in _parts(theta, len(y))]
    return np.concatenate([t for t, _ in done]), np.concatenate([s for _, s in done])


def _fit(
    theta: Floats,
    terms: Terms,
    y: Floats,
    weight: Floats,
    delta: float,
    bounds: tuple[Floats, Floats],
    least_gain: float,
    steps: int,
) -> tuple[Floats, Floats]:
    theta = np.clip(theta, *bounds)
    damping = np.full(len(theta), 1e-3)
    total, gradient, hessian = huber_sum(theta, terms, y, weight, delta)
    active = np.arange(len(theta))
    for _ in range(steps):
        values, vectors = np.linalg.eigh(hessian[active])
        values = np.abs(values)
        top = values[:, -1:]
        values = np.maximum(values, 1e-10 * top) + damping[active, None] * top + 1e-300
        along = np.einsum("bij,bi->bj", vectors, gradient[active]) / values
        trial = np.clip(theta[active] - np.einsum("bij,bj->bi", vectors, along), *bounds)
        reached, slope, curvature = huber_sum(trial, terms, y, weight[active], delta)
        better = reached < total[active]
        gain = np.where(better, total[active] - reached, 0.0)
        moved = active[better]
        theta[moved], total[moved] = trial[better], reached[better]
        gradient[moved], hessian[moved] = slope[better], curvature[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 6)
        active = active[~((better & (gain < least_gain * reached)) | (damping[active] > 1e3))]
        if not len(active):
            break
    return theta, total


def _parts(theta: Floats, n: int) -> list[slice]:
    size = max(1, AT_ONCE // (4 * n * theta.shape[1]))
    return [slice(i, i + size) for i in range(0, max(len(theta), 1), size)]


def log_loss(theta: Floats, terms: Terms, n: int) -> Floats:
    """[b, n]"""
    return np.concatenate([_shares(terms(theta[own])[0])[0] for own in _parts(theta, n)])


def _shares(t: Floats) -> tuple[Floats, Floats]:
    """log of the sum of terms [b, n], and the share of each in it [b, terms, n]."""
    highest = t.max(1, keepdims=True)
    share = np.exp(t - highest)
    total = share.sum(1, keepdims=True)
    return (highest + np.log(total))[:, 0], share / total


def slopes(theta: Floats, terms: Terms) -> Floats:
    """[b, p, n] of log L by theta."""
    t, by = terms(theta)
    return _slopes(_shares(t)[1], by, _present(by))


def _present(by: Floats) -> list[list[int]]:
    """For each term the parameters that it depends on."""
    depends = np.any(by != 0, axis=(0, 3))
    return [np.flatnonzero(depends[k]).tolist() for k in range(by.shape[1])]


def _slopes(share: Floats, by: Floats, present: list[list[int]]) -> Floats:
    out = np.zeros((len(share), by.shape[2], share.shape[2]))
    for k, own in enumerate(present):
        for p in own:
            out[:, p] += share[:, k] * by[:, k, p]
    return out


def huber_sum(theta: Floats, terms: Terms, y: Floats, weight: Floats, delta: float) -> tuple[Floats, Floats, Floats]:
    """The Huber sum [b], its gradient [b, p], and its Hessian [b, p, p] for terms that are linear in theta.

    With p_k the share of term k in L, f = log L has ∂f = Σ p_k ∂t_k and ∂²f = Σ p_k ∂t_k ∂t_kᵀ - ∂f ∂fᵀ.
    """
    t, by = terms(theta)
    f, share = _shares(t)
    present, residual = _present(by), f - y
    slope = np.clip(residual, -delta, delta) * weight
    J = _slopes(share, by, present)
    hessian = np.matmul(J * (weight * (np.abs(residual) <= delta) - slope)[:, None], J.transpose(0, 2, 1))
    for k, own in enumerate(present):
        pulled = slope * share[:, k]
        for p, q in ((p, q) for p in own for q in own if p <= q):
            product = by[:, k, p] * by[:, k, q]
            value = pulled @ product[0] if len(product) == 1 else (pulled * product).sum(1)
            hessian[:, p, q] += value
            hessian[:, q, p] += value * (p != q)
    return (weight * huber(residual, delta)).sum(1), np.matmul(J, slope[:, :, None])[:, :, 0], hessian
