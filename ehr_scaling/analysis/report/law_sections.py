"""What the report says of the joint law beside its fit: what the runs tell of it, how it is counted, doubtful runs."""

from typing import Any

from ehr_scaling.analysis.joint import conventions, quality
from ehr_scaling.analysis.joint.identifiability import COLLINEAR, Identifiability
from ehr_scaling.analysis.report.html import Raw, chip, figure, join, paragraph, section, table
from ehr_scaling.analysis.tables.run_table import Note
from ehr_scaling.analysis.uncertainty import Verdict
from ehr_scaling.analysis.wording import DASH, count, decimal, known, percent, plural, power, significant, span

CAPTION = (
    "How much worse the fit gets as each number is held away from its estimate, over the rise that ends its {level} "
    "interval. A dashed side never gets there: the runs do not bound the number on it. Titles in colour: unidentified. "
    "D* and D*/N* have the curve of N*, since C gives their product."
)


def identifiability(found: Identifiability, svg: str | None = None) -> Raw:
    """The part of the report with this name: its figure, and a row for every quantity."""
    rows = [
        (
            p.name + ("*" if p.C else ""),
            power(p.C) if p.C else "",
            significant(p.estimate),
            _between(p.bootstrap),
            _between(p.interval),
            chip(p.verdict.word),
            p.verdict.reason,
        )
        for p in found.profiles
    ]
    same, starts = found.optima
    others = f", in {found.basins} different optima" if found.basins > 1 else ""
    collinear = "above 30, so that parameters stand in for each other" if found.condition > COLLINEAR else "at most 30"
    undercut = (
        f" A profile found an objective lower by {percent(found.undercut, 2)}: the fit is not the optimum."
        if found.undercut > 1e-6
        else ""
    )
    return section(
        "identifiability",
        "What the runs tell",
        paragraph(
            f"{found.law.capitalize()} law. For the profile interval a quantity is held at values ever further away "
            "while all else is fitted again, until the fit is clearly worse; a side on which it never is, is open. The "
            f"bootstrap draws runs anew. Both at {percent(found.level)}."
        ),
        figure(svg, CAPTION.format(level=percent(found.level)), "Profiles of the objective") if svg else "",
        table(("", "FLOPs", "estimate", "bootstrap", "profile", "", ""), rows, words=(0, 5), long=(6,)),
        paragraph(
            f"Condition number {significant(found.condition, 2)}, {collinear}. {same} of {starts} starts ended in the "
            f"best optimum{others}.{undercut}",
            "muted",
        ),
    )


def _between(bounds: tuple[float, float]) -> str:
    low, high = bounds
    if not known(low) and not known(high):
        return DASH
    if not known(low) or not known(high):
        return f"up to {significant(high)}" if known(high) else f"from {significant(low)}"
    return f"{significant(low)} to {significant(high)}"


def counting(found: list[conventions.Convention]) -> Raw:
    """The section of the report."""

    def two(value: float | None) -> str:
        return decimal(value, 2)

    def cells(own: dict[str, conventions.Exponent], word: Verdict) -> list[Any]:
        why = join(chip(word.word), Raw("<small>"), word.reason, Raw("</small>"))
        return [
            decimal(own["a"].value),
            span(own["a"].interval, lambda value: decimal(value, 2)),
            decimal(own["b"].value),
            why,
        ]

    rows = [
        [c.N, c.C, c.D, *cells(c.isoflop, c.verdicts["isoflop"]), *cells(c.joint, c.verdicts["joint"])] for c in found
    ]
    header = ["N", "C", "D", "a, IsoFLOP", "Interval", "b", "Word", "a, joint law", "Interval", "b", "Word"]
    text = (
        "N: parameters of the body alone, with the head, or with head and embedding. C: counted forward and backward "
        "FLOPs of body, head and attention, or 6ND with the N of that row. D: positions processed, or targets without "
        "padding. Budgets stay those that were designed; where another count takes their runs apart there is no "
        f"IsoFLOP profile. {conventions.MOST_DRAWS} draws."
    )
    return section(
        "conventions", "How parameters, compute and tokens are counted", paragraph(conventions.disagreement(found)),
        table(header, rows, words=(0, 1, 2), long=(6, 10)), paragraph(text, "muted"),
    )  # fmt: skip


def doubtful(notes: tuple[Note, ...], shown: int = 200) -> Raw:
    """The section of the report: every code with its number of runs, and the runs."""
    if not notes:
        return section(
            "quality", "Doubtful runs", paragraph(f"None of {len(quality.CODES)} checks found a doubtful run.")
        )
    held: dict[str, list[Note]] = {}
    for note in notes:
        held.setdefault(note.code, []).append(note)
    codes = [[code, count(len(own)), quality.CODES[code]] for code, own in held.items()]
    rows = [[note.run, note.code, note.text] for own in held.values() for note in own]
    more = paragraph(f"The first {shown} of {len(rows):,}; all are in laws.json.", "muted") if len(rows) > shown else ""
    runs = len({note.run for note in notes})
    lead = f"{plural(runs, 'run')} with a doubt. They are in the fits all the same: dropping runs is yours to decide."
    return section(
        "quality", "Doubtful runs", paragraph(lead), table(["Code", "Notes", "What it says"], codes, (0,), (2,)),
        Raw("<details><summary>Every note</summary>"), table(["Run", "Code", "Note"], rows[:shown], (0, 1), (2,)),
        Raw("</details>"), more,
    )  # fmt: skip
