"""From tables to shards: each table is streamed once and its events are spread over the shards of patients; then each
shard is gathered and put in order.

A table's events lie in one Arrow file of record batches, of which number b belongs to shard b modulo the number of
shards: nothing is open for each shard, and a shard reads its own batches only. An event is a patient, a time, a place
in the order of the preset, the number of a code in the table's list of codes, and a value: text is handled once for
each distinct word of a few MiB, never for each row.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ehr_scaling.artifacts import write_json, writing
from ehr_scaling.data.codes import units
from ehr_scaling.data.shards import once
from ehr_scaling.data.sources.mimic import presets
from ehr_scaling.data.sources.mimic import reading as mimic_read
from ehr_scaling.data.sources.mimic import tables as mimic_tables
from ehr_scaling.data.sources.mimic.deriving import DERIVED, derive
from ehr_scaling.data.sources.mimic.index import Index, read
from ehr_scaling.data.sources.mimic.reading import NULL, Batch, Log, Text
from ehr_scaling.data.sources.mimic.tables import SEQUENCE, Entry, Place

SCRATCH = ".scratch"
FLUSH = 1_500_000  # events held by a process before they are written; 28 bytes each, thrice while they are sorted
HIDDEN_PLACE = 63  # places have six bits
SCHEMA = pa.schema(
    [
        ("local", pa.uint16()),  # the patient's number in its shard
        ("time", pa.int64()),  # seconds since 1970, NULL for none
        ("order", pa.uint16()),  # place and, of tables with a sequence, number in it
        ("code", pa.int32()),  # in the table's list of codes
        ("value", pa.float32()),  # NaN for none
        ("row", pa.uint32()),  # hash of what makes rows different
    ]
)
EARLIEST = int(np.datetime64("1000-01-01T00:00:00", "s").astype(np.int64))  # a birth that is not known
_LAST = int(np.datetime64("2262-04-11T00:00:00", "s").astype(np.int64))
_LARGEST = float(np.finfo(np.float32).max)
_DENSE = 1 << 20


class Plan(NamedTuple):
    """What every unit is told; everything in it is JSON."""

    files: dict[str, str]  # of the tables that are read
    tables: list[str]  # those of which events are made
    preset: str
    ed: bool
    sofa: bool
    times: str
    flush: int = FLUSH

    def places(self) -> list[tuple[int, Place]]:
        """Numbered places of the tables that are there, and what SOFA is made of."""
        numbered = enumerate(presets.places(self.preset, self.ed, self.times))
        hidden = mimic_tables.SOFA_INPUTS if self.sofa else ()
        return [(n, p) for n, p in numbered if p.table in self.tables] + [
            (HIDDEN_PLACE, p) for p in hidden if p.table in self.files
        ]


def columns(table: str, places: list[Place], times: str) -> dict[str, str]:
    """Columns of the file that the places of a table read, with their kinds. Args: times, of tables.TIMES."""
    derived = DERIVED.get(table, {})
    names = {"subject_id"}
    for place in places:
        for name in presets.needed(place, times):
            names |= set(derived.get(name, (name,)))
    return {name: mimic_tables.kind(table, name) for name in sorted(names)}


def spread(out: str, plan: Plan, table: str) -> None:
    """Unit: spread one table over the shards. Record: {"rows", "dropped", "mended", "several_units"}."""
    scratch = Path(out) / SCRATCH
    once(scratch / f"{name_of(table)}.json", lambda: _spread(scratch, Plan(*plan), table))


def name_of(table: str) -> str:
    return table.replace("/", "-")


def _spread(scratch: Path, plan: Plan, table: str) -> dict[str, Any]:
    places = [(n, p) for n, p in plan.places() if p.table == table]
    for lenient in (False, True):
        try:
            return _Spreading(scratch, plan, table, places).run(lenient)
        except pa.ArrowInvalid:
            if lenient:
                raise
    raise AssertionError


class _Spreading:
    """One table on its way to the shards."""

    def __init__(self, scratch: Path, plan: Plan, table: str, places: list[tuple[int, Place]]):
        self.plan, self.table, self.places = plan, table, places
        self.target = scratch / f"{name_of(table)}.arrow"
        self.index = Index.load(scratch / "index.npz")
        self.lookup = self.index.lookup()
        self.labels = _labels(plan) if plan.preset == "ethos_paper" and table == "hosp/labevents" else {}
        self.codes: dict[str, int] = {}
        self.parts: dict[tuple, int] = {}  # code numbers by the words they are made of, lest they be joined again
        self.hashes: dict[str | None, int] = {}
        self.dropped: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.held: list[tuple[np.ndarray, ...]] = []  # shard, then the columns of SCHEMA
        self.count = self.done = 0

    def run(self, lenient: bool) -> dict[str, Any]:
        log = Log()
        read = columns(self.table, [place for _, place in self.places], self.plan.times)
        lz4 = pa.ipc.IpcWriteOptions(compression="lz4")
        with writing(self.target) as partial, pa.ipc.new_file(partial, SCHEMA, options=lz4) as writer:
            for batch in mimic_read.batches(Path(self.plan.files[self.table]), read, log, lenient=lenient):
                self._take(batch)
                if self.count >= self.plan.flush:
                    self._flush(writer)
            self._flush(writer)
        write_json(self.target.with_suffix(".codes.json"), list(self.codes))
        self.dropped.update(log.bad)
        dropped, mended = (
            {f"{self.table}: {reason}": n for reason, n in sorted(counts.items())}
            for counts in (self.dropped, self.mended)
        )
        return {"rows": log.rows, "dropped": dropped, "mended": mended, "several_units": self._several_units()}

    def _several_units(self) -> int:
        """Items that come in units of which no one knows that they are the same."""
        parts = (code.split("//") for code in self.codes if code.startswith(("LAB//", "CHART//")))
        of_item = {(item, units.canonical("".join(unit), item)) for _, item, *unit in parts}
        return sum(n > 1 for n in Counter(item for item, _ in of_item).values())

    def _take(self, batch: Batch) -> None:
        patient = self.lookup(batch["subject_id"])
        self.mended += derive(self.table, batch, self.index, self.plan.preset, patient, self.labels)
        rows = len(patient)
        # For a row without any event: the reason of the entry that came furthest. For the others: what else they lack.
        used, stage, reason = np.zeros(rows, bool), np.zeros(rows, np.int8), np.zeros(rows, np.int16)
        reasons: list[str] = [""]
        lost: list[tuple[np.ndarray, str]] = []

        def tell(at: np.ndarray, text: str, how_far: int, hidden: bool) -> None:
            if hidden or not at.any():
                return
            further = at & (how_far > stage)
            stage[further], reason[further] = how_far, len(reasons)
            reasons.append(text)
            if how_far > 1:
                lost.append((at, text))

        for number, place in self.places:
            hidden = number == HIDDEN_PLACE
            entry_events = [self._entry(entry, batch, patient, partial(tell, hidden=hidden)) for entry in place.entries]
            m = len(entry_events)
            sequence = np.concatenate([at * m + j for j, (at, *_) in enumerate(entry_events)])
            at = np.concatenate([at for at, *_ in entry_events])
            time, value, code = (np.concatenate([entry[i] for entry in entry_events]) for i in (1, 2, 3))
            if m > 1:  # the events of a row stay together
                order = np.argsort(sequence, kind="stable")
                at, time, value, code = at[order], time[order], value[order], code[order]
            if not hidden:
                used[at] = True
            position = np.full(len(at), number << 10, np.int64)
            if place.order:
                within = batch[place.order][at]
                position += np.where((within >= 0) & (within < SEQUENCE), within, SEQUENCE)
            self._hold(patient[at], time, position, code, value, self._hash(place, batch, at, hidden))
        self.done += rows
        if all(number == HIDDEN_PLACE for number, _ in self.places):
            return
        for i, text in enumerate(reasons[1:], 1):
            self.dropped[text] += int((~used & (reason == i)).sum())
        for at, text in lost:
            self.dropped[f"{text}, in a row of other events"] += int((used & at).sum())
        self.dropped = +self.dropped

    def _entry(
        self, entry: Entry, batch: Batch, patient: np.ndarray, tell: Callable[..., None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows that have this event, its times, values and codes."""
        good = patient >= 0
        tell(~good, "patient not in hosp/patients", 5)

        def require(passes: np.ndarray, text: str, how_far: int) -> None:
            nonlocal good
            tell(good & ~passes, text, how_far)
            good = good & passes

        for column, test, why in entry.only:
            words = batch[column]
            fits = np.array([test(word) for word in words.words], bool)
            if isinstance(why, str):
                require(fits[words.at], why, 1)
                continue
            told = np.array(["" if fine else why(word) for word, fine in zip(words.words, fits, strict=True)])
            for text in sorted(set(told[np.bincount(words.at, minlength=len(told)) > 0]) - {""}):
                require((told != text)[words.at], text, 1)
        value = self._values(entry, batch, len(patient))
        if entry.needs:
            require(~np.isnan(value), "no number", 2)
        require(~(np.abs(value) > _LARGEST), "a number that is not finite", 2)
        at = np.flatnonzero(good)
        if (when := entry.time(self.plan.times)) is None:
            return at, np.full(len(at), NULL), value[at], self._codes(entry, batch, at)
        time = batch[when]
        require(time != NULL, "no time", 1 if entry.may_miss else 3)
        safe = np.where(good, patient, 0)
        require(time >= np.maximum(self.index.birth[safe], EARLIEST), "before birth", 4)
        if self.plan.preset == "ethos_ares":
            require(time >= 0, "before 1970", 4)
        require(time < _LAST, "after 2262", 4)
        if self.plan.preset == "clean":
            require(time <= self.index.closed[safe], "after the patient's death", 4)
        at = np.flatnonzero(good)
        return at, time[at], value[at], self._codes(entry, batch, at)

    def _values(self, entry: Entry, batch: Batch, rows: int) -> np.ndarray:
        if entry.value is None:
            return np.full(rows, np.nan)
        column = batch[entry.value]
        if entry.parse is None:
            return column
        parsed = [entry.parse(word) if word is not None else None for word in column.words]
        return np.array([np.nan if number is None else number for number in parsed])[column.at]

    def _codes(self, entry: Entry, batch: Batch, at: np.ndarray) -> np.ndarray:
        """int32: the number of each row's code."""
        texts = [batch[part[1:-1]] for part in entry.code if part.startswith("{")]
        if not texts:
            return np.full(len(at), self.codes.setdefault("//".join(entry.code), len(self.codes)), np.int32)
        key, size = texts[0].at[at], len(texts[0].words)
        for text in texts[1:]:
            key, size = key * len(text.words) + text.at[at], size * len(text.words)
        if size <= _DENSE:
            distinct = np.flatnonzero(np.bincount(key, minlength=size))
            number = np.zeros(size, np.int32)
            number[distinct] = [self._number(entry, texts, int(k)) for k in distinct]
            return number[key]
        distinct, inverse = np.unique(key, return_inverse=True)
        return np.array([self._number(entry, texts, int(k)) for k in distinct], np.int32)[inverse]

    def _number(self, entry: Entry, texts: list[Text], key: int) -> int:
        words: list[str | None] = []
        for text in reversed(texts):
            key, i = divmod(key, len(text.words))
            words.append(text.words[i])
        known = (entry.code, *words)
        if known not in self.parts:
            left = iter(words[::-1])
            clean = self.plan.preset == "clean"
            spelt = [_part(next(left), clean) if part.startswith("{") else part for part in entry.code]
            self.parts[known] = self.codes.setdefault("//".join(spelt), len(self.codes))
        return self.parts[known]

    def _hash(self, place: Place, batch: Batch, at: np.ndarray, hidden: bool) -> np.ndarray:
        """uint32: equal where the row's key is; different everywhere for a place without one."""
        if place.key is None:
            return (self.done + at).astype(np.uint32)
        mixed = np.zeros(len(at), np.uint64)
        for name in place.key:
            column = batch[name]
            if isinstance(column, Text):
                words = np.array([self._word_hash(word) for word in column.words], np.uint64)
                bits = words[column.at[at]]
            else:
                bits = np.ascontiguousarray(column[at]).view(np.uint64)
            mixed = mix(mixed + bits)
        return (mixed >> np.uint64(32)).astype(np.uint32)

    def _word_hash(self, word: str | None) -> int:
        if word is None:
            return 0
        if word not in self.hashes:
            if len(self.hashes) > _DENSE:
                self.hashes.clear()
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            self.hashes[word] = int.from_bytes(digest, "little")
        return self.hashes[word]

    def _hold(self, patient: np.ndarray, *columns: np.ndarray) -> None:
        time, position, code, value, row = columns
        self.held.append(
            (
                self.index.shard[patient].astype(np.uint16),
                self.index.local[patient].astype(np.uint16),
                time,
                position.astype(np.uint16),
                code,
                value.astype(np.float32),
                row,
            )
        )
        self.count += len(patient)

    def _flush(self, writer: pa.RecordBatchFileWriter) -> None:
        shards = len(self.index.shards)
        held = [np.concatenate(parts) for parts in zip(*self.held, strict=True)]
        self.held, self.count = [], 0
        if not held:
            return
        order = np.argsort(held[0], kind="stable")
        ends = np.cumsum(np.bincount(held[0], minlength=shards))
        sorted_columns = [column[order] for column in held[1:]]
        del held, order
        for begin, end in zip(np.append(0, ends[:-1]), ends, strict=True):
            arrays = [
                pa.array(column[begin:end], field.type) for column, field in zip(sorted_columns, SCHEMA, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))


def _part(word: str | None, clean: bool) -> str:
    if word is None or (clean and not word.strip()):
        return "UNK"
    return re.sub("/{2,}", "/", word.strip() if clean else word)


def mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64, on uint64."""
    with np.errstate(over="ignore"):  # it is defined modulo 2^64
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _labels(plan: Plan) -> dict[str, str]:
    """Labels of laboratory items; the table is small."""
    items, _ = read(Path(plan.files["hosp/d_labitems"]), "itemid label", "hosp/d_labitems")
    pairs = zip(*([column.words[i] for i in column.at] for column in (items["itemid"], items["label"])), strict=True)
    return {item: label for item, label in pairs if item and label}


def batches_of(path: Path, shard: int, shards: int) -> Iterator[pa.RecordBatch]:
    """The batches of one shard of a table that was spread."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for i in range(shard, reader.num_record_batches, shards):
            yield reader.get_batch(i)


def codes_of(scratch: Path, table: str) -> list[str]:
    return json.loads((scratch / f"{name_of(table)}.codes.json").read_text(encoding="utf-8"))
