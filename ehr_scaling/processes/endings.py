"""How a process ends that cannot go on: in one line for whoever can mend it, in a traceback where the mistake is ours.

Where it is one of several that train as one, the others are told, see `companions`.
"""

import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ehr_scaling.errors import UserError, of_system
from ehr_scaling.processes import companions

BROKEN = 70  # exit status of our own mistakes (EX_SOFTWARE of sysexits.h), which a scheduler may try again


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

    A user's mistake, and an error of the system, end the process with their line, which `reword` may change, and status
    1; an error after another process has ended, which may be no more than a consequence, with a line about that and
    companions.STATUS. Of any other the traceback is printed: the caller is to end, and where the process is one of
    several it ends here, with `status`.
    """
    told = error if isinstance(error, UserError) else None
    if told is None and (ended := companions.told()) is not None:
        companions.end(line(ended))
    if told := told or of_system(error):
        fail(reword(str(told)))
    traceback.print_exception(error)
    companions.fail("", status)
