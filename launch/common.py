"""What every launch script shares: one clear line for a user's mistake, and an exit status."""

import errno
import os
import sys
from collections.abc import Callable

from absl import app, logging

from ehr_scaling.errors import UserError


def fail(message: object, status: int = 1) -> None:
    """Print one line to stderr and exit with `status`."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    sys.exit(status)


def run(main: Callable[[], None]) -> None:
    """Run `main()` under absl flags; a user's mistake ends in one line and a non-zero status."""

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}: settings are flags, see --help", 2)
        # Orbax and grain report every save and every file; a person wants the progress bar.
        logging.set_verbosity(logging.WARNING)
        try:
            main()
        except UserError as e:
            fail(e)
        except KeyboardInterrupt:
            fail("interrupted: finished work is kept, run the same command again to go on", 130)
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
            fail(f"the disk is full ({e.filename or 'while writing'}): free some space and run again")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        app.run(guarded)
    except (AttributeError, KeyError, ValueError, TypeError, FileNotFoundError) as e:
        # Raised while flags and the config file are parsed, before main: a misspelt or mistyped field.
        if any(f.name == "guarded" for f in _frames(e)):
            raise
        fail(f"--config: {e}", 2)


def _frames(error: BaseException):
    import traceback

    return traceback.extract_tb(error.__traceback__)
