"""Reading runs: a directory of trained cells, or any table with N, D, C and loss."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ehr_scaling.analysis.tables import files
from ehr_scaling.analysis.tables.columns import SIX_ND, checked, groups, named, parse_where
from ehr_scaling.analysis.tables.columns import where as chosen
from ehr_scaling.analysis.tables.files import Columns
from ehr_scaling.analysis.tables.run_table import REQUIRED, Note, RunTable, from_columns, from_rows
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
    "mixing": "mixing",
    "schedule": "schedule",
    "trunk": "trunk",
    "own_flops": "own_flops",
    "fraction": "fraction",
    "edge": "edge",
}


def read(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    drop_bad_rows: bool = False,
    where: Iterable[str] = (),
    per: str = "",
) -> RunTable:
    """Reads a directory of runs, or a file of them (`files.READERS`).

    columns: our name -> the file's name, for tables that call them otherwise than `columns.USUAL`; one of N, D and C
    may be said to follow from the other two (`columns.SIX_ND`). drop_bad_rows: leave out rows that cannot be used, with
    a note, instead of refusing. where: conditions that rows must meet, see `columns.parse_where`. per: a column of the
    file, tokens a unit, by which losses a token are multiplied.
    Raises: UserError naming the file, and the row and column where it applies.
    """
    if path.is_dir():
        _of_a_file(path, columns=columns, where=where)
        return read_directory(path, drop_bad_rows=drop_bad_rows)
    return of_columns(_read(path), path.name, columns, drop_bad_rows=drop_bad_rows, where=where, per=per)


def read_groups(
    path: Path,
    by: str,
    columns: Mapping[str, str] | None = None,
    *,
    drop_bad_rows: bool = False,
    where: Iterable[str] = (),
) -> dict[str, RunTable]:
    """As `read`, a table for each value of the column `by` of a file: several corpora in one table are not one law."""
    if path.is_dir():
        _of_a_file(path, columns=columns, where=where, group_by=by)
    table, given = _read(path), checked(columns or {})
    names = named(table, given)
    table = chosen(table, parse_where(where), names, str(path))
    return {
        value: of_columns(rows, f"{path.name}, {by} {value}".rstrip(), given, drop_bad_rows=drop_bad_rows)
        for value, rows in groups(table, by, names).items()
    }


def of_columns(
    table: Columns,
    source: str,
    columns: Mapping[str, str] | None = None,
    *,
    drop_bad_rows: bool = False,
    where: Iterable[str] = (),
    per: str = "",
) -> RunTable:
    """As `read`, of columns. source: what the report calls them."""
    given = checked(columns or {})
    if not table.n:
        raise UserError(f"{source} holds no runs: it needs a header and at least one row")
    names = named(table, given)
    table = chosen(table, parse_where(where), names, source)
    six_nd = next((name for name, rule in SIX_ND.items() if given.get(name) == rule), "")
    values = {ours: table.values(theirs) for ours, theirs in names.items()}
    tokens = (per, table.values(per)) if per else None
    return from_columns(
        values, source=source, where=table.place, six_nd=six_nd, per=tokens, drop_bad_rows=drop_bad_rows
    )


def parse_columns(text: str) -> dict[str, str]:
    """`N=params,D=tokens` -> {"N": "params", "D": "tokens"}. `C=6ND`, `D=C/6N` and `N=C/6D` stand for that product."""
    mapping: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, theirs = (p.strip() for p in part.partition("="))
        if not equals or not theirs:
            raise UserError(f"--columns: {part!r} should read ours=theirs, for example N=params")
        mapping[name] = theirs
    return checked(mapping)


def check_there(path: Path) -> None:
    """Raises: UserError when there is no such file or directory."""
    if not path.exists():
        raise UserError(f"--runs={path}: no such file or directory")


def _read(path: Path) -> Columns:
    check_there(path)
    return files.read(path)


def _of_a_file(path: Path, **flags: object) -> None:
    if wrong := [f"--{name}" for name, value in flags.items() if value]:
        raise UserError(
            f"{' and '.join(wrong)}: for a table in a file, which {path}, a directory of runs, is not: leave that out"
        )


def read_directory(path: Path, *, drop_bad_rows: bool = False, without: Collection[str] = ()) -> RunTable:
    """The finished runs under `path`: the newest step of each `<cell>/<step>/metrics/metrics`.

    without: cells whose files are not opened.
    A cell that diverged, whose newest step is not finished, or whose metrics file is damaged, is listed in `notes`,
    with its folder's name; it is in no fit.
    Raises: UserError for a missing field, or when nothing is finished.
    """
    rows: list[dict[str, Any]] = []
    where: list[str] = []
    notes: list[Note] = []
    origin: set[tuple[str, bool | None]] = set()
    for cell in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if cell.name in without:
            continue
        try:
            newest = newest_metrics(cell)
            metrics = {} if newest is None else read_json(newest, f"delete {cell} and train that cell again")
            if not isinstance(metrics, dict):
                raise UserError(f"{newest} is damaged: delete {cell} and train that cell again")
        except UserError as e:
            # A path on somebody's machine is nobody else's business
            notes.append(Note(cell.name, "damaged", str(e).replace(str(path), path.resolve().name)))
            continue
        if newest is None or not metrics.get("finished"):
            if (kept := cell / "failed.json").is_file():
                reason = read_json(kept, f"delete {kept} and train that cell again").get("reason", "no reason was kept")
                notes.append(Note(cell.name, "diverged", str(reason)))
            else:
                state = f"stopped at step {newest.parents[1].name}" if newest else "no saved step yet"
                notes.append(Note(cell.name, "unfinished", state))
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
        damaged = [note.text for note in notes if note.code == "damaged"]
        unfinished = [f"{len(notes) - len(damaged)} unfinished"] if len(notes) > len(damaged) else []
        state = "; ".join([*unfinished, *damaged]) or "none at all"
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
