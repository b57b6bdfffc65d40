"""Laws of loss in N and D together, fitted to all runs at once.

All are L = E + (A N^-α + B D^-β)^k with some parameters fixed: Chinchilla's has k = 1 (Hoffmann et al. 2022, arXiv
2203.15556, eq. 10), Kaplan's E = 0 and β = 1 (Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5, whose α_D is k here and
whose α_N is α k), the coupled law none. They are fitted by the sum of Huber losses of the residuals of log L, the law
written as a log-sum-exp (Hoffmann's appendix D.3; Besiroglu et al. 2024, arXiv 2404.10102, for the sum instead of the
mean).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, resampling_weights
from ehr_scaling.analysis.joint import newton
from ehr_scaling.analysis.joint.joint_fit import (
    ALPHA,
    BETA,
    LOG_A,
    LOG_B,
    LOG_E,
    LOG_K,
    Coupled,
)
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.wording import percent, span
from ehr_scaling.analysis.words import PENDING, Verdict, doubted

AUTO, DEFAULT = "auto", "chinchilla"  # the law that forecasts best, and where none can be told apart
STARTS = 6
LEAST_CELLS = 8  # five parameters and something to judge them by
LEAST_CLUSTERS = 5  # that a bootstrap can draw
TOO_FEW = f"a joint law needs {LEAST_CELLS} cells or more, of several N and several D"
SAME = 1e-6  # objectives no further apart, as a share, are those of one optimum
TRUSTED = (0.01, 4.0)  # a draw with an exponent outside has lost that term

# What starts are sought on: exponents, E as a share of the lowest loss, k
_EXPONENTS = np.geomspace(0.03, 2.0, 26)
_FLOORS = (0.0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.88, 0.95)
_POWERS = (0.3, 0.5, 0.75, 1.0, 1.4, 2.0, 3.0)


class Form(NamedTuple):
    """A law: its formula, and the parameters that are not fitted, by their column of theta."""

    formula: str
    fixed: dict[int, float]

    @property
    def free(self) -> NDArray[np.int64]:
        return np.array([k for k in range(6) if k not in self.fixed], np.int64)


FORMS = {
    "chinchilla": Form("E + A N^-alpha + B D^-beta", {LOG_K: 0.0}),
    "coupled": Form("E + (A N^-alpha + B D^-beta)^k", {}),
    "kaplan": Form("(A N^-alpha + B / D)^k", {LOG_E: -np.inf, BETA: 1.0}),
}


class Drawn:
    """What laws have in common: theta [p], and its draws of a bootstrap, [draws, p], NaN rows for those that failed."""

    theta: Floats
    draws: Floats
    level: float

    def named(self, theta: Floats) -> dict[str, Floats]:
        """[..., p] -> parameters by name, in natural units."""
        raise NotImplementedError

    @property
    def good(self) -> Floats:
        """[good draws, p]"""
        return self.draws[~np.isnan(self.draws).any(1)]

    @property
    def parameters(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.named(self.theta).items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        return {name: interval(values, self.level) for name, values in self.named(self.draws).items()}


@dataclass(frozen=True)
class JointLaw(Drawn):
    """One of FORMS, fitted.

    theta: [6] log E, log A, log B, α, β, log k, which belong to N, D and L divided by `scale`: that keeps them tame,
    and makes the fit the same in all units.
    draws: [draws, 6] of the run bootstrap, NaN rows where a draw lost a term; `failed` is their share.
    objective: the Huber sum at the optimum. residuals: [n] log predicted - log observed.
    lowest: the lowest loss of the runs. optima: how many of the starts ended in this optimum, of how many. basins: in
    how many different objectives the starts ended. apart: the factor that D varies by at one N, or N at one D
    (`words.tied`).
    """

    name: str
    theta: Floats
    scale: tuple[float, float, float]
    objective: float
    delta: float
    lowest: float
    residuals: Floats
    draws: Floats
    failed: float
    optima: tuple[int, int]
    basins: int
    level: float
    verdict: Verdict
    apart: float = np.inf

    def __repr__(self) -> str:
        known = self.intervals
        lines = [f"{self.name}: L = {self.form.formula}"] + [
            f"  {name:<6}{value:.5g}  ({percent(self.level)}: {span(known[name], lambda end: f'{end:.4g}')})"
            for name, value in self.parameters.items()
        ]
        return "\n".join([*lines, f"{self.verdict.word}: {self.verdict.reason}"])

    def __call__(self, N: Floats, D: Floats) -> Floats:
        """Loss in nats a token at N parameters and D tokens, broadcast together."""
        return self.losses_of(self.theta[None], N, D)[0]

    def sample(self, N: Floats, D: Floats) -> Floats:
        """[good draws, ...] losses at N, D [...] under the draws that did not fail."""
        return self.losses_of(self.good, N, D)

    def losses_of(self, theta: Floats, N: Floats, D: Floats) -> Floats:
        """[b, ...] losses at N, D [...] of parameters [b, 6] in the units of theta."""
        by_N, by_D, by_loss = self.scale
        return by_loss * _predict(theta, np.asarray(N) / by_N, np.asarray(D) / by_D)

    @property
    def form(self) -> Form:
        return FORMS[self.name]

    def named(self, theta: Floats) -> dict[str, Floats]:
        """[..., 6] -> what was fitted of E, A, B (in the units of N and D), alpha, beta, k, and a, b of
        N_opt ∝ C^a, D_opt ∝ C^b at C ∝ N D, which do not depend on E and k."""
        E, A, B, alpha, beta, k = np.moveaxis(theta, -1, 0)
        by_N, by_D, by_loss = np.log(self.scale)
        fitted = {
            LOG_E: ("E", np.exp(E + by_loss)),
            LOG_A: ("A", np.exp(A + alpha * by_N + by_loss / np.exp(k))),
            LOG_B: ("B", np.exp(B + beta * by_D + by_loss / np.exp(k))),
            ALPHA: ("alpha", alpha),
            BETA: ("beta", beta),
            LOG_K: ("k", np.exp(k)),
        }
        return {
            **dict(value for column, value in fitted.items() if column not in self.form.fixed),
            "a": beta / (alpha + beta),
            "b": alpha / (alpha + beta),
        }

    def words(self, options: Options) -> dict[str, Verdict]:
        """A word for each parameter."""
        lost = words.tied(self.apart) or words.lost(self.failed, words.TERM, options)
        bounds = self.intervals.items()
        verdicts = {name: lost or words.parameter(name, ends, self.lowest, options) for name, ends in bounds}
        return doubted(verdicts, options.doubt) if options.doubt else verdicts


def _predict(theta: Floats, N: Floats, D: Floats) -> Floats:
    E, A, B, alpha, beta, k = (theta[:, j].reshape((-1,) + (1,) * np.ndim(N)) for j in range(6))
    with np.errstate(invalid="ignore"):  # draws that failed are NaN
        return np.exp(E) + np.exp(np.exp(k) * np.logaddexp(A - alpha * np.log(N), B - beta * np.log(D)))


def fit(
    name: str,
    N: Floats,
    D: Floats,
    loss: Floats,
    clusters: NDArray[np.int64] | None = None,
    options: Options | None = None,
    weight: Floats | None = None,
) -> JointLaw | None:
    """Fits the law of that name in FORMS, and its run bootstrap (none where options.draws is 0).

    N, D, loss: [n] positive. clusters: [n] index of each row's run; None when every row is its own. weight: [n] of each
    row's Huber loss in the sum; None for 1.
    Returns: None with fewer than 8 rows, or when N or D does not vary: five parameters cannot be asked of that. There
    are no draws with fewer than five clusters.
    """
    options = options or Options()
    form, free = FORMS[name], FORMS[name].free
    clusters = np.arange(len(N)) if clusters is None else clusters
    if len(N) < LEAST_CELLS or len(np.unique(N)) < 2 or len(np.unique(D)) < 2:
        return None
    by_N, by_D, by_loss = (float(np.exp(np.log(v).mean())) for v in (N, D, loss))
    x, z, y = np.log(N / by_N), np.log(D / by_D), np.log(loss / by_loss)
    runs, theta = Coupled(x, z, free), starts(form, x, z, loss / by_loss)
    weight = np.ones(len(N)) if weight is None else weight
    theta, objective = newton.narrowing(runs, theta, y, np.tile(weight, (len(theta), 1)), options.delta)
    best = int(objective.argmin())
    ranked = np.sort(objective)
    same = int((ranked <= ranked[0] * (1 + SAME)).sum())
    basins = 1 + int((ranked[1:] > ranked[:-1] * (1 + SAME)).sum())

    draws = np.full((0, 6), np.nan)
    if options.draws and len(np.unique(clusters)) >= LEAST_CLUSTERS:
        weights = resampling_weights(clusters, options.draws, np.random.default_rng([options.seed, 2]))
        draws, _ = newton.minimise(runs, np.tile(theta[best], (options.draws, 1)), y, weights * weight, options.delta)
    draws, failed = trusted(draws)
    law = JointLaw(
        name=name,
        theta=theta[best],
        scale=(by_N, by_D, by_loss),
        objective=float(objective[best]),
        delta=options.delta,
        lowest=float(loss.min()),
        residuals=runs.log_loss(theta[best][None])[0][0] - y,
        draws=draws,
        failed=failed,
        optima=(same, len(theta)),
        basins=basins,
        level=options.level,
        verdict=PENDING,
        apart=_apart(x, z),
    )
    return _judged(law, options)


def trusted(draws: Floats) -> tuple[Floats, float]:
    """Draws [draws, p] with NaN for those that lost a term of the law, and the share of these; NaN without draws."""
    exponents = draws[:, ALPHA : BETA + 1]
    kept = np.all((exponents > TRUSTED[0]) & (exponents < TRUSTED[1]), axis=1)
    return np.where(kept[:, None], draws, np.nan), float((~kept).mean()) if len(draws) else np.nan


def _apart(x: Floats, z: Floats) -> float:
    """The factor that runs lie apart in D at one N, or in N at one D, whichever is less; x, z: [n] logarithms."""
    left = [
        float(np.ptp(b - np.polyval(np.polyfit(a, b, 1), a))) if np.ptp(a) > 0 else 0.0 for a, b in ((x, z), (z, x))
    ]
    return float(np.exp(min(left)))


def fit_many(
    name: str, N: Floats, D: Floats, loss: Floats, weights: Floats, delta: float
) -> Callable[[int, Floats, Floats], Floats]:
    """Fits one law to many weightings of the same runs at once, without draws, to the accuracy that forecasts need.

    N, D, loss: [n] positive. weights: [b, n]; of each, the runs that weigh anything are at least LEAST_CELLS.
    Returns: (which of the b, N, D) -> loss.
    """
    form, free = FORMS[name], FORMS[name].free
    scale = by_N, by_D, by_loss = tuple(float(np.exp(np.log(v).mean())) for v in (N, D, loss))
    x, z, y = np.log(N / by_N), np.log(D / by_D), np.log(loss / by_loss)
    kept = [w > 0 for w in weights]
    theta = np.concatenate([starts(form, x[k], z[k], loss[k] / by_loss) for k in kept])
    each = np.repeat(weights, STARTS, axis=0)
    theta, objective = newton.narrowing(Coupled(x, z, free), theta, y, each, delta, least=1e-5)
    best = objective.reshape(-1, STARTS).argmin(1) + STARTS * np.arange(len(weights))
    return lambda k, N, D: scale[2] * _predict(theta[best[k]][None], N / scale[0], D / scale[1])[0]


def _judged(law: JointLaw, options: Options) -> JointLaw:
    bounds = law.intervals
    # Where k is fitted it takes up what α and β would say; their ratio is told all the same.
    telling = ("a",) if LOG_K not in law.form.fixed else ("alpha", "beta", "a")
    exponents = {name: bounds[name] for name in telling if name in bounds}
    floor = words.floor(bounds["E"][0], law.lowest) if "E" in bounds else None
    return replace(law, verdict=words.joint_law(exponents, floor, law.apart, law.failed, options))


def starts(form: Form, x: Floats, z: Floats, loss: Floats) -> Floats:
    """[starts, 6] by variable projection: for each E and k of a grid the best α and β of another, with A and B >= 0 in
    closed form (least squares of (L - E)^(1/k), weighted to be relative in L). Of these the best six.

    x, z: [n] centred log N and log D. loss: [n].
    """
    floors = [0.0] if LOG_E in form.fixed else [share * float(loss.min()) for share in _FLOORS]
    powers = [1.0] if LOG_K in form.fixed else list(_POWERS)
    betas = np.array([form.fixed[BETA]]) if BETA in form.fixed else _EXPONENTS
    by_N, by_D = np.exp(-_EXPONENTS[:, None] * x), np.exp(-betas[:, None] * z)
    candidates, costs = [], []
    for k in powers:
        for floor in floors:
            target = (loss - floor) ** (1 / k)
            weight = k * target ** (k - 1) / loss
            (A, B), cost = _non_negative(by_N * weight, by_D * weight, target * weight)
            i, j = np.unravel_index(int(cost.argmin()), cost.shape)
            least = 1e-3 * float(target.min())  # a coefficient of zero has no logarithm, and no gradient
            # So has E; the start is then elsewhere than where it was found, and is judged there.
            log_E = form.fixed.get(LOG_E, float(np.log(max(floor, 1e-3 * loss.min()))))
            terms = np.log([max(A[i, j], least), max(B[i, j], least)])
            candidates.append([log_E, *terms, _EXPONENTS[i], betas[j], np.log(k)])
            costs.append(cost[i, j])
    return np.array(candidates)[np.argsort(costs, kind="stable")[:STARTS]]


def _non_negative(by_N: Floats, by_D: Floats, target: Floats) -> tuple[tuple[Floats, Floats], Floats]:
    """Least squares of a by_N[i] + b by_D[j] with a, b >= 0 for every i and j. Returns: a, b [i, j], and the costs."""
    nn, dd, nd = (by_N**2).sum(1)[:, None], (by_D**2).sum(1)[None], by_N @ by_D.T
    n, d = (by_N @ target)[:, None], (by_D @ target)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = nn * dd - nd**2
        a, b = (n * dd - d * nd) / determinant, (d * nn - n * nd) / determinant
    inside = (a >= 0) & (b >= 0) & (determinant > 1e-12 * nn * dd)
    alone_N, alone_D = np.broadcast_to(n / nn, nd.shape), np.broadcast_to(d / dd, nd.shape)
    by_size = n**2 / nn > d**2 / dd  # of the two terms alone, the one that explains more
    a = np.where(inside, a, np.where(by_size, alone_N, 0.0))
    b = np.where(inside, b, np.where(by_size, 0.0, alone_D))
    return (a, b), a * a * nn + b * b * dd + 2 * a * b * nd - 2 * (a * n + b * d) + float(target @ target)
