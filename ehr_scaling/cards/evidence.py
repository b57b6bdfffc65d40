"""What a work directory says of a study and of one of its models, and whether it says so with one voice."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling import artifacts, storage
from ehr_scaling.analysis.outcomes import audits, scores
from ehr_scaling.analysis.outcomes.audits import Audit
from ehr_scaling.analysis.outcomes.decisions import Row
from ehr_scaling.analysis.outcomes.scores import Score
from ehr_scaling.analysis.report.folder import FORECAST, MARK
from ehr_scaling.audit.audit import VERSION
from ehr_scaling.data import disclosure, vocabulary
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.packing.packed import FILE
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import RESULTS, Layout
from ehr_scaling.outcomes import choosing
from ehr_scaling.training import checkpoint, initial

Record = dict[str, Any]
ABOUT = Path("metadata", "dataset.json")  # of MEDS, in events/


class ScoredTask(NamedTuple):
    """A task of the study. about: its task.json. record: the model's score as its file has it, empty where it was not
    scored, or on so few patients that nothing is told. scores: the model's, recalibrated too where that was asked for,
    then the baselines'; empty likewise. withheld: why nothing is told, or "".

    verdict: how the study's models follow their loss in it, of laws.json; empty where that does not say."""

    name: str
    about: Record
    record: Record
    scores: list[Score]
    withheld: str
    verdict: Record

    @property
    def model(self) -> Score:
        return self.scores[0]

    @property
    def recalibrated(self) -> Score | None:
        return next(iter(scores.of_role(self.scores, scores.RECALIBRATED)), None)

    @property
    def acted_on(self) -> Score:
        """The risks that somebody would act on: recalibrated where that was asked for and could be done."""
        moved = self.recalibrated
        return moved if moved is not None and moved.decision is not None else self.model

    @property
    def thresholds(self) -> list[Row]:
        """Of `acted_on`, those of which something is told."""
        decision = self.acted_on.decision
        return [row for row in decision.rows if not row.suppressed] if decision else []

    @property
    def baselines(self) -> list[Score]:
        return scores.of_role(self.scores, scores.BASELINE)

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def inputs(self) -> Record:
        return self.about.get("inputs", {})


class Evidence(NamedTuple):
    """events, timelines, grid: records of these artifacts. fitted: the vocabulary. about: the events' dataset.json.

    cell, result: the model and the metrics of its run. seeds: of the finished runs that differ from it by seed alone,
    itself included. learnt_of_generated: whether all that the model may know is of generated patients, what it started
    from too; counts are told by `generated`, which is of the records alone. may_know_test: whether test patients may be
    behind the weights that it started from. sampling: how windows of patients were drawn for its training, "" where its
    packed data are not there. finished: how many runs of the study are. columns: names and Arrow types of the columns
    of each table of the events, by its path there. audit: what the model remembers of its patients, None where no audit
    of this version is there. problems: what does not fit together, a sentence each; names are
    from the work directory.
    """

    laws: Record
    events: Record
    timelines: Record
    grid: Record
    fitted: Vocabulary
    about: Record
    cell: Cell
    result: Record
    seeds: list[int]
    learnt_of_generated: bool
    may_know_test: bool
    sampling: str
    finished: int
    tasks: list[ScoredTask]
    columns: dict[str, dict[str, str]]
    audit: Audit | None
    problems: list[str]

    @property
    def generated(self) -> bool:
        return inspection.is_generated(self.events)

    @property
    def source(self) -> str:
        return str(self.events["summary"].get("name", "a source without a name"))

    @property
    def licence(self) -> str:
        """Of the records, "" where they do not say."""
        said = self.events["summary"].get("license") or ""
        return "" if "not stated" in said else str(said)

    @property
    def scored(self) -> list[ScoredTask]:
        """The tasks that the model was scored on."""
        return [task for task in self.tasks if task.scores]

    def words(self, n: float) -> str:
        """A count as it may be told: of real patients to the nearest ten, and none under 11."""
        n = round(n)
        if not self.generated and 0 < n < scores.LEAST_PATIENTS:
            return f"under {scores.LEAST_PATIENTS}"
        return disclosure.words(n, self.generated)


def read(workdir: Path, cell: str | None = None) -> Evidence:
    """Read and check. Args: cell, id of the model; None: of the finished ones that with the least validation loss.

    All files of events, timelines, packed data and grid are hashed, and all scores compared with the report.
    Raises: UserError where an artifact is missing or its record is damaged; what is there and does not fit is a problem
      of the evidence.
    """
    there = Layout(workdir)
    storage.fetch(there.runs, RESULTS)
    for folder in (there.report, there.events, there.timelines, there.outcomes):
        storage.fetch(folder)
    report = there.report / MARK
    if not report.is_file():
        raise UserError(f"{report} is missing: run launch.study there first")
    laws = artifacts.read_json(report, "run launch.study again")
    if not isinstance(laws, dict) or not {"data", "isoflop", "verdicts", "outcomes", "holdout"} <= laws.keys():
        raise UserError(f"{report} is none of this version: delete {there.report} and run launch.study again")
    records = {name: artifacts.record(getattr(there, name)) for name in ("events", "timelines", "grid")}
    chosen = choosing.best_cell(workdir, cell)
    storage.fetch(there.initial(chosen.size), artifacts.RECORD)
    done = choosing.finished(workdir)
    generated = inspection.is_generated(records["events"])
    problems = list(dict.fromkeys(_without(workdir, text) for text in _problems(there, laws, records, chosen)))
    return Evidence(
        laws=laws,
        **records,
        fitted=vocabulary.load(there.timelines),
        about=_about(there.events),
        cell=chosen,
        result=checkpoint.result(there.run(chosen.id), chosen.steps) or {},
        seeds=sorted({other.seed for _, other in done if _alike(other) == _alike(chosen)}),
        learnt_of_generated=generated and initial.of_generated(chosen, workdir),
        may_know_test=_may_know_test(there, chosen, generated=generated),
        sampling=_sampling(there.packed(chosen.context, chosen.fraction)),
        finished=len(done),
        tasks=_tasks(there, laws, chosen, problems, generated=generated),
        columns=_columns(there.events, records["events"]),
        audit=_audited(there, chosen, problems),
        problems=problems,
    )


def _alike(cell: Cell) -> dict[str, Any]:
    """What the cells of one point have in common: all but the seed."""
    return replace(cell, seed=0).learnt()


def _may_know_test(there: Layout, cell: Cell, *, generated: bool) -> bool:
    """Nobody here knows which patients were behind the weights that a model started from, but that generated ones are
    no patients of real records."""
    if not cell.init or generated:
        return bool(cell.init)
    known = (there.initial(cell.size) / artifacts.RECORD).is_file()
    return not (known and initial.of_generated(replace(cell, generated=True), there.root))


def _sampling(packed: Path) -> str:
    path = packed / FILE
    return str(artifacts.read_json(path).get("sampling", "")) if path.is_file() else ""


def _audited(there: Layout, cell: Cell, problems: list[str]) -> Audit | None:
    path = there.audit / f"{cell.id}.json"
    storage.fetch(path)
    if not path.is_file():
        return None
    try:
        record = artifacts.read_json(path, f"delete {path} and run launch.audit again", must_be_sealed=True)
    except UserError as e:
        problems.append(_without(there.root, str(e)))
        return None
    made_of = record.get("inputs", {})
    now = {"version": VERSION, "cell": cell.id, "packed": cell.packed}
    return audits.of(record) if now.items() <= made_of.items() else None


def _about(events: Path) -> Record:
    path = events / ABOUT
    return artifacts.read_json(path) if path.is_file() else {}


def _columns(events: Path, record: Record) -> dict[str, dict[str, str]]:
    """Of the first file of each table, by its name in events/; patients' rows are not read."""
    import pyarrow.parquet as pq

    names = sorted(name for name in record["files"] if name.endswith(".parquet"))
    first = [name for name in names if name.startswith("data/")][:1]
    tables = first + [name for name in names if not name.startswith("data/")]
    schemas = {name: pq.read_schema(events / name) for name in tables if (events / name).is_file()}
    return {name: {column.name: str(column.type) for column in schema} for name, schema in schemas.items()}


def _tasks(there: Layout, laws: Record, cell: Cell, problems: list[str], *, generated: bool) -> list[ScoredTask]:
    told = {outcome["task"]: outcome for outcome in laws["outcomes"]}
    tasks = []
    for folder in sorted(path.parent for path in there.outcomes.glob("*/task.json")):
        try:
            about = scores.described(folder)
            cell_scores = scores.of_cell(folder, cell.id, cell.size)
            record = artifacts.read_json(folder / f"{cell.id}.json") if cell_scores else {}
        except UserError as e:
            problems.append(_without(there.root, str(e)))
            continue
        outcome = told.get(folder.name, {})
        verdict = {**outcome["verdict"], "pattern": outcome["pattern"]} if outcome.get("verdict") else {}
        counts = {name: record[name] for name in ("n", "patients", "positives") if name in record}
        binary = about.get("kind", "binary") == "binary"
        if withheld := "" if generated or not record else scores.too_small(counts, binary=binary):
            record, cell_scores = {}, []
        tasks.append(ScoredTask(folder.name, about, record, cell_scores, withheld, verdict))
    return tasks


def _problems(there: Layout, laws: Record, records: dict[str, Record], cell: Cell) -> Iterator[str]:
    """What was changed, is missing, or was made from something else."""
    packed = there.packed(cell.context, cell.fraction)
    storage.fetch(packed)
    folders = {name: getattr(there, name) for name in records} | ({"packed": packed} if packed.exists() else {})
    for folder in folders.values():
        yield from _said(artifacts.verify, folder)
    yield from _said(inspection.events_record, there.root)
    made_from = laws.get("provenance", {}).get("fingerprints", {})
    for name, record in records.items():
        if made_from.get(name, record["fingerprint"]) != record["fingerprint"]:
            yield f"the report was made from other {name} than lie beside it"
    yield from _said(_weights, there.run(cell.id))
    yield from _said(_sealed, there.report, laws)
    for outcome in laws["outcomes"]:
        for row in outcome["models"]:
            yield from _said(_agrees, there, outcome["task"], row)


def _said(check: Callable[..., Any], *arguments: Any) -> Iterator[str]:
    """What a check objects, as far as it does."""
    try:
        check(*arguments)
    except UserError as e:
        yield str(e)


def _weights(run: Path) -> None:
    """See that the files of a finished run are as they were saved. Runs of earlier versions have no checksums."""
    storage.fetch(run)
    for path in run.glob(f"*/{checkpoint.FILES}"):
        artifacts.verify_files(path.parent, artifacts.read_json(path)["files"], f"delete {run} to train the cell again")


def _sealed(report: Path, laws: Record) -> None:
    """See that the forecast beside the report is the one that it was judged by, unchanged since it was filed."""
    if laws["holdout"] is None:
        return
    filed = artifacts.read_json(report / FORECAST, "run launch.study again")
    content = {name: value for name, value in filed.items() if name not in ("made", "fingerprint")}
    if filed.get("fingerprint") != artifacts.fingerprint(content):
        raise UserError(f"{FORECAST} has changed since it was filed")
    if filed["fingerprint"] != laws["holdout"]["forecast_fingerprint"]:
        raise UserError(f"{FORECAST} is not the forecast that the report compares with its results")


def _agrees(there: Layout, task: str, row: Record) -> None:
    """See that a model of the report has the loss of its run and the AUROC of its score, as far as both are told."""
    run = checkpoint.result(there.run(row["cell"]))
    if run is None or _told(run["validation_loss"]) != _told(row["loss"]):
        raise UserError(f"run {row['cell']} has another loss than the report says: run launch.study again")
    score = artifacts.read_json(there.task(task) / f"{row['cell']}.json")
    if _told(score["auroc"]) != _told(row["auroc"]):
        raise UserError(
            f"the score {task}/{row['cell']} has another AUROC than the report says: run launch.study again"
        )


def _told(value: float) -> float:
    return round(value, disclosure.DIGITS)


def _without(workdir: Path, message: str) -> str:
    """A message with names from the work directory: where that lies is nobody else's business."""
    return message.replace(f"{workdir}/", "").replace(str(workdir), "the work directory")
