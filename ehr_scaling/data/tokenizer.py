"""Events to tokens, by the `clean` preset: vocabulary and quantiles fitted on train, arrays all the way."""

import collections
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling.data import events
from ehr_scaling.data.quantiles import ValueCounts, ordered_bits
from ehr_scaling.data.vocabulary import (
    AGES,
    END,
    INTERVAL_BOUNDS,
    INTERVALS,
    QUANTILES,
    SIX_MONTHS,
    SPECIAL,
    UNK,
    UNKNOWN,
    Vocabulary,
    family,
    split_code,
)
from ehr_scaling.errors import UserError

STATIC = np.iinfo(np.int64).min  # the "time" of static facts, and the birth of a patient whose birth is not known
DEFAULTS: dict[str, Any] = {
    "preset": "clean",
    "min_count": 5,  # rarer tokens teach nothing and may point at one patient: they fall back to their prefix
    "min_values": 20,  # two values a bin; with fewer the breaks are noise and the code keeps its own token only
    # Families whose last value up to a window's start is in its prefix, beside those that are static (null time).
    "timed_context": ("GENDER", "RACE", "MARITAL", "INSURANCE", "BMI"),
    # Of families in the prefix, those that are no event of their own: their timed values make no token.
    "context_only": ("GENDER", "RACE", "MARITAL"),
}
_MOST_SLOTS = 32  # a prefix longer than this is not what anyone wants, and hides a source that has no times
_CHUNK = 2_000_000  # events tokenized at once, which bounds memory to some 300 MB whatever the shards are


class Columns(NamedTuple):
    """Events of whole patients, n rows, as arrays."""

    subjects: np.ndarray  # int64 (n,)
    times: np.ndarray  # int64 (n,) µs; STATIC where null
    codes: np.ndarray  # int32 (n,), index into names
    values: np.ndarray  # float32 (n,); NaN where there is none
    names: list[str]


class Timelines(NamedTuple):
    """Token sequences of P patients, concatenated; patient p owns rows offsets[p]:offsets[p+1]."""

    subject_ids: np.ndarray  # int64 (P,)
    births: np.ndarray  # int64 (P,) µs; STATIC where not known
    tokens: np.ndarray  # uint16 or uint32 (n,)
    times: np.ndarray  # int64 (n,) µs; an interval token has the time of the event that follows it
    offsets: np.ndarray  # int64 (P+1,)
    context_tokens: np.ndarray  # uint16 or uint32 (m,): values of context families, in the order of the events
    context_times: np.ndarray  # int64 (m,) µs; STATIC for static facts
    context_slots: np.ndarray  # uint8 (m,), index into Vocabulary.context_slots
    context_offsets: np.ndarray  # int64 (P+1,)


def options(given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """DEFAULTS with `given` laid over them, ready for JSON. Raises UserError for an unknown name or preset."""
    given = dict(given or {})
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise UserError(f"unknown tokenizer option {unknown[0]!r}: take one of {', '.join(DEFAULTS)}")
    merged = {**DEFAULTS, **given}
    if merged["preset"] != "clean":
        raise UserError(f"unknown tokenizer preset {merged['preset']!r}: take 'clean'")
    for name in ("min_count", "min_values"):
        if not isinstance(merged[name], int) or merged[name] < 1:
            raise UserError(f"tokenizer option {name} is {merged[name]!r}: take a whole number from 1 up")
    return {k: list(v) if isinstance(v, tuple | list) else v for k, v in merged.items()}


def read_columns(path: Path) -> Iterator[Columns]:
    """Columns of one parquet file of events, some whole patients at a time.

    Raises UserError when the file cannot be read, lacks a column, or is not sorted by patient and time.
    """
    try:
        table = pq.read_table(path, columns=["subject_id", "time", "code", "numeric_value"], read_dictionary=["code"])
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
        raise UserError(f"{path} cannot be read as MEDS events ({str(e).splitlines()[0]})") from None
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


def _slot_family(code: str) -> str:
    path = split_code(code)
    return family(path[0] if path else code)


def fit(folder: Path, settings: Mapping[str, Any]) -> Vocabulary:
    """Vocabulary, context slots and quantile breaks of the train split of the events `folder`.

    Counts are those of codes; `timelines.build` replaces them by the counts of tokens once train is tokenized.
    """
    numbers: dict[str, int] = {}
    timed: collections.Counter[int] = collections.Counter()
    static: collections.Counter[int] = collections.Counter()
    values = ValueCounts()
    for path in events.shards(folder, "train"):
        for part in read_columns(path):
            number = np.array([numbers.setdefault(name, len(numbers)) for name in part.names], np.int64)
            is_static = part.times == STATIC
            for counter, rows in ((static, is_static), (timed, ~is_static)):
                found = np.bincount(part.codes[rows], minlength=len(part.names))
                for i in np.flatnonzero(found):
                    counter[int(number[i])] += int(found[i])
            rows = np.isfinite(part.values)
            values.add(number[part.codes[rows]], part.values[rows])
    names = list(numbers)
    breaks = {names[i]: tuple(map(float, b)) for i, b in values.breaks(settings["min_values"]).items()}
    slots = _slots({names[i] for i in static}, {names[i] for i in timed}, settings)
    in_timeline = {names[i]: n for i, n in timed.items() if _makes_tokens(names[i], settings)}
    in_context = {names[i]: static[i] + timed[i] for i in {*static, *timed} if _slot_family(names[i]) in slots}
    return _number(in_timeline, in_context, slots, breaks, settings)


def _slots(static: set[str], timed: set[str], settings: Mapping[str, Any]) -> list[str]:
    # A death or birth without a time would be an answer given in advance.
    null_time = {_slot_family(code) for code in static} - {events.BIRTH, events.DEATH}
    if len(null_time) > _MOST_SLOTS:
        raise UserError(
            f"{len(null_time)} families of codes have no time, such as {', '.join(sorted(null_time)[:3])}: at most "
            f"{_MOST_SLOTS} can be static context; give the others a time in the source or leave them out"
        )
    found = {_slot_family(code) for code in timed}
    later = [name for name in settings["timed_context"] if name in found and name not in null_time]
    return sorted(null_time) + later


def _makes_tokens(code: str, settings: Mapping[str, Any]) -> bool:
    name = _slot_family(code)
    return bool(split_code(code)) and name != events.BIRTH and name not in settings["context_only"]


def _number(in_timeline, in_context, slots, breaks, settings) -> Vocabulary:
    """Choose and order the tokens: see Vocabulary.tokens."""
    least = settings["min_count"]
    seen: dict[str, collections.Counter[str]] = {slot: collections.Counter() for slot in slots}
    bins = dict.fromkeys(slots, 0)
    for code, n in in_context.items():
        slot = _slot_family(code)
        if code in breaks:
            bins[slot] = max(bins[slot], len(breaks[code]) + 1)
        elif split_code(code) and split_code(code) != (slot,):
            seen[slot][split_code(code)[0]] += n
    context = []
    for slot in slots:  # the bins of a slot have consecutive ids
        context += [f"{slot}//{value}" for value in (UNKNOWN, *QUANTILES[: bins[slot]])]
        context += sorted(token for token, n in seen[slot].items() if n >= least)
    full: collections.Counter[str] = collections.Counter()
    for code, n in in_timeline.items():
        for token in split_code(code):
            full[token] += n
    bare = {token for token in full if token == family(token)}
    # A bare family name is the last resort of its family already: FAMILY//UNK is for the others.
    unknown = {f"{family(token)}//{UNK}" for token in full} - {f"{name}//{UNK}" for name in bare}
    candidates = {token for token, n in full.items() if n >= least} | bare | unknown
    head = list(dict.fromkeys([*SPECIAL, *AGES, *context]))
    draft = Vocabulary((*head, *sorted(candidates - set(head))), (), tuple(slots), {}, (), {})
    # Counted again as they will be written: what only ever follows a rarer token is never reached, and goes.
    counts: collections.Counter[int] = collections.Counter()
    for code, n in in_timeline.items():
        for i in draft.encode(split_code(code))[0]:
            counts[i] += n
    reached = [i for i in range(len(head), len(draft.tokens)) if counts[i] or draft.tokens[i] in unknown]
    reached.sort(key=lambda i: (-counts[i], draft.tokens[i]))
    order = [*range(len(head)), *reached]
    return Vocabulary(
        tokens=tuple(draft.tokens[i] for i in order),
        counts=tuple(counts[i] for i in order),
        context_slots=tuple(slots),
        quantiles=dict(sorted(breaks.items())),
        interval_seconds=(),
        settings=dict(settings),
    )


class _CodeTable(NamedTuple):
    """What each distinct code of a shard becomes."""

    path: np.ndarray  # int64, ids of all paths
    path_start: np.ndarray
    path_length: np.ndarray
    birth: np.ndarray  # bool
    fallback: np.ndarray  # bool: a part of the path is not in the vocabulary
    slot: np.ndarray  # int64, -1: no context
    context: np.ndarray  # int64, id of the context token; of its Q1 where the code has breaks
    unknown: np.ndarray  # int64, id of the context token where a code with breaks comes without a value
    break_keys: np.ndarray  # uint64, code << 32 | ordered bits of the break, ascending
    break_start: np.ndarray  # (codes+1,)


def _code_table(names: list[str], vocabulary: Vocabulary) -> _CodeTable:
    index, settings = vocabulary.index, vocabulary.settings
    slot_of = {name: i for i, name in enumerate(vocabulary.context_slots)}
    path: list[int] = []
    rows = []
    keys: list[np.ndarray] = []
    breaks = [0]
    for row, code in enumerate(names):
        parts = split_code(code)
        ids, fallback = vocabulary.encode(parts) if _makes_tokens(code, settings) else ([], False)
        slot = slot_of.get(name := _slot_family(code), -1)
        context = unknown = -1
        if slot >= 0:
            unknown = index[f"{name}//{UNKNOWN}"]
            token = f"{name}//Q1" if code in vocabulary.quantiles else parts[0] if parts else name
            context = unknown if token == name else index.get(token, unknown)
        rows.append((len(path), len(ids), name == events.BIRTH, fallback, slot, context, unknown))
        path += ids
        bits = ordered_bits(np.array(vocabulary.quantiles.get(code, ()), np.float32))
        keys.append((np.uint64(row) << np.uint64(32)) | bits)
        breaks.append(breaks[-1] + len(bits))
    table = np.array(rows, np.int64).reshape(-1, 7)
    return _CodeTable(
        np.array([*path, 0], np.int64),  # one more, so that an empty path at the end has a place to point at
        table[:, 0],
        table[:, 1],
        table[:, 2].astype(bool),
        table[:, 3].astype(bool),
        table[:, 4],
        table[:, 5],
        table[:, 6],
        np.concatenate([np.zeros(0, np.uint64), *keys]),
        np.array(breaks, np.int64),
    )


class Stats(NamedTuple):
    """What tokenizing some patients met; sums over parts of a split add up."""

    events: int  # that make tokens
    fallbacks: int  # of them, those of which a part was not in the vocabulary
    empty: int  # patients left out because nothing but static facts or birth is known of them
    interval_sums: np.ndarray  # float64 (13,) seconds between events, by class
    interval_tokens: np.ndarray  # int64 (13,)


def tokenize(path: Path, vocabulary: Vocabulary) -> Iterator[tuple[Timelines, Stats]]:
    """Token sequences of the patients of one parquet file of events, some at a time.

    An event becomes [interval tokens] code tokens [Q token]. The interval stands for the time since the event
    before, from 5 minutes up; there is none before a patient's first event, so none from birth. The Q token is
    1 + the number of breaks strictly below the value, and follows codes that have breaks, when the value is finite.
    TIMELINE_END closes each timeline. Raises UserError as `read_columns` does.
    """
    table: _CodeTable | None = None
    for part in read_columns(path):
        if table is None:
            table = _code_table(part.names, vocabulary)
        yield _tokenize(part, table, vocabulary)


def _tokenize(part: Columns, table: _CodeTable, vocabulary: Vocabulary) -> tuple[Timelines, Stats]:
    first = np.concatenate([[True], part.subjects[1:] != part.subjects[:-1]])
    patient = np.cumsum(first) - 1
    subject_ids = part.subjects[first]
    has_time = part.times != STATIC

    births = np.full(len(subject_ids), STATIC)
    rows = np.flatnonzero(table.birth[part.codes] & has_time)[::-1]  # reversed: the first one stays
    births[patient[rows]] = part.times[rows]

    # Patients without an event that makes tokens have no timeline: renumber the others.
    rows = np.flatnonzero(has_time & (table.path_length[part.codes] > 0))
    kept = np.bincount(patient[rows], minlength=len(subject_ids)) > 0
    renumber = np.cumsum(kept) - 1
    count = int(kept.sum())

    codes, times, owner = part.codes[rows], part.times[rows], renumber[patient[rows]]
    gap = np.diff(times, prepend=times[:1])
    starts = np.concatenate([[True], owner[1:] != owner[:-1]])[: len(rows)]
    gap[starts] = 0
    interval = np.searchsorted(INTERVAL_BOUNDS, gap, side="right") - 1  # -1: none
    repeats = (interval >= 0).astype(np.int64)
    long = interval == len(INTERVALS) - 1
    repeats[long] = (gap[long] + SIX_MONTHS // 2) // SIX_MONTHS
    bins = _bins(codes, part.values[rows], table)
    length = table.path_length[codes]
    ends = np.concatenate([owner[1:] != owner[:-1], [True]])[: len(rows)]
    size = repeats + length + (bins >= 0) + ends

    stop = np.cumsum(size)
    start = stop - size
    total = int(stop[-1]) if len(stop) else 0
    tokens = np.empty(total, vocabulary.dtype)
    some = np.flatnonzero(repeats)
    at = np.repeat(start[some] - np.cumsum(repeats[some]) + repeats[some], repeats[some])
    at += np.arange(len(at))
    tokens[at] = np.repeat(vocabulary.index[INTERVALS[0]] + interval[some], repeats[some])
    at = start + repeats
    for j in range(int(length.max(initial=0))):
        some = np.flatnonzero(length > j)
        tokens[at[some] + j] = table.path[table.path_start[codes[some]] + j]
    some = np.flatnonzero(bins >= 0)
    tokens[at[some] + length[some]] = vocabulary.index[QUANTILES[0]] + bins[some]
    tokens[stop[ends] - 1] = vocabulary.index[END]

    context = np.flatnonzero((table.slot[part.codes] >= 0) & kept[patient])
    context_codes = part.codes[context]
    context_bins = _bins(context_codes, part.values[context], table)
    has_breaks = np.diff(table.break_start)[context_codes] > 0
    context_tokens = np.where(
        has_breaks & (context_bins < 0),
        table.unknown[context_codes],
        table.context[context_codes] + np.maximum(context_bins, 0),
    )
    timelines = Timelines(
        subject_ids=subject_ids[kept],
        births=births[kept],
        tokens=tokens,
        times=np.repeat(times, size),
        offsets=_offsets(np.bincount(owner, weights=size, minlength=count)),
        context_tokens=context_tokens.astype(vocabulary.dtype),
        context_times=part.times[context],
        context_slots=table.slot[context_codes].astype(np.uint8),
        context_offsets=_offsets(np.bincount(renumber[patient[context]], minlength=count)),
    )
    classes = interval[interval >= 0]
    return timelines, Stats(
        events=len(rows),
        fallbacks=int(table.fallback[codes].sum()),
        empty=len(subject_ids) - count,
        interval_sums=np.bincount(classes, gap[interval >= 0] / 1e6, minlength=len(INTERVALS)),
        interval_tokens=np.bincount(classes, repeats[interval >= 0], minlength=len(INTERVALS)).astype(np.int64),
    )


def _bins(codes: np.ndarray, values: np.ndarray, table: _CodeTable) -> np.ndarray:
    """Number of breaks of its code strictly below each value; -1 without breaks or without a value. int64 (n,)"""
    bins = np.full(len(codes), -1)
    rows = np.flatnonzero((np.diff(table.break_start)[codes] > 0) & np.isfinite(values))
    keys = (codes[rows].astype(np.uint64) << np.uint64(32)) | ordered_bits(values[rows])
    bins[rows] = np.searchsorted(table.break_keys, keys, side="left") - table.break_start[codes[rows]]
    return bins


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
