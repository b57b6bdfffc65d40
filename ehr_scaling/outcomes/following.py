"""What processes do that score models with process 0, which leads them: the steps that take the devices of all."""

import contextlib
from pathlib import Path
from typing import Any

from ehr_scaling.errors import RunFailed
from ehr_scaling.grid.cell import of_json
from ehr_scaling.grid.executors.processes import use_compile_cache
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from ehr_scaling.outcomes.sampler.simulate import Asked
from ehr_scaling.processes.leading import Step
from ehr_scaling.training.setup import restored_params


def steps(workdir: Path) -> dict[str, Step]:
    """By name, for `leading.run`. Each is of the model that was restored last, of those of a work directory."""
    use_compile_cache()
    model: list[Any] = []

    def restore(values: dict[str, Any]) -> None:
        model.clear()  # before the next one takes its memory
        cell = of_json(values["cell"])
        with contextlib.suppress(RunFailed):  # process 0 leaves it out too, says why, and goes on with the next one
            model.extend(restored_params(cell, Layout(workdir).run(cell.id)))

    def draw(values: dict[str, Any]) -> None:
        rows = values.pop("rows")
        simulate.simulate(model[0], model[1], Asked.of_flat(values), rows)

    def name(values: dict[str, Any]) -> None:
        simulate.next_token(model[0], model[1], **values)

    def decide(values: dict[str, Any]) -> None:
        two_tokens.decide(model[0], model[1], Asked.of_flat(values))

    return {"restore": restore, "simulate": draw, "next_token": name, "decide": decide}
