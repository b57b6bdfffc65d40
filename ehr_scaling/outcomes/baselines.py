"""What a logistic regression makes of the same histories: a zero-shot number never stands alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ehr_scaling.data import static_context, timelines
from ehr_scaling.outcomes.tasks import Stays, Unanswerable, by_part

FEATURES = (
    "counts of every token (log) since the start of the record and since the start of the stay, last quantile of every "
    "measured code, age and static context"
)
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C
_FOLDS = 3


def features(folder: Path, split: str, asked: Stays) -> sp.csr_array:
    """What is known of each stay by the time of its prediction: float32 (n, 4·V), sparse.

    The whole record up to then is used, not only the part that fits a model's window, so the baseline knows at least
    as much as the model. Columns, V each: log(1 + count) of each token in the record; the same since the anchor of
    the stay; the last Q token after each code, as its number from -4.5 to 4.5 (0: never measured); 1 for each token
    of the static context at the prediction.
    """
    vocabulary = timelines.vocabulary(folder)
    size = len(vocabulary.tokens)
    first_quantile, bins = vocabulary.index[vocabulary.quantile_tokens[0]], vocabulary.bins
    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []

    def add(row: np.ndarray, column: np.ndarray, value: np.ndarray) -> None:
        rows.append(row)
        columns.append(column)
        values.append(value.astype(np.float32))

    def add_counts(row: np.ndarray, column: np.ndarray) -> None:
        cell, count = np.unique(row * (4 * size) + column, return_counts=True)
        add(cell // (4 * size), cell % (4 * size), np.log1p(count))

    for part, chosen, owners in by_part(folder, split, asked):
        begins, lengths = part.offsets[owners], asked.known[chosen]
        stay = np.repeat(chosen, lengths)
        inside = np.arange(len(stay)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        tokens = part.tokens[np.repeat(begins, lengths) + inside].astype(np.int64)
        add_counts(stay, tokens)
        since = inside >= np.repeat(asked.anchors[chosen], lengths)
        add_counts(stay[since], size + tokens[since])
        quantile = tokens - first_quantile
        is_quantile = (quantile >= 0) & (quantile < bins)
        # The value of a code follows it; with several values, only the first.
        at = np.flatnonzero(is_quantile[1:] & ~is_quantile[:-1] & (inside[1:] > 0))[::-1]
        cell, newest = np.unique(stay[at] * size + tokens[at], return_index=True)
        add(cell // size, 2 * size + cell % size, quantile[at + 1][newest] - (bins - 1) / 2)
        context = static_context.contexts(vocabulary, part, owners, asked.times[chosen]).astype(np.int64)
        add(np.repeat(chosen, context.shape[1]), 3 * size + context.ravel(), np.ones(context.size))
    cells = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_array(cells, shape=(len(asked.labels), 4 * size), dtype=np.float32)


class Fitted(NamedTuple):
    model: Pipeline
    strength: float  # scikit-learn's C that cross-validation chose


def fit(x: sp.csr_array, labels: np.ndarray, patients: np.ndarray, seed: int) -> Fitted:
    """Logistic regression on standardised columns, L2, its strength by 3-fold cross-validated log-loss.

    Patients are kept whole in the folds. Columns are scaled, not centred, which would fill the sparse matrix.

    Raises: Unanswerable when fewer than two patients have the outcome, or fewer than two do not.
    """
    classes = [len(np.unique(patients[labels == kind])) for kind in (True, False)]
    if min(classes) < 2:
        raise Unanswerable(
            f"the logistic regression cannot be fitted: {classes[0]} patients of the train split have the outcome, "
            f"{classes[1]} do not; take more patients"
        )
    folds = StratifiedGroupKFold(min(_FOLDS, *classes), shuffle=True, random_state=seed)
    parts = list(folds.split(x, labels, patients))
    losses = [
        np.mean([log_loss(labels[b], _pipeline(c).fit(x[a], labels[a]).predict_proba(x[b])[:, 1]) for a, b in parts])
        for c in STRENGTHS
    ]
    strength = STRENGTHS[int(np.argmin(losses))]
    return Fitted(_pipeline(strength).fit(x, labels), strength)


def _pipeline(strength: float) -> Pipeline:
    # 1e-3: the ranking of patients has long settled when the last digits of the coefficients have not.
    return make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=strength, tol=1e-3, max_iter=500))
