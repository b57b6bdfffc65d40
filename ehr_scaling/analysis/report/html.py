"""The pieces of a page that stands alone: no network, readable on a laptop and on a phone, and without its script."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

CSS = """
:root { color-scheme: light; --ink: #1d2733; --muted: #5b6672; --rule: #e1e5ea; --soft: #f5f7f9; --accent: #c2410c;
  --good: #0b6e4f; --good-soft: #e3f2ec; --warn: #8a5a00; --warn-soft: #fdf1d8; --bad: #9b1c31; --bad-soft: #fbe6e9; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "DejaVu Sans", sans-serif; }
.rests { margin: 0; max-width: none; padding: .7rem 1rem; background: var(--ink); color: #fff; font-size: .95rem;
  text-align: center; }
main { max-width: 76rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 1.2rem 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: 1.1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p { margin: .5rem 0; max-width: 46rem; }
.muted { color: var(--muted); font-size: .92rem; }
nav { margin: .6rem 0 0; font-size: .92rem; }
nav a { margin-right: .9rem; white-space: nowrap; }
a { color: #1d4f91; }
ul { padding-left: 1.2rem; max-width: 48rem; } li { margin: .3rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.card { border: 1px solid var(--rule); border-radius: .6rem; padding: .8rem .95rem; background: var(--soft); }
.card .name { color: var(--muted); font-size: .88rem; }
.card .value { font-size: 1.5rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card .note { font-size: .88rem; color: var(--muted); margin-top: .25rem; }
.chip { display: inline-block; padding: .02rem .5rem; border-radius: 1rem; font-size: .82rem; font-weight: 600;
  white-space: nowrap; background: var(--soft); color: var(--muted); border: 1px solid currentColor; }
.chip.good { background: var(--good-soft); color: var(--good); }
.chip.warn { background: var(--warn-soft); color: var(--warn); }
.chip.bad { background: var(--bad-soft); color: var(--bad); }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; min-width: 100%; }
caption { text-align: left; color: var(--muted); padding: .2rem 0; }
.narrow { min-width: min(24rem, 100%); }
sup { line-height: 0; }
th, td { padding: .32rem .45rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { font-weight: 600; color: var(--muted); border-bottom: 2px solid var(--rule); vertical-align: bottom; }
th.text, td.text { text-align: left; }
td { white-space: nowrap; } td.text { white-space: normal; } td.long { min-width: 13rem; }
td small { display: block; color: var(--muted); font-size: .8rem; line-height: 1.35; margin-top: .15rem; }
tbody tr:hover { background: var(--soft); }
figure { margin: 1rem 0; } figcaption { color: var(--muted); font-size: .92rem; max-width: 46rem; }
.plot { display: block; width: 100%; min-width: 40rem; height: auto; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
code { font-size: .88em; overflow-wrap: anywhere; }
.slide { display: grid; grid-template-columns: 13rem minmax(8rem, 26rem) 9rem; gap: .8rem; align-items: center;
  margin: .5rem 0; } .slide output { font-weight: 650; font-variant-numeric: tabular-nums; }
#panel svg { width: 100%; max-width: 46rem; height: auto; }
@media (max-width: 40rem) { .slide { grid-template-columns: 1fr 7rem; } .slide label { grid-column: 1 / -1; } }
@media print { details > * { display: block; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


class Raw(str):
    """Text that is HTML already; everything else is escaped."""


def text(value: Any) -> str:
    return value if isinstance(value, Raw) else escape(str(value), quote=False)


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], words: Sequence[int] = (), long: Sequence[int] = ()
) -> Raw:
    """A table that scrolls sideways on a narrow screen.

    words, long: indices of the columns of words and of sentences; the others hold numbers and stand to the right.
    """

    def cell(tag: str, k: int, value: Any) -> str:
        kind = ' class="text long"' if k in long else ' class="text"' if k in words else ""
        return f"<{tag}{kind}>{text(value)}</{tag}>"

    head = "".join(cell("th", k, name) for k, name in enumerate(header))
    body = "\n".join("<tr>" + "".join(cell("td", k, v) for k, v in enumerate(row)) + "</tr>" for row in rows)
    width = ' class="narrow"' if len(header) <= 4 else ""
    return Raw(f'<div class="wide"><table{width}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>')


def chip(word: str) -> Raw:
    """A verdict as a coloured label; the word itself says it too, for those who see no colour."""
    kinds = {
        "supported": "good",
        "bracketed": "good",
        "stays put": "good",
        "within seed noise": "good",
        "moves": "warn",
        "extrapolated": "warn",
        "edge": "warn",
        "flat": "warn",
        "too few": "warn",
    }
    return Raw(f'<span class="chip {kinds.get(word, "bad")}">{escape(word)}</span>')


def card(name: str, value: Any, note: Any) -> Raw:
    return Raw(
        f'<div class="card"><div class="name">{text(name)}</div><div class="value">{text(value)}</div>'
        f'<div class="note">{text(note)}</div></div>'
    )


def figure(svg: str, caption: Any, label: str) -> Raw:
    return Raw(
        f'<figure><div class="wide" role="img" aria-label="{escape(label)}">{svg}</div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def formula(template: str) -> Raw:
    """`N* = k (C/C0)^a` with what follows ^ (a word or {braces}) raised."""
    return Raw(
        re.sub(r"\^(?:\{([^}]*)\}|([\w−.]+))", lambda m: f"<sup>{m[1] or m[2]}</sup>", escape(template, quote=False))
    )


def paragraph(value: Any, kind: str = "") -> Raw:
    style = f' class="{kind}"' if kind else ""
    return Raw(f"<p{style}>{text(value)}</p>")


def bullets(items: Iterable[Any]) -> Raw:
    return Raw("<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>")


def section(name: str, title: str, *parts: Any) -> Raw:
    return Raw(f'<section id="{name}"><h2>{text(title)}</h2>\n' + "\n".join(text(p) for p in parts if p) + "</section>")


def join(*parts: Any) -> Raw:
    return Raw("".join(text(p) for p in parts))


def page(title: str, first_line: str, lead: str, contents: Sequence[tuple[str, str]], body: Iterable[Raw]) -> str:
    links = " ".join(f'<a href="#{name}">{text(label)}</a>' for name, label in contents)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{CSS}</style></head>\n<body>'
        f'<p class="rests">{text(first_line)}</p>\n<main><h1>{text(title)}</h1>\n<p class="muted">{text(lead)}</p>'
        f"<nav>{links}</nav>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )
