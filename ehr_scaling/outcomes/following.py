"""What processes do that ask models with process 0, which leads them: the steps that take the devices of all."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ehr_scaling.errors import RunFailed
from ehr_scaling.grid.cell import of_json
from ehr_scaling.grid.executors.processes import use_compile_cache
from ehr_scaling.layout import Layout
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from ehr_scaling.outcomes.sampler.simulate import SimulationRequest
from ehr_scaling.outcomes.supervised import states
from ehr_scaling.processes.leading import Step
from ehr_scaling.training.setup import restored_params

# Of a model, its parameters and the values of a `leading.call`
StepOfModel = Callable[[Transformer, Any, dict[str, Any]], Any]


def _simulate(model: Transformer, params: Any, values: dict[str, Any]) -> None:
    rows = values.pop("rows")
    simulate.simulate(model, params, SimulationRequest.of_flat(values), rows)


_STEPS: dict[str, StepOfModel] = {
    "simulate": _simulate,
    "next_token": lambda model, params, values: simulate.next_token(model, params, **values),
    "decide": lambda model, params, values: two_tokens.decide(model, params, SimulationRequest.of_flat(values)),
    "states": lambda model, params, values: states.of_prompts(model, params, **values),
}


def steps(workdir: Path, more: Mapping[str, StepOfModel] | None = None) -> dict[str, Step]:
    """By name, for `leading.run`. Each is of the model that was restored last, of those of a work directory.

    Args: more, steps of rooms that this one does not know.
    """
    use_compile_cache()
    restored: list[Any] = []

    def restore(values: dict[str, Any]) -> None:
        restored.clear()  # before the next one takes its memory
        cell = of_json(values["cell"])
        with contextlib.suppress(RunFailed):  # process 0 leaves it out too, says why, and goes on with the next one
            restored.extend(restored_params(cell, Layout(workdir).run(cell.id)))

    def of_model(step: StepOfModel, values: dict[str, Any]) -> None:
        step(restored[0], restored[1], values)

    by_name: dict[str, Step] = {name: partial(of_model, step) for name, step in (_STEPS | dict(more or {})).items()}
    return by_name | {"restore": restore}
