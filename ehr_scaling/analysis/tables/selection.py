"""Which runs one law can be fitted to: cooled, of one kind, on the same patients, each cell at its best setting."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.tables.run_table import Note, RunTable
from ehr_scaling.analysis.wording import significant

DEFAULTS = ("cosine", "adamw", "standard", "none")  # where two kinds have as many cells: the published practice
LEVERS = {"lr": "learning rate", "weight_decay": "weight decay", "dropout": "dropout", "batch": "batch"}

RULE = (
    "Where a cell (N, D and data alike) was run at several learning rates, weight decays, dropouts or batches, its "
    "setting of lowest mean loss over seeds stands for it, and the others are in no fit; they are no seeds. The lowest "
    "of five settings that are equally good lies 1.2 standard errors of a mean too low. A best setting at the end of "
    "what was tried is marked as at the edge: a better one may lie beyond."
)


def cooled(table: RunTable) -> RunTable:
    """Without the points of a hot (not cooled) learning rate, trunks among them, where cooled ones exist.

    One law cannot hold both.
    """
    hot = table.phase == "hot"
    if not hot.any() or hot.all():
        return table
    text = "the learning rate had not been cooled; cooled runs are in the same table"
    return table.take(~hot, [Note(str(run), "hot", text) for run in table.run[hot]])


def schedules(table: RunTable) -> NDArray[np.str_]:
    """[n] "cosine", "wsd", or "wsd branch" for a run that began from a trunk."""
    return np.where(table.trunk != "", np.char.add(table.schedule, " branch"), table.schedule)


def kinds(table: RunTable) -> list[tuple[str, ...]]:
    """[n] (schedule, optimizer, parametrization, mixing), "" for unknown: what one law must not mix. Runs that do not
    tell of mixing had none."""
    mixing = np.where(table.mixing == "", "none", table.mixing)
    columns = (schedules(table), table.optimizer, table.parametrization, mixing)
    return [tuple(map(str, kind)) for kind in zip(*columns, strict=True)]


def kind_names(table: RunTable) -> list[str]:
    """[n] the kind in words, without what all runs have in common; "" where there is one kind."""
    run_kinds = kinds(table)
    varying = [k for k in range(len(DEFAULTS)) if len({kind[k] for kind in run_kinds}) > 1]
    return [", ".join(kind[k] or "unknown" for k in varying) for kind in run_kinds]


def of_one_kind(table: RunTable) -> RunTable:
    """The runs of the kind with most cells (N, D). No loss is looked at."""
    run_kinds, names = kinds(table), kind_names(table)
    cells = Counter(kind for kind, *_ in {(kind, N, D) for kind, N, D in zip(run_kinds, table.N, table.D, strict=True)})
    if len(cells) < 2:
        return table
    likes = [sum(a == b for a, b in zip(kind, DEFAULTS, strict=True)) for kind in cells]
    best = max(zip(cells.values(), likes, cells, strict=True))[2]
    keep = np.array([kind == best for kind in run_kinds])
    chosen = names[int(keep.argmax())]
    notes = [
        Note(str(table.run[i]), "other_kind", f"{names[i]}; the fits hold the runs of {chosen}")
        for i in np.flatnonzero(~keep)
    ]
    return table.take(keep, notes)


def on_all_patients(table: RunTable) -> RunTable:
    """The runs on the largest fraction of the patients: a law in tokens seen does not hold for two."""
    fraction = np.where(np.isfinite(table.fraction), table.fraction, 1.0)
    keep = fraction == fraction.max()
    if keep.all():
        return table
    text = "of the patients; the fits hold the runs on the most patients"
    notes = [Note(str(table.run[i]), "fewer_patients", f"{fraction[i]:g} {text}") for i in np.flatnonzero(~keep)]
    return table.take(keep, notes)


def cell_keys(table: RunTable) -> list[tuple[Any, ...]]:
    """[n] (kind, fraction, N, D): what two runs of one cell share, whatever their seed and levers."""
    fraction = np.where(np.isfinite(table.fraction), table.fraction, 1.0)
    return list(zip(kinds(table), fraction.tolist(), table.N.tolist(), table.D.tolist(), strict=True))


def grouped(keys: list[Any]) -> dict[Any, NDArray[np.int64]]:
    """Row indices of equal keys, in the order in which the keys first come."""
    groups: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return {key: np.array(rows, np.int64) for key, rows in groups.items()}


@dataclass(frozen=True)
class Tuned:
    """The best setting of every cell.

    keep: [n] bool, the rows of these settings. notes: one for each of the others.
    cells: JSON, one for each cell with several settings: {N, D, fraction, loss, settings, best: {lever: value},
    tried: {lever: [values]}, edge: [levers whose best value is an end of those tried], runs: [names]}.
    """

    keep: NDArray[np.bool_]
    notes: list[Note]
    cells: list[dict[str, Any]]


def tuned(table: RunTable) -> Tuned:
    """Chooses by `RULE`."""
    levers = np.stack([np.nan_to_num(getattr(table, name), nan=-1.0) for name in LEVERS], 1)
    keep, notes, cells = np.ones(len(table), bool), [], []
    for (_, fraction, N, D), rows in grouped(cell_keys(table)).items():
        settings, at = np.unique(levers[rows], axis=0, return_inverse=True)
        if len(settings) < 2:
            continue
        at = at.ravel()
        means = np.bincount(at, weights=table.loss[rows]) / np.bincount(at)
        best = int(means.argmin())
        tried = {name: np.unique(settings[:, k]) for k, name in enumerate(LEVERS) if np.ptp(settings[:, k]) > 0}
        chosen = dict(zip(LEVERS, settings[best].tolist(), strict=True))
        keep[rows[at != best]] = False
        words = [", ".join(f"{LEVERS[k]} {_value(v)}" for k, v in zip(LEVERS, s, strict=True) if k in tried)
                 for s in settings]  # fmt: skip
        notes += [
            Note(str(table.run[i]), "other_setting", f"{words[s]}; the cell's best is {words[best]}")
            for i, s in zip(rows, at, strict=True)
            if s != best
        ]
        cells.append(
            {
                "N": N,
                "D": D,
                "fraction": fraction,
                "loss": float(means[best]),
                "settings": len(settings),
                "best": {name: chosen[name] for name in tried},
                "tried": {name: values.tolist() for name, values in tried.items()},
                "edge": [name for name, values in tried.items() if _at_an_end(chosen[name], values)],
                "runs": [str(run) for run in table.run[rows[at == best]]],
            }
        )
    return Tuned(keep, notes, cells)


def _at_an_end(value: float, tried: NDArray[Any]) -> bool:
    """Whether none of the values tried lies beyond; below 0 there is nothing to try."""
    return value == tried.max() or (value == tried.min() and value > 0)


def _value(value: float) -> str:
    return "unknown" if value < 0 else significant(value)
