"""One timeline as a person reads it: events at the time since the first one, without the id and without dates."""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling.data import static_context, timelines
from ehr_scaling.data.inspection import YEAR_PLACE, context_names
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
        if ordinal < first + size:
            found = timelines.patient(timelines.read_file(workdir, split, i), ordinal - first)
            return _moments(timelines.vocabulary(workdir), found)
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
    intervals, quantiles = set(vocabulary.intervals), set(vocabulary.quantile_tokens)
    moments = []
    for time, pairs in itertools.groupby(zip(times, names, strict=True), key=lambda pair: pair[0]):
        tokens = [name for _, name in pairs]
        gap = tuple(itertools.takewhile(intervals.__contains__, tokens))
        moments.append(Moment(gap, time - times[0], by_event(tokens[len(gap) :], quantiles)))
    return Patient(context, len(names), moments)


# Tokens that tell more about the one before them: families, and parts of a classification's path.
_DETAILS = frozenset(("ADMISSION_TYPE", "DISCHARGE_LOCATION", "ICU_TYPE", "ED_TRANSPORT", "ED_DISPOSITION"))
_PARTS = frozenset(("3-6", "SFX", "4"))
_PROCEDURES = ("ICD10PCS//", "ICD//PCS//")
_CHARACTERS = 7  # of an ICD-10-PCS code, one a token


def by_event(tokens: Sequence[str], quantiles: Collection[str]) -> list[list[str]]:
    """Tokens of one moment, by event, as far as their names tell: a timeline does not say where an event begins.

    Procedures are told apart where all are there in full length; else they stay in one list.
    """
    events: list[list[str]] = []
    for of_procedures, run in itertools.groupby(tokens, key=lambda token: token.startswith(_PROCEDURES)):
        names = list(run)
        if of_procedures:
            size = len(names) if len(names) % _CHARACTERS else _CHARACTERS
            events += [names[i : i + size] for i in range(0, len(names), size)]
            continue
        for name in names:
            segments = name.split("//")
            is_detail = segments[0] in _DETAILS or not _PARTS.isdisjoint(segments[1:-1])
            if events and (name in quantiles or is_detail):
                events[-1].append(name)
            else:
                events.append([name])
    return events
