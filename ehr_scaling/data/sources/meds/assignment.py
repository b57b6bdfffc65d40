"""Which shard each patient of a MEDS data set is in: by a hash of its id and how many shards there are.

To know how many, patients are counted, a range of the hash at a time, so that nobody ever holds a table of all of them:
`patients` leaves who is in a piece of the data set, `count` takes from all pieces those of its range, and tells the
distinct ones of each split from those who are in several pieces.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.artifacts import writing
from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import Splits
from ehr_scaling.data.events.splits import told_of_counts as met
from ehr_scaling.data.shards import Runner, once, run
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.data.sources.meds import splits as meds_splits
from ehr_scaling.data.sources.meds.rows import distinct, first_of_run
from ehr_scaling.data.sources.meds.shuffle import Folder, Part
from ehr_scaling.data.sources.meds.splits import GivenSplits, Places, Rule

_MANY = 1_024  # shards beyond which not every piece is opened for every shard, see assign
_RANGE = 4_000_000  # patients that are counted at once, in some 200 MB
_BUCKETS = 4_096  # ranges at most
_RANGE_SEED = 0xC0  # so that a range is not drawn by the number that drew a split or a shard


class Assigned(NamedTuple):
    """What `assign` found."""

    shards: list[tuple[str, int, list[int] | None]]  # of each its split, its number in that, its pieces; None: all
    places: list[Places]  # of the patients of each piece
    width: int  # shards that are gathered as one band, or 1, see `shuffle`
    met: dict[str, Any]  # how the patients meet a split file, if there is one


def patients(path: str, unit: int, parts: list[Part], rule: Rule) -> None:
    """Write who is in some parts of the data set, by their hash: int64 (P,), the split of each, and where each of
    _BUCKETS ranges of the hash begins, int64 (_BUCKETS + 1,). Args: path, of `Folder`."""
    folder = Folder(Path(path))

    def make() -> dict[str, Any]:
        ids_of_file: dict[int, list[np.ndarray]] = {}
        for file, number, first, last in parts:
            ids_of_file.setdefault(number, []).extend(meds_reading.subjects(Path(file), range(first, last)))
        ids, split = np.zeros(0, np.int64), np.zeros(0, np.int8)
        if ids_of_file:
            by_file = {number: distinct(np.concatenate([ids, *some])) for number, some in ids_of_file.items()}
            ids = np.concatenate(list(by_file.values()))
            split = Rule(*rule).of(ids, np.repeat(list(by_file), list(map(len, by_file.values()))))
            order = np.lexsort((split, ids))
            ids, split = ids[order], split[order]
            kept = first_of_run(ids) | first_of_run(split)  # one in two splits stays twice, to be found
            ids, split = ids[kept], split[kept]
        bucket = _bucket(ids)
        order = np.argsort(bucket, kind="stable")
        begins = np.searchsorted(bucket[order], np.arange(_BUCKETS + 1))
        for what, column in (("ids", ids[order]), ("split", split[order]), ("begins", begins)):
            with writing(folder.patients(unit, what)) as partial:
                np.save(partial, column)
        return {"patients": len(ids)}

    once(folder.record("patients", unit), make)


def _bucket(ids: np.ndarray) -> np.ndarray:
    return np.minimum(events.uniform(ids, _RANGE_SEED) * _BUCKETS, _BUCKETS - 1).astype(np.int64)


def count(path: str, number: int, ranges: int) -> None:
    """Count the patients whose hash is in one of so many ranges, _BUCKETS at most.

    The record has how many there are, of each split, in none, in two, and in several groups of pieces; an array, int64
    (groups, splits), those of each group.
    """
    folder = Folder(Path(path))

    def make() -> dict[str, Any]:
        groups = np.load(folder.groups)
        columns: list[tuple[np.ndarray, ...]] = []
        ends = [k * _BUCKETS // ranges for k in (number, number + 1)]
        for unit, group in enumerate(groups.tolist()):
            # Mapped: of all ranges together everything is read once
            begins, ids, split = (
                np.load(folder.patients(unit, what), mmap_mode="r") for what in ("begins", "ids", "split")
            )
            here = slice(int(begins[ends[0]]), int(begins[ends[1]]))
            some = np.array(ids[here])
            columns.append((some, np.full(len(some), group), np.array(split[here])))
        ids, group, split = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.lexsort((split, group, ids))
        ids, group, split = ids[order], group[order], split[order]
        first = first_of_run(ids)
        patient = np.cumsum(first) - 1
        in_two = distinct(patient[~first & first_of_run(split)])
        several = distinct(patient[~first & first_of_run(group)])
        in_group = (first | first_of_run(group)) & (split >= 0)
        splits, shape = len(events.SPLITS), (int(groups.max()) + 1, len(events.SPLITS))
        of_groups = np.bincount(group[in_group] * splits + split[in_group], minlength=shape[0] * splits)
        with writing(folder.counted(number)) as partial:
            np.save(partial, of_groups.reshape(shape))
        return {
            "patients": int(first.sum()),
            "splits": np.bincount(split[first & (split >= 0)], minlength=splits).tolist(),
            "unnamed": int((split[first] < 0).sum()),
            "in_two": len(in_two),
            "several": len(several),
        }

    once(folder.record("counted", number), make)


def assign(
    folder: Folder, units: list[list[Part]], given: GivenSplits, seed: int, wanted: Splits, runner: Runner | None = None
) -> Assigned:
    """Count the patients of a data set, and say how many shards of events.SHARD each split gets.

    Of a data set of millions, each in one file, patients of one file (or of the few that a piece of work holds) share
    their shards: else every shard would be gathered from every piece. Where they are in several files, it is gathered
    by bands; with fewer shards that would take longer than to open the pieces.
    Args: units, the pieces, with the parts of files in each; given, the splits that the data set comes with; wanted,
      those that the user wants.
    Raises: UserError for a patient without a split, or in two.
    """
    rule = meds_splits.rule(given, wanted, seed, folder.path)
    groups = _of_the_same_files(units)
    with writing(folder.groups) as partial:
        np.save(partial, np.array(groups, np.int64))
    runner = runner or Runner()

    def records(stage: str, many: int) -> list[Path]:
        return [folder.record(stage, i) for i in range(many)]

    items = [(folder.path, i, unit, rule) for i, unit in enumerate(units)]
    there = run(patients, items, records("patients", len(units)), runner, "patients")
    ranges = min(_BUCKETS, max(1, -(-sum(record["patients"] for record in there) // _RANGE)))
    jobs = [(folder.path, i, ranges) for i in range(ranges if units else 0)]
    counted = run(count, jobs, records("counted", len(jobs)), runner, "count patients")
    total = {key: sum(record[key] for record in counted) for key in ("patients", "unnamed", "in_two", "several")}
    meds_splits.check(given, wanted, total["unnamed"], total["in_two"])
    of_splits = np.array([record["splits"] for record in counted], np.int64).reshape(-1, len(events.SPLITS)).sum(0)
    many_shards = total["patients"] > _MANY * events.SHARD
    if within := many_shards and not total["several"]:
        of_groups = np.sum([np.load(folder.counted(i)) for i in range(ranges)], axis=0)
    else:
        of_groups = of_splits[None]
    shards = -(-of_groups // events.SHARD)  # (groups, splits); of all pieces together, one group
    begin = np.cumsum(shards, axis=0) - shards  # the number of a group's first one in its split
    first = begin + np.cumsum(shards.sum(0)) - shards.sum(0)  # and among all
    of_group: list[list[int]] = [[] for _ in shards]
    for unit, group in enumerate(groups if within else []):
        of_group[group].append(unit)
    every: list[tuple[str, int, list[int] | None]] = []
    for i, split in enumerate(events.SPLITS):
        for group, many in enumerate(shards[:, i].tolist()):
            every += [(split, int(begin[group, i]) + k, of_group[group] or None) for k in range(many)]
    places = [Places(rule, first[group].tolist(), shards[group].tolist()) for group in (groups if within else [0])]
    width = round(len(every) ** 0.5) if many_shards and not within else 1
    of_pieces = places if within else places * len(units)
    return Assigned(every, of_pieces, width, met(wanted, total["patients"], of_splits.tolist()))


def _of_the_same_files(units: list[list[Part]]) -> list[int]:
    """The group of each piece: those are in one that hold parts of one file."""
    groups: list[int] = []
    last = -1
    for unit in units:
        files = [number for _, number, _, _ in unit]
        groups.append((groups[-1] if groups else -1) + (files[0] != last))
        last = files[-1]
    return groups
