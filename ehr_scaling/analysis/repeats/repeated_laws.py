"""Laws of loss in N, D and the unique tokens U, all of whose parameters are fitted together.

chinchilla: repeats are ignored, every token counts as new (Hoffmann et al. 2022, arXiv 2203.15556, eq. 10).
effective: Chinchilla's law in effective N' and D', see `effective_data` (Muennighoff et al. 2023, arXiv 2305.16264).
penalty: Chinchilla's law and a term for what is learnt by heart, P R^δ (N/U)^κ with R = D / U - 1 repeats (Lovelace et
al. 2026, arXiv 2605.01640).

On the 182 public runs of Muennighoff et al., over seeds of 10-fold cross-validation, the mean errors of the loss are
4.87, 3.63 and 3.03 % (published for such fits: 4.83, 3.65 and 2.98 %). With the base fitted first, to the runs of one
pass, they are 4.1 % for effective data and 3.4 % for the penalty; that needs such runs, and this does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, resampling_counts
from ehr_scaling.analysis.joint import joint_laws, newton
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.repeats.effective_data import worth
from ehr_scaling.analysis.words import Verdict

Values = Floats | float

LEAST_RUNS = 12  # eight parameters, and something to judge them by
# A run that goes a little beyond its data in its last steps repeats nothing; the power of next to no repeats would
# pull at δ.
LEAST_REPEATS = 0.01
_FEW = 4.0  # repeats up to which data are worth nearly as much as new ones: there the law without them may start
_NEAR = 1e-6  # the last gain of a draw or fold, as a share of its sum: far below what one run adds to it
_SHAKEN = 16  # resamples of the runs that better optima are sought from

# Columns of theta; the first five are those of every law
LOG_E, LOG_A, LOG_B, ALPHA, BETA, LOG_P, DELTA, KAPPA = range(8)
LOG_R_D, LOG_R_N = 5, 6
_BASE = np.array([[-60.0, -60.0, -60.0, 1e-3, 1e-3], [60.0, 60.0, 60.0, 10.0, 10.0]])


class Form(NamedTuple):
    """A law: its formula, the names of what it has beside E, A, B, alpha, beta, where these may lie [2, extra] and are
    started [starts, extra], and how it is made of logs of N, D, U [n]."""

    formula: str
    extra: tuple[str, ...]
    bounds: Floats
    starts: Floats
    law: Callable[[Floats, Floats, Floats], newton.Law]


def _mesh(*values: tuple[float, ...]) -> Floats:
    return np.stack(np.meshgrid(*values, indexing="ij"), -1).reshape(-1, len(values))


class _Linear:
    """L = e^t_1 + e^t_2 + ... with terms that are linear in theta: design [terms, p, n] @ theta + offset [terms, n], of
    which -inf leaves a term out; see `newton.Law`."""

    def __init__(self, bounds: Floats, design: Floats, offset: Floats) -> None:
        self.low, self.high = np.column_stack([_BASE, bounds])
        self.free = np.arange(len(self.low))
        self.design, self.offset = design, offset
        self._flat = design.transpose(1, 0, 2).reshape(len(self.low), -1)
        self._squares = np.einsum("tpn,tqn->tnpq", design, design).reshape(offset.size, -1)

    def log_loss(self, theta: Floats) -> tuple[Floats, tuple[Floats, ...]]:
        f, share = newton.log_sum((theta @ self._flat).reshape(-1, *self.offset.shape) + self.offset)
        return f, (share,)

    def slopes(self, parts: tuple[Floats, ...]) -> Floats:
        return np.asarray(np.einsum("btn,tpn->bpn", parts[0], self.design))

    def bends(self, parts: tuple[Floats, ...], pull: Floats) -> Floats:
        """∂²L / L = Σ share ∂t ∂tᵀ."""
        pulled = (parts[0] * pull[:, None]).reshape(len(pull), -1)
        return np.asarray((pulled @ self._squares).reshape(len(pull), len(self.low), -1))


def _chinchilla(x: Floats, z: Floats, u: Floats) -> newton.Law:
    return _Linear(FORMS["chinchilla"].bounds, *_base(x, z, 3, 5))


def _base(x: Floats, z: Floats, terms: int, p: int) -> tuple[Floats, Floats]:
    design = np.zeros((terms, p, len(x)))
    design[0, LOG_E] = design[1, LOG_A] = design[2, LOG_B] = 1
    design[1, ALPHA], design[2, BETA] = -x, -z
    return design, np.zeros((terms, len(x)))


def _penalty(x: Floats, z: Floats, u: Floats) -> newton.Law:
    design, offset = _base(x, z, 4, 8)
    repeats = np.expm1(z - u)
    some = repeats > LEAST_REPEATS
    design[3, LOG_P] = some
    design[3, DELTA, some], design[3, KAPPA, some] = np.log(repeats[some]), (x - u)[some]
    offset[3, ~some] = -np.inf
    return _Linear(FORMS["penalty"].bounds, design, offset)


class _Effective:
    """Chinchilla's law in effective N' and D' at logs of N, D, U [n]; see `newton.Law`."""

    def __init__(self, x: Floats, z: Floats, u: Floats) -> None:
        self.x, self.z, self.u = x, z, u
        self.low, self.high = np.column_stack([_BASE, FORMS["effective"].bounds])
        self.free = np.arange(len(self.low))

    def log_loss(self, theta: Floats) -> tuple[Floats, tuple[Floats, ...]]:
        E, A, B, alpha, beta, R_D, R_N = (theta[:, j, None] for j in range(7))
        effective = worth(self.x, self.z, self.u, A, B, alpha, beta, R_D, R_N)
        t = np.stack([np.broadcast_to(E, effective.N.shape), A - alpha * effective.N, B - beta * effective.D], 1)
        by = np.zeros((len(theta), 3, 7, len(self.x)))
        by[:, 0, LOG_E] = by[:, 2, LOG_B] = 1
        # N' moves with the base, by the N that suits U
        by[:, 1, LOG_A], by[:, 1, LOG_B] = 1 - effective.by_suits, effective.by_suits
        by[:, 1, ALPHA] = -effective.N - effective.by_suits * (1 / alpha - effective.suits)
        by[:, 1, BETA] = -effective.by_suits * (self.u - 1 / beta)
        by[:, 1, LOG_R_N] = -alpha * effective.by_R_N
        by[:, 2, BETA], by[:, 2, LOG_R_D] = -effective.D, -beta * effective.by_R_D
        f, share = newton.log_sum(t)
        return f, (share, by)

    def slopes(self, parts: tuple[Floats, ...]) -> Floats:
        share, by = parts
        return np.asarray(np.einsum("btn,btpn->bpn", share, by))

    def bends(self, parts: tuple[Floats, ...], pull: Floats) -> Floats:
        """∂²L / L = Σ share (∂t ∂tᵀ + ∂²t), of which the last is left out."""
        share, by = parts
        pulled = by * (share * pull[:, None])[:, :, None]
        return np.asarray(np.matmul(pulled, by.transpose(0, 1, 3, 2)).sum(1))


_R = np.log([0.05, 1e6])  # beyond, a run of any length is worth as much as one of new data
FORMS = {
    "chinchilla": Form("E + A N^-alpha + B D^-beta", (), np.zeros((2, 0)), np.zeros((1, 0)), _chinchilla),
    "effective": Form(
        "E + A N'^-alpha + B D'^-beta",
        ("R_D", "R_N"),
        np.column_stack([_R, _R]),
        np.log(_mesh((5.0, 50.0), (3.0, 100.0))),
        _Effective,
    ),
    "penalty": Form(
        "E + A N^-alpha + B D^-beta + P R^delta (N/U)^kappa",
        ("P", "delta", "kappa"),
        np.array([[-60.0, 0.05, -2.0], [60.0, 5.0, 5.0]]),
        _mesh((-8.0, -4.0), (0.5, 1.0), (0.3, 0.8)),
        _penalty,
    ),
}


@dataclass(frozen=True)
class RepeatLaw(joint_laws.Drawn):
    """One of FORMS, fitted.

    theta: [p] log E, log A, log B, α, β, then log P, δ, κ or log R_D*, log R_N*; they belong to N, D, U and L divided
    by `scale` (N; D and U; L). draws: [draws, p] of the run bootstrap, NaN rows where a draw lost a term of the base;
    `failed` is their share. objective: the Huber sum at the optimum. lowest: the lowest loss of the runs.
    blurred: parameters that others make up for entirely, so that the runs do not tell them.
    """

    name: str
    theta: Floats
    scale: tuple[float, float, float]
    objective: float
    lowest: float
    draws: Floats
    failed: float
    blurred: tuple[str, ...]
    level: float

    def __call__(self, N: Values, D: Values, U: Values) -> Floats:
        """Loss in nats a token at N parameters, D tokens of which U are unique, broadcast together."""
        return self.losses_of(self.theta[None], N, D, U)[0]

    def losses_of(self, theta: Floats, N: Values, D: Values, U: Values) -> Floats:
        """[b, ...] losses at N, D, U [...] of parameters [b, p] in the units of theta."""
        shape = np.broadcast_shapes(*(np.shape(v) for v in (N, D, U)))
        n, d, u = (np.broadcast_to(np.asarray(v, np.float64), shape).ravel() for v in (N, D, U))
        law = FORMS[self.name].law(*_logs(n, d, u, self.scale))
        return self.scale[2] * np.exp(newton.log_loss(law, theta, n.size)).reshape(len(theta), *shape)

    def named(self, theta: Floats) -> dict[str, Floats]:
        """[..., p] -> E, A, B (in the units of N and D), alpha, beta, and P, delta, kappa or R_D, R_N."""
        E, A, B, alpha, beta, *extra = np.moveaxis(theta, -1, 0)
        by_N, by_D, by_loss = np.log(self.scale)
        parameters = {
            "E": np.exp(E + by_loss),
            "A": np.exp(A + alpha * by_N + by_loss),
            "B": np.exp(B + beta * by_D + by_loss),
            "alpha": alpha,
            "beta": beta,
        }
        if self.name == "penalty":
            P, delta, kappa = extra
            parameters |= {"P": np.exp(P + by_loss + kappa * (by_D - by_N)), "delta": delta, "kappa": kappa}
        elif self.name == "effective":
            parameters |= {"R_D": np.exp(extra[0]), "R_N": np.exp(extra[1])}
        return parameters

    def words(self, options: Options) -> dict[str, Verdict]:
        """A word for each parameter; none for what these runs cannot tell at all."""
        lost, bounds = self.lost(options), self.intervals.items()
        return {name: lost or self._word(name, *ends, options) for name, ends in bounds}

    def lost(self, options: Options) -> Verdict | None:
        """The verdict where too many draws lose a term; else None."""
        return words.lost(self.failed, words.TERM, options)

    def _word(self, name: str, low: float, high: float, options: Options) -> Verdict:
        if name in self.blurred:
            return words.missing("other parameters make up for it: these runs do not vary what it stands for")
        if name in ("R_D", "R_N") and high >= 0.999 * np.exp(_R[1]):
            high = np.inf
        return words.parameter(name, (low, high), self.lowest, options)


def _logs(N: Floats, D: Floats, U: Floats, scale: tuple[float, float, float]) -> tuple[Floats, Floats, Floats]:
    """Logs of N, D and U in units of the scale; no more of the unique tokens than are seen."""
    return np.log(N / scale[0]), np.log(D / scale[1]), np.log(np.minimum(U, D) / scale[1])


def fit(
    name: str,
    N: Floats,
    D: Floats,
    U: Floats,
    loss: Floats,
    clusters: NDArray[np.int64] | None = None,
    options: Options | None = None,
) -> RepeatLaw | None:
    """Fits the law of that name in FORMS by the Huber sum of log L, and its run bootstrap (none with options.draws 0).

    N, D, U, loss: [n] positive. clusters: [n] index of each row's run; None when every row is its own.
    Returns: None with fewer than 12 runs, when N or D does not vary, or where no run repeats data.
    """
    options = options or Options()
    clusters = np.arange(len(N)) if clusters is None else clusters
    few = len(np.unique(clusters)) < LEAST_RUNS or len(np.unique(N)) < 2 or len(np.unique(D)) < 2
    if few or not (D / U - 1 > LEAST_REPEATS).any():
        return None
    by_N, by_D, by_loss = (float(np.exp(np.log(v).mean())) for v in (N, D, loss))
    scale = by_N, by_D, by_loss
    x, z, u = _logs(N, D, U, scale)
    y, form = np.log(loss / by_loss), FORMS[name]
    law, theta = form.law(x, z, u), _starts(form, x, z, u, np.exp(y))
    theta, objective = newton.narrowing(law, theta, y, np.ones((len(theta), len(N))), options.delta)
    best, lowest = theta[objective.argmin()], objective.min()
    # The narrow Huber has many near valleys; optima of resampled runs lead to others (Wood 2001, Biometrics 57:240)
    shaken = resampling_counts(clusters, _SHAKEN, np.random.default_rng([options.seed, 15]))
    theta, _ = newton.minimise(law, np.tile(best, (_SHAKEN, 1)), y, shaken, options.delta, least=_NEAR)
    theta, objective = newton.minimise(law, theta, y, np.ones_like(shaken), options.delta)
    if objective.min() < lowest:
        best, lowest = theta[objective.argmin()], objective.min()
    draws = np.full((0, len(best)), np.nan)
    if options.draws:
        counts = resampling_counts(clusters, options.draws, np.random.default_rng([options.seed, 11]))
        draws, _ = newton.minimise(law, np.tile(best, (options.draws, 1)), y, counts, options.delta, least=_NEAR)
    draws, failed = joint_laws.trusted(draws)
    return RepeatLaw(
        name=name,
        theta=best,
        scale=scale,
        objective=float(lowest),
        lowest=float(loss.min()),
        draws=draws,
        failed=failed,
        blurred=_blurred(law.slopes(law.log_loss(best[None])[1])[0], form),
        level=options.level,
    )


def _starts(form: Form, x: Floats, z: Floats, u: Floats, loss: Floats) -> Floats:
    """[starts, p]: the base by variable projection, of all runs and of those that repeat little, with every start of
    the rest."""
    base = []
    for rows in (np.ones(len(x), bool), np.expm1(z - u) <= _FEW):
        if rows.sum() >= joint_laws.LEAST_CELLS:
            starts = joint_laws.starts(joint_laws.FORMS["chinchilla"], x[rows], z[rows], loss[rows])
            base.append(starts[:3, : BETA + 1])
    return np.array([np.concatenate([b, extra]) for b in np.concatenate(base) for extra in form.starts])


def _blurred(slopes: Floats, form: Form) -> tuple[str, ...]:
    """Names of the parameters in a direction of theta that leaves every loss as it is. slopes: [p, n] of log L."""
    size = np.linalg.norm(slopes, axis=1, keepdims=True)
    flat = (size < 1e-9 * size.max())[:, 0]
    alike = slopes / np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(alike @ alike.T)
    blind = (np.abs(vectors[:, values < 1e-10]) > 0.05).any(1)
    names = ("E", "A", "B", "alpha", "beta", *form.extra)
    return tuple(name for name, lost in zip(names, flat | blind, strict=True) if lost)


def held_out(
    law: RepeatLaw, N: Floats, D: Floats, U: Floats, loss: Floats, fold: NDArray[np.int64], delta: float
) -> Floats:
    """[n] log predicted - log observed loss of every run, by the law fitted to the runs of the other folds.

    fold: [n] index. The fits begin at `law`, that of all runs.
    """
    runs, y = FORMS[law.name].law(*_logs(N, D, U, law.scale)), np.log(loss / law.scale[2])
    folds, at = np.unique(fold, return_inverse=True)
    weight = (at != np.arange(len(folds))[:, None]).astype(np.float64)
    theta, _ = _without(law, runs, y, weight, delta)
    missed: Floats = newton.log_loss(runs, theta, len(N))[at, np.arange(len(N))] - y
    return missed


def _without(law: RepeatLaw, runs: newton.Law, y: Floats, weight: Floats, delta: float) -> tuple[Floats, Floats]:
    """The law and its Huber sum for every row of weights [folds, n]."""
    start = np.tile(law.theta, (len(weight), 1))
    theta, total = newton.minimise(runs, start, y, weight, delta, least=_NEAR)
    # A fold may have its lowest valley elsewhere; the wide Huber leads there, as in `fit`
    other, lower = newton.narrowing(runs, start, y, weight, delta, _NEAR)
    return np.where((lower < total)[:, None], other, theta), np.minimum(lower, total)
