"""Where a sweep is, from its files alone: no JAX, no device, and nothing of the data."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ehr_scaling import artifacts, storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import Cell, Unit, lost, units
from ehr_scaling.grid.executors import claims, slurm
from ehr_scaling.layout import FAILED, Layout

if TYPE_CHECKING:
    from rich.table import Table

STATES = ("running", "queued", "broken off", "waiting", "failed", "finished")
_FACTS = ("step", "steps", "loss", "tokens_per_second", "eta", "seen", "host", "pid", "reason", "damage")
_MOST_ROWS = 40  # of units
_LEAST_ROWS = 3  # of them, however low a terminal is
_TAIL = 16_384  # bytes; a line of metrics.jsonl has a few hundred


def newest(folder: Path, steps: int) -> dict[str, Any] | None:
    """What stands beside the newest checkpoint of a run, or None when there is none.

    Args: steps, of the run: a checkpoint before them that is damaged will be passed over when it goes on, and is here.
    Raises: UserError where it is damaged; one that is missing may be on its way out, and is passed over.
    """
    there = sorted((int(path.name) for path in folder.glob("*") if path.name.isdigit()), reverse=True)
    for step in there:
        path, remedy = folder / str(step) / "metrics" / "metrics", f"delete {folder} to train the cell again"
        try:
            metrics = artifacts.read_json(path, remedy)
        except UserError:
            if path.is_file() and step >= steps:
                raise
            continue
        if not isinstance(metrics, dict):
            if step < steps:
                continue
            raise UserError(f"{path} is damaged: {remedy}")
        return metrics
    return None


def last_line(folder: Path) -> tuple[dict[str, Any], float] | None:
    """The last whole line of a run's metrics.jsonl, and when it was written (Unix time)."""
    path = folder / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read().splitlines()
        written = path.stat().st_mtime
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            if isinstance(metrics := json.loads(line), dict) and "step" in metrics:
                return metrics, written
    return None


def of_unit(workdir: Path, unit: Unit) -> dict[str, Any]:
    """state (of STATES, but for queued), done (cells), step, steps, loss, tokens_per_second, eta (s), seen (Unix time),
    host, pid; reason and damage, why cells of it failed, as the unit has where no other is left; losses, of finished
    cells by ids.

    step, steps, loss and the rate are of the cell that is being trained; what is not known is None.
    """
    facts: dict[str, Any] = dict.fromkeys(_FACTS)
    done, begun = 0, False
    losses = {}
    left: dict[tuple[Any, ...], float] = {}  # tokens, of runs that are trained one after another
    flops = 0.0
    folders = {cell.id: Layout(workdir).run(cell.id) for cell in unit}
    results: dict[str, dict[str, Any] | None] = dict.fromkeys(folders)
    failed: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for cell in unit:
        try:
            results[cell.id] = newest(folders[cell.id], cell.steps)
        except UserError as e:
            damaged[cell.id] = str(e)
    unfinished = [cell for cell in unit if not (results[cell.id] or {}).get("finished")]
    for cell in unfinished:
        with contextlib.suppress(OSError, ValueError, KeyError):
            failed[cell.id] = json.loads((folders[cell.id] / FAILED).read_text(encoding="utf-8"))["reason"]
    left_out = lost(unfinished, failed | damaged)
    facts |= {"reason": "; ".join(failed.values()) or None, "damage": "; ".join(damaged.values()) or None}
    for cell in unit:
        saved, line = results[cell.id], last_line(folders[cell.id])
        if saved is not None and saved.get("finished"):
            done += 1
            losses[cell.id] = saved.get("validation_loss")
            continue
        step = max(saved["step"] if saved else 0, line[0]["step"] if line else 0, cell.start)
        share = (cell.steps - step) / max(cell.steps - cell.start, 1)
        together = (cell.start, cell.steps)  # members of one program go forward side by side
        if cell.id not in left_out:
            left[together] = max(left.get(together, 0.0), cell.own_tokens * share)
            flops += cell.own_flops * share
        if (saved or line) and facts["step"] is None:
            begun = True
            facts |= {"step": step, "steps": cell.steps}
            if line is not None:
                facts |= {name: line[0].get(name) for name in ("loss", "tokens_per_second")} | {"seen": line[1]}
    holder = None if done == len(unit) else claims.holder(workdir, unit)
    state = "finished" if done == len(unit) else "running" if holder else "broken off" if begun or done else "waiting"
    if left_out and len(left_out) == len(unfinished) and state != "running":
        state = "failed"
    if state == "running":
        facts |= {"host": holder["host"], "pid": holder["pid"]} if holder else {}
        if facts["tokens_per_second"]:
            facts["eta"] = sum(left.values()) / facts["tokens_per_second"]
    return {"state": state, "done": done, "losses": losses, "flops_left": flops, **facts}


def of_units(workdir: Path, every: list[Unit]) -> list[dict[str, Any]]:
    """`of_unit` of each. A unit without a folder or a claim waits, which needs no look at files."""
    folder = Layout(workdir).runs
    there = {
        entry.name
        for place in (folder, Layout(workdir).claim("").parent)
        if place.is_dir()
        for entry in place.iterdir()
    }
    look = storage.in_bucket(workdir)  # whose leases lie elsewhere
    statuses = []
    for unit in every:
        if look or not there.isdisjoint((claims.file_of(workdir, unit).name, *(cell.id for cell in unit))):
            statuses.append(of_unit(workdir, unit))
        else:
            left = sum(cell.own_flops for cell in unit)
            nothing = dict.fromkeys(_FACTS)
            statuses.append({"state": "waiting", "done": 0, "losses": {}, "flops_left": left, **nothing})
    return statuses


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}m{rest:02d}" if minutes else f"{rest}s"


class Entry(NamedTuple):
    """The runs of one length (budget, or passes over a share of the patients) and one size."""

    runs: int
    losses: list[float]  # validation losses of those that are finished
    running: bool

    @property
    def mean(self) -> float | None:
        return sum(self.losses) / len(self.losses) if self.losses else None


def by_length_and_size(every: list[Unit], statuses: list[dict[str, Any]]) -> tuple[list[str], dict[str, list[Entry]]]:
    """The losses that are there: sizes, ascending; of each length, the longest budget first, an entry of each size."""
    runs: dict[str, dict[str, Entry]] = {}
    bodies: dict[str, int] = {}
    for unit, row in zip(every, statuses, strict=True):
        for cell in unit:
            if cell.phase != "cooled":
                continue
            bodies[cell.size] = cell.N_body
            entries = runs.setdefault(_length(cell), {})
            entry = entries.get(cell.size, Entry(0, [], False))
            loss = row["losses"].get(cell.id)
            running = entry.running or (row["state"] == "running" and cell.id not in row["losses"])
            entries[cell.size] = Entry(entry.runs + 1, entry.losses + [loss] * (loss is not None), running)
    sizes = sorted(bodies, key=bodies.__getitem__)
    nothing = Entry(0, [], False)
    return sizes, {length: [entries.get(size, nothing) for size in sizes] for length, entries in runs.items()}


def _length(cell: Cell) -> str:
    if cell.budget:
        return f"{cell.budget:.2g} FLOPs" + ("" if cell.fraction == 1 else f", {cell.fraction:g} of the patients")
    passes = cell.tokens / cell.unique_tokens
    return f"{passes:.2g} passes over {'all' if cell.fraction == 1 else f'{cell.fraction:g} of the'} patients"


def text(workdir: Path, *, width: int = 160, height: int | None = None, colour: bool = False) -> tuple[str, bool]:
    """What a person looks at while a sweep runs: losses by length and size, then the units that are not finished,
    running ones first, then how much is left; and whether all are finished.

    Args: width, characters of a line; height, lines of the terminal, if all is to be seen at once: of the units as many
      are told as leave room for the rest, and at least 3; colour, with the signs that a terminal takes for it.
    Raises: UserError where there is no manifest.
    """
    from rich.console import Console

    runs = Layout(workdir).runs
    with storage.listed(runs):
        storage.fetch(runs, "*metrics/metrics")
        storage.fetch(runs, "*metrics.jsonl")
        storage.fetch(runs, f"*/{FAILED}", gone=True)
        every = units(manifest.read(Layout(workdir).grid))
        statuses = of_units(workdir, every)
    if any(row["state"] == "broken off" for row in statuses) and slurm.waits(workdir):
        # Which tasks wait is not told by unit: what was cancelled alone is called so too
        statuses = [row | {"state": "queued"} if row["state"] == "broken off" else row for row in statuses]
    rows = list(zip(every, statuses, strict=True))
    rows.sort(key=lambda row: STATES.index(row[1]["state"]))  # stable: else as in the manifest
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour, highlight=False)
    if any(row["losses"] for row in statuses):
        console.print(_table_of_losses(*by_length_and_size(every, statuses)))
    counts = {state: sum(row["state"] == state for row in statuses) for state in STATES}
    running = [(unit, row) for unit, row in rows if row["state"] == "running" and row["tokens_per_second"]]
    # Each at its own rate, and the units that wait at the rates of these
    speed = sum(row["tokens_per_second"] * unit[0].flops / unit[0].tokens for unit, row in running)
    left = sum(row["flops_left"] for row in statuses if row["state"] != "failed")
    eta = f", about {duration(left / speed)} left" if speed and left else ""
    last = [f"{', '.join(f'{n} {state}' for state, n in counts.items() if n)} of {len(rows)} units{eta}"]
    for kind, name in (("failed", "reason"), ("damaged", "damage")):
        last += [f"{kind}: {row[name]}" for _, row in rows if row[name]]
    if any(row["reason"] for row in statuses):
        last.append("what failed is left out until launch.sweep --retry_failed")
    unfinished = [row for row in rows if row[1]["state"] != "finished"]
    shown = _MOST_ROWS
    if height is not None:  # the head of the table, what is left out, and the line behind all that the cursor is on
        others = console.file.getvalue().count("\n") + sum(-(-len(line) // width) for line in last) + 3  # type: ignore
        shown = max(_LEAST_ROWS, min(shown, height - others))
    if unfinished:
        console.print(_table_of_units(unfinished[:shown]))
    if len(unfinished) > shown:
        console.print(f"and {len(unfinished) - shown:,} units more")
    for line in last:
        console.print(line, markup=False, soft_wrap=True)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines), counts["finished"] + counts["failed"] == len(rows)


def _table(*right: str, left: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(left, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _table_of_losses(sizes: list[str], entries: dict[str, list[Entry]]) -> Table:
    """A length a row: the mean loss of the finished runs, how many of them where some are not, the least in bold."""
    table = _table(*sizes, left="validation loss, nats a token")
    for length, row in entries.items():
        least = min((entry.mean for entry in row if entry.mean is not None), default=None)
        cells = []
        for entry in row:
            words = (
                []
                if entry.mean is None
                else [f"[bold]{entry.mean:.4f}[/]" if entry.mean == least else f"{entry.mean:.4f}"]
            )
            if len(entry.losses) < entry.runs:
                style = "green" if entry.running else "dim"
                words.append(f"[{style}]{len(entry.losses)}/{entry.runs}[/]")
            cells.append(" ".join(words))
        table.add_row(length, *cells)
    return table


def _table_of_units(rows: list[tuple[Unit, dict[str, Any]]]) -> Table:
    table = _table("size", "cells", "state", "step", "loss", "ktok/s", "ETA", "seen", "", left="unit")
    now = time.time()
    for unit, row in rows:
        rate, loss, seen = row["tokens_per_second"], row["loss"], row["seen"]
        table.add_row(
            unit[0].id,
            unit[0].size,
            f"{row['done']}/{len(unit)}",
            row["state"],
            "-" if row["step"] is None else f"{row['step']:,}/{row['steps']:,}",
            "-" if loss is None else f"{loss:.4f}",
            f"{rate / 1e3:.1f}" if rate else "-",
            duration(row["eta"]),
            duration(None if seen is None else max(0.0, now - seen)),
            f"{row['host']} pid {row['pid']}" if row["host"] else "",
            style={"running": "green", "failed": "red", "broken off": "yellow"}.get(row["state"]),
        )
    return table
