"""Records of patients that a study does not have, as timelines in the vocabulary of its model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling import artifacts, hardware
from ehr_scaling.data import disclosure, parquet, sources
from ehr_scaling.data.codes import maps
from ehr_scaling.data.events import events as meds
from ehr_scaling.data.events.splits import ALL_HELD_OUT
from ehr_scaling.data.shards import Runner
from ehr_scaling.data.sources.challenge_2012 import FILES as CHALLENGE
from ehr_scaling.data.timelines import known, timelines
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout

# Half: below it, a prompt says less of the patient than of what stands in for codes that the model never read.
LEAST_KNOWN = 0.5
SPLIT = "test"  # all patients are in it: nothing is fitted on them, and the rules treat them as those held out


def source_of(folder: Path) -> str:
    """The source that reads a folder. Raises UserError where it is none of MIMIC-IV, MEDS and Challenge 2012."""
    if (folder / "hosp").is_dir():
        return "mimic-iv"
    if (folder / "data").is_dir() and (folder / "metadata").is_dir():
        return "meds"
    if (folder / CHALLENGE[0]).is_file():
        return "challenge-2012"
    reason = (
        f"holds none of hosp/ (MIMIC-IV), data/ with metadata/ (MEDS) and {CHALLENGE[0]} (Challenge 2012)"
        if folder.is_dir()
        else "is no folder"
    )
    raise UserError(f"--data={folder} {reason}: give the folder of the other patients' records")


def trained_on(model: Path, out: Path) -> NDArray[np.int64]:
    """Ids of the patients of `out`, see `prepare`, on whom the study `model` was trained or chosen: of both the same id
    and the same time of birth. Other hospitals may use the same numbers; releases of one share their patients."""
    theirs = _births(out, [SPLIT])
    splits = Layout(model).events / "metadata" / "subject_splits.parquet"
    if splits.is_file():  # most strangers have other numbers, which is told without reading all timelines
        ids = parquet.read(splits, ["subject_id"])["subject_id"].to_numpy()
        theirs = {i: theirs[i] for i in np.intersect1d(ids, np.array(list(theirs), np.int64)).tolist()}
    known = _births(model, ["train", "validation"]) if theirs else {}
    return np.array([i for i, birth in theirs.items() if known.get(i) == birth], np.int64)


def _births(folder: Path, splits: Sequence[str]) -> dict[int, int]:
    parts = (part for split in splits for part in timelines.batches(folder, split))
    return {
        i: birth for part in parts for i, birth in zip(part.subject_ids.tolist(), part.births.tolist(), strict=True)
    }


def prepare(
    raw: Path,
    model: Path,
    out: Path,
    *,
    code_maps: str | None = None,
    dialect: str | None = None,
    may_lose: Sequence[str] = (),
    least_known: float = LEAST_KNOWN,
    workers: int = 0,
) -> dict[str, Any]:
    """Make `out`/events and `out`/timelines of all patients of the folder `raw`, as the study `model` would have.

    Tables, times and preset are the study's where the source is the same; tokens, bins and settings are those of its
    vocabulary, and a code that this lacks becomes what it would in a held-out patient of the study. Both artifacts are
    skipped where they are there, and go on where they were interrupted.

    Args:
      code_maps: folder of the maps that the vocabulary was fitted with, if there were any.
      dialect, may_lose: of a MEDS data set, see sources.meds.
      least_known: share of the events that must not be unknown, see `known.count`.
      workers: processes, 0 for one a core.
    Returns: the record of the timelines; its summary has those of `timelines.build`, and "known", of `known.shares`.
    Raises: UserError where `raw` is no such folder, holds the study's own records, or where too little is known.
    """
    name = source_of(raw)
    vocabulary = timelines.vocabulary(model)
    codes = maps.load(Path(code_maps) if code_maps else None)
    if vocabulary.settings["code_maps"] != dict(codes.files):
        raise UserError(f"{model} was prepared with other code maps: give the same folder with --code_maps")
    there, new = Layout(model), Layout(out)
    study = artifacts.record(there.events)["inputs"] if (there.events / artifacts.RECORD).is_file() else {}
    options: dict[str, Any] = {}
    if name in ("meds", "mimic-iv"):
        options = {"preset": vocabulary.preset, "times": study.get("times")}
    if name == "meds":
        options |= {"dialect": dialect, "may_lose": tuple(may_lose)}
    elif name == "mimic-iv":
        options["tables"] = tuple(study.get("tables", ())) if study.get("source") == name else ()
    source = sources.get(name)
    runner = Runner(workers or len(hardware.cores()))
    inputs = source.inputs(raw, **options)
    if study.get("raw") == inputs["raw"]:
        raise UserError(f"--data={raw} holds the records that {model} was made from: leave it out and give --split")
    artifacts.work_directory(out)
    first = not new.events.exists()
    if first:
        print(f"events: from {name} {raw}", flush=True)
    here = runner.for_bytes(sum(path.stat().st_size for path in raw.rglob("*") if path.is_file()))
    events = artifacts.build(
        new.events,
        {**inputs, "splits": ALL_HELD_OUT.mark()},
        lambda folder: source.extract(raw, folder, seed=0, splits=ALL_HELD_OUT, runner=here, **options),
        resume=True,
    )
    for what, kind in (("left out", "dropped"), ("mended", "mended")) if first else ():
        for reason, rows in sorted(events["summary"].get(kind, {}).items()):
            if rows:
                print(f"  {what}: {disclosure.words(rows, events['summary'].get('generated', False))}, {reason}")

    def tokenize(folder: Path) -> dict[str, Any]:
        artifacts.verify(new.events, alone=True)
        parents = meds.parents(new.events)
        counted = [known.count(p, vocabulary, codes, parents) for p in meds.shards(new.events, meds.SPLITS[2])]
        summary = timelines.build(new.events, folder, runner=here, code_maps=code_maps, fitted=vocabulary)
        return {**summary, "known": known.shares(counted)}

    tokens = artifacts.build(
        new.timelines,
        {"events": events["fingerprint"], "vocabulary": vocabulary.fingerprint, "code_maps": codes.files},
        tokenize,
        resume=True,
        version=timelines.VERSION,
    )
    shares = tokens["summary"]["known"]
    for line in known.told(shares):
        print(line)
    if 1 - shares[known.UNKNOWN] < least_known:
        raise UserError(
            f"--data={raw}: the model knows {1 - shares[known.UNKNOWN]:.0%} of the events, and {least_known:.0%} are "
            f"needed: are they coded as those of {model} ({study.get('source', 'its source')})? See --least_known"
        )
    return tokens
