"""Tasks: which stays are asked about, where the prompt ends, and what comes true."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_scaling.data import static_context, timelines
from ehr_scaling.data.tokenizer import Timelines
from ehr_scaling.data.vocabulary import END, HOUR, Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.models.transformer import PAD
from ehr_scaling.outcomes.simulate import Stops


class Unanswerable(UserError):
    """The records cannot answer a task: they lack its tokens, or stays with the outcome, or stays without."""


@dataclass(frozen=True)
class Task:
    """A yes-or-no question about stays. Tokens are given by name, and mean `NAME` and every `NAME//…`.

    anchor: the token that a stay begins with.
    hours: after the anchor; the prediction is made then, and the prompt holds nothing later.
    positive, negative: the first of these after the anchor decides. A stay decided by the time of the prediction is
      not asked about.
    open: tokens that leave a stay, or a simulated future, undecided when they come first.
    silence: hours after the prediction in which the records hold nothing of any patient, because of how they were
      made, as when a release stops at a fixed hour. A model cannot know that from a prompt, so it is told: the first
      simulated token is an interval that leads past them.
    """

    name: str
    description: str
    anchor: str
    hours: float
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    open: tuple[str, ...]
    silence: float = 0.0


def in_hospital_death(anchor: str = "HOSPITAL_ADMISSION", hours: float = 24.0, silence: float = 0.0) -> Task:
    """Death before discharge, asked `hours` after a stay begins with `anchor`; see Task for `silence`."""
    told = (
        f" The records hold nothing in the {silence:g} hours after that, and the model is told so: the first simulated "
        "token is an interval that leads past them."
    )
    place = {"HOSPITAL_ADMISSION": "admission to hospital", "ICU_ADMISSION": "admission to intensive care"}
    return Task(
        name=f"in_hospital_death_{hours:g}h",
        description=(
            f"Death in hospital, predicted {hours:g} hours after {place.get(anchor, anchor)} for patients who are "
            f"still in hospital then.{told if silence else ''}"
        ),
        anchor=anchor,
        hours=hours,
        positive=("MEDS_DEATH",),
        negative=("HOSPITAL_DISCHARGE",),
        # Another admission before any discharge: the end of the first stay is missing from the record.
        open=(END, "HOSPITAL_ADMISSION"),
        silence=silence,
    )


def ids(vocabulary: Vocabulary, names: tuple[str, ...]) -> np.ndarray:
    """Which tokens are meant by `names`: bool (V,)."""
    prefixes = tuple(f"{name}//" for name in names)
    return np.array([token in names or token.startswith(prefixes) for token in vocabulary.tokens])


def stops(vocabulary: Vocabulary, task: Task) -> Stops:
    """The tokens that end a future of `task`. Raises Unanswerable when the vocabulary lacks what the task is about."""
    found = Stops(*(ids(vocabulary, names) for names in (task.positive, task.negative, task.open)))
    for names, is_in in (
        ((task.anchor,), ids(vocabulary, (task.anchor,))),
        (task.positive, found.positive),
        (task.negative, found.negative),
    ):
        if not is_in.any():
            raise Unanswerable(
                f"the task {task.name} needs the token {' or '.join(names)}, which the vocabulary of these timelines "
                "lacks: choose another task, or another --config.outcome.anchor"
            )
    return found


def first_ids(vocabulary: Vocabulary, task: Task) -> np.ndarray:
    """Ids among which the first simulated token is drawn: bool (V,), all unless the task has a silence."""
    if not task.silence:
        return np.ones(len(vocabulary.tokens), bool)
    longest = [*vocabulary.interval_bounds[1:], np.iinfo(np.int64).max]
    past = [name for name, end in zip(vocabulary.intervals, longest, strict=True) if end > task.silence * HOUR]
    return ids(vocabulary, tuple(past))


class Stays(NamedTuple):
    """Stays of one split that a task asks about, in the order of the timelines. All arrays (n,)."""

    patients: np.ndarray  # int64, ordinal of the patient in the split
    anchors: np.ndarray  # int64, row of the anchor in the patient's timeline
    known: np.ndarray  # int64, tokens of the timeline up to and at the time of the prediction
    times: np.ndarray  # int64 µs, of the prediction
    subject_ids: np.ndarray  # int64
    labels: np.ndarray  # bool

    def take(self, rows: np.ndarray) -> "Stays":
        return Stays(*(field[rows] for field in self))


def stays(folder: Path, split: str, task: Task) -> Stays:
    """All stays of a split that are still open at the time of the prediction and whose outcome is known.

    Args: folder, the timelines or the work directory they are in; split, train, validation or test.
    Raises: Unanswerable when the vocabulary lacks the task's tokens, or there is no stay with, or none without, the
      outcome; UserError when the task's silence is not silent.
    """
    vocabulary = timelines.vocabulary(folder)
    kinds = stops(vocabulary, task)
    anchor = ids(vocabulary, (task.anchor,))
    found, patients = [], 0
    for part in timelines.batches(folder, split):
        found.append(_stays(part, anchor, kinds, task, patients))
        patients += len(part.subject_ids)
    every = Stays(*(np.concatenate(field) for field in zip(*found, strict=True)))
    positives = int(every.labels.sum())
    if not 0 < positives < len(every.labels):
        raise Unanswerable(
            f"{len(every.labels)} stays of the {split} split can be asked for {task.name}, {positives} of them with "
            "the outcome: both kinds are needed, take more patients or another split (--config.data.splits)"
        )
    return every


def _stays(part: Timelines, anchor: np.ndarray, kinds: Stops, task: Task, first_patient: int) -> Stays:
    rows = np.flatnonzero(anchor[part.tokens])
    owners = np.searchsorted(part.offsets, rows, side="right") - 1
    begins, ends = part.offsets[owners], part.offsets[owners + 1]
    times = part.times[rows] + round(task.hours * HOUR)
    kind = np.select([np.asarray(x)[part.tokens] for x in kinds], [1, 2, 3], 0)
    stop_rows = np.append(np.flatnonzero(kind), len(kind))  # the last stands for: none
    stop = stop_rows[np.searchsorted(stop_rows, rows, side="right")]
    decided = stop < ends  # a stop token of the next patient is none
    stop = np.where(decided, stop, rows)
    asked = decided & np.isin(kind[stop], (1, 2)) & (part.times[stop] > times)
    known = np.array(
        [
            np.searchsorted(part.times[begin:end], time, side="right")
            for begin, end, time in zip(begins[asked], ends[asked], times[asked], strict=True)
        ],
        np.int64,
    )
    gap = part.times[begins[asked] + known] - times[asked]
    if (loud := int((gap < task.silence * HOUR).sum())) and task.silence:
        raise UserError(
            f"{loud} of {len(known)} stays have an event within --config.outcome.silence={task.silence:g} hours after "
            "the prediction: lower it to 0, it is for records that stop at a fixed hour"
        )
    return Stays(
        first_patient + owners[asked],
        (rows - begins)[asked],
        known,
        times[asked],
        part.subject_ids[owners[asked]],
        kind[stop][asked] == 1,
    )


def subsample(every: Stays, most: int | None, positive_share: float | None, seed: int) -> Stays:
    """At most `most` of the stays, drawn without replacement, in their order.

    positive_share: share of stays with the outcome in what is drawn, as far as there are enough of either kind; None
      draws without regard to it. The AUROC does not depend on the share, and a balanced sample gives it a narrower
      interval; probabilities are not calibrated to such a sample.
    """
    n = len(every.labels)
    most = n if most is None else min(most, n)
    rng = np.random.default_rng(seed)
    if positive_share is None:
        return every.take(np.sort(rng.choice(n, most, replace=False)))
    yes, no = np.flatnonzero(every.labels), np.flatnonzero(~every.labels)
    wanted = np.clip(round(most * positive_share), 1, most - 1)
    positives = min(int(wanted), len(yes))
    negatives = min(most - positives, len(no))
    chosen = [rng.choice(yes, positives, replace=False), rng.choice(no, negatives, replace=False)]
    return every.take(np.sort(np.concatenate(chosen)))


def by_part(folder: Path, split: str, asked: Stays) -> Iterator[tuple[Timelines, np.ndarray, np.ndarray]]:
    """The timelines a part at a time, with the stays in it: (part, rows of `asked`, their patients in the part)."""
    first = 0
    for part in timelines.batches(folder, split):
        last = first + len(part.subject_ids)
        rows = np.flatnonzero((asked.patients >= first) & (asked.patients < last))
        if len(rows):
            yield part, rows, asked.patients[rows] - first
        first = last


def prompts(folder: Path, split: str, asked: Stays, width: int) -> np.ndarray:
    """The prompt of each stay, of the dtype of tokens (n, width), padded on the left with PAD.

    A prompt is the static context as it was at the start of its window, then the last tokens up to and at the time
    of the prediction: `width` in all. An interval token carries the time of the event that ends it, so one that leads
    past the prediction is not in it.

    Raises: UserError when the context leaves no room for a timeline token.
    """
    vocabulary = timelines.vocabulary(folder)
    room = width - vocabulary.context_tokens
    if room < 1:
        raise UserError(
            f"a prompt of {width} tokens has no room beside {vocabulary.context_tokens} tokens of static context: "
            "lower --config.outcome.new_tokens or raise --config.data.context"
        )
    out = np.full((len(asked.labels), width), PAD, vocabulary.dtype)
    for part, rows, owners in by_part(folder, split, asked):
        begins = part.offsets[owners]
        ends = begins + asked.known[rows]
        firsts = np.maximum(begins, ends - room)
        starts = static_context.start_times(vocabulary, part.tokens, part.times, firsts)
        contexts = static_context.contexts(vocabulary, part, owners, starts)
        for row, first, end, context in zip(rows, firsts, ends, contexts, strict=True):
            out[row, width - (end - first) :] = part.tokens[first:end]
            out[row, width - (end - first) - len(context) : width - (end - first)] = context
    return out
