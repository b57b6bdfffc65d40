"""How far a sweep is: cells, tokens, and the time that is left by the work that is."""

import heapq
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ehr_scaling.grid.cell import Unit
from ehr_scaling.grid.executors.claims import Cost
from ehr_scaling.progress import EVERY

SHOWN = 2.0  # seconds between two states of the bar
# FLOPs whose time a token takes beside its own, so that small models are slower a FLOP: of 148 runs of 1.7 k to 332 k
# parameters on a CPU. Where it is more, as on a GPU, what is left is told as less than it is, but less so than without.
A_TOKEN = 2.4e5


class Progress:
    """A bar on a terminal, a line every 15 s elsewhere. What was done before counts as done, not as fast.

    Args: workers, processes that do the units between them.
    """

    def __init__(self, title: str, units: Sequence[Unit], costs: Sequence[Cost], workers: int = 1):
        self.title, self.units, self.costs, self.workers = title, units, costs, workers
        self.left = [cost.tokens for cost in costs]
        self.work = [cost.flops + A_TOKEN * cost.tokens for cost in costs]
        self.cells, self.done, self.note = sum(map(len, units)), 0, ""
        self.total = sum(self.work)
        self.worked = self.before = self.tokens = self.stays = 0.0
        self.started = self.printed = time.monotonic()
        self.bar: Any = tqdm(
            total=self.total,
            desc=title,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            disable=None,
            mininterval=0.5,
            leave=True,
        )

    def advance(self, unit: int, tokens: float, before: bool = False) -> None:
        """`tokens` more of a unit are done; `before`: by an earlier process, so that they say nothing of the rate."""
        tokens = min(tokens, self.left[unit])
        self.left[unit] -= tokens
        cost = self.costs[unit]
        share = tokens / cost.tokens if cost.tokens else 0.0
        work = self.work[unit] * share
        self.worked += work
        if before:
            self.before += work
        else:
            self.tokens += tokens
            self.stays += cost.stays * share
        self.bar.update(work)
        self._show()

    def finish(self, unit: int) -> None:
        """A unit's result is there. A job reports what it does, so what it did not report was there before."""
        self.done += len(self.units[unit])
        self.note = ""
        self.advance(unit, self.left[unit], before=True)

    def say(self, note: str) -> None:
        if note != self.note:
            self.note, self.printed = note, -EVERY
            self._show()

    def eta(self) -> float | None:
        """Seconds left; None while next to nothing is done: that took as long as the first program to compile.

        Every worker goes on as fast as all did on average, and takes the longest unit that is left: the last ones work
        alone.
        """
        parts = zip(self.work, self.left, self.costs, strict=True)
        left = sorted((work * rest / cost.tokens for work, rest, cost in parts if rest), reverse=True)
        done = self.worked - self.before
        if done <= 0.01 * sum(left):
            return None
        loads = [0.0] * self.workers
        for work in left:
            heapq.heapreplace(loads, loads[0] + work)
        return (time.monotonic() - self.started) * self.workers * max(loads) / done

    def _show(self) -> None:
        now, over = time.monotonic(), self.done == self.cells
        if now - self.printed < (EVERY if self.bar.disable else SHOWN) and not over:
            return
        self.printed = now
        spent = max(now - self.started, 1e-9)
        stays = f"{self.stays / spent:.3g} stays/s, " if any(cost.stays for cost in self.costs) else ""
        rate = f"{stays}{self.tokens / spent / 1e3:.0f} ktok/s"
        state = f"{self.done}/{self.cells} cells, {rate}{self.note and '; ' + self.note}"
        left = "" if (eta := self.eta()) is None else f", ETA {eta:.0f} s"
        if self.bar.disable:
            share = self.worked / self.total if self.total else 1.0
            print(f"{self.title}: {state}, {share:.0%}{left}", file=sys.stderr, flush=True)
        else:
            self.bar.set_postfix_str(state + left)

    def close(self) -> None:
        self.bar.close()
