"""Which law of repeated data forecasts held-out runs best, and the loss that it gives at N, D and U."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, ends, interval, resampling_counts
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.repeats import repeated_laws
from ehr_scaling.analysis.repeats.repeated_laws import FORMS, LEAST_REPEATS, RepeatLaw, Values
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import count, percent
from ehr_scaling.analysis.words import Place, Verdict

FOLDS = 10
LEAST_GROUPS = 3
MOST_RUNS = 1000  # in the fits: more tell eight parameters hardly better, and bootstraps take minutes
IGNORED = "chinchilla"  # the law for which a repeated token is a new one
PENALTY = "penalty"


@dataclass(frozen=True)
class Repeated:
    """Laws fitted to the runs of `table` whose passes are known.

    unique: [n] positions in one pass, D / passes. positions: positions processed for each unique token (padding), so
    that D positions over U unique tokens are D / (U positions) passes.
    laws: of `repeated_laws.FORMS`. missed: of each law [n], log predicted - log observed loss of runs held out.
    folds: of the cross-validation. selected: the law of least mean |error|. gain: by how much (a share of the loss) its
    error lies under that of the law which ignores repeats; with its interval, over groups of runs.
    left_out: runs that were not drawn, of a very large table.
    """

    table: RunTable
    unique: Floats
    positions: float
    laws: dict[str, RepeatLaw]
    missed: dict[str, Floats]
    folds: int
    selected: str
    gain: float
    gain_interval: tuple[float, float]
    left_out: int
    verdict: Verdict
    options: Options

    @property
    def law(self) -> RepeatLaw:
        return self.laws[self.selected]

    @property
    def errors(self) -> dict[str, float]:
        """{law: mean |relative error| of the loss of held-out runs}"""
        return {name: float(np.abs(np.expm1(missed)).mean()) for name, missed in self.missed.items()}

    def __call__(self, N: Values, D: Values, U: Values) -> Floats:
        """Loss in nats a token at N parameters and D positions over U unique tokens, broadcast together."""
        return self.law(N, D, np.asarray(U) * self.positions)

    def sample(self, N: Values, D: Values, U: Values) -> Floats:
        """[good draws, ...] losses under the run bootstrap."""
        return self.law.losses_of(self.law.good, N, D, np.asarray(U) * self.positions)

    def forecast(self, N: Values, D: Values, U: Values) -> tuple[Floats, Floats, Floats]:
        """Loss of a run, and the bounds of its interval at options.level; all [...].

        The interval holds the bootstrap of the law and what the law missed of held-out runs, each its own, so that
        their reaches in log loss add up as squares. Beyond the runs it is too narrow: see `word`.
        """
        central, level = np.log(self(N, D, U)), self.options.level
        off = np.abs(ends(self.missed[self.selected], level)).reshape(2, *[1] * central.ndim)
        draws = np.log(self.sample(N, D, U))
        reach = np.hypot(ends(draws, level) - central if len(draws) else np.nan, off)
        return np.exp(central), np.exp(central - reach[0]), np.exp(central + reach[1])

    def word(self, N: float, D: float, U: float) -> Verdict:
        """The word for the loss at one point, and what goes beyond the runs."""
        passes, unique = D / (U * self.positions), U * self.positions
        most = self.table.passes
        places = [
            Place(N, _ends(self.table.N), "parameters", count),
            Place(D, _ends(self.table.D), "positions", count),
            Place(max(passes, 1.0), _ends(np.maximum(most, 1.0)), "passes"),
        ]
        if passes > 1 + LEAST_REPEATS:
            ratio = (self.table.N / self.unique)[most > 1 + LEAST_REPEATS]
            places.append(Place(N / unique, _ends(ratio), "parameters for each unique token"))
        return words.at(self.law.lost(self.options), *places)


def _ends(values: Floats) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def compare(table: RunTable, options: Options) -> Repeated | None:
    """Fits the laws and compares them by 10-fold cross-validation over groups of runs.

    table: runs of one kind, each cell at its best setting. Rows of one run, and runs of equal N, D and U (seeds), stay
    together, held out or not. All parameters are fitted together, so no run of a single pass is needed.
    Returns: None where passes are not known, no run repeats data, or there are too few runs (`repeated_laws.fit`).
    """
    table = table.take(np.isfinite(table.passes) & (table.passes > 0))
    every = len(table)
    if every > MOST_RUNS:
        drawn = np.random.default_rng([options.seed, 12]).choice(every, MOST_RUNS, replace=False)
        table = table.take(np.sort(drawn))
    N, D, loss = table.N, table.D, table.loss
    unique = D / table.passes
    laws = {name: repeated_laws.fit(name, N, D, unique, loss, table.clusters, options) for name in FORMS}
    fitted = {name: law for name, law in laws.items() if law is not None}
    if len(fitted) < len(FORMS):
        return None
    group = _groups(table, unique)
    order = np.random.default_rng([options.seed, 13]).permutation(group.max() + 1)
    fold = (order % FOLDS)[group]
    missed = {
        name: repeated_laws.held_out(law, N, D, unique, loss, fold, options.delta) for name, law in fitted.items()
    }
    off = {name: np.abs(np.expm1(m)) for name, m in missed.items()}
    selected = min(off, key=lambda name: float(off[name].mean()))
    better = off[IGNORED] - off[selected]
    counts = resampling_counts(group, max(options.draws, 200), np.random.default_rng([options.seed, 14]))
    gain = interval(counts @ better / counts.sum(1), options.level)
    error = {name: percent(float(o.mean()), 2) for name, o in off.items()}
    said = f"{error[selected]} error of held-out runs, {error[IGNORED]} with repeats ignored"
    ratio = D / (table.passes * table.unique_tokens)
    return Repeated(
        table=table,
        unique=unique,
        positions=float(np.median(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else 1.0,
        laws=fitted,
        missed=missed,
        folds=len(np.unique(fold)),
        selected=selected,
        gain=float(better.mean()),
        gain_interval=gain,
        left_out=every - len(table),
        verdict=words.repeats(selected == IGNORED, gain[0], said, fitted[selected].failed, options),
        options=options,
    )


def _groups(table: RunTable, unique: Floats) -> NDArray[np.int64]:
    """[n] index of the rows that belong together: of one run, or of one N, D and U. By run alone where they would
    hang together in fewer than three groups."""
    runs = table.clusters
    points = np.unique(np.round(np.log([table.N, table.D, unique]), 6), axis=1, return_inverse=True)[1].ravel()
    size = int(runs.max() + points.max() + 2)
    joined = coo_array((np.ones(len(runs)), (runs, runs.max() + 1 + points)), shape=(size, size))
    groups = np.unique(connected_components(joined, directed=False)[1][runs], return_inverse=True)[1].astype(np.int64)
    return groups if groups.max() + 1 >= LEAST_GROUPS else runs
