"""At which threshold acting on a risk helps, and what it costs. Rows are in ascending order of the prediction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.outcomes.judging.metrics import calibration
from ehr_scaling.outcomes.judging.metrics.calibration import SMALLEST
from ehr_scaling.outcomes.judging.metrics.cuts import may_be_told
from ehr_scaling.outcomes.judging.metrics.metrics import Statistics, bootstrap, one_class, ones_for, summary, too_few

# Threshold probabilities of a decision curve: where outcomes are rare, low ones are asked for
THRESHOLDS = (
    *(0.001, 0.002, 0.005),
    *(k / 100 for k in range(1, 51)),
    *(k / 100 for k in range(55, 96, 5)),
)
RISKS = (0.05, 0.1, 0.2, 0.3)  # at or above which a stay alerts, of the table
BUDGETS = (0.05, 0.1, 0.2)  # share of stays that may alert
HELPS, HARMS, SAME, OPEN = "helps", "harms", "the same", "not told"  # against the better of treating all and none
SUPPRESSED = f"suppressed: it would tell of a group under {SMALLEST} patients"
TIED = "more stays than that share the highest risk"
# A count that is 0 stays 0 in every resample, and is not for that known to be. With a mean of this many it would still
# be 0 one time in forty (Poisson).
_UNSEEN = -np.log(0.025)
_SHARES = ("alerts", "sensitivity", "specificity", "ppv", "npv")
_OF_CURVE = ("net_benefit", "treat_all", "less_all")
Summary = dict[str, float | None]  # value, low, high


class Cut(NamedTuple):
    """Stays from `row` on are flagged: those whose prediction is `threshold` or more; None where nobody's is."""

    by: str  # "risk" or "budget"
    target: float  # the risk to flag from, or the share of stays to flag at most; `asked` in JSON
    threshold: float | None
    row: int


def evaluate(
    labels: np.ndarray,
    predicted: np.ndarray,
    patients: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    beside: tuple[np.ndarray, dict[str, Any]] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """What acting on risks at a threshold gains and costs; intervals are those of `metrics.evaluate`, same resamples.

    The net benefit of flagging all whose risk is p_t or more is TP/n − FP/n · p_t/(1 − p_t) (Vickers & Elkin 2006):
    the share of stays flagged rightly, less that flagged wrongly at the rate at which somebody who acts from p_t on
    holds the one against the other. That of treating nobody is 0, that of treating all prevalence − (1 − prevalence) ·
    p_t/(1 − p_t). `difference` is the net benefit less the better of both, the smaller of two gains; the ends of its
    interval are the smaller of the ends of both, since resamples of the smaller of two are no guide where these are
    near each other. Intervals are of one threshold each, not of a whole range of them.

    Where none of some kind of stay is on a side of the threshold, no resample has one: there 3.7 patients of that kind
    more, of whom a sample of this size shows none one time in forty, widen the interval, and a share of 0 or 1 has
    Wilson's.

    What is told of a score is told of no small group: between two neighbouring thresholds, below the first and above
    the last, are no patients with the outcome or SMALLEST, and so of those without. Thresholds of the table come first,
    then those of THRESHOLDS from coarse to fine; one that would break this is left out.

    Args: as `metrics.evaluate`; predicted, the probabilities; beside, others that rank the stays alike, but
      for ties, and what was told of those: no small group lies between a threshold of the one and one of the other.
    Returns: prevalence; curve, of each threshold told: threshold, net_benefit, treat_all, difference, and word: HELPS
      or HARMS where the interval of the difference excludes 0, SAME where it is 0 whoever is drawn, OPEN where the data
      cannot tell; thresholds_suppressed, how many of THRESHOLDS are left out; table: by (risk or budget), asked, and
      threshold, alerts (share of stays flagged), sensitivity, specificity, ppv, npv, number_needed (to evaluate for one
      with the outcome: 1/PPV), or why not, `suppressed` or `missing`. By budget the threshold is the lowest at or above
      which at most that share of stays is, those of one risk together; in resamples it is held. Numbers are value, low,
      high. All but sensitivity and specificity are of the cohort where weights lead back to it. `interval_missing` as
      there.
    Raises: UserError when all stays have the outcome, or none; ValueError when a prediction is not within 0 and 1.
    """
    labels, predicted = np.asarray(labels, bool), np.asarray(predicted, np.float64)
    if error := one_class(labels):
        raise error
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise ValueError("a prediction is not within 0 and 1")
    order = np.argsort(predicted, kind="stable")
    if beside:  # stays that tie here may be told apart there
        order = np.lexsort((beside[0], predicted))
    weighs = ones_for(weights, len(labels))[order]
    labels, predicted, patients = labels[order], predicted[order], np.asarray(patients)[order]
    table, curve = _table_cuts(predicted, weighs), _risk_cuts(predicted, THRESHOLDS)
    before = _rows_told(*beside) if beside else []
    rows = may_be_told(labels, patients, [cut.row for cut in (*table, *_coarse_to_fine(curve))], before)
    suppressed = sum(cut.row not in rows for cut in curve)
    told_table = [cut for cut in table if cut.row in rows]
    told_curve = _with_budgets([cut for cut in curve if cut.row in rows], told_table)
    missing = too_few(labels, patients)
    point, drawn = bootstrap(
        _statistics(labels, told_table, told_curve), patients, weighs, 1 if missing else draws, seed
    )
    numbers = {name: summary(value, None if missing else drawn[name]) for name, value in point.items()}
    ranked = _RankedStays(labels, patients, weighs)
    return {
        "prevalence": numbers["prevalence"],
        "curve": [_of_curve(cut, numbers, ranked) for cut in told_curve],
        "thresholds_suppressed": suppressed,
        "table": [_of_table(cut, numbers, ranked) if cut.row in rows else _untold(cut, SUPPRESSED) for cut in table],
        **({"interval_missing": missing} if missing else {}),
    }


def calibration_curve(
    labels: np.ndarray,
    predicted: np.ndarray,
    patients: np.ndarray,
    decided: dict[str, Any],
    *,
    weights: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """`calibration.curve` with bins that end at thresholds told of the same stays, and so tell nothing beside them.

    Args: as `evaluate`; decided, what that returned of these predictions.
    """
    order = np.argsort(predicted, kind="stable")
    weighs, cuts = ones_for(weights, len(labels))[order], _rows_told(predicted, decided)
    return calibration.curve(labels[order], predicted[order], patients[order], weighs, cuts)


def _risk_cuts(predicted: np.ndarray, thresholds: Sequence[float]) -> list[Cut]:
    return [Cut("risk", t, t, int(np.searchsorted(predicted, t))) for t in thresholds]


def _table_cuts(predicted: np.ndarray, weights: np.ndarray) -> list[Cut]:
    n, starts = len(predicted), np.flatnonzero(np.r_[True, predicted[1:] > predicted[:-1]])
    flagged = np.cumsum(weights[::-1])[::-1][starts]  # weight from each different prediction on
    cuts = _risk_cuts(predicted, RISKS)
    for budget in BUDGETS:
        fits = starts[flagged <= budget * flagged[0] * (1 + 1e-9)]
        row = int(fits[0]) if len(fits) else n
        cuts.append(Cut("budget", budget, float(predicted[row]) if row < n else None, row))
    return cuts


def _with_budgets(curve: list[Cut], table: list[Cut]) -> list[Cut]:
    """The thresholds of budgets are points of the curve too: they are told, and may lie where no other can be."""
    thresholds = {cut.threshold: cut.row for cut in table if cut.threshold is not None and 0 < cut.threshold < 1}
    thresholds |= {cut.target: cut.row for cut in curve}
    return [Cut("risk", t, t, row) for t, row in sorted(thresholds.items())]


def _coarse_to_fine(cuts: list[Cut]) -> list[Cut]:
    """Every eighth, fourth, second and each: where not all can be told, those that are lie apart."""
    return [cut for step in (8, 4, 2, 1) for cut in cuts[::step]]


def _rows_told(predicted: np.ndarray, decision: dict[str, Any]) -> list[int]:
    """The rows at which thresholds of a decision cut the stays, in ascending order of predictions that rank alike."""
    told = [entry.get("threshold") for entry in (*decision["curve"], *decision["table"])]
    return [int((predicted < threshold).sum()) for threshold in told if threshold is not None]


def _statistics(labels: np.ndarray, table: list[Cut], curve: list[Cut]) -> Statistics:
    rows = np.array([cut.row for cut in (*table, *curve)], np.int64)
    edges = np.unique(np.r_[0, rows[rows < len(labels)]])
    at = np.searchsorted(edges, rows)  # len(edges): nobody is flagged
    odds = np.array([cut.target / (1 - cut.target) for cut in curve])

    def flagged(weights: np.ndarray) -> np.ndarray:
        """Weight from each edge on: (d, edges + 1), of which the first is all, and the last nothing."""
        sums = np.add.reduceat(weights, edges, axis=1)[:, ::-1].cumsum(axis=1)[:, ::-1]
        return np.concatenate([sums, np.zeros((len(sums), 1))], axis=1)

    def of(weights: np.ndarray) -> dict[str, np.ndarray]:
        right, wrong = flagged(weights * labels), flagged(weights * ~labels)
        positives, negatives = right[:, :1], wrong[:, :1]
        total = positives + negatives
        true, false = right[:, at], wrong[:, at]
        k = len(table)
        with np.errstate(invalid="ignore", divide="ignore"):
            alerts = true[:, :k] + false[:, :k]
            shares = (
                alerts / total,
                true[:, :k] / positives,
                (negatives - false[:, :k]) / negatives,
                true[:, :k] / alerts,
                (negatives - false[:, :k]) / (total - alerts),
            )
        net = true[:, k:] / total - false[:, k:] / total * odds
        treat_all = positives / total - negatives / total * odds
        lines = (net, treat_all, net - treat_all)
        out = {"prevalence": (positives / total)[:, 0]}
        for cuts, names, columns in ((table, _SHARES, shares), (curve, _OF_CURVE, lines)):
            for name, values in zip(names, columns, strict=True):
                out |= {_name(cut, name): values[:, i] for i, cut in enumerate(cuts)}
        return out

    return of


def _name(cut: Cut, statistic: str) -> str:
    return f"{statistic} {cut.by} {cut.target}"


class _RankedStays(NamedTuple):
    """Labels, patients and weights of the stays, in ascending order of the prediction."""

    labels: np.ndarray
    patients: np.ndarray
    weights: np.ndarray

    def unseen(self, rows: slice, kind: bool) -> float:
        """Share of all weight that stays of a kind could have among some, although none of them is of it; else 0."""
        of_kind = self.labels == kind
        others = ~of_kind[rows]
        if not others.any() or not others.all():
            return 0.0
        each = self.weights[of_kind].sum() / len(np.unique(self.patients[of_kind]))
        return float(_UNSEEN * each / self.weights.sum())

    def wilson(self, share: float, rows: np.ndarray) -> tuple[float, float]:
        """Of a share of some stays, as if each of their patients had one."""
        weights = self.weights[rows]
        count = min(weights.sum() ** 2 / (weights**2).sum(), len(np.unique(self.patients[rows])))
        return calibration.wilson(share, count)


def _of_curve(cut: Cut, numbers: dict[str, Summary], ranked: _RankedStays) -> dict[str, Any]:
    net, treat_all, less_all = (numbers[_name(cut, name)] for name in _OF_CURVE)
    odds, below, above = cut.target / (1 - cut.target), slice(cut.row), slice(cut.row, None)
    # Against treating none those who are flagged count, against treating all the others.
    net = reaching(net, -odds * ranked.unseen(above, False), ranked.unseen(above, True))
    less_all = reaching(less_all, -ranked.unseen(below, True), odds * ranked.unseen(below, False))
    difference = {name: _smaller(net[name], less_all[name]) for name in net}
    parts = {"net_benefit": net, "treat_all": treat_all, "difference": difference}
    return {"threshold": cut.target, **parts, "word": _word(**difference)}


def _smaller(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else min(one, other)


def reaching(about: Summary, down: float, up: float) -> Summary:
    """With an interval that reaches as far from the value as told, where that is farther."""
    value = about["value"]
    return _widened(about, value + down, value + up) if value is not None and (down or up) else about


def _widened(about: Summary, low: float, high: float) -> Summary:
    if about["low"] is None or about["high"] is None:
        return about
    return {**about, "low": float(min(about["low"], low)), "high": float(max(about["high"], high))}


def _word(value: float | None, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return OPEN
    if low == high == 0:
        return SAME
    return HELPS if low > 0 else HARMS if high < 0 else OPEN


def _of_table(cut: Cut, numbers: dict[str, Summary], ranked: _RankedStays) -> dict[str, Any]:
    if cut.threshold is None:
        return _untold(cut, TIED, "missing")
    every = np.arange(len(ranked.labels))
    of = (every, *map(np.flatnonzero, (ranked.labels, ~ranked.labels)), every[cut.row :], every[: cut.row])
    parts = {}
    for name, rows in zip(_SHARES, of, strict=True):
        parts[name] = about = numbers[_name(cut, name)]
        if about["value"] in (0.0, 1.0) and about["low"] is not None:
            parts[name] = _widened(about, *ranked.wilson(about["value"], rows))
    ends = (parts["ppv"][end] for end in ("value", "high", "low"))
    needed = {name: 1 / share if share else None for name, share in zip(("value", "low", "high"), ends, strict=True)}
    return {"by": cut.by, "asked": cut.target, "threshold": cut.threshold, **parts, "number_needed": needed}


def _untold(cut: Cut, why: str, key: str = "suppressed") -> dict[str, Any]:
    return {"by": cut.by, "asked": cut.target, key: why}
