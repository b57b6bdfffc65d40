"""Task files of MEDS-DEV, in the YAML of ACES, as far as they say what becomes of a patient after the prediction.

Whom a task asks, and when, is said by its labels, which ACES makes of the same file; read here are the predicates and
those of its windows that reach past the prediction:

- the window with the label: from the prediction (or later: a gap lies between) to a time after it, or to the next event
  of a predicate, which then speaks against the outcome;
- events that such windows must not hold, `(None, 0)`: a future with one is of a stay that the task does not ask about,
  and says nothing;
- an event that the label's window must hold, `(1, None)`: a future without one says nothing;
- `_ANY_EVENT: (1, None)` in a window from there to the end of the record: who dies before is not asked about.

Predicates: a code, `{regex: …}` or `{any: […]}`, with value_min and value_max; `or(…)`, and `and(…)` of predicates of
which at most one names a code: one event that is all of them (ACES takes several events of one time for one, too).
Those of the data set's file replace those of the task's. What is beyond this is refused.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking.tasks import strict_yaml
from ehr_scaling.outcomes.asking.tasks.strict_yaml import spelt

ANY_EVENT = "_ANY_EVENT"
UNNAMED = "???"  # what a task file leaves to the data set's
_NAME = r"[A-Za-z_]\w*"
_UNITS = {"s": 1 / 3600, "m": 1 / 60, "h": 1.0, "d": 24.0, "w": 168.0}  # hours
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)")
_POINT = re.compile(rf"(trigger|start|end|{_NAME}\.(?:start|end))\s*(?:(->|<-)\s*({_NAME})|([+-])\s*(\w[\w. ]*))?")
_COUNT = re.compile(r"\(\s*(None|null|\d+)\s*,\s*(None|null|\d+)\s*\)")
_TASK = ("metadata", "description", "predicates", "trigger", "windows")
_WINDOW = ("start", "end", "start_inclusive", "end_inclusive", "has", "label", "index_timestamp")
_PLAIN = ("code", "value_min", "value_max", "value_min_inclusive", "value_max_inclusive")
_INF = float("inf")


class Plain(NamedTuple):
    """Events of some codes, or of any code, with a value between limits."""

    name: str  # of the predicate
    codes: tuple[str, ...] = ()  # any of them; none and no regex: any code
    regex: str = ""  # found in the code
    limits: tuple[tuple[str, float], ...] = ()  # by names of fields of `bounds.Bound`

    @property
    def any_code(self) -> bool:
        return not self.codes and not self.regex


Predicate = tuple[Plain, ...]  # an event of any of them


class Criteria(NamedTuple):
    """What a task file says of the time after the prediction."""

    label: Predicate
    horizon: float | None  # hours after the prediction; None: until an event of `against`, or for ever
    gap: float  # hours after the prediction before which nothing counts
    against: Predicate  # events with which the label's window ends
    excluded: Predicate  # events that its window, or the gap, must not hold
    required: Predicate  # events of which its window must hold one
    alive: bool  # whether the record must go on after it


class _Point(NamedTuple):
    """A bound of a window: hours after the trigger, and there or, with `until`, at the next such event after it.

    past: it is an event before that time, which nobody knows.
    """

    hours: float
    until: str = ""
    past: bool = False


def read(task_file: Path, predicates_file: Path | None = None) -> Criteria:
    """Raises: UserError for a file that is none, that contradicts itself, or that says more than is read here."""
    task = _mapping(strict_yaml.read(task_file, "a task file of MEDS-DEV"), task_file, _TASK)
    for key in ("trigger", "windows"):
        if not task.get(key):
            raise UserError(f"{task_file} has no {key}: give a task file of MEDS-DEV")
    of_task_file = _mapping(task.get("predicates") or {}, task_file)
    raw = {name: (task_file, fields) for name, fields in of_task_file.items()}
    if predicates_file is not None:
        given = _mapping(strict_yaml.read(predicates_file, "a data set's predicates.yaml"), predicates_file)
        theirs = _mapping(given.get("predicates") or {}, predicates_file)
        raw |= {name: (predicates_file, fields) for name, fields in theirs.items()}
    return _Task(task_file, raw, _mapping(task["windows"], task_file)).criteria()


def _mapping(value: Any, path: Path, allowed: tuple[str, ...] = (), where: str = "") -> dict[str, Any]:
    at = f"{path}: {where}" if where else f"{path}"
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{at}: {spelt(value)} stands where names with fields should")
    if allowed and (unknown := [key for key in value if key not in allowed]):
        raise UserError(f"{at}: {spelt(unknown[0])} is beyond what is read of task files ({', '.join(allowed)})")
    return value


class _Task(NamedTuple):
    path: Path
    raw: dict[str, tuple[Path, Any]]  # predicates by name: the file that has the last word, and what it says
    windows: dict[str, Any]

    def criteria(self) -> Criteria:
        for name, window in self.windows.items():
            _mapping(window, self.path, _WINDOW, f"window {name}")
        at, side = self._only("index_timestamp")
        label_window, label = self._only("label")
        if side not in ("start", "end"):
            raise self._wrong(f"window {at}: index_timestamp is {spelt(side)}: take start or end")
        now, begin = self.point(at, side), self.point(label_window, "start")
        if now.past or now.until or now.hours in (_INF, -_INF):
            raise self._wrong(
                f"window {at}: the prediction is not at a time after the trigger, which is all that is read"
            )
        end = self.point(label_window, "end")
        if begin.past or begin.until or begin.hours < now.hours:
            raise self._wrong(f"window {label_window}: the label is not looked for in the time after the prediction")
        before: list[Plain] = []  # what the gap must not hold
        excluded: list[Plain] = []
        required: list[Plain] = []
        alive = False
        for name in self.windows:
            here = self.point(name, "start"), self.point(name, "end")
            if here[1].past or (here[1].hours <= now.hours and not here[1].until):
                continue  # of the time before the prediction: the labels say whom that leaves
            for predicate, (least, most) in self.counts(name).items():
                if (least, most) == (None, None):
                    continue
                if not least and most == 0 and self._gap(here, now, begin):
                    before += self.predicate(predicate)
                elif not least and most == 0 and here[1] == end and here[0].hours <= begin.hours and not here[0].past:
                    excluded += self.predicate(predicate)
                elif (least, most) == (1, None) and name == label_window:
                    required += self.predicate(predicate)
                elif (least, most) == (1, None) and predicate == ANY_EVENT and here[0] == end and here[1].hours == _INF:
                    alive = True
                else:
                    raise self._wrong(
                        f"window {name}: {predicate}: ({least}, {most}) reaches past the prediction in a way that is "
                        "not read: none of an event until the label's window ends, or one of it in that window"
                    )
        against = self.predicate(end.until) if end.until else ()
        if begin.hours > now.hours and not {*self.predicate(label), *against} <= set(before):
            raise self._wrong(
                f"window {label_window}: it begins after the prediction, and what decides it may come before it "
                "begins: that is not read"
            )
        return Criteria(
            label=self.predicate(label),
            horizon=None if end.until or end.hours == _INF else end.hours - now.hours,
            gap=begin.hours - now.hours,
            against=against,
            excluded=(*before, *excluded),
            required=tuple(required),
            alive=alive,
        )

    def _gap(self, here: tuple[_Point, _Point], now: _Point, begin: _Point) -> bool:
        """Whether a window holds all that lies between the prediction and the label's window, and no more after it."""
        known = not (here[0].past or here[0].until or here[1].until)
        return known and here[0].hours <= now.hours and here[1].hours == begin.hours

    def _only(self, field: str) -> tuple[str, str]:
        """The window that has a field, and what it says."""
        having = [(name, str(window[field])) for name, window in self.windows.items() if window.get(field) is not None]
        if len(having) != 1:
            raise self._wrong(f"{len(having)} windows have {field}: one must")
        return having[0]

    def point(self, window: str, side: str, seen: tuple[tuple[str, str], ...] = ()) -> _Point:
        """Where a window begins or ends, from the trigger."""
        if (window, side) in seen:
            raise self._wrong(f"window {window}: its {side} refers to itself")
        text = self.windows[window].get(side)
        if text is None:
            return _Point(-_INF if side == "start" else _INF)
        match = _POINT.fullmatch(str(text).strip())
        if not match:
            raise self._wrong(f"window {window}: {side} is {spelt(text)}, which is not read")
        to, arrow, event, sign, span = match.groups()
        if to == "trigger":
            start = _Point(0.0)
        else:
            other, _, which = to.rpartition(".")
            if other and other not in self.windows:
                raise self._wrong(f"window {window}: {side} names the window {other}, which is not there")
            start = self.point(other or window, which, (*seen, (window, side)))
        if (arrow or sign) and start.until:
            raise self._wrong(f"window {window}: {side} is {spelt(text)}, counted from an event: that is not read")
        if arrow:
            if event not in self.raw and event != ANY_EVENT:
                raise self._wrong(f"window {window}: {side} names the predicate {event}, which is nowhere")
            return _Point(start.hours, event) if arrow == "->" else start._replace(past=True)
        return start._replace(hours=start.hours + float(f"{sign}1") * self._hours(span, window)) if sign else start

    def _hours(self, text: str, window: str) -> float:
        if not re.fullmatch(rf"(?:{_SPAN.pattern}\s*)+", text.strip()):
            raise self._wrong(f"window {window}: {spelt(text)} is no span of time that is read: 24h, 30d, 2 days")
        return sum(float(n) * _UNITS[unit[0]] for n, unit in _SPAN.findall(text))

    def counts(self, window: str) -> dict[str, tuple[int | None, int | None]]:
        out = {}
        for predicate, text in _mapping(
            self.windows[window].get("has") or {}, self.path, (), f"window {window}"
        ).items():
            match = _COUNT.fullmatch(str(text).strip())
            if not match:
                raise self._wrong(f"window {window}: {predicate}: {spelt(text)} is no pair like (None, 0)")
            least, most = (int(n) if n.isdecimal() else None for n in match.groups())
            out[predicate] = (least, most)
        return out

    def predicate(self, name: str, seen: tuple[str, ...] = ()) -> Predicate:
        here, fields = self.raw.get(name, (self.path, None))
        if fields is None or fields == UNNAMED or (isinstance(fields, dict) and fields.get("code") == UNNAMED):
            raise UserError(f"{here}: the predicate {name} is not told there: name it in the file of --predicates")
        if name in seen:
            raise UserError(f"{here}: predicate {name} refers to itself")
        fields = _mapping(fields, here, ("expr", *_PLAIN), f"predicate {name}")
        if "expr" not in fields:
            return (_plain(here, name, fields),)
        text = str(fields["expr"]).strip()
        match = re.fullmatch(rf"(?:(and|or)\()?\s*({_NAME}(?:\s*,\s*{_NAME})*)\s*(\))?", text)
        if not match or bool(match[1]) != bool(match[3]) or len(fields) > 1 or (not match[1] and "," in text):
            raise UserError(f"{here}: predicate {name}: {spelt(text)} is not read: or(…) or and(…) of names")
        parts = [self.predicate(part.strip(), (*seen, name)) for part in match[2].split(",")]
        if match[1] != "and":
            return tuple(plain for part in parts for plain in part)
        together = parts[0]
        for part in parts[1:]:
            together = tuple(_both(here, name, a, b) for a in together for b in part)
        return together

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}")


def _both(path: Path, name: str, a: Plain, b: Plain) -> Plain:
    """An event that is both."""
    if not a.any_code and not b.any_code:
        raise UserError(
            f"{path}: predicate {name}: and() of {a.name} and {b.name} is of two events at one time, which is not "
            "read: one of them may name a code"
        )
    coded = b if a.any_code else a
    return Plain(coded.name, coded.codes, coded.regex, tuple(dict.fromkeys((*a.limits, *b.limits))))


def _plain(path: Path, name: str, fields: dict[str, Any]) -> Plain:
    def wrong(what: str) -> UserError:
        return UserError(f"{path}: predicate {name}: {what}")

    code = fields.get("code")
    codes: tuple[str, ...] = ()
    regex = ""
    match code:
        case None:
            pass
        case str() if code:
            codes = (code,)
        case {"regex": str(regex), **rest} if regex and not rest:
            try:
                re.compile(regex)
            except re.error as e:
                raise wrong(f"the regex {spelt(regex)} is none ({e})") from None
        case {"any": [*several], **rest} if several and not rest and all(isinstance(x, str) and x for x in several):
            codes = tuple(several)
        case _:
            raise wrong(f"code is {spelt(code)}: take a code, {{regex: …}} or {{any: […]}}")
    limits = []
    for side, strict, inclusive in (("value_min", "above", "at_least"), ("value_max", "below", "at_most")):
        limit = fields.get(side)
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float) or abs(limit) == _INF:
            raise wrong(f"{side} is {spelt(limit)}: take a number")
        limits.append((inclusive if fields.get(f"{side}_inclusive") else strict, float(limit)))
    return Plain(name, codes, regex, tuple(limits))
