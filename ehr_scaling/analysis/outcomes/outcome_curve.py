"""Which AUROC goes with which loss: the second of two steps, (N, D) → loss → metric.

As Gadre et al. 2024 (arXiv 2403.08540) do for error rates; here a curve of `sigmoid.FORMS`, chosen on left-out models,
whose uncertainty is that of the patients asked about, the same for all models, and that of the models themselves.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, multipliers
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import sigmoid
from ehr_scaling.analysis.outcomes.sigmoid import FORMS
from ehr_scaling.analysis.wording import decimal, percent, plural, signed, span
from ehr_scaling.analysis.words import PENDING, Verdict

LEAST_MODELS = 5
CLOSE = 1.25  # forms whose error on left-out models is within this factor of the best one's are in the running
CONSTANT = "constant"
SCALES, INVERTED, UNTOLD, TOO_FEW = "scales predictably", "inverted", "no dependence told", "too few models"
NEAR_CHANCE = "near chance"


@dataclass(frozen=True)
class Curve:
    """One of FORMS, fitted to n models.

    theta: [3] a, b, c. draws: [draws, 3] of it; `centre`, `spread` of the loss, which u is made with. losses: the
    lowest and the highest seen. errors: root mean square error in AUROC on left-out cells of each form, and of a
    constant. others: the forms nearly as good. noise: standard deviation in AUROC of a model about the curve, beyond
    what patients explain: seeds, the Monte-Carlo noise that models do not share, and misfit. freedom: models less
    parameters. gain: AUROC at the lowest loss less that at the highest, with its interval.
    pattern: SCALES, NEAR_CHANCE, INVERTED or UNTOLD.
    """

    form: str
    theta: Floats
    draws: Floats
    centre: float
    spread: float
    losses: tuple[float, float]
    errors: dict[str, float]
    others: dict[str, Floats]
    noise: float
    freedom: int
    gain: float
    gain_interval: tuple[float, float]
    options: Options
    pattern: str
    verdict: Verdict

    def __call__(self, loss: Floats) -> Floats:
        """AUROC at a loss in nats a token, any shape."""
        return self._at(self.form, self.theta[None], loss)[0]

    def _at(self, form: str, theta: Floats, loss: Floats) -> Floats:
        """[b, 3] -> [b, ...]"""
        u = (np.asarray(loss) - self.centre) / self.spread
        a, b, c = (theta[:, j].reshape((-1,) + (1,) * u.ndim) for j in range(3))
        return sigmoid.at(u, a, b, c, FORMS[form][0])

    def sample(self, loss: Floats) -> Floats:
        """[draws, ...] AUROC of the curve at a loss under each draw, in the order of `fit`'s patients."""
        return self._at(self.form, self.draws, loss)

    def band(self, loss: Floats) -> tuple[Floats, Floats]:
        """Low and high of the curve at losses [m] among those seen, without the noise of a single model."""
        values = self.sample(loss)
        low, high = np.array([interval(values[:, i], self.options.level) for i in range(len(loss))]).T
        return low, high

    @property
    def formula(self) -> str:
        floor = FORMS[self.form][0]
        top = f"({'c' if self.form == 'ceiling' else '1'} - {floor:g})"
        return f"{floor:g} + {top} / (1 + exp(b (loss - {self.centre:.6g}) / {self.spread:.6g} - a))"

    @property
    def parameters(self) -> dict[str, float]:
        return {name: float(self.theta[j]) for name, j in self._fitted.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        return {name: interval(self.draws[:, j], self.options.level) for name, j in self._fitted.items()}

    @property
    def _fitted(self) -> dict[str, int]:
        return {"a": 0, "b": 1, "c": 2} if self.form == "ceiling" else {"a": 0, "b": 1}


def fit(
    loss: Floats,
    auroc: Floats,
    patients: Floats,
    cells: NDArray[np.int64],
    clusters: NDArray[np.int64],
    options: Options,
) -> Curve | None:
    """Chooses a form by leaving out one cell after another, and fits it.

    loss, auroc: [n] of the models. patients: [draws, n] AUROC of each under patients drawn anew, less its AUROC.
    cells: [n] index of (N, D), whose seeds are left out together. clusters: [n] index of each model's run.
    Models are weighted by 1 / variance of their `patients`. A draw adds to every AUROC what its patients do, one draw
    of them for all models, and noise of its own, of the variance that the models' scatter about the curve has beyond
    what patients make them scatter; by Student's t, since n models measure that variance.

    Returns: None with fewer than five cells or models, or where all losses are equal.
    """
    if min(len(np.unique(cells)), len(loss)) < LEAST_MODELS or np.ptp(loss) == 0:
        return None
    centre, spread = float(loss.mean()), float(loss.std())
    u = (loss - centre) / spread
    known = np.isfinite(patients).all(1)
    resampled = int(known.sum()) >= 20
    weight = _weights(patients[known], len(loss))
    errors, thetas = _left_out(u, auroc, weight, cells), {}
    for form in FORMS:
        thetas[form] = sigmoid.solve(form, u, auroc[None], weight[None])[0]
    best = min(FORMS, key=lambda form: errors[form])
    others = {f: thetas[f] for f in FORMS if f != best and errors[f] <= CLOSE * errors[best]}

    noise, freedom = _noise(u, auroc, weight, patients[known], thetas[best], best)
    rng = np.random.default_rng([options.seed, 5])
    factors = multipliers(clusters, len(patients), rng) * np.sqrt(freedom / rng.chisquare(freedom, (len(patients), 1)))
    y = auroc + noise * factors + (patients if resampled else 0.0)
    draws = np.full((len(y), 3), np.nan)
    good = known | (not resampled)
    draws[good] = sigmoid.solve(best, u, y[good], np.tile(weight, (int(good.sum()), 1)), start=thetas[best])
    ends = np.array([u.min(), u.max()])
    a, b, c = (np.vstack([thetas[best], draws])[:, j, None] for j in range(3))
    values = sigmoid.at(ends, a, b, c, FORMS[best][0])
    gains = values[:, 0] - values[:, 1]
    curve = Curve(
        form=best,
        theta=thetas[best],
        draws=draws,
        centre=centre,
        spread=spread,
        losses=(float(loss.min()), float(loss.max())),
        errors=errors,
        others=others,
        noise=noise,
        freedom=freedom,
        gain=float(gains[0]),
        gain_interval=interval(gains[1:], options.level),
        options=options,
        pattern="",
        verdict=PENDING,
    )
    return _judged(curve, len(loss), resampled)


def _judged(curve: Curve, models: int, resampled: bool) -> Curve:
    (low, high), level = curve.gain_interval, percent(curve.options.level)
    gain = f"{signed(curve.gain, 3)} AUROC from the highest to the lowest loss seen ({level}: {span((low, high))})"
    error, constant = curve.errors[curve.form], curve.errors[CONSTANT]
    if not resampled:
        nothing = "the scores have no intervals: too few patients with, or without, the outcome"
        return replace(curve, pattern=UNTOLD, verdict=words.missing(nothing))
    told = f"{gain}; {plural(models, 'model')}, left-out ones predicted to {decimal(error)}"
    inverted = "lower loss ranks patients worse"
    rise = words.follows((low, high), gain, inverted=inverted, told=told, off=error, constant=constant)
    lowest = np.array(curve.losses[:1])
    reached = interval(curve.sample(lowest)[:, 0], curve.options.level)
    verdict = words.above_chance(rise, float(curve(lowest)[0]), reached)
    pattern = INVERTED if high < 0 and error < constant else UNTOLD
    if rise.supported:
        pattern = SCALES if verdict.supported else NEAR_CHANCE
    return replace(curve, pattern=pattern, verdict=verdict)


def _weights(patients: Floats, n: int) -> Floats:
    """[n] 1 / variance, of mean 1; all 1 where no variance is known. None is over four times the median one."""
    if len(patients) < 20:
        return np.ones(n)
    variance = patients.var(0)
    if not np.median(variance) > 0:
        return np.ones(n)
    weight = 1 / np.maximum(variance, np.median(variance) / 4)
    return weight / weight.mean()


def _left_out(u: Floats, auroc: Floats, weight: Floats, cells: NDArray[np.int64]) -> dict[str, float]:
    """Root mean square error in AUROC over models that are left out with their cell, for each form and a constant."""
    distinct, at = np.unique(cells, return_inverse=True)
    weights = weight * (at != np.arange(len(distinct))[:, None])
    seen = np.tile(auroc, (len(distinct), 1))
    predicted = {CONSTANT: ((weights * seen).sum(1) / weights.sum(1))[at]}
    for form in FORMS:
        a, b, c = sigmoid.solve(form, u, seen, weights)[at].T
        predicted[form] = sigmoid.at(u, a, b, c, FORMS[form][0])
    return {name: float(np.sqrt(((value - auroc) ** 2).mean())) for name, value in predicted.items()}


def _noise(u: Floats, auroc: Floats, weight: Floats, patients: Floats, theta: Floats, form: str) -> tuple[float, int]:
    """Standard deviation of models about the curve that patients do not explain, and the degrees of freedom it has.

    With M the projection off the curve's tangents, E Σ w (M e)² is τ² Σ w (M Mᵀ)_ii for the noise of models, and its
    mean over the draws for that of patients; what is seen is the sum of both.
    """
    floor = FORMS[form][0]
    a, b, c = theta
    s = special.expit(a - b * u)
    slope = (c - floor) * s * (1 - s)
    tangents = np.stack([slope, -slope * u, s][: 3 if form == "ceiling" else 2], 1)
    root = np.sqrt(weight)[:, None]
    off = np.eye(len(u)) - tangents @ np.linalg.pinv(root * tangents) * root.T
    seen = float((weight * (auroc - sigmoid.at(u, a, b, c, floor)) ** 2).sum())
    # What patients move alike is no scatter of models, though a curve along its floor of ½ cannot follow it.
    apart = patients - (patients @ weight / weight.sum())[:, None]
    by_patients = float((weight * (apart @ off.T) ** 2).sum(1).mean()) if len(patients) else 0.0
    room = float((weight * (off**2).sum(1)).sum())
    return float(np.sqrt(max(seen - by_patients, 0.0) / room)), max(len(u) - tangents.shape[1], 1)
