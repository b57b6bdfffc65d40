"""Tasks of MEDS-DEV as tasks of ours: by their files, or by their names where no file is at hand."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ehr_scaling.artifacts import read_json
from ehr_scaling.data.events.events import DEATH
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.asking import label_files
from ehr_scaling.outcomes.asking.meds_dev import aces, code_tokens
from ehr_scaling.outcomes.asking.meds_dev.aces import Plain
from ehr_scaling.outcomes.asking.meds_dev.code_tokens import Study
from ehr_scaling.outcomes.asking.tasks import task_tokens
from ehr_scaling.outcomes.asking.tasks.bounds import Bound
from ehr_scaling.outcomes.asking.tasks.tasks import Task, Unanswerable

# Tasks whose outcome is that of a task of ours: who is asked, and when, is said by the labels. Those of abnormal values
# need their file, for their thresholds.
BY_NAME = {
    "mortality/in_icu/first_24h": "icu_mortality_24h",
    "readmission/general_hospital/30d": "readmission_30d_alone",
}
PREDICATES = "predicates.yaml"


class ReadTask(NamedTuple):
    """A task, and lines on what of its file means nothing, or more, in the study's vocabulary."""

    task: Task
    notes: list[str]


def of_file(workdir: Path, labels: Path, task_file: Path, predicates: Path | None = None) -> ReadTask:
    """The task of a file of MEDS-DEV, asked of the labels that were made of it.

    Args:
      workdir: of the study whose model is asked.
      task_file: the file, or the folder of all of them, of which the end of the labels' path names one.
      predicates: the data set's file, or the folder of all data sets', each in one of its name.
    Raises: UserError where a file is not found or not read, Unanswerable where the outcome has no token.
    """
    file, name = _task_file(task_file, labels)
    criteria = aces.read(file, None if predicates is None else _predicates(predicates, workdir, labels))
    study = code_tokens.of_study(workdir)
    for plain in (*criteria.against, *criteria.excluded, *criteria.required):
        if plain.limits:
            raise UserError(f"{file}: predicate {plain.name} has limits of values, which are read of the label alone")
    every = (*criteria.label, *criteria.against, *criteria.excluded, *criteria.required)
    for plain in every:
        if plain.any_code:
            raise UserError(f"{file}: predicate {plain.name} names no code: nothing that means any event is read")
    positive = _names(study, (p for p in criteria.label if not p.limits))
    values = tuple(
        Bound(token, **dict(plain.limits))
        for plain in criteria.label
        if plain.limits
        for token in code_tokens.meant(study, plain).tokens
    )
    if not positive and not values:
        names = ", ".join(dict.fromkeys(plain.name for plain in criteria.label))
        codes = ", ".join(code for plain in criteria.label for code in plain.codes or (plain.regex,))
        raise Unanswerable(
            f"{file}: the outcome is {names} ({codes}), which means no token of this study's vocabulary: its records "
            "lack it, or spell it otherwise than --predicates does"
        )
    taken = {*positive, *(bound.code for bound in values)}
    negative = _names(study, criteria.against, taken)
    excluded = (*_names(study, criteria.excluded), *((DEATH,) if criteria.alive else ()))
    task = label_files.from_labels(
        labels,
        name=name.replace("/", "-"),
        positive=positive,
        values=values,
        negative=negative,
        open=tuple(token for token in dict.fromkeys(excluded) if token not in taken | set(negative)),
        requires=_names(study, criteria.required),
        gap=criteria.gap,
        horizon_days=None if criteria.horizon is None else criteria.horizon / 24,
        at_end="open" if criteria.against or criteria.horizon else "negative",
        description=f"{name} of MEDS-DEV.",
    )
    task_tokens.answerable(study.vocabulary, task)
    return ReadTask(task, code_tokens.lines(study, every))


def _names(study: Study, plains: Iterable[Plain], without: Iterable[str] = ()) -> tuple[str, ...]:
    tokens = dict.fromkeys(token for plain in plains for token in code_tokens.meant(study, plain).tokens)
    return tuple(token for token in tokens if token not in set(without))


def _task_file(path: Path, labels: Path) -> tuple[Path, str]:
    """The file, and the task's name: as MEDS-DEV has it where it is told, else as the file has it."""
    if not path.is_dir():
        return path, path.stem if path.stem != "task" else path.parent.name
    known = {}
    for file in sorted(path.rglob("*.yaml")):
        inside = file.relative_to(path)
        known[(inside.parent if file.stem == "task" else inside.with_suffix("")).as_posix()] = file
    parts = labels.resolve().parts
    ends = ["/".join(parts[-n:]) for n in range(len(parts), 0, -1)]  # the longest first
    name = next((end for end in ends if end in known), None)
    if name is None:
        told = ", ".join(known) or "none"
        raise UserError(f"--labels={labels} does not end with the name of a task in {path} ({told}): name its file")
    return known[name], name


def _predicates(path: Path, workdir: Path, labels: Path) -> Path:
    if not path.is_dir():
        return path
    known = {file.parent.name.lower(): file for file in sorted(path.glob(f"*/{PREDICATES}"))}
    about = Layout(workdir).events / "metadata" / "dataset.json"
    told = str(read_json(about).get("dataset_name", "")) if about.is_file() else ""
    for name in (told, *reversed(labels.resolve().parts)):
        if name.lower() in known:
            return known[name.lower()]
    raise UserError(
        f"{path} has no predicates of the data set {told or 'without a name'} (it has {', '.join(known) or 'none'}): "
        "name the file with --predicates"
    )
