"""What a command prints, kept in its work directory with the time of each line."""

import contextlib
import logging
import os
import shlex
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from ehr_scaling.errors import first_line
from ehr_scaling.layout import Layout

MOST = 2_000_000  # bytes of a file
OLDER = 3  # files that are kept beside the last one, .1 being the latest of them
_FORM = logging.Formatter("%(asctime)s [%(process)d] %(message)s", "%Y-%m-%dT%H:%M:%SZ")
_FORM.converter = time.gmtime


def keep(workdir: Path) -> None:
    """From now on until this process ends, write what it prints to the log of a work directory as well, and the command
    itself first. Warnings of libraries come along. Nothing where the folder is not there.

    Lines of worker processes are in it as far as this process prints them. Several commands may write to one log: each
    line has the number of its process. It stays on this machine where the work directory is in a bucket.

    Raises: NotADirectoryError where a part of the path is a file: called first, nobody waits for imports to hear of it.
    """
    if not workdir.is_dir():
        with contextlib.suppress(FileNotFoundError):
            workdir.stat()
        return
    path = Layout(workdir).log
    try:
        file = _File(path, maxBytes=MOST, backupCount=OLDER, encoding="utf-8", errors="backslashreplace")
    except OSError as e:
        _warn(path, e)
        return
    file.setFormatter(_FORM)
    printed = logging.getLogger(f"{__name__}.{path}")  # a logger of its own: nobody's level or handlers concern it
    printed.propagate, printed.handlers[:] = False, [file]
    printed.setLevel(logging.INFO)
    logging.getLogger().addHandler(file)
    module = getattr(sys.modules["__main__"].__spec__, "name", None) or Path(sys.argv[0]).stem
    printed.info("$ %s", shlex.join([module, *sys.argv[1:]]))
    sys.stdout, sys.stderr = _Both(sys.stdout, printed), _Both(sys.stderr, printed)


class _Both:
    """A stream whose lines go to a logger too. Of a line that is written over, as bars are, what it said last."""

    def __init__(self, stream: Any, logger: logging.Logger) -> None:
        self._stream, self._logger, self._begun = stream, logger, ""

    def write(self, text: str) -> int:
        written = self._stream.write(text)
        *lines, self._begun = (self._begun + text).split("\n")
        self._begun = self._begun[self._begun.rstrip("\r").rfind("\r") + 1 :]
        for line in lines:
            if said := line.rstrip("\r").rpartition("\r")[2].rstrip():
                self._logger.info("%s", said)
        return int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _File(RotatingFileHandler):
    """A log for its owner alone. Where it can be written no more it is given up, with a warning: the work goes on."""

    def _open(self) -> Any:
        Path(self.baseFilename).touch(mode=0o600)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        self.setLevel(logging.CRITICAL + 1)
        _warn(Path(self.baseFilename), error or OSError("no reason"))


def _warn(path: Path, error: BaseException) -> None:
    print(f"warning: no log is kept in {os.fspath(path)} ({first_line(error)})", file=sys.stderr, flush=True)
