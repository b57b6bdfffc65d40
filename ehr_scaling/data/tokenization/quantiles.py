"""Quantiles of the values of many scales at once, in bounded memory and whatever the order they come in."""

import numpy as np

MOST = 1 << 16  # distinct values kept of a scale; what has more is counted in cells of nearby values


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """float32 (n,) to uint64 (n,) below 2^32 in the same order (−0 counts as 0).

    Below a scale in the upper 32 bits it makes one key by which scales and values are sorted and searched at once.
    """
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)


def _from_ordered_bits(ordered: np.ndarray) -> np.ndarray:
    bits = ordered.astype(np.uint32)
    return np.where(bits >> 31, bits & np.uint32(0x7FFFFFFF), ~bits).astype(np.uint32).view(np.float32)


class ValueCounts:
    """How often each value of each scale occurs.

    A scale of up to MOST distinct values is counted exactly. Of one with more the lowest bits of the mantissa are
    dropped, the fewest that leave at most MOST cells. That number depends on the set of values alone (a subset never
    needs more than the whole), so parts may be added and merged in any order with the same result.

    keys: uint64 (n,), ascending: the scale above 32 bits of value in which the dropped bits are zero.
    counts: int64 (n,). levels: uint64 (scales,), dropped bits.
    """

    def __init__(self) -> None:
        self.keys, self.counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self.levels = np.zeros(0, np.uint64)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending = 0

    def add(self, scales: np.ndarray, values: np.ndarray) -> None:
        """Count values, float32 (n,), finite, of scales, int64 (n,) below 2^31."""
        keys = np.sort((scales.astype(np.uint64) << np.uint64(32)) | ordered_bits(values))
        self._push(*_runs(keys, np.ones(len(keys), np.int64)))

    def absorb(self, other: "ValueCounts", numbers: np.ndarray) -> None:
        """Add the counts of `other`, whose scale s is here numbers[s], int64."""
        other.merge()
        if not len(other.keys):
            return
        self._room(int(numbers.max(initial=-1)) + 1)
        used = numbers[: len(other.levels)]
        self.levels[used] = np.maximum(self.levels[used], other.levels)
        scale = numbers[(other.keys >> np.uint64(32)).astype(np.int64)].astype(np.uint64)
        self._push((scale << np.uint64(32)) | (other.keys & np.uint64(0xFFFFFFFF)), other.counts)

    def merge(self) -> None:
        """Bring what was added into `keys`, `counts` and `levels`."""
        if not self._new:
            return
        keys = np.concatenate([self.keys, *(k for k, _ in self._new)])
        counts = np.concatenate([self.counts, *(c for _, c in self._new)])
        self._new, self._pending = [], 0
        self._room(int(keys.max(initial=0) >> np.uint64(32)) + 1 if len(keys) else 0)
        order = np.argsort(keys, kind="stable")
        keys, counts = _runs(keys[order], counts[order])
        while len(keys):
            keys, counts = _runs(self._cells(keys), counts)
            distinct = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(self.levels))
            if not (distinct > MOST).any():
                break
            self.levels[distinct > MOST] += np.uint64(1)
        self.keys, self.counts = keys, counts

    def breaks(self, bins: int, minimum: int, constant: bool = False) -> dict[int, np.ndarray]:
        """Distinct "nearest" quantiles of each scale that has `minimum` values, and not all of them equal.

        Quantile k/bins of n sorted values is the one at rank (n − 1)·k/bins, rounded half up (ETHOS-ARES); of a cell
        of values it is the largest it may hold. Args: constant, whether a scale of one value has its break too.
        """
        self.merge()
        scales = (self.keys >> np.uint64(32)).astype(np.int64)
        starts = np.flatnonzero(np.concatenate([[True], scales[1:] != scales[:-1]])[: len(scales)])
        ends = np.concatenate([starts[1:], [len(scales)]])[: len(starts)]
        total = np.concatenate([[0], np.cumsum(self.counts)])
        n = total[ends] - total[starts]
        k = np.arange(1, bins)
        ranks = (2 * (n[:, None] - 1) * k + bins) // (2 * bins)
        at = np.searchsorted(total[1:], total[starts][:, None] + ranks, side="right")
        if not len(starts):
            return {}
        top = (np.uint64(1) << self.levels[scales[starts]]) - np.uint64(1)
        quantiles = _from_ordered_bits(self.keys[at] & np.uint64(0xFFFFFFFF) | top[:, None])
        return {
            int(scales[s]): np.unique(row)
            for s, e, m, row in zip(starts, ends, n, quantiles, strict=True)
            if m >= minimum and (constant or e - s > 1)
        }

    def _cells(self, keys: np.ndarray) -> np.ndarray:
        level = self.levels[(keys >> np.uint64(32)).astype(np.int64)]
        return keys >> level << level if level.any() else keys

    def _push(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self._new.append((keys, counts))
        self._pending += len(keys)
        if self._pending > max(len(self.keys), 8_000_000):  # so that merging stays linear in all
            self.merge()

    def _room(self, scales: int) -> None:
        if scales > len(self.levels):
            self.levels = np.concatenate([self.levels, np.zeros(scales - len(self.levels), np.uint64)])


def _runs(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys without repetition, and the sums of their counts."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[starts], np.add.reduceat(counts, starts) if len(starts) else counts[:0]
