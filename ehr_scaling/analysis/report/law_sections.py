"""What the report says of the joint law beside its fit: what the runs tell of it, how it is counted, doubtful runs."""

from typing import Any

from ehr_scaling.analysis.joint import conventions, quality
from ehr_scaling.analysis.joint.identifiability import COLLINEAR, Identifiability
from ehr_scaling.analysis.report.html import Chip, Raw, Table, render
from ehr_scaling.analysis.tables.run_table import Note
from ehr_scaling.analysis.wording import DASH, count, decimal, known, power, significant, span
from ehr_scaling.analysis.words import Verdict

UNDERCUT = 1e-6  # by which a profile's objective is lower than the fit's, to be more than rounding


def identifiability(found: Identifiability | None, svg: str | None = None) -> Raw:
    """The section with this name: its figure, of `profile_plots.profiles`, and a row for every quantity."""
    if found is None:
        return Raw("")
    rows = [
        (
            p.name + ("*" if p.C else ""),
            power(p.C) if p.C else "",
            significant(p.estimate),
            _between(p.bootstrap),
            _between(p.interval),
            Chip(p.verdict.word),
            p.verdict.reason,
        )
        for p in found.profiles
    ]
    return render(
        "identifiability.html",
        found=found,
        collinear=found.condition > COLLINEAR,
        undercut=found.undercut if found.undercut > UNDERCUT else 0.0,
        table=Table(("", "FLOPs", "estimate", "bootstrap", "profile", "", ""), rows, words=(0, 5), long=(6,)),
        svg=Raw(svg) if svg else "",
    )


def _between(bounds: tuple[float, float]) -> str:
    low, high = bounds
    if not known(low) and not known(high):
        return DASH
    if not known(low) or not known(high):
        return f"up to {significant(high)}" if known(high) else f"from {significant(low)}"
    return f"{significant(low)} to {significant(high)}"


def counting(found: list[conventions.Convention]) -> Raw:
    """The section of what is called N, C and D."""

    def two(value: float | None) -> str:
        return decimal(value, 2)

    def cells(own: dict[str, conventions.Exponent], word: Verdict) -> list[Any]:
        return [two(own["a"].value), span(own["a"].interval, two), two(own["b"].value), word]

    rows = [
        [c.N, c.C, c.D, *cells(c.isoflop, c.verdicts["isoflop"]), *cells(c.joint, c.verdicts["joint"])] for c in found
    ]
    header = ["N", "C", "D", "a, IsoFLOP", "Interval", "b", "Word", "a, joint law", "Interval", "b", "Word"]
    return render(
        "conventions.html",
        disagreement=conventions.disagreement(found),
        table=Table(header, rows, words=(0, 1, 2), long=(6, 10)),
        draws=conventions.MOST_DRAWS,
    )


def doubtful(notes: tuple[Note, ...], shown: int = 200) -> Raw:
    """The section of doubtful runs: every code with its number of runs, and the first notes."""
    held: dict[str, list[Note]] = {}
    for note in notes:
        held.setdefault(note.code, []).append(note)
    codes = [[code, count(len(own)), quality.CODES[code]] for code, own in held.items()]
    rows = [[note.run, note.code, note.text] for own in held.values() for note in own]
    return render(
        "quality.html",
        checks=len(quality.CODES),
        runs=len({note.run for note in notes}),
        notes=len(rows),
        codes=Table(["Code", "Notes", "What it says"], codes, (0,), (2,)),
        every=Table(["Run", "Code", "Note"], rows[:shown], (0, 1), (2,)),
    )
