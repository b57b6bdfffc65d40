"""SIGTERM, as schedulers send it before they take a machine away: work that can be saved is saved first.

Ctrl-C too: the exception that it raises can be lost where Python is called from a library, so that whoever polls for
SIGTERM raises it anew.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ehr_scaling.errors import Preempted

SAVED = "interrupted by SIGTERM: saved; run the same command again to go on"
_asked, _interrupted, _raised = threading.Event(), threading.Event(), threading.Event()


def requested() -> bool:
    """Whether this process was asked to end while `deferred`. Costs nothing. Raises KeyboardInterrupt after Ctrl-C."""
    if _interrupted.is_set():
        raise KeyboardInterrupt
    return _asked.is_set()


def check() -> None:
    """Raises Preempted where `requested`: for work whose parts are kept, or are made anew, between two of them."""
    if requested():
        raise Preempted(SAVED)


def requested_anywhere() -> bool:
    """Whether any process of `jax.distributed` was asked to end: all of them learn it at the same call.

    A collective when there are several processes, so all must come here equally often: once a dispatch, say.
    """
    import jax

    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return requested()
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(requested()))))


def _set(signum: int, frame: FrameType | None) -> None:
    _asked.set()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _raise(signum: int, frame: FrameType | None) -> None:
    if not _raised.is_set():  # a second signal would break off what the first one has left to tidy
        _raised.set()
        raise Preempted(SAVED)


def deferred(*signals: int) -> contextlib.AbstractContextManager[None]:
    """Until the block ends, SIGTERM (or `signals`) only sets what `requested` returns: for work that saves itself.

    Who polls `requested` ends with `errors.Preempted` when all is saved. In a thread other than the main one, where no
    handler can be set, the block changes nothing.
    """
    return _handled(_set, signals or (signal.SIGTERM,))


def at_once() -> contextlib.AbstractContextManager[None]:
    """Until the block ends, SIGTERM raises `errors.Preempted` wherever the main thread is: for work that has no state
    of its own to save, because each stage leaves its result whole or not at all."""
    return _handled(_raise, (signal.SIGTERM,))


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], signals: tuple[int, ...]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.signal(number, handler) for number in signals}
    if handler is _set and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if handler is _raise:
            _raised.clear()
        if signal.SIGINT in before:
            _interrupted.clear()
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
        if handler is _set and _set not in before.values():  # of nested blocks the outermost
            _asked.clear()
