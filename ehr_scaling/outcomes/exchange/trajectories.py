"""Simulated futures as MEDS events, in the layout of generated trajectories: one parquet file a copy.

The schema is that of MEDS_trajectory_evaluation 0.0.6: MEDS' own columns and the time of the prediction.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling.artifacts import work_directory, writing
from ehr_scaling.data import parquet
from ehr_scaling.data.presets.paths import PRESSURE, PRESSURES
from ehr_scaling.data.timelines.timelines import SPLITS
from ehr_scaling.data.tokenization.event_tokens import Event, Grouping
from ehr_scaling.data.vocabulary import HOUR, Vocabulary
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.sampler.simulate import Clock, Futures

SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
    ]
)
NOTHING = "NO_EVENT"  # the one row of a copy without events: if it had none, shares of copies would come out wrong
_AT_ONCE = 2_048  # samples that are spelt in memory

Rows = tuple[tuple[str, float | None], ...]


class Reader:
    """Cuts futures into events, and spells events as MEDS does, by one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.grouping = vocabulary, Grouping(vocabulary)
        self.first_value = vocabulary.index[vocabulary.quantile_tokens[0]]
        self._spelt: dict[tuple[int, ...], Rows] = {}

    def events(self, tokens: Sequence[int]) -> Iterator[Event]:
        """The events of one copy, in their order; a value that follows no code is one of its own."""
        return self.grouping.split(tokens)

    def rows(self, event: Event) -> Rows:
        """Codes and values of an event, see `write`; none for a value that follows no code."""
        if (spelt := self._spelt.get(event.tokens)) is None:
            spelt = self._spelt[event.tokens] = self._spell(event.tokens)
        return spelt

    def _spell(self, run: tuple[int, ...]) -> Rows:
        coded = [i for i in run if i not in self.grouping.values]
        names = [self.vocabulary.tokens[i] for i in coded]
        bins = [i - self.first_value for i in run if i in self.grouping.values]
        if not names:
            return ()
        if names[0] == PRESSURE:
            both = [
                (f"{PRESSURE}//{which}", self.value(scale, k))
                for (which, scale), k in zip(PRESSURES.items(), bins, strict=False)
            ]
            return tuple(both) or ((PRESSURE, None),)
        if (fused := self.vocabulary.fused.get(coded[0])) is not None:
            return ((fused[0], self.value(*fused)),)
        return ((self.grouping.code(run), self.value(names[0], bins[0]) if bins else None),)

    def value(self, scale: str, k: int) -> float | None:
        """A value of bin `k`, from 0, that falls into that bin again; None where the scale has no such bin.

        The middle between its two breaks; of the first and the last bin, which have one, the value nearest to it.
        """
        breaks = np.array(self.vocabulary.quantiles.get(scale, ()), np.float32)
        if not 0 <= k <= len(breaks) or not len(breaks):
            return None
        if k == 0:
            return float(breaks[0])
        low = breaks[k - 1]
        above = np.nextafter(low, np.float32(np.inf))
        middle = np.float32((float(low) + float(breaks[k])) / 2) if k < len(breaks) else above
        return float(max(middle, above))


def check_new(out: Path) -> None:
    """Raises UserError when trajectories cannot be written into `out`: those of another model would mix with them."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is no folder: name one for trajectories")
    if next(out.glob("*/*.parquet"), None):
        raise UserError(f"{out} holds trajectories already: name another folder, or delete it")


def write(
    out: Path,
    split: str,
    stays: Stays,
    futures: Futures,
    vocabulary: Vocabulary,
    clock: Clock,
    gaps: np.ndarray,
    silence: float = 0.0,
) -> dict[str, int]:
    """Write `<out>/<split>/<k>.parquet` for each copy k, sorted by subject, prediction time and time.

    An event is at the time of the prediction and as many simulated hours later as silence and `elapsed` say, to the
    microsecond. Intervals are no events. Its code is that of the source as far as tokens tell: the tokens of one ICD or
    ATC code are put together again (DIAGNOSIS//ICD//10//I5023), places follow their event (HOSPITAL_DISCHARGE//HOME),
    all other codes are as the vocabulary spells them. numeric_value is the middle of the bin of a Q token that follows
    the code, see `Reader.value`; null where there is none. A Q token that follows no code is no event. TIMELINE_END is
    one; a copy without any event has one row of code NO_EVENT, at the time of the prediction.

    Args:
      out: made where it is missing, readable by its owner alone, for what it holds is about patients.
      split: train, validation or test, whose folder is named as in MEDS (train, tuning, held_out); or any other name.
      stays: n, of which subject_ids and times are used. Where two have both in common, the first one is written: a
        reader could not tell them apart.
      clock, and gaps, float32 (n,) hours: as they were given to `simulate`.
      silence: hours after the prediction that the gaps reach to, see `tasks.Task`.
    Returns: counts over all files: trajectories (copies written), events, empty (copies without any event),
      lone_values (Q tokens that follow no code), repeated (stays that are not written).
    Raises: UserError when `out` is no folder, or holds trajectories already.
    """
    check_new(out)
    folder = work_directory(out) / SPLITS.get(split, split)
    folder.mkdir(exist_ok=True)
    order = np.lexsort((stays.times, stays.subject_ids))
    keys = np.stack([stays.subject_ids[order], stays.times[order]])
    first = np.append(True, (keys[:, 1:] != keys[:, :-1]).any(axis=0))[: len(order)]
    kept = order[first]
    reader = Reader(vocabulary)
    copies = futures.tokens.shape[1]
    totals = {"trajectories": len(kept) * copies, "events": 0, "empty": 0, "lone_values": 0}
    for copy in range(copies):
        path = folder / f"{copy}.parquet"
        with writing(path) as partial, pq.ParquetWriter(partial, SCHEMA, **parquet.WRITING) as file:
            for begin in range(0, len(kept), _AT_ONCE):
                rows = kept[begin : begin + _AT_ONCE]
                hours = elapsed(futures.tokens[rows, copy : copy + 1], clock, gaps[rows])[:, 0] + silence
                table, counts = _table(reader, stays.take(rows), futures.tokens[rows, copy], hours)
                file.write_table(table)
                for name, n in counts.items():
                    totals[name] += n
    return {**totals, "repeated": len(order) - len(kept)}


def _table(reader: Reader, stays: Stays, tokens: np.ndarray, hours: np.ndarray) -> tuple[pa.Table, dict[str, int]]:
    """Rows of one copy of each of the stays. Args: tokens, int (n, G); hours, float64 (n, G)."""
    owners: list[int] = []
    after: list[float] = []
    codes: list[str] = []
    values: list[float | None] = []
    counts = {"events": 0, "empty": 0, "lone_values": 0}
    for i, (row, times) in enumerate(zip(tokens.tolist(), hours.tolist(), strict=True)):
        before = len(codes)
        for event in reader.events(row):
            event_rows = reader.rows(event)
            counts["lone_values"] += not event_rows
            for code, value in event_rows:
                owners.append(i)
                after.append(times[event.at])
                codes.append(code)
                values.append(value)
        counts["events"] += len(codes) - before
        if len(codes) == before:
            counts["empty"] += 1
            owners.append(i)
            after.append(0.0)
            codes.append(NOTHING)
            values.append(None)
    owner = np.array(owners, np.int64)
    predicted = stays.times[owner]
    times = predicted + np.rint(np.array(after, np.float64) * HOUR).astype(np.int64)
    columns = [
        pa.array(stays.subject_ids[owner], pa.int64()),
        pa.array(times, pa.int64()).cast(pa.timestamp("us")),
        pa.array(codes, pa.string()),
        pa.array(values, pa.float32()),
        pa.array(predicted, pa.int64()).cast(pa.timestamp("us")),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA), counts


def read(folder: Path) -> list[pa.Table]:
    """The trajectories of a split, `<out>/<split>`, one table of SCHEMA a copy, in the order of the copies.

    Raises: UserError where there are none, or a file is damaged or of another schema; it names the file.
    """
    paths = sorted(folder.glob("[!.]*.parquet"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        raise UserError(f"{folder} holds no trajectories: write them first")
    tables = []
    for path in paths:
        try:
            table = parquet.read(path)
        except (OSError, pa.ArrowException) as e:
            raise UserError(f"{path} is damaged ({first_line(e)}): delete it and write it again") from None
        if not table.schema.equals(SCHEMA):
            raise UserError(f"{path} has other columns than {', '.join(SCHEMA.names)}: name a folder of trajectories")
        tables.append(table)
    return tables


def elapsed(tokens: np.ndarray, clock: Clock, gaps: np.ndarray) -> np.ndarray:
    """Hours from the end of the gap to each token, float64 of the shape of `tokens`, as `simulate` counts them.

    The gap ends at the prediction, or at the end of a task's silence after it. The first token begins the time after
    it, however short its interval; every other adds the mean of its own.

    Args: tokens, int (n, C, G); gaps, float (n,), hours from the prompt's last event.
    """
    steps = np.asarray(clock.hours, np.float64)[tokens]
    steps[..., 0] = np.maximum(steps[..., 0] - np.asarray(gaps, np.float64)[:, None], 0.0)
    return np.cumsum(steps, axis=-1)
