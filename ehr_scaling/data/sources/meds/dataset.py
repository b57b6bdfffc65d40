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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling.artifacts import fingerprint_files, read_json, writing
from ehr_scaling.data import events, parquet
from ehr_scaling.data.shards import Runner, run
from ehr_scaling.data.sources.meds import dialects, shuffle, spelling
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.data.sources.meds import rows as meds_rows
from ehr_scaling.data.sources.meds import splits as meds_splits
from ehr_scaling.data.sources.meds.reading import Reading
from ehr_scaling.data.sources.mimic.tables import chosen_times
from ehr_scaling.data.splits import AllHeldOut, Listed, Splits
from ehr_scaling.data.splits import told as met
from ehr_scaling.errors import UserError

CODES_FILE, ABOUT_FILE = Path("metadata", "codes.parquet"), Path("metadata", "dataset.json")
VERSION = 4  # of what is made of the files; a change of it refuses events that were made before
FILES = None  # a MEDS data set is brought by the user
_WITHIN = 1_024  # shards from which each is of the patients of one file, see _assign
_UNIT = 4_000_000  # rows of a piece of work; a file may be several, or one of many in a piece
_LOOKED_AT = 8  # files in which `_dialect` looks for codes that metadata/codes.parquet may lack
_LOOKED_UP = 1 << 20  # codes of the metadata in which it looks
_ANCESTORS = 32  # of a code, nearest first
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
    extra = [path for path in (raw / meds_splits.FILE, raw / CODES_FILE, raw / ABOUT_FILE) if path.is_file()]
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
    told = _told(raw)
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

    numbers = range(len(units))
    run(shuffle.patients, [(folder, i, units[i]) for i in numbers], records("patients", numbers), runner, "patients")
    shards, about_splits = _assign(folder, units, own_splits, seed, splits)
    items = [(folder, i, units[i], how) for i in numbers]
    spread = run(shuffle.spread, items, records("spread", numbers), runner, "files")
    _check_families([record["families"] for record in spread], how.dialect, may_lose)
    gathers = [(folder, out, how, i, *shard) for i, shard in enumerate(shards)]
    names = [f"{split}-{k}" for split, k, _ in shards]
    gathered = run(shuffle.gather, gathers, records("gather", names), runner, "shards")
    dropped, mended = (_sum(r[kind] for r in [*spread, *gathered]) for kind in ("dropped", "mended"))
    metadata = {
        key: str(about[key])
        for key in ("dataset_name", "dataset_version", "license", "location_uri", "description_uri")
        if about.get(key)
    }
    pairs = _spelt(folder, len(units))
    descriptions, parents = _metadata(pairs, told, how.dialect)
    summary = events.finish(out, metadata, splits=splits, descriptions=descriptions, parents=parents)
    shutil.rmtree(folder.path / "spread", ignore_errors=True)  # as large as the data set, and all of it is in shards
    return {
        **summary,
        "name": metadata.get("dataset_name", "a MEDS data set without a name"),
        "license": metadata.get("license", "not stated in the data set"),
        "dialect": how.dialect,
        "splits": told_splits,
        **about_splits,
        "several_units": _several_units(pairs),
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


def _told(raw: Path) -> pa.Table:
    """Code, description and parents from metadata/codes.parquet; it may be all of an ontology, so it stays Arrow's."""
    path = raw / CODES_FILE
    schema = pa.schema({"code": pa.string(), "description": pa.string(), "parent_codes": pa.list_(pa.string())})
    if not path.is_file():
        return schema.empty_table()
    table = meds_reading.whole(path)
    if "code" not in table.column_names:
        raise UserError(f"{path} has no column code: mend it or delete it")
    columns = []
    for field in schema:
        try:
            columns.append(table[field.name].cast(field.type))
        except (KeyError, pa.ArrowException):  # it is not there, or of another kind
            columns.append(pa.nulls(len(table), field.type))
    return pa.table(columns, schema=schema).filter(pc.is_valid(columns[0]))


def _codes(files: list[Path], told: pa.Table) -> set[str]:
    """Codes by which to know the dialect: those of the metadata, and of the first rows of some files."""
    first = (meds_reading.codes(path) for path in files[:: max(1, len(files) // _LOOKED_AT)])
    return set(told["code"].slice(0, _LOOKED_UP).to_pylist()).union(*first)


def _assign(
    folder: shuffle.Folder, units: list[list[shuffle.Part]], own_splits: meds_splits.Splits, seed: int, splits: Splits
) -> tuple[list[tuple[str, int, list[int] | None]], dict[str, Any]]:
    """Write which shard each patient is in, by its number among all, -1 for one that a split file does not name.

    Of a data set of millions, each in one file, patients of one file (or of the few that a piece of work holds) share
    their shards: else every shard would be gathered from every piece.
    Returns: of each shard its split, its number in that, and the pieces that it is of, or None for all; how the
      patients meet a split file, if there is one.
    """
    ids_of_unit = [np.load(folder.patients(i)) for i in range(len(units))]
    ids = meds_rows.distinct(np.concatenate([np.zeros(0, np.int64), *ids_of_unit]))
    if isinstance(splits, Listed):
        split, shard = events.assign(ids, seed, splits)
    else:
        split, shard = meds_splits.assigned(own_splits, ids, _by_file(units), seed, splits)
    pieces: dict[tuple[int, int], list[int]] = {}
    if len(ids) > _WITHIN * events.SHARD:
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
    return [(events.SPLITS[i], k, pieces.get((i, k))) for i, k in places], met(splits, ids)


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


def _spelt(folder: shuffle.Folder, units: int) -> set[tuple[str, str]]:
    """Which code of theirs became which of ours."""
    pairs: set[tuple[str, str]] = set()
    for i in range(units):
        table = parquet.read(folder.spelt(i))
        pairs.update(zip(table["theirs"].to_pylist(), table["ours"].to_pylist(), strict=True))
    return pairs


def _several_units(pairs: set[tuple[str, str]]) -> int:
    """Codes of theirs that became several of ours, by their unit or other modifiers."""
    return sum(n > 1 for n in Counter(theirs for theirs, _ in pairs).values())


def _metadata(pairs: set[tuple[str, str]], told: pa.Table, dialect: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Descriptions and parents of our codes. Parents are spelt as our codes are, followed by theirs, nearest first."""
    descriptions: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    if not len(told):
        return descriptions, parents
    text, above = _closure(told, {theirs for theirs, _ in pairs})
    for theirs, ours in sorted(pairs):
        if text.get(theirs):
            descriptions.setdefault(ours, text[theirs])
        ancestors: dict[str, None] = {}
        level = [theirs]
        while level and len(ancestors) < _ANCESTORS:
            level = [p for code in level for p in above.get(code, ()) if p != theirs and p not in ancestors]
            ancestors |= dict.fromkeys(level)
        spelt = [code if dialect == dialects.OWN else spelling.own(spelling.prefixed(code)) for code in ancestors]
        if spelt:
            parents[ours] = list(dict.fromkeys([*parents.get(ours, []), *spelt]))[:_ANCESTORS]
    return descriptions, parents


def _closure(told: pa.Table, codes: set[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Descriptions of codes; parents of them and of all their ancestors."""
    text: dict[str, str] = {}
    above: dict[str, list[str]] = {}
    level = codes
    while level:
        rows = told.filter(pc.is_in(told["code"], pa.array(sorted(level), pa.string())))
        for code, description, parents in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            if description:
                text[code] = description
            above[code] = [parent for parent in parents or () if parent]
        for code in level:
            above.setdefault(code, [])
        level = {parent for code in level for parent in above[code]} - above.keys()
    return text, above
