"""The page of simulated futures: a few timelines, each with its history, its futures and its risks over time.

It stands alone, needs no network and no script, and is for data that anybody may see: generated patients and the open
releases. It holds no subject id and no date; times are told from the prediction.
"""

import collections
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.analysis import wording
from ehr_scaling.analysis.report import html
from ehr_scaling.analysis.report.html import Raw
from ehr_scaling.data.inspection.inspection import YEAR_PLACE, context_names
from ehr_scaling.data.vocabulary import END, Vocabulary, family
from ehr_scaling.errors import UserError
from ehr_scaling.models.transformer import PAD
from ehr_scaling.outcomes.exchange import trajectories
from ehr_scaling.outcomes.judging.estimators import Estimate, Value
from ehr_scaling.outcomes.pages import fan_figure, incidence
from ehr_scaling.outcomes.pages.fan_figure import Copy, Mark
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, POSITIVE, RUNNING, Clock, Futures

TITLE = "Simulated futures"
# Open releases: source, name of the data set and licence, as the events' record has them
OPEN_DATA = (
    ("mimic-iv", "MIMIC-IV Clinical Database Demo", "ODbL 1.0"),
    ("challenge-2012", "PhysioNet/CinC Challenge 2012", "Open Data Commons Attribution License v1.0"),
    ("challenge-2012", "PhysioNet/CinC Challenge 2012", "open access, see location_uri"),  # of events made before
)
_MOMENTS = 60  # of a history, the last ones
_TIMES, _EVENTS = 4, 4  # of a future in its row of the table, and events at each time

_GROUPS = {
    "care": """HOSPITAL_ADMISSION ADMISSION_TYPE HOSPITAL_DISCHARGE DISCHARGE_LOCATION ICU_ADMISSION ICU_TYPE
        ICU_DISCHARGE ED_REGISTRATION ED_TRANSPORT ED_OUT ED_DISPOSITION TRANSFER TRANSFER_TO SERVICE MEDS_DEATH
        TIMELINE_END""",
    "diagnosis": "DIAGNOSIS ICD10CM ICD9CM ICD DRG",
    "procedure": "PROCEDURE ICD10PCS ICD9PCS HCPCS",
    "drug": "MEDICATION MED ATC INFUSION_START INFUSION_END",
    "measure": "LAB VITAL CHART OBS SOFA ACUITY BMI SUBJECT_FLUID_OUTPUT SUBJECT_WEIGHT_AT_INFUSION",
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names.split()}
# How a copy ends, by the event that ended it: in words, and as a mark
_ENDS = {
    "MEDS_DEATH": ("died", "cross"),
    "HOSPITAL_DISCHARGE": ("left hospital", "circle"),
    "ICU_DISCHARGE": ("left intensive care", "circle"),
    "ED_OUT": ("left emergency dept.", "circle"),
    "HOSPITAL_ADMISSION": ("admitted", "triangle"),
    "ICU_ADMISSION": ("to intensive care", "triangle"),
    "ED_REGISTRATION": ("to emergency dept.", "triangle"),
    END: ("record ends", "bar"),
}
_HORIZON, _CUT = ("horizon reached", "arrow"), ("cut off, undecided", "dots")

STYLE = (
    fan_figure.STYLE
    + """
.rests strong { display: block; }
.who { margin: .2rem 0 .4rem; padding: 0; list-style: none; max-width: none; display: flex; flex-wrap: wrap;
  gap: .3rem; }
.who li { margin: 0; padding: .1rem .6rem; border: 1px solid var(--rule); border-radius: 1rem; background: var(--soft);
  font-size: .88rem; }
.moments { list-style: none; padding: 0; margin: .4rem 0; max-width: none; max-height: 26rem; overflow-y: auto;
  border: 1px solid var(--rule); border-radius: .5rem; }
.moments > li { display: grid; grid-template-columns: 11rem 1fr; gap: .8rem; margin: 0; padding: .35rem .8rem;
  border-bottom: 1px solid var(--rule); font-size: .9rem; }
.moments > li:last-child { border-bottom: 0; }
.when { color: var(--muted); font-variant-numeric: tabular-nums; }
.event { display: inline-block; margin: 0 .9rem .1rem 0; padding-left: .55rem; border-left: .25rem solid var(--own); }
@media (max-width: 40rem) { .moments > li { grid-template-columns: 1fr; gap: .1rem; } }
"""
)


class Outcome(NamedTuple):
    """What is asked of the futures; outcome k is that of `Futures.ended[..., k]`."""

    name: str
    description: str
    estimate: Estimate | Value  # of the n samples: a probability by SCOPE, or days


def page(
    events: Mapping[str, Any],
    vocabulary: Vocabulary,
    prompts: np.ndarray,
    futures: Futures,
    outcomes: Sequence[Outcome],
    *,
    clock: Clock,
    gaps: np.ndarray,
    horizons: np.ndarray,
    silence: float = 0.0,
    labels: Mapping[str, str] | None = None,
    model: str = "",
) -> str:
    """The HTML of n timelines, each with C copies and K outcomes.

    Args:
      events: the record of the events the timelines were made of (`events/artifact.json`).
      prompts, int (n, P); gaps, float32 (n,) hours; horizons, float32 (n, K) hours; clock: as given to `simulate`.
      silence: hours after the prediction that the gaps reach to, see `tasks.Task`.
      labels: what a code means, see `data.inspection.labels`.
      model: a sentence that says which model drew the futures.
    Raises: UserError for records that not everybody may see.
    """
    check_open(events)
    about = events["summary"]
    reader = trajectories.Reader(vocabulary)
    hours = silence + trajectories.elapsed(futures.tokens, clock, gaps)
    futures = futures._replace(hours=futures.hours + np.float32(silence))
    horizons = horizons + np.float32(silence)
    sections = []
    for i in range(len(prompts)):
        told = _Timeline(i, reader, clock, labels or {}, float(gaps[i]) - silence)
        copies = told.copies(futures, hours, horizons)
        sections.append(_section(told, len(prompts), prompts[i], copies, futures, outcomes, horizons))
    banner = (
        f"Data: {about['name']} ({about['license']}). {_WHOSE[about.get('generated') is True]} The futures are drawn "
        "by a statistical model: no medical advice about anybody."
    )
    lead = (
        f"{wording.plural(len(prompts), 'timeline')}, each continued {futures.tokens.shape[1]} times from the moment "
        f"of the prediction. {model}"
    )
    contents = [(f"timeline-{i + 1}", f"Timeline {i + 1}") for i in range(len(prompts))]
    contents.append(("reading", "How to read it"))
    return html.page(TITLE, banner, lead.strip(), contents, [*sections, _READING], STYLE)


_WHOSE = {True: "Nobody's records: generated patients.", False: "De-identified records of an open release."}


def check_open(events: Mapping[str, Any]) -> None:
    """Raises UserError unless the records are generated, or of one of the open releases, by the record of the events.

    A MEDS data set says itself what it is called, which proves nothing: it is refused.
    """
    about, source = events.get("summary", {}), events.get("inputs", {}).get("source")
    if about.get("generated") is True or (source, about.get("name"), about.get("license")) in OPEN_DATA:
        return
    names = " and ".join(dict.fromkeys(name for _, name, _ in OPEN_DATA))
    raise UserError(
        f"the records are {about.get('name', 'of unknown origin')} ({about.get('license', 'no licence is stated')}): a "
        f"page of single patients is made of generated ones, {names} alone"
    )


def group(token: str) -> str:
    """The group of events, by which colours go, of the first token of an event."""
    return "procedure" if token.startswith("ICD//PCS//") else _GROUP_OF.get(family(token), "other")


class _Timeline:
    """One timeline and its copies, in words and as the figure wants them."""

    def __init__(
        self, i: int, reader: trajectories.Reader, clock: Clock, labels: Mapping[str, str], quiet: float
    ) -> None:
        self.i, self.reader, self.vocabulary = i, reader, reader.vocabulary
        self.hours, self.labels, self.quiet = np.asarray(clock.hours, np.float64), labels, quiet

    def events(self, tokens: np.ndarray, times: np.ndarray) -> Iterator[Mark]:
        for event in self.reader.events(tokens.tolist()):
            names = group(self.vocabulary.tokens[event.tokens[0]])
            for code, value in self.reader.rows(event):
                yield Mark(float(times[event.at]), names, self.words(code, value))

    def words(self, code: str, value: float | None) -> str:
        text = self.labels.get(code) or _readable(code)
        return text if value is None else f"{text} ≈ {wording.significant(value)}"

    def context(self, prompt: np.ndarray) -> list[str]:
        """The static facts of the prompt, `slot: value` each."""
        size = self.vocabulary.context_tokens
        tokens = prompt[prompt != PAD][:size]
        slots = context_names(self.vocabulary)
        values = [self.vocabulary.tokens[t] for t in tokens.tolist()]
        pairs = [(slot, value.removeprefix(f"{slot}//")) for slot, value in zip(slots, values, strict=False)]
        return [f"{_first_upper(_readable(s))}: {_first_upper(_readable(v))}" for s, v in pairs if s != YEAR_PLACE]

    def history(self, prompt: np.ndarray) -> list[Mark]:
        """The events of the prompt, by hours before the prediction, the last one first."""
        tokens = prompt[prompt != PAD][self.vocabulary.context_tokens :]
        after = np.cumsum(self.hours[tokens][::-1])[::-1] - self.hours[tokens]  # intervals that follow a token
        return list(self.events(tokens, self.quiet + after))[::-1]

    def copies(self, futures: Futures, hours: np.ndarray, horizons: np.ndarray) -> list[Copy]:
        every = range(futures.tokens.shape[1])
        return fan_figure.order([self._copy(c, futures, hours, float(horizons[self.i].max())) for c in every])

    def _copy(self, c: int, futures: Futures, hours: np.ndarray, horizon: float) -> Copy:
        length = int(futures.lengths[self.i, c])
        tokens, times = futures.tokens[self.i, c, :length], hours[self.i, c, :length]
        marks = list(self.events(tokens, times))
        last = float(times[-1]) if length else 0.0
        if not length or (futures.ended[self.i, c] == RUNNING).any():
            end, shape = _CUT
        elif self.hours[tokens[-1]] > 0:
            (end, shape), last = _HORIZON, min(last, horizon)
        else:
            *_, event = self.reader.events(tokens.tolist())
            rows = self.reader.rows(event)
            told = self.words(rows[0][0], None) if rows else "a value"
            end, shape = _ENDS.get(self.vocabulary.tokens[event.tokens[0]], (told, "square"))
        title = f"Future {c + 1}: {wording.plural(len(marks), 'event')}; {end} after {duration(last)}"
        return Copy(marks, last, end, shape, title)


def _section(
    told: _Timeline,
    of: int,
    prompt: np.ndarray,
    copies: Sequence[Copy],
    futures: Futures,
    outcomes: Sequence[Outcome],
    horizons: np.ndarray,
) -> Raw:
    i, c = told.i, len(copies)
    history = told.history(prompt)
    risks, rows = [], []
    for k, outcome in enumerate(outcomes):
        ended, horizon = futures.ended[i, :, k], float(horizons[i, k])
        yes, no = int((ended == POSITIVE).sum()), int((ended == NEGATIVE).sum())
        estimate = outcome.estimate
        if isinstance(estimate, Value):
            number, counted = _days(float(estimate.value[i]), float(estimate.error[i])), f"{yes + no} of {c} futures"
            notes = ["mean ± standard error", f"of {counted}"]
        else:
            number, counted = (
                _estimate(float(estimate.probability[i]), float(estimate.error[i])),
                f"{yes} of {yes + no}",
            )
            notes = ["SCOPE ± standard error", f"by counting: {counted}"]
        name = _first_upper(wording.title(outcome.name).replace("icu", "ICU"))
        curve = incidence.cumulative(futures.hours[i, :, k], ended)
        notes += [f"undecided: {c - yes - no}"] if c - yes - no else []
        risks.append(fan_figure.Risk(name, number, notes, curve, horizon))
        watched = duration(horizon) if math.isfinite(horizon) else "to its end"
        rows.append((name, outcome.description, watched, number, counted, c - yes - no))
    ends = collections.Counter(copy.end for copy in copies)
    summary = ", ".join(f"{n} {end}" for end, n in ends.most_common())
    label = (
        f"Timeline {i + 1}: {wording.plural(len(history), 'event')} of history, and {c} simulated futures: {summary}. "
        + " ".join(f"{risk.name}: {risk.estimate}." for risk in risks)
    )
    figure = Raw(
        f'<figure><div class="wide">{fan_figure.draw(history, copies, risks, label)}</div><figcaption>{_CAPTION}'
        "</figcaption></figure>"
    )
    header = ("outcome", "what is asked", "watched for", "estimate", "by counting", "undecided")
    return html.section(
        f"timeline-{i + 1}",
        f"Timeline {i + 1} of {of}",
        Raw(f'<ul class="who">{"".join(f"<li>{html.text(fact)}</li>" for fact in told.context(prompt))}</ul>'),
        figure,
        html.table(header, rows, words=(0, 1), long=(1,)),
        _details(f"The history in words: {wording.plural(len(history), 'event')}", _moments(history)),
        _details(f"The futures in words: {summary}", _copies(copies)),
    )


def _details(title: str, body: Raw) -> Raw:
    return Raw(f"<details><summary>{html.text(title)}</summary>{body}</details>")


def _moments(history: Sequence[Mark]) -> Raw:
    """The last events first, those of one time together."""
    moments = [(hours, list(marks)) for hours, marks in itertools.groupby(history, key=lambda mark: mark.hours)]
    items = []
    for hours, marks in moments[:_MOMENTS]:
        counts = collections.Counter((name, text) for _, name, text in reversed(marks))
        told = "".join(
            f'<span class="event {name}">{html.text(text)}{f" ×{n}" if n > 1 else ""}</span>'
            for (name, text), n in counts.items()
        )
        when = f"about {duration(hours)} before" if hours >= 1 / 60 else "at the prediction"
        items.append(f'<li><span class="when">{when}</span><span>{told}</span></li>')
    if len(moments) > _MOMENTS:
        items.append(f'<li><span class="when">earlier</span><span>{len(moments) - _MOMENTS} more times</span></li>')
    return Raw(f'<ol class="moments" tabindex="0">{"".join(items)}</ol>')


def _copies(copies: Sequence[Copy]) -> Raw:
    """A row a copy, in the order of the figure, with the first of its events by time."""
    rows = []
    for copy in copies:
        times = [(hours, list(marks)) for hours, marks in itertools.groupby(copy.marks, key=lambda mark: mark.hours)]
        parts = []
        for hours, marks in times[:_TIMES]:
            told = ", ".join(mark.words for mark in marks[:_EVENTS])
            parts.append(f"{duration(hours)}: {told}{', …' if len(marks) > _EVENTS else ''}")
        if len(times) > _TIMES:
            parts.append(f"{len(times) - _TIMES} more times")
        rows.append((copy.end, duration(copy.hours), len(copy.marks), "; ".join(parts)))
    return html.table(("ends", "after", "events", "first events"), rows, words=(0, 3), long=(3,))


def _estimate(probability: float, error: float) -> str:
    if not math.isfinite(probability):
        return "unknown"
    places = 1 if probability < 0.995 else 2
    return wording.percent(probability, places) + (f" ± {100 * error:.1f}" if math.isfinite(error) else "")


def _days(value: float, error: float) -> str:
    """Mean of the futures that were decided, which may be none."""
    if not math.isfinite(value):
        return "unknown"
    return f"{value:.1f}" + (f" ± {error:.1f} days" if math.isfinite(error) else " days")


_UNITS = (
    (24 * 365.25, "year"),
    (24 * 30.4375, "month"),
    (24 * 7, "week"),
    (24, "day"),
    (1, "hour"),
    (1 / 60, "minute"),
)


def duration(hours: float) -> str:
    """In the largest unit of which there are about two or more: '36 hours', '3 weeks'; '0 minutes' at the least."""
    size, unit = next(((s, u) for s, u in _UNITS if hours >= 1.95 * s), _UNITS[-1])
    return wording.plural(round(hours / size), unit)


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _readable(code: str) -> str:
    """A code as words: LAB//50912//MG/DL is 'LAB 50912 mg/dl', MED//SODIUM_BICARBONATE 'sodium bicarbonate'."""
    name, _, rest = code.partition("//")
    text = rest if rest and name in _OBVIOUS else code
    for long, short in _SPELT.items():
        text = text.replace(long, short)
    return " ".join(word if _is_short(word) else word.lower() for word in text.split(" "))


def _is_short(word: str) -> bool:
    return word in _SHORT or word.endswith("ICU") or any(character.isdigit() for character in word)


_SPELT = {"MEDS_": "", "DIAGNOSIS//ICD//": "ICD-", "PROCEDURE//ICD//": "procedure ICD-", "//": " ", "_": " "}
_OBVIOUS = ("MED", "VITAL", "CHART", "OBS")  # families whose name tells nothing that the rest does not
_SHORT = frozenset(("BP", "CCU", "ED", "LAB", "DRG", "BMI", "SOFA", "HCPCS", "ATC"))
_CAPTION = (
    "Time runs from the prediction to both sides, about linear within an hour and logarithmic beyond. To the left what "
    "the model was shown, a lane for each kind of event; to the right its simulated futures, a line each, marks "
    "coloured by the lanes. Below, the share of futures in which an outcome has come, with its pointwise 95 % band. "
    "A dashed line is the end of the time in which it counts."
)
_READING = html.section(
    "reading",
    "How to read it",
    html.bullets(
        [
            "Each line is one future that the model drew, event by event, after the same history. None of them is what "
            "happened, and they differ by chance alone: their spread is the model's uncertainty.",
            "A timeline tells time by classes of intervals. Times in history and futures are sums of the mean lengths "
            "of these classes in the training data, so they are approximate.",
            "Values stand for the middle of the bin that the model named.",
            "Estimate of a risk, by SCOPE: the mean over futures of the probabilities that the model gave to the "
            "outcome on the way, relative to those of the outcome and its opposite (arXiv 2602.03730), ± one standard "
            "error in percentage points. It has less noise than counting how many futures end with the outcome, which "
            "stands beside it. Estimate of days: the mean of the futures that came to the end that is asked for; where "
            "many were cut off it is too short.",
            "Curve and band: cumulative incidence by the estimate of Aalen and Johansen. Futures that end undecided "
            "count as censored, the opposite of an outcome as its competing risk. The band is Clopper and Pearson's "
            "interval at the effective number of futures. It says how well so few futures tell what the model expects, "
            "not how well the model knows the world.",
        ]
    ),
)
