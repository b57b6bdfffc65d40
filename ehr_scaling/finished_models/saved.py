"""A finished model, restored from where it lies, with the tokens that it reads: a cell of a study, or an export."""

from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling import artifacts, storage
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.finished_models import release
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.models import export
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import choosing
from ehr_scaling.training import initial
from ehr_scaling.training.setup import restored_params

_AGAIN = "export the model again"


class Saved(NamedTuple):
    """A finished model."""

    name: str  # for people
    transformer: Transformer
    params: Any  # {name: float32}
    context: int  # positions it was trained on
    tokens: tuple[str, ...]
    vocabulary: str  # fingerprint of the tokens
    generated: bool  # whether it learnt of generated patients alone


def is_export(folder: Path) -> bool:
    """Whether launch.export wrote it: a work directory has a config.json too."""
    return (folder / export.TENSORS).is_file()


def of_study(folder: Path, cell: Cell) -> Saved:
    """Raises: UserError where the cell is not finished, damaged, or was trained on other timelines than are there."""
    there = Layout(folder)
    storage.fetch(there.timelines)
    storage.fetch(there.initial(cell.size))
    vocabulary, source = timelines.vocabulary(folder), artifacts.record(there.timelines)["fingerprint"]
    choosing.check_timelines(cell, folder, source, len(vocabulary.tokens), there.timelines)
    transformer, params = restored_params(cell, there.run(cell.id))
    name, generated = f"cell {cell.id} ({cell.size}) of {folder}", initial.of_generated(cell, folder)
    return Saved(name, transformer, params, cell.context, vocabulary.tokens, vocabulary.fingerprint, generated)


def of_export(folder: Path) -> Saved:
    """Of whose patients it learnt nobody can tell. Raises: UserError where a file is missing or damaged."""
    if (folder / artifacts.RECORD).is_file():
        artifacts.verify(folder, [release.TOKENS])
    transformer, params = export.load(folder)
    context = artifacts.read_json(folder / export.CONFIG)["max_position_embeddings"]
    tokens, fingerprint = token_names(folder / release.TOKENS, transformer.vocab)
    return Saved(str(folder), transformer, params, context, tokens, fingerprint, False)


def token_names(path: Path, vocab: int) -> tuple[tuple[str, ...], str]:
    """Of ids 0 to `vocab`, from a tokens.json, and their fingerprint. Raises UserError where it is missing, damaged,
    or of other ids."""
    about = artifacts.read_json(path, _AGAIN)
    index = about.get("vocabulary") if isinstance(about, dict) else None
    if not isinstance(index, dict) or any(type(i) is not int for i in index.values()):
        index = {}
    if sorted(index.values()) != list(range(vocab)):
        raise UserError(f"{path} is not the vocabulary of {vocab} tokens that the model reads: {_AGAIN}")
    return tuple(sorted(index, key=index.__getitem__)), str(about.get("fingerprint"))
