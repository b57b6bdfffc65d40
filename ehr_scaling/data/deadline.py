"""Calls that are given up when they take too long: a read from a dead network mount never returns."""

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from ehr_scaling.errors import UserError

T = TypeVar("T")
_PARTS = 10  # the time is counted in so many, so that a process that was stopped for a while loses one of them only


class Deadline:
    """Makes calls in a thread of its own, which keeps no interpreter from its exit, for `seconds` each at most.

    Raises: UserError(message) from a call that takes longer, and from every one after it; else what the call raises.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._seconds, self._message, self._hung = seconds, message, False
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A thread that grain or concurrent.futures started would be waited for at exit: for ever.
        threading.Thread(target=_work, args=(self._tasks,), name="deadline", daemon=True).start()
        weakref.finalize(self, self._tasks.put, None)

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        answer: queue.SimpleQueue[tuple[T, BaseException | None]] = queue.SimpleQueue()
        if not self._hung:
            self._tasks.put((function, args, answer))
        for _ in range(_PARTS):
            if self._hung:  # what grain has queued up behind the call that hangs need not wait as well
                break
            try:
                value, error = answer.get(timeout=self._seconds / _PARTS)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            return value
        self._hung = True
        raise UserError(self._message)


def _work(tasks: "queue.SimpleQueue[Any]") -> None:
    while (task := tasks.get()) is not None:
        function, args, answer = task
        try:
            answer.put((function(*args), None))
        except BaseException as e:  # the caller's to judge
            answer.put((None, e))
        del task, function, args, answer  # else the last batch lives as long as the thread waits
