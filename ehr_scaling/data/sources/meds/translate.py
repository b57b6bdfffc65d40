"""Events of MIMIC-IV's dialects of MEDS in the codes of the mimic-iv source: see `dialects`."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ehr_scaling.data.codes import units
from ehr_scaling.data.events.columns import STATIC
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.sources.meds.rows import Dropped, Rows, by_family, combined, parsed, without
from ehr_scaling.data.sources.mimic.parsing import body_mass_index, bound, pain, race


def translated(rows: Rows, batch: pa.RecordBatch, dialect: str, dropped: Dropped) -> Rows:
    """Events of a MIMIC-IV dialect in our codes. `batch` has the same rows, and the columns that codes depend on."""
    key, described = _described(rows, batch, dialect)
    code_numbers: dict[str, int] = {}
    first = np.full(len(described), -1)
    second = np.full(len(described), -1)
    count = np.bincount(key, minlength=len(described)).tolist()
    for i, entry in enumerate(described):
        if not count[i]:
            continue
        verdict = dialects.verdict(dialect, *entry)
        if verdict.family:
            dropped.seen[verdict.family] += count[i]
        if verdict.codes is None:
            dropped.leave_out(Counter({verdict.family: count[i]}), verdict.why)
            continue
        numbers = [code_numbers.setdefault(code, len(code_numbers)) for code in verdict.codes]
        first[i], second[i] = numbers[0], numbers[-1] if len(numbers) > 1 else -1
        dropped.spelt.update((entry[0], code) for code in verdict.codes)
    code, values = first[key], rows.values.copy()

    text = batch["text_value"].cast(pa.large_string()) if "text_value" in batch.schema.names else None
    pair = np.flatnonzero(second[key] >= 0)
    low = np.full(len(code), np.nan, np.float32)
    values[pair], low[pair] = _pressures(None if text is None else text.take(pa.array(pair)), values[pair])
    for scored, parse in ((dialects.BMI, body_mass_index), (dialects.PAIN, pain)):
        at = np.flatnonzero(code == code_numbers.get(scored, -2))
        values[at] = parsed(None if text is None else text.take(pa.array(at)), values[at], parse)

    at = np.flatnonzero(code == code_numbers.get(dialects.TEMPERATURE, -2))
    values[at], celsius = units.fahrenheit(values[at])
    dropped.values["VITAL: temperature in °C told in °F"] += int(celsius.sum())
    measured = np.array([name.startswith(("LAB//", "CHART//")) for name in code_numbers] + [False], bool)[code]
    at = np.flatnonzero(measured & np.isnan(values)) if text is not None else np.zeros(0, np.int64)
    if text is not None and len(at):  # a result that is given as a bound
        values[at] = parsed(text.take(pa.array(at)), values[at], bound)
    origin, place = [np.flatnonzero(code >= 0), pair], [0, 1]
    codes, numbers_of = [code[origin[0]], second[key[pair]]], [values[origin[0]], low[pair]]
    admitted = np.array([name.startswith(dialects.ADMISSION) for name in code_numbers] + [False], bool)[code]
    for column in ("insurance", "marital_status", "race"):
        if column in batch.schema.names and (at := np.flatnonzero(admitted)).size:
            words = batch[column].cast(pa.large_string()).take(pa.array(at)).dictionary_encode()
            word_of = pc.fill_null(words.indices.cast(pa.int64()), len(words.dictionary)).to_numpy(zero_copy_only=False)
            spelt = [
                dialects.RACE + race(word) if column == "race" else dialects.join(column.upper(), word)
                for word in [*words.dictionary.to_pylist(), ""]
            ]
            origin.append(at)
            place.append(len(place))
            codes.append(
                np.array([code_numbers.setdefault(code, len(code_numbers)) for code in spelt], np.int64)[word_of]
            )
            numbers_of.append(np.full(len(at), np.nan, np.float32))
    at = np.concatenate(origin)
    order = np.argsort(at * len(place) + np.repeat(place, [len(rows) for rows in origin]), kind="stable")
    at = at[order]
    out = Rows(
        rows.subjects[at],
        rows.times[at],
        np.concatenate(codes)[order],
        np.concatenate(numbers_of)[order],
        rows.stays[at],
        list(code_numbers),
    )
    static = np.array([name.startswith(dialects.GENDER) for name in code_numbers], bool)[out.codes]
    out = out._replace(times=np.where(static, STATIC, out.times))
    out = without(out, (out.times == STATIC) & ~static, "no time", dropped)
    kind = np.array(
        [next((i for i, h in enumerate(dialects.NUMBERED) if n.startswith(h)), -1) for n in code_numbers], int
    )
    bare = (kind[out.codes] >= 0) & np.isnan(out.values)
    for i in np.unique(kind[out.codes[bare]]).tolist():
        which = bare & (kind[out.codes] == i)
        dropped.leave_out(by_family(out, which), f"{dialects.NUMBERED[i].rstrip('/')}: no number")
    return out.at(~bare)


def _described(rows: Rows, batch: pa.RecordBatch, dialect: str) -> tuple[np.ndarray, list[tuple[str, str, str]]]:
    """What a row's code is made from, as an index (n,) into the distinct (name, detail, unit)."""
    used = ("table", "unit") if dialect == dialects.MEDS_ETL else ("text_value",)
    columns = [name for name in used if name in batch.schema.names]
    wanted = np.array([dialects.detailed(dialect, name) for name in rows.names], bool)
    key, entries = combined(
        rows, batch, columns, np.flatnonzero(wanted[rows.codes]) if wanted.any() else np.zeros(0, int)
    )
    described = []
    for name, *texts in entries:
        told = dict(zip(columns, texts, strict=True))
        described.append((name, told.get("text_value", told.get("table", "")), told.get("unit", "")))
    return key, described


def _pressures(text: pa.Array | None, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Systolic and diastolic, float32: of a text "120/80", or of a number and a text "80"; both NaN if one is."""
    high = parsed(text, np.full_like(values, np.nan), lambda t: _number(t.partition("/")[0]) if "/" in t else None)
    low = parsed(text, np.full_like(values, np.nan), lambda t: _number(t.partition("/")[2] if "/" in t else t))
    high = np.where(np.isnan(high), values, high)
    neither = np.isnan(high) | np.isnan(low)
    return np.where(neither, np.float32(np.nan), high), np.where(neither, np.float32(np.nan), low)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*\d{1,3}(\.\d{1,6})?\s*", text) else None
