"""Losses of two sets of runs in one unit. A token of one vocabulary is not a token of another; an event, a day of a
patient, or a patient is the same whatever it was written in. (A vocabulary that leaves things out of the timelines does
not pay for them: that difference no unit shows. Where two make tokens of a different number of events, it is told.)"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling.analysis.tables import files, readers
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import percent
from ehr_scaling.artifacts import RECORD, read_json
from ehr_scaling.errors import UserError

AUTO, TOKEN, PATIENT = "auto", "token", "patient"
UNITS = ("event", "day", PATIENT)  # in the order in which "auto" asks for them
COUNTS = {"event": "events", "day": "patient_days", PATIENT: "patients"}  # of each unit, in the record of a split
VALIDATION = "validation"  # the split that losses are measured on
SAME_EVENTS = 0.01  # share by which two numbers of events may differ before it is told


class Measured(NamedTuple):
    """What the losses of a directory of runs were measured on. timelines, events: fingerprints, of the vocabulary's
    output and of its input. counts: of the validation split, tokens and what of COUNTS is known."""

    timelines: str
    events: str | None
    counts: dict[str, float]

    @property
    def tokens_per(self) -> dict[str, float]:
        """{unit: tokens}, of the units that are known."""
        counts = {unit: self.counts.get(name) for unit, name in COUNTS.items()}
        return {unit: self.counts["tokens"] / count for unit, count in counts.items() if count}


@dataclass(frozen=True)
class Common:
    """Two tables, A and B, with losses in nats a `unit`.

    tokens_per: {unit: (tokens of A, tokens of B)} in all units of which both are known; empty for tables and for
    losses a token. notes: lines that a reader has to know, such as why a unit is not there.
    """

    a: RunTable
    b: RunTable
    unit: str
    tokens_per: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(
    paths: tuple[Path, Path],
    unit: str = AUTO,
    columns: dict[str, str] | None = None,
    *,
    where: Sequence[str] = (),
    drop_bad_rows: bool = False,
) -> Common:
    """Reads two sets of runs, each a directory or a table (`readers.read`), with losses in nats a `unit`.

    Directories: what their runs record of the validation split, else the record of `timelines/` beside them, tells
    tokens an event, a patient-day and a patient. Tables: by a column loss_per_<unit>, or tokens_per_<unit> that is
    multiplied with the loss. unit: "auto" takes the first of token, event, day and patient that both have; "token" is
    taken at its word for tables. columns: as `readers.read` takes them, of the tables. where, drop_bad_rows: the same,
    of both.
    Raises: UserError where no unit is common to both, or the one asked for is not.
    """
    for path in paths:
        readers.check_there(path)
    names = [f"--runs={path}" for path in paths]
    measured = [_measured(path) for path in paths]
    known = [_units(path, each) for path, each in zip(paths, measured, strict=True)]
    recorded = [each for each in measured if each is not None]
    same = len(recorded) == 2 and recorded[0].timelines == recorded[1].timelines
    common = [u for u in UNITS if all(u in units for units in known)]
    others = len(recorded) == 2 and (recorded[0].events is None or recorded[0].events != recorded[1].events)
    if others:
        common = []  # of other patients, whose days and events are no more the same than they are
    missing = [] if others else _missing(names, measured)
    if unit == AUTO:
        if not same and not common:
            raise UserError(
                f"{' and '.join(names)}: losses a token of two vocabularies do not compare, and nothing tells another "
                "unit: give both tables a column loss_per_event or tokens_per_event (or _day, _patient), directories "
                "of runs with timelines/ of the same events beside them, or --unit=token for one vocabulary"
            )
        unit = TOKEN if same else common[0]
    elif unit == TOKEN and len(recorded) == 2 and not same:
        raise UserError(
            f"--unit=token: the timelines of {paths[0]} and {paths[1]} differ; take --unit=event or patient"
        )
    elif unit != TOKEN and unit not in common:
        why = f"; {missing[0]}" if missing else ""
        raise UserError(
            f"--unit={unit}: not known for both; a table needs a column loss_per_{unit} or tokens_per_{unit}, and "
            f"directories of runs must be on timelines of the same events, with their counts{why}"
        )
    rows = {"where": where, "drop_bad_rows": drop_bad_rows}
    names_of = [{} if path.is_dir() and not all(map(Path.is_dir, paths)) else columns or {} for path in paths]
    a, b = (_in_unit(*of, unit, rows) for of in zip(paths, known, names_of, strict=True))
    if len(recorded) < 2 or unit == TOKEN:
        return Common(a, b, unit)
    per = {u: (recorded[0].tokens_per[u], recorded[1].tokens_per[u]) for u in common}
    return Common(a, b, unit, per, (*missing, *_other_events(recorded)))


def _measured(path: Path) -> Measured | None:
    """What the runs of a directory were measured on; None for a table, and for runs that nothing says it of.

    Raises: UserError where its runs were measured on different timelines.
    """
    if not path.is_dir():
        return None
    by_timelines: dict[str, Measured] = {}
    for cell in (p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            metrics = readers.newest_metrics(cell)
            record = read_json(metrics) if metrics else None
        except UserError:  # damaged: whoever reads the losses tells
            continue
        measured_on = record.get("measured_on") if isinstance(record, dict) else None
        if isinstance(measured_on, dict):
            of_timelines = str(measured_on.get("timelines_fingerprint"))
            by_timelines[of_timelines] = Measured(
                of_timelines, measured_on.get("events_fingerprint"), _counts(measured_on)
            )
    if len(by_timelines) > 1:
        raise UserError(
            f"--runs={path}: its runs are on {len(by_timelines)} different timelines: give each its own directory"
        )
    if by_timelines:
        return next(iter(by_timelines.values()))
    # Runs of an earlier version say nothing of it themselves.
    beside = path.parent / "timelines" / RECORD
    if not beside.is_file():
        return None
    record = read_json(beside)
    split = record["summary"].get(VALIDATION, {})
    return Measured(record["fingerprint"], record["inputs"].get("events"), _counts(split))


def _counts(record: dict[str, Any]) -> dict[str, float]:
    return {name: float(record[name]) for name in ("tokens", *COUNTS.values()) if record.get(name)}


def _missing(names: list[str], measured: list[Measured | None]) -> list[str]:
    """Why directories of runs tell no events or days."""
    notes = []
    for name, each in zip(names, measured, strict=True):
        lacks = [unit for unit, count in COUNTS.items() if each and count not in each.counts]
        if lacks:
            notes.append(
                f"{name}: no loss per {' or '.join(lacks)}, because its timelines were made by a version that did not "
                "count these; prepare the data anew (launch.study with another --workdir) and train there for them"
            )
    return notes


def _other_events(recorded: list[Measured]) -> list[str]:
    a, b = (each.counts.get("events", 0.0) for each in recorded)
    if not a or not b or abs(a / b - 1) <= SAME_EVENTS:
        return []
    return [
        f"A makes tokens of {a:,.0f} events of the validation split and B of {b:,.0f}, {percent(abs(a / b - 1), 1)} "
        "apart: neither pays for those that it leaves out"
    ]


def _units(path: Path, measured: Measured | None) -> dict[str, str | float]:
    """Of each unit that is known the column that holds it, or tokens a unit."""
    if measured is not None:
        return dict(measured.tokens_per) if measured.counts.get("tokens") else {}
    if path.is_dir() or not path.is_file():
        return {}
    header = files.read(path).names
    columns: dict[str, str | float] = {}
    for unit in UNITS:
        for column in (f"tokens_per_{unit}", f"loss_per_{unit}"):  # a loss that is there needs no product
            if column in header:
                columns[unit] = column
    return columns


def _in_unit(
    path: Path, known: dict[str, str | float], columns: dict[str, str], unit: str, rows: dict[str, Any]
) -> RunTable:
    by = "" if unit == TOKEN else known[unit]
    if isinstance(by, float):
        table = readers.read(path, columns, **rows)
        return replace(table, loss=table.loss * by, loss_se=table.loss_se * by)
    if by.startswith("loss"):
        return readers.read(path, {**columns, "loss": by}, **rows)
    return readers.read(path, columns, per=by, **rows)
