"""What runs start from that do not start afresh: the weights of another model, kept in the work directory.

`warm_start` brings them there, as `models.export` has them, with the row of each own token in their vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ehr_scaling import artifacts
from ehr_scaling.errors import RunFailed
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.models import export
from ehr_scaling.processes import agreement
from ehr_scaling.training.step import State

ROWS = "rows.json"
NEW = -1  # a token that the other model does not know


def save(folder: Path, model: Any, params: Any, context: int, rows: Sequence[int]) -> None:
    """Write weights of another model, which runs are to start from, into `folder`, which is there.

    Args: model, params and context as of `models.export.save`; rows, for each token of this study's vocabulary the row
      of it in the other model's embedding, or NEW where that has none.
    """
    export.save(folder, model, params, context)
    artifacts.write_json(folder / ROWS, {"rows": list(rows)})


def of_generated(cell: Cell, workdir: Path) -> bool:
    """Whether all that a cell's model may know is of generated patients: those of what it started from, too."""
    if not cell.generated or not cell.init:
        return cell.generated
    return bool(artifacts.record(Layout(workdir).initial(cell.size))["summary"]["generated"])


def lay_over(state: State, cell: Cell, workdir: Path) -> State:
    """A fresh state (M members) with the weights that a cell is to start from; rows of new tokens, and all else, stay.

    Raises: RunFailed where the work directory holds others; UserError where they are damaged.
    """
    folder = Layout(workdir).initial(cell.size)

    def look() -> tuple[np.ndarray, Any]:
        inputs = artifacts.verify(folder)["inputs"]
        rows = np.array(artifacts.read_json(folder / ROWS)["rows"], np.int32)
        if inputs["weights"] != cell.init or len(rows) != cell.vocab:
            raise RunFailed(
                f"{folder} holds other weights than cell {cell.id} is to start from: delete it and plan the grid again"
            )
        return rows, jax.tree.map(np.asarray, export.load(folder)[1])

    rows, given = agreement.together(look)
    shared = np.flatnonzero(rows != NEW)
    given_rows = rows[shared]

    def over(params: Any, given: Any) -> Any:
        by_row = {"embedding", "head"} & params.keys()
        whole = {name: value for name, value in params.items() if name not in by_row}
        laid = jax.tree.map(lambda x, new: jnp.broadcast_to(new, x.shape), whole, {name: given[name] for name in whole})
        laid["embedding"] = params["embedding"].at[:, shared].set(given["embedding"][given_rows])
        if "head" in by_row:
            laid["head"] = params["head"].at[:, :, shared].set(given["head"][:, given_rows])
        return laid

    where = jax.tree.map(lambda x: x.sharding, state.params)
    return state._replace(params=jax.jit(over, out_shardings=where)(state.params, given))
