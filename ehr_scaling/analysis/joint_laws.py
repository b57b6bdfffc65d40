"""Laws of loss in N and D together, fitted to all runs at once.

Chinchilla (Hoffmann et al. 2022, arXiv 2203.15556, eq. 10): L = E + A N^-α + B D^-β, fitted by the sum of Huber losses
of the residuals of log L, the law written as a log-sum-exp (their appendix D.3; Besiroglu et al. 2024, arXiv
2404.10102, for the sum instead of the mean).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ehr_scaling.analysis.uncertainty import (
    SUPPORTED,
    UNIDENTIFIED,
    Floats,
    Options,
    Verdict,
    interval,
    resampling_counts,
)
from ehr_scaling.analysis.wording import percent

GRID = np.geomspace(0.03, 2.0, 26)
STARTS = 6
LEAST_RUNS = 8  # five parameters and something to judge them by
TRUSTED = (0.01, 4.0)  # a draw with an exponent outside has lost that term


@dataclass(frozen=True)
class JointLaw:
    """L = E + A N^-α + B D^-β.

    theta: [5] log E, log A, log B, α, β; A and B belong to N and D divided by `scale`, which keeps them tame.
    draws: [draws, 5] of the run bootstrap, NaN rows where a draw lost a term; `failed` is their share.
    objective: the Huber sum at the optimum. residuals: [n] log predicted - log observed.
    lowest: the lowest loss of the runs. optima: how many of the starts ended in this optimum, of how many.
    """

    name: str
    theta: Floats
    scale: tuple[float, float]
    objective: float
    delta: float
    lowest: float
    residuals: Floats
    draws: Floats
    failed: float
    optima: tuple[int, int]
    level: float
    verdict: Verdict

    def __call__(self, N: Floats, D: Floats) -> Floats:
        """Loss in nats a token at N parameters and D tokens, broadcast together."""
        return _predict(self.theta[None], np.asarray(N) / self.scale[0], np.asarray(D) / self.scale[1])[0]

    def sample(self, N: Floats, D: Floats) -> Floats:
        """[good draws, ...] losses at N, D [...] under the draws that did not fail."""
        good = self.draws[np.isfinite(self.draws).all(1)]
        return _predict(good, np.asarray(N) / self.scale[0], np.asarray(D) / self.scale[1])

    def named(self, theta: Floats) -> dict[str, Floats]:
        """[..., 5] -> E, A, B in the units of N and D, alpha, beta, and a, b of N_opt ∝ C^a, D_opt ∝ C^b."""
        E, A, B, alpha, beta = np.moveaxis(theta, -1, 0)
        return {
            "E": np.exp(E),
            "A": np.exp(A + alpha * np.log(self.scale[0])),
            "B": np.exp(B + beta * np.log(self.scale[1])),
            "alpha": alpha,
            "beta": beta,
            "a": beta / (alpha + beta),
            "b": alpha / (alpha + beta),
        }

    @property
    def parameters(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.named(self.theta).items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        return {name: interval(values, self.level) for name, values in self.named(self.draws).items()}

    def words(self, options: Options) -> dict[str, Verdict]:
        """A word for each parameter. Exponents: by the width of their interval. E: not told from zero when the interval
        reaches under 1 % of the lowest loss. A, B: when the interval spans more than a factor of ten."""
        words = {}
        for name, (low, high) in self.intervals.items():
            if name in ("A", "B"):
                bad, why = not high <= 10 * low, "known to no better than a factor of ten"
            elif name == "E":
                bad, why = not low > 0.01 * self.lowest, "not told from zero"
            else:
                bad, why = not high - low <= options.wide, f"interval wider than {options.wide:g}"
            words[name] = Verdict(UNIDENTIFIED, why) if bad else Verdict(SUPPORTED, "")
        if self.failed > options.failed:
            lost = f"{percent(self.failed)} of the bootstrap draws lose a term of the law"
            words = dict.fromkeys(words, Verdict(UNIDENTIFIED, lost))
        return words


def _predict(theta: Floats, N: Floats, D: Floats) -> Floats:
    E, A, B, alpha, beta = (theta[:, k].reshape((-1,) + (1,) * np.ndim(N)) for k in range(5))
    return np.exp(E) + np.exp(A - alpha * np.log(N)) + np.exp(B - beta * np.log(D))


def fit_chinchilla(
    N: Floats, D: Floats, loss: Floats, clusters: NDArray[np.int64] | None = None, options: Options | None = None
) -> JointLaw | None:
    """Fits the law and its run bootstrap.

    N, D, loss: [n] positive. clusters: [n] index of each row's run; None when every row is its own.
    Returns: None with fewer than 8 runs, or when N or D does not vary: five parameters cannot be asked of that.
    """
    options = options or Options()
    clusters = np.arange(len(N)) if clusters is None else clusters
    if len(np.unique(clusters)) < LEAST_RUNS or len(np.unique(N)) < 2 or len(np.unique(D)) < 2:
        return None
    scale = (float(np.exp(np.log(N).mean())), float(np.exp(np.log(D).mean())))
    x, z, y = np.log(N / scale[0]), np.log(D / scale[1]), np.log(loss)
    starts = grid_starts(x, z, loss)
    ones = np.ones((len(starts), len(N)))
    theta, objective = starts, np.zeros(len(starts))
    for delta in (0.1, 0.01, options.delta):  # a wide Huber has one valley, and leads into the right narrow one
        theta, objective = minimise(theta, x, z, y, ones, max(delta, options.delta))
    best = int(objective.argmin())
    same = int((objective <= objective[best] * (1 + 1e-6)).sum())

    rng = np.random.default_rng([options.seed, 2])
    counts = resampling_counts(clusters, options.draws, rng)
    draws, _ = minimise(np.tile(theta[best], (options.draws, 1)), x, z, y, counts, options.delta)
    lost = ~((draws[:, 3:] > TRUSTED[0]) & (draws[:, 3:] < TRUSTED[1])).all(1)
    draws[lost] = np.nan
    law = JointLaw(
        name="chinchilla",
        theta=theta[best],
        scale=scale,
        objective=float(objective[best]),
        delta=options.delta,
        lowest=float(loss.min()),
        residuals=np.log(_predict(theta[best][None], N / scale[0], D / scale[1])[0]) - y,
        draws=draws,
        failed=float(lost.mean()),
        optima=(same, len(starts)),
        level=options.level,
        verdict=Verdict("", ""),
    )
    return _judged(law, options)


def _judged(law: JointLaw, options: Options) -> JointLaw:
    words, bounds = law.words(options), law.intervals
    wide = [n for n in ("alpha", "beta", "a") if words[n].word == UNIDENTIFIED]
    if law.failed > options.failed:
        verdict = words["E"]
    elif wide:
        spans = ", ".join(f"{n} {bounds[n][0]:.2f} to {bounds[n][1]:.2f}" for n in wide)
        verdict = Verdict(UNIDENTIFIED, f"intervals wider than {options.wide:g}: {spans}")
    else:
        floor = "" if words["E"].word == SUPPORTED else "; the floor E is not told from zero"
        verdict = Verdict(SUPPORTED, f"exponents within intervals narrower than {options.wide:g}{floor}")
    return replace(law, verdict=verdict)


def grid_starts(x: Floats, z: Floats, loss: Floats) -> Floats:
    """[starts, 5] by variable projection: E, A, B >= 0 in closed form (relative least squares) on a grid of (α, β).

    The local minima of that grid, best first: each valley of the projected objective gets a start of its own.
    """
    columns = np.exp(-GRID[:, None] * x), np.exp(-GRID[:, None] * z)
    cost: Any = np.empty((len(GRID), len(GRID)))
    linear: Any = np.empty((len(GRID), len(GRID), 3))
    system = np.ones((len(x), 4))
    system[:, 0] = 1 / loss
    for row, by_N in enumerate(columns[0]):
        for column, by_D in enumerate(columns[1]):
            system[:, 1], system[:, 2] = by_N / loss, by_D / loss
            R: Any = np.linalg.qr(system, mode="r")  # nnls on 4 rows instead of n
            linear[row, column], cost[row, column] = nnls(R[:, :3], R[:, 3])
    around: Any = np.pad(cost, 1, constant_values=np.inf)
    n = len(GRID)
    shifts = [(a, b) for a in range(3) for b in range(3)]
    lowest = np.min([around[a : a + n, b : b + n] for a, b in shifts], axis=0)
    valleys = np.flatnonzero((cost <= lowest).ravel())
    rest = np.argsort(cost.ravel(), kind="stable")
    chosen: list[int] = list(valleys[np.argsort(cost.ravel()[valleys], kind="stable")][:STARTS])
    chosen += [k for k in rest[:STARTS] if k not in chosen]
    i, j = np.divmod(np.array(chosen[:STARTS]), n)
    scale = np.maximum(linear[i, j], 1e-3 * loss.min())  # a coefficient of zero has no logarithm, and no gradient
    return np.column_stack([np.log(scale), GRID[i], GRID[j]])


def minimise(
    theta: Floats, x: Floats, z: Floats, y: Floats, weight: Floats, delta: float, steps: int = 200
) -> tuple[Floats, Floats]:
    """Damped Newton on the Huber sum with the exact Hessian, many problems at once.

    theta: [b, 5] starts. x, z, y: [n] centred log N, log D, and log L. weight: [b, n] row weights.
    Negative curvature is turned positive (saddle-free), so every accepted step descends; a problem leaves the batch
    when its objective no longer falls by more than 1e-10 of itself.
    Returns: theta [b, 5] and objective [b].
    """
    theta = theta.copy()
    damping = np.full(len(theta), 1e-3)
    objective, residual, share = _evaluate(theta, x, z, y, weight, delta)
    active = np.arange(len(theta))
    for _ in range(steps):
        gradient, hessian = _derivatives(share[active], residual[active], x, z, weight[active], delta)
        values, vectors = np.linalg.eigh(hessian)
        values = np.abs(values)
        top = values[:, -1:]
        values = np.maximum(values, 1e-10 * top) + damping[active, None] * top + 1e-300
        along = np.einsum("bij,bi->bj", vectors, gradient) / values
        trial = theta[active] - np.einsum("bij,bj->bi", vectors, along)
        trial[:, 3:] = np.clip(trial[:, 3:], 1e-3, 10)
        trial[:, :3] = np.clip(trial[:, :3], -60, 60)
        reached, new_residual, new_share = _evaluate(trial, x, z, y, weight[active], delta)
        better = reached < objective[active]
        gain = np.where(better, objective[active] - reached, 0.0)
        moved = active[better]
        theta[moved], objective[moved] = trial[better], reached[better]
        residual[moved], share[moved] = new_residual[better], new_share[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 6)
        done = (better & (gain < 1e-10 * reached)) | (damping[active] > 1e3)
        active = active[~done]
        if not len(active):
            break
    return theta, objective


def _evaluate(
    theta: Floats, x: Floats, z: Floats, y: Floats, weight: Floats, delta: float
) -> tuple[Floats, Floats, Floats]:
    """Huber sum [b], residuals [b, n] of log L, and each term's share of the predicted loss [b, 3, n]."""
    E, A, B, alpha, beta = (theta[:, k, None] for k in range(5))
    terms = np.stack([np.broadcast_to(E, (len(theta), len(x))), A - alpha * x, B - beta * z], 1)
    top = terms.max(1)
    share = np.exp(terms - top[:, None])
    total = share.sum(1)
    share /= total[:, None]
    residual = top + np.log(total) - y
    size = np.abs(residual)
    huber = np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))
    return (weight * huber).sum(1), residual, share


def _derivatives(
    share: Floats, residual: Floats, x: Floats, z: Floats, weight: Floats, delta: float
) -> tuple[Floats, Floats]:
    """Gradient [b, 5] and Hessian [b, 5, 5] of the Huber sum.

    With f = log-sum-exp of linear forms l_j, ∂f = Σ p_j ∂l_j and ∂²f = Σ p_j ∂l_j ∂l_jᵀ - ∂f ∂fᵀ.
    """
    slope = np.clip(residual, -delta, delta) * weight
    J = np.stack([share[:, 0], share[:, 1], share[:, 2], -share[:, 1] * x, -share[:, 2] * z], 1)
    gradient = np.einsum("bkn,bn->bk", J, slope)
    outer = weight * (np.abs(residual) <= delta) - slope
    hessian = np.matmul(J * outer[:, None], J.transpose(0, 2, 1))
    q = share * slope[:, None]
    hessian[:, 0, 0] += q[:, 0].sum(1)
    for level, exponent, v in ((1, 3, x), (2, 4, z)):
        hessian[:, level, level] += q[:, level].sum(1)
        mixed = -(q[:, level] * v).sum(1)
        hessian[:, level, exponent] += mixed
        hessian[:, exponent, level] += mixed
        hessian[:, exponent, exponent] += (q[:, level] * v * v).sum(1)
    return gradient, hessian
