"""Any MEDS data set, 0.3.3 or 0.4, of any dialect: its events, its splits, its descriptions and parents of codes.

What a writer may get wrong is mended and counted, since all events are brought to the shards of their patients anyway:
rows out of the order of time, patients whose rows are not together or lie in several files. Times with a zone are
taken as UTC. Rows without patient or code, or with a time outside of 1800–2261, are left out and counted; numbers that
are none are no value. Where there is no `numeric_value`, a column `value` of numbers is read in its place, and said.
`text_value` is never kept: it is free text, and may name people; so are all columns that MEDS does not define. But a
column of units, and those that dataset.json calls modifiers of the code, become parts of the code, so that values have
one scale a code and unit; and in the MIMIC-IV dialects a few codes are made of other columns: see `dialects`.

Where MEDS leaves the order of events at one time open, that of the files is kept, but for a death, which comes before
a discharge; in the MIMIC-IV dialects it is that of the mimic-iv source. Demographics that are told at the time of birth
are facts without a time.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling.artifacts import fingerprint_files, read_json
from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import AllHeldOut, Listed, Splits
from ehr_scaling.data.shards import Runner, run
from ehr_scaling.data.sources.meds import assignment, code_metadata, dialects, shuffle
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.data.sources.meds import splits as meds_splits
from ehr_scaling.data.sources.meds.reading import Reading
from ehr_scaling.data.sources.mimic.tables import chosen_times
from ehr_scaling.errors import UserError

ABOUT_FILE = Path("metadata", "dataset.json")
VERSION = 5  # of what is made of the files; a change of it refuses events that were made before
FILES = None  # a MEDS data set is brought by the user
_UNIT = 4_000_000  # rows of a piece of work; a file may be several, or one of many in a piece
_LOOKED_AT = 8  # files in which `_codes` looks for codes that metadata/codes.parquet may lack
_LOOKED_UP = 1 << 20  # codes of the metadata that it takes
FEWEST_LOST = 50  # events of a family that is lost whole from which on it stops the work


def _is_string(t: pa.DataType) -> bool:
    return pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)


_MOMENTS = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_null)
_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
# What MEDS prescribes, and what else is read without loss.
_TYPES = {
    "subject_id": ("int64", pa.types.is_integer),
    "time": ("timestamp[us]", lambda t: any(f(t) for f in _MOMENTS)),
    "code": ("string", lambda t: _is_string(t) or (pa.types.is_dictionary(t) and _is_string(t.value_type))),
    **dict.fromkeys(meds_reading.VALUES, ("float32", lambda t: any(f(t) for f in _NUMBERS))),
}


def inputs(
    raw: Path | None,
    *,
    dialect: str | None = None,
    may_lose: Sequence[str] = (),
    preset: str = "clean",
    times: str | None = None,
) -> dict[str, Any]:
    """What the events are made from; which families may be lost changes nothing in them.

    Raises: UserError where `raw` is not a MEDS data set, or there is no such dialect.
    """
    dialects.check(dialect)
    raw, files = _files(raw)
    extra = [path for path in (raw / meds_splits.FILE, raw / code_metadata.FILE, raw / ABOUT_FILE) if path.is_file()]
    told = {} if dialect is None else {"dialect": dialect}
    return {
        "source": "meds",
        "version": VERSION,
        "raw": fingerprint_files([*files, *extra], raw),
        "times": chosen_times(preset, times),
        **told,
    }


def check_splits(raw: Path | None) -> None:
    """Raises UserError where the data set's own splits leave nobody to train or to tune."""
    raw, files = _files(raw)
    own_splits = meds_splits.of(raw, files)
    if name := meds_splits.lacking(own_splits):
        raise UserError(
            f"{raw}: its splits, {own_splits.words}, have no patient in {name}: give a file that has, with "
            "--config.data.split_file=FILE"
        )


def extract(
    raw: Path | None,
    out: Path,
    *,
    seed: int,
    splits: Splits = (0.8, 0.1, 0.1),
    runner: Runner | None = None,
    dialect: str | None = None,
    may_lose: Sequence[str] = (),
    preset: str = "clean",
    times: str | None = None,
) -> dict[str, Any]:
    """Write the MEDS data set in the folder `raw` as ours.

    Its own splits are kept; where it has none, patients are split by a hash, see events.assign. Memory is bounded by
    the events of a shard of patients and of a piece of some million rows, whatever the sizes of the files.

    Args:
      dialect: of dialects.NAMES; None: the one that its codes show.
      may_lose: families of codes of which every event may be left out; else that stops the work.
      times: of MIMIC-IV's dialects: "known" (clean's default), by the rules of `knowing`, or "happened" (all that the
        others can), as the data set has them.
    Returns: the summary of events.finish, with "name", "license", "dialect", "splits" (in words), "several_units"
      (codes with values in more than one unit), "dropped" {reason: rows} and "mended" {what: rows or patients}, of
      what was mended or is odd, but kept. What was found out of the data set is printed, a line each.
    Raises: UserError, before any work is done, for a file that cannot be read, a column that is missing or cannot be
      MEDS', an unknown dialect or split, a patient listed twice; for a patient without a split or in two; and where a
      family of codes is lost whole.
    """
    dialects.check(dialect)
    raw, files = _files(raw)
    runner = runner or Runner()
    own_splits = meds_splits.of(raw, files)
    about = read_json(raw / ABOUT_FILE, "mend it, or delete this file") if (raw / ABOUT_FILE).is_file() else {}
    about = about if isinstance(about, dict) else {}
    units = _units(files)
    told = code_metadata.read(raw)
    detected, why = dialects.recognise(_codes(files, told), about)
    how = Reading(dialect or detected, _modifiers(about), chosen_times(preset, times) == "known")
    print(f"  dialect: {how.dialect}, " + ("as --config.data.dialect says" if dialect else f"since {why}"))
    for name in sorted(_numbers(files) - {meds_reading.VALUE}):
        told_in = f"those of the column {name}" if name else "none"
        print(f"  numbers: {told_in}, for files that have no column {meds_reading.VALUE}")
    by_file = splits.name if isinstance(splits, AllHeldOut) else "those of the split file"
    told_splits = by_file if isinstance(splits, Listed) else own_splits.words
    print(f"  splits: {told_splits}")

    folder = shuffle.Folder(out / events.PARTS / "exchange")
    folder.path.mkdir(parents=True, exist_ok=True)

    def records(stage: str, names: Iterable[Any]) -> list[Path]:
        return [folder.record(stage, name) for name in names]

    shards, places, width, about_splits = assignment.assign(folder, units, own_splits, seed, splits, runner)
    numbers = range(len(units))
    items = [(folder.path, i, units[i], how, places[i], width) for i in numbers]
    spread = run(shuffle.spread, items, records(shuffle.spread_stage(width), numbers), runner, "files")
    _check_families([record["families"] for record in spread], how.dialect, may_lose)
    if width > 1:
        bands = range(-(-len(shards) // width))
        narrowing = [(folder.path, band, places[0], width) for band in bands]  # those of all pieces are the same
        run(shuffle.narrow, narrowing, records("narrow", bands), runner, "bands")
    gathers = [(folder.path, out, how, width, i, *shard) for i, shard in enumerate(shards)]
    names = [f"{split}-{k}" for split, k, _ in shards]
    gathered = run(shuffle.gather, gathers, records("gather", names), runner, "shards")
    dropped, mended = (_sum(r[kind] for r in [*spread, *gathered]) for kind in ("dropped", "mended"))
    metadata = {
        key: str(about[key])
        for key in ("dataset_name", "dataset_version", "license", "location_uri", "description_uri")
        if about.get(key)
    }
    pairs = code_metadata.spelt(folder, len(units))
    descriptions, parents = code_metadata.descriptions_and_parents(pairs, told, how.dialect)
    summary = events.finish(out, metadata, splits=splits, descriptions=descriptions, parents=parents, apart=True)
    for name in ("spread", "narrowed"):  # each as large as the data set, and all of it is in shards
        shutil.rmtree(folder.path / name, ignore_errors=True)
    return {
        **summary,
        "name": metadata.get("dataset_name", "a MEDS data set without a name"),
        "license": metadata.get("license", "not stated in the data set"),
        "dialect": how.dialect,
        "splits": told_splits,
        **about_splits,
        "several_units": code_metadata.several_units(pairs),
        "dropped": dropped,
        "mended": mended,
    }


def _modifiers(about: Mapping[str, Any]) -> tuple[str, ...]:
    named = about.get("code_modifier_columns")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return tuple(dict.fromkeys(name for name in names if name not in _TYPES and name != "text_value"))


def _check_families(parts: list[dict[str, list[Any]]], dialect: str, may_lose: Sequence[str]) -> None:
    """Raises UserError where every event of a family is left out, unless that is how the dialect is read.

    Args: parts, of each piece of work {family: [rows that might be kept, of them left out, the reason of most]}.
    """
    seen, lost = Counter[str](), Counter[str]()
    why: dict[str, str] = {}
    for families in parts:
        for name, (rows, gone, reason) in families.items():
            seen[name] += rows
            lost[name] += gone
            why[name] = reason or why.get(name, "")
    for name, rows in seen.most_common():
        if rows >= FEWEST_LOST and lost[name] == rows and name not in may_lose:
            told = name if re.fullmatch(r"[A-Za-z][\w.\-]*", name) else "a family"
            raise UserError(
                f"every one of the {rows:,} events of {told} would be left out ({why[name]}), read as the dialect "
                f"{dialect}: say the right one with --config.data.dialect={'|'.join(dialects.NAMES)}, or that it may "
                f"be so with --config.data.may_lose=\"('{told}',)\""
            )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for some in counts:
        total.update(some)
    return {what: count for what, count in sorted(total.items()) if count}


def _files(raw: Path | None) -> tuple[Path, list[Path]]:
    if raw is None:
        raise UserError("meds needs the folder of a MEDS data set, with data/ in it: give it with --raw=DIR")
    data = raw / "data"
    paths = (path for path in data.rglob("*.parquet") if path.is_file())
    files = sorted(path for path in paths if not any(p.startswith(".") for p in path.relative_to(data).parts))
    if not files:
        raise UserError(f"{data} holds no .parquet file: --raw must be the root of a MEDS data set")
    return raw, files


def _units(files: list[Path]) -> list[list[shuffle.Part]]:
    """Pieces of work of some _UNIT rows, in the order of the files. Checks the columns of each file."""
    units: list[list[shuffle.Part]] = [[]]
    rows = 0
    for number, path in enumerate(files):
        with meds_reading.reading(path):
            file = pq.ParquetFile(path)
            _check_schema(path, file.schema_arrow)
        first = 0
        if rows and rows + file.metadata.num_rows > _UNIT:
            units.append([])
            rows = 0
        for group in range(file.num_row_groups):
            more = file.metadata.row_group(group).num_rows
            if rows and rows + more > _UNIT:
                if group > first:
                    units[-1].append((str(path), number, first, group))
                units.append([])
                rows, first = 0, group
            rows += more
        if file.num_row_groups > first:
            units[-1].append((str(path), number, first, file.num_row_groups))
        if first:  # pieces of a file that is cut hold no other
            units.append([])
            rows = 0
    return [unit for unit in units if unit]


def _numbers(files: list[Path]) -> set[str]:
    """The columns in which numbers are, "" for none."""
    return {meds_reading.value_column(pq.read_schema(path)) or "" for path in files}


def _check_schema(path: Path, schema: pa.Schema) -> None:
    """Raises UserError where a column cannot be what MEDS wants."""
    meds_reading.check_once(path, schema)
    for column in ("subject_id", "time", "code"):
        if column not in schema.names:
            raise UserError(f"{path} has no column {column}: is it MEDS 0.3.3 or 0.4?")
    value = meds_reading.value_column(schema)
    for column, (wanted, fits) in _TYPES.items():
        other = column in meds_reading.VALUES and column != value
        if column in schema.names and not other and not fits(schema.field(column).type):
            actual = schema.field(column).type
            instead = f", and there is no {meds_reading.VALUE}" if column in meds_reading.VALUES[1:] else ""
            raise UserError(f"{path}: column {column} is {actual}{instead}, MEDS wants {wanted}: convert the data set")


def _codes(files: list[Path], told: pa.Table) -> set[str]:
    """Codes by which to know the dialect: those of the metadata, and of the first rows of some files."""
    first = (meds_reading.codes(path) for path in files[:: max(1, len(files) // _LOOKED_AT)])
    return set(told["code"].slice(0, _LOOKED_UP).to_pylist()).union(*first)
