"""The values that a study's train split has of some scales: what a bin that a threshold cuts is made of."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data import presets
from ehr_scaling.data.codes import maps
from ehr_scaling.data.events import events
from ehr_scaling.data.events.columns import STATIC, read_columns
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.asking.tasks.bounds import Values


def of_scales(workdir: Path, vocabulary: Vocabulary, names: Collection[str]) -> dict[str, Values] | None:
    """Values by scale or, of a code without bins, by its token; None where the events of the study are not there.

    Reads all events of the train split: some 3 million a second. A scale of which train has no event is left out.
    Args: workdir, of the study whose train split the vocabulary was fitted to; names, of scales or tokens.
    """
    at = Layout(workdir)
    folder = at.events
    if not names or not (folder / artifacts.RECORD).is_file():
        return None
    if artifacts.record(at.timelines)["inputs"].get("events") != artifacts.record(folder)["fingerprint"]:
        return None  # they are others than the vocabulary was fitted to
    storage.fetch(folder)  # of a work directory in a bucket the record alone may be here
    shards = events.shards(folder, events.SPLITS[0])
    if not shards:
        return None
    # No map of codes bears on what has a value
    rules = presets.rules(vocabulary.settings, maps.load(None))
    parts: dict[str, list[np.ndarray]] = {}
    for path in shards:
        wanted: dict[str, np.ndarray] = {}
        for part in read_columns(path):
            if not wanted:
                tokens = [rules(code).paths[0][0] if rules(code).paths else "" for code in part.names]
                wanted = {name: np.array([token == name for token in tokens]) for name in names}
            for name, is_code in wanted.items():
                rows = is_code[part.codes] & (part.times != STATIC)
                if rows.any():
                    parts.setdefault(name, []).append(part.values[rows])
    return {name: _counted(np.concatenate(values)) for name, values in parts.items()}


def _counted(values: np.ndarray) -> Values:
    known = values[np.isfinite(values)] + np.float32(0)  # −0 is 0
    return Values(*np.unique(known, return_counts=True), missing=len(values) - len(known))
