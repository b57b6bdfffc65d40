"""Rows of CSV by the million: columns of fixed-width bytes laid side by side, their padding removed at once.

Text is numpy "S" arrays. A NUL byte, wherever it stands, is padding, so that texts of any length fit one width, and an
empty field is all NULs. A column that repeats is a small table and an index into it: nothing is formatted twice.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Constant bytes; "S" (n,), one a row; or ("S" (k,), index (n,))
Column = bytes | np.ndarray | tuple[np.ndarray, np.ndarray]


class Rows(NamedTuple):
    """Rows of a table by patient: whose each one is, ascending, and its fields with their commas and line ends."""

    patient: np.ndarray  # number of the patient within the block
    columns: tuple[Column, ...]


CHUNK = 1 << 14  # rows formatted at once: about 3 MB, which a core's cache holds
EPOCH = np.datetime64("2060-01-01")  # of `date` and `clock`; the years of MIMIC-IV lie after it
DAY = 1440  # minutes


def table(texts: Sequence[str]) -> np.ndarray:
    """Texts as an "S" array, in UTF-8."""
    return np.array([text.encode() for text in texts])


def quote(text: str) -> str:
    """`text` as a CSV field, quoted only where it must be, as in MIMIC-IV."""
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(c in text for c in ',"\n') else text


_FOUR = table([f"{i:04d}" for i in range(10_000)])
# The first entry is the empty text of a null
_DATES = np.concatenate([[b""], np.datetime_as_string(EPOCH + np.arange(280 * 366)).astype("S10")])
_MINUTES = table(["", *(f" {i // 60:02d}:{i % 60:02d}:00" for i in range(DAY))])
_SECONDS = table(["", *(f" {i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}" for i in range(60 * DAY))])


def number(x: np.ndarray) -> np.ndarray:
    """Whole numbers as text, "S" (n,); a negative one is null."""
    groups = -(-len(str(int(x.max(initial=0)))) // 4)
    width = 4 * groups
    parts = np.empty((len(x), groups), "S4")
    rest = np.maximum(x, 0)
    for g in reversed(range(groups)):
        rest, last = np.divmod(rest, 10_000)
        parts[:, g] = _FOUR[last]
    text = parts.view(np.uint8).reshape(len(x), width)
    for place in range(width - 1):
        short = x < 10 ** (width - 1 - place)
        if not short.any():
            break
        text[short, place] = 0
    text[x < 0] = 0
    return text.view(f"S{width}").ravel()


def date(days: np.ndarray) -> Column:
    """Days since EPOCH as YYYY-MM-DD; a negative one is null."""
    return _DATES, np.maximum(days, -1) + 1


def clock(minutes: np.ndarray) -> list[Column]:
    """Minutes since EPOCH as the two columns of YYYY-MM-DD HH:MM:00; a negative one is null."""
    return [date(minutes // DAY), (_MINUTES, np.where(minutes < 0, 0, minutes % DAY + 1))]


def clock_seconds(seconds: np.ndarray) -> list[Column]:
    """Seconds since EPOCH as the two columns of YYYY-MM-DD HH:MM:SS; a negative one is null."""
    return [date(seconds // (60 * DAY)), (_SECONDS, np.where(seconds < 0, 0, seconds % (60 * DAY) + 1))]


def fields(*parts: Column | list[Column], end: bytes = b"\n") -> tuple[Column, ...]:
    """The fields of a row with commas between them; a list is one field, or several that have their commas."""
    columns: list[Column] = []
    for part in parts:
        columns += [*(part if isinstance(part, list) else [part]), b","]
    return (*columns[:-1], end)


def _frame(columns: Sequence[Column]) -> np.dtype:
    texts = [c[0] if isinstance(c, tuple) else c for c in columns]
    return np.dtype(
        [(str(i), f"S{max(len(t) if isinstance(t, bytes) else t.dtype.itemsize, 1)}") for i, t in enumerate(texts)]
    )


def _fill(frame: np.ndarray, columns: Sequence[Column], start: int) -> None:
    stop = start + len(frame)
    for i, column in enumerate(columns):
        if isinstance(column, tuple):
            frame[str(i)] = column[0][column[1][start:stop]]
        elif isinstance(column, bytes):
            frame[str(i)] = column
        else:
            frame[str(i)] = column[start:stop]


def join(rows: int, *columns: Column) -> np.ndarray:
    """The columns side by side, "S" (rows,): to be a table that a longer column points into."""
    frame = np.empty(rows, _frame(columns))
    _fill(frame, columns, 0)
    return frame.view(f"S{frame.dtype.itemsize}")


def encode(rows: int, *columns: Column) -> Iterator[bytes]:
    """The text of the first `rows` rows, without padding; a chunk at a time."""
    dtype = _frame(columns)
    moving = [(i, c) for i, c in enumerate(columns) if not isinstance(c, bytes)]
    buffer = bytearray(CHUNK * dtype.itemsize)
    frame = np.frombuffer(buffer, dtype)
    for i, column in enumerate(columns):
        if isinstance(column, bytes):
            frame[str(i)] = column
    for start in range(0, rows, CHUNK):
        part = frame[: rows - start]
        stop = start + len(part)
        for i, column in moving:
            if isinstance(column, tuple):
                part[str(i)] = column[0][column[1][start:stop]]
            else:
                part[str(i)] = column[start:stop]
        text = buffer if len(part) == CHUNK else buffer[: len(part) * dtype.itemsize]
        yield bytes(text.translate(None, b"\0"))
