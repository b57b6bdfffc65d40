"""Stays: who is asked about, when, and what a model is shown of them. `cohort` finds them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_scaling.data import disclosure
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.tokenization.tokenizer import Timelines
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.errors import UserError
from ehr_scaling.models.transformer import PAD


class Stays(NamedTuple):
    """Stays of one split, or of all, in the order of the timelines. All arrays (n,)."""

    patients: np.ndarray  # int64, ordinal of the patient in the split; in all splits one after the other, if it is None
    anchors: np.ndarray  # int64, row of the anchor in the patient's timeline
    known: np.ndarray  # int64, tokens of the timeline that are known at the prediction
    times: np.ndarray  # int64 µs, of the prediction
    subject_ids: np.ndarray  # int64
    labels: np.ndarray  # bool, float32 days or int64 classes, by the kind of task; float32 NaN where nobody says

    def take(self, rows: np.ndarray) -> "Stays":
        return Stays(*(field[rows] for field in self))


class Group(NamedTuple):
    """What K tasks that share their prompts ask: the stays of all of them, each once."""

    stays: Stays  # n of them, with labels of NaN: what is true depends on the task
    rows: tuple[np.ndarray, ...]  # int64 (n_k,) for each task: which of the stays it asks about, ascending
    labels: tuple[np.ndarray, ...]  # (n_k,) for each task, as in Stays
    left_out: tuple[dict[str, int], ...]  # for each task: why others were found and are not asked, and how many

    def of(self, k: int) -> Stays:
        """The stays of task k with its labels, as if it had been asked alone."""
        return self.stays.take(self.rows[k])._replace(labels=self.labels[k])

    def describe(self, k: int, generated: bool) -> str:
        """How many stays task k asks about, and how many not, by reason. Args: generated, whether they are nobody's."""
        reasons = [f"{disclosure.words(n, generated)} {reason}" for reason, n in self.left_out[k].items()]
        count = disclosure.words(len(self.rows[k]), generated)
        return f"{count} stays asked; left out: {', '.join(reasons) or 'none'}"

    def without(self, subject_ids: np.ndarray, reason: str) -> "Group":
        """No stay of these patients; they are counted among those left out. Args: subject_ids, int64 (m,)."""
        chosen = [np.flatnonzero(~np.isin(self.stays.subject_ids[rows], subject_ids)) for rows in self.rows]
        gone = [len(rows) - len(some) for rows, some in zip(self.rows, chosen, strict=True)]
        left_out = ({**counts, reason: n} if n else counts for counts, n in zip(self.left_out, gone, strict=True))
        return self.choose(chosen)._replace(left_out=tuple(left_out))

    def choose(self, chosen: Sequence[np.ndarray]) -> "Group":
        """Only some stays of each task. Args: chosen, for each task, int (m_k,) ascending, an index into rows[k]."""
        kept = [rows[some] for rows, some in zip(self.rows, chosen, strict=True)]
        used = np.unique(np.concatenate([np.zeros(0, np.int64), *kept]))
        return Group(
            self.stays.take(used),
            tuple(np.searchsorted(used, rows) for rows in kept),
            tuple(labels[some] for labels, some in zip(self.labels, chosen, strict=True)),
            self.left_out,
        )


def draw(labels: np.ndarray, most: int | None, positive_share: float | None, seed: int) -> np.ndarray:
    """Rows of at most `most` stays, drawn without replacement: int64, ascending.

    positive_share: share of stays with the outcome in what is drawn, as far as there are enough of either kind; None
      draws without regard to it. The AUROC does not depend on the share, and a balanced sample gives it a narrower
      interval; probabilities are not calibrated to such a sample. Only labels that are bool have one.
    """
    n = len(labels)
    most = n if most is None else min(most, n)
    rng = np.random.default_rng(seed)
    if positive_share is None or labels.dtype != bool:
        return np.sort(rng.choice(n, most, replace=False))
    yes, no = np.flatnonzero(labels), np.flatnonzero(~labels)
    wanted = np.clip(round(most * positive_share), 1, max(most - 1, 1))
    positives = min(int(wanted), len(yes))
    negatives = min(most - positives, len(no))
    return np.sort(
        np.concatenate([rng.choice(yes, positives, replace=False), rng.choice(no, negatives, replace=False)])
    )


def subsample(every: Stays, most: int | None, positive_share: float | None, seed: int) -> Stays:
    """At most `most` of the stays, in their order: see `draw`."""
    return every.take(draw(every.labels, most, positive_share, seed))


def parts(folder: Path, split: str | None) -> Iterator[Timelines]:
    """The timelines of a split, or of all of them, a file at a time."""
    for name in timelines.SPLITS if split is None else [split]:
        yield from timelines.batches(folder, name)


def by_part(folder: Path, split: str | None, stays: Stays) -> Iterator[tuple[Timelines, np.ndarray, np.ndarray]]:
    """The timelines a part at a time, with the stays in it: (part, rows of `stays`, their patients in the part)."""
    first = 0
    for part in parts(folder, split):
        last = first + len(part.subject_ids)
        rows = np.flatnonzero((stays.patients >= first) & (stays.patients < last))
        if len(rows):
            yield part, rows, stays.patients[rows] - first
        first = last


def prompts(folder: Path, split: str | None, stays: Stays, width: int) -> np.ndarray:
    """The prompt of each stay, of the dtype of tokens (n, width), padded on the left with PAD.

    A prompt is the static context as it was at the start of its window, then the last of the known tokens: `width` in
    all. An interval token carries the time of the event that ends it, so one that leads past the prediction is not in
    it.

    Raises: UserError when the context leaves no room for a timeline token.
    """
    vocabulary = timelines.vocabulary(folder)
    room = width - vocabulary.context_tokens
    if room < 1:
        raise UserError(
            f"a prompt of {width} tokens has no room beside {vocabulary.context_tokens} tokens of static context: "
            "lower --config.outcome.new_tokens or raise --config.data.context"
        )
    out = np.full((len(stays.known), width), PAD, vocabulary.dtype)
    for part, rows, owners in by_part(folder, split, stays):
        begins = part.offsets[owners]
        ends = begins + stays.known[rows]
        firsts = np.maximum(begins, ends - room)
        starts = static_context.start_times(vocabulary, part.tokens, part.times, firsts)
        contexts = static_context.contexts(vocabulary, part, owners, starts)
        for row, first, end, context in zip(rows, firsts, ends, contexts, strict=True):
            out[row, width - (end - first) :] = part.tokens[first:end]
            out[row, width - (end - first) - len(context) : width - (end - first)] = context
    return out


def after(times: np.ndarray, low: np.ndarray, high: np.ndarray, when: np.ndarray) -> np.ndarray:
    """The first row from `low` up to `high` (of each, ascending times between them) that is later than `when`."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        early = times[np.where(open_, middle, 0)] <= when
        low = np.where(open_ & early, middle + 1, low)
        high = np.where(open_ & ~early, middle, high)
    return low


def quiet(folder: Path, split: str | None, stays: Stays) -> np.ndarray:
    """Hours from the last event that is known to the prediction, in which nothing happened: float32 (n,)."""
    out = np.zeros(len(stays.known), np.float32)
    for part, rows, owners in by_part(folder, split, stays):
        last = part.times[part.offsets[owners] + stays.known[rows] - 1]
        out[rows] = (stays.times[rows] - last) / HOUR
    return out
