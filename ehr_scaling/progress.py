"""Signs of life of what takes long: a line a step, a bar on a terminal, and a line now and then where there is none."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY = 15.0  # seconds between two lines of how far something is, where there is no terminal


class Steps:
    """Says each step as it begins, after how many seconds from the first, and now and then that it still lasts."""

    GAPS = (2.0, 5.0, 10.0, 20.0, 30.0)  # seconds between two lines of a step; the last again and again
    _LOOK = 0.2

    def __init__(self) -> None:
        self._step, self._ended = "", threading.Event()
        self._begun = self._told = 0.0
        self._reminders = 0
        self._thread = threading.Thread(target=self._remind, daemon=True)

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def say(self, step: str) -> None:
        """A step begins; "": what begins tells of itself."""
        self._step, self._reminders = step, 0
        if not step:
            return
        if self._thread.ident is None:
            self._begun = self._told = time.monotonic()
            self._thread.start()
        self._tell(step)

    def _tell(self, text: str) -> None:
        self._told = time.monotonic()
        print(f"[{self._told - self._begun:4.0f} s] {text}", flush=True)

    def _remind(self) -> None:
        while not self._ended.wait(self._LOOK):
            gap = self.GAPS[min(self._reminders, len(self.GAPS) - 1)]
            if self._step and time.monotonic() - self._told > gap - self._LOOK:
                self._reminders += 1
                self._tell(f"still {self._step}")


class Bar:
    """How much of a known sum is done: a bar on a terminal, elsewhere a line every 15 s, also while no part ends.

    Args:
      total: None, not known; done: of it, before this began; unit, what is counted; scaled, whether large numbers have
        k, M and G; leave: whether the bar stays when all is done. May be updated by several threads.
    """

    def __init__(
        self, title: str, total: float | None, unit: str, *, done: float = 0, scaled: bool = False, leave: bool = True
    ) -> None:
        self._n, self._ended, self._lock = done, threading.Event(), threading.Lock()
        self._bar: Any = tqdm(
            total=total, initial=done, desc=title, unit=unit, unit_scale=scaled, leave=leave, disable=None
        )
        self._about: dict[str, Any] = {
            "total": total,
            "prefix": title,
            "unit": unit,
            "unit_scale": scaled,
            "initial": done,
        }
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        if self._bar.disable:
            self._thread.start()

    def update(self, n: float = 1) -> None:
        """`n` more are done; fewer than before where it is negative."""
        with self._lock:
            self._n += n
            self._bar.update(n)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._bar.close()

    def _tell(self) -> None:
        while not self._ended.wait(EVERY):
            spent = time.monotonic() - self._begun
            print(tqdm.format_meter(self._n, elapsed=spent, ncols=0, **self._about), file=sys.stderr, flush=True)


def each(items: Iterable[T], title: str, unit: str) -> Iterator[T]:
    """The items one by one, with a bar of how many are done that goes when all are."""
    with Bar(title, len(items) if isinstance(items, Sized) else None, unit, leave=False) as bar:
        for item in items:
            yield item
            bar.update()
