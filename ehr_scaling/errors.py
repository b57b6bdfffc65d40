"""What goes wrong for users, and how they are told."""

import errno

DISK_FULL = "the disk is full: free some space and run the same command again"


class UserError(Exception):
    """Something the user can mend.

    The message is one line that names the file, the row or the flag, and what to do about it. It never holds a
    subject id, a patient's date or free text. `launch/` prints it without a traceback and exits with status 1.
    """


class Preempted(Exception):
    """The process was asked to end (SIGTERM) and has saved its work: the same command goes on. Exit status 75."""

    status = 75  # EX_TEMPFAIL of sysexits.h: schedulers can be told to start such a job again


def first_line(error: BaseException) -> str:
    """What a library's error says in its first line; its type, where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` says that a disk is full, whichever library wrote: not all of them set errno."""
    while not isinstance(error, OSError) or error.errno != errno.ENOSPC:
        if "No space left on device" in str(error):
            return True
        if (cause := error.__cause__ or error.__context__) is None:
            return False
        error = cause
    return True
