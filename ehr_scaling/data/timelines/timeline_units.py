"""The units of work that timelines are made in, a shard of events each: they count codes, from which the vocabulary is
fitted, and tokenize; and how what they leave is added up."""

import collections
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.artifacts import writing
from ehr_scaling.data.codes import maps
from ehr_scaling.data.events import events
from ehr_scaling.data.shards import Runner, once, run
from ehr_scaling.data.timelines.patient_records import Writer
from ehr_scaling.data.tokenization import counting, fitting, rare, tokenizer
from ehr_scaling.data.vocabulary import Vocabulary, load

_AT_ONCE = 64  # shards whose counts one process adds up


def fit(
    folder: Path,
    parts: Path,
    settings: dict[str, Any],
    code_maps: str | None,
    runner: Runner,
    may_lose: Sequence[str],
) -> Vocabulary:
    """The vocabulary of the train split, from what each of its shards counts.

    Args: folder, the events; parts, where units leave their counts; settings, those of `tokenizer.options`; code_maps,
      runner and may_lose, as `timelines.build` takes them.
    Raises: UserError for damaged events or code maps, and for a family of codes that would vanish.
    """
    shards = list(enumerate(events.shards(folder, "train")))

    def count(function: Any, kind: str, title: str) -> Any:
        files = [parts / f"{kind}-{k}.npz" for k, _ in shards]
        items = [(path, out, settings, code_maps) for (_, path), out in zip(shards, files, strict=True)]
        run(function, items, [file.with_suffix(".json") for file in files], runner, title)
        return _sum_of(kind, _few(files, kind, runner))

    counts = count(_count, "count", "count codes")
    fitting.check_families(counts, settings, _maps(code_maps), may_lose)
    draft = fitting.fit(counts, settings, _maps(code_maps), _parents(folder))
    again, turn = bool(settings["min_patients"]), 0
    while again:
        draft.save(parts)  # the units read it there
        draft, again = rare.collapse(draft, count(_count_bins, f"bins-{turn}", "count patients"))
        turn += 1
    return draft


@functools.cache  # a process works on many shards
def _maps(folder: str | None) -> maps.CodeMaps:
    return maps.load(Path(folder) if folder else None)


@functools.cache
def _parents(folder: Path) -> dict[str, list[str]]:
    return events.parents(folder)


def _sum_of(kind: str, files: Iterable[Path]) -> Any:
    """What shards counted, added up. Args: kind, what the names of the files begin with: count, or bins-<turn>."""
    if kind == "count":
        return counting.merge(map(counting.Counts.load, files))
    return rare.merge_bins(map(rare.BinCounts.load, files))


def _few(files: list[Path], kind: str, runner: Runner) -> list[Path]:
    """At most _AT_ONCE files that add up to what `files` do, in their order: of many shards groups are added up where
    the shards are worked on, group by group."""
    level = 0
    while len(files) > _AT_ONCE:
        groups = [files[i : i + _AT_ONCE] for i in range(0, len(files), _AT_ONCE)]
        sums = [files[0].parent / f"{kind}-sum{level}-{i}.npz" for i in range(len(groups))]
        items = [(kind, group, out) for group, out in zip(groups, sums, strict=True)]
        run(_add_up, items, [out.with_suffix(".json") for out in sums], runner, "add up")
        files, level = sums, level + 1
    return files


def _add_up(kind: str, files: list[str], out: str) -> None:
    _counted(Path(out), lambda: _sum_of(kind, map(Path, files)))


def _count(shard: str, out: str, settings: dict[str, Any], code_maps: str | None) -> None:
    path = Path(shard)
    _counted(Path(out), lambda: counting.count(path, settings, _maps(code_maps), _parents(path.parents[2])))


def _count_bins(shard: str, out: str, settings: dict[str, Any], code_maps: str | None) -> None:
    path, parts = Path(shard), Path(out).parent
    _counted(Path(out), lambda: rare.count_bins(path, load(parts), _maps(code_maps), _parents(path.parents[2])))


def _counted(out: Path, count: Callable[[], Any]) -> None:
    def make() -> dict[str, Any]:
        count().save(out)
        return {}

    once(out.with_suffix(".json"), make)


def tokenize(shard: str, folder: str, name: str, code_maps: str | None) -> None:
    """A shard of events to one ArrayRecord file in the folder of parts, by the vocabulary there.

    Its record, a JSON of bytes, patients, events, days, fallbacks, empty and silent ({family: events}), and its `Sums`
    hold what is to be added up.
    """
    path, parts = Path(shard), Path(folder)

    def make() -> dict[str, Any]:
        vocabulary = load(parts)
        counts = np.zeros(len(vocabulary.tokens), np.int64)
        sizes: list[int] = []
        stats: list[tokenizer.Stats] = []
        with writing(parts / f"{name}.array_record") as partial:
            writer = Writer(partial)
            for part, part_stats in tokenizer.tokenize(path, vocabulary, _maps(code_maps), _parents(path.parents[2])):
                writer.add(part)
                counts += np.bincount(part.tokens, minlength=len(counts))
                sizes += np.diff(part.offsets).tolist()
                stats.append(part_stats)
            writer.close()
        silent: collections.Counter[str] = collections.Counter()
        for s in stats:
            silent.update(s.silent)
        intervals = (np.sum([getattr(s, name) for s in stats], axis=0) for name in Sums._fields[2:])
        sums = Sums(counts, np.array(sizes, np.int32), *intervals)
        with writing(_sums_file(parts, name)) as partial:
            np.savez(partial, **sums._asdict())
        return {
            "bytes": writer.bytes,
            "patients": len(sizes),
            "events": sum(s.events for s in stats),
            "days": sum(s.days for s in stats),
            "fallbacks": sum(s.fallbacks for s in stats),
            "empty": sum(s.empty for s in stats),
            "silent": dict(silent),
        }

    once(record(parts, name), make)


def record(parts: Path, name: str) -> Path:
    """The record of a shard that is tokenized, which lies in `parts`; the shard's `Sums` lie beside it."""
    return parts / f"tokenized-{name}.json"


def _sums_file(parts: Path, name: str) -> Path:
    return record(parts, name).with_suffix(".npz")


class Sums(NamedTuple):
    """Of the patients of some shards."""

    counts: np.ndarray  # int64 (V,), of each token
    sizes: np.ndarray  # int32 (P,), tokens of each patient
    interval_sums: np.ndarray  # float64 (classes,) seconds between events, by class
    interval_tokens: np.ndarray  # int64 (classes,)


def sums_of(vocabulary: Vocabulary, parts: Path, names: Iterable[str]) -> Sums:
    """Those of the shards of these names, in their order, added up, one of them in memory at a time."""
    total: Sums | None = None
    sizes: list[np.ndarray] = [np.zeros(0, np.int32)]
    for name in names:
        _, arrays = counting.read_arrays(_sums_file(parts, name), ())
        shard = Sums(**arrays)
        sizes.append(shard.sizes)
        total = (
            Sums(*(a + b for a, b in zip(total._replace(sizes=shard.sizes), shard, strict=True))) if total else shard
        )
    if total is None:
        zeros = np.zeros(len(vocabulary.interval_bounds))
        total = Sums(np.zeros(len(vocabulary.tokens), np.int64), sizes[0], zeros, zeros.astype(np.int64))
    return total._replace(sizes=np.concatenate(sizes))
