"""The data card of timelines: README.md beside them, for whoever finds the folder without its makers."""

import collections
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling import __version__
from ehr_scaling.artifacts import write_text
from ehr_scaling.data import disclosure, vocabulary
from ehr_scaling.data.inspection.inspection import LEFT_OUT, options, source_counts, source_facts, words
from ehr_scaling.data.vocabulary import Vocabulary

FILE = "README.md"
_SPLITS = {"train": "train", "validation": "tuning", "test": "held_out"}  # ours: those of the events

_FIELDS = (
    ("`subject_id`", "int64", "the source's"),
    ("`birth`", "int64", "µs since 1970, the smallest int64 where it is not known"),
    ("`tokens`", "(n,)", "numbers of tokens; `vocabulary.json` names them"),
    ("`times`", "(n,) int64", "µs since 1970; a token of an interval has the time of the event that ends it"),
    (
        "`context_tokens`, `context_times`, `context_slots`",
        "(m,)",
        "static context: each value and since when it holds",
    ),
)

_READING = """\
```python
from ehr_scaling.data.timelines import timelines

vocabulary = timelines.vocabulary("timelines")  # this folder, or the work directory it lies in
for patient in timelines.read("timelines", "train"):
    names = [vocabulary.tokens[i] for i in patient["tokens"]]
```

`tensorflow_datasets.builder_from_directory("timelines").as_data_source("train")` reads the same. For counts, lengths
and bins as tables or a page: `python -m ehr_scaling.launch.inspect --workdir=W`."""

GENERATED_USE = """\
To try programs, to test them at full size, and to show what they do, where no real records may be used. Nothing that a
model learns from these patients is medicine: their diseases, drugs and fates come from made-up tables."""

REAL_USE = """\
Research on models of health records, under the terms of the source. Not for the care of patients. The records show what
was written down in the course of care, and for billing where there is any, at the places they come from, with those
places' habits and gaps; what is not recorded did not necessarily not happen. A model trained on them says nothing yet
about other hospitals, years or groups of patients."""


class Table(NamedTuple):
    """header: names of the columns. rows: cells, of text or numbers. numbers: of how many of the last columns they are
    numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: int = 0


Parts = list[str | Table]  # what stands under a heading; text is Markdown of paragraphs, bold and code


def write(out: Path, summary: Mapping[str, Any], events: Mapping[str, Any], *, generated: bool) -> None:
    """Write `README.md` into the timelines folder `out`, which holds its vocabulary.json.

    The same inputs give the same bytes. It holds counts and fingerprints: no subject id, no date, no path.

    Args:
      summary: as `timelines.build` returns it.
      events: the record of the events artifact.
      generated: whether no real patient is in the data.
    Raises: UserError where the vocabulary is missing or damaged.
    """
    about, fitted = events["summary"], vocabulary.load(out)
    name = _line(about.get("name", "a source without a name"))
    title = f"Generated patients: token timelines ({name})" if generated else f"Token timelines: {name}"
    reading: Parts = [Table(("field", "type", "content"), _FIELDS), _READING]
    sections = parts(summary, events, fitted, generated=generated)
    use = sections.pop("Intended use and limits")
    sections |= {"How to read it": reading, "Intended use and limits": use}
    lead = f"Patients' records as sequences of tokens, one patient a record. Made by ehr_scaling {__version__}."
    body = "\n\n".join(f"## {heading}\n\n{_markdown(part)}" for heading, part in sections.items())
    write_text(out / FILE, f"# {title}\n\n{lead}\n\n{body}\n")


def parts(
    summary: Mapping[str, Any], events: Mapping[str, Any], fitted: Vocabulary, *, generated: bool
) -> dict[str, Parts]:
    """What the card says under each of its headings, but for how to read the folder. Args: fitted, the vocabulary of
    the timelines; the others as of `write`."""
    return {
        "Source": _source(events["summary"], events["inputs"], generated),
        "Contents": _contents(summary, generated),
        "Tokens": _tokens(summary, fitted),
        "Left out": _left_out(summary, events["summary"], generated),
        "Privacy": _privacy(fitted, generated),
        "Made from": _made_from(events, fitted),
        "Intended use and limits": [GENERATED_USE if generated else REAL_USE],
    }


def _markdown(sections: Parts) -> str:
    return "\n\n".join(part if isinstance(part, str) else _table(*part) for part in sections)


def _source(about: Mapping[str, Any], inputs: Mapping[str, Any], generated: bool) -> Parts:
    def number(value: Any) -> str:
        return disclosure.words(value, generated) if type(value) is int else _value(value)

    patients = sum(about["patients"].values())
    rows = [*source_facts(about), ("read as", inputs.get("source", "not stated")), ("patients", patients)]
    tables: Parts = [Table(("", ""), [(name, number(value)) for name, value in rows])]
    for title, counted in source_counts(about).items():
        if title != LEFT_OUT:
            tables.append(Table((title, ""), [(name, number(value)) for name, value in counted], numbers=1))
    return tables


def _contents(summary: Mapping[str, Any], generated: bool) -> Parts:
    def told(n: float) -> str:
        return disclosure.words(round(n), generated)

    rows = []
    for split, of_events in _SPLITS.items():
        s = summary[split]
        lengths = [
            f"{s['tokens_per_patient'][f'p{p}']:,.0f}"
            if disclosure.quantile(s["patients"], p / 100, generated)
            else "not told"
            for p in (5, 50, 95)
        ]
        shares = _percent(s["unknown_tokens"]), _percent(s["fallback_events"])
        days = told(s["patient_days"]) if "patient_days" in s else "not counted"
        counts = told(s["patients"]), told(s["tokens"]), *lengths, told(s["events"]), days
        rows.append((split, of_events, *counts, *shares))
    header = (
        *("split", "in events/", "patients", "tokens", "p5", "p50", "p95", "events", "patient-days"),
        *("unknown", "fell back"),
    )
    note = _paragraph(
        "A patient is in one split only. p5, p50, p95: tokens a patient. Events: those that make tokens; patient-days",
        "run from the first of them to the last. Unknown: share of tokens that are UNK or FAMILY//UNK. Fell back:",
        "share of events whose code is not in the vocabulary as a whole, so that what is above it stands for it: a",
        "code without its unit or its last digits, the class of a drug. Such an event is not lost, nor is its value",
        "where that has bins.",
    )
    return [Table(header, rows, numbers=9), note]


def _tokens(summary: Mapping[str, Any], fitted: Vocabulary) -> Parts:
    seen = sum(n > 0 for n in fitted.counts)
    slots = ", ".join(fitted.context_slots) or "none"
    rows = [(f"`{name}`", value) for name, value in options(fitted)]
    text = _paragraph(
        f"Preset `{fitted.preset}`. {len(fitted.tokens):,} tokens, {seen:,} of them in the timelines of train;",
        f"fingerprint of the vocabulary `{summary.get('vocabulary_fingerprint', fitted.fingerprint)}`.",
        f"{len(fitted.quantiles):,} scales of values have bins. Static context: {slots}, and the age.",
    )
    return [text, Table(("option", "value"), rows)]


def _left_out(summary: Mapping[str, Any], about: Mapping[str, Any], generated: bool) -> Parts:
    def told(n: int) -> str:
        return disclosure.words(n, generated)

    silent = collections.Counter[str]()
    for split in _SPLITS:
        silent.update(summary[split].get("silent_events", {}))
    lists: Parts = []
    if dropped := source_counts(about).get(LEFT_OUT):
        rows = [(reason, told(n)) for reason, n in dropped]
        lists.append(Table(("left out by the source: table and reason", "rows"), rows, numbers=1))
    else:
        lists.append(f"The source {'left out no rows' if 'dropped' in about else 'does not count what it leaves out'}.")
    if rows := [(name, told(n)) for name, n in sorted(silent.items(), key=lambda item: (-item[1], item[0])) if n]:
        lists.append(Table(("events that make no token: family and reason", "events"), rows, numbers=1))
    empty = sum(summary[split]["empty_patients"] for split in _SPLITS)
    return [*lists, f"Patients without any event that makes a token: {told(empty)}."]


def _privacy(fitted: Vocabulary, generated: bool) -> Parts:
    if generated:
        return ["Nobody's record is in here: ids, times and values are drawn from a random generator."]
    k = fitted.settings.get("min_patients", 0)
    rare = (
        f"Tokens, and bins of values, that fewer than {k} patients of train have are collapsed into their parents."
        if k
        else "Tokens are kept however few patients have them: a rare one may point at a person (`min_patients` is 0)."
    )
    text = _paragraph(
        rare,
        "Free text of the records is not in here. What is: the source's patient ids, and times to the microsecond as",
        "events/ has them, neither shifted nor coarsened (some sources shift the dates of each patient before they",
        "publish). The tokens tell time by classes of intervals, and age in steps. Packed sequences made from",
        "this folder hold tokens and a running number for each patient, but no ids and no times.",
    )
    return ["**Data of real persons: keep the folder as the terms of the source demand.**", text]


def _made_from(events: Mapping[str, Any], fitted: Vocabulary) -> Parts:
    rows = [("events", events["fingerprint"])]
    rows += [(f"events: {name}", words(value)) for name, value in sorted(events["inputs"].items())]
    maps = fitted.settings.get("code_maps")
    if isinstance(maps, Mapping):
        rows += [(f"code map {name}, SHA-256", value) for name, value in sorted(maps.items())]
    return [Table(("input", "fingerprint or value"), [(name, f"`{_line(value)}`") for name, value in rows])]


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else words(value)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _line(value: Any) -> str:
    """`value` as one line that does not end a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _paragraph(*sentences: str) -> str:
    return textwrap.fill(" ".join(sentences), 116, break_long_words=False, break_on_hyphens=False)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: int = 0) -> str:
    """A table in Markdown; the last columns, `numbers` of them, stand to the right."""
    marks = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [header, marks, *rows]
    return "\n".join(f"| {' | '.join(_line(cell) for cell in line)} |" for line in lines)
