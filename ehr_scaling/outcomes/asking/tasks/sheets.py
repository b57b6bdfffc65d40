"""Sheets of questions as data: which codes, within how many days, asked of the same stays; read from YAML.

A sheet asks, for each of its codes and each of its horizons, whether the code comes after the prediction and within the
horizon. Who is asked, and when, is told as in `tasks.yaml`. A file holds one sheet:

    anchor: HOSPITAL_ADMISSION      # or labels: a file in the MEDS label schema
    hours: 24
    codes:                          # a list of names, or titles with the names they stand for
      heart failure: [ICD10CM//I50, ICD9CM//428]
      any drug: MEDICATION
    top: 50                         # beside them the commonest tokens of the train split
    horizons: [1, 7, 30]            # days after the prediction
"""

import dataclasses
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.data.events.events import DEATH
from ehr_scaling.data.vocabulary import END, Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking.tasks import strict_yaml, task_tokens
from ehr_scaling.outcomes.asking.tasks.strict_yaml import spelt
from ehr_scaling.outcomes.asking.tasks.tasks import Task, Unanswerable, means

FILE = "sheet.json"  # what makes a folder of outcomes/ that of a sheet
MOST = 2_000  # codes of a sheet
_WHO = ("anchor", "hours", "tokens", "labels", "first_after", "without", "since", "min_age", "silence")
_MINE = ("name", "description", "codes", "top", "top_of", "horizons", "negative", "open", "at_end", "follow_up")


class Code(NamedTuple):
    """What one row of a sheet asks for: any token that `names` mean, as in `tasks.Task`."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """Questions about the same stays, each of a code and a horizon: does the code come within so many days?

    who: the task that says who is asked and when. Its `positive` is empty and its `negative` holds all tokens that end
      the watch, whatever they mean; its horizon is the longest: what decides it decides every question.
    codes: those named in the file.
    top, top_of: beside them, so many tokens that are the commonest of the train split, of these families; none: of all.
    horizons: days after the prediction, ascending.
    negative, open: tokens that end the watch: the code did not come, or nobody knows. A token that is also the code's
      counts as the code.
    at_end: what it means that a record ends within the horizon: "open", its stay is left out, or "negative".
    follow_up: days after the prediction that a record must go on for its stay to count as one without the code, unless
      a negative token says so.
    """

    who: Task
    codes: tuple[Code, ...]
    top: int
    top_of: tuple[str, ...]
    horizons: tuple[float, ...]
    negative: tuple[str, ...]
    open: tuple[str, ...]
    at_end: str
    follow_up: float

    @property
    def name(self) -> str:
        return self.who.name

    def task(self, code: Code, horizon: float) -> Task:
        """The yes-or-no task that asks the same of a future: `tasks.Task` knows of one code and one horizon.

        Who is asked differs in one thing: a task leaves out stays with the code between anchor and prediction, which a
        sheet takes for those with a recurrence.
        """
        negative, end = (tuple(n for n in names if not means(code.names, n)) for names in (self.negative, self.open))
        return dataclasses.replace(
            self.who,
            positive=code.names,
            negative=negative,
            open=end,
            horizon=horizon,
            at_end=self.at_end,
            follow_up=self.follow_up,
        )


def load(path: Path) -> Sheet:
    """The sheet of a YAML file; without a `name` it has the file's.

    Raises: UserError for a file that cannot be read, and for a field that is unknown, missing or wrong.
    """
    value = strict_yaml.read(path, "a YAML file of questions")
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no sheet: give anchor (or labels), codes and horizons")
    fields = {str(key): part for key, part in value.items()}
    if unknown := [key for key in fields if key not in (*_WHO, *_MINE)]:
        near = difflib.get_close_matches(spelt(unknown[0]), [*_WHO, *_MINE], 1)
        hint = f"did you mean {near[0]}?" if near else f"take some of {', '.join((*_MINE, *_WHO))}"
        raise UserError(f"{path}: unknown key {spelt(unknown[0])}: {hint}")
    try:
        sheet = _sheet(path, fields)
        if problem := next(_contradictions(sheet), None):
            raise UserError(f"sheet {spelt(sheet.name)}: {problem}")
    except UserError as e:
        raise UserError(f"{path}: {e}") from None
    return sheet


def _sheet(path: Path, fields: dict[str, Any]) -> Sheet:
    horizons = _horizons(fields.get("horizons"))
    name = fields.get("name", path.stem)
    # What is said of any code, checked as that of a task
    given = Task(
        name=name,
        description=fields.get("description", ""),
        anchor=("?",),
        hours=0.0,
        positive=("?",),
        negative=fields.get("negative", (DEATH,)),
        open=fields.get("open", ()),
        horizon=horizons[-1],
        at_horizon="negative",
        at_end=fields.get("at_end", "open"),
        follow_up=fields.get("follow_up", 0.0),
    )
    who = Task(
        **{field: fields[field] for field in _WHO if field in fields},
        name=name,
        description=given.description,
        negative=(*given.negative, *given.open),
        horizon=horizons[-1],
        at_horizon="negative",
        at_end="positive",  # a task without positive tokens must say what is; of futures only that it decides is used
    )
    if who.labels:
        who = dataclasses.replace(who, labels=str(path.parent / who.labels))
    top = fields.get("top", 0)
    if type(top) is not int or top < 0:
        raise UserError(f"top is {spelt(top, True)}: take a whole number")
    codes, top_of = _codes(fields.get("codes", ())), _names("top_of", fields.get("top_of", ()))
    return Sheet(who, codes, top, top_of, horizons, given.negative, given.open, given.at_end, given.follow_up)


def _horizons(value: Any) -> tuple[float, ...]:
    days = list(value) if isinstance(value, list) else [value]
    right = all(isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < 1e6 for x in days)
    if not right:
        raise UserError(f"horizons is {spelt(value, True)}: take a list of numbers of days above 0")
    return tuple(sorted({float(x) for x in days}))


def _codes(value: Any) -> tuple[Code, ...]:
    """Args: value, a name, a list of names, each a question, or titles with a name or a list of names."""
    pairs = list(value.items()) if isinstance(value, dict) else [(x, x) for x in _listed(value)]
    codes = []
    for title, names in pairs:
        code = Code(str(title), _names("codes", names))
        if all(n[0] == "-" for n in code.names):
            raise UserError(f"codes: {spelt(code.name)} names no token that it takes in: name one without '-'")
        codes.append(code)
    return tuple(codes)


def _names(field: str, value: Any) -> tuple[str, ...]:
    names = _listed(value)
    if not all(isinstance(n, str) and n.lstrip("-").strip() for n in names):
        raise UserError(f"{field} holds {spelt(value, True)}: take names of tokens")
    return tuple(names)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _contradictions(sheet: Sheet) -> Iterator[str]:
    if not sheet.codes and not sheet.top:
        yield "codes and top are both missing: name what is asked for"
    titles = [code.name for code in sheet.codes]
    if again := {title for title in titles if titles.count(title) > 1}:
        yield f"codes has {spelt(min(again))} twice"
    if len(titles) + sheet.top > MOST:
        yield f"there are {len(titles) + sheet.top:,} codes: take {MOST:,} at most"
    if sheet.top_of and not sheet.top:
        yield "top_of is given without top"
    if sheet.at_end not in ("open", "negative"):
        yield f"at_end is {sheet.at_end!r}: take open or negative"
    for code in sheet.codes:
        if means(code.names, END):
            yield f"codes: {spelt(code.name)} holds {END}: say by at_end what the end of a record means"


class Resolved(NamedTuple):
    """A sheet in a vocabulary of V tokens, with its Q codes."""

    codes: tuple[Code, ...]
    sets: np.ndarray  # bool (Q, V), the tokens of each code
    ends: np.ndarray  # int8 (V,), NEGATIVE or OPEN: a token that ends the watch of all codes that it is none of; else 0
    lacking: tuple[str, ...]  # titles of codes of which the vocabulary has no token, and which are not asked


def resolve(sheet: Sheet, vocabulary: Vocabulary) -> Resolved:
    """Raises: Unanswerable where nothing of what is asked for is in the vocabulary."""
    named = [(code, task_tokens.ids(vocabulary, code.names)) for code in sheet.codes]
    lacking = tuple(code.name for code, tokens in named if not tokens.any())
    there = [(code, tokens) for code, tokens in named if tokens.any()]
    ends = np.zeros(len(vocabulary.tokens), np.int8)
    for names, kind in ((sheet.negative, "negative"), (sheet.open, "open"), ((END,), sheet.at_end)):
        ends[task_tokens.ids(vocabulary, names)] = task_tokens.KIND_OF[kind]
    alone = {int(np.flatnonzero(tokens)[0]) for _, tokens in there if tokens.sum() == 1}
    for token in _commonest(sheet, vocabulary, alone):
        tokens = np.zeros(len(vocabulary.tokens), bool)
        tokens[token] = True
        there.append((Code(vocabulary.tokens[token], (vocabulary.tokens[token],)), tokens))
    if not there:
        raise Unanswerable(
            f"the sheet {sheet.name} asks for nothing that the vocabulary of these timelines has: "
            f"{', '.join(lacking[:4]) or 'its families (top_of)'}: name other tokens (launch.inspect lists them)"
        )
    return Resolved(tuple(code for code, _ in there), np.stack([tokens for _, tokens in there]), ends, lacking)


def _commonest(sheet: Sheet, vocabulary: Vocabulary, named: set[int]) -> list[int]:
    """Ids of the commonest tokens that say what happened: no interval, bin, end, or stand-in for what is not known.

    Args: named, ids that the sheet asks for by name, each alone.
    """
    counts = np.array(vocabulary.counts, np.int64)
    counts[[vocabulary.index[name] for name in vocabulary.reserved if name in vocabulary.index]] = 0
    counts[vocabulary.unknown_ids] = 0
    if sheet.top_of:
        counts[~task_tokens.ids(vocabulary, sheet.top_of)] = 0
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return [i for i in order if i not in named][: sheet.top]
