"""What the models of a task said of the same test patients, and what their AUROC owes to who these patients are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis.draws import Floats, resampling_counts
from ehr_scaling.errors import UserError

COLUMNS = ("subject_id", "prediction_time", "boolean_value", "predicted_boolean_probability")
AGREES = 1e-3  # the AUROC of a score and of its predictions, which are stored in single precision
_ROC_POINTS = 400  # of a drawn curve: a finer one cannot be told from it
_AT_ONCE = 4_000_000  # weights held at a time
_REPEATS = 20  # of the counting that `auroc_of_endless_copies` simulates


def resampling(seed: int) -> np.random.Generator:
    """For `Predictions.draws`: the same patients are drawn for all of a task, so that one number has one interval."""
    return np.random.default_rng([seed, 8])


@dataclass(frozen=True)
class Predictions:
    """Of m models for the same n stays.

    labels: [n] bool, whether the outcome came. patients: [n] index of the stay's patient. probability: [m, n].
    """

    labels: NDArray[np.bool_]
    patients: NDArray[np.int64]
    probability: Floats

    @property
    def placements(self) -> Floats:
        """[m, n] share of the other class that a stay is ranked rightly against, a tie counting half.

        Their mean over either class is the AUROC (DeLong, DeLong & Clarke-Pearson 1988).
        """
        from scipy import stats  # takes a second: only where outcomes were scored

        labels, p = self.labels, self.probability
        ranks, out = stats.rankdata(p, axis=1), np.empty(p.shape)
        for rows, other, sign in ((labels, ~labels, 1), (~labels, labels, -1)):
            below = (ranks[:, rows] - stats.rankdata(p[:, rows], axis=1)) / other.sum()
            out[:, rows] = below if sign > 0 else 1 - below
        return out

    @property
    def auroc(self) -> Floats:
        """[m]"""
        return self.placements[:, self.labels].mean(1)

    def rocs(self, thresholds: Sequence[Sequence[float]] | None = None) -> list[Floats]:
        """Of each model [2, k]: false and true positive rate, from (0, 0) to (1, 1), as the threshold falls.

        Stays of one prediction are passed together, by a straight line, so that the area is the AUROC; k is bounded.
        Args: thresholds, of each model: its curve has points at these alone, and at both ends, and a smaller area.
        """
        if thresholds is None:
            return [self._roc(p) for p in self.probability]
        return [self._at(p, np.sort(chosen)[::-1]) for p, chosen in zip(self.probability, thresholds, strict=True)]

    def _at(self, p: Floats, thresholds: Floats) -> Floats:
        shares = [[(p[kind] >= t).mean() for t in thresholds] for kind in (~self.labels, self.labels)]
        return np.concatenate([np.zeros((2, 1)), np.reshape(shares, (2, -1)), np.ones((2, 1))], axis=1)

    def _roc(self, p: Floats) -> Floats:
        order = np.argsort(-p, kind="stable")
        last = np.flatnonzero(np.diff(p[order], append=-np.inf))
        passed = np.stack([np.cumsum(rows[order])[last] for rows in (~self.labels, self.labels)])
        passed = np.concatenate([np.zeros((2, 1), passed.dtype), passed], axis=1)
        step = np.diff(passed, axis=1)
        bends = step[0, 1:] * step[1, :-1] != step[0, :-1] * step[1, 1:]
        curve = passed[:, np.concatenate([[True], bends, [True]])] / passed[:, -1:]
        if curve.shape[1] <= _ROC_POINTS:
            return curve
        kept = np.searchsorted(curve.sum(0), np.linspace(0, 2, _ROC_POINTS))
        return curve[:, np.unique(np.minimum(kept, curve.shape[1] - 1))]

    @property
    def task_loss(self) -> Floats:
        """[m] nats a stay: mean of -log of the probability that was given to what came true, clipped to 1e-4."""
        said = np.clip(np.where(self.labels, self.probability, 1 - self.probability), 1e-4, 1.0)
        return -np.log(said).mean(1)

    @property
    def resamplable(self) -> bool:
        """Whether two patients at least have a stay with the outcome, and two one without: fewer have no spread."""
        return all(len(np.unique(self.patients[rows])) >= 2 for rows in (self.labels, ~self.labels))

    def draws(self, count: int, rng: np.random.Generator) -> Floats:
        """[count, m] AUROC over patients drawn with replacement, the same ones for every model.

        To first order (Hájek's projection): the mean placement of the drawn stays with the outcome, plus that of those
        without, minus the AUROC. A stay's ranks are then worked out once and not for every draw. NaN where a draw
        holds one class only. Futures of different patients are simulated independently, so that the Monte-Carlo noise
        of the probabilities is in this spread.
        """
        placements, part = self.placements, max(1, _AT_ONCE // len(self.labels))
        out = -np.tile(placements[:, self.labels].mean(1), (count, 1))
        for first in range(0, count, part):
            here = slice(first, min(first + part, count))
            counts = resampling_counts(self.patients, here.stop - first, rng)
            for rows in (self.labels, ~self.labels):
                weights = counts[:, rows]
                with np.errstate(invalid="ignore", divide="ignore"):
                    out[here] += weights @ placements[:, rows].T / weights.sum(1, keepdims=True)
        return out

    def auroc_of_endless_copies(self, copies: Floats, rng: np.random.Generator) -> Floats:
        """[m] at most the AUROC that endlessly many simulated futures would give, where `copies` [m] of them ended.

        Noise of a probability blurs its rank, and lowers AUROC. The noise of SCOPE is not stored; it is below that of
        counting, a binomial of the copies, whose effect is simulated here on top. For normal scores d' = √2 Φ^-1(AUROC)
        falls as 1/d'² grows by the variance of the noise, so taking off what counting adds gives the bound; 1 where
        nothing bounds it, and the AUROC itself where it is no better than chance.
        """
        n, blurred = np.maximum(copies, 1).astype(np.int64)[:, None], np.zeros(len(self.probability))
        for _ in range(_REPEATS):
            counted = rng.binomial(n, np.clip(self.probability, 0, 1)) / n
            blurred += Predictions(self.labels, self.patients, counted).auroc / _REPEATS
        seen = self.auroc
        with np.errstate(divide="ignore", invalid="ignore"):
            now, then = (special.ndtri(a) ** -2.0 / 2 for a in (seen, np.minimum(blurred, seen)))
            left = 2 * now - then
            bound = np.where(left > 0, special.ndtr((2 * left) ** -0.5), 1.0)
        bound = np.where((blurred > 0.5) & (seen < 1), np.maximum(bound, seen), 1.0)
        return np.where(seen > 0.5, bound, seen)


def read(paths: list[Path]) -> tuple[Predictions | None, str]:
    """Reads tables in the prediction schema of MEDS, one a model, that are about the same stays.

    Returns: the predictions and "", or None and why there are none: a file is missing, or no pyarrow to read it.
    Raises: UserError when a file is damaged, or about other stays than the first.
    """
    absent = sum(not path.is_file() for path in paths)
    if absent or not paths:
        return None, f"predictions of {absent} of {len(paths)} models are not stored"
    try:
        import pyarrow.parquet
    except ImportError:
        return None, "pyarrow, which reads the stored predictions, is not installed"
    tables = [_columns(pyarrow.parquet, path) for path in paths]
    first = tables[0]
    for path, table in zip(paths, tables, strict=True):
        if not all(np.array_equal(table[name], first[name]) for name in COLUMNS[:3]):
            raise UserError(f"{path} is about other stays than {paths[0].name}: delete both and run launch.evaluate")
        if not np.isfinite(table[COLUMNS[3]]).all():
            raise UserError(f"{path}: a probability is not finite; delete the file and run launch.evaluate")
    patients = np.unique(first["subject_id"], return_inverse=True)[1].astype(np.int64)
    labels = first["boolean_value"].astype(bool)
    if labels.all() or not labels.any():
        raise UserError(f"{paths[0]}: every stay has the same outcome, and an AUROC needs both")
    probability = np.stack([table[COLUMNS[3]].astype(np.float64) for table in tables])
    return Predictions(labels, patients, probability), ""


def _columns(parquet: Any, path: Path) -> dict[str, NDArray[Any]]:
    try:
        table = parquet.read_table(path, columns=list(COLUMNS), page_checksum_verification=True)
        return {name: table[name].to_numpy() for name in COLUMNS}
    except Exception as e:  # pyarrow's errors share no base class
        raise UserError(f"{path} is damaged ({type(e).__name__}): delete it and run launch.evaluate again") from None
