"""The commands. What stops one before it has begun, an error of the system or another system, is one line as well."""

import sys
from types import TracebackType


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from ehr_scaling.errors import of_system  # here, since every command's first line waits for what is imported above

    if isinstance(error, Exception) and (told := of_system(error)) is not None:
        print(f"error: {' '.join(str(told).split())}", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _told

if sys.platform == "win32":  # which has no fcntl, and no builds of array_record
    sys.exit("error: ehr_scaling runs on Linux (and should on macOS, untested): on Windows install it in WSL")
