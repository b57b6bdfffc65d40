"""Tables for a terminal and for a page that stands alone."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ehr_scaling.analysis.report import html

_BAR, _EIGHTHS = 24, " ▏▎▍▌▋▊▉"  # characters of the longest bar; parts of one
_NARROWEST = 16  # a column of words is not cut below this
_WHOLE = 24  # characters of a cell that stay on one line of a page
_LONGEST = 240  # characters of a cell on a page: codes of a source may have thousands


class Share(float):
    """Of 1; shown in percent."""


class Bar(float):
    """A length between 0 and 1, drawn."""


class Right(str):
    """Words that stand to the right, as numbers do."""


class Aside(str):
    """Words between the others, paler on a page."""


Cell = str | int | Share | Bar | None


class Table(NamedTuple):
    name: str  # of the link to it
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


class View(NamedTuple):
    """What is shown at once."""

    title: str
    rests: str  # on which data it rests, said first
    about: str
    tables: Sequence[Table]


def bars(values: Sequence[int]) -> list[Bar]:
    """A bar for each value, the longest for the largest."""
    most = max(values, default=0)
    return [Bar(value / most if most else 0) for value in values]


def show(cell: Cell) -> str:
    """A cell as text. What would not print, or move the cursor of a terminal, is replaced."""
    match cell:
        case None:
            return "–"
        case Share():
            return "0 %" if cell == 0 else "< 0.1 %" if cell < 5e-4 else f"{100 * cell:.1f} %"
        case Bar():
            eighths = max(round(cell * _BAR * 8), 1 if cell > 0 else 0)
            return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        case int():
            return f"{cell:,}"
    return "".join(c if c.isprintable() else "�" for c in cell)


def _is_words(cells: Iterable[Cell]) -> bool:
    return all((isinstance(cell, str) and not isinstance(cell, Right)) or isinstance(cell, Bar) for cell in cells)


def terminal(view: View) -> str:
    """A view as aligned text, as wide as the terminal."""
    width = shutil.get_terminal_size((120, 24)).columns
    head = [view.title, *_wrapped(view.rests, width), *_wrapped(view.about, width)]
    return "\n".join([*head, *(line for table in view.tables for line in _lines(_lean(table), width))])


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(show(text), max(width, 40))


def _lean(table: Table) -> Table:
    """`table` without the columns in which no row says anything."""
    keep = [k for k in range(len(table.header)) if any(row[k] not in ("", None) for row in table.rows)]
    header = [table.header[k] for k in keep]
    return table._replace(header=header, rows=[[row[k] for k in keep] for row in table.rows])


def _lines(table: Table, width: int) -> list[str]:
    columns = list(zip(*table.rows, strict=True))
    words = [_is_words(column) for column in columns]
    shown = [[name, *map(show, column)] for name, column in zip(table.header, columns, strict=True)]
    widths = _fit([max(map(len, column)) for column in shown], words, width)
    lines = ["", "", table.title, "─" * len(table.title), *_wrapped(table.note, width), ""]
    for row in list(zip(*shown, strict=True))[0 if any(table.header) else 1 :]:
        cells = [
            _cut(text, size).ljust(size) if left else text.rjust(size)
            for text, size, left in zip(row, widths, words, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _fit(widths: list[int], words: list[bool], width: int) -> list[int]:
    """Widths of columns that fit on a line; those of words give way, the widest first, down to _NARROWEST."""
    widths = list(widths)
    while sum(widths) + 2 * len(widths) > width:
        _, widest = max((w if is_words else 0, k) for k, (w, is_words) in enumerate(zip(widths, words, strict=True)))
        if widths[widest] <= _NARROWEST or not words[widest]:
            break
        widths[widest] -= 1
    return widths


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def page(view: View) -> str:
    """A view as one HTML page, without scripts and without network."""
    lean = [_lean(table) for table in view.tables]
    links = [(table.name, table.title) for table in lean]
    return html.page(view.title, view.rests, view.about, links, (_section(table) for table in lean))


def _section(table: Table) -> html.Raw:
    words = [k for k, column in enumerate(zip(*table.rows, strict=True)) if _is_words(column)]
    rows = [[_drawn(c) if isinstance(c, Bar) else _told(c) for c in row] for row in table.rows]
    note = html.paragraph(table.note, "muted") if table.note else ""
    return html.section(table.name, table.title, note, html.table(table.header, rows, words))


def _drawn(bar: Bar) -> html.Raw:
    style = f"display:inline-block;height:.75em;width:{12 * bar:.2f}rem;min-width:1px;background:var(--accent)"
    return html.Raw(f'<span style="{style}"></span>' if bar > 0 else "")


def _told(cell: Cell) -> str:
    words = _cut(show(cell), _LONGEST)
    if len(words) <= _WHOLE:
        words = words.replace(" ", "\N{NO-BREAK SPACE}")
    return html.Raw(f'<span class="muted">{html.text(words)}</span>') if isinstance(cell, Aside) else words
