"""Many questions judged along the same futures, after they were drawn: how many copies have each code by each horizon.

The sampler judges outcomes as it draws, each with six numbers a copy and two columns of a product over the vocabulary:
right for a few, which may then end a future early and weigh what was not drawn. For hundreds of codes the tokens say it
all, and are smaller: what is counted here is decided as `sampler.slots` decides it, to the last copy.

Shapes: n stays, C copies, G tokens of a future, Q codes, H horizons, V vocabulary.
"""

from typing import NamedTuple

import numpy as np

from ehr_scaling.outcomes.judging.estimators import Estimate
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, Clock

_COPIES_AT_ONCE = 4_096
_WEAKEST = 1e-3  # correlation of a stay's copies by which the shares of stays are told apart at least


class Counts(NamedTuple):
    """Of the C copies of each stay, uint16 (n, Q, H) both; the others say nothing of the question."""

    positive: np.ndarray  # in which the code comes within the horizon
    negative: np.ndarray  # in which it does not


def count(
    tokens: np.ndarray, gaps: np.ndarray, clock: Clock, sets: np.ndarray, ends: np.ndarray, horizons: np.ndarray
) -> Counts:
    """Count the copies in which each code comes by each horizon, and those in which it does not.

    A copy says that a code comes where one of its tokens does, before time passes the horizon and before a token that
    ends the watch; that it does not where the horizon is passed first, or a token that means so comes. Else, where such
    a token leaves it open or the tokens were used up, it says nothing.

    Args:
      tokens, int (n, C, G), with 0 (PAD) behind those drawn; gaps and clock, as in `simulate.SimulationRequest`; tokens
      must have been drawn until a token of `ends` came or the longest horizon was passed, if not for G tokens.
      sets, bool (Q, V); ends, int8 (V,), NEGATIVE, OPEN or 0; as of `sheets.Resolved`. PAD is in none.
      horizons, float32 (H,), hours after the prediction.
    """
    (n, copies, _), shape = tokens.shape, (len(tokens), len(sets), len(horizons))
    out = Counts(np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))
    layers, together = _layers(sets), max(1, _COPIES_AT_ONCE // copies)
    for begin in range(0, n, together):
        some = slice(begin, begin + together)
        flat = tokens[some].reshape(-1, tokens.shape[2])
        yes, no = _judge(flat, np.repeat(gaps[some], copies), clock, layers, len(sets), ends, horizons)
        for target, judged in zip(out, (yes, no), strict=True):
            target[some] = judged.reshape(-1, copies, *shape[1:]).sum(axis=1)
    return out


def _layers(sets: np.ndarray) -> np.ndarray:
    """Codes that each token is of, int32 (L, V): the first in one layer, others in more; Q: of no more."""
    counts = sets.sum(axis=0)
    layers = np.full((max(1, int(counts.max())), sets.shape[1]), len(sets), np.int32)
    codes, tokens = np.nonzero(sets)
    order = np.argsort(tokens, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    layers[place, tokens[order]] = codes[order]
    return layers


def _judge(
    tokens: np.ndarray,
    gaps: np.ndarray,
    clock: Clock,
    layers: np.ndarray,
    codes: int,
    ends: np.ndarray,
    horizons: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Of m copies, tokens (m, G): whether each says yes, and no, to each question, bool (m, Q, H) both."""
    m, most = tokens.shape
    rows = np.arange(m)
    steps = clock.hours[tokens].astype(np.float32)
    # As the sampler adds up: in single precision, and what is drawn first comes after the prediction
    steps[:, 0] = np.maximum(steps[:, 0] - gaps.astype(np.float32), 0)
    hours = np.add.accumulate(steps, axis=1, dtype=np.float32)
    first = np.full((m, codes + 1), most, np.int32)
    for layer in layers:
        code_of = layer[tokens]
        for t in range(most - 1, -1, -1):  # the earliest is written last
            at = code_of[:, t]
            first[rows, at] = np.minimum(first[rows, at], t)
    first = first[:, :codes, None]
    kinds = ends[tokens]
    end = np.where((kinds > 0).any(axis=1), (kinds > 0).argmax(axis=1), most)
    says_no = np.append(kinds, np.zeros((m, 1), kinds.dtype), axis=1)[rows, end] == NEGATIVE
    beyond = hours[:, :, None] > horizons
    late = np.where(beyond.any(axis=1), beyond.argmax(axis=1), most)[:, None]
    # What leads beyond the horizon is too late, whatever it is; a code's token that also ends the watch is the code's
    end, says_no = end[:, None, None], says_no[:, None, None]
    yes = (first < late) & (first <= end) & (first < most)
    by_horizon = (late < most) & (late <= np.minimum(first, end))
    by_token = says_no & (end < late) & (end < first)
    return yes, by_horizon | by_token


def shares(positive: np.ndarray, negative: np.ndarray) -> Estimate:
    """The probability of a question for each stay, by copies that say yes, and no: int (n,) both.

    Few copies have few different shares, and one that none of them has would be impossible: so the share of a stay is
    drawn towards that of all, the more the less the stays differ. They are taken for draws of a beta distribution, and
    the answer is its mean given the stay's copies, (k + s·π) / (m + s), with π the share of all copies, and s from how
    far the shares of stays lie apart (moments of the beta-binomial: Kleinman 1973, JASA 68:46). Where each stay has as
    many copies that say something, their order is that of the counts. Its standard error is the standard deviation of
    that beta distribution: never 0, since copies that agree do not make a probability certain.

    Returns: probability and error, float64 (n,), strictly within 0 and 1 where any copy says something; a stay of which
      no copy does has π; one half where no copy says anything at all.
    """
    k, m = positive.astype(np.float64), positive.astype(np.float64) + negative
    total = m.sum()
    mean = (k.sum() + 0.5) / (total + 1)
    known = m > 0
    observed, stays = k.sum() / max(total, 1), known.sum()
    free = total - (m**2).sum() / max(total, 1) - (stays - 1)  # 0 where each stay has one copy
    correlation = 0.0
    if 0 < observed < 1 and free > 0:
        apart = (m[known] * (k[known] / m[known] - observed) ** 2).sum() / (observed * (1 - observed))
        correlation = (apart - (stays - 1)) / free
    strength = 1 / np.clip(correlation, _WEAKEST, 1 - _WEAKEST) - 1
    probability = (k + strength * mean) / (m + strength)
    return Estimate(probability, np.sqrt(probability * (1 - probability) / (m + strength + 1)))
