"""Which law forecasts best beyond its data, and how far off it is there: rolling hold-outs by compute.

A bootstrap knows the noise of the runs and not what a law gets wrong beyond them: its 95 % intervals held a quarter to
a half of the results above the fitted range of published tables. What the law gets wrong is measured here, on the runs
there are: fitted to those below one budget after another, it forecasts those above. What that means for the choice of
a law and for its intervals is in `choice`; what the law misses inside the data in `misfit`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ehr_scaling.analysis.draws import LEAST_DRAWS, Floats, ends, normal_quantile, spread
from ehr_scaling.analysis.forecast import choice, misfit, seeds
from ehr_scaling.analysis.forecast.choice import NEAREST as NEAREST
from ehr_scaling.analysis.forecast.misfit import Misfit
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.joint_laws import AUTO, FORMS, JointLaw
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables import cells
from ehr_scaling.analysis.tables.run_table import SPAN, RunTable

FOLDS = 6
LEAST_SHARE = 0.35  # of the runs, below the first fold: less than that is another study
LOCAL = ", local"
CANDIDATES = tuple(name + how for name in FORMS for how in ("", LOCAL))
USUAL = "coupled" + LOCAL  # of least error over simulated studies of five families,
SIMPLE, FEW = "chinchilla", 12  # but for this one under two runs a parameter, and where there are no folds
NEAR = 0.05  # of the best loss: how far off it a run may be and still count half
EQUAL = 16.0  # cells of equal weight that local weights leave at least, and LEFT of all there are: five parameters
LEFT = 0.9  # cannot be asked of fewer


@dataclass(frozen=True)
class Rolling:
    """What rolling hold-outs of a table say.

    Candidates are the laws of FORMS by name, each fitted to all cells alike, and again locally (`local_weights`).
    folds: JSON, one for each threshold: {above, decades: mean log10 of C over it, runs, bias_percent: {candidate: mean
    error}, error_percent: {candidate: mean |error|}}. error_percent: {candidate: mean over the folds}, empty without
    folds. chosen: the candidate to forecast with (`choice.chosen`). close: those nearly as good, the chosen one first.
    drift: of the chosen one, natural log of loss for each decade beyond the data (`choice.drift`); NaN without folds.
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
    """[n] weights of cells for a forecast beyond the largest: more for the latest compute and near the best loss.

    No law here holds over all runs of a study, as its small models and short runs are of another kind; a law fitted to
    all bends to them. One fitted where it is to be used is off by a fraction: 10^-decades below the largest compute,
    times `nearness`. Where that leaves too few runs for a law, the weights are evened out by a power below 1. On
    simulated studies the latter brought the mean error of the coupled law at the top quarter of log C from .91 to .70 %
    where fewer than 12 would have been left.
    """
    weight = table.C / table.C.max() * nearness(table)
    least = min(EQUAL, LEFT * len(table))
    if choice.equal_cells(weight) < least:
        weight = weight ** optimize.brentq(lambda power: choice.equal_cells(weight**power) - least, 0.0, 1.0)
    return weight


def nearness(table: RunTable) -> Floats:
    """[n] 1 / (1 + (e / 5 %)²), e what the cell's loss is above the best of its compute or less."""
    order = np.argsort(table.C, kind="stable")
    best = np.minimum.accumulate(table.loss[order])
    at = np.searchsorted(table.C[order], table.C * SPAN, side="right") - 1
    return np.asarray(1 / (1 + ((table.loss / best[at] - 1) / NEAR) ** 2))


def fit(candidate: str, table: RunTable, options: Options) -> JointLaw | None:
    """The law of a candidate, fitted to the cells of a table; None with fewer than 8 of them."""
    table = cells.average(table)
    name, weight = candidate.removesuffix(LOCAL), weights(candidate, table)
    return joint_laws.fit(name, table.N, table.D, table.loss, table.clusters, options, weight)


def weights(candidate: str, table: RunTable) -> Floats:
    """[n] of rows in the fit of a candidate."""
    return local_weights(table) if candidate.endswith(LOCAL) else np.ones(len(table))


def rolling(table: RunTable, options: Options) -> Rolling:
    """Fits every candidate below each of up to six budgets, and forecasts all cells above it.

    options.law: "auto" selects, else the name of the law, of whose two fits the local one is usual. Where there are no
    folds (two budgets, or too few runs below) Chinchilla's law stands, and `drift` is NaN: nothing in the table tells
    how far off it is.
    """
    runs, table = table, cells.average(table)
    folds: list[dict[str, Any]] = []
    biases: list[dict[str, float]] = []
    thresholds = [above for above in _thresholds(table) if _enough(table, above)]
    below = [above >= table.C for above in thresholds]
    seen = [float(np.ptp(np.log(table.C[where])) / np.ptp(np.log(table.C))) for where in below]
    each = np.array([where * weight for where in below for weight in (np.ones(len(table)), _within(table, where))])
    laws = {name: joint_laws.fit_many(name, *_data(table), each, options.delta) for name in FORMS if below}
    for k, above in enumerate(thresholds):
        high = table.take(above < table.C)
        errors = {
            name + how: np.log(law(2 * k + i, high.N, high.D) / high.loss)
            for name, law in laws.items()
            for i, how in enumerate(("", LOCAL))
        }
        decades = float(np.log10(high.C / table.C[below[k]].max()).mean())
        biases.append({name: float(e.mean()) for name, e in errors.items()})
        folds.append(
            {
                "above": float(above),
                "decades": decades,
                "runs": int((above < runs.C).sum()),
                "bias_percent": {name: 100 * float(np.expm1(e).mean()) for name, e in errors.items()},
                "error_percent": {name: 100 * float(np.abs(np.expm1(e)).mean()) for name, e in errors.items()},
            }
        )
    mean = {name: float(np.mean([fold["error_percent"][name] for fold in folds])) for name in CANDIDATES if folds}
    usual = options.law + LOCAL
    if options.law == AUTO:
        usual = USUAL if folds and len(table) >= FEW else SIMPLE
    allowed = [name for name in CANDIDATES if options.law in (AUTO, name.removesuffix(LOCAL))]
    chosen = choice.chosen({name: [fold["error_percent"][name] for fold in folds] for name in allowed}, usual)
    drift = choice.drift([b[chosen] for b in biases], [f["decades"] for f in folds], seen) if folds else np.nan
    return Rolling(folds, mean, chosen, choice.close(mean, chosen), drift)


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
    return varied and len(low) >= joint_laws.LEAST_CELLS


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
    of a single run about the law, in log loss. misfit: what the law misses among its runs. widened: factor on the
    spread of its draws, for the parameters that were fitted to the same runs (`choice.widened`). shared: in log loss,
    by what its seeds share (`seeds.reach`).
    """

    laws: tuple[JointLaw, ...]
    rolling: Rolling
    top: float
    noise: Floats
    options: Options
    misfit: Misfit = misfit.NONE
    widened: float = 1.0
    shared: float = 0.0

    @property
    def law(self) -> JointLaw:
        return self.laws[0]

    @property
    def drift(self) -> float:
        """Standard deviation of log loss a decade; where the table tells none, that of simulated studies."""
        return choice.UNSEEN_DRIFT if np.isnan(self.rolling.drift) else self.rolling.drift

    def __call__(self, N: Floats, D: Floats, C: Floats, *, noise: bool = True) -> tuple[Floats, Floats, Floats]:
        """Loss, and the bounds of its interval at options.level; all [m], for N, D, C [m].

        The interval holds the bootstrap of the law, the noise of a single run (`noise`), what its seeds share, what it
        misses among its own runs, and, beyond the data, its drift with distance and what the laws in the running
        disagree by: each its own, independent way of being off, so that on each side their reaches in log loss add up
        as squares.
        """
        central, draws = np.log(self.law(N, D)), np.log(self.law.sample(N, D))
        reaches = [np.full((2, len(N)), np.nan)]
        if len(draws) >= LEAST_DRAWS:
            reaches = [self.widened * np.abs(ends(draws, self.options.level) - central)]
        if noise:
            reaches.append(np.abs(self.noise)[:, None])
        off = np.hypot(self.misfit(C), self.beyond(N, D, C))
        reaches += [np.full((2, 1), self.shared), normal_quantile(self.options.level) * off[None]]
        low, high = np.sqrt(sum(reach**2 for reach in reaches))
        return np.exp(central), np.exp(central - low), np.exp(central + high)

    def beyond(self, N: Floats, D: Floats, C: Floats) -> Floats:
        """[m] standard deviation of log loss that distance and disagreement add; 0 inside the data."""
        decades = np.maximum(np.log10(C / self.top), 0.0)
        apart = [np.abs(np.log(law(N, D) / self.law(N, D))) for law in self.laws[1:]]
        between = np.max(apart, axis=0) / 2 if apart else np.zeros(len(N))
        return np.where(decades > 0, np.hypot(self.drift * np.maximum(decades, NEAREST), between), 0.0)


def forecaster(table: RunTable, options: Options) -> Forecaster | None:
    """Selects, and fits the laws in the running; None where no law can be fitted."""
    selection = rolling(table, options)
    fits = []
    for i, name in enumerate(selection.close):
        law = fit(name, table, options if i == 0 else replace(options, draws=0))
        if law is None:
            return None
        fits.append(law)
    law, table, runs = fits[0], cells.average(table), table
    weight = weights(selection.chosen, table)
    of = cells.places(runs)[1]
    by_run = weight[of] / np.bincount(of)[of]
    equal, parameters = choice.equal_cells(weight), len(law.form.free)
    return Forecaster(
        tuple(fits),
        selection,
        float(table.C.max()),
        _noise(law, runs, by_run, options.level) * choice.freedom(equal, parameters),
        options,
        misfit.misfit(law, table, nearness(table), equal),
        choice.widened(equal, parameters),
        _shared(law, runs, by_run, equal),
    )


def _shared(law: JointLaw, runs: RunTable, weight: Floats, equal: float) -> float:
    """By seeds, at the best run of the largest compute; 0 without draws to put it together with."""
    if not len(law.good):
        return 0.0
    best = np.where(runs.C.max() <= runs.C * SPAN, runs.loss, np.inf).argmin()
    drawn = float(spread(np.log(law.sample(runs.N[[best]], runs.D[[best]])))[0])
    parameters = len(law.form.free)
    freedom = max(equal - parameters, choice.FEWEST_LEFT)
    return seeds.reach(runs, weight, drawn * choice.freedom(equal, parameters), freedom, law.level)


def _noise(law: JointLaw, runs: RunTable, weight: Floats, level: float) -> Floats:
    """[2] quantiles of the residuals of runs, of these weights [n]."""
    residuals = np.log(runs.loss / law(runs.N, runs.D))
    order = np.argsort(residuals)
    share = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
    middle, *bounds = np.interp([0.5, (1 - level) / 2, (1 + level) / 2], share, residuals[order])
    return np.array(bounds) - middle
