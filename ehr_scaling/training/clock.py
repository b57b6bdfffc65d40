"""What the time of a run goes to, and when it is time for a recovery checkpoint."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ehr_scaling.training.run import PARTS


class Clock:
    """Wall seconds of a run by what they went to, over all the processes that worked on it."""

    compiled: set[Any] = set()  # noqa: RUF012  programs that this process has met

    def __init__(self) -> None:
        self._started, self._before = time.monotonic(), 0.0
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self.dispatches = 0

    def add(self, spent: dict[str, float]) -> None:
        """Count what an earlier process, or the trunk, took."""
        self._before += spent.get("wall", 0.0)
        for part in PARTS:
            self._seconds[part] += spent.get(part, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started, before = time.monotonic(), sum(self._seconds.values())
        yield
        others = sum(self._seconds.values()) - before  # of parts inside of this one
        self._seconds[name] += time.monotonic() - started - others

    @contextmanager
    def dispatch(self, program: Any) -> Iterator[None]:
        """Of a train step: its first call traces and compiles."""
        self.dispatches += 1
        if program in self.compiled:
            yield
            return
        with self.part("compile"):
            yield
        self.compiled.add(program)

    def wall(self) -> float:
        return self._before + time.monotonic() - self._started

    def now(self) -> dict[str, float]:
        wall = self.wall()
        return {"wall": wall, "steps": wall - sum(self._seconds.values()), **self._seconds}


class Due:
    """Whether it is time for a recovery checkpoint: for all processes at the same dispatch."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._every = seconds, 0
        self._first = self._saved = time.monotonic()

    def saved(self) -> None:
        self._saved = time.monotonic()

    def __call__(self, dispatches: int) -> bool:
        now = time.monotonic()
        if jax.process_count() == 1:
            return now - self._saved > self._seconds
        # Clocks differ: process 0 says once, when the pace is known, how many dispatches the interval is.
        if dispatches == 1:
            self._first = now
        if dispatches == 4:
            interval = np.int32(max(1, self._seconds / max((now - self._first) / 3, 1e-3)))
            self._every = int(multihost_utils.broadcast_one_to_all(interval))
        return self._every > 0 and dispatches % self._every == 0
