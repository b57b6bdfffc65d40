"""Orbax checkpoints of runs: the newest is where a run goes on, a finished run's last one is its result.

A member's checkpoint is its own (no member axis), so that whoever reads a run need not know with whom it was trained.
"""

import contextlib
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from ehr_scaling import artifacts, storage
from ehr_scaling.errors import NO_SPACE, RunFailed, UserError, first_line, of_system, unreadable
from ehr_scaling.grid.cell import BEFORE, Cell
from ehr_scaling.processes import agreement

# Two, since the members of an ensemble are saved one after another: a kill in between leaves them one save apart.
_KEPT = 2
FILES = storage.CHECKPOINT  # in a checkpoint: size and SHA-256 of each of its files


class _Manager(ocp.CheckpointManager):
    """Orbax's, which reads the metrics of all steps when it is opened, and cannot be where those of one are damaged."""

    def metrics(self, step: int) -> None:
        return None


class Saver:
    """The checkpoints of one run, in `folder`.

    Metrics are an item of their own: `CheckpointManager.save(metrics=…)` writes nothing unless `best_fn` is set. The
    position in the data is the step, so that it needs no item.

    Processes that train as one write a checkpoint together where they share the folder. In a bucket each has a mirror:
    process 0 writes all of the state, which goes there leaf by leaf, and each restores its own part from its mirror.
    """

    def __init__(self, folder: Path, marks: Iterable[int] = ()) -> None:
        """Args: marks, steps whose checkpoints are kept for ever: of a trunk, where its branches begin."""
        self._marks = set(marks)
        policies = ocp.checkpoint_managers
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            create=False,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(_KEPT), policies.CustomSteps(sorted(self._marks))]
            ),
            # Saving in the background pays where a state is large; a small one is written in the time that takes.
            enable_async_checkpointing=jax.default_backend() != "cpu",
        )
        self.folder = folder
        self._apart = _apart(folder)
        if self._apart:  # to Orbax each process is alone
            here = jax.process_index()
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(
                primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
            )
        self._unsealed: list[int] = []  # steps whose files may still be being written
        self._saved = False
        self._manager = _Manager(folder.absolute(), options=options, item_names=("state", "metrics"))

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, metrics: dict[str, Any]) -> None:
        """Save state and metrics (JSON) as one checkpoint; whole or not at all. All processes call this alike.

        Raises: UserError when the disk has no room for it. Asked beforehand, because a write that fails inside Orbax
          prints a page of traces from its threads.
        """
        if self._apart:
            state = jax.tree.map(_gathered, state)
            if jax.process_index() != 0:
                return
        need = 2 * sum(x.nbytes for x in jax.tree.leaves(state)) + (1 << 18)
        if shutil.disk_usage(self.folder).free < need:
            raise UserError(f"{self.folder}: {NO_SPACE}")
        kept = artifacts.sealed(metrics)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), metrics=ocp.args.JsonSave(kept))
        try:
            self._seal()
            if step in self.steps():  # one that was damaged, and passed over; or a recovery checkpoint of the result
                # Else its record would vouch for files that come; until theirs is there others go on from older ones
                storage.forget(self.folder / str(step))
                self._manager.delete(step)
            self._manager.save(step, args=items, force=True)
            self._unsealed.append(step)
            self._saved = True
            if jax.default_backend() == "cpu":
                self._seal()
        except Exception as e:
            if (told := of_system(e, self.folder)) is not None:
                raise told from None
            raise

    def saved(self, step: int) -> Any:
        """The metrics at `step` alone, which say what the state is of. Raises UserError where they are not as saved."""
        return artifacts.read_json(_metrics(self.folder, step), _again(self.folder))

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        """State and metrics saved at `step`. Args: abstract, shapes, dtypes and shardings of the state, on any mesh.

        Raises: UserError where a file of it has changed since; Orbax' errors.
        """
        _verify(self.folder, step)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), metrics=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        return restored.state, {k: value for k, value in restored.metrics.items() if k != artifacts.SEAL}

    def settle(self) -> bool:
        """Seal and hand over what was written in the background meanwhile, not waiting for what is not; gives whether
        there was something."""
        if not self._unsealed or self._manager.is_saving_in_progress():
            return False
        self._seal()
        return True

    def _seal(self) -> None:
        """Wait for what is being written, keep its checksums, and hand it over.

        Where nothing was saved nothing is handed over: who only reads may have older files than the bucket.
        """
        self._manager.wait_until_finished()
        if not self._unsealed:
            return
        for step in self._unsealed:
            if jax.process_index() == 0 and (folder := self.folder / str(step)).is_dir():
                artifacts.write_sealed(folder / FILES, {"files": artifacts.sums(folder)})
        self._unsealed.clear()
        if jax.process_index() == 0:
            self._hand_over()

    def _hand_over(self) -> None:
        """To the bucket, where there is one: what is there, and that older checkpoints are not."""
        storage.store(self.folder)
        kept = set(map(str, self.steps()))
        for name in storage.names(self.folder) - kept if storage.in_bucket(self.folder) else ():
            if name.isdecimal():
                storage.forget(self.folder / name)

    def finish(self, step: int) -> None:
        """Delete the recovery checkpoints: the run is finished, and that of `step` its result."""
        self._seal()
        for old in self.steps():
            if old != step and old not in self._marks:
                if self._apart and jax.process_index() != 0:  # of a mirror that may be that of process 0 too
                    shutil.rmtree(self.folder / str(old), ignore_errors=True)
                else:
                    self._manager.delete(old)
        if jax.process_index() == 0:
            self._hand_over()

    def close(self) -> None:
        """Wait for what is being written, and hand over what was written since the last save, such as the logs."""
        try:
            self._seal()
            if self._saved and jax.process_index() == 0:
                self._hand_over()
        finally:
            self._manager.close()


def _apart(folder: Path) -> bool:
    """Whether each process that trains has a mirror of its own of the bucket that a folder is in."""
    return jax.process_count() > 1 and storage.in_bucket(folder)


def _gathered(leaf: jax.Array) -> np.ndarray | None:
    """All of an array of all processes, in process 0; None in the others."""
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0)) if jax.process_index() == 0 else None
    whole = multihost_utils.process_allgather(leaf, tiled=True)
    return whole if jax.process_index() == 0 else None


def fetch(folder: Path) -> None:
    """Bring what the bucket has of a run, with all that process 0 has handed over until here; of several processes all
    call this alike."""
    if _apart(folder):
        multihost_utils.sync_global_devices(f"fetch {folder.name}")
    storage.fetch(folder, overwrite=True)


def newest_common(savers: list[Saver]) -> list[int]:
    """Steps at which every one of the runs has a checkpoint, newest first; all processes have the same there."""
    steps = sorted(set.intersection(*(set(saver.steps()) for saver in savers)), reverse=True)
    if jax.process_count() == 1:
        return steps
    # A mirror may hold what was never handed over, or what was made anew since; a shared folder may be seen late
    contents = (b"".join(_content(saver.folder / str(step) / FILES) for saver in savers) for step in steps)
    ours = dict(zip(steps, map(zlib.crc32, contents), strict=True))
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(ours))))
    theirs = np.array(list(ours.items()), np.uint32).reshape(-1, 2) if jax.process_index() == 0 else None
    rows = multihost_utils.broadcast_one_to_all(np.zeros((count, 2), np.uint32) if theirs is None else theirs)
    same = np.array([ours.get(int(step)) == content for step, content in rows], np.int32)
    everywhere = multihost_utils.process_allgather(same).all(axis=0)
    return [int(step) for step, _ in rows[everywhere]]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def check_config(saved: dict[str, Any], cell: Cell, folder: Path) -> None:
    """Raises UserError, which names the fields that differ, when a checkpoint's metrics are of another cell."""
    learnt = {"id": cell.id, **cell.learnt()}
    if changed := artifacts.differences({name: saved.get(name, BEFORE.get(name)) for name in learnt}, learnt):
        raise UserError(
            f"{folder} holds a checkpoint of another config ({'; '.join(changed[:4])}): take another --workdir, or "
            f"delete that folder to train the cell anew"
        )


def passed_over(folder: Path, step: int, error: BaseException) -> None:
    """Say that a checkpoint cannot be read, and is passed over."""
    logging.warning("%s/%d is damaged (%s): passed over", folder, step, first_line(error))


def _verify(folder: Path, step: int) -> None:
    """See that the files of a checkpoint are those that were saved; process 0 looks, or each at its mirror.

    Raises: UserError where they are not, in all processes alike. One without checksums is named and taken as it is.
    """
    path = folder / str(step) / FILES

    def look() -> None:
        if jax.process_index() != 0 and not _apart(folder):
            return
        if path.is_file():
            artifacts.verify_files(path.parent, artifacts.read_json(path, _again(folder))["files"], _again(folder))
        else:
            logging.warning(
                "%s has no checksums, as an earlier version saved it or who was killed on the way: taken as it is",
                path.parent,
            )

    agreement.together(look, f"{path.parent} is damaged where another process looked: {_again(folder)}")


def _again(folder: Path) -> str:
    return f"delete {folder} to train the cell again"


def _metrics(folder: Path, step: int) -> Path:
    return folder / str(step) / "metrics" / "metrics"


def hand_over_result(folder: Path) -> None:
    """Send a finished run to its bucket where the machine that finished it could not.

    What the bucket has of a finished run stays: where another machine went on, the log and checkpoints here are older.
    """
    last = max(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not storage.handed_over(folder / str(last) / FILES):
        storage.store(folder)


def result(folder: Path, steps: int = 0) -> dict[str, Any] | None:
    """Metrics of a finished run, or None. Reads the JSON item alone, so it costs no JAX.

    Args: steps, of the run, where they are known: of one whose checkpoints have not come so far none is looked at, and
      one that is damaged is passed over when it goes on.
    Raises: RunFailed where they are missing, or not what was saved.
    """
    last = max((int(p.name) for p in folder.glob("*") if p.name.isdigit()), default=-1) if folder.exists() else -1
    if last < steps:
        return None
    path = _metrics(folder, last)
    if not path.is_file():
        raise RunFailed(f"{path} is missing: {_again(folder)}")
    try:
        metrics = artifacts.read_json(path, _again(folder))
    except UserError as e:
        raise RunFailed(e) from None
    if not isinstance(metrics, dict) or "finished" not in metrics:
        raise RunFailed(f"{path} is damaged: {_again(folder)}")
    return metrics if metrics["finished"] else None


def over(folder: Path, marks: Iterable[int]) -> bool:
    """Whether a finished run has no recovery checkpoint any more, beyond which those trained with it may not be."""
    steps = {int(p.name) for p in folder.glob("*") if p.name.isdigit()}
    return steps <= {*marks, max(steps)}


def restore_last(folder: Path, abstract: Any) -> Any:
    """The state of a run's newest checkpoint. Args: abstract, as of `Saver.restore`.

    Raises: UserError where it cannot be read.
    """
    path = folder
    try:
        with contextlib.closing(Saver(folder)) as saver:
            step = saver.steps()[-1]
            path = folder / str(step)
            return saver.restore(step, abstract)[0]
    except UserError:
        raise
    except Exception as e:  # Orbax', tensorstore's and JAX' errors share no base class
        raise unreadable(e, path, f"{path} is damaged ({first_line(e)}): {_again(folder)}") from None
