"""Losses of two sets of runs in one unit. A token of one vocabulary is not a token of another; an event, a day of a
patient, or a patient is the same whatever it was written in. (A vocabulary that leaves things out of the timelines does
not pay for them: that difference no unit shows.)"""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ehr_scaling.analysis import readers
from ehr_scaling.analysis.run_table import Floats, RunTable
from ehr_scaling.artifacts import RECORD, read_json
from ehr_scaling.errors import UserError

AUTO, TOKEN, PATIENT = "auto", "token", "patient"
UNITS = ("event", "day", PATIENT)  # in the order in which "auto" asks for them
VALIDATION = "validation"  # the split that losses are measured on


def read(
    paths: tuple[Path, Path], unit: str = AUTO, columns: dict[str, str] | None = None
) -> tuple[RunTable, RunTable, str]:
    """Reads two sets of runs, each a directory or a table (`readers.read`), with losses in nats a `unit`.

    Directories: the record of `timelines/` beside them tells tokens a patient of the validation split. Tables: by a
    column loss_per_<unit>, or tokens_per_<unit> that is multiplied with the loss. unit: "auto" takes the first of
    token, event, day and patient that both have; "token" is taken at its word for tables.
    Returns: both tables and the unit.
    Raises: UserError where no unit is common to both, or the one asked for is not.
    """
    names = ("--runs=" + str(path) for path in paths)
    records = [_timelines(path) for path in paths]
    known = [_units(path, record) for path, record in zip(paths, records, strict=True)]
    made = [record for record in records if record is not None]
    same = len(made) == 2 and made[0]["fingerprint"] == made[1]["fingerprint"]
    common = [u for u in UNITS if all(u in own for own in known)]
    if len(made) == 2 and made[0]["inputs"].get("events") != made[1]["inputs"].get("events"):
        common = [u for u in common if u != PATIENT]
    if unit == AUTO:
        if not same and not common:
            raise UserError(
                f"{' and '.join(names)}: losses a token of two vocabularies do not compare, and nothing tells another "
                "unit: give both tables a column loss_per_event or tokens_per_event (or _day, _patient), directories "
                "of runs with timelines/ of the same events beside them, or --unit=token for one vocabulary"
            )
        unit = TOKEN if same else common[0]
    elif unit == TOKEN and len(made) == 2 and not same:
        raise UserError(f"--unit=token: the timelines beside {paths[0]} and {paths[1]} differ; take --unit=patient")
    elif unit != TOKEN and unit not in common:
        raise UserError(
            f"--unit={unit}: not known for both; a table needs a column loss_per_{unit} or tokens_per_{unit}, and "
            f"directories of runs know --unit=patient, with timelines/ of the same events beside them"
        )
    a, b = (_in_unit(path, unit, own, columns or {}) for path, own in zip(paths, known, strict=True))
    return a, b, unit


def _timelines(path: Path) -> dict[str, Any] | None:
    """The record of the timelines beside a directory of runs; None for a table, or runs copied without them."""
    record = path.parent / "timelines" / RECORD
    return read_json(record) if path.is_dir() and record.is_file() else None


def _units(path: Path, record: dict[str, Any] | None) -> dict[str, str | float]:
    """Of each unit that is known the column that holds it, or tokens a unit."""
    if record is not None:
        split = record["summary"].get(VALIDATION, {})
        return {PATIENT: split["tokens"] / split["patients"]} if split.get("patients") else {}
    if path.is_dir() or not path.is_file():
        return {}
    header = _header(path)
    found: dict[str, str | float] = {}
    for unit in UNITS:
        for column in (f"tokens_per_{unit}", f"loss_per_{unit}"):  # a loss that is there needs no product
            if column in header:
                found[unit] = column
    return found


def _header(path: Path) -> list[str]:
    """Names of a table's columns; those of the first record of a .jsonl. What is wrong with it `readers` will say."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq  # here, because only this format needs it

        try:
            return list(pq.read_schema(path).names)
        except (OSError, ValueError):  # pyarrow's errors of a file's contents are ValueErrors
            return []
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as f:
        line = f.readline()
    if path.suffix.lower() != ".csv":
        try:
            return list(json.loads(line))
        except (json.JSONDecodeError, TypeError):
            return []
    return [name.strip() for row in csv.reader([line]) for name in row]


def _in_unit(path: Path, unit: str, known: dict[str, str | float], columns: dict[str, str]) -> RunTable:
    if unit == TOKEN:
        return readers.read(path, columns)
    by = known[unit]
    if isinstance(by, float):
        return _times(readers.read(path), by)
    if by.startswith("loss"):
        return readers.read(path, {**columns, "loss": by})
    # Read in the place of the loss, which must be a positive number as well.
    return _times(readers.read(path, columns), readers.read(path, {**columns, "loss": by}).loss)


def _times(table: RunTable, factor: Floats | float) -> RunTable:
    return replace(table, loss=table.loss * factor, loss_se=table.loss_se * factor)
