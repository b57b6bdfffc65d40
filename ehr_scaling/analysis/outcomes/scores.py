"""What scores of a task hold beside the AUROC: of the model of least loss, of the smallest, and of the baselines."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.outcomes import beside, decisions, predictions, sheets
from ehr_scaling.analysis.outcomes.beside import Counted, Less
from ehr_scaling.analysis.outcomes.decisions import Decision, Gap
from ehr_scaling.analysis.outcomes.measures import Measure, measure, number
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import count, known
from ehr_scaling.artifacts import read_json
from ehr_scaling.data import disclosure
from ehr_scaling.errors import UserError

LEAST_LOSS, SMALLEST_MODEL, BASELINE, MODEL = "least loss", "smallest", "baseline", "model"  # roles
RECALIBRATED = "recalibrated"  # the role of the model of least loss with its risks moved as validation patients ask
VALIDATION = "validation"  # its role, and the folder of its score, on those patients
PROBABILITIES = ("auroc", "auprc", "brier", "calibration_slope", "calibration_in_the_large", "ece")
NUMBERS = ("mae", "rmse", "r2", "spearman")
CLASSES = ("top1", "top5", "log_loss", "macro_auroc")
SHARES = ("open", "bounded", "median_error")  # of copies, and the standard error of a probability
SAME_FOR_ALL = ("prevalence", "mean")  # baselines that tell no patients apart
LEAST_PATIENTS = 11  # in a cell that may be told: the rule of US health agencies
_LEAST_POINTS = 5  # of a ROC curve whose points are few
NO_FILES = ("baseline", "task", "artifact")  # names in the folder of a task that are no cells


class Bin(NamedTuple):
    """Of a calibration curve: mean prediction, share with the outcome and its Wilson interval, stays."""

    predicted: float
    observed: float
    low: float
    high: float
    n: float


class Group(NamedTuple):
    """A subgroup. counts: stays, patients and those with the outcome, as far as told. suppressed: why, or "". gaps: by
    name of the measure, to all other stays."""

    attribute: str
    name: str
    counts: dict[str, float]
    measures: dict[str, Measure]
    suppressed: str
    gaps: dict[str, Gap]


@dataclass(frozen=True)
class Score:
    """One model or baseline; whatever its file lacks is not here either.

    measures: by name, of PROBABILITIES, NUMBERS or CLASSES. differences: auroc, auprc, brier less those of the first
    baseline, on the same resamples of patients. shares: by name, of SHARES. weighted: whether all but the AUROC is
    weighted back from stays sampled by outcome to the cohort. roc: [2, k] false and true positive rate, from 0 to 1.
    recalibration: how risks were moved, line or isotonic; "" where they were not. line: intercept and slope of that.
    net_benefits: by baseline, that of acting on a model's risks (recalibrated, where they are) less that of acting on
    the baseline's. counted: the AUROC of shares of futures, where those are not what the model's is of. fitting: of a
    baseline, what was chosen from what.
    """

    name: str
    role: str
    cell: str = ""
    measures: dict[str, Measure] = field(default_factory=dict)
    differences: dict[str, Measure] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    bins: tuple[Bin, ...] = ()
    groups: tuple[Group, ...] = ()
    weighted: bool = False
    roc: Floats | None = None
    decision: Decision | None = None
    recalibration: str = ""
    line: tuple[float, float] | None = None
    net_benefits: dict[str, tuple[Less, ...]] = field(default_factory=dict)
    counted: Counted | None = None
    fitting: str = ""


@dataclass(frozen=True)
class Valued:
    """A task whose outcome is a number or a class (`kind`). models: how many were scored. scores: none where so few
    patients were asked that nothing is told."""

    task: str
    kind: str
    text: str
    models: int
    scores: list[Score]


def of_task(folder: Path, rows: list[dict[str, Any]], generated: bool = True) -> list[Score]:
    """The scores that are compared of a yes-or-no task, with ROC curves where predictions are stored.

    rows: the models in ascending order of loss, with cell, size, N, C and loss. generated: of real patients curves
    bend at thresholds alone that are told of them, and of few of these there is none.
    Raises: UserError naming the file when a curve has another area than its score says, or is about other stays.
    """
    chosen: list[Score] = []
    if rows:
        best, least = rows[0], min(rows, key=lambda r: (r["N"], r["C"], r["loss"]))
        chosen += [_of_model(folder, best, LEAST_LOSS), *_recalibrated(folder, best), *_on_validation(folder, best)]
        chosen += [_of_model(folder, least, SMALLEST_MODEL)] if least is not best else []
    return _with_curves([*chosen, *_baselines(folder)], folder, generated)


def of_cell(folder: Path, cell: str, size: str) -> list[Score]:
    """The scores of one model of a task, recalibrated too where that was asked for, then those of the baselines; empty
    where the model was not scored. Raises UserError where a file is damaged."""
    if not (folder / f"{cell}.json").is_file():
        return []
    row = {"cell": cell, "size": size}
    return [_of_model(folder, row, MODEL), *_recalibrated(folder, row), *_baselines(folder)]


def valued(folder: Path, table: RunTable) -> list[Valued]:
    """The tasks of `folder` whose outcome is a number or a class: the model of least loss, and the baselines."""
    valued_tasks = []
    for task in tasks_in(folder):
        about = described(task)
        kind = str(about.get("kind", "binary"))
        if kind == "binary":
            continue
        order = np.argsort(table.loss, kind="stable")
        at = [i for i in order if (task / f"{table.cell[i]}.json").is_file()]
        best = [{"cell": str(table.cell[i]), "size": str(table.size[i]), "N": float(table.N[i])} for i in at[:1]]
        text = text_of(about)
        if table.generated is False and (small := next(filter(None, (_few(task, row) for row in best)), "")):
            valued_tasks.append(Valued(task.name, kind, f"{text} Its scores are {small}.".strip(), len(at), []))
            continue
        scores = [*(_of_model(task, row, LEAST_LOSS) for row in best), *_baselines(task)]
        if scores := [score for score in scores if score.measures]:
            valued_tasks.append(Valued(task.name, kind, text, len(at), scores))
    return valued_tasks


def _few(folder: Path, row: dict[str, Any]) -> str:
    """Why the score of days or classes of one model is not told of real patients, or ""."""
    record = read_json(folder / f"{row['cell']}.json")
    counts = {name: n for name in ("n", "patients") if known(n := number(record.get(name)))}
    return too_small(counts, binary=False)


def as_told(scores: list[Score], generated: bool) -> list[Score]:
    """With the counts of groups and bins as `disclosure.told` has them."""

    def rounded(n: float) -> float:
        count = disclosure.told(round(n), generated)
        return np.nan if count is None else float(count)

    def told_counted(score: Score) -> Counted | None:
        if score.counted is None or generated or (score.counted.rest == 0 or score.counted.rest >= LEAST_PATIENTS):
            return score.counted
        return score.counted._replace(stays=np.nan)

    return [
        replace(
            score,
            counted=told_counted(score),
            groups=tuple(g._replace(counts={name: rounded(n) for name, n in g.counts.items()}) for g in score.groups),
            bins=tuple(b._replace(n=rounded(b.n)) for b in score.bins),
        )
        for score in scores
    ]


def tasks_in(folder: Path) -> list[Path]:
    """Folders of tasks, by name; sheets of questions lie beside them."""
    every = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [path for path in every if not sheets.is_sheet(path)]


def described(task: Path) -> dict[str, Any]:
    """What task.json says, where there is one."""
    path = task / "task.json"
    about = read_json(path) if path.is_file() else {}
    return about if isinstance(about, dict) else {}


def text_of(about: dict[str, Any]) -> str:
    return str(about.get("description") or about.get("text") or "")


def of_role(scores: list[Score], role: str) -> list[Score]:
    return [score for score in scores if score.role == role]


def telling(scores: list[Score]) -> list[Score]:
    """The baselines that tell patients apart."""
    return [score for score in of_role(scores, BASELINE) if score.name not in SAME_FOR_ALL]


def named(names: Iterable[str], scores: Iterable[Score | Group]) -> list[str]:
    """Of the names of measures those that any of the scores has."""
    has = {name for score in scores for name in score.measures}
    return [name for name in names if name in has]


def _of_model(folder: Path, row: dict[str, Any], role: str) -> Score:
    name = f"{role} ({row['size'] or count(row['N'])})"
    return _read(read_json(folder / f"{row['cell']}.json"), name, role, str(row["cell"]))


def _recalibrated(folder: Path, row: dict[str, Any]) -> list[Score]:
    """What recalibration leaves of a model's miscalibration, where it was asked for; its ranks are the model's."""
    record = read_json(folder / f"{row['cell']}.json")
    moved = record.get("recalibrated") if isinstance(record, dict) else None
    method = str(moved.get("method") or "line") if isinstance(moved, dict) else ""
    name = "the same, recalibrated" + ("" if method == "line" else f" ({method})")
    score = _read(moved, name, RECALIBRATED, str(row["cell"]))
    ends = tuple(number(moved.get(key)) for key in ("intercept", "slope")) if isinstance(moved, dict) else ()
    line = (ends[0], ends[1]) if len(ends) == 2 and all(map(known, ends)) and ends[1] > 0 else None
    return [replace(score, recalibration=method, line=line)] if score.measures else []


def _on_validation(folder: Path, row: dict[str, Any]) -> list[Score]:
    """A model's score on the patients that recalibration is fitted to, where they were asked and are not few."""
    path = folder / VALIDATION / f"{row['cell']}.json"
    if not path.is_file():
        return []
    record = read_json(path)
    counts = {name: number(record.get(name)) for name in ("n", "patients", "positives")}
    few = too_small({name: n for name, n in counts.items() if known(n)})
    return [] if few else [_read(record, "the same, validation patients", VALIDATION, str(row["cell"]))]


def _baselines(folder: Path) -> list[Score]:
    path = folder / "baseline.json"
    if not path.is_file():
        return []
    first = read_json(path)
    if not isinstance(first, dict):
        raise UserError(f"{path} is damaged: delete it and run launch.evaluate again")
    others = first.get("others")
    others = others if isinstance(others, dict) else {}
    scores = [_read(first, str(first.get("name") or "baseline"), BASELINE)]
    scores += [_read(other, str(name), BASELINE) for name, other in others.items()]
    # In one order for all tasks, so that a line of one kind is the same baseline in all figures.
    return [scores[0], *sorted(scores[1:], key=lambda s: (s.name in SAME_FOR_ALL, s.name))]


def _read(record: Any, name: str, role: str, cell: str = "") -> Score:
    record = record if isinstance(record, dict) else {}
    against = record.get("against_baseline")
    differences = {}
    if isinstance(against, dict):
        parts = {key: against.get(key) for key in ("auroc", "auprc", "brier")}
        differences = {k: m for k, v in parts.items() if (m := measure(v, "difference")) is not None}
    curve, groups = record.get("calibration_curve"), record.get("subgroups")
    return Score(
        name=name,
        role=role,
        cell=cell,
        measures=_measures(record),
        differences=differences,
        shares={key: value for key in SHARES if known(value := number(record.get(key)))},
        bins=tuple(b for part in (curve if isinstance(curve, list) else []) if (b := _bin(part)) is not None),
        groups=tuple(_groups(groups)) if isinstance(groups, dict) else (),
        weighted=record.get("weighted") is True,
        decision=decisions.read(record.get("decision")),
        net_benefits=beside.net_benefits(record.get("net_benefit_against")),
        counted=beside.counted(record),
        fitting=beside.fitting(record),
    )


def _measures(record: Mapping[str, Any]) -> dict[str, Measure]:
    measures: dict[str, Measure] = {}
    for name in (*PROBABILITIES, *NUMBERS, *CLASSES):
        part = record.get(name)
        if name == "auroc" and not isinstance(part, dict):  # its interval stands beside it
            part = {"value": part, "low": record.get("low"), "high": record.get("high")}
        about = measure(part if isinstance(part, dict) else {"value": part})
        measures |= {name: about} if about is not None else {}
    return measures


def _bin(part: Any) -> Bin | None:
    """A bin that is whole, and of as many patients as may be told."""
    if not isinstance(part, dict):
        return None
    calibration_bin = Bin(*(number(part.get(key)) for key in Bin._fields))
    patients = number(part.get("patients", part.get("n")))
    return calibration_bin if all(map(known, calibration_bin)) and patients >= LEAST_PATIENTS else None


def _groups(attributes: dict[str, Any]) -> list[Group]:
    subgroups = []
    for attribute, groups in attributes.items():
        for name, part in (groups if isinstance(groups, dict) else {}).items():
            part = part if isinstance(part, dict) else {}
            counts = {k: n for k in ("n", "patients", "positives") if known(n := number(part.get(k)))}
            why = str(part.get("suppressed") or too_small(counts))
            measures = {} if why else _measures(part)
            gaps = {} if why else decisions.read_gaps(part.get("gaps"))
            subgroups.append(Group(str(attribute), str(name), {} if why else counts, measures, why, gaps))
    return subgroups


def too_small(counts: Mapping[str, Any], *, binary: bool = True) -> str:
    """Why the scores of so few are not told, or "". Scores leave small groups out; those of other programs may not.

    Args: counts, n, patients and, of a binary outcome, positives; None where one is not known.
    """
    n, patients, positives = (counts.get(name) for name in ("n", "patients", "positives"))
    if n is None or (binary and positives is None):
        return "suppressed: its counts are not told"
    cells = [n if patients is None else patients, *((positives, n - positives) if binary else ())]
    return f"suppressed: a count under {LEAST_PATIENTS}" if min(cells) < LEAST_PATIENTS else ""


def _with_curves(scores: list[Score], folder: Path, generated: bool) -> list[Score]:
    first = next((s for s in scores if s.role == BASELINE), None)
    stored = {p.stem: p for p in sorted((folder / "baselines").glob("*.parquet"))}
    paths = []
    for score in scores:
        if score.role in (RECALIBRATED, VALIDATION):
            paths.append(folder / "absent")  # the curve of the one is the model's; the other's patients are others
        elif score.role != BASELINE:
            paths.append(folder / f"{score.cell}.parquet")
        else:
            baseline = folder / "baseline.parquet"
            paths.append(baseline if score is first else stored.get(score.name.replace(" ", "_"), folder / "absent"))
    there = [k for k, path in enumerate(paths) if path.is_file()]
    said, _ = predictions.read([paths[k] for k in there])
    if said is None:
        return scores
    scores = list(scores)
    told = None if generated else [_thresholds(scores[k], scores) for k in there]
    for k, area, roc in zip(there, said.auroc, said.rocs(told), strict=True):
        score = scores[k]
        if "auroc" in score.measures and abs(score.measures["auroc"].value - area) > predictions.AGREES:
            raise UserError(
                f"{paths[k]} has AUROC {area:.4f}, the score of {score.name} in {folder} "
                f"{score.measures['auroc'].value:.4f}: delete both and run launch.evaluate again"
            )
        scores[k] = replace(score, roc=roc if generated or roc.shape[1] >= _LEAST_POINTS else None)
    return scores


def _thresholds(score: Score, scores: list[Score]) -> list[float]:
    """Those that are told of a score, and of its recalibration, which cuts the same ranks: between two of them are no
    few patients."""
    told = _told(score.decision)
    for moved in of_role(scores, RECALIBRATED):
        if moved.cell == score.cell and moved.line is not None:
            intercept, slope = moved.line
            told |= {float(special.expit((special.logit(t) - intercept) / slope)) for t in _told(moved.decision)}
    return sorted(told)


def _told(decision: Decision | None) -> set[float]:
    if decision is None:
        return set()
    rows = (row.threshold for row in decision.rows if known(row.threshold))
    return {t for t in (*rows, *(point.threshold for point in decision.points)) if 0 < t < 1}


def sampled(scores: list[Score]) -> str:
    """A sentence on weights, where scores say that stays were sampled by outcome."""
    if not any(score.weighted for score in scores):
        return ""
    return (
        "Stays were sampled by outcome; all but the AUROC, the ROC curves, task loss and the shares of futures is "
        "weighted back to the cohort."
    )


def recalibrated_groups(scores: list[Score]) -> dict[tuple[str, str], Group]:
    """By attribute and name, those that are told of the model of least loss with its risks moved."""
    groups = [g for s in of_role(scores, RECALIBRATED) for g in s.groups]
    return {(g.attribute, g.name): g for g in groups if not g.suppressed}
