"""Which stays tasks ask about, and what came true of them, by what the timelines say."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_scaling.data import disclosure
from ehr_scaling.data.events.events import DEATH
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.tokenization.tokenizer import STATIC, Timelines
from ehr_scaling.data.vocabulary import DAY, HOUR, YEAR, Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking import label_files as given
from ehr_scaling.outcomes.asking.stays import Group, Stays, after, parts
from ehr_scaling.outcomes.asking.tasks import task_tokens
from ehr_scaling.outcomes.asking.tasks.task_tokens import KIND_OF
from ehr_scaling.outcomes.asking.tasks.tasks import Task, Unanswerable
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE

# Why a stay is not asked about; the first reason that holds is the one that is counted. 0 stands for: it is.
REASONS = (
    "asked",
    "not the first of their kind (first_after)",
    "with no record before the prediction",
    "ruled out by an event (without)",
    "too young, or of unknown age (min_age)",
    "with the outcome before (onset)",
    "decided by the time of the prediction",
    "of patients who had died by then",
    "whose record ends before the prediction",
    "left open",
    "without the outcome and without enough follow-up",
)
_ASKED, _LATER, _NO_RECORD, _RULED_OUT, _AGE, _BEFORE, _DECIDED, _DEAD, _ENDED, _OPEN, _FOLLOW_UP = range(len(REASONS))
LABELS = {"binary": bool, "days": np.float32, "class": np.int64}  # dtype by the kind of task
_DTYPES = (np.int64, np.int64, np.int64, np.int64, np.int64, np.float32)  # of Stays


def find(folder: Path, split: str | None, group: Sequence[Task]) -> Group:
    """The stays that each task of a group asks about, those whose outcome is known and was not at the prediction.

    Args: folder, the timelines or the work directory they are in; split, train, validation or test, or None for all;
      group, tasks with one `spec` (see `task_tokens.groups`).
    Raises: Unanswerable when the vocabulary lacks a task's tokens; UserError when a task's silence is not silent, and
      for what is wrong with labels; ValueError for tasks of different specs.
    """
    if len({task.spec for task in group}) != 1:
        raise ValueError("tasks of a group must share their prompts")
    vocabulary = timelines.vocabulary(folder)
    if group[0].labels:  # what came true is told; whether a threshold has tokens, only the train split's values say
        for task in group:
            (task_tokens.classes if task.kind == "class" else task_tokens.answerable)(vocabulary, task)
        return given.find(folder, split, group)
    questions = [_question(vocabulary, task) for task in group]
    anchor = task_tokens.ids(vocabulary, group[0].anchor)
    sought = np.any([anchor, *(q.sought for q in questions)], axis=0)
    union: list[Stays] = []
    rows: list[list[np.ndarray]] = [[] for _ in group]
    labels: list[list[np.ndarray]] = [[] for _ in group]
    left_out = np.zeros((len(group), len(REASONS)), np.int64)
    patients = count = loud = 0
    for part in parts(folder, split):
        marks = _Marks.of(part, sought)
        a = _anchors(part, marks.where(anchor), group[0])
        judged = [_judge(part, marks, a, question) for question in questions]
        chosen = np.flatnonzero(np.any([why == _ASKED for why, _ in judged], axis=0))
        for k, (why, label) in enumerate(judged):
            left_out[k] += np.bincount(why, minlength=len(REASONS))
            of_task = why[chosen] == _ASKED
            rows[k].append(count + np.flatnonzero(of_task))
            labels[k].append(label[chosen[of_task]])
        loud += _loud(part, a, chosen, group[0].silence)
        union.append(
            Stays(
                patients + a.owners[chosen],
                (a.rows - a.begins)[chosen],
                (a.until - a.begins)[chosen],
                a.times[chosen],
                part.subject_ids[a.owners[chosen]],
                np.full(len(chosen), np.nan, np.float32),
            )
        )
        patients += len(part.subject_ids)
        count += len(chosen)
    if loud:
        some, every = (disclosure.words(n, inspection.of_generated(folder)) for n in (loud, count))
        raise UserError(
            f"{some} of {every} stays have an event within the {group[0].silence:g} hours of silence of the task "
            f"{group[0].name} after the prediction: lower its silence to 0, it is for records that stop at a fixed hour"
        )
    return Group(
        Stays(*(_joined(column, kind) for column, kind in zip(zip(*union, strict=True), _DTYPES, strict=True)))
        if union
        else Stays(*(np.zeros(0, kind) for kind in _DTYPES)),
        tuple(_joined(r, np.int64) for r in rows),
        tuple(_joined(x, LABELS[task.kind]) for x, task in zip(labels, group, strict=True)),
        tuple({REASONS[i]: int(n) for i, n in enumerate(counts) if n and i} for counts in left_out),
    )


def _joined(pieces: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *pieces])


def stays(folder: Path, split: str | None, task: Task) -> Stays:
    """The stays that one task asks about, with labels: see `find`.

    Raises: as `find`, and Unanswerable when there is no stay, or a binary outcome is that of all or none; labels that
      say nothing (NaN) are let through, since predictions can be made all the same.
    """
    return checked(find(folder, split, [task]), folder, split, task)


def checked(group: Group, folder: Path, split: str | None, task: Task) -> Stays:
    """The stays of a group of one task, where they can be judged. Raises Unanswerable as `stays` does."""
    every, generated = group.of(0), inspection.of_generated(folder)
    where = f"the {split} split" if split else "all splits"
    if not len(every.labels):
        raise Unanswerable(f"0 stays of {where} can be asked for {task.name}: {group.describe(0, generated)}")
    if every.labels.dtype == bool and not 0 < (positives := int(every.labels.sum())) < len(every.labels):
        raise Unanswerable(
            f"{disclosure.words(len(every.labels), generated)} stays of {where} can be asked for {task.name}, "
            f"{'all' if positives else 'none'} of them with the outcome: "
            "both kinds are needed, take more patients or another split (--config.data.splits); "
            f"{group.describe(0, generated)}"
        )
    return every


class _Question(NamedTuple):
    """A task in the vocabulary: which tokens play which part, each (V,)."""

    task: Task
    first_after: np.ndarray  # bool
    without: np.ndarray  # bool
    since: np.ndarray  # bool
    positive: np.ndarray  # bool
    death: np.ndarray  # bool
    kinds: np.ndarray  # int8: POSITIVE, NEGATIVE, OPEN or 0; of a class, zeros
    classes: np.ndarray  # int64: place among the classes, -1 for none

    @property
    def sought(self) -> np.ndarray:
        """bool (V,): tokens that play a part, which are sought in every timeline."""
        return self.first_after | self.without | self.since | self.positive | self.death | (self.kinds > 0)


class _Marks(NamedTuple):
    """The few tokens of a part that tasks ask for: found once, since looking through all takes most of the time."""

    rows: np.ndarray  # int64, ascending, in the part
    tokens: np.ndarray

    @classmethod
    def of(cls, part: Timelines, sought: np.ndarray) -> "_Marks":
        rows = np.flatnonzero(sought[part.tokens])
        return cls(rows, part.tokens[rows])

    def where(self, which: np.ndarray) -> np.ndarray:
        """Rows of the tokens that `which` (V,) holds for."""
        return self.rows[which[self.tokens]]


def _question(vocabulary: Vocabulary, task: Task) -> _Question:
    kinds, classes = np.zeros(len(vocabulary.tokens), np.int8), np.full(len(vocabulary.tokens), -1)
    if task.kind == "class":
        token_ids = task_tokens.classes(vocabulary, task)
        classes[token_ids] = np.arange(len(token_ids))
    else:
        kinds = task_tokens.kinds(vocabulary, task)
    first_after, without, since, positive, death = (
        task_tokens.ids(vocabulary, names)
        for names in (task.first_after, task.without, task.since, task.positive, (DEATH,))
    )
    return _Question(task, first_after, without, since, positive, death, kinds, classes)


class _Anchors(NamedTuple):
    """All anchors of a part, int64 (A,) each; rows are those of the part, not of a patient."""

    rows: np.ndarray
    owners: np.ndarray  # patient in the part
    begins: np.ndarray  # first row of the patient
    ends: np.ndarray  # row of the token that ends the timeline
    until: np.ndarray  # row after the last token that is known at the prediction
    times: np.ndarray  # µs, of the prediction


def _anchors(part: Timelines, rows: np.ndarray, task: Task) -> _Anchors:
    owners = np.searchsorted(part.offsets, rows, side="right") - 1
    # The last token only says that there are no more, so it is no part of a prompt, though it has the last event's time
    begins, ends = part.offsets[owners], part.offsets[owners + 1] - 1
    times = part.times[rows]
    if task.hours is not None:
        times = times + round(task.hours * HOUR)
    until = after(part.times, rows, ends, times)
    if task.tokens is not None:
        until = np.minimum(until, rows + 1 + task.tokens)
        times = part.times[np.maximum(until - 1, begins)]
    return _Anchors(rows, owners, begins, ends, until, times)


def _judge(part: Timelines, marks: _Marks, a: _Anchors, question: _Question) -> tuple[np.ndarray, np.ndarray]:
    """Why each anchor's stay is not asked about, an index into REASONS, int64 (A,); and its label (A,)."""
    task = question.task
    why = np.full(len(a.rows), _ASKED)

    def leave_out(which: np.ndarray, reason: int) -> None:
        why[which & (why == _ASKED)] = reason

    outcome = _next_token(part, a, question) if task.kind == "class" else _outcome(part, marks, a, question)
    if task.first_after:
        opened = _last(marks.where(question.first_after), a.rows)
        before = np.append(-1, a.rows[:-1])[: len(a.rows)]
        leave_out((opened < a.begins) | (opened <= before), _LATER)
    leave_out(a.until <= a.begins, _NO_RECORD)
    if task.without:
        start = np.maximum(_last(marks.where(question.since), a.rows + 1), a.begins) if task.since else a.rows
        leave_out(next_row(marks.where(question.without), start) < a.until, _RULED_OUT)
    if task.min_age:
        births = part.births[a.owners]
        old = a.times - births.astype(np.float64) >= task.min_age * YEAR
        leave_out((births == STATIC) | ~old, _AGE)
    if task.onset:
        leave_out(next_row(marks.where(question.positive), a.begins) < a.until, _BEFORE)
    leave_out(outcome.decided, _DECIDED)
    died = next_row(marks.where(question.death), a.begins)
    if task.kind == "class":  # a code of the bill is one whether the patient lives or not
        leave_out((died < a.rows) & (part.times[np.minimum(died, a.rows)] < part.times[a.rows]), _DEAD)
    else:
        leave_out(died < a.until, _DEAD)
    leave_out(a.times > part.times[a.ends], _ENDED)
    leave_out(outcome.open, _OPEN)
    leave_out(outcome.unsaid & (part.times[a.ends] < a.times + round(task.follow_up * DAY)), _FOLLOW_UP)
    return why, outcome.labels


class _Outcome(NamedTuple):
    """What became of each anchor's stay, (A,)."""

    decided: np.ndarray  # bool, by the time of the prediction
    open: np.ndarray  # bool, never decided
    unsaid: np.ndarray  # bool, without the outcome though no negative token says so
    labels: np.ndarray  # bool, float32 or int64; of no meaning where decided or open


def _outcome(part: Timelines, marks: _Marks, a: _Anchors, question: _Question) -> _Outcome:
    """Of a binary task or one of days: by the first token that decides after each anchor."""
    task = question.task
    stop = next_row(marks.where(question.kinds > 0), np.minimum(a.rows + 1, a.until))
    stop = np.minimum(stop, a.ends)  # one of the next patient is none
    kind = question.kinds[part.tokens[stop]]
    kind = np.where(kind > 0, kind, OPEN)
    decided = (stop < a.until) & (kind != OPEN)
    late = np.zeros(len(stop), bool)
    if task.horizon is not None and task.at_horizon is not None:
        start = part.times[a.rows] if task.horizon_from == "anchor" else a.times
        beyond, at_horizon = part.times[stop] - start - round(task.horizon * DAY), KIND_OF[task.at_horizon]
        # Ten days or more are ten days: who leaves at the horizon has reached it.
        late = beyond >= 0 if at_horizon == POSITIVE else beyond > 0
        # That a stay went on to its horizon is known where its end comes after it, not where its end is missing.
        late &= (kind != OPEN) | (at_horizon != POSITIVE)
        kind = np.where(late, at_horizon, kind)
    unsaid = (kind == NEGATIVE) & ((stop == a.ends) | late)
    days = ((part.times[stop] - part.times[a.rows]) / DAY).astype(np.float32)
    return _Outcome(decided, kind == OPEN, unsaid, days if task.kind == "days" else kind == POSITIVE)


def _next_token(part: Timelines, a: _Anchors, question: _Question) -> _Outcome:
    """Of a task of classes: by the token that follows the prompt."""
    labels = question.classes[part.tokens[a.until]]
    never = np.zeros(len(labels), bool)
    return _Outcome(never, labels < 0, never, labels)


def next_row(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The first of `rows` (ascending) that is at or after each of `at`; beyond all rows where there is none."""
    return np.append(rows, np.iinfo(np.int64).max)[np.searchsorted(rows, at)]


def _last(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The last of `rows` (ascending) that is before each of `at`; -1 where there is none."""
    return np.append(-1, rows)[np.searchsorted(rows, at)]


def _loud(part: Timelines, a: _Anchors, chosen: np.ndarray, silence: float) -> int:
    """Of the stays asked about, how many have an event in the silence after the prediction."""
    following = a.until[chosen]
    near = part.times[following] - a.times[chosen] < silence * HOUR
    return int((near & (following < a.ends[chosen])).sum()) if silence else 0
