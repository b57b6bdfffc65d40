"""The commands. An error of the system before one of them has begun is one line as well."""

import sys
from types import TracebackType


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from ehr_scaling.errors import of_system  # here, since every command's first line waits for what is imported above

    if isinstance(error, Exception) and (told := of_system(error)) is not None:
        print(f"error: {' '.join(str(told).split())}", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _told
