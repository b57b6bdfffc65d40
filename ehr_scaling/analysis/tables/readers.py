"""Reading runs: a directory of trained cells, or any CSV, JSONL or Parquet table with N, D, C and loss."""

import csv
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ehr_scaling.analysis.tables.run_table import COLUMNS, REQUIRED, Note, RunTable, from_columns, from_rows
from ehr_scaling.artifacts import read_json
from ehr_scaling.errors import UserError, first_line

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

# In place of a column's name: the one of N, D and C that is left out follows from the other two.
SIX_ND = {"C": "6ND", "D": "C/6N", "N": "C/6D"}


def read(path: Path, columns: dict[str, str] | None = None, *, drop_bad_rows: bool = False) -> RunTable:
    """Reads a directory of runs, or a .csv, .jsonl or .parquet file.

    columns: our name -> the file's name, for tables that call them otherwise; one of N, D and C may be said to follow
    from the other two (`SIX_ND`). drop_bad_rows: leave out rows that cannot be used, with a note, instead of refusing.
    Raises: UserError naming the file, and the row and column where it applies.
    """
    if path.is_dir():
        if columns:
            raise UserError("--columns renames the columns of a table in a file; a directory of runs needs none")
        return read_directory(path, drop_bad_rows=drop_bad_rows)
    if not path.exists():
        raise UserError(f"--runs={path}: no such file or directory")
    if (reader := READERS.get(path.suffix.lower())) is None:
        raise UserError(f"--runs={path}: expected a directory of runs, a .csv, a .jsonl or a .parquet file")
    columns = columns or {}
    derived = [name for name, rule in SIX_ND.items() if columns.get(name) == rule]
    if len(derived) > 1:
        raise UserError(f"--columns: {' and '.join(derived)} cannot both follow from C = 6ND")
    names = {name: columns.get(name, name) for name in COLUMNS if name not in derived}
    needed = {name for name in (*REQUIRED, *columns) if name not in derived}
    found, place = reader(path, names, needed)
    if not len(found["loss"]):
        raise UserError(f"{path} holds no runs: it needs a header and at least one row")
    six_nd = derived[0] if derived else ""
    return from_columns(found, source=path.name, where=place, six_nd=six_nd, drop_bad_rows=drop_bad_rows)


def parse_columns(text: str) -> dict[str, str]:
    """`N=params,D=tokens` -> {"N": "params", "D": "tokens"}. `C=6ND`, `D=C/6N` and `N=C/6D` stand for that product."""
    mapping: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, theirs = (p.strip() for p in part.partition("="))
        if not equals or not theirs:
            raise UserError(f"--columns: {part!r} should read ours=theirs, for example N=params")
        if name not in COLUMNS:
            raise UserError(f"--columns: {name!r} is not a column; choose from {', '.join(COLUMNS)}")
        mapping[name] = theirs
    return mapping


def read_directory(path: Path, *, drop_bad_rows: bool = False, without: Collection[str] = ()) -> RunTable:
    """The finished runs under `path`: the newest step of each `<cell>/<step>/metrics/metrics`.

    without: cells whose files are not opened.
    A cell whose newest step is not finished is listed in `notes`, with its folder's name; it is in no fit.
    Raises: UserError for a damaged metrics file, a missing field, or when nothing is finished.
    """
    rows: list[dict[str, Any]] = []
    where: list[str] = []
    notes: list[Note] = []
    origin: set[tuple[str, bool | None]] = set()
    for cell in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if cell.name in without:
            continue
        newest = newest_metrics(cell)
        if newest is None:
            notes.append(Note(cell.name, "unfinished", "no saved step yet"))
            continue
        metrics = read_json(newest, f"delete {cell} and train that cell again")
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
    return from_rows(
        rows,
        source=path.resolve().name,  # a path on somebody's machine is nobody else's business
        where=where,
        notes=notes,
        data=data,
        generated=generated,
        drop_bad_rows=drop_bad_rows,
    )


def newest_metrics(cell: Path) -> Path | None:
    """`<step>/metrics/metrics` of the highest step that has one; folders of half-written steps are passed over."""
    steps = [p for p in cell.iterdir() if p.is_dir() and p.name.isdecimal()]
    for step in sorted(steps, key=lambda p: int(p.name), reverse=True):
        path = step / "metrics" / "metrics"
        if path.is_file():
            return path
        if (step / "files.json").is_file():  # the checksums of a checkpoint that was whole
            raise UserError(f"{path} is missing: delete {cell} and train that cell again")
    return None


Columns = tuple[dict[str, Sequence[Any]], Callable[[int], str]]


def _csv(path: Path, names: dict[str, str], needed: set[str]) -> Columns:
    """Columns by our names, of those in the file, and how to name row i.

    needed: our names of columns without which there is a UserError.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.reader(f)
            header = [name.strip() for name in next(reader, [])]
            if not header:
                return {"loss": []}, str
            kept = {name: header.index(names[name]) for name in _present(f"{path} row 2", header, names, needed)}
            if twice := [names[name] for name in kept if header.count(names[name]) > 1]:
                raise UserError(f"{path}: the header has {twice[0]!r} twice; rename one of them")
            values: dict[str, list[str]] = {name: [] for name in kept}
            lines, appends = [], [(values[name].append, k) for name, k in kept.items()]
            width = len(header)
            for record in reader:
                if len(record) != width:
                    if not record:
                        continue
                    if len(record) > width:
                        raise UserError(f"{path} row {reader.line_num}: more cells than the header has columns")
                    record += [""] * (width - len(record))
                for append, k in appends:
                    append(record[k].strip())
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a UTF-8 CSV table ({e})") from None
    return dict(values), lambda i: f"{path} row {lines[i]}"


def _jsonl(path: Path, names: dict[str, str], needed: set[str]) -> Columns:
    values: dict[str, list[Any]] = {name: [] for name in needed}
    keys: set[str] = set()  # of all records so far: a line need not have those of the first
    lines: list[int] = []
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
                if any(names[name] not in record for name in needed):
                    _present(f"{path} line {number}", list(record), names, needed)
                if not record.keys() <= keys:
                    keys |= record.keys()
                    for name in names:
                        if names[name] in keys:
                            values.setdefault(name, [None] * len(lines))
                for name, own in values.items():
                    own.append(record.get(names[name]))
                lines.append(number)
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e.reason})") from None
    return dict(values), lambda i: f"{path} line {lines[i]}"


def _parquet(path: Path, names: dict[str, str], needed: set[str]) -> Columns:
    import pyarrow as pa  # here, because only this format needs it
    import pyarrow.parquet as pq

    try:
        kept = _present(path, pq.read_schema(path).names, names, needed)
        table = pq.read_table(path, columns=list({names[name] for name in kept}))
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{path} is not a Parquet table ({first_line(e)})") from None
    found: dict[str, Any] = {}
    for name in kept:
        column = table[names[name]]
        plain = not column.null_count and (pa.types.is_floating(column.type) or pa.types.is_integer(column.type))
        found[name] = column.to_numpy() if plain else column.to_pylist()
    return found, lambda i: f"{path} row {i + 1}"


def _present(where: Path | str, there: list[str], names: dict[str, str], needed: set[str]) -> list[str]:
    """Our names of the columns that are `there`. Raises UserError where one of `needed` is not."""
    for name in filter(needed.__contains__, names):
        if names[name] not in there:
            rule = f"; if C = 6ND, --columns={name}={SIX_ND[name]}" if name in SIX_ND else ""
            raise UserError(
                f"{where}: no column {names[name]!r} for {name}; the table has {', '.join(map(str, there))} "
                f"(rename with --columns={name}=...{rule})"
            )
    return [name for name, theirs in names.items() if theirs in there]


READERS = {".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
