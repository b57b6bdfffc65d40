"""What the benchmarks print: rows of a table, and medians of repeated runs."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from .flags import REPEATS

Row = dict[str, Any]


def row(name: str, value: float, unit: str, target: float | None = None, at_least: bool = True) -> Row:
    """One figure; `ok` says whether it reaches `target`, and is None where no target was set."""
    ok = None if target is None else bool(value >= target if at_least else value <= target)
    return {"name": name, "value": value, "unit": unit, "target": target, "ok": ok}


def seconds(work: Callable[[], Any]) -> float:
    """Median wall time of `work` over --repeats."""
    times = []
    for _ in range(REPEATS.value):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
