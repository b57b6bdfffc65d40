"""Process 0 of `jax.distributed` leads: what it computes on the devices of all processes, the others compute with it.

Process 0 runs a command as if it were alone: it alone reads, claims and writes. Before a step that takes the devices of
all it `call`s that step, with all that it takes; the others, which `follow`, do the same step with the same values, and
so come to the same collectives in the same order. What comes of it is for process 0. Names of steps and single values
go by JAX's key-value store, since a process that waits there hears signals; arrays by a broadcast of their bytes.
"""

import itertools
import json
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ehr_scaling.errors import Preempted, RunFailed, Unavailable, UserError, ends_all
from ehr_scaling.processes import companions, preemption

if TYPE_CHECKING:  # what only starts a command needs none of it
    import numpy as np

Step = Callable[[dict[str, Any]], None]
_KEY = "ehr_scaling/step"  # of the store, before a step's number
_AGREED = "ehr_scaling/agreed"  # of the store, before the number of a part that all come through, and a process's
_END = "end"  # for a step's name: there is no other
_WAIT = 200  # milliseconds of one wait for the store, between which signals are heard
_PATIENCE = 120.0  # seconds for the others to come to an error too, who may wait for this process where it met one
_LOOK = 1e-4, 5e-3  # seconds between two looks at what a device is doing, at first and at most
_LEAST = 1 << 10  # words of a broadcast; from there powers of two, so that few sizes are compiled

_LEADS, _FOLLOWS = "leads", "follows"
_here: dict[str, Any] = {"role": None, "calls": 0, "agreed": 0, "asked": False, "model": None}


def on() -> bool:
    """Whether this process leads others, or follows."""
    return _here["role"] is not None


def leads() -> bool:
    return bool(_here["role"] == _LEADS)


def follows() -> bool:
    return bool(_here["role"] == _FOLLOWS)


def holds(params: Any) -> None:
    """By whoever restores a model: it is the one that steps are of from now on, in all processes."""
    import jax

    _here["model"] = weakref.ref(jax.tree.leaves(params)[0])


def run(do: Callable[[], None], steps: Callable[[], Mapping[str, Step]]) -> None:
    """In process 0, or one that is alone, `do()`; in the others what it calls, by name of `steps()`, until it is done.

    All processes of `jax.distributed` call this alike. Raises Preempted in all of them where one is asked to end.
    """
    import jax

    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        do()
    elif jax.process_index() == 0:
        with _lead():
            do()
    else:
        _follow(steps())


@contextmanager
def _lead() -> Iterator[None]:
    _here["role"] = _LEADS
    try:
        yield
        _tell({"step": _END})
    except Preempted:
        companions.dismiss()
        raise


def _follow(steps: Mapping[str, Step]) -> None:
    _here["role"] = _FOLLOWS
    with preemption.deferred():
        for number in itertools.count(1):
            header = _header(number)
            if header["step"] == _END:
                return
            values = {**header["values"], **_broadcast(header["arrays"], None)}
            steps[header["step"]](values)


def call(step: str, params: Any = None, **values: Any) -> None:
    """In the process that leads: let the others do a step too, with these values: arrays, or what JSON holds.

    Nothing in any other process, so that a step may begin with the call of itself.
    Args: params, of the model that the step is of: the one that was restored last, which the others have too.
    """
    if not leads():
        return
    import numpy as np

    preemption.check()
    if params is not None:
        import jax

        assert _here["model"]() is jax.tree.leaves(params)[0], "another model was restored after this one"
    arrays = {name: np.ascontiguousarray(x) for name, x in values.items() if isinstance(x, np.ndarray)}
    single = {name: x.item() if isinstance(x, np.generic) else x for name, x in values.items() if name not in arrays}
    shapes = {name: [x.dtype.str, x.shape] for name, x in arrays.items()}
    _tell({"step": step, "values": single, "arrays": shapes})
    _broadcast(shapes, arrays)


@contextmanager
def agreed() -> Iterator[None]:
    """A part of a step that all processes come through, or none: RunFailed in all of them where one meets a UserError.

    So all go on with what comes next, whoever saw what is wrong. They tell each other by the store, for a collective
    would meet another one, where some of them wait inside of the part for who has left it.
    Raises: RunFailed, which names the process where this one has met nothing; Unavailable, which ends them all, where
      one of them met that, since it says nothing of the run. UserError, which ends them all, where this one has met
      something and others do not come to the end of the part.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as e:
        error = e
    said: list[list[Any] | None] = [None if error is None else [str(error), error.status]]
    if on():
        import jax

        _here["agreed"] += 1
        key, until = f"{_AGREED}/{_here['agreed']}", time.monotonic() + _PATIENCE
        _store().key_value_set(f"{key}/{jax.process_index()}", json.dumps(said[0]))
        for process in range(jax.process_count()):
            while (line := _told(f"{key}/{process}")) is None:
                if error is not None and time.monotonic() > until:
                    raise ends_all(error)
            if (line := json.loads(line)) is not None:
                said.append([f"process {process}: {line[0]}", line[1]])
    if met := list(filter(None, said)):
        kind = Unavailable if any(status == Unavailable.status for _, status in met) else RunFailed
        raise kind(met[0][0]) from None


def check() -> None:
    """Raises Preempted where this process was asked to end (SIGTERM). One that follows passes it on to process 0, and
    ends when that says so, for what is shared would wait for it."""
    if not follows():
        preemption.check()
        return
    if companions.dismissed():
        raise Preempted(preemption.SAVED)
    if preemption.requested() and not _here["asked"]:
        _here["asked"] = True
        if not companions.ask():
            raise Preempted(preemption.SAVED)


def wait(arrays: Any) -> None:
    """Until devices have made all of some arrays: a wait inside of JAX hears no signal. Raises: as `check`."""
    import jax

    pause, most = _LOOK
    for array in jax.tree.leaves(arrays):
        while not array.is_ready():
            check()
            time.sleep(pause)
            pause = min(2 * pause, most)


def _store() -> Any:
    from jax._src.distributed import global_state

    return global_state.client


def _tell(header: Mapping[str, Any]) -> None:
    _here["calls"] += 1
    _store().key_value_set(f"{_KEY}/{_here['calls']}", json.dumps(header))


def _header(number: int) -> dict[str, Any]:
    """What process 0 tells of its step of that number, from 1, when it does."""
    while (told := _told(f"{_KEY}/{number}")) is None:
        pass
    return dict(json.loads(told))


def _told(key: str) -> str | None:
    """What the store has under a key, as soon as it has it; None after a while. Raises: as `check`."""
    import jax

    check()
    try:
        return str(_store().blocking_key_value_get(key, _WAIT))
    except jax.errors.JaxRuntimeError as e:
        if "DEADLINE_EXCEEDED" not in str(e):  # the store is process 0's: it has gone, and says how in a moment
            time.sleep(companions.GRACE)
            check()
            raise Unavailable("process 0, which leads, has ended before this one: see what it said") from None
    return None


def _broadcast(shapes: Mapping[str, Any], arrays: "Mapping[str, np.ndarray] | None") -> "dict[str, np.ndarray]":
    """Arrays of process 0, of these dtypes and shapes, in every process; None elsewhere."""
    import numpy as np
    from jax.experimental import multihost_utils

    sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in shapes.values()]
    if not sum(sizes):
        return {name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()}
    words = np.zeros(max(_LEAST, 2 ** math.ceil(math.log2(sum(sizes) / 4))), np.uint32)
    content = words.view(np.uint8)
    ends = np.cumsum(sizes)
    for x, size, end in zip((arrays or {}).values(), sizes, ends, strict=False):
        content[end - size : end] = x.reshape(-1).view(np.uint8)
    content = np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.uint8)
    return {
        name: content[end - size : end].copy().view(dtype).reshape(shape)
        for (name, (dtype, shape)), size, end in zip(shapes.items(), sizes, ends, strict=True)
    }
