"""Tasks as data: a dataclass that is read from YAML. Those that come with the package are in `tasks.yaml`."""

import dataclasses
import difflib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_scaling.data.vocabulary import END
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking.tasks import strict_yaml
from ehr_scaling.outcomes.asking.tasks.bounds import Bound
from ehr_scaling.outcomes.asking.tasks.strict_yaml import spelt

OWN = Path(__file__).with_name("tasks.yaml")
QUANTILES = "Q"  # a name that stands for every token of a value: Q1, Q2, …
MEANINGS = ("positive", "negative", "open")
KINDS = ("binary", "days", "class")
_FROM = ("prediction", "anchor")


class Unanswerable(UserError):
    """The records cannot answer a task: they lack its tokens, or stays with the outcome, or stays without."""


@dataclass(frozen=True)
class Task:
    """A question about stays. Lists of tokens hold names: NAME means NAME and every NAME//…, -NAME takes those out.

    anchor: tokens that a stay begins with.
    hours: after the anchor; the prediction is made then, and the prompt holds all up to and at that time.
    tokens: instead of hours, how many tokens after the anchor are in the prompt, of those at its time. 0: the anchor
      is the last one; -1: the one before it is.
    labels: instead of an anchor, a file or folder in the MEDS label schema that says who is asked when, and what came
      true (see `label_files`).
    first_after: only the first anchor after each of these tokens is a stay's, as the first ICU discharge of each
      hospital stay; none: every anchor is one.
    without: tokens that rule a stay out when they come from its start up to the prediction.
    since: that start is the last of these at or before the anchor, or the beginning of the record; none: the anchor.
    min_age: years at the prediction; who is younger, or whose birth is not known, is not asked about.
    onset: patients who had a positive token before, at any time up to the prediction, are not asked about.
    kind: "binary"; "days", from the anchor to the first positive token; "class", which of `classes` is the next token.
    values: beside the positive tokens, codes with thresholds, as `{code: LAB//50912, above: 1.3}` (see `bounds.Bound`:
      above, at_least, below, at_most): the outcome is a token of the code with a value beyond. A bin of values that a
      threshold cuts counts with the share of its values that lie beyond, which is why only labels can ask so: in
      timelines of bins, nobody could tell who had the outcome.
    positive, negative, open: the first of these after the anchor decides a binary outcome; `open` ones leave it
      undecided. A stay decided by the time of the prediction is not asked about, nor is one left open.
    classes: of the next token; QUANTILES stands for Q1, Q2, …
    ordered: whether the classes are steps of a scale, in their order, so that their mean says something.
    horizon: days until which the outcome is watched, from the `horizon_from`: "prediction" or "anchor".
    at_horizon: what it means that nothing decided by then: "positive", "negative" or "open".
    at_end: the same of a timeline that ends before.
    requires: of labels that are of stays with one of these tokens before the horizon: a future that comes to the
      horizon without any says nothing.
    gap: hours after the prediction, of labels that are of stays which nothing decides in them: a future that is decided
      there says nothing.
    follow_up: days after the prediction that a record must go on for its stay to count as one without the outcome,
      unless a negative token says so.
    silence: hours after the prediction in which the records hold nothing of any patient, because of how they were
      made, as when a release stops at a fixed hour. A model cannot know that from a prompt, so it is told: the first
      simulated token is an interval that leads past them.

    Raises: UserError where a field is of the wrong type, or contradicts another.
    """

    name: str
    description: str
    anchor: tuple[str, ...] = ()
    hours: float | None = None
    tokens: int | None = None
    labels: str = ""
    first_after: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    min_age: float = 0.0
    onset: bool = False
    kind: str = "binary"
    positive: tuple[str, ...] = ()
    values: tuple[Bound, ...] = ()
    requires: tuple[str, ...] = ()
    gap: float = 0.0
    negative: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    ordered: bool = False
    horizon: float | None = None
    horizon_from: str = "prediction"
    at_horizon: str | None = None
    at_end: str = "open"
    follow_up: float = 0.0
    silence: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check, wanted = _CHECKS[field.type]
            value = getattr(self, field.name)
            right = check(value)
            if right is _WRONG:
                raise UserError(f"task {spelt(self.name)}: {field.name} is {spelt(value, True)}: take {wanted}")
            object.__setattr__(self, field.name, right)
        if problem := next(_contradictions(self), None):
            raise UserError(f"task {spelt(self.name)}: {problem}")

    @property
    def by_time(self) -> bool:
        """Whether its prompts end at a time, after which nothing may have been known for a while, or at a token."""
        return bool(self.labels) or self.hours is not None

    @property
    def spec(self) -> tuple[Any, ...]:
        """What its prompts are: tasks with the same can be asked of the same prompts."""
        return (self.kind == "class", self.labels, tuple(sorted(self.anchor)), self.hours, self.tokens, self.silence)


_WRONG: Any = object()


def _number(value: Any) -> Any:
    right = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < sys.float_info.max
    return float(value) if right else _WRONG


def _names(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    right = isinstance(names, list | tuple) and all(isinstance(n, str) and n.lstrip("-").strip() for n in names)
    return tuple(names) if right else _WRONG


def _bounds(value: Any) -> Any:
    """Of maps as YAML and JSON have them, or of what they became."""
    limits = [field.name for field in dataclasses.fields(Bound)][1:]
    bounds = []
    for given in [value] if isinstance(value, dict) else value if isinstance(value, list | tuple) else [None]:
        fields = dataclasses.asdict(given) if isinstance(given, Bound) else given
        if not isinstance(fields, dict) or not isinstance(fields.get("code"), str) or not fields["code"].strip():
            return _WRONG
        told = {name: _number(limit) for name, limit in fields.items() if name != "code" and limit is not None}
        if not told or set(told) - set(limits) or _WRONG in told.values():
            return _WRONG
        bounds.append(Bound(fields["code"], **told))
    return tuple(bounds)


def _one(kind: type, optional: bool = False) -> Callable[[Any], Any]:
    return lambda value: value if type(value) is kind or (optional and value is None) else _WRONG


_CHECKS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    str: (_one(str), "a text"),
    str | None: (_one(str, True), "a text"),
    bool: (_one(bool), "true or false"),
    int | None: (_one(int, True), "a whole number"),
    float: (_number, "a number"),
    float | None: (lambda value: None if value is None else _number(value), "a number"),
    tuple[str, ...]: (_names, "a list of token names"),
    tuple[Bound, ...]: (_bounds, "a list of maps of a code and some of above, at_least, below and at_most, in numbers"),
}


def _contradictions(t: Task) -> Iterator[str]:
    """What is wrong with fields that are of the right type, each beginning with its key."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", t.name):
        yield f"name is {spelt(t.name, True)}: take letters, digits, '_', '-' and '.', for a folder has that name"
    ends = [name for name in ("hours", "tokens") if getattr(t, name) is not None]
    if t.labels:
        cohort = ("anchor", "hours", "tokens", "first_after", "without", "since", "min_age", "onset", "follow_up")
        if given := [name for name in cohort if getattr(t, name) != _DEFAULTS[name]]:
            yield f"{given[0]} is given, and so are labels, which say who is asked about: leave it out"
        if t.kind != "binary":
            yield f"kind is {t.kind!r}: labels answer a binary one only"
    else:
        if given := [name for name in ("values", "requires", "gap") if getattr(t, name) != _DEFAULTS[name]]:
            yield f"{given[0]} is given without labels: timelines do not say whom it is about, so name label files"
        if not t.anchor:
            yield "anchor is missing: name the tokens that a stay begins with"
        if len(ends) != 1:
            yield f"hours and tokens are {'both given' if ends else 'both missing'}: the prompt ends by one of them"
        if t.hours is not None and t.hours < 0:
            yield f"hours is {t.hours:g}: take 0 or more"
        if t.tokens is not None and t.tokens < -1:
            yield f"tokens is {t.tokens}: take -1 or more"
    choices = {"kind": KINDS, "horizon_from": _FROM, "at_end": MEANINGS, "at_horizon": (None, *MEANINGS)}
    for name, allowed in choices.items():
        if getattr(t, name) not in allowed:
            yield f"{name} is {getattr(t, name)!r}: take one of {', '.join(filter(None, allowed))}"
    for name in ("min_age", "follow_up", "silence", "gap"):
        if getattr(t, name) < 0:
            yield f"{name} is {getattr(t, name):g}: take 0 or more"
    if t.silence and t.tokens is not None:
        yield "silence is given, and so is tokens: it is for prompts that end by hours"
    if t.horizon is None:
        if t.at_horizon is not None:
            yield "at_horizon is given without a horizon"
    elif t.horizon <= 0:
        yield f"horizon is {t.horizon:g}: take a number of days above 0"
    elif t.at_horizon is None:
        yield "at_horizon is missing: say what it means when nothing has decided by the horizon"
    elif 24 * t.horizon <= t.gap:
        yield f"gap is {t.gap:g} hours, and the horizon {t.horizon:g} days: nothing is left between them"
    elif t.horizon_from == "anchor" and (t.labels or t.tokens == -1):
        yield "horizon_from is 'anchor', which these prompts do not hold: take 'prediction'"
    elif t.horizon_from == "anchor" and t.hours is not None and 24 * t.horizon <= t.hours:
        yield f"horizon is {t.horizon:g} days from the anchor, and the prediction is made {t.hours:g} hours after it"
    yield from _wrong_names(t)
    yield from _wrong_kind(t)


def _wrong_names(t: Task) -> Iterator[str]:
    if t.gap and t.values:
        yield "gap is given, and so are values: after a bin that is cut, nobody could tell what had come before its end"
    if t.requires and t.horizon is None:
        yield "requires is given without a horizon, at which a future without them would say nothing"
    lists = {name: getattr(t, name) for name in ("positive", "negative", "open")}
    lists["values"] = tuple(bound.code for bound in t.values)
    for name, names in lists.items():
        if means(names, END):
            yield f"{name} holds {END}: say by at_end what the end of a timeline means"
    for (a, first), (b, second) in itertools.combinations(lists.items(), 2):
        if both := [n for n in (*first, *second) if means(first, n) and means(second, n)]:
            yield f"{a} and {b} both hold {both[0]}"


def _wrong_kind(t: Task) -> Iterator[str]:
    def given(*names: str) -> Iterator[str]:
        for name in names:
            if getattr(t, name) != _DEFAULTS[name]:
                yield f"{name} is {getattr(t, name)!r}, which means nothing for the kind {t.kind!r}: leave it out"

    meanings = {t.at_end, t.at_horizon}
    if t.kind == "class":
        outcome = ("positive", "negative", "open", "horizon", "horizon_from", "at_horizon", "at_end", "onset")
        yield from given(*outcome, "follow_up", "silence")
        if not t.classes:
            yield "classes is missing: name the tokens that may come next"
        return
    yield from given("classes", "ordered")
    if t.kind == "days":
        yield from given("negative", "onset", "follow_up")
        if not t.positive:
            yield "positive is missing: name the tokens to which days are counted"
        if t.tokens == -1:
            yield "tokens is -1: days are counted from the anchor, so let the prompt hold it"
        if not meanings <= {"open", None}:
            yield "at_end and at_horizon say nothing about days: leave them 'open'"
        return
    if t.onset and not t.positive:
        yield "onset is given, and there is no positive token that could come before"
    if not t.positive and not t.values and "positive" not in meanings:
        yield "positive is missing: name its tokens, or let at_horizon or at_end be positive"
    if not t.negative and "negative" not in meanings:
        yield "negative is missing: name its tokens, or let at_horizon or at_end be negative"


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Task)}


def load(path: Path | None = None) -> dict[str, Task]:
    """The tasks of a YAML file, by name: a mapping of names to fields of `Task`.

    Args: path, a user's file; None: the tasks that come with the package. Where labels lie is told from its folder.
    Raises: UserError where it is missing or no such file, for an unknown, repeated or wrong field, and for fields that
      contradict each other; it names the file, the task and the field.
    """
    path = OWN if path is None else Path(path)
    value = strict_yaml.read(path, "a YAML file of tasks")
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path} holds no tasks: give names with their fields, as tasks.yaml of the package does")
    return {str(name): _task(path, str(name), fields) for name, fields in value.items()}


def _task(path: Path, name: str, fields: Any) -> Task:
    if not isinstance(fields, dict):
        raise UserError(f"{path}: task {spelt(name)}: there are no fields under the name")
    if unknown := [key for key in fields if key not in _DEFAULTS or key == "name"]:
        near = difflib.get_close_matches(spelt(unknown[0]), list(_DEFAULTS)[1:], 1)
        hint = f"did you mean {near[0]}?" if near else f"take some of {', '.join(list(_DEFAULTS)[1:])}"
        raise UserError(f"{path}: task {spelt(name)}: unknown key {spelt(unknown[0])}: {hint}")
    try:
        task = Task(name=name, **{"description": "", **fields})
    except UserError as e:
        raise UserError(f"{path}: {e}") from None
    return dataclasses.replace(task, labels=str(path.parent / task.labels)) if task.labels else task


def meaning(names: Sequence[str]) -> Callable[[str], bool]:
    """Whether a token is meant by `names`: NAME means NAME and every NAME//…, unless a -NAME takes it out."""
    sides = ([n for n in names if n[0] != "-"], [n[1:] for n in names if n[0] == "-"])
    (exact, under), (less, under_less) = ((frozenset(side), tuple(f"{n}//" for n in side)) for side in sides)
    return lambda token: (
        (token in exact or token.startswith(under)) and not (token in less or token.startswith(under_less))
    )


def means(names: Sequence[str], token: str) -> bool:
    """Whether `token` is meant by `names`: see `meaning`."""
    return meaning(names)(token)
