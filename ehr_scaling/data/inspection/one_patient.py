"""One timeline as a person reads it: events at the time since the first one, without the id and without dates."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling.data.inspection.inspection import YEAR_PLACE, context_names
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.tokenization.event_tokens import Grouping
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError


class Moment(NamedTuple):
    """All that a timeline has at one time."""

    gap: tuple[str, ...]  # the interval tokens before it
    since: int  # µs since the patient's first event
    events: list[list[str]]  # tokens, by event


class Patient(NamedTuple):
    context: list[tuple[str, str]]  # slot, value: as known at the first event; the age is a slot too
    tokens: int
    moments: list[Moment]


def read(workdir: Path, split: str, ordinal: int) -> Patient:
    """The patient with this ordinal (from 0, in the order of the files) in the split.

    Raises: UserError where the split has no such patient, and as `timelines.batches` does.
    """
    first = 0
    for i, size in enumerate(timelines.files(workdir, split)):
        if first <= ordinal < first + size:
            patient = timelines.patient(timelines.read_file(workdir, split, i), ordinal - first)
            return _moments(timelines.vocabulary(workdir), patient)
        first += size
    raise UserError(f"--patient={ordinal}: the split {split} has {first} patients, the first of them is 0")


def _moments(vocabulary: Vocabulary, record: dict[str, Any]) -> Patient:
    names = [vocabulary.tokens[i] for i in record["tokens"].tolist()]
    times = record["times"].tolist()
    prefix = static_context.context_at(vocabulary, record, times[0]).tolist()
    context = [
        (slot, vocabulary.tokens[i].removeprefix(f"{slot}//"))
        for slot, i in zip(context_names(vocabulary), prefix, strict=True)
        if slot != YEAR_PLACE
    ]
    intervals = set(vocabulary.intervals)
    events: dict[int, list[list[str]]] = {}
    for event in Grouping(vocabulary).split(record["tokens"].tolist(), times):
        events.setdefault(times[event.at], []).append([vocabulary.tokens[i] for i in event.tokens])
    moments = []
    for time, pairs in itertools.groupby(zip(times, names, strict=True), key=lambda pair: pair[0]):
        gap = tuple(itertools.takewhile(intervals.__contains__, (name for _, name in pairs)))
        moments.append(Moment(gap, time - times[0], events[time]))
    return Patient(context, len(names), moments)
