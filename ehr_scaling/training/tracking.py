"""What a run tells while it trains: metrics.jsonl always, TensorBoard, Weights & Biases and a profile where asked."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ehr_scaling.artifacts import write_text
from ehr_scaling.errors import UserError, first_line, needs

FILE = "metrics.jsonl"
CLOCK = ("time", "tokens_per_second", "mfu")  # what differs from an undisturbed run after a restart
TRACED = 2  # chunks of a profile, after the first one, which compiles

Row = dict[str, Any]


def open_run(folder: Path, cell: Mapping[str, Any], setting: Mapping[str, Any], step: int = 0) -> "Tracker":
    """Begin or go on with the records of one run; on every process, though only process 0 writes.

    Args:
      folder: of the run, `runs/<cell>`.
      setting: `config.tracking` as a dict.
      step: where training goes on, of the checkpoint that was restored. What a broken-off run wrote beyond it is cut
        off, so that the file is that of an undisturbed run but for `CLOCK`.
    Raises: UserError when a package is missing, or when Weights & Biases cannot be reached.
    """
    if jax.process_index() != 0:
        return Tracker(None, step, None, [])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    rows = [row for row in read(folder) if row["step"] <= step]
    text = "".join(map(_line, rows))
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)
    sinks: list[Any] = []
    if setting["tensorboard"]:
        sinks.append(_TensorBoard(folder, rows))
    if setting["wandb"]:
        sinks.append(_WandB(folder, cell, setting["wandb"]))
    last = rows[-1] if rows else None
    return Tracker(path, last["step"] if last else step, last, sinks)


def read(folder: Path) -> list[Row]:
    """The lines of a run's metrics.jsonl, none when it has not begun; one that a kill cut short is passed over."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


class Tracker:
    """Where a run's rows go. Nothing of a patient is among them: counts, rates and mean losses only."""

    def __init__(self, path: Path | None, step: int, last: Row | None, sinks: list[Any]):
        """Args: step, beyond which rows are; last, the row that the file ends with."""
        self._file = path.open("rb+") if path else None
        self._step, self._last, self._sinks = step, last, sinks

    def log(self, row: Mapping[str, Any]) -> None:
        """Write one row; its `step` is beyond that of the row before, so the file holds each step once.

        Log a step before its checkpoint is saved, else a kill in between leaves a hole. What is not finite is null.
        """
        if row["step"] <= self._step:
            raise ValueError(f"step {row['step']} is logged after step {self._step}")
        self._step = row["step"]
        if self._file is None:
            return
        self._last = _plain(row)
        self._file.seek(0, os.SEEK_END)
        self._write(self._last, self._last)

    def add(self, step: int, more: Mapping[str, Any]) -> None:
        """Add to the row of `step`, which is the last one; this process, or the one before it, has written it.

        Where that is lost, with the file, so is this.
        """
        if self._file is None or self._last is None or self._last["step"] != step:
            return
        self._file.seek(-len(_line(self._last)), os.SEEK_END)
        self._last = {**self._last, **_plain(more)}
        self._write(self._last, {"step": step, **_plain(more)})

    def _write(self, row: Row, told: Row) -> None:
        """From here to the end of the file a row, of which the sinks are told this."""
        assert self._file is not None
        self._file.write(_line(row).encode())
        self._file.truncate()
        self._file.flush()  # to the kernel, which a killed process does not take along
        for sink in self._sinks:
            sink.log(told)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(row: Mapping[str, Any]) -> Row:
    return {name: value if _finite(value) else None for name, value in row.items()}


def _finite(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


class _TensorBoard:
    """Event files, written anew from the rows kept: what a killed writer had not flushed is there again."""

    def __init__(self, folder: Path, rows: list[Row]):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise needs("--config.tracking.tensorboard needs tensorboardX", "tensorboard") from None
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        for row in rows:
            self.log(row)

    def log(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """One run of Weights & Biases for each cell, found again by the cell's id; rows it has already it ignores.

    Under train/, since the last of what is logged stands in a run's summary, where `publish.export_runs` writes what
    came of it: no training loss, nor a look at a few validation patients, is to be taken for the loss in a run table.
    """

    def __init__(self, folder: Path, cell: Mapping[str, Any], project: str):
        self._run = wandb_run(folder, cell, project, "--config.tracking.wandb")

    def log(self, row: Row) -> None:
        self._run.log({f"train/{k}": v for k, v in row.items() if k != "step" and v is not None}, step=row["step"])

    def close(self) -> None:
        self._run.finish()


def wandb_run(folder: Path, cell: Mapping[str, Any], project: str, flag: str) -> Any:
    """The run of Weights & Biases of a cell: its open `wandb.Run`, the same for the same id and project.

    Who logs in is the environment's business (`wandb login`, WANDB_API_KEY). Not sent: the command line and paths,
    which may name a hospital's folders, the output of the terminal, the code.

    Args: folder, for wandb's own files; cell, id, size, tokens, seed and more: its plain fields are the run's config;
      flag, that asked for it: for messages.
    Raises: UserError without wandb, or where it refuses.
    """
    try:
        import wandb
    except ImportError:
        raise needs(f"{flag} needs wandb", "wandb") from None
    try:
        return wandb.init(
            project=project,
            id=cell["id"],
            name=f"{cell['size']} {cell['tokens']:.3g} tokens, seed {cell['seed']}",
            dir=str(folder),
            config={k: v for k, v in cell.items() if isinstance(v, str | int | float | bool)},
            resume="allow",
            reinit="create_new",  # cells that are trained together are open together
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, x_disable_meta=True),
        )
    except wandb.errors.Error as e:
        raise UserError(f"{flag}={project} ({first_line(e)}): run `wandb login`, or set WANDB_MODE=offline") from None


class Profile:
    """A trace of two chunks of a run in `folder`/profile, for TensorBoard, XProf or Perfetto.

    The first chunk compiles and is left out. The host waits for the device before and after the trace, and only then.
    A run that goes on after a restart is not traced twice.
    """

    def __init__(self, folder: Path, *, active: bool):
        self._folder = folder / "profile"
        self._active = active and jax.process_index() == 0 and not self._folder.exists()
        self._chunks = 0

    def after(self, outputs: Any) -> None:
        """Call after each chunk is dispatched, with arrays that it will give."""
        self._chunks += 1
        if not self._active or self._chunks not in (1, 1 + TRACED):
            return
        jax.block_until_ready(outputs)
        if self._chunks == 1:
            jax.profiler.start_trace(self._folder)
        else:
            self.close()

    def close(self) -> None:
        """End the trace if it still runs. Without a second chunk it holds no step, which is said."""
        if self._active and self._chunks:
            jax.profiler.stop_trace()
            if self._chunks == 1:
                print(
                    f"{self._folder}: the run was one chunk long, so its trace holds no step: lower "
                    "--config.training.dispatch_sequences",
                    flush=True,
                )
        self._active = False
