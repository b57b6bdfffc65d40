"""Reading runs: a directory of trained cells, or any CSV or JSONL table with N, D, C and loss."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ehr_scaling.analysis.run_table import COLUMNS, REQUIRED, Note, RunTable, from_rows
from ehr_scaling.artifacts import read_json
from ehr_scaling.errors import UserError

# Our names for the trainer's metrics.
METRICS = {
    "cell": "cell",
    "size": "size",
    "phase": "phase",
    "seed": "seed",
    "budget": "budget",
    "N": "N_body",
    "N_head": "N_head",
    "N_embedding": "N_embedding",
    "D": "tokens_seen",
    "real_tokens": "real_tokens",
    "unique_tokens": "unique_tokens",
    "patients": "patients",
    "passes": "passes",
    "C": "flops",
    "C_6nd": "flops_6nd",
    "loss": "validation_loss",
    "loss_se": "validation_loss_se",
    "lr": "learning_rate",
    "batch": "batch_tokens",
    "rate_multiple": "rate_multiple",
    "weight_decay": "weight_decay",
    "dropout": "dropout",
    "optimizer": "optimizer",
    "parametrization": "parametrization",
    "schedule": "schedule",
    "trunk": "trunk",
    "own_flops": "own_flops",
    "fraction": "fraction",
    "edge": "edge",
}


def read(path: Path, columns: dict[str, str] | None = None) -> RunTable:
    """Reads a directory of runs, a .csv or a .jsonl file.

    columns: our name -> the file's name, for tables that call them otherwise.
    Raises: UserError naming the file, and the row and column where it applies.
    """
    if path.is_dir():
        if columns:
            raise UserError("--columns renames the columns of a CSV or JSONL table; a directory of runs needs none")
        return read_directory(path)
    if not path.exists():
        raise UserError(f"--runs={path}: no such file or directory")
    if path.suffix.lower() == ".csv":
        return _from_records(path, _csv_records(path), columns or {})
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _from_records(path, _jsonl_records(path), columns or {})
    raise UserError(f"--runs={path}: expected a directory of runs, a .csv or a .jsonl file")


def parse_columns(text: str) -> dict[str, str]:
    """`N=params,D=tokens` -> {"N": "params", "D": "tokens"}."""
    mapping: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, theirs = (p.strip() for p in part.partition("="))
        if not equals or not theirs:
            raise UserError(f"--columns: {part!r} should read ours=theirs, for example N=params")
        if name not in COLUMNS:
            raise UserError(f"--columns: {name!r} is not a column; choose from {', '.join(COLUMNS)}")
        mapping[name] = theirs
    return mapping


def read_directory(path: Path) -> RunTable:
    """The finished runs under `path`: the newest step of each `<cell>/<step>/metrics/metrics`.

    A cell whose newest step is not finished is listed in `notes`, with its folder's name; it is in no fit.
    Raises: UserError for a damaged metrics file, a missing field, or when nothing is finished.
    """
    rows: list[dict[str, Any]] = []
    where: list[str] = []
    notes: list[Note] = []
    origin: set[tuple[str, bool | None]] = set()
    for cell in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        newest = newest_metrics(cell)
        if newest is None:
            notes.append(Note(cell.name, "unfinished", "no saved step yet"))
            continue
        metrics = read_json(newest)
        if not isinstance(metrics, dict):
            raise UserError(f"{newest} is damaged: delete {cell} and train that cell again")
        if not metrics.get("finished"):
            notes.append(Note(cell.name, "unfinished", f"stopped at step {newest.parents[1].name}"))
            continue
        for name in REQUIRED:
            if METRICS[name] not in metrics:
                raise UserError(f"{newest} lacks {METRICS[name]!r}: train that cell again with this version")
        row = {ours: metrics.get(theirs) for ours, theirs in METRICS.items()}
        row["cell"] = row["run"] = cell.name
        rows.append(row)
        where.append(str(newest))
        origin.add((str(metrics.get("data") or ""), metrics.get("generated")))
    if not rows:
        state = f"{len(notes)} unfinished" if notes else "none at all"
        raise UserError(f"{path} holds no finished run ({state}): train cells with launch.sweep or launch.train first")
    if len(origin) > 1:
        raise UserError(f"{path} mixes runs on {len(origin)} data sets: give each its own directory of runs")
    data, generated = origin.pop()
    return from_rows(rows, source=str(path), where=where, notes=notes, data=data, generated=generated)


def newest_metrics(cell: Path) -> Path | None:
    """`<step>/metrics/metrics` of the highest step that has one; folders of half-written steps are passed over."""
    steps = [p for p in cell.iterdir() if p.is_dir() and p.name.isdecimal()]
    for step in sorted(steps, key=lambda p: int(p.name), reverse=True):
        path = step / "metrics" / "metrics"
        if path.is_file():
            return path
    return None


def _csv_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            for record in reader:
                if None in record:
                    raise UserError(f"{path} row {reader.line_num}: more cells than the header has columns")
                yield f"{path} row {reader.line_num}", {k.strip(): (v or "").strip() for k, v in record.items()}
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a UTF-8 CSV table ({e})") from None


def _jsonl_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as e:
                    raise UserError(f"{path} line {number} is not JSON ({e.msg})") from None
                if not isinstance(record, dict):
                    raise UserError(f"{path} line {number} is not a JSON object with named columns")
                yield f"{path} line {number}", record
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e.reason})") from None


def _from_records(path: Path, records: Iterator[tuple[str, dict[str, Any]]], columns: dict[str, str]) -> RunTable:
    rows, where = [], []
    names = {name: columns.get(name, name) for name in COLUMNS}
    for place, record in records:
        for name in REQUIRED + tuple(n for n in columns if n not in REQUIRED):
            if names[name] not in record:
                raise UserError(
                    f"{place}: no column {names[name]!r} for {name}; the table has {', '.join(map(str, record))} "
                    f"(rename with --columns={name}=...)"
                )
        rows.append({ours: record.get(theirs) for ours, theirs in names.items()})
        where.append(place)
    if not rows:
        raise UserError(f"{path} holds no runs: it needs a header and at least one row")
    return from_rows(rows, source=path.name, where=where)
