"""The cards as pages for people, in the look of the report."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ehr_scaling.analysis.report import html
from ehr_scaling.analysis.report.html import Noted, Raw
from ehr_scaling.analysis.wording import decimal, signed, span
from ehr_scaling.analysis.words import Verdict
from ehr_scaling.cards import model
from ehr_scaling.cards.evidence import Evidence
from ehr_scaling.cards.fields import OPEN, Field
from ehr_scaling.cards.metrics import Metric, Result
from ehr_scaling.cards.tripod import CHECKLIST, ITEMS
from ehr_scaling.data.inspection import card

PAGES = (("model.html", "Model card"), ("tripod.html", "TRIPOD+AI"), ("data.html", "Data card"))
_GROUPS = {
    "BasicInfo": "Model", "ReleaseInfo": "Release", "ModelSummary": "Summary", "UsesAndDirections": "Use",
    "Warnings": "Warnings", "TrustIngredients": "What it is made of", "Resources": "Resources",
    "Bibliography": "Bibliography",
}  # fmt: skip
_MARKED = re.compile(r"\*\*(.+?)\*\*|`([^`\n]+)`", re.S)


def model_page(e: Evidence, word: Verdict, fields: Sequence[Field], metrics: Sequence[Metric]) -> str:
    """fields: all of the model card, those of the metrics too."""
    without_metrics = [field for field in fields if not field.key.startswith(f"{model.MODEL}KeyMetrics/")]
    sections = []
    for group, title in _GROUPS.items():
        rows = [field for field in without_metrics if field.key.removeprefix(model.MODEL).split("/")[0] == group]
        sections.append((group.lower(), title, [_fields(rows)]))
        if group == "ModelSummary":
            sections.append(("study", "What the study found", [_laws(e)]))
        if group == "Warnings":
            by_key = {field.key: field for field in fields}
            sections += [(m.key.lower(), m.title, _metric(m, by_key)) for m in metrics]
    return _page(e, word, "Model card", "CHAI's Applied Model Card, v0.2, of one model of the study.", sections, fields)


def tripod_page(e: Evidence, word: Verdict, fields: Sequence[Field]) -> str:
    sections = []
    for name in dict.fromkeys(item.section for item in CHECKLIST):
        rows = [
            [f"{item.number} {field.label}", Noted(_said(html.chip(field.word), _text(field)), field.where)]
            for item, field in zip(CHECKLIST, fields, strict=True)
            if item.section == name
        ]
        table = html.table(["Item, and what it asks", "Answer, and where it stands"], rows, words=(0,), long=(1,))
        sections.append((name.lower().replace(" ", "-"), name, [table]))
    words = [field.word for field in fields]
    counted = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    lead = (
        f"The {ITEMS} items of TRIPOD+AI (Collins et al., BMJ 2024;385:e078378) in {len(fields)} parts, asked in our "
        f"words: {counted}."
    )
    return _page(e, word, "TRIPOD+AI", lead, sections, fields)


def data_page(e: Evidence, word: Verdict, fields: Sequence[Field]) -> str:
    parts = card.parts(e.timelines["summary"], e.events, e.fitted, generated=e.generated)
    sections = [("terms", "Terms", [_fields(fields)])]
    sections += [(name.lower().replace(" ", "-"), name, [_part(part) for part in told]) for name, told in parts.items()]
    rows = [[table, ", ".join(columns)] for table, columns in e.columns.items()]
    tables = html.table(["table in events/ (of the events the first file)", "columns"], rows, (0,), (1,))
    sections.append(
        ("tables", "Tables", [tables, html.paragraph("croissant.json names every file, with its SHA-256.")])
    )
    return _page(e, word, "Data card", "The records as events and as timelines of tokens.", sections, fields)


def _page(
    e: Evidence,
    word: Verdict,
    title: str,
    lead: str,
    sections: Iterable[tuple[str, str, Sequence[Raw]]],
    fields: Sequence[Field],
) -> str:
    """sections: name, title and parts. fields: of which those that are open are listed at the end."""
    listed = [*sections, *([("open", "Open", [_open(fields)])] if any(field.who for field in fields) else [])]
    others = Raw(" · ").join(Raw('<a href="{}">{}</a>').format(name, label) for name, label in PAGES if label != title)
    standing = Raw('<p class="found">{} {}.</p>').format(html.chip(word.word), _first_up(word.reason))
    body = [standing, html.paragraph(Raw("See also: {}").format(others), "muted")]
    body += [html.section(name, heading, *parts) for name, heading, parts in listed]
    contents = [(name, heading) for name, heading, _ in listed]
    return html.page(f"{title}: {e.source}", _rests(e), lead, contents, body)


def _rests(e: Evidence) -> str:
    """What the study rests on: the line above everything."""
    whose = "Generated patients" if e.generated else "Real patients"
    return f"{whose}: {e.source}; this model was trained on {e.words(e.cell.patients)} patients."


def _fields(fields: Sequence[Field]) -> Raw:
    rows = [
        [field.label, Noted(_said(html.chip(OPEN), text) if field.word == OPEN else text, field.where)]
        for field in fields
        for text in [_text(field)]
    ]
    return html.table(["Field", "Answer, and where it stands"], rows, words=(0,), long=(1,))


def _open(fields: Sequence[Field]) -> Raw:
    """Those that somebody has to answer, by who has to."""
    left = sorted((field for field in fields if field.who), key=lambda field: field.who)
    rows = [[f.who, _first_up(f.left or f.label), Raw("<code>{}</code>").format(f.key)] for f in left]
    note = "Answers go into a YAML file, a line `key: text` each, for launch.cards --answers=FILE."
    table = html.table(["Who", "What", "Key"], rows, (0, 2), (1,))
    return Raw("\n").join((html.paragraph(_marked(note), "muted"), table))


def _text(field: Field) -> Raw:
    """The answer, and what is open of it."""
    parts = [_paragraph(part) for part in field.text.split("\n\n") if part]
    if field.who:
        left = f"{_first_up(field.left)}. " if field.left else ""
        chip = html.chip(OPEN) + " " if parts else ""
        parts.append(Raw("{}{}To be said by {}.").format(chip, left, field.who))
    return Raw("<br>").join(parts)


def _said(chip: Raw, text: Raw) -> Raw:
    return Raw("{} {}").format(chip, text)


def _paragraph(text: str) -> Raw:
    """Lines of a text, those of a list with several as one."""
    lines = text.split("\n")
    if not all(line.startswith("- ") for line in lines):
        return Raw("<br>").join(map(_marked, lines))
    entries = [_marked(line.removeprefix("- ")) for line in lines]
    return html.bullets(entries) if len(entries) > 1 else entries[0]


def _laws(e: Evidence) -> Raw:
    rows = [[html.formula(name), Noted(value, ends), verdict] for name, value, ends, verdict in model.laws(e)]
    return html.table(["", "Value", "Word"], rows, words=(0,), long=(2,))


def _metric(metric: Metric, by_key: Mapping[str, Field]) -> list[Raw]:
    """A table of results for each task: a row a model or group, a column a measure."""
    parts = []
    for task in dict.fromkeys(result.task for result in metric.results):
        results = [result for result in metric.results if result.task == task]
        names = list(dict.fromkeys(result.name for result in results))
        cells = {(result.of, result.name): _number(result) for result in results}
        rows = [[of, *(cells.get((of, name), "–") for name in names)] for of in dict.fromkeys(r.of for r in results)]
        header = ["", *(_first_up(name) for name in names)]
        parts += [Raw("<h3>{}</h3>").format(_first_up(task)), html.table(header, rows, words=(0,))]
    return [*parts, _fields([by_key[field.key] for field in metric.fields])]


def _number(result: Result) -> Noted:
    text = signed if " less " in result.of or "large" in result.name else decimal
    number, low, high = result.measure[:3]
    return Noted(text(number, 3), span((low, high), lambda end: text(end, 3)))


def _part(part: str | card.Table) -> Raw:
    if isinstance(part, str):
        return html.paragraph(_marked(part))
    words = range(len(part.header) - part.numbers)
    rows = [[_marked(str(cell)) for cell in row] for row in part.rows]
    header = [name or " " for name in part.header]
    return html.table(header, rows, words=tuple(words))


def _marked(text: Any) -> Raw:
    """Text of Markdown with what is bold and what is code; all else is escaped."""
    out, at = Raw(), 0
    for match in _MARKED.finditer(str(text)):
        tag = "b" if match[1] else "code"
        out += Raw("{}<{t}>{}</{t}>").format(text[at : match.start()], match[1] or match[2], t=Raw(tag))
        at = match.end()
    return out + text[at:]


def _first_up(text: str) -> str:
    return text[:1].upper() + text[1:]
