"""Prompts in batches of a few fixed shapes, so that few programs are compiled and short prompts cost less.

Prompts are padded on the left, and padding reaches nobody: a batch is cut to the longest prompt in it, rounded up,
which changes nothing but the work.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ehr_scaling.models.transformer import PAD

_PARTS, _MULTIPLE = 8, 16  # widths of a program: eighths of the longest, in whole multiples of so many positions
_SORTED_TOGETHER = 16  # batches, among which prompts are sorted by length


class Batch(NamedTuple):
    """b stays; rows that only fill it up weigh nothing, and repeat the first."""

    prompts: np.ndarray  # int32 (b, P), P one of `widths`
    rows: np.ndarray  # int64 (b,), which stays
    filled: np.ndarray  # bool (b,), False of what fills it up


def lengths(prompts: np.ndarray) -> np.ndarray:
    """Tokens of each prompt, int64 (n,). Args: prompts, (n, P), padded on the left with PAD."""
    return (prompts != PAD).sum(axis=1)


def widths(width: int) -> np.ndarray:
    """The widths that batches are cut to, ascending, the last of them `width`: int64."""
    step = max(_MULTIPLE, _MULTIPLE * -(-width // (_PARTS * _MULTIPLE)))
    return np.unique(np.minimum(np.arange(step, width + step, step), width))


def cut(prompts: np.ndarray, rows: np.ndarray, size: int) -> Batch:
    """The batch of some stays, `size` of them at most, as wide as the longest needs."""
    every = widths(prompts.shape[1])
    width = int(every[np.searchsorted(every, lengths(prompts[rows]).max())])
    missing = size - len(rows)
    chosen = np.concatenate([rows, np.repeat(rows[:1], missing)])
    filled = np.arange(size) < len(rows)
    return Batch(prompts[chosen, prompts.shape[1] - width :].astype(np.int32), chosen, filled)


def in_order(prompts: np.ndarray, size: int) -> Iterator[Batch]:
    """Batches of all stays, the shortest prompts first."""
    order = np.argsort(lengths(prompts), kind="stable")
    for begin in range(0, len(order), size):
        yield cut(prompts, order[begin : begin + size], size)


def shuffled(prompts: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The stays of each batch of one pass, each stay once: int64 arrays of `size`, one of them less.

    Some batches at a time are sorted by length, so that a batch needs few widths; which stays are together in these is
    random, and so is the order of the batches.
    """
    order, length = rng.permutation(len(prompts)), lengths(prompts)
    group = size * _SORTED_TOGETHER
    batches = []
    for begin in range(0, len(order), group):
        some = order[begin : begin + group]
        some = some[np.argsort(length[some], kind="stable")]
        batches += [some[first : first + size] for first in range(0, len(some), size)]
    return [batches[k] for k in rng.permutation(len(batches))]
