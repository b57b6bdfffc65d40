"""How far a sweep is: cells, tokens, and the time that is left by the FLOPs that are."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ehr_scaling.grid.cell import Unit
from ehr_scaling.grid.executors.claims import Cost

EVERY = 15.0  # seconds between two lines where there is no terminal


class Progress:
    """A bar on a terminal, a line every 15 s elsewhere. What was done before counts as done, not as fast."""

    def __init__(self, title: str, units: Sequence[Unit], costs: Sequence[Cost]):
        self.title, self.units, self.costs = title, units, costs
        self.left = [cost.tokens for cost in costs]
        self.cells, self.done, self.note = sum(map(len, units)), 0, ""
        self.total = sum(cost.flops for cost in costs)
        self.flops = self.before = self.tokens = self.stays = 0.0
        self.started = self.printed = time.monotonic()
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        # smoothing=0: the rate is that of the whole sweep; sizes differ too much for the last seconds to tell.
        self.bar: Any = tqdm(
            total=self.total, desc=title, bar_format=form, disable=None, mininterval=0.5, smoothing=0, leave=True
        )

    def advance(self, unit: int, tokens: float, before: bool = False) -> None:
        """`tokens` more of a unit are done; `before`: by an earlier process, so that they say nothing of the rate."""
        tokens = min(tokens, self.left[unit])
        self.left[unit] -= tokens
        cost = self.costs[unit]
        share = tokens / cost.tokens if cost.tokens else 0.0
        flops = cost.flops * share
        self.flops += flops
        if before:
            self.before += flops
            if not self.bar.disable:
                self.bar.initial += flops
                self.bar.n += flops
        else:
            self.tokens += tokens
            self.stays += cost.stays * share
            self.bar.update(flops)
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
        """Seconds left; None while next to nothing is done: that took as long as the first program to compile."""
        done, left = self.flops - self.before, self.total - self.flops
        return (time.monotonic() - self.started) * left / done if done > 0.01 * left else None

    def _show(self) -> None:
        now = time.monotonic()
        spent = max(now - self.started, 1e-9)
        stays = f"{self.stays / spent:.3g} stays/s, " if any(cost.stays for cost in self.costs) else ""
        rate = f"{stays}{self.tokens / spent / 1e3:.0f} ktok/s"
        state = f"{self.done}/{self.cells} cells, {rate}{self.note and '; ' + self.note}"
        self.bar.set_postfix_str(state, refresh=False)
        if self.bar.disable and (now - self.printed > EVERY or self.done == self.cells):
            self.printed = now
            left = "" if (eta := self.eta()) is None else f", ETA {eta:.0f} s"
            share = self.flops / self.total if self.total else 1.0
            print(f"{self.title}: {state}, {share:.0%}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()
