"""What tasks mean in the vocabulary of some timelines: tokens that decide them, horizons, prompts that they share."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.data.vocabulary import END, Vocabulary
from ehr_scaling.outcomes.asking import stays
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import bounds as bounds_of
from ehr_scaling.outcomes.asking.tasks.bounds import Bound, Values
from ehr_scaling.outcomes.asking.tasks.tasks import QUANTILES, Task, Unanswerable, meaning, means
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, Stops

KIND_OF = {"positive": POSITIVE, "negative": NEGATIVE, "open": OPEN}


def ids(vocabulary: Vocabulary, names: Sequence[str]) -> np.ndarray:
    """Which tokens are meant by `names`: bool (V,)."""
    return np.fromiter(map(meaning(names), vocabulary.tokens), bool, len(vocabulary.tokens))


def kinds(vocabulary: Vocabulary, task: Task, known: Mapping[str, Values] | None = None) -> np.ndarray:
    """What each token means for a task that is no "class": POSITIVE, NEGATIVE, OPEN, or 0 for nothing, int8 (V,).

    Of a task with thresholds float32: a number between 0 and POSITIVE, which is 1, is the probability that the token
    is a positive one.
    Args: known, values of the train split, see `train_values.of_scales`; None: the edges of bins are all that is known.
    Raises: Unanswerable when the vocabulary lacks what the task is about.
    """
    answerable(vocabulary, task)
    out = np.zeros(len(vocabulary.tokens), np.float32 if task.values else np.int8)
    for name, of_bins in thresholds(vocabulary, task, known).items():
        for k, share in enumerate(of_bins.shares):
            token = f"{name}//{vocabulary.quantile_tokens[k]}" if name in vocabulary.quantiles else name
            if token in vocabulary.index:
                out[vocabulary.index[token]] = share
    if task.values and not task.positive and not out.any():
        raise Unanswerable(
            f"the task {task.name} asks for {' or '.join(map(str, task.values))}: no bin of values reaches there, "
            "so no token tells of it"
        )
    for name, kind in KIND_OF.items():
        out[ids(vocabulary, getattr(task, name))] = kind
    out[vocabulary.index[END]] = KIND_OF[task.at_end]
    return out


def scales(vocabulary: Vocabulary, bounds: Iterable[Bound]) -> list[str]:
    """The scales, each named as its code's token, that bounds are about, and tokens of codes without bins.

    A code that always comes with a value has no token of its own, but those of its bins.
    """
    meant = meaning([bound.code for bound in bounds])
    bins = {vocabulary.tokens[i] for i in vocabulary.fused}
    alone = (token for token in vocabulary.tokens if token not in bins and token not in vocabulary.quantiles)
    return [name for name in (*vocabulary.quantiles, *alone) if meant(name)]


def thresholds(
    vocabulary: Vocabulary, task: Task, known: Mapping[str, Values] | None = None
) -> dict[str, bounds_of.Shares]:
    """How much of each bin the task's thresholds mean, by scale. Args: known, as `kinds` has it.

    A code without bins is one bin, of which only the train split's values can say anything.
    Raises: Unanswerable where a code and its value are two tokens.
    """
    if task.values and vocabulary.settings.get("value_tokens") != "fused":
        raise Unanswerable(
            f"the task {task.name} asks for values of a code, which are tokens of their own in this vocabulary: "
            "prepare timelines in which a code and its value are one (the preset clean, or value_tokens='fused')"
        )
    out = {}
    for name in scales(vocabulary, task.values):
        about = [bound for bound in task.values if means([bound.code], name)]
        of_name = (known or {}).get(name)
        if name in vocabulary.quantiles:
            out[name] = bounds_of.of_bins(vocabulary.quantiles[name], about, of_name)
        elif of_name is not None and len(of_name.values):
            (share,) = bounds_of.of_bins((), about, of_name).shares
            share *= of_name.counts.sum() / (of_name.counts.sum() + of_name.missing)
            out[name] = bounds_of.Shares(np.array([share]), np.array([0 < share < 1]))
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
    if not task.positive:
        needed.append(tuple(bound.code for bound in task.values))
    for names in needed:
        if names and not ids(vocabulary, names).any():
            raise Unanswerable(
                f"the task {task.name} needs the token {' or '.join(names)}, which the vocabulary of these timelines "
                "lacks: choose another task"
            )


def lacking(vocabulary: Vocabulary, task: Task) -> list[str]:
    """Names of a task that mean no token of the vocabulary; another name beside them may do."""
    lists = [task.anchor, task.first_after, task.without, task.since, task.positive, task.negative, task.open]
    lists += [tuple(bound.code for bound in task.values), task.requires]
    names = [n for n in dict.fromkeys(itertools.chain(*lists, task.classes)) if n != QUANTILES and n[0] != "-"]
    return [name for name in names if not ids(vocabulary, [name]).any()]


def describe_thresholds(vocabulary: Vocabulary, task: Task, known: Mapping[str, Values] | None) -> list[str]:
    """A line of each threshold of a task: how many bins lie beyond it, and how those count that it cuts."""
    lines = []
    for name, (shares, cut) in thresholds(vocabulary, task, known).items():
        meant = " or ".join(str(dataclasses.replace(b, code=name)) for b in task.values if means([b.code], name))
        how = (
            "by the share of the train split's values in it"
            if known and name in known
            else "by its edges alone, values taken to lie evenly between them and outer bins to be as wide as the next"
        )
        beyond, several = int((shares == 1).sum()), int(cut.sum())
        text = f"{meant}: {beyond} of {len(shares)} bins {'lies' if beyond == 1 else 'lie'} beyond"
        cuts = "1 is cut, and counts" if several == 1 else f"{several} are cut, and count"
        lines.append(f"{text}, {cuts} {how}" if several else text)
    return lines


def stops(vocabulary: Vocabulary, tasks: Sequence[Task], known: Mapping[str, Values] | None = None) -> Stops:
    """The tokens that end a future of each of K tasks, none of them a "class"; see `simulate.Stops`.

    Args: known, as `kinds` has it. Raises: Unanswerable when the vocabulary lacks what a task is about.
    """
    return stops_of([kinds(vocabulary, task, known) for task in tasks], tasks)


def stops_of(meanings: Sequence[np.ndarray], tasks: Sequence[Task]) -> Stops:
    """The same of what `kinds` gave for each task."""
    kinds_KxV = np.stack(meanings)
    certain = kinds_KxV == POSITIVE
    return Stops(
        positive=np.where(kinds_KxV <= POSITIVE, kinds_KxV, 0) if kinds_KxV.dtype == np.float32 else certain,
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
