"""Which stays may be learnt from: few labels are a part of more, and both outcomes are among them."""

from collections.abc import Sequence

import numpy as np

from ehr_scaling.errors import UserError

ALL = "all"
FEWEST = 4  # labels that anything is learnt from
_DRAW = 7919  # apart from other streams of the same seed


def draw(labels: np.ndarray, count: int, seed: int, number: int) -> np.ndarray:
    """Rows of `count` stays, drawn without replacement by outcome: int64 (count,), ascending.

    Both outcomes have the share that they have in all, rounded, and one stay at least. Of one seed and number, the
    stays of fewer labels are among those of more.

    Args: labels, bool (n,), both kinds among them; number, of the draw.
    Raises: ValueError for a count that is not from 2 to n.
    """
    if not 2 <= count <= len(labels):
        raise ValueError(f"{count} of {len(labels)} labels")
    rng = np.random.default_rng([seed, _DRAW, number])
    yes, no = (rng.permutation(np.flatnonzero(labels == kind)) for kind in (True, False))
    positives = int(np.clip(np.floor(count * len(yes) / len(labels) + 0.5), 1, count - 1))
    positives = int(np.clip(positives, count - len(no), len(yes)))
    return np.sort(np.concatenate([yes[:positives], no[: count - positives]]))


def of_flag(values: Sequence[str]) -> tuple[int | None, ...]:
    """Numbers of labels as a user gives them, ascending, None for all of them.

    Raises: UserError for what is no number, below FEWEST, or not there at all.
    """
    counts: set[int | None] = set()
    for value in values:
        if value != ALL and not (value.isdecimal() and int(value) >= FEWEST):
            raise UserError(f"--labels={value}: take numbers from {FEWEST} up, or {ALL}")
        counts.add(None if value == ALL else int(value))
    if not counts:
        raise UserError(f"--labels is empty: take numbers from {FEWEST} up, or {ALL}")
    return tuple(sorted(counts, key=lambda count: (count is None, count)))
