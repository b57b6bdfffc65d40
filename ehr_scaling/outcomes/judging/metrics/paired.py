"""Whether one model answers the same questions better than another."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from ehr_scaling.data import disclosure
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging.metrics import calibration, decision
from ehr_scaling.outcomes.judging.metrics.delong import delong
from ehr_scaling.outcomes.judging.metrics.metrics import bootstrap, one_class, ones_for, ranking, summary, too_few

KINDS = (True, False)  # with the outcome, and without
_FEW = calibration.SMALLEST - 1  # patients


class Answers(NamedTuple):
    """What one model says of n stays, as in its predictions file."""

    subject_ids: np.ndarray  # int64 (n,)
    times: np.ndarray  # int64 µs (n,), of the prediction
    labels: np.ndarray  # bool (n,)
    probabilities: np.ndarray  # float (n,)


def mean(answers: Sequence[Answers]) -> Answers:
    """The mean probability of several models for the same stays, float64, in the order of the first.

    Raises: UserError as `compare` does where the stays are not the same.
    """
    first = answers[0]
    alike = [first, *(_aligned(first, other) for other in answers[1:])]
    return first._replace(probabilities=np.stack([one.probabilities for one in alike]).mean(axis=0, dtype=np.float64))


def compare(
    first: Answers,
    second: Answers,
    *,
    weights: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Second minus first, on the same stays and the same bootstrap samples of patients.

    Args: weights as in `metrics.evaluate`, in the order of `first`.
    Returns: n, positives, patients, draws; auroc, auprc and brier, each first, second, difference, low and high (95 %
      percentile interval of the difference) and p_value, two-sided from the bootstrap, 2·(1 + resamples on the rarer
      side of 0) / (1 + resamples); delong: difference of the AUROCs, error, low, high and p_value in closed form, with
      patients as clusters (DeLong 1988; Obuchowski 1997). Of a difference that no resample varies p_value is 1.
      Where fewer than two patients have the outcome, or lack it, `interval_missing` says so, and there is no interval.
    Raises: UserError when the two are not about the same stays, with the same outcomes, or of one outcome only.
    """
    second = _aligned(first, second)
    weighs = ones_for(weights, len(first.labels))
    order = np.argsort(first.probabilities, kind="stable")  # in the order of a score memory is read faster
    first, second, weighs = Answers(*(x[order] for x in first)), Answers(*(x[order] for x in second)), weighs[order]
    labels, patients = np.asarray(first.labels, bool), first.subject_ids
    if error := one_class(labels):
        raise error
    missing = too_few(labels, patients)
    both = [np.asarray(answers.probabilities, np.float64) for answers in (first, second)]
    ranked = [ranking(labels, p) for p in both]
    squared = np.stack([(p - labels) ** 2 for p in both], axis=1)

    def of(drawn: np.ndarray) -> dict[str, np.ndarray]:
        scores = {}
        for i, one in enumerate(ranked):
            scores[f"auroc{i}"], scores[f"auprc{i}"] = one.areas(drawn[:, one.order])
            scores[f"brier{i}"] = drawn @ squared[:, i] / drawn.sum(axis=1)
        return scores

    point, drawn = bootstrap(of, patients, weighs, 1 if missing else draws, seed)
    result: dict[str, Any] = {
        "n": len(labels),
        "positives": int(labels.sum()),
        "patients": len(np.unique(patients)),
        "draws": draws,
        **({"interval_missing": missing} if missing else {}),
    }
    for name in ("auroc", "auprc", "brier"):
        difference = point[f"{name}1"] - point[f"{name}0"]
        resampled = drawn[f"{name}1"] - drawn[f"{name}0"]
        about = summary(difference, None if missing else resampled)
        result[name] = {
            "first": point[f"{name}0"],
            "second": point[f"{name}1"],
            "difference": difference,
            "low": about["low"],
            "high": about["high"],
            "p_value": None if missing else _p_value(resampled[np.isfinite(resampled)]),
        }
    result["delong"] = _delong(labels, np.stack(both), patients, weighs)
    return result


def net_benefit(
    first: Answers,
    second: Answers,
    thresholds: Sequence[float],
    *,
    weights: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, float | None]]:
    """Net benefit of acting on the second's risks less that of acting on the first's, on the same stays and resamples.

    At a threshold p_t it is, over all stays, the mean of (flagged by the second − flagged by the first) · (1 where the
    outcome came, else −p_t/(1 − p_t)); see `decision.evaluate`.

    Resamples say little of the few whom one of both flags alone, and would tell how few: an interval is at least as
    wide as with ten patients of each such kind, flagged by the one or the other, with the outcome or without.

    Args: as `compare`.
    Returns: of each threshold: threshold, value, low, high.
    Raises: UserError as `compare` does.
    """
    second, labels = _aligned(first, second), np.asarray(first.labels, bool)
    if error := one_class(labels):
        raise error
    patients, weighs = first.subject_ids, ones_for(weights, len(labels))
    missing, total = too_few(labels, patients), weighs.sum()
    odds = np.asarray(thresholds) / (1 - np.asarray(thresholds))
    said = [np.asarray(answers.probabilities, np.float64)[:, None] >= thresholds for answers in (first, second)]
    more = said[1].astype(np.int8) - said[0]  # (n, thresholds)
    gained = more * np.where(labels[:, None], 1.0, -odds)

    def of(drawn: np.ndarray) -> dict[str, np.ndarray]:
        return {str(k): column for k, column in enumerate((drawn @ gained / drawn.sum(axis=1)[:, None]).T)}

    point, drawn = bootstrap(of, patients, weighs, 1 if missing else draws, seed)
    _, owners = np.unique(patients, return_inverse=True)
    differences = []
    for k, threshold in enumerate(thresholds):
        about, variance = summary(point[str(k)], None if missing else drawn[str(k)]), 0.0
        for kind, sign in itertools.product(KINDS, (1, -1)):
            alone = (labels == kind) & (more[:, k] == sign)
            each = np.bincount(owners[alone], weighs[alone])
            each = each[each > 0] if alone.any() else weighs[labels == kind].mean(keepdims=True)
            squares = max((each**2).sum(), _FEW * each.mean() ** 2)
            variance += squares * (1.0 if kind else odds[k]) ** 2
        half = float(ndtri(0.975) * np.sqrt(variance) / total)
        differences.append({"threshold": float(threshold), **decision.reaching(about, -half, half)})
    return differences


def _delong(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    areas, covariance = delong(labels, scores, patients, weights)
    difference = float(areas[1] - areas[0])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not np.isfinite(variance):
        return {"difference": difference, "error": None, "low": None, "high": None, "p_value": None}
    # Two rankings that are the same leave a rounding error, of either sign.
    error = float(np.sqrt(variance)) if variance > 1e-15 else 0.0
    half = float(ndtri(0.975)) * error
    p = float(2 * ndtr(-abs(difference) / error)) if error else 1.0
    return {"difference": difference, "error": error, "low": difference - half, "high": difference + half, "p_value": p}


def _p_value(differences: np.ndarray) -> float | None:
    """Two-sided, by where 0 lies in the bootstrap's distribution (Efron & Tibshirani 1993, §15); never 0."""
    if not len(differences):
        return None
    side = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (1 + side) / (1 + len(differences))))


def _told(n: int) -> str:
    """In a message, of whoever's stays: predictions do not say whether they are of generated patients."""
    return disclosure.words(n, generated=False)


def _aligned(first: Answers, second: Answers) -> Answers:
    """`second` in the order of `first`."""
    if len(first.labels) != len(second.labels):
        raise UserError(
            "the two models do not answer as many stays: a paired comparison needs predictions of the same stays, "
            "score both with the same --config.outcome"
        )
    back = np.arange(len(first.labels))
    if (first.subject_ids != second.subject_ids).any() or (first.times != second.times).any():
        orders = [np.lexsort((answers.times, answers.subject_ids)) for answers in (first, second)]
        keys = [(a.subject_ids[order], a.times[order]) for a, order in zip((first, second), orders, strict=True)]
        if (keys[0][0] != keys[1][0]).any() or (keys[0][1] != keys[1][1]).any():
            raise UserError(
                "the two models answer different stays: a paired comparison needs predictions of the same subjects "
                "and times, score both with the same --config.outcome"
            )
        if twice := int(((np.diff(keys[0][0]) == 0) & (np.diff(keys[0][1]) == 0)).sum()):
            raise UserError(
                f"{_told(twice)} predictions have the subject and time of another, and the two models have their rows "
                "in different orders: put them in the same"
            )
        back[orders[0]] = orders[1]
    if differ := int((first.labels != second.labels[back]).sum()):
        raise UserError(
            f"{_told(differ)} of {_told(len(back))} stays have another label than with the other model: a paired "
            "comparison needs the same outcome, score both on the same prepared task"
        )
    return Answers(*(np.asarray(field)[back] for field in second))
