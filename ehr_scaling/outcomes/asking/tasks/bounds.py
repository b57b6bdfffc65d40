"""Thresholds on values that a vocabulary tells in bins: how much of each bin lies beyond.

A bin that lies beyond as a whole counts 1, one that lies on this side 0, and both are exact. Of a bin that the
threshold cuts, a share counts: of the values that the train split has in it, those beyond. Where those values are not
at hand, only the edges are known, and values are taken to lie evenly between them. The lowest and the highest bin
have one edge each: they are taken to be as wide as the bin beside them, and where there is none, half of one that is
cut lies beyond.

Values, edges and thresholds are compared as float32, as records hold values: 1.3 in a record is not above 1.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Bound:
    """Values of a code that are meant: those that satisfy all that is given, and at least one is.

    code: name of a token, as lists of a `Task` hold them: NAME means the bins of NAME and of every NAME//….
    """

    code: str
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def meets(self, values: np.ndarray) -> np.ndarray:
        """Which of these values are meant, bool (n,); NaN is not. Args: values, float32 (n,)."""
        out = ~np.isnan(values)
        for limit, compare in (
            (self.above, np.greater),
            (self.at_least, np.greater_equal),
            (self.below, np.less),
            (self.at_most, np.less_equal),
        ):
            if limit is not None:
                out &= compare(values, np.float32(limit))
        return out

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper limit, infinite where there is none."""
        low = [float(np.float32(limit)) for limit in (self.above, self.at_least) if limit is not None]
        high = [float(np.float32(limit)) for limit in (self.below, self.at_most) if limit is not None]
        return max(low, default=-math.inf), min(high, default=math.inf)

    def __str__(self) -> str:
        words = {"above": "above", "at_least": "at or above", "below": "below", "at_most": "at or below"}
        limits = [(text, getattr(self, name)) for name, text in words.items()]
        return f"{self.code} {' and '.join(f'{text} {limit:g}' for text, limit in limits if limit is not None)}"


class Values(NamedTuple):
    """Values of one scale in the train split, m distinct ones."""

    values: np.ndarray  # float32 (m,), ascending
    counts: np.ndarray  # int64 (m,)
    missing: int  # events of its codes without a value


class Shares(NamedTuple):
    """Of the bins of a scale, from the lowest: float64 (bins,), and which of them the bounds cut, bool (bins,)."""

    shares: np.ndarray
    cut: np.ndarray


def of_bins(breaks: Sequence[float], bounds: Sequence[Bound], known: Values | None = None) -> Shares:
    """How much of each bin any of the bounds means.

    Args:
      breaks: ascending; bin k holds the values above breaks[k - 1], up to and at breaks[k].
      known: the values of the train split. A bin without any of them is judged by its edges.
    """
    edges = np.array([-math.inf, *breaks, math.inf])
    shares = np.array([_between(edges, k, bounds) for k in range(len(edges) - 1)])
    if known is not None:
        bins = np.searchsorted(np.asarray(breaks, np.float32), known.values, side="left")
        meant = np.any([bound.meets(known.values) for bound in bounds], axis=0)
        total, beyond = (
            np.bincount(bins, weights=known.counts * some, minlength=len(shares)) for some in (meant | True, meant)
        )
        shares = np.divide(beyond, total, out=shares, where=total > 0)
    whole = np.array([_whole(edges[k], edges[k + 1], bounds) for k in range(len(shares))])
    shares = np.where(whole == _CUT, shares, whole)
    return Shares(shares, (shares > 0) & (shares < 1))


_CUT = -1.0


def _whole(low: float, high: float, bounds: Sequence[Bound]) -> float:
    """1 where a bound means all of (low, high], 0 where no bound means any of it, else _CUT."""
    if any(_below(bound, low) and _reaches(bound, high) for bound in bounds):
        return 1.0
    outside = [
        bound.ends[0] > high or (bound.ends[0] == high and not _holds(bound, high)) or bound.ends[1] <= low
        for bound in bounds
    ]
    return 0.0 if all(outside) else _CUT


def _below(bound: Bound, low: float) -> bool:
    return bound.ends[0] <= low


def _reaches(bound: Bound, high: float) -> bool:
    return bound.ends[1] > high or (bound.ends[1] == high and (math.isinf(high) or _holds(bound, high)))


def _holds(bound: Bound, value: float) -> bool:
    return bool(bound.meets(np.array([value], np.float32))[0])


def _between(edges: np.ndarray, k: int, bounds: Sequence[Bound]) -> float:
    """The part of bin k that is meant, of its width."""
    low, high = float(edges[k]), float(edges[k + 1])
    if math.isinf(low) and math.isinf(high):
        return 0.5
    if math.isinf(low):
        low = high - float(edges[k + 2] - high)
    elif math.isinf(high):
        high = low + float(low - edges[k - 1])
    if math.isinf(high - low):  # one edge alone
        return 0.5
    parts = sorted((max(low, bound.ends[0]), min(high, bound.ends[1])) for bound in bounds)
    covered, at = 0.0, low
    for begin, end in parts:
        covered += max(0.0, end - max(begin, at))
        at = max(at, end)
    return covered / (high - low)
