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

What each field may be stands in `parameters`. Ids, ages, kinds, times and outcomes that cannot be are refused, since
they mean another file. Measured values that cannot be are left out and counted by parameter, since the release itself
has some; where they are more than half of a parameter's, they are in another unit, and refused.

When a fact is known: what is static, and the age, at admission; an observation at its own time, for the release tells
only that one (it may be the time of the draw, so a result may stand some hours early); death and discharge at the end
of the stay, which is late rather than early. `Survival`, and the scores SAPS-I and SOFA, which rest on what came after
admission, are not read.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling.artifacts import fingerprint_files
from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import Splits, as_written, told, written
from ehr_scaling.data.shards import Runner, once, run
from ehr_scaling.data.sources import physionet
from ehr_scaling.data.sources.challenge_2012 import reading
from ehr_scaling.data.sources.challenge_2012.parameters import DESCRIPTORS, MANY, MEASURED, MISSING, SHARE
from ehr_scaling.data.sources.challenge_2012.reading import Rows
from ehr_scaling.errors import UserError

SETS = ("a", "b", "c")
FILES = tuple(f"set-{s}.tar.gz" for s in SETS) + tuple(f"Outcomes-{s}.txt" for s in SETS)
VERSION = 2  # of what is made of the files; a change of it refuses events that were made before
ICU_TYPES = ("CORONARY_CARE_UNIT", "CARDIAC_SURGERY_RECOVERY_UNIT", "MEDICAL_ICU", "SURGICAL_ICU")
ADMISSION_US = int(np.datetime64("2100-01-01", "us").astype(np.int64))
DAY_US = 86_400_000_000
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
    splits: Splits = (0.8, 0.1, 0.1),
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Write the MEDS events of all stays of sets a, b and c; the subject id is the RecordID.

    Returns: the summary of events.finish, with "name", "license", "stays", "deaths", "observations" (rows of the
      release, the descriptors among them), "unended" (stays without an end), "dropped" {reason: rows}, and what
      splits.told says. Stays that a split file leaves out are among these counts.
    Raises: UserError for a file that is missing, damaged, or changed against SHA256SUMS.txt, for a column that an
      outcomes file lacks, for records and outcomes that do not agree, and for a row that cannot be read.
    """
    raw = _folder(raw)
    physionet.verify(raw, FILES)
    outcomes = [reading.outcomes(raw / f"Outcomes-{s}.txt") for s in SETS]
    _no_record_twice(outcomes)
    met = told(splits, np.concatenate([outcome.ids for outcome in outcomes]))
    # A set at a time, to keep memory at a third; a record lies in one set only.
    records = [out / events.PARTS / f"set-{s}.json" for s in SETS]
    told_splits = written(splits, out / events.PARTS)
    counts = run(_set, [(raw, out, s, seed, told_splits) for s in SETS], records, runner or Runner(), "sets")
    facts = {name: sum(c[name] for c in counts) for name in ("stays", "deaths", "observations", "unended")}
    dropped = sum((Counter(c["dropped"]) for c in counts), Counter[str]())
    metadata = {
        "dataset_name": "PhysioNet/CinC Challenge 2012",
        "dataset_version": "1.0.0",
        "license": "Open Data Commons Attribution License v1.0",
        "location_uri": "https://physionet.org/content/challenge-2012/1.0.0/",
    }
    summary = events.finish(out, metadata, splits=splits)
    about = {"name": metadata["dataset_name"], "license": metadata["license"], "dropped": dict(sorted(dropped.items()))}
    return {**summary, **about, **facts, **met}


def _folder(raw: Path | None) -> Path:
    if raw is None:
        raise UserError("challenge-2012 needs its files: download them, or give their folder with --raw=DIR")
    for name in FILES:
        if not (raw / name).is_file():
            raise UserError(f"{raw / name} is missing: copy it there from PhysioNet's challenge-2012/1.0.0")
    return raw


def _no_record_twice(outcomes: list[reading.Outcomes]) -> None:
    for i, first in enumerate(outcomes):
        for other in outcomes[i + 1 :]:
            if both := len(np.intersect1d(first.ids, other.ids)):
                raise UserError(f"{first.path} and {other.path.name} hold the same {both} records: download them again")


def _set(raw: str, folder: str, s: str, seed: int, told_splits: Any) -> None:
    """Write the shards of one of the three sets."""
    out = Path(folder)
    once(out / events.PARTS / f"set-{s}.json", lambda: _write_set(Path(raw), out, s, seed, as_written(told_splits)))


def _write_set(raw: Path, out: Path, s: str, seed: int, splits: Splits) -> dict[str, Any]:
    rows = reading.rows(raw / f"set-{s}.tar.gz")
    facts = {name: rows.descriptor(name, needed=name != "Gender") for name in DESCRIPTORS}
    ids, age, icu = facts["RecordID"].astype(np.int64), facts["Age"], facts["ICUType"].astype(np.int64)
    outcomes = reading.outcomes(raw / f"Outcomes-{s}.txt").at(ids, rows.archive)
    good, dropped = _measured(rows)

    # The codes: the parameters' first, then the rest.
    codes = [f"OBS//{name}" for name in rows.names]
    codes += ["GENDER//F", "GENDER//M", "HEIGHT", "WEIGHT", *(f"ICU_TYPE//{i}" for i in range(1, 5)), events.BIRTH]
    codes += [*(f"ICU_ADMISSION//{t}" for t in ICU_TYPES), events.DEATH, "HOSPITAL_DISCHARGE"]
    code = {c: i for i, c in enumerate(codes)}

    parts: list[tuple[np.ndarray, ...]] = []  # (record, time, code, value), in the order of equal times
    everybody = np.ones(rows.records, bool)

    def emit(which: np.ndarray, time: Any, c: Any, v: Any = np.nan) -> None:
        at = np.flatnonzero(which)
        parts.append((at, *(np.broadcast_to(x, rows.records)[at] for x in (time, c, v))))

    for i, sex in enumerate("FM"):
        emit(facts["Gender"] == i, _STATIC, code[f"GENDER//{sex}"])
    observed = good.copy()
    for name in ("Height", "Weight"):
        first = _at_admission(rows, name)
        observed[first] = False
        first = first[good[first]]
        parts.append((rows.record[first], *_same(len(first), _STATIC, code[name.upper()]), rows.value[first]))
    emit(everybody, _STATIC, code["ICU_TYPE//1"] + icu - 1)
    emit(everybody, ADMISSION_US - (age * 365.25 * DAY_US).astype(np.int64), code[events.BIRTH])
    emit(everybody, ADMISSION_US, code[f"ICU_ADMISSION//{ICU_TYPES[0]}"] + icu - 1)
    time = ADMISSION_US + rows.minute * 60_000_000
    parts.append((rows.record[observed], time[observed], rows.name[observed], rows.value[observed]))

    last = np.zeros(rows.records, np.int64)
    np.maximum.at(last, rows.record, rows.minute)
    end = ADMISSION_US + np.maximum(np.maximum(outcomes.days, 2) * DAY_US, last * 60_000_000)
    ended = outcomes.days != MISSING
    emit(outcomes.died, end, code[events.DEATH])
    emit(ended, end, code["HOSPITAL_DISCHARGE"])

    columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    _write_shards(out, SETS.index(s), ids, codes, columns, *events.assign(ids, seed, splits))
    return {
        "stays": rows.records,
        "deaths": int(outcomes.died.sum()),
        "observations": len(rows.value),
        "unended": int((~ended).sum()),
        "dropped": dropped,
    }


def _same(n: int, *values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.full(n, value) for value in values)


def _at_admission(rows: Rows, parameter: str) -> np.ndarray:
    """int64: the first row of each record at 00:00 that has this parameter, whether its value is missing or not."""
    at = np.flatnonzero(rows.of(parameter) & (rows.minute == 0))
    return at[np.unique(rows.record[at], return_index=True)[1]]


def _measured(rows: Rows) -> tuple[np.ndarray, dict[str, int]]:
    """bool (rows,): which rows tell a value that can be; and how many others there are, by reason.

    Raises: UserError for a parameter most of whose values cannot be.
    """
    missing, nameless = rows.value == MISSING, rows.of("")
    dropped = {"value is missing (-1)": int((missing & ~nameless).sum()), "no parameter's name": int(nameless.sum())}
    good = np.zeros(len(rows.value), bool)
    for name, limits in MEASURED.items():
        told = rows.of(name) & ~missing
        bad = told & reading.outside(rows.value, limits)
        if (count := int(bad.sum())) >= MANY and count > SHARE * told.sum():
            raise UserError(
                f"{rows.archive}: {count:,} of {told.sum():,} values: {reading.not_in(name, limits)}: are they in "
                "another unit?"
            )
        if count:
            dropped[reading.not_in(name, limits)] = count
        good |= told & ~bad
    return good, dropped


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
