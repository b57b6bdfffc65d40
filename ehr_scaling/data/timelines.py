"""The `timelines/` artifact: a TFDS data set in ArrayRecord files, one patient a record."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.core import dataset_info, naming
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from ehr_scaling.artifacts import read_json
from ehr_scaling.data import events, tokenizer
from ehr_scaling.data.tokenizer import STATIC, Timelines
from ehr_scaling.data.vocabulary import (
    AGE_LAST,
    AGE_WIDTH,
    AGES,
    INTERVAL_BOUNDS,
    INTERVALS,
    SIX_MONTHS,
    UNKNOWN,
    YEAR,
    Vocabulary,
    load,
)
from ehr_scaling.errors import UserError

NAME = "timelines"
SPLITS = {"train": "train", "validation": "tuning", "test": "held_out"}  # TFDS' names: MEDS' names
_RECORDS = 4096  # patients a file: single reads of array_record slow down beyond about 5,000


def build(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Tokenize the events in `folder` into the folder `out`, which exists and is empty.

    Args: options, those of `tokenizer.DEFAULTS` that are to differ.
    Returns: a JSON summary: vocabulary, context_slots, and for each split patients, tokens, tokens_per_patient
      (p5, p50, p95), unknown_tokens (share of UNK and FAMILY//UNK), fallback_events (share of events of which a
      part was not in the vocabulary), empty_patients (left out, for want of any event with a time).
    Raises: UserError for an unknown option, an empty split, a patient in two splits, or damaged events.
    """
    fitted = tokenizer.fit(folder, tokenizer.options(options))
    features = _features(fitted)
    info = dataset_info.DatasetInfo(
        builder=dataset_info.DatasetIdentity(
            name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(out), module_name=__name__
        ),
        features=features,
        description="Patient timelines as tokens, one patient a record; vocabulary.json names the tokens.",
    )
    info.set_file_format("array_record")
    summary: dict[str, Any] = {"vocabulary": len(fitted.tokens), "context_slots": list(fitted.context_slots)}
    split_infos, subjects = [], []
    for split, meds_split in SPLITS.items():
        writer = _SplitWriter(out, split)
        totals = _Totals(fitted)
        files = events.shards(folder, meds_split)
        for path in tqdm(files, desc=f"tokenize {split}", unit="file", disable=None):
            for part, stats in tokenizer.tokenize(path, fitted):
                writer.add(part)
                totals.add(part, stats)
        shard_lengths = writer.close()
        subjects.append(np.concatenate(totals.subjects))
        summary[split] = totals.summary(split)
        if split == "train":
            counts, seconds = totals.counts, totals.interval_seconds()
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=shard_lengths,
                num_bytes=writer.bytes,
                filename_template=naming.ShardedFileTemplate(
                    data_dir=info.data_dir, dataset_name=NAME, split=split, filetype_suffix="array_record"
                ),
            )
        )
    ids = np.concatenate(subjects)
    if len(np.unique(ids)) != len(ids):
        raise UserError(f"{folder} holds a patient in two files or two splits: mend the source")
    info.set_splits(tfds.core.SplitDict(split_infos))
    info.write_to_directory(out)
    dataclasses.replace(fitted, counts=tuple(counts.tolist()), interval_seconds=seconds).save(out)
    return summary


def _features(vocabulary: Vocabulary) -> tfds.features.FeaturesDict:
    def series(dtype: Any) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")

    return tfds.features.FeaturesDict(
        {
            "subject_id": tfds.features.Scalar(np.int64),
            "birth": tfds.features.Scalar(np.int64),
            "tokens": series(vocabulary.dtype),
            "times": series(np.int64),
            "context_tokens": series(vocabulary.dtype),
            "context_times": series(np.int64),
            "context_slots": series(np.uint8),
        }
    )


class _SplitWriter:
    """ArrayRecord files of one split, as TFDS would write them, at four times its speed.

    TFDS' own writer encodes feature by feature through its connectors; the records here are the same
    `tf.train.Example` messages, filled directly.
    """

    def __init__(self, out: Path, split: str) -> None:
        self.out, self.split = out, split
        self.lengths: list[int] = []
        self.bytes = 0
        self._file: Any = None

    def add(self, part: Timelines) -> None:
        text, context = part.offsets, part.context_offsets
        for p in range(len(part.subject_ids)):
            if self._file is None:
                path = self._partial(len(self.lengths))
                self._file = ArrayRecordWriter(str(path), "group_size:1")
                self.lengths.append(0)
            example = tf_example_pb2.Example()
            feature = example.features.feature
            feature["subject_id"].int64_list.value.append(int(part.subject_ids[p]))
            feature["birth"].int64_list.value.append(int(part.births[p]))
            for name, bounds in (("tokens", text), ("times", text), *((n, context) for n in _CONTEXT)):
                array = getattr(part, name)[bounds[p] : bounds[p + 1]]
                feature[name].bytes_list.value.append(array.tobytes())
            record = example.SerializeToString()
            self._file.write(record)
            self.bytes += len(record)
            self.lengths[-1] += 1
            if self.lengths[-1] == _RECORDS:
                self._close_file()

    def close(self) -> list[int]:
        """Give the files their final names, which hold their number. Returns records by file."""
        if self._file is not None:
            self._close_file()
        for i in range(len(self.lengths)):
            name = f"{NAME}-{self.split}.array_record-{i:05d}-of-{len(self.lengths):05d}"
            self._partial(i).rename(self.out / name)
        return self.lengths

    def _close_file(self) -> None:
        self._file.close()
        self._file = None

    def _partial(self, i: int) -> Path:
        return self.out / f"{self.split}-{i:05d}.partial"


_CONTEXT = ("context_tokens", "context_times", "context_slots")


class _Totals:
    """Facts of one split, added up part by part."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.counts = np.zeros(len(vocabulary.tokens), np.int64)
        self.subjects: list[np.ndarray] = [np.zeros(0, np.int64)]
        self.sizes: list[np.ndarray] = [np.zeros(0, np.int64)]
        self.stats: list[tokenizer.Stats] = []

    def add(self, part: Timelines, stats: tokenizer.Stats) -> None:
        self.counts += np.bincount(part.tokens, minlength=len(self.counts))
        self.subjects.append(part.subject_ids)
        self.sizes.append(np.diff(part.offsets))
        self.stats.append(stats)

    def interval_seconds(self) -> tuple[float, ...]:
        """Mean seconds an interval token stands for; the middle of its class (by ratio) where none was seen."""
        sums = sum(s.interval_sums for s in self.stats)
        counts = sum(s.interval_tokens for s in self.stats)
        bounds = np.append(INTERVAL_BOUNDS, SIX_MONTHS) / 1e6
        middle = np.sqrt(bounds[:-1] * bounds[1:])
        return tuple(np.where(counts > 0, sums / np.maximum(counts, 1), middle).tolist())

    def summary(self, split: str) -> dict[str, Any]:
        sizes = np.concatenate(self.sizes)
        if not len(sizes):
            raise UserError(
                f"no patient of the split {SPLITS[split]!r} has an event with a time: check the source's files"
            )
        made = sum(s.events for s in self.stats)
        return {
            "patients": len(sizes),
            "tokens": int(sizes.sum()),
            "tokens_per_patient": {f"p{q}": float(np.percentile(sizes, q)) for q in (5, 50, 95)},
            "unknown_tokens": float(self.counts[self.vocabulary.unknown_ids].sum() / sizes.sum()),
            "fallback_events": sum(s.fallbacks for s in self.stats) / made,
            "empty_patients": sum(s.empty for s in self.stats),
        }


def _folder(workdir: Path) -> Path:
    """The timelines folder itself, given it or the work directory that holds it."""
    workdir = Path(workdir)
    return workdir if (workdir / "dataset_info.json").exists() else workdir / NAME


def vocabulary(workdir: Path) -> Vocabulary:
    """The vocabulary of the timelines in a work directory (or of a timelines folder)."""
    return load(_folder(workdir))


def batches(workdir: Path, split: str) -> Iterator[Timelines]:
    """The patients of a split in the order of the files, one file (up to 4,096 patients) at a time.

    Raises: UserError when the split is not there or a file is damaged; it names the file.
    """
    folder = _folder(workdir)
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}: take one of {', '.join(SPLITS)}")
    dtype = load(folder).dtype
    info = read_json(folder / "dataset_info.json")
    lengths = [int(n) for s in info["splits"] if s["name"] == split for n in s["shardLengths"]]
    for i, length in enumerate(lengths):
        path = folder / f"{NAME}-{split}.array_record-{i:05d}-of-{len(lengths):05d}"
        try:
            reader = ArrayRecordReader(str(path))
            records = reader.read_all()
            reader.close()
            part = _decode(records, dtype)
        except Exception as e:  # the reader's and the parser's errors share no base class
            raise UserError(f"{path} is missing or damaged ({str(e).splitlines()[0]}): {_AGAIN}") from None
        if len(records) != length:
            raise UserError(f"{path} holds {len(records)} of {length} patients: {_AGAIN}")
        yield part


_AGAIN = "delete the timelines folder and run again"


def _decode(records: list[bytes], dtype: np.dtype) -> Timelines:
    ids = np.empty((2, len(records)), np.int64)
    pieces: dict[str, list[bytes]] = {name: [] for name in ("tokens", "times", *_CONTEXT)}
    for i, record in enumerate(records):
        feature = tf_example_pb2.Example.FromString(record).features.feature
        ids[0, i] = feature["subject_id"].int64_list.value[0]
        ids[1, i] = feature["birth"].int64_list.value[0]
        for name, values in pieces.items():
            values.append(feature[name].bytes_list.value[0])

    def join(name: str, kind: Any) -> np.ndarray:
        return np.frombuffer(b"".join(pieces[name]), kind)

    def offsets(name: str, width: int) -> np.ndarray:
        return np.cumsum([0, *(len(piece) // width for piece in pieces[name])], dtype=np.int64)

    return Timelines(
        subject_ids=ids[0],
        births=ids[1],
        tokens=join("tokens", dtype),
        times=join("times", np.int64),
        offsets=offsets("tokens", dtype.itemsize),
        context_tokens=join("context_tokens", dtype),
        context_times=join("context_times", np.int64),
        context_slots=join("context_slots", np.uint8),
        context_offsets=offsets("context_slots", 1),
    )


def read(workdir: Path, split: str) -> Iterator[dict[str, Any]]:
    """Patients of a split, one a dict: subject_id and birth (int, µs), tokens (n,), times (n,) int64 µs,
    context_tokens, context_times and context_slots (m,): the fields of `Timelines`.

    Args: workdir, a work directory or its timelines folder; split, train, validation or test.
    Raises: UserError as `batches` does.
    """
    for part in batches(workdir, split):
        for p in range(len(part.subject_ids)):
            yield patient(part, p)


def patient(part: Timelines, p: int) -> dict[str, Any]:
    """Patient p of a batch, as `read` yields it."""
    rows = slice(part.offsets[p], part.offsets[p + 1])
    context = slice(part.context_offsets[p], part.context_offsets[p + 1])
    return {
        "subject_id": int(part.subject_ids[p]),
        "birth": int(part.births[p]),
        "tokens": part.tokens[rows],
        "times": part.times[rows],
        **{name: getattr(part, name)[context] for name in _CONTEXT},
    }


def start_times(vocabulary: Vocabulary, tokens: np.ndarray, times: np.ndarray, first: np.ndarray) -> np.ndarray:
    """When windows that begin at the rows `first` start: int64 µs, the shape of `first`.

    An interval token carries the time of the event that ends it, and a patient's age at that event would give the
    gap away; so a window that begins with one starts at the event before (a timeline never begins with one).
    """
    first = np.asarray(first)
    low = vocabulary.index[INTERVALS[0]]
    is_interval = np.zeros(len(vocabulary.tokens), bool)
    is_interval[low : low + len(INTERVALS)] = True
    # The last row before `first` that is no interval, or `first` itself: repeats make the way back longer than 1.
    anchor = np.maximum.accumulate(np.where(is_interval[tokens], 0, np.arange(len(tokens))))
    return times[anchor[first]]


def contexts(vocabulary: Vocabulary, part: Timelines, owners: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Prefixes of many windows: the last value of each slot at or before the window's start, and the age then.

    Args: owners, int64 (W,), a patient of `part` each; starts, int64 (W,) µs.
    Returns: (W, S) of the token dtype, S = vocabulary.context_tokens: one token a slot (UNKNOWN where there is no
      value by then; static facts hold always), then `AGE//…` in steps of 5 years of 365.25 days.
    """
    slots = len(vocabulary.context_slots)
    out = np.empty((len(owners), slots + 1), vocabulary.dtype)
    entry_owners = np.repeat(np.arange(len(part.subject_ids)), np.diff(part.context_offsets))
    for slot, name in enumerate(vocabulary.context_slots):
        rows = np.flatnonzero(part.context_slots == slot)
        # Entries and windows in one order by patient and time, entries first where the times are equal, and the
        # later of two entries last: the last entry before a window is its value.
        owner = np.concatenate([entry_owners[rows], owners])
        is_window = np.arange(len(owner)) >= len(rows)
        order = np.lexsort((is_window, np.concatenate([part.context_times[rows], starts]), owner))
        last = np.maximum.accumulate(np.where(is_window[order], -1, np.arange(len(order))))
        found = (last >= 0) & (owner[order[last]] == owner[order])
        windows = is_window[order]
        unknown = vocabulary.index[f"{name}//{UNKNOWN}"]
        values = np.full(len(order), unknown, np.int64)
        values[found] = part.context_tokens[rows][order[last[found]]]
        out[order[windows] - len(rows), slot] = values[windows]
    births = part.births[owners]
    years = (starts - births.astype(np.float64)) / YEAR
    steps = np.clip(years // AGE_WIDTH, 0, AGE_LAST // AGE_WIDTH).astype(np.int64)
    out[:, slots] = vocabulary.index[AGES[0]] + np.where(births == STATIC, 0, 1 + steps)
    return out


def context_at(vocabulary: Vocabulary, record: Mapping[str, Any], time: int) -> np.ndarray:
    """Prefix (S,) of one patient, as `read` yields it, at `time` (µs): see `contexts`."""
    one = np.zeros(1, np.int64)
    part = Timelines(
        subject_ids=one,
        births=np.array([record["birth"]], np.int64),
        tokens=record["tokens"],
        times=record["times"],
        offsets=np.array([0, len(record["tokens"])]),
        context_offsets=np.array([0, len(record["context_slots"])]),
        **{name: record[name] for name in _CONTEXT},
    )
    return contexts(vocabulary, part, one, np.array([time], np.int64))[0]
