"""What models of a grid answer to a sheet of questions: `outcomes/<sheet>/<cell>.parquet`, `.csv` and `.json`.

All questions of a stay are asked of one pool of its futures, which are drawn until the longest horizon has passed, or
something ends the watch of all, or the tokens are used up. Each part of the stays is judged as soon as it is drawn, and
what is kept of it are counts of copies, a hundredth of the tokens.

Shapes: n stays, Q codes, H horizons.
"""

import csv
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling import artifacts, storage
from ehr_scaling.data import parquet
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell, Unit
from ehr_scaling.grid.executors import Cost
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import choosing, parts, together
from ehr_scaling.outcomes.asking import sheet_stays
from ehr_scaling.outcomes.asking.sheet_stays import Known
from ehr_scaling.outcomes.asking.tasks.sheets import Resolved, Sheet, resolve
from ehr_scaling.outcomes.judging import counting, sheet_scores
from ehr_scaling.outcomes.judging.counting import Counts
from ehr_scaling.outcomes.parts import Work
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, POSITIVE, RUNNING
from ehr_scaling.training.setup import restored_params

VERSION = 1  # of how scores are made from stays: raise it, and every model is asked again
PREDICTIONS = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("code", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("horizon_days", pa.float64(), nullable=False),
        pa.field("had_before", pa.bool_(), nullable=False),
        pa.field("boolean_value", pa.bool_()),  # null: left out
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("error", pa.float32(), nullable=False),
    ]
)
COLUMNS = (
    *("code", "horizon_days", "occurrence", "stays", "patients", "with_outcome", "auroc", "error", "low", "high"),
    *("left_open", "not_followed", "suppressed"),
)
ENDINGS = (".parquet", ".csv", ".json")  # the last says that the others are there


class _Prepared(NamedTuple):
    """A prepared sheet: its folder, the record in it, and the sheet with its meaning in the vocabulary."""

    folder: Path
    record: dict[str, Any]
    sheet: Sheet
    resolved: Resolved


class _Drawn(NamedTuple):
    """What is kept of futures of n stays."""

    positive: np.ndarray  # as in Counts, (n, Q, H)
    negative: np.ndarray
    tokens: np.ndarray  # int64 (n,), of all copies
    bounded: np.ndarray  # int64 (n,), copies that ran out of tokens


def _prepared(workdir: Path, name: str) -> _Prepared:
    folder = Layout(workdir).task(name)
    record = artifacts.record(folder)
    sheet = sheet_stays.sheet_of(record)
    return _Prepared(folder, record, sheet, resolve(sheet, timelines.vocabulary(workdir)))


def costs(workdir: Path, name: str, units: list[Unit]) -> list[Cost]:
    """What it takes to ask the cells of each unit, at most."""
    record = artifacts.record(Layout(workdir).task(name))
    stays, options = record["summary"]["stays"], record["inputs"]
    tokens = stays * options["copies"] * options["new_tokens"]
    return [
        Cost(sum(2.0 * (cell.N_body + cell.N_head) for cell in unit) * tokens, len(unit) * tokens, len(unit) * stays)
        for unit in units
    ]


def job(unit: Unit, workdir: Path, report: Callable[..., None], *, name: str) -> list[dict[str, Any]]:
    """Ask finished cells the prepared sheet of this name; for `grid.executors.run`.

    Answers that are there, of the same stays, are not made again. An interrupted simulation goes on with the part of
    the stays that it had come to.

    Returns: of each cell what is in its JSON.
    Raises: UserError when a cell was trained on other timelines or a shorter context.
    """
    return [_answers(cell, workdir, report, name) for cell in unit]


def finished(unit: Unit, workdir: Path, *, name: str) -> list[dict[str, Any]] | None:
    """The answers of cells that have all answered, else None; costs no JAX."""
    folder = Layout(workdir).task(name)
    fingerprint = artifacts.record(folder)["fingerprint"]
    known = [_there(folder, cell, fingerprint) for cell in unit]
    return None if None in known else [score for score in known if score is not None]


def _there(folder: Path, cell: Cell, fingerprint: str) -> dict[str, Any] | None:
    storage.fetch(folder, f"{cell.id}.*")
    files = [folder / f"{cell.id}{ending}" for ending in ENDINGS]
    if not all(file.exists() for file in files):
        return None
    score: dict[str, Any] = artifacts.read_json(files[-1])
    return score if score.get("fingerprint") == _fingerprint(cell, fingerprint) else None


def _fingerprint(cell: Cell, of_sheet: str) -> str:
    return artifacts.fingerprint({"sheet": of_sheet, "cell": cell.id, "version": VERSION})


def _parts(cell: Cell, prepared: _Prepared) -> str:
    """Of what a part is made from, and how many stays it has."""
    return artifacts.fingerprint([_fingerprint(cell, prepared.record["fingerprint"]), parts.AT_ONCE])


def _answers(cell: Cell, workdir: Path, report: Callable[..., None], name: str) -> dict[str, Any]:
    prepared = _prepared(workdir, name)
    if (score := _there(prepared.folder, cell, prepared.record["fingerprint"])) is not None:
        return score
    _check(cell, workdir, prepared)
    started, known = time.monotonic(), sheet_stays.load(prepared.folder)
    kept = prepared.folder / f".{cell.id}"
    drawn = _drawn(cell, workdir, prepared, known, kept / _parts(cell, prepared), report)
    counts, copies = Counts(drawn.positive, drawn.negative), prepared.record["inputs"]["copies"]
    score = {
        "cell": cell.id,
        "sheet": name,
        "copies": copies,
        "new_tokens": prepared.record["inputs"]["new_tokens"],
        "generated_tokens": int(drawn.tokens.sum()),
        "bounded": int(drawn.bounded.sum()) / (len(drawn.bounded) * copies),
        "seconds": time.monotonic() - started,
        "scores": _written(prepared, known, counts, prepared.folder / cell.id, _generated(prepared.folder)),
        "fingerprint": _fingerprint(cell, prepared.record["fingerprint"]),
    }
    artifacts.write_sealed(prepared.folder / f"{cell.id}.json", score)
    for ending in ENDINGS:
        storage.store(prepared.folder / f"{cell.id}{ending}")
    parts.forget(kept)
    return score


def _generated(folder: Path) -> bool:
    return bool(artifacts.read_json(folder / sheet_stays.FILE)["generated"])


def _check(cell: Cell, workdir: Path, prepared: _Prepared) -> None:
    options = prepared.record["inputs"]
    tokens = prepared.record["summary"]["vocabulary"]
    choosing.check_timelines(cell, workdir, options["timelines"], tokens, prepared.folder)
    if options["context"] > cell.context:
        raise UserError(
            f"{prepared.folder} asks for {options['context']} tokens of prompt and future, and cell {cell.id} was "
            f"trained on {cell.context}: delete {prepared.folder} and prepare it for that context"
        )


def _drawn(
    cell: Cell, workdir: Path, prepared: _Prepared, known: Known, scratch: Path, report: Callable[..., None]
) -> _Drawn:
    """Of all stays, in parts that are kept in the folder `scratch`: it is of this sheet and cell alone."""
    options, sheet, resolved = prepared.record["inputs"], prepared.sheet, prepared.resolved
    simulation = together.of_stays(
        workdir,
        options["split"],
        known.stays,
        sheet.who,
        timelines.vocabulary(workdir),
        **{name: options[name] for name in ("context", "copies", "new_tokens", "seed", "room")},
    )
    hours = np.array([24 * days - sheet.who.silence for days in sheet.horizons], np.float32)
    trained = cache(lambda: restored_params(cell, Layout(workdir).run(cell.id)))  # not where all is there

    def drawn(rows: np.ndarray, report: Callable[..., None]) -> _Drawn:
        futures, request = simulation.run(*trained(), rows, report), simulation.request
        counts = counting.count(futures.tokens, request.gaps[rows], request.clock, resolved.sets, resolved.ends, hours)
        bounded = (futures.ended[..., 0] == RUNNING).sum(axis=1)
        return _Drawn(counts.positive, counts.negative, futures.lengths.sum(axis=1, dtype=np.int64), bounded)

    each = options["copies"] * options["new_tokens"]
    return parts.compute_all(Work(len(known.stays.times), _Drawn, drawn, each), scratch, report)


def _written(prepared: _Prepared, known: Known, counts: Counts, stem: Path, generated: bool) -> list[dict[str, Any]]:
    """The score of each question, in the order of codes and then horizons; predictions and table are written."""
    sheet, scores = prepared.sheet, []
    codes = [code.name for code in prepared.resolved.codes]
    labels = [known.labels(days, sheet.follow_up) for days in sheet.horizons]  # one at a time would be made Q times
    predictions = stem.with_name(f"{stem.name}{ENDINGS[0]}")
    with artifacts.writing(predictions) as partial, pq.ParquetWriter(partial, PREDICTIONS, **parquet.WRITING) as out:
        for q, code in enumerate(codes):
            for h, days in enumerate(sheet.horizons):
                said = counting.shares(counts.positive[:, q, h], counts.negative[:, q, h])
                of_question = labels[h][:, q], known.before[:, q]
                scored = sheet_scores.question(*of_question, said.probability, known.stays.patients, generated)
                scores.append({"code": code, "horizon_days": days, **scored})
                out.write_table(_table(known, codes, q, days, *of_question, *said))
    table = stem.with_name(f"{stem.name}{ENDINGS[1]}")
    with artifacts.writing(table) as partial, partial.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat(scores))
    return scores


def flat(scores: list[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """A row of COLUMNS for each question and each of all, first and again; what is not known is left out."""
    for score in scores:
        rest = {name: value for name, value in score.items() if name not in sheet_scores.OCCURRENCES}
        for occurrence in sheet_scores.OCCURRENCES:
            yield {**rest, "occurrence": occurrence, **score[occurrence]}


def _table(
    known: Known,
    codes: list[str],
    q: int,
    days: float,
    labels: np.ndarray,
    before: np.ndarray,
    probability: np.ndarray,
    error: np.ndarray,
) -> pa.Table:
    n, stays = len(labels), known.stays
    scored = (labels == POSITIVE) | (labels == NEGATIVE)
    columns = [
        pa.array(stays.subject_ids, pa.int64()),
        pa.array(stays.times, pa.int64()).cast(pa.timestamp("us")),
        pa.DictionaryArray.from_arrays(np.full(n, q, np.int32), codes),
        pa.array(np.full(n, days)),
        pa.array(before),
        pa.array(labels == POSITIVE, mask=~scored),
        pa.array(probability.astype(np.float32)),
        pa.array(error.astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS)
