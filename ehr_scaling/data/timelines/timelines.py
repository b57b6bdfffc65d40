"""The `timelines/` artifact: a TFDS data set in ArrayRecord files, one patient a record."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info, naming

from ehr_scaling import artifacts, layout
from ehr_scaling.artifacts import RECORD, read_json
from ehr_scaling.data import array_records
from ehr_scaling.data.events import events, splits
from ehr_scaling.data.shards import Runner, run
from ehr_scaling.data.timelines import timeline_units
from ehr_scaling.data.timelines.patient_records import CONTEXT, decode
from ehr_scaling.data.timelines.timeline_units import Sums
from ehr_scaling.data.tokenization import tokenizer
from ehr_scaling.data.tokenization.tokenizer import Timelines
from ehr_scaling.data.vocabulary import FILE as VOCABULARY
from ehr_scaling.data.vocabulary import Vocabulary, load
from ehr_scaling.errors import UserError, first_line, unreadable

VERSION = 1  # of what is made of events: raise it with every change to that, and no timelines before are taken
NAME = "timelines"
_INFO = "dataset_info.json"  # of TFDS
SPLITS = dict(zip(layout.SPLITS, splits.SPLITS, strict=True))  # TFDS' names: MEDS' names


def build(
    folder: Path,
    out: Path,
    *,
    runner: Runner | None = None,
    code_maps: str | None = None,
    fitted: Vocabulary | None = None,
    may_lose: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Tokenize the events in `folder` into the folder `out`: count and fit on train, then tokenize each shard.

    Args: runner, where the shards are worked on; code_maps, folder of ICD and drug tables; fitted, the vocabulary of
      other patients, which is kept as it is, with its bins, settings and counts, instead of fitting one; may_lose,
      families of codes of which no event needs a token, see `fitting.check_families`; options, those of
      `tokenizer.DEFAULTS` that are to differ.
    Returns: a JSON summary: preset, vocabulary (its size), vocabulary_fingerprint, context_slots, and for each split
      patients, tokens, events (that make tokens), patient_days (from each patient's first such event to the last),
      tokens_per_patient (p5, p50, p95), unknown_tokens (share of UNK
      and FAMILY//UNK), fallback_events (share of events of which a part was not in the vocabulary), silent_events
      (those that make no token, by family), empty_patients (left out, for want of any event with a time).
    Raises: UserError for an unknown option, an empty train split, damaged events or code maps, and a family
      of codes that would vanish.
    """
    runner = runner or Runner()
    parts, given = out / events.PARTS, fitted
    if given is None:
        fitted = timeline_units.fit(folder, parts, tokenizer.options(options), code_maps, runner, may_lose)
    else:
        parts.mkdir(exist_ok=True)
        fitted = given
    fitted.save(parts)  # the units read it there
    units = [(split, k, path) for split, name in SPLITS.items() for k, path in enumerate(events.shards(folder, name))]
    records = run(
        timeline_units.tokenize,
        [(path, parts, f"{split}-{k}", code_maps) for split, k, path in units],
        [timeline_units.record(parts, f"{split}-{k}") for split, k, _ in units],
        runner,
        "tokenize",
    )
    summary: dict[str, Any] = {
        "preset": fitted.preset,
        "vocabulary": len(fitted.tokens),
        "vocabulary_fingerprint": fitted.fingerprint,
        "context_slots": list(fitted.context_slots),
    }
    lengths, sums = {}, {}
    for split in SPLITS:
        shards = [(k, record) for (s, k, _), record in zip(units, records, strict=True) if s == split]
        full = [(k, record) for k, record in shards if record["patients"]]
        for i, (k, _) in enumerate(full):
            file = parts / f"{split}-{k}.array_record"
            if file.exists():  # else a run that was killed here has renamed it
                file.replace(out / _name(split, i, len(full)))
        sums[split] = timeline_units.sums_of(fitted, parts, [f"{split}-{k}" for k, _ in shards])
        summary[split] = _summary(fitted, [record for _, record in shards], sums[split])
        lengths[split] = [(record["patients"], record["bytes"]) for _, record in full]
    if given is None and not summary["train"]["patients"]:
        raise UserError("no patient of the train split has an event with a time: check the source's files")
    _write_info(out, fitted, lengths)
    if given is not None:
        given.save(out)
        return summary
    train = sums["train"]
    seconds = _interval_seconds(fitted, train)
    dataclasses.replace(fitted, counts=tuple(train.counts.tolist()), interval_seconds=seconds).save(out)
    return summary


def _name(split: str, i: int, files: int) -> str:
    return f"{NAME}-{split}.array_record-{i:05d}-of-{files:05d}"


def _write_info(out: Path, vocabulary: Vocabulary, lengths: Mapping[str, list[tuple[int, int]]]) -> None:
    """What makes the folder a TFDS data set. Args: lengths, records and bytes of each file of each split."""
    info = dataset_info.DatasetInfo(
        builder=dataset_info.DatasetIdentity(
            name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(out), module_name=__name__
        ),
        features=_features(vocabulary),
        description="Patient timelines as tokens, one patient a record; vocabulary.json names the tokens.",
    )
    info.set_file_format("array_record")
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[records for records, _ in files],
            num_bytes=sum(size for _, size in files),
            filename_template=naming.ShardedFileTemplate(
                data_dir=info.data_dir, dataset_name=NAME, split=split, filetype_suffix="array_record"
            ),
        )
        for split, files in lengths.items()
        if files
    ]
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(out)


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


def _interval_seconds(vocabulary: Vocabulary, train: Sums) -> tuple[float, ...]:
    """Mean seconds an interval token stands for; the middle of its class (by ratio) where none was seen."""
    sums, counts = train.interval_sums, train.interval_tokens
    bounds = np.append(vocabulary.interval_bounds, vocabulary.interval_bounds[-1]) / 1e6
    middle = np.sqrt(bounds[:-1] * bounds[1:])
    return tuple(np.where(counts > 0, sums / np.maximum(counts, 1), middle).tolist())


def _summary(vocabulary: Vocabulary, records: Sequence[Mapping[str, Any]], sums: Sums) -> dict[str, Any]:
    tokens, quantiles = int(sums.sizes.sum(dtype=np.int64)), (5, 50, 95)
    at = np.percentile(sums.sizes, quantiles).tolist() if len(sums.sizes) else [0.0] * len(quantiles)
    silent: collections.Counter[str] = collections.Counter()
    for record in records:
        silent.update(record["silent"])
    of_events = sum(record["events"] for record in records)
    return {
        "patients": len(sums.sizes),
        "tokens": tokens,
        "events": of_events,
        "patient_days": float(sum(record["days"] for record in records)),
        "tokens_per_patient": {f"p{q}": float(size) for q, size in zip(quantiles, at, strict=True)},
        "unknown_tokens": float(sums.counts[vocabulary.unknown_ids].sum() / max(tokens, 1)),
        "fallback_events": sum(r["fallbacks"] for r in records) / max(of_events, 1),
        "silent_events": dict(sorted(silent.items())),
        "empty_patients": sum(r["empty"] for r in records),
    }


def measured_on(folder: Path) -> dict[str, Any] | None:
    """What tells a loss a token of the validation split a patient, an event and a day: its counts, with fingerprints.

    Returns: patients, tokens, events and patient_days, as far as they were counted; timelines_fingerprint and
      events_fingerprint, which tell whether two are of one vocabulary, or of the same patients; None for no artifact.
    """
    if not (folder / RECORD).is_file():
        return None
    known = artifacts.record(folder)
    split = known["summary"]["validation"]
    prints = {"timelines_fingerprint": known["fingerprint"], "events_fingerprint": known["inputs"].get("events")}
    return {**prints, **{k: split[k] for k in ("patients", "tokens", "events", "patient_days") if k in split}}


def _folder(workdir: Path) -> Path:
    """The timelines folder itself, given it or the work directory that holds it."""
    workdir = Path(workdir)
    return workdir if (workdir / _INFO).exists() else workdir / NAME


def _verified(folder: Path, name: str) -> Path:
    """The file of that name, which is what was made, as far as a record can tell."""
    if (folder / RECORD).is_file():
        artifacts.verify(folder, [name])
    return folder / name


def vocabulary(workdir: Path) -> Vocabulary:
    """The vocabulary of the timelines in a work directory (or of a timelines folder).

    Raises: UserError where it is missing, damaged, or that of other timelines.
    """
    folder = _folder(workdir)
    _verified(folder, VOCABULARY)
    fitted = load(folder)
    if (folder / RECORD).is_file():
        made_with = artifacts.record(folder)["summary"].get("vocabulary_fingerprint", fitted.fingerprint)
        if made_with != fitted.fingerprint:
            raise UserError(f"{folder / VOCABULARY} is that of other timelines: put the right one back, or {_AGAIN}")
    return fitted


def batches(workdir: Path, split: str) -> Iterator[Timelines]:
    """The patients of a split in the order of the files, one file (up to events.SHARD patients) at a time.

    Raises: UserError when the split is not there or a file is damaged; it names the file.
    """
    for i in range(len(files(workdir, split))):
        yield read_file(workdir, split, i)


def files(workdir: Path, split: str) -> list[int]:
    """Patients in each file of a split. Raises UserError for a split that is none."""
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}: take one of {', '.join(SPLITS)}")
    info = read_json(_verified(_folder(workdir), _INFO))
    return [int(n) for s in info["splits"] if s["name"] == split for n in s["shardLengths"]]


def read_file(workdir: Path, split: str, i: int) -> Timelines:
    """The patients of file `i` of a split. Raises UserError as `batches` does."""
    folder, lengths = _folder(workdir), files(workdir, split)
    path = _verified(folder, _name(split, i, len(lengths)))
    try:
        reader = array_records.reader(path)
        records = reader.read_all()
        reader.close()
        part = decode(records, load(folder).dtype)
    except UserError:
        raise
    except Exception as e:  # the reader's and the parser's errors share no base class
        raise unreadable(e, path, f"{path} is missing or damaged ({first_line(e)}): {_AGAIN}") from None
    if len(records) != lengths[i]:
        raise UserError(f"{path} holds {len(records)} of {lengths[i]} patients: {_AGAIN}")
    return part


_AGAIN = "delete the timelines folder and run again"


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
        **{name: getattr(part, name)[context] for name in CONTEXT},
    }
