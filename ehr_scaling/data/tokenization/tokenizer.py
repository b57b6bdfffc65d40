"""Events to tokens: arrays all the way, one rule a distinct code. What is fitted on train comes from `fitting`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.data import presets
from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.events import events
from ehr_scaling.data.events.columns import STATIC, Columns, read_columns
from ehr_scaling.data.presets import NO_PARENTS, Parents
from ehr_scaling.data.presets.rule import Rule
from ehr_scaling.data.tokenization.quantiles import ordered_bits
from ehr_scaling.data.vocabulary import AGE_STYLES, END, UNKNOWN, Vocabulary, family
from ehr_scaling.errors import UserError

COMMON: dict[str, Any] = {
    "preset": "clean",
    "intervals": 13,  # classes of time between events: 13, 19, or lower bounds in minutes
    "bins": 10,  # quantile tokens of a value
    "top_labs": 0,  # only this many LAB codes, the most frequent in train; 0: all
    "code_depth": 0,  # parts kept of a classification code's path; 0: all
    "value_tokens": "separate",  # CODE Qk, or "fused": one token CODE//Qk
    "min_count": 10,  # rarer tokens teach nothing and may point at one patient: they fall back to their prefix
    "min_values": 20,  # two values a bin; with fewer the breaks are noise and the code keeps its own token only
    "min_patients": 0,  # tokens and bins seen in fewer collapse; whoever knows that the data are real asks for 10
    # Families whose last value up to a window's start is in its prefix, beside those that are static (null time).
    "timed_context": ("GENDER", "RACE", "MARITAL", "INSURANCE", "BMI"),
    # Of families in the prefix, those that are no event of their own: their timed values make no token.
    "context_only": ("GENDER", "RACE", "MARITAL"),
    "age": "5-year",  # how the prefix tells it: see vocabulary.AGE_STYLES
    # Values of the prefix: "past" only; "single": one that is alone whatever its time; "last": the last of all.
    "context_time": "past",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    name: {**COMMON, "preset": name, **preset.options} for name, preset in presets.PRESETS.items()
}
DAY = 86_400_000_000  # µs
_WHOLE = {"bins": (2, 100), "top_labs": (0, None), "code_depth": (0, None), "min_patients": (0, None)}
_CHOICE = {"value_tokens": ("separate", "fused"), "age": tuple(AGE_STYLES), "context_time": ("past", "single", "last")}


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
    """DEFAULTS of the preset with `given` laid over them, ready for JSON.

    Raises: UserError for an unknown name, preset or choice, or a number out of range.
    """
    given = dict(given or {})
    preset = given.get("preset", "clean")
    if preset not in DEFAULTS:
        raise UserError(f"unknown tokenizer preset {preset!r}: take one of {', '.join(DEFAULTS)}")
    if unknown := sorted(set(given) - set(COMMON)):
        raise UserError(f"unknown tokenizer option {unknown[0]!r}: take one of {', '.join(COMMON)}")
    merged = {**DEFAULTS[preset], **given}
    for name, (low, high) in {**_WHOLE, "min_count": (1, None), "min_values": (1, None)}.items():
        value = merged[name]
        if not isinstance(value, int) or value < low or (high and value > high):
            wanted = f"a whole number from {low} {f'to {high}' if high else 'up'}"
            raise UserError(f"tokenizer option {name} is {value!r}: take {wanted}")
    for name, choices in _CHOICE.items():
        if merged[name] not in choices:
            raise UserError(f"tokenizer option {name} is {merged[name]!r}: take one of {', '.join(choices)}")
    if merged["age"] == "two-quantiles" and merged["bins"] != 10:
        raise UserError("age='two-quantiles' tells tens and units of years: take bins=10 or another age")
    classes = merged["intervals"]
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        right = len(classes) > 0 and all(isinstance(m, int) and m > 0 for m in classes)
        right = right and all(a < b for a, b in zip(classes, list(classes)[1:], strict=False))
    else:
        right = classes in (13, 19)
    if not right:
        raise UserError(f"tokenizer option intervals is {classes!r}: take 13, 19 or ascending lower bounds in minutes")
    return {k: list(v) if isinstance(v, tuple | list) else v for k, v in merged.items()}


def slot_family(rule: Rule, code: str) -> str:
    """The family under which a code may tell a value of the static context."""
    return family(rule.paths[0][0] if rule.paths else code)


def is_event(rule: Rule, code: str, settings: Mapping[str, Any]) -> bool:
    """Whether a code makes tokens in a timeline (if it has a time, and the value that it may need)."""
    name = slot_family(rule, code)
    return (bool(rule.paths) or bool(rule.scale)) and name != events.BIRTH and name not in settings["context_only"]


class CodeTable(NamedTuple):
    """What each distinct code of a shard becomes."""

    path: np.ndarray  # int64, ids of all paths
    path_start: np.ndarray
    path_length: np.ndarray
    birth: np.ndarray  # bool
    fallback: np.ndarray  # bool: a part of the path is not in the vocabulary
    needs_value: np.ndarray  # bool: without a value no token
    lowest: np.ndarray  # bool: a missing value is one in the first bin
    fused: np.ndarray  # bool: with a value, that token stands for the path too
    value: np.ndarray  # int64, id of the token of a value in the first bin
    scale: np.ndarray  # int64, index of the scale, -1: values make no token
    slot: np.ndarray  # int64, -1: no context
    context: np.ndarray  # int64, id of the context token; of its Q1 where the code has breaks
    unknown: np.ndarray  # int64, id of the context token where a code with breaks comes without a value
    makes: np.ndarray  # bool: in a timeline, if it has the value that it may need
    lost: np.ndarray  # int64 (codes, 3): why there is no token, an index into reasons or -1: timed, no time, no value
    reasons: list[str]
    scales: list[str]  # by index
    break_keys: np.ndarray  # uint64, scale << 32 | ordered bits of the break, ascending
    break_start: np.ndarray  # (scales+1,)

    def bins(self, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Number of breaks of its scale strictly below each value; -1 without breaks or a value. int64 (n,)"""
        bins = np.where(self.lowest[codes] & (self.scale[codes] >= 0), 0, -1)
        rows = np.flatnonzero((self.scale[codes] >= 0) & np.isfinite(values))
        scale = self.scale[codes[rows]]
        keys = (scale.astype(np.uint64) << np.uint64(32)) | ordered_bits(values[rows])
        bins[rows] = np.searchsorted(self.break_keys, keys, side="left") - self.break_start[scale]
        return bins


def code_table(
    names: Sequence[str], vocabulary: Vocabulary, maps: CodeMaps, parents: Parents, train: bool = True
) -> CodeTable:
    """What each of the codes `names` becomes for patients inside or outside the train split."""
    index, settings = vocabulary.index, vocabulary.settings
    rules = presets.rules(settings, maps)
    slot_of = {name: i for i, name in enumerate(vocabulary.context_slots)}
    families = {family(token) for token in vocabulary.tokens}
    scale_of: dict[str, int] = {}
    reason_of: dict[str, int] = {}
    path: list[int] = []
    rows = []

    def reason(code: str, why: str) -> int:
        # The name of a family that only the left-out patients have is not told.
        name = family(code)
        told = name if name in families or name in presets.FAMILIES else "other"
        return reason_of.setdefault(f"{told}: {why}", len(reason_of))

    for code in names:
        rule = rules(code)
        name = slot_family(rule, code)
        birth, slot, event = name == events.BIRTH, slot_of.get(name, -1), is_event(rule, code, settings)
        scale = scale_of.setdefault(rule.scale, len(scale_of)) if rule.scale in vocabulary.quantiles else -1
        value, fused = index["Q1"], False
        if rule.fused and scale >= 0:
            value, fused = index.get(f"{rule.paths[0][0]}//Q1", -1), True
            if value < 0:
                fused, scale = False, -1
        context = unknown = -1
        if slot >= 0:
            unknown = index[f"{name}//{UNKNOWN}"]
            token = f"{name}//Q1" if scale >= 0 else rule.paths[0][0] if rule.paths else name
            context = unknown if token == name else index.get(token, unknown)
            if rules.preset.fixed_slots and token not in index and token != name:
                slot = -1  # those programs drop such a value, so that the one before holds
        ids: list[int] = []
        fallback = False
        if event and not (fused and rule.needs_value):
            above = rules.ancestors(code, parents) if parents and rule.paths and rule.paths[0][0] not in index else ()
            paths = rule.paths if train or rule.elsewhere is None else rule.elsewhere
            ids, fallback = vocabulary.encode(paths, rule.unseen, above)
        dropped = event and not ids and not fused and (bool(rule.paths) or scale < 0)
        lost = no_time = no_value = -1
        if not birth:
            if slot < 0:
                no_time = reason(code, "no time")
                if not event or dropped:
                    lost = reason(code, rule.why_not or "not in the vocabulary")
            no_value = reason(code, "no value") if rule.needs_value else lost
        makes = event and not dropped
        rows.append(
            (
                *(len(path), len(ids), birth, fallback, rule.needs_value, fused, value, scale, slot, context),
                *(unknown, lost, no_time, no_value, makes, rule.missing_lowest),
            )
        )
        path += ids
    table = np.array(rows, np.int64).reshape(-1, 16)
    keys, start = [np.zeros(0, np.uint64)], [0]
    for name, scale in scale_of.items():
        bits = ordered_bits(np.array(vocabulary.quantiles[name], np.float32))
        keys.append((np.uint64(scale) << np.uint64(32)) | bits)
        start.append(start[-1] + len(bits))
    return CodeTable(
        path=np.array([*path, 0], np.int64),  # one more, so that an empty path at the end has a place to point at
        path_start=table[:, 0],
        path_length=table[:, 1],
        birth=table[:, 2].astype(bool),
        fallback=table[:, 3].astype(bool),
        needs_value=table[:, 4].astype(bool),
        lowest=table[:, 15].astype(bool),
        fused=table[:, 5].astype(bool),
        value=table[:, 6],
        scale=table[:, 7],
        slot=table[:, 8],
        context=table[:, 9],
        unknown=table[:, 10],
        lost=table[:, 11:14],
        makes=table[:, 14].astype(bool),
        reasons=list(reason_of),
        scales=list(scale_of),
        break_keys=np.concatenate(keys),
        break_start=np.array(start, np.int64),
    )


class Stats(NamedTuple):
    """What tokenizing some patients met; sums over parts of a split add up."""

    events: int  # that make tokens
    days: float  # patient-days: from each patient's first such event to the last, summed
    fallbacks: int  # of them, those of which a part was not in the vocabulary
    empty: int  # patients left out because nothing but static facts or birth is known of them
    interval_sums: np.ndarray  # float64 (classes,) seconds between events, by class
    interval_tokens: np.ndarray  # int64 (classes,)
    silent: dict[str, int]  # "FAMILY: why" → events that made no token and are not in the prefix either


def tokenize(
    path: Path, vocabulary: Vocabulary, maps: CodeMaps, parents: Parents = NO_PARENTS
) -> Iterator[tuple[Timelines, Stats]]:
    """Token sequences of the patients of one parquet file of events, some at a time.

    An event becomes [interval tokens] code tokens [Q token]. The interval stands for the time since the event
    before, from the first class up; there is none before a patient's first event, so none from birth. The Q token is
    1 + the number of breaks strictly below the value, and follows codes that have breaks, when the value is finite.
    TIMELINE_END closes each timeline.

    Args: path, data/<split>/<k>.parquet, for a preset may treat the codes of train patients otherwise than those of
      others; maps, those with which the vocabulary was fitted; parents, the codes above each code in an ontology.
    Raises: UserError as `read_columns` does, and where the maps are others.
    """
    if vocabulary.settings["code_maps"] != dict(maps.files):
        raise UserError("the vocabulary was fitted with other code maps: give the same --code_maps, or start anew")
    table: CodeTable | None = None
    for part in read_columns(path):
        if table is None:
            table = code_table(part.names, vocabulary, maps, parents, train=path.parent.name == events.SPLITS[0])
        yield tokenize_part(part, table, vocabulary)


def tokenize_part(part: Columns, table: CodeTable, vocabulary: Vocabulary) -> tuple[Timelines, Stats]:
    """Token sequences of the patients of `part`: see `tokenize`."""
    first = np.concatenate([[True], part.subjects[1:] != part.subjects[:-1]])
    patient = np.cumsum(first) - 1
    subject_ids = part.subjects[first]
    has_time = part.times != STATIC

    births = np.full(len(subject_ids), STATIC)
    rows = np.flatnonzero(table.birth[part.codes] & has_time)[::-1]  # reversed: the first one stays
    births[patient[rows]] = part.times[rows]

    # Patients without an event that makes tokens have no timeline: renumber the others.
    all_bins = table.bins(part.codes, part.values)
    makes_token = (table.path_length[part.codes] > 0) | ((all_bins >= 0) & table.makes[part.codes])
    enough = np.isfinite(part.values) | ~table.needs_value[part.codes]
    makes_token &= has_time & enough
    early = np.zeros(0, np.int64)
    if presets.PRESETS[vocabulary.preset].since_1970:
        early = np.flatnonzero(makes_token & (part.times < 0))
        makes_token &= part.times >= 0
    rows = np.flatnonzero(makes_token)
    kept = np.bincount(patient[rows], minlength=len(subject_ids)) > 0
    renumber = np.cumsum(kept) - 1
    count = int(kept.sum())

    codes, times, owner, bins = part.codes[rows], part.times[rows], renumber[patient[rows]], all_bins[rows]
    bounds = np.array(vocabulary.interval_bounds, np.int64)
    gap = np.diff(times, prepend=times[:1])
    starts = np.concatenate([[True], owner[1:] != owner[:-1]])[: len(rows)]
    gap[starts] = 0
    interval = np.searchsorted(bounds, gap, side="right") - 1  # -1: none
    repeats = (interval >= 0).astype(np.int64)
    long = interval == len(bounds) - 1
    repeats[long] = (gap[long] + bounds[-1] // 2) // bounds[-1]
    length = np.where((bins >= 0) & table.fused[codes], 0, table.path_length[codes])
    ends = np.concatenate([owner[1:] != owner[:-1], [True]])[: len(rows)]
    size = repeats + length + (bins >= 0) + ends

    stop = np.cumsum(size)
    start = stop - size
    total = int(stop[-1]) if len(stop) else 0
    tokens = np.empty(total, vocabulary.dtype)
    some = np.flatnonzero(repeats)
    at = np.repeat(start[some] - np.cumsum(repeats[some]) + repeats[some], repeats[some])
    at += np.arange(len(at))
    tokens[at] = np.repeat(vocabulary.index[vocabulary.intervals[0]] + interval[some], repeats[some])
    at = start + repeats
    for j in range(int(length.max(initial=0))):
        some = np.flatnonzero(length > j)
        tokens[at[some] + j] = table.path[table.path_start[codes[some]] + j]
    some = np.flatnonzero(bins >= 0)
    tokens[at[some] + length[some]] = table.value[codes[some]] + bins[some]
    tokens[stop[ends] - 1] = vocabulary.index[END]

    context = np.flatnonzero((table.slot[part.codes] >= 0) & enough & kept[patient])
    context_codes = part.codes[context]
    context_bins = all_bins[context]
    context_tokens = np.where(
        (table.scale[context_codes] >= 0) & (context_bins < 0),
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
        days=float((times[ends] - times[starts]).sum(dtype=np.float64) / DAY),
        fallbacks=int(table.fallback[codes].sum()),
        empty=len(subject_ids) - count,
        interval_sums=np.bincount(classes, gap[interval >= 0] / 1e6, minlength=len(bounds)),
        interval_tokens=np.bincount(classes, repeats[interval >= 0], minlength=len(bounds)).astype(np.int64),
        silent=_silent(part, table, makes_token, has_time, early),
    )


def _silent(
    part: Columns, table: CodeTable, makes_token: np.ndarray, has_time: np.ndarray, early: np.ndarray
) -> dict[str, int]:
    rows = ~makes_token
    rows[early] = False
    rows = np.flatnonzero(rows)
    codes = part.codes[rows]
    valued = np.isfinite(part.values[rows])
    timed = np.where(valued, table.lost[codes, 0], table.lost[codes, 2])
    why = np.where(has_time[rows], timed, table.lost[codes, 1])
    counts = np.bincount(why[why >= 0], minlength=len(table.reasons))
    dropped = {reason: int(n) for reason, n in zip(table.reasons, counts, strict=True) if n}
    return {**dropped, "before 1970": len(early)} if len(early) else dropped


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
