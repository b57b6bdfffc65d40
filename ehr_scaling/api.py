"""What `import ehr_scaling as ehr` offers: a study, its patients, its models and their futures, by one call each.

Every function calls the stage or the reader that the commands of launch/ call too. A stage skips what its work
directory has already, and goes on where it was interrupted. Everywhere `workdir` is a path, or a bucket's address
where a function makes something.

A mistake of the caller raises `ehr_scaling.errors.UserError`, one line. Stages start processes: a script that calls
them does so under `if __name__ == "__main__":`; a notebook need not.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ehr_scaling.data.inspection.one_patient import Patient
    from ehr_scaling.data.vocabulary import Vocabulary
    from ehr_scaling.finished_models.trained import Model, Simulated
    from ehr_scaling.outcomes.asking.tasks.tasks import Task

# Imports stand in the functions: `help` and tab completion need neither JAX nor a second.

_STUDIES = Path(__file__).with_name("studies")
Settings = Mapping[str, Any]


def prepare(workdir: str | Path, config: str | ModuleType = "quickstart", settings: Settings | None = None) -> Path:
    """Raw records → events → timelines → packed training data, in the folder `workdir`.

    Args:
      config: a name of configs/ ("quickstart", which generates patients; "mimic_iv", "records:meds", …), or a module of
        your own with get_config and sweep, as those have them.
      settings: fields of the config that are to differ, by their names in configs/base.py:
        {"data.raw": "/path/to/mimic-iv", "data.patients": 5000}.
    Returns: the work directory.
    Raises: UserError for a config or a field that is none, records that cannot be read, and a work directory in which
      something else was made.
    """
    from ehr_scaling import storage, study

    prepared, _ = _config(config, settings)
    there = storage.local(str(workdir))
    study.prepare(prepared, there)
    return there


def train(workdir: str | Path, config: str | ModuleType = "quickstart", settings: Settings | None = None) -> "Model":
    """`prepare`, then the models of the config's grid, without scoring them.

    Returns: the one with the least validation loss, as `load_model` does. Args and Raises: as of `prepare`.
    """
    from ehr_scaling import storage, study
    from ehr_scaling.finished_models import trained

    chosen, points = _config(config, settings)
    there = storage.local(str(workdir))
    study.prepare(chosen, there)
    study.plan(chosen, points, there)
    study.train(chosen, there)
    return trained.load(there)


def run_study(workdir: str | Path, config: str | ModuleType = "quickstart", settings: Settings | None = None) -> Path:
    """A whole study: `train`, then futures and scores, then the laws, as `ehr-scaling study` does.

    Returns: the path of report.html, which has laws.json and figures/ beside it; `analysis.fit(f"{workdir}/runs")`
      gives its laws in Python.
    Args and Raises: as of `prepare`.
    """
    from ehr_scaling import storage, study
    from ehr_scaling.layout import Layout
    from ehr_scaling.progress import Steps

    there = storage.local(str(workdir))
    with Steps() as steps:
        study.run(*_config(config, settings), there, steps.say)
    return Layout(there).report / "report.html"


def vocabulary(workdir: str | Path) -> "Vocabulary":
    """The tokens of a work directory's timelines: .tokens, the name of each id; .index, the id of each name; and all
    else that was fitted on the train split. Raises: UserError where there are none, or they are damaged."""
    from ehr_scaling.data.timelines import timelines

    return timelines.vocabulary(Path(workdir))


def timelines(workdir: str | Path, split: str = "validation") -> Iterator[dict[str, Any]]:
    """The patients of a split (train, validation or test), one after the other, a dict each.

    tokens: ids, int (n,); times: int64 (n,) µs since 1970, of the events; birth: int µs; context_tokens, context_times
    and context_slots (m,): static facts, and since when they were known; subject_id: int.
    Raises: UserError for a split that is none, and files that are missing or damaged.
    """
    from ehr_scaling.data.timelines import timelines

    return timelines.read(Path(workdir), split)


def patient(workdir: str | Path, split: str, ordinal: int) -> "Patient":
    """One timeline as a person reads it, without the id and without dates.

    Args: ordinal, from 0, in the order of `timelines`.
    Returns: .context, pairs of slot and value at the first event; .moments, each with .since (µs from the first event)
      and .events, lists of tokens.
    Raises: UserError where the split has no such patient.
    """
    from ehr_scaling.data.inspection import one_patient

    return one_patient.read(Path(workdir), split, ordinal)


def tasks() -> "dict[str, Task]":
    """What can be asked of futures, by name: `dataclasses.replace(ehr.tasks()["in_hospital_death_24h"], hours=48)`
    is the same question, asked 48 hours after the admission."""
    from ehr_scaling.outcomes.asking.tasks import tasks

    return tasks.load()


def load_model(folder: str | Path, cell: str | None = None) -> "Model":
    """A trained model: of a work directory, or of a folder that `ehr-scaling export` wrote.

    Args: cell, id of the run in a work directory; None: of the finished ones that with the least validation loss.
    Returns: .transformer and .params, for `transformer.apply({"params": params}, tokens, segments)`, see
      `models.transformer.Transformer`; .context, positions it was trained on; .vocabulary, the fingerprint of its
      tokens; .name, its size.
    Raises: UserError where there is no such model, or it is damaged.
    """
    from ehr_scaling.finished_models import trained

    return trained.load(Path(folder), cell)


def simulate(
    model: "Model",
    workdir: str | Path,
    task: "str | Task" = "in_hospital_death_24h",
    split: str = "test",
    *,
    patients: Sequence[int] | None = None,
    copies: int = 20,
    new_tokens: int = 512,
    seed: int = 0,
) -> "Simulated":
    """Futures of patients, drawn token by token from the moment that a task asks at, until they answer it.

    Args:
      workdir: where the timelines of the patients lie, in the vocabulary of the model.
      task: a name or a value of `tasks()`, of the kind that is answered by yes or no.
      patients: ordinals in the split; None: all whom the task can be asked of.
      copies, new_tokens: futures of each stay, and tokens of the longest.
    Returns: n stays and their C futures: .risk.probability and .risk.error, float64 (n,); .labels, bool (n,), what came
      true; .patients, int64 (n,), ordinals; .incidence(i), how the risk of stay i grows with the hours; .tokens(i, c),
      names of the tokens of one future; .futures, all arrays.
    Raises: UserError for another vocabulary, and where nobody can be asked.
    """
    from ehr_scaling.finished_models import trained

    chosen = None if patients is None else list(patients)
    return trained.simulate(
        model, Path(workdir), task, split, patients=chosen, copies=copies, new_tokens=new_tokens, seed=seed
    )


def published(study: str = "challenge_2012") -> Path:
    """The run table of a published study, a CSV file to read with `analysis.read`; studies/ has its README.

    Raises: UserError for a study that is none.
    """
    from ehr_scaling.errors import UserError

    path = _STUDIES / study / "runs.csv"
    if not path.is_file():
        known = ", ".join(sorted(table.parent.name for table in _STUDIES.glob("*/runs.csv")))
        raise UserError(f"no study called {study!r} is published: take one of {known}")
    return path


def _config(config: str | ModuleType, settings: Settings | None) -> "tuple[ConfigDict, list[dict[str, Any]]]":
    """A config with its changes, and the points of its grid."""
    from functools import reduce
    from importlib import import_module
    from operator import getitem

    from ehr_scaling import configs
    from ehr_scaling.errors import UserError, first_line
    from ehr_scaling.settings import check_fields

    arguments = []
    if isinstance(config, str):
        name, *arguments = config.split(":", 1)
        if name not in configs.NAMES:
            known = ", ".join(configs.NAMES)
            raise UserError(f"config={config!r} is none: take a module of your own, or one of {known}")
        config = import_module(f"{configs.__name__}.{name}")
    try:
        chosen = config.get_config(*arguments)
    except TypeError as e:
        raise UserError(f"config={config.__name__} gives no config so ({first_line(e)}): see its docstring") from None
    given = settings or {}
    check_fields(given, "{}")
    for field, value in given.items():
        *groups, last = field.split(".")
        try:
            reduce(getitem, groups, chosen)[last] = value
        except (TypeError, ValueError) as e:
            raise UserError(f"settings: {field}: {first_line(e)}") from None
    return chosen, list(config.sweep(chosen))
