"""A small algebra of sweeps. A sweep is a list of points, what cells are solved for: `{"budget": 1e12, "size": "40k"}`.

chain(
    product(axis("budget", (1e11, 1e12)), axis("size", ("14k", "40k")), axis("seed", (1, 2))),
    product(zipped(axis("passes", (1, 4)), axis("size", ("14k", "40k"))), axis("seed", (1,))),
)
"""

from collections.abc import Iterable
from itertools import chain as concatenated
from itertools import product as combinations
from typing import Any

Point = dict[str, Any]


def axis(name: str, values: Iterable[Any]) -> list[Point]:
    return [{name: value} for value in values]


def product(*sweeps: Iterable[Point]) -> list[Point]:
    """Every combination of their points; those of the last sweep change fastest."""
    return [_joined(points) for points in combinations(*sweeps)]


def zipped(*sweeps: Iterable[Point]) -> list[Point]:
    """The first points together, the second, and so on. Raises ValueError where one sweep is longer than another."""
    return [_joined(points) for points in zip(*sweeps, strict=True)]


def chain(*sweeps: Iterable[Point]) -> list[Point]:
    """One after another; what has come already does not come again."""
    points: dict[tuple[tuple[str, Any], ...], Point] = {}
    for point in concatenated.from_iterable(sweeps):
        points.setdefault(tuple(sorted(point.items())), point)
    return list(points.values())


def _joined(points: Iterable[Point]) -> Point:
    joined: Point = {}
    for point in points:
        if twice := joined.keys() & point.keys():
            raise ValueError(f"a point has its {min(twice)} from two sweeps")
        joined |= point
    return joined
