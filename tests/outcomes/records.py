"""Timelines in memory for tests of tasks: patients told as (hours, token), without a file."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.tokenization.tokenizer import STATIC, Timelines
from ehr_scaling.data.vocabulary import AGES, END, HOUR, INTERVAL_BOUNDS, INTERVALS, SPECIAL, YEAR, Vocabulary

NOON = 50 * 365 * 24 * HOUR
FOLDER = Path("in memory")
Event = tuple[float, str]  # hours after NOON, token


class Patient(NamedTuple):
    tokens: list[str]
    times: list[int]
    birth: int


def patient(*events: Event, age: float | None = 40.0) -> Patient:
    """Tokens and times as the tokenizer makes them: an interval before an event that comes 5 minutes or more later."""
    tokens: list[str] = []
    times: list[int] = []
    now = None
    for hours, token in events:
        time = NOON + round(hours * HOUR)
        if now is not None and time - now >= INTERVAL_BOUNDS[0]:
            tokens.append(INTERVALS[np.searchsorted(INTERVAL_BOUNDS, time - now, side="right") - 1])
            times.append(time)
        tokens.append(token)
        times.append(time)
        now = time
    birth = STATIC if age is None else NOON - round(age * YEAR)
    return Patient([*tokens, END], [*times, times[-1]], birth)


def vocabulary(*names: str) -> Vocabulary:
    tokens = (*SPECIAL, *AGES, *dict.fromkeys(n for n in names if n not in SPECIAL))
    return Vocabulary(tokens, (1,) * len(tokens), (), {}, (0.0,) * len(INTERVALS), {})


@contextlib.contextmanager
def told(
    splits: dict[str, Sequence[Patient]], *more: str, patients_a_file: int = 2, first_id: int = 1000
) -> Iterator[Vocabulary]:
    """Let `timelines` read these patients, whatever the folder. Args: more, tokens that no patient has."""
    every = [p for patients in splits.values() for p in patients]
    made = vocabulary(*(token for p in every for token in p.tokens), *more)
    subject = {id(p): first_id + i for i, p in enumerate(every)}

    def batches(_: Path, split: str) -> Iterator[Timelines]:
        patients = splits.get(split, ())
        for first in range(0, len(patients), patients_a_file):
            part = patients[first : first + patients_a_file]
            yield Timelines(
                subject_ids=np.array([subject[id(p)] for p in part]),
                births=np.array([p.birth for p in part]),
                tokens=np.array([made.index[t] for p in part for t in p.tokens], made.dtype),
                times=np.array([t for p in part for t in p.times]),
                offsets=np.cumsum([0, *(len(p.tokens) for p in part)]),
                context_tokens=np.zeros(0, made.dtype),
                context_times=np.zeros(0, np.int64),
                context_slots=np.zeros(0, np.uint8),
                context_offsets=np.zeros(len(part) + 1, np.int64),
            )

    with mock.patch.multiple(timelines, vocabulary=lambda _: made, batches=batches):
        yield made
