"""The checklist of TRIPOD+AI (Collins et al., BMJ 2024;385:e078378): where each item is answered, or that it is open.

What an item asks is told in our words; the statement itself has them in full, with examples.
"""

from typing import Any, NamedTuple

from ehr_scaling.cards.fields import AUTHORS, INSTITUTION, OWNER, TRAINER, USER, Field

TRIPOD = "tripod."
ITEMS = 27


class Item(NamedTuple):
    """number: as the statement has it. asks: what for, in our words. who: has to answer it, where nothing else does."""

    number: str
    section: str
    asks: str
    who: str = AUTHORS


CHECKLIST = (
    Item("1", "Title", "that a prediction model is developed or evaluated, for whom, and of what outcome"),
    Item("2", "Abstract", "the items of TRIPOD+AI for abstracts"),
    Item("3a", "Introduction", "the healthcare context, why the model, and which models there are"),
    Item("3b", "Introduction", "the patients meant, the place in their care, and the users", USER),
    Item("3c", "Introduction", "known inequalities between groups of patients"),
    Item("4", "Introduction", "the objectives: development, evaluation, or both"),
    Item("5a", "Methods", "sources of the data, why they were taken, and whom they stand for", OWNER),
    Item("5b", "Methods", "dates: first and last patients, end of follow-up", OWNER),
    Item("6a", "Methods", "the setting, number and place of centres", OWNER),
    Item("6b", "Methods", "who was eligible"),
    Item("6c", "Methods", "treatments received, and how they were dealt with"),
    Item("7", "Methods", "preparation and checks of the data, alike for all groups"),
    Item("8a", "Methods", "the outcome, its horizon, how it was assessed, alike for all groups"),
    Item("8b", "Methods", "who assessed the outcome, where that takes judgement", OWNER),
    Item("8c", "Methods", "blinding of the assessment of the outcome", OWNER),
    Item("9a", "Methods", "how predictors were chosen"),
    Item("9b", "Methods", "each predictor: what, when and how measured", OWNER),
    Item("9c", "Methods", "who assessed predictors, where that takes judgement", OWNER),
    Item("10", "Methods", "how the size of the study was arrived at"),
    Item("11", "Methods", "missing data, and why some were left out"),
    Item("12a", "Methods", "how the data were used: development, evaluation, partitions"),
    Item("12b", "Methods", "how predictors enter: transformations, scales"),
    Item("12c", "Methods", "kind of model, steps of building it, tuning, internal validation"),
    Item("12d", "Methods", "differences between clusters such as hospitals, and how they were dealt with"),
    Item("12e", "Methods", "measures of performance, and why these"),
    Item("12f", "Methods", "updating of the model, such as recalibration"),
    Item("12g", "Methods", "how predictions were computed"),
    Item("13", "Methods", "imbalance of the outcome, and how it was dealt with"),
    Item("14", "Methods", "what was done for fairness, and why"),
    Item("15", "Methods", "the output: probability or class, and thresholds"),
    Item("16", "Methods", "differences between data of development and of evaluation"),
    Item("17", "Methods", "approval by an ethics board, and consent", INSTITUTION),
    Item("18a", "Open science", "funding"),
    Item("18b", "Open science", "conflicts of interest"),
    Item("18c", "Open science", "the protocol"),
    Item("18d", "Open science", "registration"),
    Item("18e", "Open science", "how others get the data", OWNER),
    Item("18f", "Open science", "how others get the code"),
    Item("19", "Patients and public", "their part in the study"),
    Item("20a", "Results", "the flow of patients, with and without the outcome, follow-up"),
    Item("20b", "Results", "what patients are like, and what is missing of them"),
    Item("20c", "Results", "predictors in evaluation against those in development"),
    Item("21", "Results", "patients and outcomes in each analysis"),
    Item("22", "Results", "the model in full, and how to get it", TRAINER),
    Item("23a", "Results", "performance with intervals, by group too"),
    Item("23b", "Results", "performance between clusters"),
    Item("24", "Results", "results of updating"),
    Item("25", "Discussion", "what the results mean, for fairness too"),
    Item("26", "Discussion", "limits"),
    Item("27a", "Discussion", "what to do with input that is poor or missing", USER),
    Item("27b", "Discussion", "what users must do and know", USER),
    Item("27c", "Discussion", "next steps: other places and groups"),
)


class Answer(NamedTuple):
    """text, where: as of a `Field`. left: what is open of it."""

    text: str
    where: str
    left: str = ""


def fields(answers: dict[str, Answer]) -> list[Field]:
    """Every item in order. answers: of `tripod_answers.answers`; an item that it lacks is open."""
    return [_field(item, answers.get(item.number)) for item in CHECKLIST]


def _field(item: Item, answer: Answer | None) -> Field:
    key, label = f"{TRIPOD}{item.number}", f"{item.asks[0].upper()}{item.asks[1:]}"
    if answer is None:
        return Field(key, label, who=item.who)
    return Field(key, label, answer.text, answer.where, answer.left, item.who if answer.left else "")


def to_json(fields: list[Field]) -> list[dict[str, Any]]:
    """[{item, section, asks, word: answered, in part or open, answer, where, left, who}]"""
    return [
        {
            "item": item.number,
            "section": item.section,
            "asks": item.asks,
            "word": field.word,
            "answer": field.text,
            "where": field.where,
            "left": field.left,
            "who": field.who,
        }
        for item, field in zip(CHECKLIST, fields, strict=True)
    ]
