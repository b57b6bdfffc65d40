"""PhysioNet/CinC Challenge 2012: 12,000 adult ICU stays, their first 48 hours, and what became of them.

Silva et al., "Predicting in-hospital mortality of ICU patients", Computing in Cardiology 2012;39:245-248.

What becomes of a record:
- Static, at null time: GENDER//M|F, HEIGHT (cm), WEIGHT (kg), ICU_TYPE//1..4. The value -1 means missing, there and
  in the observations; such rows are dropped.
- MEDS_BIRTH is the admission less the age times 365.25 days (ages are whole years, and 90 stands for more).
- The release has no dates: every ICU_ADMISSION is at 2100-01-01 00:00, and the rest lies relative to it.
- Observations are OBS//<Parameter>, spelt as in the release. The weight at 00:00 is the admission weight; a second
  one at 00:00, and all later ones (the release repeats the last weight about hourly), are OBS//Weight. The 2,403
  rows of the release without a parameter's name are dropped.
- The stay ends `Length_of_stay` days after ICU admission, but not before 48 h nor before the last observation.
  That is late by the days between hospital and ICU admission, which the release does not tell. It holds for deaths
  too, although `Survival` would date them better: a rule that depended on the outcome would put the outcome into
  the time. At that moment those who died have MEDS_DEATH, and everybody has HOSPITAL_DISCHARGE.
- A stay of unknown length (-1; all of them survivors) has no end: its record just stops, at 48 h at the latest.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ehr_scaling.artifacts import fingerprint_files
from ehr_scaling.data import events
from ehr_scaling.data.shards import Runner, once, run
from ehr_scaling.data.sources import physionet
from ehr_scaling.errors import UserError

SETS = ("a", "b", "c")
FILES = tuple(f"set-{s}.tar.gz" for s in SETS) + tuple(f"Outcomes-{s}.txt" for s in SETS)
VERSION = 1  # of what is made of the files; a change of it refuses events that were made before
ICU_TYPES = ("CORONARY_CARE_UNIT", "CARDIAC_SURGERY_RECOVERY_UNIT", "MEDICAL_ICU", "SURGICAL_ICU")
ADMISSION_US = int(np.datetime64("2100-01-01", "us").astype(np.int64))
DAY_US = 86_400_000_000
_HEADER = b"Time,Parameter,Value"
_STATIC = np.iinfo(np.int64).min  # stands for a null time: sorts first


def inputs(raw: Path | None, **options: Any) -> dict[str, Any]:
    """What the events are made from. Raises UserError where a file is missing."""
    raw = _folder(raw)
    files = fingerprint_files([raw / name for name in FILES], raw)
    return {"source": "challenge-2012", "version": VERSION, "raw": files, **options}


def extract(
    raw: Path | None,
    out: Path,
    *,
    seed: int,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Write the MEDS events of all stays of sets a, b and c; the subject id is the RecordID.

    Returns: the summary of events.finish, with "name", "license", "stays", "deaths", "observations" (rows of the
      release, the descriptors among them), "unended" (stays without an end), "dropped" {reason: rows}.
    Raises: UserError for a file that is missing, damaged, or changed against SHA256SUMS.txt, for a column that an
      outcomes file lacks, for records and outcomes that do not agree, and for a row that cannot be read.
    """
    raw = _folder(raw)
    physionet.verify(raw, FILES)
    # A set at a time, to keep memory at a third; a record lies in one set only.
    records = [out / events.PARTS / f"set-{s}.json" for s in SETS]
    counts = run(_set, [(raw, out, s, seed, splits) for s in SETS], records, runner or Runner(), "sets")
    facts = {name: sum(c[name] for c in counts) for name in ("stays", "deaths", "observations", "unended")}
    dropped = {reason: sum(c["dropped"][reason] for c in counts) for reason in counts[0]["dropped"]}
    metadata = {
        "dataset_name": "PhysioNet/CinC Challenge 2012",
        "dataset_version": "1.0.0",
        "license": "open access, see location_uri",
        "location_uri": "https://physionet.org/content/challenge-2012/1.0.0/",
    }
    summary = events.finish(out, metadata)
    about = {"name": metadata["dataset_name"], "license": metadata["license"], "dropped": dropped}
    return {**summary, **about, **facts}


def _folder(raw: Path | None) -> Path:
    if raw is None:
        raise UserError("challenge-2012 needs its files: download them, or give their folder with --raw=DIR")
    for name in FILES:
        if not (raw / name).is_file():
            raise UserError(f"{raw / name} is missing: copy it there from PhysioNet's challenge-2012/1.0.0")
    return raw


def _set(raw: Path, out: Path, s: str, seed: int, splits: tuple[float, float, float]) -> None:
    """Write the shards of one of the three sets."""
    once(out / events.PARTS / f"set-{s}.json", lambda: _write_set(raw, out, s, seed, splits))


def _write_set(raw: Path, out: Path, s: str, seed: int, splits: tuple[float, float, float]) -> dict[str, Any]:
    archive = raw / f"set-{s}.tar.gz"
    texts = list(_members(archive))
    table = _parse(texts, archive)
    rows_of = np.array([text.count(b"\n") for text in texts])  # of each record; every text ends in a newline
    record = np.repeat(np.arange(len(texts)), rows_of)  # (rows,)

    times = np.array([_minutes(t) for t in table["time"].dictionary.to_pylist()])
    minute = times[table["time"].indices.to_numpy()]
    if (minute < 0).any():
        raise UserError(f"{_place(archive, record, rows_of, minute < 0)}: the time is not HH:MM")
    names = table["name"].dictionary.to_pylist()
    name = table["name"].indices.to_numpy()
    value = table["value"].to_numpy()

    def rows(parameter: str) -> np.ndarray:
        return name == (names.index(parameter) if parameter in names else -1)

    def descriptor(parameter: str, needed: bool = False) -> np.ndarray:
        """float64 (records,): the first value at 00:00, NaN where there is none."""
        at = np.flatnonzero(rows(parameter) & (minute == 0))[::-1]  # backwards, so that the first wins
        values = np.full(len(texts), np.nan)
        values[record[at]] = value[at]
        if needed and (bad := np.isnan(values) | (values == -1)).any():
            raise UserError(f"{archive}: record {np.argmax(bad) + 1} of the archive has no {parameter} at 00:00")
        return values

    ids = descriptor("RecordID", needed=True).astype(np.int64)
    los, died = _outcomes(raw / f"Outcomes-{s}.txt", archive, ids)
    age, icu = descriptor("Age", needed=True), descriptor("ICUType", needed=True)
    if not np.isin(icu, (1, 2, 3, 4)).all():
        raise UserError(f"{archive}: record {np.argmax(~np.isin(icu, (1, 2, 3, 4))) + 1}: ICUType is not 1, 2, 3 or 4")

    # The codes: the parameters' first, then the rest.
    codes = [f"OBS//{n}" for n in names]
    codes += ["GENDER//F", "GENDER//M", "HEIGHT", "WEIGHT", *(f"ICU_TYPE//{i}" for i in range(1, 5)), events.BIRTH]
    codes += [*(f"ICU_ADMISSION//{t}" for t in ICU_TYPES), events.DEATH, "HOSPITAL_DISCHARGE"]
    code = {c: i for i, c in enumerate(codes)}

    parts: list[tuple[np.ndarray, ...]] = []  # (record, time, code, value), in the order of equal times

    def emit(which: np.ndarray, time: Any, c: Any, v: Any = np.nan) -> None:
        at = np.flatnonzero(which)
        parts.append((at, *(np.broadcast_to(x, len(texts))[at] for x in (time, c, v))))

    for i, sex in enumerate("FM"):
        emit(descriptor("Gender") == i, _STATIC, code[f"GENDER//{sex}"])
    for n in ("Height", "Weight"):
        values = descriptor(n)
        emit(values >= 0, _STATIC, code[n.upper()], values)  # -1 is missing, and so is NaN
    emit(age >= 0, _STATIC, code["ICU_TYPE//1"] + icu.astype(int) - 1)
    emit(age >= 0, ADMISSION_US - (age * 365.25 * DAY_US).astype(np.int64), code[events.BIRTH])
    emit(age >= 0, ADMISSION_US, code[f"ICU_ADMISSION//{ICU_TYPES[0]}"] + icu.astype(int) - 1)

    descriptors = np.logical_or.reduce([rows(p) for p in ("RecordID", "Age", "Gender", "Height", "ICUType")])
    weights = np.flatnonzero(rows("Weight") & (minute == 0))
    descriptors[weights[np.unique(record[weights], return_index=True)[1]]] = True
    observed = ~descriptors & (value != -1) & ~rows("")
    parts.append((record[observed], ADMISSION_US + minute[observed] * 60_000_000, name[observed], value[observed]))

    last = np.zeros(len(texts), np.int64)
    np.maximum.at(last, record, minute)
    end = ADMISSION_US + np.maximum(np.maximum(los, 2) * DAY_US, last * 60_000_000)
    ended = died | (los >= 0)
    emit(died, end, code[events.DEATH])
    emit(ended, end, code["HOSPITAL_DISCHARGE"])

    columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    _write_shards(out, SETS.index(s), ids, codes, columns, *events.assign(ids, seed, splits))
    return {
        "stays": len(texts),
        "deaths": int(died.sum()),
        "observations": len(value),
        "unended": int((~ended).sum()),
        "dropped": {"value is missing (-1)": int((value == -1).sum()), "no parameter's name": int(rows("").sum())},
    }


def _write_shards(
    out: Path,
    number: int,
    ids: np.ndarray,
    codes: list[str],
    columns: tuple[np.ndarray, ...],
    split_of: np.ndarray,
    shard_of: np.ndarray,
) -> None:
    """Shards number, number + 3, … of each split; the next set's lie between them."""
    by_id = np.argsort(ids)
    rank = np.empty(len(ids), np.int64)
    rank[by_id] = np.arange(len(ids))
    record, time, _, _ = columns
    order = np.lexsort((time, rank[record]))  # stable: equal times keep the file's order
    record, time, code, value = (column[order] for column in columns)
    spelt = pa.array(codes, pa.string())
    for i, split in enumerate(events.SPLITS):
        for shard in np.unique(shard_of[split_of == i]):
            at = np.flatnonzero((split_of[record] == i) & (shard_of[record] == shard))
            table = pa.table(
                {
                    "subject_id": ids[record[at]],
                    "time": pa.array(time[at], pa.int64(), mask=time[at] == _STATIC).cast(pa.timestamp("us")),
                    "code": pa.DictionaryArray.from_arrays(pa.array(code[at]), spelt),
                    "numeric_value": pa.array(value[at], mask=np.isnan(value[at])).cast(pa.float32()),
                    "text_value": pa.nulls(len(at), pa.large_string()),
                }
            )
            events.write_shard(out, split, number + len(SETS) * int(shard), table)


def _members(archive: Path) -> Iterator[bytes]:
    """The text of each record in the archive, without its header line, ending in a newline."""
    try:
        data = gzip.decompress(archive.read_bytes())  # 6 MB become 40
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if not member.isfile() or not member.name.endswith(".txt"):
                    continue
                text = tar.extractfile(member).read()  # type: ignore[union-attr]
                header, _, rows = text.replace(b"\r", b"").partition(b"\n")
                if header.strip() != _HEADER:
                    raise UserError(f"{archive}: a record does not begin with the line {_HEADER.decode()}")
                yield rows if rows.endswith(b"\n") or not rows else rows + b"\n"
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError):
        raise UserError(f"{archive} is truncated or damaged: delete it and download it again") from None


def _parse(texts: list[bytes], archive: Path) -> dict[str, pa.Array]:
    """Columns of all records together: time and name as dictionaries (a few values each), value as float64."""

    def read(data: bytes) -> dict[str, pa.Array]:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(column_names=["time", "name", "value"], block_size=1 << 26),
            parse_options=pyarrow.csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={
                    "time": pa.dictionary(pa.int32(), pa.string()),
                    "name": pa.dictionary(pa.int32(), pa.string()),
                    "value": pa.float64(),
                },
                null_values=[],
            ),
        )
        columns = {n: pa.concat_arrays(table[n].unify_dictionaries().chunks) for n in ("time", "name", "value")}
        if not pc.all(pc.is_finite(columns["value"])).as_py():
            raise pa.ArrowInvalid("not finite")
        return columns

    try:
        return read(b"".join(texts))
    except pa.ArrowInvalid:
        pass
    for place, text in enumerate(texts, 1):  # slow, and only to say where
        for row, line in enumerate(text.splitlines(), 2):
            try:
                read(line + b"\n")
            except pa.ArrowInvalid:
                wanted = "three columns" if line.count(b",") != 2 else "a number in the column Value"
                raise UserError(f"{archive}: record {place} of the archive, row {row}: not {wanted}") from None
    raise UserError(f"{archive} holds no record: delete it and download it again")


def _minutes(time: str) -> int:
    """Minutes since admission of 'HH:MM', -1 where it is none."""
    hours, _, minutes = time.partition(":")
    return int(hours) * 60 + int(minutes) if hours.isdigit() and minutes.isdigit() and int(minutes) < 60 else -1


def _place(archive: Path, record: np.ndarray, rows_of: np.ndarray, bad: np.ndarray) -> str:
    at = int(np.argmax(bad))
    row = at - int(rows_of[: record[at]].sum()) + 2  # from 1, after the header
    return f"{archive}: record {record[at] + 1} of the archive, row {row}"


def _outcomes(path: Path, archive: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length of stay in days (-1: unknown), int64, and in-hospital death, bool, of the records `ids`."""
    needed = ["RecordID", "Length_of_stay", "In-hospital_death"]
    types = dict.fromkeys(needed, pa.int64())
    try:
        table = pyarrow.csv.read_csv(
            path, convert_options=pyarrow.csv.ConvertOptions(column_types=types, null_values=[])
        )
    except pa.ArrowInvalid:
        rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
        at = {c.strip(): i for i, c in enumerate(rows[0].split(","))} if rows else {}
        for row, line in enumerate(rows[1:], 2):
            cells = line.split(",")
            if len(cells) != len(at):
                raise UserError(f"{path}, row {row}: {len(cells)} columns, not {len(at)}") from None
            for column in needed:
                if column in at and not cells[at[column]].strip().lstrip("-").isdigit():
                    raise UserError(f"{path}, row {row}: {column} is not a whole number") from None
        raise UserError(f"{path} cannot be read as CSV: delete it and download it again") from None
    for column in needed:
        if column not in table.column_names:
            raise UserError(f"{path} has no column {column}: is it the outcomes file of the release?")
    listed, los, died = (table[column].to_numpy() for column in needed)
    if len(lacking := np.setdiff1d(ids, listed)):
        raise UserError(f"{path}: no outcome for {len(lacking)} of the {len(ids)} records of {archive.name}")
    if len(lacking := np.setdiff1d(listed, ids)):
        raise UserError(f"{archive} lacks {len(lacking)} of the {len(listed)} records of {path.name}")
    if len(np.unique(ids)) < len(ids) or len(np.unique(listed)) < len(listed):
        raise UserError(f"{archive} or {path.name} holds a record twice: download them again")
    if not np.isin(died, (0, 1)).all():
        raise UserError(f"{path}, row {np.argmax(~np.isin(died, (0, 1))) + 2}: In-hospital_death is not 0 or 1")
    place = np.argsort(listed)[np.searchsorted(np.sort(listed), ids)]
    return los[place], died[place].astype(bool)
