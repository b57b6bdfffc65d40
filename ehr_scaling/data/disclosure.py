"""Which numbers of real records may be told: none below ten, and none from which one below ten could be worked out."""

from typing import Any

FEWEST = 10  # numbers of real persons, and of what they have, below this are not told: the rare is a list of persons
DIGITS = 4


def told(n: int, generated: bool) -> int | None:
    """A count as it may be told: of generated patients as it is; else to the nearest ten, None from 1 to 9.

    Rounded, a total less its other parts does not give away a part that is not told.
    """
    if generated or n == 0:
        return n
    return None if 0 < n < FEWEST else (n + FEWEST // 2) // FEWEST * FEWEST


def quantile(n: int, q: float, generated: bool) -> bool:
    """Whether the quantile q of something that n persons have may be told: with ten of them at least on either side."""
    return generated or round(min(q, 1 - q) * n, 6) >= FEWEST


def rounded(told: Any, generated: bool, digits: int = DIGITS) -> Any:
    """JSON with its fractions to so many digits, unless of generated patients: in full, a share is two counts.

    A `p_value` stays as it is: no count follows from it, and rounded it would be 0.
    """
    if generated:
        return told
    if isinstance(told, dict):
        kept = ("p_value",)
        return {name: value if name in kept else rounded(value, generated, digits) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [rounded(value, generated, digits) for value in told]
    return round(told, digits) if isinstance(told, float) else told


def words(n: int, generated: bool) -> str:
    """The same in words: `1,230`, or `under 10`."""
    known = told(n, generated)
    return f"under {FEWEST}" if known is None else f"{known:,}"
