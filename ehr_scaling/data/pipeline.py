"""Raw records → events/ → timelines/ → packed/t<T>/: the stages of the data in order, each skipped when it is there."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import artifacts, hardware, storage
from ehr_scaling.data import disclosure, sources, vocabulary
from ehr_scaling.data.codes import maps
from ehr_scaling.data.events import splits
from ehr_scaling.data.inspection import card
from ehr_scaling.data.packing import packing
from ehr_scaling.data.shards import Runner
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.tokenization import tokenizer
from ehr_scaling.errors import UserError
from ehr_scaling.layout import STAGES, Layout

MOST_INTERVALS = 1 / 3  # of the tokens: real records have fewer; where facts stand at the birth, it is the half


def prepare(
    data: ConfigDict,
    workdir: Path,
    *,
    workers: int = 0,
    until: str = "packed",
    fractions: Sequence[float] = (),
) -> dict[str, Any]:
    """Make what is missing of the artifacts in `workdir`, up to the stage `until`. Returns the last one's record.

    Args: data, the config's `data` (configs/base.py has its fields); workers, processes, 0 for one a core; fractions,
      of the training patients, to pack beside the whole, whose record is returned.
    Raises: UserError for records that are missing or damaged, an option that no stage knows, and where an artifact was
      made from others.
    """
    if until not in STAGES:
        raise UserError(f"there is no stage {until!r}: take one of {', '.join(STAGES)}")
    for fraction in fractions:
        packing.check_fraction(fraction)
    artifacts.work_directory(workdir)
    runner = Runner(workers or len(hardware.cores()), tuple(data.beam))
    codes = maps.load(Path(data.code_maps) if data.code_maps else None)  # before hours of work: is it all there?
    name, raw = _raw(data, workdir, runner)
    if until == "raw":
        return {"summary": {"raw": str(raw)}}
    source = sources.get(name)
    source_options = _own(data, name)
    split = splits.read(data.split_file) if data.split_file else splits.fractions(data.splits)
    if name == "meds" and until == "packed" and not data.split_file:
        source.check_splits(raw)  # before the work, not after it
    _settings(data, generated=False)  # a misspelt option, too, is told before hours of work
    at = Layout(workdir)
    if not at.events.exists():
        print(f"events: from {name} {raw or ''}")  # at once: to take the sums of raw files may take a while

    def extract(out: Path) -> dict[str, Any]:
        small = runner.for_bytes(_size(raw) if raw else data.patients * 4_000)
        summary = source.extract(raw, out, seed=data.seed, splits=split, **source_options, runner=small)
        _tell_losses(summary)
        return summary

    events = artifacts.build(
        at.events,
        {
            **source.inputs(raw, **source_options),
            "seed": data.seed,
            "splits": split.mark() if isinstance(split, splits.Listed) else split,
        },
        extract,
        resume=True,
    )
    if until == "events":
        return events
    generated = events["summary"].get("generated", False)
    settings = _settings(data, generated=generated)

    def count(n: int) -> str:
        return disclosure.words(n, generated)

    def tokenize(out: Path) -> dict[str, Any]:
        print(f"timelines: vocabulary, quantiles, tokens (preset {settings['preset']})")
        small = runner.for_bytes(_size(at.events))
        artifacts.verify(at.events, alone=True)
        others = {"code_maps": data.code_maps, "may_lose": tuple(data.may_lose)}
        summary = timelines.build(at.events, out, runner=small, **others, **settings)
        card.write(out, summary, events, generated=generated)
        if (share := vocabulary.load(out).interval_share) > MOST_INTERVALS:
            told = "facts that stand at the birth, or another time not theirs, need none"
            print(f"  warning: {share:.0%} of the tokens are intervals of time; {told}")
        silent = Counter[str]()
        for split in timelines.SPLITS:
            silent.update(summary[split]["silent_events"])
        for what, many in sorted(silent.items()):
            print(f"  without a token: {count(many)}, {what}")
        return summary

    tokens = artifacts.build(
        at.timelines,
        {"events": events["fingerprint"], **settings, "code_maps": codes.files},
        tokenize,
        resume=True,
        version=timelines.VERSION,
    )
    if until == "timelines":
        return tokens
    shape = {name: data[name] for name in ("context", "block", "seed", "phases", "sampling")}

    def pack(fraction: float) -> dict[str, Any]:
        packing_settings = {**shape, "fraction": fraction} if fraction < 1 else shape

        def make(out: Path) -> dict[str, Any]:
            artifacts.verify(at.timelines)
            small = runner.for_bytes(_size(at.events))
            summary = packing.build(at.timelines, out, **packing_settings, runner=small)
            train, part = summary["splits"]["train"], f"{fraction:g} of them: " if fraction < 1 else ""
            real, patients = count(train["real_tokens"]), count(train["patients"])
            print(f"packed: {part}{real} tokens of {patients} patients to train on, context {data.context}")
            return summary

        return artifacts.build(
            packed_folder(data, workdir, fraction),
            {"timelines": tokens["fingerprint"], **packing_settings},
            make,
            resume=True,
            version=packing.VERSION,
        )

    whole = pack(1.0)
    for fraction in sorted({float(f) for f in fractions} - {1.0}, reverse=True):
        pack(fraction)
    return whole


def _tell_losses(summary: dict[str, Any]) -> None:
    """Print what a source left out and mended, by its reasons."""

    def count(n: int) -> str:
        return disclosure.words(n, summary.get("generated", False))

    if met := summary.get("split_file"):
        there, only = count(met["not named"]), count(met["not there"])
        print(f"  split file: {there} patients are not in it and left out, {only} only in it")
    for what, kind in (("left out", "dropped"), ("mended", "mended")):
        for reason, rows in sorted(summary.get(kind, {}).items()):
            if rows:
                print(f"  {what}: {count(rows)}, {reason}")


def packed_folder(data: ConfigDict, workdir: Path, fraction: float = 1.0) -> Path:
    """Where `prepare` packs this fraction of the training patients."""
    return Layout(workdir).packed(data.context, fraction)


def packed_record(data: ConfigDict, workdir: Path, fraction: float = 1.0) -> dict[str, Any]:
    """The record of what `prepare` packed. Raises: UserError where it did not, naming what there is instead."""
    folder = packed_folder(data, workdir, fraction)
    storage.fetch(folder, artifacts.RECORD)
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob("t*"))
        raise UserError(
            f"{folder} is not there ({folder.parent} holds {', '.join(there) or 'nothing'}): prepare the data with "
            f"--config.data.context={data.context}"
            + (f" and {fraction:g} among --config.grid.fractions" if fraction < 1 else "")
        )
    return artifacts.record(folder)


def _settings(data: ConfigDict, *, generated: bool) -> dict[str, Any]:
    """The tokenizer's options: those of the preset, and over them what the config says."""
    given = {name: value for name, value in data.tokens.items() if value is not None}
    if data.preset == "clean":
        given.setdefault("min_patients", 0 if generated else 10)
    return tokenizer.options({"preset": data.preset, **given})


def _own(data: ConfigDict, source: str) -> dict[str, Any]:
    """The options of this source alone."""
    if source == "synthetic":
        return {"patients": data.patients}
    if source == "meds":
        options = {"dialect": data.dialect, "may_lose": tuple(data.may_lose)}
        return {**options, "preset": data.preset, "times": data.times}
    if source in ("mimic-iv", "mimic-iv-demo"):
        options = {"preset": data.preset, "tables": tuple(data.tables), "memory_gb": data.memory_gb}
        return {**options, "times": data.times, "ed": Path(data.ed) if data.ed else None}
    return {}


def _raw(data: ConfigDict, workdir: Path, runner: Runner) -> tuple[str, Path | None]:
    """The source and the folder of its raw records: the user's, a verified download, or generated files."""
    folder = Layout(workdir).raw
    if data.layout:
        if data.source != "synthetic" or data.layout != "mimic-iv":
            raise UserError(f"--layout={data.layout} of --source={data.source}: only synthetic has one, mimic-iv")
        from ehr_scaling.data.sources.synthetic import mimic as synthetic_mimic

        tables = (*synthetic_mimic.DEFAULT, *(t for t in data.tables if t in synthetic_mimic.TABLES))
        synthetic_mimic.write(
            folder, fraction=data.fraction, seed=data.seed, tables=tuple(dict.fromkeys(tables)), workers=runner.workers
        )
        return "mimic-iv", folder
    if data.raw:
        return data.source, Path(data.raw).absolute()
    if data.source not in sources.RELEASES:
        return data.source, None
    if sources.RELEASES[data.source].credentialed and not data.download:
        raise UserError(
            f"--source={data.source} needs its files: give their folder with --raw=DIR, or fetch them with your "
            "PhysioNet account by --download"
        )
    # Files take their names only after their checksum was verified, so that a complete folder needs no network.
    if not all((folder / name).exists() for name in sources.get(data.source).FILES):
        sources.fetch(data.source, folder, base_url=data.url)
    return data.source, folder


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
