"""What processes that train as one tell each other, so that they go on alike; all of them call these alike."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ehr_scaling.errors import RunFailed

T = TypeVar("T")


def any_process(flag: bool) -> bool:
    """Whether it is so in one of the processes, or more."""
    return _who(flag) is not None


def by_process_0(flags: list[bool]) -> list[bool]:
    """What is so to process 0, in all processes: they may see a folder at different times."""
    if jax.process_count() == 1:
        return flags
    return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.array(flags, np.int32))]


def together(see: Callable[[], T], otherwise: str = "") -> T:
    """What `see()` gives in each process, where it gives something in all of them.

    For what only one of them may find wrong: it would leave while the others wait for it in their next collective.
    Args: otherwise, what to say where another process alone raises; by default that it does.
    Raises: what `see` raises here; RunFailed where it raises in another process alone.
    """
    given: list[T] = []
    error: Exception | None = None
    try:
        given.append(see())
    except Exception as e:
        error = e
    if (who := _who(error is not None)) is not None:
        raise error or RunFailed(otherwise or f"process {who} cannot go on with this run: see what it says")
    return given[0]


def _who(flag: bool) -> int | None:
    """The first process in which it is so."""
    if jax.process_count() == 1:
        return 0 if flag else None
    flags = multihost_utils.process_allgather(np.int32(flag))
    return int(flags.argmax()) if flags.any() else None
