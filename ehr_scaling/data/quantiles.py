"""Exact quantiles of the values of many codes at once, in memory bounded by the distinct values."""

import numpy as np

from ehr_scaling.data.vocabulary import BINS


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """float32 (n,) to uint64 (n,) below 2^32 in the same order (−0 counts as 0).

    Below a code in the upper 32 bits it makes one key by which codes and values are sorted and searched at once.
    """
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)


def _fromordered_bits(ordered: np.ndarray) -> np.ndarray:
    bits = ordered.astype(np.uint32)
    return np.where(bits >> 31, bits & np.uint32(0x7FFFFFFF), ~bits).astype(np.uint32).view(np.float32)


class ValueCounts:
    """How often each value of each code occurs: exact quantiles without keeping every value."""

    def __init__(self) -> None:
        self.keys, self.counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending = 0

    def add(self, codes: np.ndarray, values: np.ndarray) -> None:
        keys = np.sort((codes.astype(np.uint64) << np.uint64(32)) | ordered_bits(values))
        self._new.append(_runs(keys, np.ones(len(keys), np.int64)))
        self._pending += len(self._new[-1][0])
        if self._pending > max(len(self.keys), 8_000_000):  # so that merging stays linear in all
            self.merge()

    def merge(self) -> None:
        keys = np.concatenate([self.keys, *(k for k, _ in self._new)])
        counts = np.concatenate([self.counts, *(c for _, c in self._new)])
        order = np.argsort(keys, kind="stable")
        self.keys, self.counts = _runs(keys[order], counts[order])
        self._new, self._pending = [], 0

    def breaks(self, minimum: int) -> dict[int, np.ndarray]:
        """Distinct "nearest" deciles of each code that has `minimum` values and not all of them equal.

        Decile k of n sorted values is the one at rank (n − 1)·k/10, rounded half up (ETHOS-ARES).
        """
        self.merge()
        codes = (self.keys >> np.uint64(32)).astype(np.int64)
        starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])[: len(codes)])
        ends = np.concatenate([starts[1:], [len(codes)]])[: len(starts)]
        total = np.concatenate([[0], np.cumsum(self.counts)])
        n = total[ends] - total[starts]
        k = np.arange(1, BINS)
        ranks = (2 * (n[:, None] - 1) * k + BINS) // (2 * BINS)
        at = np.searchsorted(total[1:], total[starts][:, None] + ranks, side="right")
        found = _fromordered_bits(self.keys[at]) if len(starts) else np.zeros((0, BINS - 1), np.float32)
        return {
            int(codes[s]): np.unique(row)
            for s, e, m, row in zip(starts, ends, n, found, strict=True)
            if m >= minimum and e - s > 1
        }


def _runs(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys without repetition, and the sums of their counts."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[starts], np.add.reduceat(counts, starts) if len(starts) else counts[:0]
