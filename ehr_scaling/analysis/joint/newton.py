"""The lowest Huber sum of a law of loss, many problems at once: starts, bootstrap draws, folds, points of a profile.

All laws of loss are fitted by this: joint ones, their local fits and profiles, and those of repeated data.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats

CACHED = 1 << 15  # problems times rows whose arrays stay in a core's cache: a third faster than all at once
WIDE = ((0.1, 1e-3), (0.01, 1e-4))  # deltas on the way to a narrow one, and the gain with which they are left
NEAR = 1e-3  # of a bound, in units of theta, whose columns are of order 1
STUCK = 1e3  # a step that must be damped by more leads nowhere


class Law(Protocol):
    """log L of n runs as a function of theta [p].

    free: columns of theta that are fitted, [q]. low, high: their bounds, [q].
    """

    free: NDArray[np.int64]
    low: Floats
    high: Floats

    def log_loss(self, theta: Floats) -> tuple[Floats, tuple[Floats, ...]]:
        """[b, p] -> log L [b, n], and what its derivatives need of the way there, each [b, ...]."""

    def slopes(self, parts: tuple[Floats, ...]) -> Floats:
        """[b, q, n] of log L by the free columns."""

    def bends(self, parts: tuple[Floats, ...], pull: Floats) -> Floats:
        """[b, q, q] the sum over runs of pull [b, n] times ∂²L / L, which is ∂²f + ∂f ∂fᵀ for f = log L.

        An approximation slows the steps and moves no optimum.
        """


class Penalty(Protocol):
    """What is added to the sum of each problem."""

    def cost(self, theta: Floats, which: NDArray[np.int64]) -> Floats:
        """[b] at theta [b, p] of the problems `which` [b]."""

    def derivatives(self, theta: Floats, which: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Gradient [b, q], Hessian [b, q, q], and the part of it that damping adds again, [b, q, q]."""


def minimise(
    law: Law,
    theta: Floats,
    y: Floats,
    weight: Floats,
    delta: float,
    penalty: Penalty | None = None,
    least: float = 1e-10,
    steps: int = 200,
) -> tuple[Floats, Floats]:
    """Damped Newton on the Huber sum of log L - y.

    theta: [b, p] starts. y: [n] or [b, n] log of the observed losses. weight: [b, n] of runs. delta: where the Huber
    loss turns linear. least: a step that gains less, as a share of the sum, is the last.
    Negative curvature is turned positive (saddle-free), and a step that does not descend is taken back. Where most
    residuals are beyond delta the Hessian knows of few rows; steps are damped by the curvature of parabolas that touch
    the Huber losses from above (Huber & Ronchetti 2009, section 7.8), because damped by multiples of the identity they
    stall, starts and draws alike.
    Returns: theta [b, p] and the sums [b], which hold the penalty.
    """
    theta, total, y = within(law, theta), np.empty(len(theta)), np.broadcast_to(y, weight.shape)
    for which in _batches(len(theta), y.shape[1]):
        theta[which], total[which] = _together(
            law, theta[which], y[which], weight[which], delta, penalty, which, least, steps
        )
    return theta, total


def narrowing(
    law: Law, theta: Floats, y: Floats, weight: Floats, delta: float, least: float = 1e-10
) -> tuple[Floats, Floats]:
    """`minimise` with ever narrower Huber losses: a wide one has one valley, and leads into the right narrow one. It
    need not be walked to its end."""
    for wide, gain in WIDE:
        theta, _ = minimise(law, theta, y, weight, max(wide, delta), least=max(gain, least))
    return minimise(law, theta, y, weight, delta, least=least)


def _together(
    law: Law,
    theta: Floats,
    y: Floats,
    weight: Floats,
    delta: float,
    penalty: Penalty | None,
    which: NDArray[np.int64],
    least: float,
    steps: int,
) -> tuple[Floats, Floats]:
    def sums(theta: Floats, rows: NDArray[np.int64]) -> tuple[Floats, Floats, tuple[Floats, ...]]:
        f, parts = law.log_loss(theta)
        residual = f - y[rows]
        total = (weight[rows] * huber(residual, delta)).sum(1)
        return total + penalty.cost(theta, which[rows]) if penalty else total, residual, parts

    def slopes(theta: Floats, rows: NDArray[np.int64], residual: Floats, parts: tuple[Floats, ...]) -> list[Floats]:
        unpenalised = derivatives(law, residual, parts, weight[rows], delta)
        added = penalty.derivatives(theta, which[rows]) if penalty else ()
        return [a + b for a, b in zip(unpenalised, added, strict=True)] if added else list(unpenalised)

    active = np.arange(len(theta))
    total, residual, parts = sums(theta, active)
    gradient, hessian, damped = slopes(theta, active, residual, parts)
    damping = np.full(len(theta), 1e-3)
    for _ in range(steps):
        trial = theta[active]
        curvature = hessian[active] + damping[active, None, None] * damped[active]
        trial[:, law.free] -= _step(law, trial, gradient[active], curvature)
        trial = within(law, trial)
        reached, residual, parts = sums(trial, active)
        better = reached < total[active]
        gain = np.where(better, total[active] - reached, 0.0)
        theta[active[better]], total[active[better]] = trial[better], reached[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 6)
        done = (better & (gain < least * reached)) | (damping[active] > STUCK)
        if done.all():
            break
        if (on := better & ~done).any():
            improved, parts = active[on], tuple(part[on] for part in parts)
            gradient[improved], hessian[improved], damped[improved] = slopes(trial[on], improved, residual[on], parts)
        active = active[~done]
    return theta, total


def _step(law: Law, theta: Floats, gradient: Floats, hessian: Floats) -> Floats:
    """[b, q], to be taken off. Columns near a bound beyond which the sum falls go to it, the others move as if those
    were fixed (Bertsekas 1982, SIAM J. Control 20:221): else a step that is cut at the bound takes the others along."""
    at = theta[:, law.free]
    low, high = (at - law.low <= NEAR) & (gradient > 0), (law.high - at <= NEAR) & (gradient < 0)
    held = low | high
    known = np.isfinite(hessian.sum((1, 2)) + gradient.sum(1))  # else so far off that nothing tells the way
    still = held | ~known[:, None]
    values, vectors = np.linalg.eigh(np.where(still[:, :, None] | still[:, None], 0.0, hessian))
    values = np.abs(values)
    values = np.maximum(values, 1e-10 * values.max(1, keepdims=True)) + 1e-300
    along = np.einsum("bij,bi->bj", vectors, np.where(still, 0.0, gradient)) / values
    step = np.einsum("bij,bj->bi", vectors, along)
    return np.where(low, at - law.low, np.where(high, at - law.high, step))


def derivatives(
    law: Law, residual: Floats, parts: tuple[Floats, ...], weight: Floats, delta: float
) -> tuple[Floats, Floats, Floats]:
    """Of the Huber sum of residuals [b, n]: gradient [b, q], Hessian [b, q, q], and the curvature of the parabolas that
    touch the Huber losses from above, [b, q, q]."""
    J, size = law.slopes(parts), np.abs(residual)
    pull = np.clip(residual, -delta, delta) * weight
    gradient = np.matmul(J, pull[:, :, None])[:, :, 0]
    across = J.transpose(0, 2, 1)
    hessian = np.matmul(J * (weight * (size <= delta) - pull)[:, None], across) + law.bends(parts, pull)
    return gradient, hessian, np.matmul(J * (weight * (delta / np.maximum(size, delta)))[:, None], across)


def huber(residual: Floats, delta: float) -> Floats:
    """Half the square up to `delta`, linear beyond (Huber 1964); any shape."""
    inside = np.minimum(np.abs(residual), delta)
    return np.asarray(inside * (np.abs(residual) - 0.5 * inside))


def huber_sum(law: Law, theta: Floats, y: Floats, weight: Floats, delta: float) -> Floats:
    """[b] what `minimise` minimises, without a penalty, at theta [b, p]."""
    return np.asarray((weight * huber(law.log_loss(theta)[0] - y, delta)).sum(1))


def within(law: Law, theta: Floats) -> Floats:
    """theta [b, p], its free columns brought within their bounds."""
    theta = theta.copy()
    theta[:, law.free] = np.clip(theta[:, law.free], law.low, law.high)
    return theta


def log_loss(law: Law, theta: Floats, n: int) -> Floats:
    """[b, n] of log L at theta [b, p], a batch after the other."""
    return np.concatenate([law.log_loss(theta[batch])[0] for batch in _batches(len(theta), n)])


def _batches(problems: int, rows: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the problems that go together; one empty batch of none."""
    size = max(CACHED // max(rows, 1), 1)
    return (np.arange(i, min(i + size, problems)) for i in range(0, max(problems, 1), size))


def log_sum(t: Floats) -> tuple[Floats, Floats]:
    """log of the sum of e^t over the second axis of [b, terms, n], and the share of each term in it, [b, terms, n]."""
    if t.shape[1] == 2:  # the same in half the time
        highest = np.maximum(t[:, 0], t[:, 1])
        share = np.exp(t - highest[:, None])
        total = share[:, 0] + share[:, 1]
    else:
        highest = t.max(1)
        share = np.exp(t - highest[:, None])
        total = share.sum(1)
    return highest + np.log(total), share / total[:, None]
