"""Which tokens of a timeline make one event, and the code that they tell: the way back of `tokenizer`.

A timeline does not say where an event begins; the tables by which the presets cut codes (`presets.paths`) do, for all
events whose codes the vocabulary knows, but for these of the ETHOS programs: the several ATC codes of one drug are
as many events here, and a diagnosis without a title goes with one before it that has a title alone. The two values of
a blood pressure that those programs name once are one event.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ehr_scaling.data.presets.paths import ATC, DETAILS, ETHOS_CM, PATHS, PRESSURE, PRESSURES, Path
from ehr_scaling.data.vocabulary import PAD, UNK, Vocabulary, family


class Event(NamedTuple):
    """Tokens that tell of one event."""

    at: int  # place of the first of them
    tokens: tuple[int, ...]


class _Part(NamedTuple):
    """A token that is a part of a classification's codes."""

    path: Path
    number: int  # of the part, from 0; 0 where all parts have one prefix
    text: str  # the part of the code
    full: bool  # whether a further part may follow it


class Grouping:
    """Puts the tokens of one vocabulary together to events."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        index = vocabulary.index
        self.values = frozenset(index[name] for name in vocabulary.quantile_tokens)
        self._pad = index[PAD]
        self._silent = frozenset((self._pad, *(index[name] for name in vocabulary.intervals)))
        self._parts = [_part(name) for name in vocabulary.tokens]
        self._depth = vocabulary.settings.get("code_depth", 0)
        self._details = {}
        for name, detail in DETAILS.items():
            how = {i for i, token in enumerate(vocabulary.tokens) if token.startswith(f"{detail}//")}
            if name in index and how:
                unknown = {index[UNK]} if f"{detail}//{UNK}" not in index else set()  # what one not known becomes
                self._details[index[name]] = how | unknown

    def split(self, tokens: Sequence[int], times: Sequence[int] | None = None) -> Iterator[Event]:
        """The events of a timeline, or of a part of one, in their order. Intervals and padding are in none of them.

        A value that follows no code is an event of its own. Procedures that follow each other are told apart where all
        of them have their seven characters, else they are one event: a wrong cut would tell of what was not done. Only
        the last one, before the end or padding, may be cut short, as by the end of a simulation.
        Args: times, of the tokens; what has two times is two events, else an interval alone tells them apart.
        """
        run: list[int] = []
        at = 0
        for i, token in enumerate(tokens):
            together = times is None or not i or times[i] == times[i - 1]
            if run and together and self._goes_on(run, token):
                run.append(token)
                continue
            yield from self._events(run, at, last=token == self._pad)
            run, at = [] if token in self._silent else [token], i
        yield from self._events(run, at, last=True)

    def _goes_on(self, run: list[int], token: int) -> bool:
        last = run[-1]
        if token in self.values:
            most = len(PRESSURES) if self.vocabulary.tokens[run[0]] == PRESSURE else 1
            return run[0] not in self.values and sum(i in self.values for i in run) < most
        if last in self.values:
            return False
        before, part = self._parts[last], self._parts[token]
        if before is None or part is None:
            return token in self._details.get(last, ())
        if before.path is not part.path:
            return False
        return before.path.alike or (before.full and part.number == before.number + 1)

    def _events(self, run: list[int], at: int, *, last: bool) -> Iterator[Event]:
        part = self._parts[run[0]] if run else None
        size = characters = len(run)
        if part is not None and part.path.alike:
            characters = sum(i not in self.values for i in run)
            whole = min(len(part.path.prefixes), self._depth or characters)
            size = whole if last or characters % whole == 0 else characters
        starts = range(0, characters, size or 1)
        for start in starts:
            end = start + size if start < starts[-1] else len(run)
            yield Event(at + start, tuple(run[start:end]))

    def code(self, tokens: Sequence[int]) -> str:
        """The code of an event as sources spell it, as far as its tokens tell; values among them count for nothing.

        The tokens of one ICD or ATC code are put together again (DIAGNOSIS//ICD//10//I5023), details follow their event
        (HOSPITAL_DISCHARGE//HOME), all else is as the vocabulary spells it.
        """
        some = [i for i in tokens if i not in self.values]
        first, *rest = (self.vocabulary.tokens[i] for i in some)
        parts = [part for i in some if (part := self._parts[i]) is not None]
        if len(parts) < len(some):
            return "//".join((first, *(name.partition("//")[2] or name for name in rest)))
        path = parts[0].path
        titled = path is ETHOS_CM and len(parts[0].text) > path.ends[0]  # then the first part of the code is not known
        if parts[0].number or titled:
            return "//".join((first, *(part.text for part in parts[1:])))
        return path.code + "".join(part.text for part in parts)


def _part(name: str) -> _Part | None:
    """The part of a code that a token is, if it is one."""
    if name == f"{family(name)}//{UNK}":
        return None
    fits = [(prefix, path, k) for path in PATHS for k, prefix in enumerate(path.prefixes) if name.startswith(prefix)]
    if not fits:
        return None
    prefix, path, number = max(fits, key=lambda fit: (len(fit[0]), -fit[2]))
    text = name[len(prefix) :]
    if path is ATC and number == 0:
        text = text.partition("//")[0]  # its title follows
    bounds = (0, *path.limits(text if number == 0 else ""))
    width = bounds[number + 1] - bounds[number] if number < len(path.ends) else len(text)
    if path is ETHOS_CM and number == 0:
        return _Part(path, 0, text, full=len(text) >= width)
    if not text or "//" in text or len(text) > width:
        return None
    return _Part(path, number, text, full=len(text) == width and number < len(path.ends))
