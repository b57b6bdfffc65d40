"""Where a sweep is, from its files alone: no JAX, no device, and nothing of the data."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from ehr_scaling import storage
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import Unit, units
from ehr_scaling.grid.executors import claims
from ehr_scaling.layout import FAILED, Layout

STATES = ("running", "broken off", "waiting", "failed", "finished")
_FACTS = ("step", "steps", "loss", "tokens_per_second", "eta", "seen", "host", "pid", "reason")
_TAIL = 16_384  # bytes; a line of metrics.jsonl has a few hundred


def newest(folder: Path) -> dict[str, Any] | None:
    """What stands beside the newest checkpoint of a run, or None when there is none that can be read."""
    steps = sorted((int(path.name) for path in folder.glob("*") if path.name.isdigit()), reverse=True)
    for step in steps:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return dict(json.loads((folder / str(step) / "metrics" / "metrics").read_text(encoding="utf-8")))
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
    """state (of STATES), done (cells), step, steps, loss, tokens_per_second, eta (s), seen (Unix time), host, pid; of a
    unit that failed, the reason.

    step, steps, loss and the rate are of the cell that is being trained; what is not known is None.
    """
    facts: dict[str, Any] = dict.fromkeys(_FACTS)
    done, begun = 0, False
    left: dict[tuple[Any, ...], float] = {}  # tokens, of runs that are trained one after another
    flops = 0.0
    for cell in unit:
        folder = Layout(workdir).run(cell.id)
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts["reason"] = json.loads((folder / FAILED).read_text(encoding="utf-8"))["reason"]
        saved, line = newest(folder), last_line(folder)
        if saved is not None and saved.get("finished"):
            done += 1
            continue
        step = max(saved["step"] if saved else 0, line[0]["step"] if line else 0, cell.start)
        share = (cell.steps - step) / max(cell.steps - cell.start, 1)
        together = (cell.start, cell.steps)  # members of one program go forward side by side
        left[together] = max(left.get(together, 0.0), cell.own_tokens * share)
        flops += cell.own_flops * share
        if (saved or line) and facts["step"] is None:
            begun = True
            facts |= {"step": step, "steps": cell.steps}
            if line is not None:
                facts |= {name: line[0].get(name) for name in ("loss", "tokens_per_second")} | {"seen": line[1]}
    holder = claims.holder(workdir, unit)
    state = "finished" if done == len(unit) else "running" if holder else "broken off" if begun or done else "waiting"
    if facts["reason"] and state not in ("finished", "running"):
        state = "failed"
    if state == "running":
        facts |= {"host": holder["host"], "pid": holder["pid"]} if holder else {}
        if facts["tokens_per_second"]:
            facts["eta"] = sum(left.values()) / facts["tokens_per_second"]
    return {"state": state, "done": done, "flops_left": flops, **facts}


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
            statuses.append({"state": "waiting", "done": 0, "flops_left": left, **dict.fromkeys(_FACTS)})
    return statuses


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}m{rest:02d}" if minutes else f"{rest}s"


def text(workdir: Path) -> tuple[str, bool]:
    """The table of all units, running ones first, and whether all are finished.

    Raises: UserError where there is no manifest.
    """
    storage.fetch(Layout(workdir).runs, "*metrics/metrics")
    storage.fetch(Layout(workdir).runs, "*metrics.jsonl")
    storage.fetch(Layout(workdir).runs, f"*/{FAILED}")
    every = units(manifest.read(Layout(workdir).grid))
    rows = list(zip(every, of_units(workdir, every), strict=True))
    rows.sort(key=lambda row: STATES.index(row[1]["state"]))  # stable: else as in the manifest
    now = time.time()
    head = f"{'unit':16} {'size':>6} {'cells':>5} {'state':>10} {'step':>17} {'loss':>7} {'ktok/s':>7}"
    lines = [f"{head} {'ETA':>6} {'seen':>6}"]
    for unit, row in rows:
        rate, loss, seen = row["tokens_per_second"], row["loss"], row["seen"]
        step = "-" if row["step"] is None else f"{row['step']:,}/{row['steps']:,}"
        lines.append(
            f"{unit[0].id:16} {unit[0].size:>6} {row['done']:>2}/{len(unit):<2} {row['state']:>10} {step:>17} "
            f"{'-' if loss is None else f'{loss:.4f}':>7} {f'{rate / 1e3:.1f}' if rate else '-':>7} "
            f"{duration(row['eta']):>6} {duration(None if seen is None else max(0.0, now - seen)):>6}"
            + (f"  {row['host']} pid {row['pid']}" if row["host"] else "")
        )
    counts = {state: sum(row["state"] == state for _, row in rows) for state in STATES}
    running = [(unit, row) for unit, row in rows if row["state"] == "running" and row["tokens_per_second"]]
    # Each at its own rate, and the units that wait at the rates of these
    speed = sum(row["tokens_per_second"] * unit[0].flops / unit[0].tokens for unit, row in running)
    left = sum(row["flops_left"] for _, row in rows if row["state"] != "failed")
    eta = f", about {duration(left / speed)} left" if speed and left else ""
    lines.append(f"{', '.join(f'{n} {state}' for state, n in counts.items() if n)} of {len(rows)} units{eta}")
    lines += [f"failed: {row['reason']}" for _, row in rows if row["state"] == "failed"]
    if counts["failed"]:
        lines.append("what failed is left out until launch.sweep --retry_failed")
    return "\n".join(lines), counts["finished"] + counts["failed"] == len(rows)
