"""What standard methods make of the same histories: a zero-shot number never stands alone.

Each kind of outcome has a method that knows no features at all, a linear one, and (but for classes) boosted trees. The
others read tokens, as models do, and statistics of the measured values themselves, as an analyst would.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.outcomes.asking.stays import Stays, by_part
from ehr_scaling.outcomes.asking.tasks.tasks import Unanswerable

BLOCKS = ("counts", "counts since the anchor", "last values", "context", "recency")  # of V columns each
FEATURES = (
    "counts of every token (log) since the start of the record and since the start of the stay, last quantile of every "
    "measured code, age and static context, how recently every token came, and of the values of the commonest codes "
    "count, mean, minimum and maximum in the record, in the last 24 and 6 hours, first, last, deviation, slope, and "
    "hours since the last"
)
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C
PENALTIES = (1e2, 1e3, 1e4, 1e5, 1e6)  # scikit-learn's alpha of the ridge
COLUMNS, SEEN = 1000, 20  # most columns of the methods that need dense ones, and train stays a column must have
# Of which the stays held out choose one, and the number of trees
TREES = (
    {"learning_rate": 0.1, "max_leaf_nodes": 15, "min_samples_leaf": 20, "l2_regularization": 1.0, "max_features": 1.0},
    {"learning_rate": 0.05, "max_leaf_nodes": 8, "min_samples_leaf": 40, "l2_regularization": 5.0, "max_features": 0.2},
)  # fmt: skip
BINS, MOST_TREES, MORE_TREES, CLASSES = 64, 400, 100, 30
TUNED_ON = 10_000  # stays at most on each side, fitted and held out, by which trees are chosen; then all are fitted
_FOLDS, _AT_ONCE = 3, 10_000  # rows made dense at a time


class Features(NamedTuple):
    """What is known of n stays."""

    tokens: sp.csr_array  # float32 (n, 5·V), see `features`
    values: np.ndarray  # float32 (n, F), NaN for none, see `summaries.summaries`

    def take(self, rows: Any) -> "Features":
        return Features(self.tokens[rows], self.values[rows])

    @property
    def stays(self) -> int:
        return self.tokens.shape[0]


def features(folder: Path, split: str, stays: Stays) -> sp.csr_array:
    """What is known of each stay by the time of its prediction: float32 (n, 5·V), sparse.

    The whole record up to then is used, not only the part that fits a model's window, so the baseline knows at least
    as much as the model. Columns, V each: log(1 + count) of each token in the record; the same since the anchor of
    the stay; the last Q token after each code, as its number from -4.5 to 4.5 (0: never measured); 1 for each token
    of the static context at the prediction; 1/(1 + days since it came last) for each token (0: never). A value fused
    with its code is read as code and value, so that the baselines of both tokenizations know the same.
    """
    vocabulary = timelines.vocabulary(folder)
    size = len(vocabulary.tokens)
    width = len(BLOCKS) * size
    first_quantile, bins = vocabulary.index[vocabulary.quantile_tokens[0]], vocabulary.bins
    parted = np.arange(size)  # a code that never stands alone has the column of its first bin
    value = np.full(size, -1)
    for token, (code, number) in vocabulary.fused.items():
        parted[token], value[token] = vocabulary.index.get(code, token - number), number
    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []

    def add(row: np.ndarray, column: np.ndarray, value: np.ndarray) -> None:
        rows.append(row)
        columns.append(column)
        values.append(value.astype(np.float32))

    def add_counts(row: np.ndarray, column: np.ndarray) -> None:
        cell, count = np.unique(row * width + column, return_counts=True)
        add(cell // width, cell % width, np.log1p(count))

    for part, chosen, owners in by_part(folder, split, stays):
        begins, lengths = part.offsets[owners], stays.known[chosen]
        stay = np.repeat(chosen, lengths)
        inside = np.arange(len(stay)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        whole = part.tokens[np.repeat(begins, lengths) + inside].astype(np.int64)
        since = inside >= np.repeat(stays.anchors[chosen], lengths)
        times = part.times[np.repeat(begins, lengths) + inside]
        at = np.repeat(np.arange(len(whole)), 1 + (value[whole] >= 0))
        stay, since, times = stay[at], since[at], times[at]
        is_value = np.append(False, at[1:] == at[:-1])
        tokens = np.where(is_value, first_quantile + value[whole[at]], parted[whole[at]])
        add_counts(stay, tokens)
        add_counts(stay[since], size + tokens[since])
        quantile = tokens - first_quantile
        is_quantile = (quantile >= 0) & (quantile < bins)
        # The value of a code follows it; with several values, only the first.
        at = np.flatnonzero(is_quantile[1:] & ~is_quantile[:-1] & (stay[1:] == stay[:-1]))[::-1]
        cell, newest = np.unique(stay[at] * size + tokens[at], return_index=True)
        add(cell // size, 2 * size + cell % size, quantile[at + 1][newest] - (bins - 1) / 2)
        context = static_context.contexts(vocabulary, part, owners, stays.times[chosen]).astype(np.int64)
        add(np.repeat(chosen, context.shape[1]), 3 * size + context.ravel(), np.ones(context.size))
        cell, newest = np.unique((stay * size + tokens)[::-1], return_index=True)
        days = np.maximum(stays.times[cell // size] - times[::-1][newest], 0) / (24 * HOUR)
        add(cell // size, 4 * size + cell % size, 1 / (1 + days))
    cells = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_array(cells, shape=(len(stays.labels), width), dtype=np.float32)


class Fitted(NamedTuple):
    """A fitted method."""

    # float64 (n,), the probability of the outcome or the predicted number, or (n, classes)
    predict: Callable[[Features], np.ndarray]
    settings: dict[str, Any]  # what was chosen, and from what, for the record


def fit_all(
    x: Features, labels: np.ndarray, patients: np.ndarray, seed: int, classes: int | None = None
) -> dict[str, Fitted]:
    """Every method for the kind of labels, by name. What is chosen is chosen by the loss on patients held out.

    - bool: prevalence, logistic regression, gradient-boosted trees; they predict the probability of the outcome.
    - float: mean, ridge regression, gradient-boosted trees; they predict the number, within the range of `labels`.
    - int, 0 to classes − 1: prevalence, multinomial logistic regression; they predict the probability of each class.

    Args: x, of n train stays; labels and patients, (n,); classes, how many there are.
    Raises: Unanswerable when fewer than two patients have the outcome, or fewer than two do not, or fewer than two are
      there.
    """
    if labels.dtype == bool:
        return {
            "prevalence": _constant(labels.mean()),
            "logistic regression": fit(x, labels, patients, seed),
            "gradient-boosted trees": _trees(x, labels, _folds(x, labels, patients, seed), seed),
        }
    if np.issubdtype(labels.dtype, np.floating):
        parts = _folds(x, labels, patients, seed)
        return {
            "mean": _constant(labels.mean(dtype=np.float64)),
            "ridge regression": _ridge(x, labels, parts),
            "gradient-boosted trees": _trees(x, labels, parts, seed),
        }
    counts = np.bincount(labels, minlength=classes or int(labels.max()) + 1)
    return {
        "prevalence": _constant(_possible(counts / counts.sum(), counts)),
        "multinomial logistic regression": _multinomial(x, labels, counts, patients, seed),
    }


def fit(x: Features, labels: np.ndarray, patients: np.ndarray, seed: int) -> Fitted:
    """Logistic regression on standardised columns, L2, its strength by 3-fold cross-validated log-loss.

    Columns are scaled, not centred, which would fill the sparse matrix. Raises: as `fit_all`.
    """
    filled, parts = _filling(x.values), _folds(x, labels, patients, seed)
    strength, model = _best(_whole(filled(x)), labels, parts, STRENGTHS, _logistic, _log_loss)
    predict = lambda rows: model.predict_proba(_whole(filled(rows)))[:, 1].astype(np.float64)  # noqa: E731
    return Fitted(predict, {"strength": strength, "strengths": list(STRENGTHS), "columns": _width(x)})


def _width(x: Features) -> int:
    """Columns that are not all zero or missing."""
    return len(np.unique(x.tokens.indices)) + int(np.isfinite(x.values).any(axis=0).sum())


def _filling(train: np.ndarray) -> Callable[[Features], Features]:
    """Values for linear methods: between the percentiles 1 and 99 of `train`, (m, F), less its median, which stands for
    a missing one. Those that nobody has are left out."""
    some = np.isfinite(train).any(axis=0)
    low, middle, high = np.nanpercentile(train[:, some], (1, 50, 99), axis=0) if some.any() else np.zeros((3, 0))

    def filled(x: Features) -> Features:
        values = np.nan_to_num(np.clip(x.values[:, some], low, high) - middle)
        return x._replace(values=values.astype(np.float32))

    return filled


def _whole(x: Features) -> sp.csr_array:
    return sp.csr_array(sp.hstack([x.tokens, sp.csr_array(x.values)], format="csr"))


def _log_loss(model: Any, x: Any, y: np.ndarray) -> float:
    return float(log_loss(y, model.predict_proba(x)[:, 1], labels=[False, True]))


def _folds(x: Features, labels: np.ndarray, patients: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to judge by, patients whole."""
    if labels.dtype != bool:
        if (count := len(np.unique(patients))) < 2:
            raise Unanswerable(
                "the baselines cannot be fitted: fewer than two patients of the train split can be asked; take more"
            )
        return list(GroupKFold(min(_FOLDS, count)).split(labels, labels, patients))
    kinds = [len(np.unique(patients[labels == kind])) for kind in (True, False)]
    if min(kinds) < 2:  # the counts of few patients are not told
        lacking = " and ".join(word for word, count in zip(("have", "lack"), kinds, strict=True) if count < 2)
        raise Unanswerable(
            f"the baselines cannot be fitted: fewer than two patients of the train split {lacking} the outcome; take "
            "more patients, or more of their stays (--config.outcome.train_samples)"
        )
    folds = StratifiedGroupKFold(min(_FOLDS, *kinds), shuffle=True, random_state=seed)
    return list(folds.split(labels, labels, patients))


def _best(
    x: Any, y: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]], choices: tuple[float, ...], make: Any, loss: Any
) -> tuple[float, Any]:
    """The choice of least mean loss over the folds, and the model made with it, fitted to all rows."""
    losses = [np.mean([loss(make(c).fit(x[a], y[a]), x[b], y[b]) for a, b in parts]) for c in choices]
    best = choices[int(np.argmin(losses))]
    return best, make(best).fit(x, y)


def _logistic(strength: float) -> Pipeline:
    # 1e-3: the ranking of patients has long settled when the last digits of the coefficients have not.
    return make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=strength, tol=1e-3, max_iter=500))


def _constant(value: Any) -> Fitted:
    value = np.asarray(value, np.float64)
    return Fitted(lambda rows: np.tile(value, (rows.stays, *(1,) * value.ndim)), {})


def _ridge(x: Features, y: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]]) -> Fitted:
    filled = _filling(x.values)
    make = lambda alpha: make_pipeline(StandardScaler(with_mean=False), Ridge(alpha, tol=1e-3))  # noqa: E731
    loss = lambda model, rows, true: mean_squared_error(true, model.predict(rows))  # noqa: E731
    penalty, model = _best(_whole(filled(x)), y, parts, PENALTIES, make, loss)
    low, high = float(y.min()), float(y.max())
    return Fitted(
        lambda rows: np.clip(model.predict(_whole(filled(rows))).astype(np.float64), low, high),
        {"penalty": penalty, "penalties": list(PENALTIES), "columns": _width(x)},
    )


def _columns(x: sp.csr_array) -> np.ndarray:
    """The columns that most stays have, COLUMNS at most, those of SEEN stays or a tenth of all: int64, ascending."""
    seen = np.bincount(x.indices, minlength=x.shape[1])
    chosen = np.argsort(-seen, kind="stable")[:COLUMNS]
    return np.sort(chosen[seen[chosen] >= max(1, min(SEEN, x.shape[0] // 10))])


def _dense(x: Features, columns: np.ndarray, use: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`use` of float32 rows, some at a time: the whole of a test split need not fit in memory. Tokens of these columns,
    then values."""
    parts = []
    for begin in range(0, max(x.stays, 1), _AT_ONCE):
        some = x.take(slice(begin, begin + _AT_ONCE))
        parts.append(use(np.hstack([some.tokens[:, columns].toarray(), some.values])))
    return np.concatenate(parts)


def _trees(x: Features, y: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]], seed: int) -> Fitted:
    """Boosted trees (on histograms, as LightGBM's) on the commonest tokens and all values.

    One of TREES and the number of trees are those of least loss on the first of `parts`, where trees are added until
    MORE_TREES of them were no better. scikit-learn's own early stopping would have stays of one patient on both sides.
    """
    columns, binary = _columns(x.tokens), y.dtype == bool
    kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
    rng = np.random.default_rng(seed)
    a, b = (rng.permutation(rows)[:TUNED_ON] for rows in parts[0])
    some = np.isfinite(x.values[a]).any(axis=0)  # scikit-learn has no bins for a column that is missing throughout
    known = lambda rows: rows._replace(values=rows.values[:, some])  # noqa: E731
    dense = _dense(known(x), columns, lambda rows: rows)
    always = {"early_stopping": False, "random_state": seed, "max_bins": BINS}

    def losses_of(settings: dict[str, Any]) -> list[float]:
        model, losses = kind(warm_start=True, **always, **settings), [np.inf]
        while len(losses) <= MOST_TREES and len(losses) - int(np.argmin(losses)) <= MORE_TREES:
            model.set_params(max_iter=min(len(losses) - 1 + MORE_TREES, MOST_TREES)).fit(dense[a], y[a])
            if binary:
                staged = (log_loss(y[b], p[:, 1], labels=[False, True]) for p in model.staged_predict_proba(dense[b]))
            else:
                staged = (mean_squared_error(y[b], p) for p in model.staged_predict(dense[b]))
            losses = [np.inf, *staged]
        return losses

    tried = [losses_of(settings) for settings in TREES]
    best = int(np.argmin([min(losses) for losses in tried]))
    trees = int(np.argmin(tried[best]))
    model = kind(max_iter=trees, **always, **TREES[best]).fit(dense, y)
    predict = (lambda rows: model.predict_proba(rows)[:, 1]) if binary else model.predict
    low, high = (0.0, 1.0) if binary else (float(y.min()), float(y.max()))
    about = {"trees": trees, "most_trees": MOST_TREES, "columns": dense.shape[1], "bins": BINS, **TREES[best]}
    return Fitted(
        lambda rows: np.clip(_dense(known(rows), columns, predict).astype(np.float64), low, high),
        {**about, "tried": [dict(settings) for settings in TREES], "tried_on_at_most": TUNED_ON},
    )


def _possible(p: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Probabilities of classes with none impossible, as if each had been seen once more (Laplace)."""
    return (counts.sum() * p + 1) / (counts.sum() + len(counts))


def _multinomial(x: Features, y: np.ndarray, counts: np.ndarray, patients: np.ndarray, seed: int) -> Fitted:
    """Logistic regression of the CLASSES commonest classes, and one for all others, which share its probability as
    they share the train split; on the commonest columns, standardised."""
    common = np.sort(np.argsort(-counts, kind="stable")[:CLASSES])
    common = common[counts[common] > 0]
    place = np.full(len(counts), len(common))
    place[common] = np.arange(len(common))
    rest = np.where(place == len(common), counts, 0)
    columns, pooled, filled = _columns(x.tokens), place[y], _filling(x.values)
    dense = _dense(filled(x), columns, lambda rows: rows)
    parts = [(a, b) for a, b in _folds(x, y, patients, seed) if len(np.unique(pooled[a])) > 1]
    if not parts:
        raise Unanswerable(
            f"the baselines cannot be fitted: stays of the train split have {len(np.unique(y))} classes, of too few "
            "patients; take more patients"
        )

    def probabilities(model: Any, rows: np.ndarray) -> np.ndarray:
        """(n, classes + 1), 0 for what the model was not shown."""
        out = np.zeros((len(rows), len(common) + 1))
        out[:, model.classes_] = model.predict_proba(rows)
        return out / out.sum(axis=1, keepdims=True)  # they are float32

    def loss(model: Any, rows: np.ndarray, true: np.ndarray) -> float:
        p_true = probabilities(model, rows)[np.arange(len(true)), true]
        return float(-np.log(np.maximum(p_true, 1e-6)).mean())

    strength, model = _best(dense, pooled, parts, STRENGTHS[1:4], _logistic, loss)

    def predict(rows: np.ndarray) -> np.ndarray:
        p = probabilities(model, rows)
        out = np.zeros((len(rows), len(counts)))
        out[:, common] = p[:, :-1]
        return _possible(out + p[:, -1:] * rest / max(rest.sum(), 1), counts)

    settings = {"strength": strength, "strengths": list(STRENGTHS[1:4]), "columns": dense.shape[1]}
    return Fitted(
        lambda rows: _dense(filled(rows), columns, predict), {**settings, "classes_fitted": len(np.unique(pooled))}
    )
