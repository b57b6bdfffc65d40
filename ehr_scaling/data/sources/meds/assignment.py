"""Which split and which shard each patient of a MEDS data set is in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.artifacts import writing
from ehr_scaling.data import events
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.data.sources.meds import rows as meds_rows
from ehr_scaling.data.sources.meds import shuffle
from ehr_scaling.data.sources.meds import splits as meds_splits
from ehr_scaling.data.splits import Listed, Splits
from ehr_scaling.data.splits import told as met

_MANY = 1_024  # shards beyond which not every piece is opened for every shard, see assign


def assign(
    folder: shuffle.Folder, units: list[list[shuffle.Part]], own_splits: meds_splits.Splits, seed: int, splits: Splits
) -> tuple[list[tuple[str, int, list[int] | None]], int, dict[str, Any]]:
    """Write which shard each patient is in, by its number among all, -1 for one that a split file does not name.

    Of a data set of millions, each in one file, patients of one file (or of the few that a piece of work holds) share
    their shards: else every shard would be gathered from every piece. Where they are in several files, it is gathered
    by bands; with fewer shards that would take longer than to open the pieces.
    Args: folder, where `shuffle.patients` left those of each piece; units, the pieces, with the parts of files in
      each; own_splits, those of the data set; splits, those that the user wants.
    Returns: of each shard its split, its number in that, and the pieces that it is of, or None for all; the shards
      that are gathered as one band, or 1, see `shuffle`; how the patients meet a split file, if there is one.
    Raises: UserError for a patient without a split, or in two.
    """
    ids_of_unit = [np.load(folder.patients(i)) for i in range(len(units))]
    ids = meds_rows.distinct(np.concatenate([np.zeros(0, np.int64), *ids_of_unit]))
    if isinstance(splits, Listed):
        split, shard = events.assign(ids, seed, splits)
    else:
        split, shard = meds_splits.assigned(own_splits, ids, _by_file(units), seed, splits)
    pieces: dict[tuple[int, int], list[int]] = {}
    if len(ids) > _MANY * events.SHARD:
        groups = _of_the_same_files(units)
        there = [meds_rows.distinct(np.concatenate([ids_of_unit[i] for i in group])) for group in groups]
        if sum(map(len, there)) == len(ids):
            shard, pieces = _within_files(ids, split, groups, there, seed)
    named = np.flatnonzero(split >= 0)
    most = int(shard.max(initial=0)) + 1
    pairs, inverse = np.unique(split[named].astype(np.int64) * most + shard[named], return_inverse=True)
    number = np.full(len(ids), -1)
    number[named] = inverse
    for what, column in (("ids", ids), ("shard", number.astype(np.int32))):
        with writing(folder.assigned(what)) as partial:
            np.save(partial, column)
    places = [(int(pair) // most, int(pair) % most) for pair in pairs]
    width = round(len(places) ** 0.5) if len(ids) > _MANY * events.SHARD and not pieces else 1
    return [(events.SPLITS[i], k, pieces.get((i, k))) for i, k in places], width, met(splits, ids)


def _of_the_same_files(units: list[list[shuffle.Part]]) -> list[list[int]]:
    """Numbers of pieces, those together that hold parts of one file."""
    groups: list[list[int]] = []
    last = -1
    for i, unit in enumerate(units):
        files = [number for _, number, _, _ in unit]
        if files[0] == last:
            groups[-1].append(i)
        else:
            groups.append([i])
        last = files[-1]
    return groups


def _within_files(
    ids: np.ndarray, split: np.ndarray, groups: list[list[int]], there: list[np.ndarray], seed: int
) -> tuple[np.ndarray, dict[tuple[int, int], list[int]]]:
    """Shards of the patients of one group of pieces after those of another: int64 (P,), and the pieces of each (split,
    shard)."""
    shard = np.zeros(len(ids), np.int64)
    pieces: dict[tuple[int, int], list[int]] = {}
    begun = [0] * len(events.SPLITS)
    for group, some in zip(groups, there, strict=True):
        at = np.searchsorted(ids, some)
        here = events.assign_shards(some, split[at], seed)
        for i, begin in enumerate(begun):
            if (in_split := split[at] == i).any():
                shard[at[in_split]] = begin + here[in_split]
                begun[i] += int(here[in_split].max()) + 1
                pieces |= dict.fromkeys(((i, k) for k in range(begin, begun[i])), group)
    return shard, pieces


def _by_file(units: list[list[shuffle.Part]]) -> Iterator[tuple[int, np.ndarray]]:
    for path, number, first, last in (part for unit in units for part in unit):
        for ids in meds_reading.subjects(Path(path), range(first, last)):
            yield number, ids
