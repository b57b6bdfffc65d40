"""What measured values of a stay come to by the time of its prediction: for baselines, which read numbers, not tokens.

Models read bins of values; a summary of the values themselves is what a competent analyst would give a regression or
trees. It is made from events/, since timelines hold no values.

Shapes: n stays, C codes, S statistics.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.asking.stays import Stays, after

WINDOWS = (np.inf, 24.0, 6.0)  # hours before the prediction; the first is the whole record
OF_WINDOW = ("count", "mean", "minimum", "maximum")
OF_RECORD = ("first", "last", "deviation", "slope", "hours since the last")
STATISTICS = len(WINDOWS) * len(OF_WINDOW) + len(OF_RECORD)
MOST_CODES, LEAST_STAYS = 60, 20  # codes at most, the commonest, of values that so many stays have (or a tenth of all)
_AT_ONCE = 4_000_000  # values of stays at a time


class Values(NamedTuple):
    """Values of some stays, all arrays (m,), ascending by stay and, within it, by time."""

    stay: np.ndarray  # int64, row of the stays
    code: np.ndarray  # int64, place in the codes
    hours: np.ndarray  # float64, before the prediction
    value: np.ndarray  # float64


def common_codes(workdir: Path, split: str, stays: Stays, including: bool) -> list[str]:
    """The codes whose values most stays have, the commonest first, MOST_CODES at most.

    Args: including, whether what bears the very time of the prediction is known then: it is where a prompt ends at a
      time, and not where it ends at a token, after which others of that time may follow.
    Raises: UserError where events/ are missing or damaged.
    """
    stays_of: dict[str, int] = {}
    for names, values in _values(workdir, split, stays, including):
        pair = np.unique(values.stay * len(names) + values.code)
        for i, count in enumerate(np.bincount(pair % max(len(names), 1), minlength=len(names)).tolist()):
            stays_of[names[i]] = stays_of.get(names[i], 0) + count
    least = max(2, min(LEAST_STAYS, len(stays.labels) // 10))
    order = sorted((name for name in stays_of if stays_of[name] >= least), key=lambda name: (-stays_of[name], name))
    return order[:MOST_CODES]


def summaries(workdir: Path, split: str, stays: Stays, codes: list[str], including: bool) -> np.ndarray:
    """Of each stay and code the statistics of its values up to the prediction: float32 (n, C·S), NaN for none.

    Columns of a code, in this order: those of OF_WINDOW for each of WINDOWS, then those of OF_RECORD. Slope: of the
    least squares line through the values, a day; 0 where all are of one time. Counts are 0, not NaN, where there is no
    value. Args and errors as `common_codes`.
    """
    out = np.full((len(stays.labels), len(codes), STATISTICS), np.nan, np.float32)
    out[:, :, 0 : len(WINDOWS) * len(OF_WINDOW) : len(OF_WINDOW)] = 0
    place = {code: i for i, code in enumerate(codes)}
    for names, values in _values(workdir, split, stays, including):
        to_code = np.array([place.get(name, -1) for name in names], np.int64)
        wanted = to_code[values.code] >= 0
        stay, code, hours, value = (field[wanted] for field in values)
        code = to_code[code]
        order = np.argsort(stay * len(codes) + code, kind="stable")  # the order of time stays
        stay, code, hours, value = stay[order], code[order], hours[order], value[order]
        for w, window in enumerate(WINDOWS):
            here = hours <= window
            _summarise(out, stay[here], code[here], value[here], w * len(OF_WINDOW))
        _of_record(out, stay, code, hours, value)
    return out.reshape(len(out), -1)


def names(codes: list[str]) -> list[str]:
    """What the columns of `summaries` are."""
    windows = ["" if np.isinf(window) else f" of {window:g} h" for window in WINDOWS]
    statistics = [f"{name}{window}" for window in windows for name in OF_WINDOW] + list(OF_RECORD)
    return [f"{code} {statistic}" for code in codes for statistic in statistics]


def _groups(stay: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each (stay, code) begins, and how many values it has."""
    starts = np.flatnonzero(np.r_[True, (stay[1:] != stay[:-1]) | (code[1:] != code[:-1])])
    return starts, np.diff(np.r_[starts, len(stay)])


def _summarise(out: np.ndarray, stay: np.ndarray, code: np.ndarray, value: np.ndarray, column: int) -> None:
    if not len(stay):
        return
    starts, counts = _groups(stay, code)
    at = stay[starts], code[starts]
    out[(*at, column)] = counts
    out[(*at, column + 1)] = np.add.reduceat(value, starts) / counts
    out[(*at, column + 2)] = np.minimum.reduceat(value, starts)
    out[(*at, column + 3)] = np.maximum.reduceat(value, starts)


def _of_record(out: np.ndarray, stay: np.ndarray, code: np.ndarray, hours: np.ndarray, value: np.ndarray) -> None:
    if not len(stay):
        return
    starts, counts = _groups(stay, code)
    ends, at = starts + counts - 1, (stay[starts], code[starts])

    def centred(x: np.ndarray) -> np.ndarray:
        return x - np.repeat(np.add.reduceat(x, starts) / counts, counts)

    v, t = centred(value), centred(-hours / 24)
    squares, moments = np.add.reduceat(t * t, starts), np.add.reduceat(t * v, starts)
    slope = np.divide(moments, squares, out=np.zeros(len(starts)), where=squares > 1e-12)
    deviation = np.sqrt(np.add.reduceat(v * v, starts) / counts)
    first = len(WINDOWS) * len(OF_WINDOW)
    for i, statistic in enumerate((value[starts], value[ends], deviation, slope, hours[ends])):
        out[(*at, first + i)] = statistic


def _values(workdir: Path, split: str, stays: Stays, including: bool) -> Iterator[tuple[list[str], Values]]:
    """The numeric values that stays know of, some stays at a time: names of codes, and the values."""
    folder = Layout(workdir).events / "data" / timelines.SPLITS[split]
    order = np.argsort(stays.subject_ids, kind="stable")
    subjects = stays.subject_ids[order]
    for path in sorted(folder.glob("*.parquet"), key=lambda path: int(path.stem)):
        table = _numbers(path)
        ids = table["subject_id"].to_numpy()
        times = table["time"].cast(pa.int64()).to_numpy()
        value = table["numeric_value"].to_numpy().astype(np.float64)
        codes = table["code"].combine_chunks().dictionary_encode()
        code, names = codes.indices.to_numpy().astype(np.int64), codes.dictionary.to_pylist()
        if not len(ids):
            continue
        some = order[np.searchsorted(subjects, ids[0]) : np.searchsorted(subjects, ids[-1], "right")]
        begins = np.searchsorted(ids, stays.subject_ids[some])
        ends = np.searchsorted(ids, stays.subject_ids[some], "right")
        ends = after(times, begins, ends, stays.times[some] - (not including))
        lengths = ends - begins
        cut = np.searchsorted(np.cumsum(lengths), np.arange(_AT_ONCE, max(int(lengths.sum()), 1), _AT_ONCE))
        for part in np.split(np.arange(len(some)), np.unique(cut)):
            counts = lengths[part]
            if not counts.sum():
                continue
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            at, stay = np.repeat(begins[part], counts) + inside, np.repeat(some[part], counts)
            yield names, Values(stay, code[at], (stays.times[stay] - times[at]) / HOUR, value[at])


def _numbers(path: Path) -> pa.Table:
    """Rows with a time and a finite number."""
    columns = ["subject_id", "time", "code", "numeric_value"]
    try:
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException, KeyError) as e:
        raise UserError(f"{path} cannot be read ({first_line(e)}): delete events/ and prepare again") from None
    return table.filter(pc.and_(pc.is_valid(table["time"]), pc.is_finite(table["numeric_value"])))
