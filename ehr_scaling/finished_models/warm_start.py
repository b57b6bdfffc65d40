"""Models that start from the weights of a finished one, whose vocabulary may be another: rows go by names of tokens."""

import hashlib
import multiprocessing
import re
import signal
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ehr_scaling import artifacts, storage
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import NO_MEMORY, UserError
from ehr_scaling.finished_models import saved
from ehr_scaling.finished_models.saved import Saved
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.models import export, sizes
from ehr_scaling.outcomes import choosing
from ehr_scaling.training import initial

VERSION = 1  # of what is taken from a model: raise it with every change to that


def take(config: ConfigDict, wanted: Collection[str], workdir: Path) -> dict[str, str]:
    """Bring the weights that `config.training.init_from` names into a work directory, and say what of them fits.

    Args: wanted, sizes of the grid. A study gives each of them its finished model of least validation loss.
    Returns: {size: fingerprint of the weights}; nothing where the models start afresh.
    Raises: UserError where there is no such model, or none of the shape of a size.
    """
    if not (init_from := config.training.init_from):
        return {}
    storage.fetch(Layout(workdir).timelines)
    # In a process of its own, on the CPU: here JAX would take the memory of GPUs that others are to have, and several
    # processes that train as one could only read a checkpoint together
    fingerprints = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _on_cpu) as alone:
        for size in wanted:
            needed = _shape(sizes.get(size), config.model.tied, config.model.mixing)
            try:
                fingerprints[size], line = alone.submit(bring, init_from, size, needed, workdir).result()
            except BrokenProcessPool:
                raise UserError(f"{_said(init_from)}: {NO_MEMORY}") from None
            print(line, flush=True)
    return fingerprints


def _on_cpu() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which its parent hears
    jax.config.update("jax_platforms", "cpu")


def bring(init_from: str, size: str, needed: str, workdir: Path) -> tuple[str, str]:
    """The fingerprint of the weights for a size whose shape is `needed`, and a line that says what of them fits."""
    there, vocabulary, donor = Layout(workdir), timelines.vocabulary(workdir), _donor(init_from, size)
    if (theirs := _shape(donor.transformer.shape, donor.transformer.tied, donor.transformer.mixing)) != needed:
        raise UserError(
            f"{_said(init_from)}: {donor.name} has {theirs}, and {size} of this grid {needed}: take a model of the "
            "same shape"
        )
    index = {token: row for row, token in enumerate(donor.tokens)}
    rows = [index.get(token, initial.NEW) for token in vocabulary.tokens]
    weights = _fingerprint(donor)
    _build(there.initial(size), {"weights": weights, "vocabulary": vocabulary.fingerprint}, donor, rows)
    matched = sum(row != initial.NEW for row in rows)
    return weights, (
        f"{size} starts from {donor.name}: {matched:,} of {len(rows):,} tokens are matched by name, "
        f"{len(rows) - matched:,} start afresh, {len(donor.tokens) - matched:,} of its own are left out"
    )


def _build(folder: Path, inputs: dict[str, Any], donor: Saved, rows: list[int]) -> None:
    def make(out: Path) -> dict[str, Any]:
        initial.save(out, donor.transformer, donor.params, donor.context, rows)
        return {"from": donor.name.rpartition("/")[2], "generated": donor.generated}

    artifacts.build(folder, inputs, make, version=VERSION)


def _said(init_from: str) -> str:
    return f"--config.training.init_from={init_from}"


def _shape(shape: sizes.Shape, tied: bool, mixing: str) -> str:
    numbers = f"width {shape.width}, {shape.layers} layers, {shape.heads} heads, inner width {shape.ff}"
    return f"{numbers}, mixing {mixing}, {'one matrix' if tied else 'two matrices'} for embedding and head"


def _donor(init_from: str, size: str) -> Saved:
    match = re.fullmatch(r"(.+):([0-9a-f]{16})", init_from)
    where, cell = match.groups() if match else (init_from, None)
    folder = storage.local(where, "--config.training.init_from")
    if saved.is_export(folder) and cell is None:
        return saved.of_export(folder)
    storage.fetch(Layout(folder).grid)
    if not Layout(folder).grid.is_dir():
        raise UserError(
            f"{_said(init_from)}: {where} is neither the work directory of a study nor a model that launch.export wrote"
        )
    return saved.of_study(folder, _finished(folder, init_from, size, cell))


def _finished(folder: Path, init_from: str, size: str, name: str | None) -> Cell:
    """A finished cell of a work directory: the one of that id, or the best of that size."""
    done = choosing.finished(folder)
    fits = [pair for pair in done if (pair[1].size == size if name is None else pair[1].id == name)]
    if not fits:
        which = f"finished model of size {size}" if name is None else f"finished cell {name}"
        others = ", ".join(sorted({cell.size if name is None else cell.id for _, cell in done})[:8])
        raise UserError(f"{_said(init_from)} has no {which}: it has {others or 'none'}")
    return min(fits, key=lambda pair: pair[0])[1]


def _fingerprint(donor: Saved) -> str:
    """16 hex digits of its weights and of what their rows stand for."""
    digests = {
        name: hashlib.sha256(np.ascontiguousarray(x, np.float32).tobytes()).hexdigest()
        for name, x in export.tensors(donor.transformer, donor.params).items()
    }
    return artifacts.fingerprint([digests, donor.tokens])
