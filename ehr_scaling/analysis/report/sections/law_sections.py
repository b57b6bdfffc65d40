"""What the report says of the joint law beside its fit: what the runs tell of it, how it is counted, doubtful runs."""

from ehr_scaling.analysis.joint import conventions, quality
from ehr_scaling.analysis.joint.identifiability import COLLINEAR, Identifiability
from ehr_scaling.analysis.report.html import Chip, Raw, Table, render
from ehr_scaling.analysis.tables.run_table import Note
from ehr_scaling.analysis.wording import DASH, count, decimal, known, power, significant

UNDERCUT = 1e-6  # by which a profile's objective is lower than the fit's, to be more than rounding


def identifiability(identified: Identifiability | None, svg: str | None = None) -> Raw:
    """The section with this name: its figure, of `profile_plots.profiles`, and a row for every quantity."""
    if identified is None:
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
        for p in identified.profiles
    ]
    return render(
        "identifiability.html",
        identified=identified,
        collinear=identified.condition > COLLINEAR,
        undercut=identified.undercut if identified.undercut > UNDERCUT else 0.0,
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


def counting(fits: conventions.Conventions) -> Raw:
    """The section of what is called N, C and D."""
    rows = [
        [c.N, c.C, c.D, *(decimal(v, 2) for v in (c.isoflop.a, c.isoflop.b, c.joint.a, c.joint.b)),
         "; ".join(dict.fromkeys(exponents.reason for exponents in (c.isoflop, c.joint) if exponents.reason))]
        for c in fits.each
    ]  # fmt: skip
    header = ["N", "C", "D", "a, IsoFLOP", "b", "a, joint law", "b", ""]
    return render(
        "conventions.html",
        disagreement=conventions.disagreement(fits),
        table=Table(header, rows, words=(0, 1, 2, 7), long=(7,)),
    )


def doubtful(notes: tuple[Note, ...], shown: int = 200) -> Raw:
    """The section of doubtful runs: every code with its number of runs, and the first notes."""
    held: dict[str, list[Note]] = {}
    for note in notes:
        held.setdefault(note.code, []).append(note)
    codes = [[code, count(len(notes_of_code)), quality.CODES[code]] for code, notes_of_code in held.items()]
    rows = [[note.run, note.code, note.text] for notes_of_code in held.values() for note in notes_of_code]
    return render(
        "quality.html",
        checks=len(quality.CODES),
        runs=len({note.run for note in notes}),
        notes=len(rows),
        codes=Table(["Code", "Notes", "What it says"], codes, (0,), (2,)),
        every=Table(["Run", "Code", "Note"], rows[:shown], (0, 1), (2,)),
    )
