"""Pages that stand alone, from the templates beside this file.

They need no network, read well on a laptop, on a phone, in the dark and on paper, and say all without their script.
Python hands plain data to the templates: text, numbers as text, and the kinds of things below.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup as Raw  # text that is HTML already; everything else is escaped
from markupsafe import escape

from ehr_scaling.analysis import wording
from ehr_scaling.analysis.words import Verdict


class Noted(NamedTuple):
    """A cell with a smaller line below it."""

    text: Any
    note: str


class Chip(NamedTuple):
    """A cell with a word of its own, as a `Verdict` has one."""

    word: str
    reason: str = ""


class Table(NamedTuple):
    """What stands in a table. A cell is text, a `Noted`, or a `Verdict` or `Chip`, shown as word and reason.

    words, long: indices of the columns of words and of sentences; the others hold numbers and stand to the right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    words: Sequence[int] = ()
    long: Sequence[int] = ()


def formula(template: str) -> Raw:
    """`N* = k (C/C0)^a` with what follows ^ (a word or {braces}) raised."""
    return Raw(re.sub(r"\^(?:\{([^}]*)\}|([\w−.]+))", lambda m: f"<sup>{m[1] or m[2]}</sup>", str(escape(template))))


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "." if reason else ""


def _interval(bounds: Sequence[float | None], how: str = "decimal", *digits: int) -> str:
    """Both ends as the function of `wording` with this name writes them."""
    return wording.span(bounds, lambda value: getattr(wording, how)(value, *digits))


ENVIRONMENT = Environment(
    loader=PackageLoader(__package__, "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
ENVIRONMENT.filters |= {name: getattr(wording, name) for name in (
    "count", "significant", "power", "decimal", "signed", "percent", "span", "plural", "integer", "title",
)}  # fmt: skip
ENVIRONMENT.filters |= {"formula": formula, "sentence": _sentence, "interval": _interval}
ENVIRONMENT.tests |= {
    "verdict": lambda value: isinstance(value, Verdict | Chip),
    "noted": lambda value: isinstance(value, Noted),
}


def render(template: str, **data: Any) -> Raw:
    """The template of this name, filled in.

    Raises: jinja2.UndefinedError where it names something that `data` has not.
    """
    return Raw(ENVIRONMENT.get_template(template).render(data))


def text(value: Any) -> Raw:
    """Escaped, unless it is HTML already."""
    return escape(value)


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], words: Sequence[int] = (), long: Sequence[int] = ()
) -> Raw:
    """A `Table` that scrolls sideways on a narrow screen."""
    return render("table.html", table=Table(header, list(rows), words, long))


def chip(word: str) -> Raw:
    """A word in the colour of what it means."""
    return Raw(str(ENVIRONMENT.get_template("parts.html").module.chip(word)))  # type: ignore[attr-defined]


def paragraph(value: Any, kind: str = "") -> Raw:
    return Raw('<p class="{}">{}</p>').format(kind, value) if kind else Raw("<p>{}</p>").format(value)


def bullets(items: Iterable[Any]) -> Raw:
    return Raw("<ul>{}</ul>").format(Raw("").join(Raw("<li>{}</li>").format(item) for item in items))


def section(name: str, title: str, *parts: Any) -> Raw:
    body = Raw("\n").join(part for part in parts if part)
    return Raw('<section id="{}"><h2>{}</h2>\n{}</section>').format(name, title, body)


def page(
    title: str, first_line: Any, lead: str, contents: Sequence[tuple[str, str]], body: Iterable[Any], style: str = ""
) -> str:
    """A page of sections with links to them. contents: name and label of each. style: more CSS."""
    return str(
        render(
            "contents.html",
            heading=title,
            first_line=first_line,
            lead=lead,
            contents=contents,
            body=Raw("\n").join(body),
            style=Raw(style),
        )
    )
