"""Which law forecasts best beyond its data, and how far off it is there: rolling hold-outs by compute.

A bootstrap knows the noise of the runs and not what a law gets wrong beyond them: its 95 % intervals held a quarter to
a half of the results above the fitted range of published tables. What the law gets wrong is measured here, on the runs
there are: fitted to those below one budget after another, it forecasts those above.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.joint_laws import AUTO, DEFAULT, FORMS, JointLaw
from ehr_scaling.analysis.tables.run_table import SPAN, RunTable
from ehr_scaling.analysis.uncertainty import Floats, Options, ends, normal_quantile

FOLDS = 6
LEAST_SHARE = 0.35  # of the runs, below the first fold: less than that is another study
CLOSE = 1.25  # laws whose error is within this factor of the best one's are in the running
LOCAL = ", local"
CANDIDATES = tuple(name + how for name in FORMS for how in ("", LOCAL))
NEAR = 0.05  # of the best loss: how far off it a run may be and still count half
NEAREST = 1 / 3  # decades of compute over which a drift is seen at least: nearer, it is the noise of a few runs


@dataclass(frozen=True)
class Rolling:
    """What rolling hold-outs of a table say.

    Candidates are the laws of FORMS by name, each fitted to all runs alike, and again locally (`local_weights`).
    folds: JSON, one for each threshold: {above, decades: mean log10 of C over it, runs, bias_percent: {candidate: mean
    error}, error_percent: {candidate: mean |error|}}. error_percent: {candidate: mean over the folds}, empty without
    folds. chosen: the candidate of least error. close: those nearly as good, the chosen one first.
    drift: root mean square of the chosen one's bias, natural log of loss for each decade beyond the data.
    """

    folds: list[dict[str, Any]]
    error_percent: dict[str, float]
    chosen: str
    close: tuple[str, ...]
    drift: float

    @property
    def selected(self) -> str:
        """The law of the chosen candidate, of FORMS."""
        return self.chosen.removesuffix(LOCAL)


def local_weights(table: RunTable) -> Floats:
    """[n] weights of runs for a forecast beyond the largest: more for the latest compute and near the best loss.

    No law here holds over all runs of a study, as its small models and short runs are of another kind; a law fitted to
    all bends to them. One fitted where it is to be used is off by a fraction: 10^-decades below the largest compute,
    times 1 / (1 + (e / 5 %)²), e what the run's loss is above the best of its compute or less. On 16 public tables that
    brought the mean error at the top quarter of log C from 4.7 to 0.7 %.
    """
    order = np.argsort(table.C, kind="stable")
    best = np.minimum.accumulate(table.loss[order])
    at = np.searchsorted(table.C[order], table.C * SPAN, side="right") - 1
    excess = table.loss / best[at] - 1
    return table.C / table.C.max() / (1 + (excess / NEAR) ** 2)


def fit(candidate: str, table: RunTable, options: Options) -> JointLaw | None:
    """The law of a candidate, fitted to a table."""
    weight = local_weights(table) if candidate.endswith(LOCAL) else None
    return joint_laws.fit(candidate.removesuffix(LOCAL), table.N, table.D, table.loss, table.clusters, options, weight)


def rolling(table: RunTable, options: Options) -> Rolling:
    """Fits every candidate below each of up to six budgets, and forecasts all runs above it.

    options.law: "auto" selects, else the name of the law, of whose two fits the better is taken. Where there are no
    folds (two budgets, or too few runs below) Chinchilla's law stands, and `drift` is NaN: nothing tells how far off it
    is.
    """
    folds: list[dict[str, Any]] = []
    biases: list[tuple[float, dict[str, float]]] = []
    thresholds = [above for above in _thresholds(table) if _enough(table, above)]
    below = [above >= table.C for above in thresholds]
    weights = [where * weight for where in below for weight in (np.ones(len(table)), _within(table, where))]
    laws = {name: joint_laws.fit_many(name, *_data(table), np.array(weights), options.delta) for name in FORMS if below}
    for k, above in enumerate(thresholds):
        high = table.take(above < table.C)
        errors = {
            name + how: np.log(law(2 * k + i, high.N, high.D) / high.loss)
            for name, law in laws.items()
            for i, how in enumerate(("", LOCAL))
        }
        decades = float(np.log10(high.C / table.C[below[k]].max()).mean())
        biases.append((decades, {name: float(e.mean()) for name, e in errors.items()}))
        folds.append(
            {
                "above": float(above),
                "decades": decades,
                "runs": len(high),
                "bias_percent": {name: 100 * float(np.expm1(e).mean()) for name, e in errors.items()},
                "error_percent": {name: 100 * float(np.abs(np.expm1(e)).mean()) for name, e in errors.items()},
            }
        )
    mean = {name: float(np.mean([fold["error_percent"][name] for fold in folds])) for name in CANDIDATES if folds}
    asked = DEFAULT if options.law == AUTO else options.law
    allowed = [name for name in mean if options.law in (AUTO, name.removesuffix(LOCAL))]
    chosen = min(allowed, key=mean.__getitem__) if allowed else asked
    least = min(mean.values(), default=np.nan)
    close = [name for name in mean if name != chosen and mean[name] <= CLOSE * least]
    drift = np.nan
    if biases:
        squares = [(b[chosen] ** 2, max(decades, NEAREST) ** 2) for decades, b in biases]
        drift = float(np.sqrt(sum(b for b, _ in squares) / sum(d for _, d in squares)))
    return Rolling(folds, mean, chosen, (chosen, *close), drift)


def _within(table: RunTable, where: NDArray[np.bool_]) -> Floats:
    """[n] local weights among the rows of a mask, 0 elsewhere."""
    out = np.zeros(len(table))
    out[where] = local_weights(table.take(where))
    return out


def _data(table: RunTable) -> tuple[Floats, Floats, Floats]:
    return table.N, table.D, table.loss


def _enough(table: RunTable, above: float) -> bool:
    """Whether a law can be fitted below."""
    low = table.take(above >= table.C)
    varied = len(np.unique(low.N)) > 1 and len(np.unique(low.D)) > 1
    return varied and len(np.unique(low.run)) >= joint_laws.LEAST_RUNS


def _thresholds(table: RunTable) -> list[float]:
    """Up to FOLDS values of C between budgets, evenly among those with two budgets, enough runs below and any above."""
    tops = [float(table.C[table.group == g].max()) for g in range(1, len(table.budgets) - 1)]
    enough = [top for top in tops if LEAST_SHARE <= np.mean(top >= table.C) < 1]
    if len(enough) > FOLDS:
        enough = [enough[i] for i in np.unique(np.linspace(0, len(enough) - 1, FOLDS).round().astype(int))]
    return enough


@dataclass(frozen=True)
class Forecaster:
    """Laws fitted to one table, for losses anywhere: inside the data and beyond.

    laws: the chosen one first, then those close to it. top: the largest C of the runs. noise: [2] ends of the interval
    of a single run about the law, in log loss.
    """

    laws: tuple[JointLaw, ...]
    rolling: Rolling
    top: float
    noise: Floats
    options: Options

    @property
    def law(self) -> JointLaw:
        return self.laws[0]

    def __call__(self, N: Floats, D: Floats, C: Floats, *, noise: bool = True) -> tuple[Floats, Floats, Floats]:
        """Loss, and the bounds of its interval at options.level; all [m], for N, D, C [m].

        The interval holds the bootstrap of the law, the noise of a single run (`noise`), and, beyond the data, the
        drift of the law with distance and what the laws in the running disagree by: each its own, independent way of
        being off, so that on each side their reaches in log loss add up as squares.
        """
        central, draws = np.log(self.law(N, D)), np.log(self.law.sample(N, D))
        reaches = [np.abs(ends(draws, self.options.level) - central)] if len(draws) else [np.full((2, len(N)), np.nan)]
        if noise:
            reaches.append(np.abs(self.noise)[:, None])
        reaches.append(normal_quantile(self.options.level) * self.beyond(N, D, C)[None])
        low, high = np.sqrt(sum(reach**2 for reach in reaches))
        return np.exp(central), np.exp(central - low), np.exp(central + high)

    def beyond(self, N: Floats, D: Floats, C: Floats) -> Floats:
        """[m] standard deviation of log loss that distance and disagreement add; 0 inside the data."""
        decades = np.maximum(np.log10(C / self.top), 0.0)
        drift = 0.0 if np.isnan(self.rolling.drift) else self.rolling.drift
        apart = [np.abs(np.log(law(N, D) / self.law(N, D))) for law in self.laws[1:]]
        spread = np.max(apart, axis=0) / 2 if apart else np.zeros(len(N))
        return np.where(decades > 0, np.hypot(drift * np.maximum(decades, NEAREST), spread), 0.0)


def forecaster(table: RunTable, options: Options) -> Forecaster | None:
    """Selects, and fits the laws in the running; None where no law can be fitted."""
    found = rolling(table, options)
    fits = []
    for i, name in enumerate(found.close):
        law = fit(name, table, options if i == 0 else replace(options, draws=0))
        if law is None:
            return None
        fits.append(law)
    weight = local_weights(table) if found.chosen.endswith(LOCAL) else np.ones(len(table))
    return Forecaster(tuple(fits), found, float(table.C.max()), _noise(fits[0], weight, options.level), options)


def _noise(law: JointLaw, weight: Floats, level: float) -> Floats:
    """[2] quantiles of the residuals, as the runs weigh, widened by the degrees of freedom that the law took."""
    runs = weight.sum() ** 2 / (weight**2).sum()  # as many of equal weight
    order = np.argsort(law.residuals)
    share = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
    middle, *found = np.interp([0.5, (1 - level) / 2, (1 + level) / 2], share, law.residuals[order])
    return (np.array(found) - middle) * np.sqrt(runs / max(runs - len(law.form.free), 1))
