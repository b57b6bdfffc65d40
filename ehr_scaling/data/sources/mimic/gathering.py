"""A shard of patients from what the tables gave for it: joined, ordered, without repeated rows, and written."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ehr_scaling.data import shards
from ehr_scaling.data.events import events
from ehr_scaling.data.sources.mimic import presets
from ehr_scaling.data.sources.mimic import sofa as mimic_sofa
from ehr_scaling.data.sources.mimic import tables as mimic_tables
from ehr_scaling.data.sources.mimic.index import Index
from ehr_scaling.data.sources.mimic.presets import SOFA
from ehr_scaling.data.sources.mimic.reading import NULL
from ehr_scaling.data.sources.mimic.spreading import (
    EARLIEST,
    HIDDEN_PLACE,
    SCRATCH,
    Plan,
    batches_of,
    codes_of,
    mix,
    name_of,
)

_TIME_BITS, _ORDER_BITS = 36, 16  # with 11 bits of patient, a positive int64
UNKNOWN_DRG = "DRG//UNKNOWN"
GSN = "gsn.json"


class Rows(NamedTuple):
    """Events of one shard: int64 (N,) each, but value float32."""

    local: np.ndarray
    time: np.ndarray
    order: np.ndarray
    code: np.ndarray
    value: np.ndarray
    row: np.ndarray

    def at(self, where: np.ndarray) -> "Rows":
        return Rows(*(column[where] for column in self))

    def key(self) -> np.ndarray:
        """Sorts by patient, time with null first, place, and number in a sequence."""
        time = np.where(self.time == NULL, 0, self.time - EARLIEST + 1)
        return (self.local << (_TIME_BITS + _ORDER_BITS)) | (time << _ORDER_BITS) | self.order

    @property
    def place(self) -> np.ndarray:
        return self.order >> 10


def gather(folder: str, plan: Plan, shard: int) -> None:
    """Unit: write one shard. Record: {"events", "patients", "dropped", "sofa"}."""
    out = Path(folder)
    split, k = Index.load(out / SCRATCH / "index.npz").shards[shard]
    record = out / events.PARTS / f"{events.SPLITS[split]}-{k}.json"
    shards.once(record, lambda: _gather(out, Plan(*plan), shard))


def _gather(out: Path, plan: Plan, shard: int) -> dict[str, Any]:
    scratch = out / SCRATCH
    index = Index.load(scratch / "index.npz")
    split, k = index.shards[shard]
    places = dict(plan.places())
    rows, codes = _read(scratch, plan, shard, len(index.shards))
    hidden = rows.place == HIDDEN_PLACE
    sofa: dict[str, Any] = {}
    if plan.sofa:
        scores, sofa = _sofa(index, shard, plan, rows.at(hidden), codes)
        rows = Rows(*(np.concatenate(pair) for pair in zip(rows.at(~hidden), scores, strict=True)))
    rows = rows.at(np.argsort(rows.key(), kind="stable"))
    dropped: Counter[str] = Counter()
    if plan.preset != "ethos_paper":
        again = _repeated(rows)
        numbers = np.bincount(rows.place[again], minlength=64)
        for number in np.flatnonzero(numbers).tolist():
            dropped[f"{places[number].table}: repeated row"] += int(numbers[number])
        rows = rows.at(~again)
    if plan.preset != "clean":
        rows = _with_unknown_drgs(rows, places, codes)
    subjects = index.subjects[index.shard == shard]
    counts = events.write_shard(out, events.SPLITS[split], int(k), _table(rows, list(codes), subjects))
    return {**counts, "dropped": dropped, "sofa": sofa}


def _read(scratch: Path, plan: Plan, shard: int, number: int) -> tuple[Rows, dict[str, int]]:
    """The shard's events, table after table, and the numbers of their codes."""
    codes: dict[str, int] = {}
    parts: list[list[np.ndarray]] = []
    tables = list(dict.fromkeys(place.table for _, place in plan.places()))
    for table in tables:
        listed = codes_of(scratch, table)
        if table == "hosp/emar" and (scratch / GSN).is_file():
            listed = _with_gsn(listed, json.loads((scratch / GSN).read_text(encoding="utf-8")))
        if table == "hosp/drgcodes" and plan.preset == "ethos_paper":
            named: dict[str, str] = {}  # a DRG has the first description that the table gives it
            listed = [named.setdefault(code.rpartition("//")[0], code) for code in listed]
        batches = [b for b in batches_of(scratch / f"{name_of(table)}.arrow", shard, number) if b.num_rows]
        if not batches:
            continue
        columns = [np.concatenate([b.column(i).to_numpy() for b in batches]) for i in range(6)]
        used = np.flatnonzero(np.bincount(columns[3], minlength=len(listed)))
        renumber = np.zeros(len(listed), np.int64)
        renumber[used] = [codes.setdefault(listed[i], len(codes)) for i in used]
        columns[3] = renumber[columns[3]]
        parts.append([c.astype(np.int64) if c.dtype.kind != "f" else c for c in columns])
    types = [np.int64] * 4 + [np.float32, np.int64]
    whole = [np.concatenate([p[i] for p in parts]) if parts else np.zeros(0, types[i]) for i in range(6)]
    return Rows(*whole), codes


def _with_gsn(codes: list[str], gsn: dict[str, str]) -> list[str]:
    """Names of administered drugs, with the GSN that prescriptions have for the name."""
    named = (code.split("//") for code in codes)
    return [
        "//".join([*parts, gsn[parts[1]]]) if len(parts) > 1 and parts[1] in gsn else "//".join(parts)
        for parts in named
    ]


def _repeated(rows: Rows) -> np.ndarray:
    """bool (N,): rows that an earlier one, at the same time and with the same code, equals."""
    when = (rows.key() >> _ORDER_BITS).view(np.uint64)
    marks = mix(mix(when) ^ mix((rows.code.astype(np.uint64) << np.uint64(32)) | rows.row.astype(np.uint64)))
    again = np.zeros(len(marks), bool)
    in_order = np.sort(marks)
    if (in_order[1:] == in_order[:-1]).any():
        order = np.argsort(marks, kind="stable")
        again[order[1:]] = marks[order][1:] == marks[order][:-1]
    return again


def _with_unknown_drgs(rows: Rows, places: dict[int, mimic_tables.Place], codes: dict[str, int]) -> Rows:
    """DRG//UNKNOWN after the last diagnosis of a discharge without a DRG, or after the discharge.

    As ETHOS-ARES finds them: among discharges, diagnoses and DRGs alone, a hospital diagnosis before neither a DRG nor
    another one, or a discharge before another discharge, a diagnosis of the ED, or nothing.
    """

    def at(*tables: str) -> np.ndarray:
        return np.array([n for n, p in places.items() if p.table in tables])

    discharge = np.array([n for n, p in places.items() if p is mimic_tables.DISCHARGE or _discharges(p)])
    # Where diagnoses are coded at admission (ETHOS), they do not follow a discharge.
    late = [n for n in at("hosp/diagnoses_icd") if places[n].entries[0].happened == "end"]
    kind = np.zeros(64, np.int8)
    for mark, numbers in enumerate((discharge, late, at("hosp/drgcodes"), at("ed/diagnosis")), 1):
        kind[np.asarray(numbers, np.int64)] = mark
    kinds = kind[rows.place]
    relevant = np.flatnonzero(kinds)
    this = kinds[relevant]
    following = np.append(this[1:], 0)
    last = (
        np.append(rows.local[relevant][1:] != rows.local[relevant][:-1], True) if len(relevant) else np.zeros(0, bool)
    )
    following = np.where(last, 0, following)
    missing = ((this == 2) & ~np.isin(following, (2, 3))) | ((this == 1) & np.isin(following, (0, 1, 4)))
    after = relevant[missing]
    code = codes.setdefault(UNKNOWN_DRG, len(codes))
    new = rows.at(after)._replace(code=np.full(len(after), code), value=np.full(len(after), np.nan, np.float32))
    return Rows(*(np.insert(column, after + 1, fresh) for column, fresh in zip(rows, new, strict=True)))


def _discharges(place: mimic_tables.Place) -> bool:
    return any(entry.code[0] == "HOSPITAL_DISCHARGE" for entry in place.entries)


def _sofa(index: Index, shard: int, plan: Plan, inputs: Rows, codes: dict[str, int]) -> tuple[Rows, dict[str, Any]]:
    """SOFA events of the shard, and {"stays", "scores", "lacking"}."""
    known = index.icu_patient >= 0
    mine = np.flatnonzero(known & (index.shard[np.where(known, index.icu_patient, 0)] == shard))
    mine = mine[(index.icu_in[mine] != NULL) & (index.icu_out[mine] != NULL)]
    patient, begin, end = index.local[index.icu_patient[mine]], index.icu_in[mine], index.icu_out[mine]
    inputs = inputs.at(np.lexsort((inputs.time, inputs.local)))
    series = {}
    for code in np.unique(inputs.code):
        measurements = inputs.at(inputs.code == code)
        item = int(_name(codes, code).split("//")[1])
        series[item] = mimic_sofa.Series(measurements.local, measurements.time, measurements.value.astype(np.float64))
    score, lacking = mimic_sofa.first_day(patient, begin, end, series)
    clean = plan.preset == "clean"
    time = begin + mimic_sofa.DAY if clean else begin
    has = ~np.isnan(score) & ((end >= time) if clean else True)
    place = next(n for n, p in enumerate(presets.places(plan.preset, plan.ed, plan.times)) if p.table == SOFA)
    n = int(has.sum())
    code = np.full(n, codes.setdefault(SOFA, len(codes)))
    rows = Rows(patient[has], time[has], np.full(n, place << 10), code, score[has].astype(np.float32), mine[has])
    return rows, {"stays": len(mine), "scores": int((~np.isnan(score)).sum()), "lacking": lacking}


def _name(codes: dict[str, int], number: int) -> str:
    return next(name for name, n in codes.items() if n == number)


def _table(rows: Rows, codes: list[str], subjects: np.ndarray) -> pa.Table:
    used = np.flatnonzero(np.bincount(rows.code, minlength=len(codes)))
    number = np.zeros(len(codes), np.int32)
    number[used] = np.arange(len(used))
    untimed = rows.time == NULL
    time = pa.array(np.where(untimed, 0, rows.time) * 1_000_000, pa.int64(), mask=untimed)
    return pa.table(
        {
            "subject_id": pa.array(subjects[rows.local], pa.int64()),
            "time": time.cast(pa.timestamp("us")),
            "code": pa.DictionaryArray.from_arrays(pa.array(number[rows.code]), pa.array([codes[i] for i in used])),
            "numeric_value": pa.array(rows.value, pa.float32(), mask=np.isnan(rows.value)),
            "text_value": pa.nulls(len(rows.local), pa.large_string()),
        }
    )
