"""What tasks mean in the vocabulary of some timelines: tokens that decide them, horizons, prompts that they share."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.data.vocabulary import END, Vocabulary
from ehr_scaling.outcomes.asking import stays
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import QUANTILES, Task, Unanswerable, meaning
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, Stops

KIND_OF = {"positive": POSITIVE, "negative": NEGATIVE, "open": OPEN}


def ids(vocabulary: Vocabulary, names: Sequence[str]) -> np.ndarray:
    """Which tokens are meant by `names`: bool (V,)."""
    return np.fromiter(map(meaning(names), vocabulary.tokens), bool, len(vocabulary.tokens))


def kinds(vocabulary: Vocabulary, task: Task) -> np.ndarray:
    """What each token means for a task that is no "class": POSITIVE, NEGATIVE, OPEN, or 0 for nothing, int8 (V,).

    Raises: Unanswerable when the vocabulary lacks what the task is about.
    """
    answerable(vocabulary, task)
    out = np.zeros(len(vocabulary.tokens), np.int8)
    for name, kind in KIND_OF.items():
        out[ids(vocabulary, getattr(task, name))] = kind
    out[vocabulary.index[END]] = KIND_OF[task.at_end]
    return out


def classes(vocabulary: Vocabulary, task: Task) -> np.ndarray:
    """Ids of the tokens that are the classes of a task, int64 (C,) ascending: labels are places in it.

    Raises: Unanswerable when the vocabulary has fewer than two of them.
    """
    answerable(vocabulary, task)
    names = [*task.classes, *(vocabulary.quantile_tokens if QUANTILES in task.classes else ())]
    token_ids = np.flatnonzero(ids(vocabulary, names))
    if len(token_ids) < 2:
        raise Unanswerable(
            f"the task {task.name} needs tokens {' or '.join(task.classes)} to choose from, of which the vocabulary of "
            f"these timelines has {len(token_ids)}"
        )
    return token_ids


def answerable(vocabulary: Vocabulary, task: Task) -> None:
    """Raises Unanswerable when the vocabulary has no anchor of the task, or no token that could tell its outcome.

    One name of several suffices, as those of different presets: `lacking` tells the others.
    """
    meanings = {task.at_end, task.at_horizon}
    needed = [task.anchor] + [getattr(task, n) for n in ("positive", "negative") if n not in meanings]
    for names in needed:
        if names and not ids(vocabulary, names).any():
            raise Unanswerable(
                f"the task {task.name} needs the token {' or '.join(names)}, which the vocabulary of these timelines "
                "lacks: choose another task"
            )


def lacking(vocabulary: Vocabulary, task: Task) -> list[str]:
    """Names of a task that mean no token of the vocabulary; another name beside them may do."""
    lists = (task.anchor, task.first_after, task.without, task.since, task.positive, task.negative, task.open)
    names = [n for n in dict.fromkeys(itertools.chain(*lists, task.classes)) if n != QUANTILES and n[0] != "-"]
    return [name for name in names if not ids(vocabulary, [name]).any()]


def stops(vocabulary: Vocabulary, tasks: Sequence[Task]) -> Stops:
    """The tokens that end a future of each of K tasks, none of them a "class"; see `simulate.Stops`.

    Raises: Unanswerable when the vocabulary lacks what a task is about.
    """
    kinds_KxV = np.stack([kinds(vocabulary, task) for task in tasks])
    return Stops(
        positive=kinds_KxV == POSITIVE,
        negative=kinds_KxV == NEGATIVE,
        open=kinds_KxV == OPEN,
        at_horizon=np.array([KIND_OF[task.at_horizon or "open"] for task in tasks], np.int8),
    )


def horizons(tasks: Sequence[Task], patient_stays: Stays) -> np.ndarray:
    """Hours after the prediction, and a silence, until which each outcome is watched: float32 (n, K), inf for ever.

    A horizon that is counted from the anchor is nearer by the hours from there to the prediction.
    """
    hours = [
        math.inf if t.horizon is None else 24 * t.horizon - t.silence - (t.hours or 0.0) * (t.horizon_from == "anchor")
        for t in tasks
    ]
    return np.tile(np.array(hours, np.float32), (len(patient_stays.known), 1))


def gaps(folder: Path, split: str | None, patient_stays: Stays, task: Task) -> np.ndarray:
    """Hours from the last known event of each stay in which nothing happened: up to the prediction, and the task's
    silence after it. float32 (n,); 0 for prompts that end at a token, after which nothing is known.

    Args: task, one of those that share the prompts.
    """
    if not task.by_time:
        return np.zeros(len(patient_stays.known), np.float32)
    return stays.quiet(folder, split, patient_stays) + np.float32(task.silence)


def groups(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks by what their prompts are, so that one simulation answers all of a group; "class" ones apart.

    Groups and the tasks in them are in the order given.
    """
    by_spec: dict[Any, list[Task]] = {}
    for task in tasks:
        by_spec.setdefault(task.spec, []).append(task)
    return list(by_spec.values())
