"""What goes wrong for users, and how they are told."""

import errno
import os
import re
from collections.abc import Iterator


class UserError(Exception):
    """Something the user can mend.

    The message is one line that names the file, the row or the flag, and what to do about it. It never holds a
    subject id, a patient's date or free text. `endings` prints it without a traceback and exits with its status.
    """

    status = 1

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).splitlines()))  # names of files, columns and tasks may hold line breaks


class Unavailable(UserError):
    """Something outside did not answer, or went away: the same command may go on later. Exit status 69."""

    status = 69  # EX_UNAVAILABLE of sysexits.h


class TakenOver(Unavailable):
    """Another machine has taken over what this one held: a sweep leaves that to it, and goes on with something else."""


def needs(what: str, extra: str) -> UserError:
    """What to raise where a package is not installed that one of the project's extras brings."""
    return UserError(f"{what}, which is not installed: take the extra, pip install -e '.[{extra}]' in a checkout")


class RunFailed(UserError):
    """A run that cannot go on as it is, while others can: a sweep leaves it out, and says so."""


class Diverged(RunFailed):
    """A run whose loss or gradient stayed not finite: a result, which is kept."""

    def __init__(self, message: object, cell: str) -> None:
        super().__init__(message)
        self.cell = cell  # its id

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.cell)


class Preempted(Exception):
    """The process was asked to end (SIGTERM) and has saved its work: the same command goes on. Exit status 75."""

    status = 75  # EX_TEMPFAIL of sysexits.h: schedulers can be told to start such a job again


NO_SPACE = "the disk is full: free some space and run the same command again"
NO_MEMORY = "no memory is left: give this program more (ulimit -v, ulimit -u), or less to do at once"

# What an error number of the system means here, and what to do about it. Libraries that keep no number quote the
# system's words for it, by which it is found too.
_SYSTEM = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: "your share of the disk (quota) is used up: free some space and run the same command again",
    errno.EFBIG: "a file may not become so large: lift the limit (ulimit -f), or name a folder on another file system",
    errno.EACCES: "it may not be read or written by you: change its permissions, or name another",
    errno.EPERM: "the system does not allow this: change its permissions, or name another",
    errno.EROFS: "it is on a file system that cannot be written to: name a folder elsewhere",
    errno.ENOTDIR: "a part of this path is a file and no folder: take that file away, or name another folder",
    errno.EISDIR: "it is a folder where a file should be: take it away, or name another",
    errno.ENOENT: "it is not there, or a folder that it should be in is not: check the path",
    errno.EEXIST: "something else has this name: take it away, or name another",
    errno.ENOTEMPTY: "another program writes into this folder: end it and run the same command again",
    errno.ENAMETOOLONG: "the name is too long for the file system: take a shorter one",
    errno.ELOOP: "its links lead in a circle: mend them, or name another",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or take fewer processes",
    errno.ENFILE: "too many files are open on this machine: close other programs and run the same command again",
    errno.EIO: "the disk, or the network drive, failed: see to it and run the same command again",
    errno.ESTALE: "the network drive lost this file: mount it again and run the same command again",
    errno.ENOTCONN: "the network drive is not connected: mount it again and run the same command again",
    errno.ETIMEDOUT: "the network drive does not answer: see to it and run the same command again",
    errno.EHOSTDOWN: "the network drive does not answer: see to it and run the same command again",
    errno.EBUSY: "another program holds it: end that and run the same command again",
    errno.ETXTBSY: "another program runs it: end that and run the same command again",
    errno.ENODEV: "its device is gone: see to it and run the same command again",
    errno.ENXIO: "it is no file: name another",
    errno.EXDEV: "it lies on two file systems: name a folder on one",
    errno.EMLINK: "the folder holds too many others: name another",
    errno.ENOLCK: "the file system has no locks: mount it with locks, or name a folder elsewhere",
    errno.EOPNOTSUPP: "the file system cannot do this: name a folder elsewhere",
    errno.EINVAL: "the file system does not take this: name another file or folder",
    errno.ENOMEM: NO_MEMORY,
    errno.EAGAIN: NO_MEMORY,  # of fork and of new threads; what may not block is dealt with where it is asked
}
# Of these the same command may be spared the next time, or on the next machine
_PASSING = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
_QUOTED = {os.strerror(number): number for number in _SYSTEM if number not in (errno.EINVAL, errno.EEXIST)}
_OUT_OF_MEMORY = re.compile(
    r"can't start new thread|not enough memory|[Oo]ut of memory|bad_alloc|[Cc]annot allocate memory|"
    r"failed to map segment"
)
# As XLA's statuses begin, and JAX where no device answers (another process may not have let go of it yet); not those of
# what a program asks for, such as INVALID_ARGUMENT
_OF_A_RUNTIME = re.compile(
    r"(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|DATA_LOSS|INTERNAL|UNKNOWN): |Unable to initialize backend"
)
_PATH = re.compile(r"""['"](/[^'"\n]+)['"]|\b(?:opening|reading|writing|path:) (/[^\s;,:]+)""")
_PARTIAL = re.compile(r"\.[0-9a-f]{12}\.partial\.")  # of artifacts.writing


def first_line(error: BaseException) -> str:
    """What a library's error says in its first line; its type, where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def of_system(error: BaseException, path: object = None) -> UserError | None:
    """The line for an error of the system: of permissions, disks, names, limits or memory; None for any other.

    Unavailable where a drive or a network failed, which may be there again later.
    Args: path, of the file that was read or written, where the error itself names none.
    """
    for each in _chain(error):
        if (number := _number(each)) is not None:
            named = _named(each) or (str(path) if path is not None else "")
            kind = Unavailable if number in _PASSING else UserError
            return kind(f"{named}: {_SYSTEM[number]}" if named and number != errno.ENOMEM else _SYSTEM[number])
    return None


def ends_all(error: UserError) -> UserError:
    """The same line as an error that nobody who leaves a single run out (RunFailed) takes for one of a run."""
    return (Unavailable if isinstance(error, Unavailable) else UserError)(error)


def may_pass(error: BaseException) -> bool:
    """Whether an error that has no line here is one of a device, its runtime or a connection, of which the same command
    may be spared the next time; nobody can tell it from a mistake of ours."""
    return isinstance(error, ConnectionError | TimeoutError) or (
        isinstance(error, RuntimeError) and _OF_A_RUNTIME.match(str(error)) is not None
    )


def unreadable(error: BaseException, path: object, damaged: str) -> UserError:
    """The line for a file that a library could not read: `damaged`, unless the system is to blame."""
    return not_of_file(error, path) or UserError(damaged)


def not_of_file(error: BaseException, path: object) -> UserError | None:
    """The line where it is the system that is to blame for a file that could not be read, and not the file.

    Who may not read it, has no memory left for it, or whose network drive fails, should not be told to delete it.
    """
    if isinstance(error, Unavailable):
        return error
    missing = any(_number(each) == errno.ENOENT for each in _chain(error))
    return None if missing else of_system(error, path)


def _number(error: BaseException) -> int | None:
    """The system's number for what went wrong, one of _SYSTEM: as the error has it, or by the words that it quotes."""
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        return error.errno
    return next((number for words, number in _QUOTED.items() if words in str(error)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _named(error: BaseException) -> str:
    """The file that an error is about, under the name that it will have."""
    names = [getattr(error, name, None) for name in ("filename2", "filename")]
    paths = [os.fsdecode(name) for name in names if isinstance(name, str | bytes | os.PathLike)]
    if not paths and (match := _PATH.search(str(error))):
        paths = [match[1] or match[2]]
    return _PARTIAL.sub("", paths[0]) if paths else ""
