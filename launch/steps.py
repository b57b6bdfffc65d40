"""What a command that takes long is doing: a line a step, and a sign of life while one lasts."""

import threading
import time


class Steps:
    """Says each step as it begins, after how many seconds from the first, and every few seconds that it still lasts."""

    EVERY = 5.0  # seconds

    def __init__(self) -> None:
        self._step, self._ended = "", threading.Event()
        self._begun = self._told = 0.0
        self._thread = threading.Thread(target=self._remind, daemon=True)

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def say(self, step: str) -> None:
        """A step begins; "": what begins tells of itself."""
        self._step = step
        if not step:
            return
        if self._thread.ident is None:
            self._begun = time.monotonic()
            self._thread.start()
        self._tell(step)

    def _tell(self, text: str) -> None:
        self._told = time.monotonic()
        print(f"[{self._told - self._begun:4.0f} s] {text}", flush=True)

    def _remind(self) -> None:
        while not self._ended.wait(0.5):
            if self._step and time.monotonic() - self._told > self.EVERY:
                self._tell(f"still {self._step}")
