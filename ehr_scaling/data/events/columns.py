"""Events of a parquet file as arrays, some whole patients at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ehr_scaling.data import parquet
from ehr_scaling.errors import UserError, first_line, unreadable

STATIC = np.iinfo(np.int64).min  # the "time" of static facts, and the birth of a patient whose birth is not known
_CHUNK = 100_000  # events at once: what is made of them stays in the cache, twice as fast as 2 million at once


class Columns(NamedTuple):
    """Events of whole patients, n rows, as arrays."""

    subjects: np.ndarray  # int64 (n,)
    times: np.ndarray  # int64 (n,) µs; STATIC where null
    codes: np.ndarray  # int32 (n,), index into names
    values: np.ndarray  # float32 (n,); NaN where there is none
    names: list[str]


def read_columns(path: Path) -> Iterator[Columns]:
    """Columns of one parquet file of events, some whole patients at a time.

    Raises UserError when the file cannot be read, lacks a column, or is not sorted by patient and time.
    """
    try:
        wanted = ("subject_id", "time", "code", "numeric_value")
        table = parquet.read(path, wanted, read_dictionary=["code"])
        code = table["code"] if pa.types.is_dictionary(table["code"].type) else table["code"].dictionary_encode()
        code = code.unify_dictionaries().combine_chunks()
        if isinstance(code, pa.ChunkedArray):  # what combine_chunks returns for a dictionary differs by version
            code = code.chunk(0) if code.num_chunks else pa.array([], pa.string()).dictionary_encode()
        subjects = table["subject_id"].to_numpy()
        times = pc.fill_null(table["time"].cast(pa.timestamp("us")).cast(pa.int64()), STATIC).to_numpy()
        values = pc.fill_null(table["numeric_value"].cast(pa.float32()), float("nan")).to_numpy()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: delete the events folder it was in and run again") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, OSError, KeyError) as e:
        damaged = (
            f"{path} cannot be read as MEDS events ({first_line(e)}): delete the events folder it is in and run again"
        )
        raise unreadable(e, path, damaged) from None
    if code.null_count or table["subject_id"].null_count:
        raise UserError(f"{path} has an event without code or subject_id: mend the source")
    names, codes = code.dictionary.to_pylist(), code.indices.to_numpy()
    same = subjects[1:] == subjects[:-1]
    starts = np.concatenate([[0], np.flatnonzero(~same) + 1, [len(subjects)]])
    if len(np.unique(subjects)) != len(starts) - 1 - (len(subjects) == 0) or (times[1:] < times[:-1])[same].any():
        raise UserError(f"{path} is not sorted by subject_id and time (null times first): mend the source")
    first = 0
    while first < len(subjects):
        last = starts[np.searchsorted(starts, min(first + _CHUNK, len(subjects)), side="left")]
        part = slice(first, last)
        yield Columns(subjects[part], times[part], codes[part], values[part], names)
        first = last
