"""ArrayRecord files, opened only where the threads of their reader can be started."""

import functools
import threading
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from ehr_scaling.errors import UserError

_THREADS = 64  # of the pool that the first reader of a process starts, whatever its options say


def reader(path: Path | str, options: str = "") -> ArrayRecordReader:
    """A reader of the file. Raises: what the library does; UserError where its threads cannot be started."""
    _see_that_threads_start()
    return ArrayRecordReader(str(path), options) if options else ArrayRecordReader(str(path))


@functools.cache
def _see_that_threads_start() -> None:
    """Start as many threads as the reader's pool has, and let them go.

    Where memory or processes are limited (ulimit -v, ulimit -u, a container), the pool's constructor in C++ cannot
    start all of its threads, waits for ever for those that it did start, and holds the interpreter meanwhile: nothing
    in Python could end it, and no SIGTERM would be heard.
    """
    over, started = threading.Event(), []
    try:
        for _ in range(_THREADS + 1):
            thread = threading.Thread(target=over.wait, name="probe", daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        raise UserError(
            f"only {len(started)} threads can be started here, and reading ArrayRecord files takes {_THREADS}: give "
            "this program more memory (ulimit -v) and processes (ulimit -u), or take --config.workers=1"
        ) from None
    finally:
        over.set()
        for thread in started:
            thread.join()
