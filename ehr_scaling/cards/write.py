"""From a work directory to the folder of its cards."""

from pathlib import Path
from typing import Any

from ehr_scaling import artifacts
from ehr_scaling.cards import chai, croissant, evidence, fields, metrics, model, pages, standing, tripod, tripod_answers
from ehr_scaling.errors import UserError

XML, CHECKLIST, CROISSANT, OPEN = "model.xml", "tripod.json", "croissant.json", "open.json"


def write(workdir: Path, out: Path, cell: str | None = None, answers: Path | None = None) -> dict[str, Any]:
    """Write the cards of one model of a study, and of its data, into the folder `out`.

    model.xml and model.html, tripod.json and tripod.html, croissant.json and data.html, and open.json: the key of each
    open field, what it is, and who has to say it. The same artifacts give the same bytes.
    Args: cell, id of the model; None: of the finished ones that with the least validation loss. answers, a YAML file of
      what people say to open fields, {key: text}.
    Returns: {"word", "reason": of the study, "cell", "answered", "in part", "open": numbers of fields, "files": names}.
    Raises: UserError where artifacts are missing, or answers are to nothing that is open.
    """
    by_hand = fields.read_answers(answers)
    e = evidence.read(workdir, cell)
    word = standing.judge(e)
    results = metrics.metrics(e)
    of_model = [*model.fields(e, word), *(field for metric in results for field in metric.fields)]
    of_study, of_data = tripod.fields(tripod_answers.answers(e)), croissant.fields(e)
    fields.check_answers(by_hand, [*of_model, *of_study, *of_data])
    _check_date(by_hand)
    of_model, of_study, of_data = (fields.answer(part, by_hand) for part in (of_model, of_study, of_data))
    every = [*of_model, *of_study, *of_data]
    texts = {
        XML: chai.xml(of_model, results),
        "model.html": pages.model_page(e, word, of_model, results),
        "tripod.html": pages.tripod_page(e, word, of_study),
        "data.html": pages.data_page(e, word, of_data),
    }
    values: dict[str, Any] = {
        CHECKLIST: {"word": word.word, "reason": word.reason, "items": tripod.to_json(of_study)},
        CROISSANT: croissant.json_ld(e, word, of_data),
        OPEN: {
            field.key: {"what": field.left or field.label, "who": field.who, "optional": field.optional}
            for field in every
            if field.who
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        artifacts.write_text(out / name, text)
    for name, value in values.items():
        artifacts.write_json(out / name, value)
    counts = {
        kind: sum(field.word == kind for field in every) for kind in (fields.ANSWERED, fields.IN_PART, fields.OPEN)
    }
    return {**word._asdict(), "cell": e.cell.id, **counts, "files": sorted([*texts, *values])}


def _check_date(answers: dict[str, str]) -> None:
    key = f"{croissant.DATA}datePublished"
    if key in answers and not croissant.is_date(answers[key]):
        raise UserError(f"--answers: {key} takes a date such as 2026-01-31")
