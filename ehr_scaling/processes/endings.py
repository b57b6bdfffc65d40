"""How a process ends that cannot go on: in one line for whoever can mend it, in a traceback where the mistake is ours.

Where it is one of several that train as one, the others are told, see `companions`.
"""

import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ehr_scaling.errors import Unavailable, UserError, may_pass, of_system
from ehr_scaling.processes import companions

BROKEN = 70  # exit status of our own mistakes (EX_SOFTWARE of sysexits.h), which come again however often it is tried


def line(message: object) -> str:
    """What is printed of a mistake: `message` in one line."""
    return f"error: {' '.join(str(message).split())}"


def fail(message: object, status: int = 1) -> NoReturn:
    """Print one line to stderr and exit with `status`."""
    companions.fail(line(message), status)
    print(line(message), file=sys.stderr, flush=True)
    sys.exit(status)


def tell(error: Exception, status: int = BROKEN, reword: Callable[[str], str] = str) -> None:
    """Say what went wrong, from where `error` was caught. Comes back only where it is our own mistake.

    A user's mistake, and an error of the system, end the process with their line, which `reword` may change, and their
    status: 1, or 69 where the same command may go on later (`Unavailable`). An error after another process has ended,
    which may be no more than a consequence, ends it with a line about that and companions.STATUS. Of any other the
    traceback is printed. Where that `may_pass` the process ends with 69; else the caller is to end, and where the
    process is one of several it ends here, with `status`.
    """
    told = error if isinstance(error, UserError) else None
    if told is None and (ended := companions.told()) is not None:
        companions.end(line(ended))
    if told := told or of_system(error):
        fail(reword(str(told)), told.status)
    traceback.print_exception(error)
    if may_pass(error):
        companions.fail("", Unavailable.status)
        sys.exit(Unavailable.status)
    companions.fail("", status)
