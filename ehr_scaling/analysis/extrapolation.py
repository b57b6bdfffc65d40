"""Which law forecasts best beyond its data, and how far off it is there: rolling hold-outs by compute.

A bootstrap knows the noise of the runs and not what a law gets wrong beyond them: its 95 % intervals held a quarter to
a half of the results above the fitted range of published tables. What the law gets wrong is measured here, on the runs
there are: fitted to those below one budget after another, it forecasts those above.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ehr_scaling.analysis import joint_laws
from ehr_scaling.analysis.joint_laws import FORMS, JointLaw
from ehr_scaling.analysis.run_table import RunTable
from ehr_scaling.analysis.uncertainty import Floats, Options, interval

AUTO = "auto"
DEFAULT = "chinchilla"
FOLDS = 6
LEAST_SHARE = 0.35  # of the runs, below the first fold: less than that is another study
CLOSE = 1.25  # laws whose error is within this factor of the best one's are in the running
NEAREST = 1 / 3  # decades of compute over which a drift is seen at least: nearer, it is the noise of a few runs


@dataclass(frozen=True)
class Rolling:
    """What rolling hold-outs of a table say.

    folds: JSON, one for each threshold: {above, decades: mean log10 of C over it, runs, bias_percent: {law: mean
    error}, error_percent: {law: mean |error|}}. error_percent: {law: mean over the folds}, empty without folds.
    selected: the law of least error. close: the laws nearly as good, the selected one first.
    drift: root mean square of the selected law's bias, natural log of loss for each decade beyond the data.
    """

    folds: list[dict[str, Any]]
    error_percent: dict[str, float]
    selected: str
    close: tuple[str, ...]
    drift: float


def rolling(table: RunTable, options: Options) -> Rolling:
    """Fits every law below each of up to six budgets, and forecasts all runs above it.

    options.law: "auto" selects, else the name of the law. Where there are no folds (two budgets, or too few runs
    below) Chinchilla's law stands, and `drift` is NaN: nothing tells how far off it is.
    """
    quick = replace(options, draws=0)
    folds: list[dict[str, Any]] = []
    biases: list[tuple[float, dict[str, float]]] = []
    for above in _thresholds(table):
        low, high = table.take(above >= table.C), table.take(above < table.C)
        laws = {name: joint_laws.fit(name, low.N, low.D, low.loss, low.clusters, quick) for name in FORMS}
        errors = {name: np.log(law(high.N, high.D) / high.loss) for name, law in laws.items() if law is not None}
        if len(errors) < len(FORMS):
            continue
        decades = float(np.log10(high.C / low.C.max()).mean())
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
    mean = {name: float(np.mean([fold["error_percent"][name] for fold in folds])) for name in FORMS} if folds else {}
    best = min(mean, key=mean.__getitem__) if mean else DEFAULT
    selected = best if options.law == AUTO else options.law
    close = [name for name in mean if name != selected and mean[name] <= CLOSE * mean[best]]
    drift = np.nan
    if biases:
        squares = [(b[selected] ** 2, max(decades, NEAREST) ** 2) for decades, b in biases]
        drift = float(np.sqrt(sum(b for b, _ in squares) / sum(d for _, d in squares)))
    return Rolling(folds, mean, selected, (selected, *close), drift)


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

    laws: the selected one first, then those close to it. top: the largest C of the runs.
    """

    laws: tuple[JointLaw, ...]
    rolling: Rolling
    top: float
    options: Options

    @property
    def law(self) -> JointLaw:
        return self.laws[0]

    def __call__(self, N: Floats, D: Floats, C: Floats, *, noise: bool = True) -> tuple[Floats, Floats, Floats]:
        """Loss, and the bounds of its interval at options.level; all [m], for N, D, C [m].

        The interval holds the bootstrap of the law, the noise of a single run (`noise`), and, beyond the data, the
        drift of the law with distance and what the laws in the running disagree by.
        """
        rng = np.random.default_rng([self.options.seed, 3])
        central, draws = self.law(N, D), self.law.sample(N, D)
        if noise:
            residuals, n = self.law.residuals, len(self.law.residuals)
            residuals = (residuals - np.median(residuals)) * np.sqrt(n / max(n - len(self.law.form.free), 1))
            draws = draws * np.exp(rng.choice(residuals, draws.shape))
        draws = draws * np.exp(rng.standard_normal(draws.shape) * self.beyond(N, D, C))
        bounds = np.array([interval(draws[:, i], self.options.level) for i in range(len(N))]).reshape(-1, 2)
        return central, bounds[:, 0], bounds[:, 1]

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
        own = options if i == 0 else replace(options, draws=0)
        law = joint_laws.fit(name, table.N, table.D, table.loss, table.clusters, own)
        if law is None:
            return None
        fits.append(law)
    return Forecaster(tuple(fits), found, float(table.C.max()), options)
