"""What is known of a patient where a window of its timeline starts: the prefix of static context."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ehr_scaling.data.timelines.timelines import CONTEXT
from ehr_scaling.data.tokenization.tokenizer import STATIC, Timelines
from ehr_scaling.data.vocabulary import AGE_LAST, AGE_WIDTH, AGES, DAY, PAPER_AGES, UNK, UNKNOWN, YEAR, Vocabulary


def start_times(vocabulary: Vocabulary, tokens: np.ndarray, times: np.ndarray, first: np.ndarray) -> np.ndarray:
    """When windows that begin at the rows `first` start: int64 µs, the shape of `first`.

    An interval token carries the time of the event that ends it, and a patient's age at that event would give the
    gap away; so a window that begins with one starts at the event before (a timeline never begins with one).
    """
    first = np.asarray(first)
    low = vocabulary.index[vocabulary.intervals[0]]
    is_interval = np.zeros(len(vocabulary.tokens), bool)
    is_interval[low : low + len(vocabulary.intervals)] = True
    # The last row before `first` that is no interval, or `first` itself: repeats make the way back longer than 1.
    anchor = np.maximum.accumulate(np.where(is_interval[tokens], 0, np.arange(len(tokens))))
    return times[anchor[first]]


def contexts(vocabulary: Vocabulary, part: Timelines, owners: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Prefixes of many windows: the last value of each slot at or before the window's start, and the age then.

    With the option context_time = "single" a patient's only value of a slot holds at all times, with "last" the last
    of all values does; both let a window know what came later, as the programs do whose presets choose them.

    Args: owners, int64 (W,), a patient of `part` each; starts, int64 (W,) µs.
    Returns: (W, S) of the token dtype, S = vocabulary.context_tokens: one token a slot (UNKNOWN where there is no
      value by then; static facts hold always), and the tokens of the age at vocabulary.age_at: see `_ages`.
    """
    when = vocabulary.settings.get("context_time", "past")
    ages = _ages(vocabulary, part.births[owners], starts)
    out = np.empty((len(owners), vocabulary.context_tokens), vocabulary.dtype)
    out[:, vocabulary.age_at : vocabulary.age_at + ages.shape[1]] = ages
    patients = len(part.subject_ids)
    entry_owners = np.repeat(np.arange(patients), np.diff(part.context_offsets))
    for slot, name in enumerate(vocabulary.context_slots):
        rows = np.flatnonzero(part.context_slots == slot)
        # Entries and windows in one order by patient and time, entries first where the times are equal, and the
        # later of two entries last: the last entry before a window is its value.
        owner = np.concatenate([entry_owners[rows], owners])
        is_window = np.arange(len(owner)) >= len(rows)
        order = np.lexsort((is_window, np.concatenate([part.context_times[rows], starts]), owner))
        last = np.maximum.accumulate(np.where(is_window[order], -1, np.arange(len(order))))
        has_value = (last >= 0) & (owner[order[last]] == owner[order])
        windows = is_window[order]
        unknown = vocabulary.index[f"{name}//{UNKNOWN}"]
        values = np.full(len(order), unknown, np.int64)
        values[has_value] = part.context_tokens[rows][order[last[has_value]]]
        column = slot + (ages.shape[1] if slot >= vocabulary.age_at else 0)
        out[order[windows] - len(rows), column] = values[windows]
        if when != "past":
            of_patient = np.full(patients, -1)
            of_patient[entry_owners[rows]] = rows  # the last of a patient stays
            if when == "single":
                of_patient[np.bincount(entry_owners[rows], minlength=patients) != 1] = -1
            chosen = of_patient[owners]
            out[chosen >= 0, column] = part.context_tokens[chosen[chosen >= 0]]
    return out


def _ages(vocabulary: Vocabulary, births: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Age tokens, int64 (W, 1 or 2), by the option `age`; a birth that is not known is AGE//UNKNOWN, or UNK.

    "5-year": AGE//… in steps of 5 years of 365.25 days. "two-quantiles": whole days / 365.25, at most 99, its tens
    and its rounded units as Q tokens, Q1 for 0 (ETHOS-ARES). "age-and-year": ethos-paper's 5-year steps of the age
    and of the years since 1970, which for shifted dates are always its last.
    """
    index, known = vocabulary.index, births != STATIC
    years = np.where(known, (starts - births.astype(np.float64)) / YEAR, 0)
    if vocabulary.age_style == "5-year":
        steps = np.clip(years // AGE_WIDTH, 0, AGE_LAST // AGE_WIDTH).astype(np.int64)
        return (index[AGES[0]] + np.where(known, 1 + steps, 0))[:, None]
    if vocabulary.age_style == "two-quantiles":
        days = np.where(known, (starts - np.where(known, births, starts)) // DAY, 0)
        scaled = np.clip(days / 365.25, 0, 99)
        tens, units = scaled // 10, np.rint(scaled % 10)
        tens, units = np.where(units == 10, tens + 1, tens), np.where(units == 10, 0, units)
        both = index["Q1"] + np.stack([tens, units], 1).astype(np.int64)
    else:
        both = np.stack([years, starts / YEAR], 1) // AGE_WIDTH
        both = index[PAPER_AGES[0]] + np.clip(both, 0, len(PAPER_AGES) - 1).astype(np.int64)
    return np.where(known[:, None], both, index[UNK])


def context_at(vocabulary: Vocabulary, record: Mapping[str, Any], time: int) -> np.ndarray:
    """Prefix (S,) of one patient, as `read` yields it, at `time` (µs): see `contexts`."""
    one = np.zeros(1, np.int64)
    part = Timelines(
        subject_ids=one,
        births=np.array([record["birth"]], np.int64),
        tokens=record["tokens"],
        times=record["times"],
        offsets=np.array([0, len(record["tokens"])]),
        context_offsets=np.array([0, len(record["context_slots"])]),
        **{name: record[name] for name in CONTEXT},
    )
    return contexts(vocabulary, part, one, np.array([time], np.int64))[0]
