"""What launch.inspect shows: the facts of a split, and one patient, as tables."""

from collections.abc import Mapping, Sequence

import numpy as np

from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.inspection.inspection import Facts
from ehr_scaling.data.inspection.one_patient import Patient
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import DAY, HOUR, MINUTE, Vocabulary

from .tables import Aside, Bar, Cell, Right, Share, Table, View, bars

WARNING = "one real person's record: keep it on your screen, share neither it nor a copy"


def split(facts: Facts, top: int, family: str | None = None) -> View:
    """All about a split; of one family its tokens and bins.

    Raises: UserError for a family that is not in the vocabulary.
    """
    generated = inspection.is_generated(facts.events)
    rests = (
        "Generated patients: this shows how the programs work, and nothing about medicine."
        if generated
        else f"Counts from real records, to the nearest ten. Numbers below {facts.fewest} are not shown."
    )
    name = facts.events.get("summary", {}).get("name", "a source without a record")
    patients, tokens = (disclosure.words(int(n), generated) for n in (len(facts.lengths), facts.counts.sum()))
    about = (
        f"{name}: split {facts.split}, {patients} patients, {tokens} tokens, vocabulary of "
        f"{len(facts.vocabulary.tokens):,}, preset {facts.vocabulary.preset}."
    )
    listed = [_frequent(facts, top, family), _edges(facts, top, family)]
    if family is None:
        before = [_source(facts), *_counts(facts), _options(facts), _silent(facts), _splits(facts), _families(facts)]
        after = [_lengths(facts), _intervals(facts), listed[1], _context(facts, top), _packed(facts)]
        listed = [*before, _mix(facts), listed[0], *after]
    return View("Timelines" if family is None else f"Timelines: {family}", rests, about, [t for t in listed if t.rows])


def _people(facts: Facts, values: Sequence[int]) -> list[tuple[Cell, Cell, Bar]]:
    """For numbers of patients: the number, its share of the split and a bar; those of few persons are not told."""
    return [
        (_told(facts, n), _share(facts, n, len(facts.lengths)), bar)
        for n, bar in zip(values, _bars(facts, values), strict=True)
    ]


def _told(facts: Facts, n: int) -> Cell:
    """A number of patients, rows or tokens, as it may be told."""
    known = facts.told(n)
    return Right(f"< {facts.fewest}") if known is None else known


def _bars(facts: Facts, values: Sequence[int]) -> list[Bar]:
    return bars([facts.told(n) or 0 for n in values])


def _share(facts: Facts, part: int, whole: int) -> Share | None:
    """The share that one count is of another, of what may be told of both."""
    known, total = facts.told(part), facts.told(whole)
    return Share(min(known / total, 1.0)) if total and known is not None else None


def _source(facts: Facts) -> Table:
    about = facts.events.get("summary", {})
    rows: list[tuple[str, Cell]] = []
    if about:
        rows += [(name, _number(facts, value)) for name, value in inspection.source_facts(about)]
    rows += [(f"patients, {name}", _told(facts, n)) for name, n in about.get("patients", {}).items()]
    rows += [(f"inputs: {name}", inspection.words(value)) for name, value in facts.events.get("inputs", {}).items()]
    rows += [("fingerprint of events", facts.events["fingerprint"])] if facts.events else []
    rows += [("fingerprint of timelines", facts.timelines["fingerprint"])] if facts.timelines else []
    rows += [("fingerprint of the vocabulary", facts.vocabulary.fingerprint)]
    shown = [(name, f"{v:,}" if type(v) is int else v) for name, v in rows]
    return Table("source", "Where the data come from", ("", ""), shown)


def _counts(facts: Facts) -> list[Table]:
    """What the source counted of its tables, mended and left out: each list of it a table."""
    lists = inspection.source_counts(facts.events.get("summary", {}))
    return [
        Table(f"source-{k}", title, ("", ""), [(name, _number(facts, n)) for name, n in rows])
        for k, (title, rows) in enumerate(lists.items())
    ]


def _number(facts: Facts, value: object) -> Cell:
    return _told(facts, value) if type(value) is int else inspection.words(value)


def _options(facts: Facts) -> Table:
    return Table("options", "Tokenizer", ("option", "value"), inspection.options(facts.vocabulary))


def _silent(facts: Facts) -> Table:
    silent = inspection.silent_events(facts)
    drawn = _bars(facts, [n for _, n in silent])
    rows = [(name, _told(facts, n), bar) for (name, n), bar in zip(silent, drawn, strict=True)]
    note = "Events of this split that make no token in this preset."
    return Table("silent", "Left out by the tokenizer", ("family: reason", "events", ""), rows, note)


def _splits(facts: Facts) -> Table:
    rows = []
    for name in timelines.SPLITS:
        if s := facts.timelines.get("summary", {}).get(name):
            lengths = [
                round(s["tokens_per_patient"][f"p{p}"])
                if disclosure.quantile(s["patients"], p / 100, inspection.is_generated(facts.events))
                else None
                for p in (5, 50, 95)
            ]
            shares = Share(s["unknown_tokens"]), Share(s["fallback_events"])
            patients, tokens, empty = (_told(facts, s[key]) for key in ("patients", "tokens", "empty_patients"))
            rows.append((name, patients, tokens, *lengths, *shares, empty))
    header = ("split", "patients", "tokens", "p5", "p50", "p95", "unknown", "fell back", "empty")
    note = (
        "p5, p50, p95: tokens a patient. Unknown: share of tokens that are UNK or FAMILY//UNK. Fell back: share of "
        "events of which a part is not in the vocabulary. Empty: patients left out, for want of any event."
    )
    return Table("splits", "Splits", header, rows, note)


def _families(facts: Facts) -> Table:
    families = inspection.families(facts)
    total = int(facts.counts.sum())
    rows: list[tuple[Cell, ...]] = []
    for f, bar in zip(families, _bars(facts, [f.occurrences for f in families]), strict=True):
        shares = _share(facts, f.occurrences, total), _share(facts, f.unknown, f.occurrences)
        told = (f.used, _told(facts, f.occurrences), *shares)
        rows.append((f.name, f.distinct, *((None,) * 4 if f.in_context else told), bar))
    half, most, nearly = inspection.coverage(facts)
    note = (
        f"{half:,} tokens make up half of the split, {most:,} make up 90 %, {nearly:,} 99 %. Used: tokens that occur "
        "in it. Unknown: share of FAMILY//UNK. A dash: in the static context alone."
    )
    header = ("family", "tokens", "used", "occurrences", "share", "unknown", "")
    return Table("families", "Vocabulary by family", header, rows, note)


def _mix(facts: Facts) -> Table:
    counts = inspection.mix(facts)
    total, patients = sum(counts.values()), max(len(facts.lengths), 1)
    rows = [
        (name, _told(facts, n), _share(facts, n, total), Right(f"{(facts.told(n) or 0) / patients:,.1f}"), bar)
        for (name, n), bar in zip(counts.items(), _bars(facts, list(counts.values())), strict=True)
    ]
    return Table("mix", "Token mix", ("kind", "tokens", "share", "a patient", ""), rows)


def _frequent(facts: Facts, top: int, family: str | None) -> Table:
    ids = inspection.frequent(facts, top, family)
    counts = [int(facts.counts[i]) for i in ids]
    people = _people(facts, [int(facts.patients[i]) for i in ids])
    rows = []
    for i, n, (patients, *_), bar in zip(ids, counts, people, _bars(facts, counts), strict=True):
        token = facts.vocabulary.tokens[i]
        share = _share(facts, n, int(facts.counts.sum()))
        told = _told(facts, n)
        if facts.told(int(facts.patients[i])) is None:  # of few patients nothing is told that tells of each
            told, share, bar = Right(f"< {facts.fewest}"), None, Bar(0)
        rows.append((token, inspection.meaning(facts.labels, [token]), told, share, patients, bar))
    header = ("token", "meaning", "occurrences", "share", "patients", "")
    return Table("tokens", "Most frequent tokens", header, rows)


def _lengths(facts: Facts) -> Table:
    bins = inspection.histogram(facts.lengths)
    people = _people(facts, [b.patients for b in bins])
    rows = [(Right(f"{b.low:,} – {b.high:,}"), *row) for b, row in zip(bins, people, strict=True)]
    generated, n = inspection.is_generated(facts.events), len(facts.lengths)
    quantiles = [
        f"{q} % of the patients have up to {np.percentile(facts.lengths, q):,.0f} tokens"
        for q in (5, 50, 95)
        if n and disclosure.quantile(n, q / 100, generated)
    ]
    note = f"{', '.join(quantiles)}." if quantiles else ""
    return Table("lengths", "Timeline lengths", ("tokens", "patients", "share", ""), rows, note)


def _intervals(facts: Facts) -> Table:
    v = facts.vocabulary
    counts = [int(facts.counts[v.index[name]]) for name in v.intervals]
    rows = [
        (name, _told(facts, n), _share(facts, n, sum(counts)), Right(duration(seconds)), bar)
        for name, n, seconds, bar in zip(v.intervals, counts, v.interval_seconds, _bars(facts, counts), strict=True)
    ]
    note = "The time between an event and the one before it, from 5 minutes up. Mean: of the class, in train."
    return Table("intervals", "Time between events", ("class", "tokens", "share", "mean", ""), rows, note)


def _edges(facts: Facts, top: int, family: str | None) -> Table:
    rows = [
        (
            code,
            inspection.meaning(facts.labels, [code]),
            _told(facts, n),
            len(breaks) + 1,
            "  ".join(map(number, breaks)),
        )
        for code, n, breaks in inspection.edges(facts, top, family)
    ]
    note = "A value is in bin Qk when k − 1 edges lie below it. Codes with few different values have fewer bins."
    header = ("code", "meaning", "occurrences", "bins", "edges")
    return Table("edges", "Edges of value bins", header, rows, note)


def _context(facts: Facts, top: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for slot, counts in facts.context.items():
        ids = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]][:top]
        if slot not in facts.vocabulary.context_slots:
            ids.sort()  # ages in their order
        names = [facts.vocabulary.tokens[i].removeprefix(f"{slot}//") for i in ids]
        people = _people(facts, [int(counts[i]) for i in ids])
        rows += [(slot if k == 0 else "", names[k], *row) for k, row in enumerate(people)]
    note = "Patients by the value last known of them; by age at their first event."
    return Table("context", "Static context", ("slot", "value", "patients", "share", ""), rows, note)


def _packed(facts: Facts) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, record in facts.packed.items():
        for phase, p in enumerate(record["summary"]["splits"][facts.split]["phases"]):
            counts = (p["sequences"], p["segments"], p["real_tokens"], p["context_real"])
            told = (*(_told(facts, n) for n in counts), Share(p["fill"]))
            rows.append((name if phase == 0 else "", phase, *told, Right(f"{p['bytes'] / p['real_tokens']:.2f}")))
    note = (
        "A phase is one way to cut the timelines into windows; a segment is one window of one patient. Fill: share of "
        "the positions that hold a token, and no padding. Bytes: on disk, a timeline token."
    )
    header = ("packed", "phase", "sequences", "segments", "tokens", "context tokens", "fill", "bytes")
    return Table("packed", "Packed sequences", header, rows, note)


def patient(person: Patient, vocabulary: Vocabulary, labels: Mapping[str, str], about: str, generated: bool) -> View:
    """One patient: the static context, and a line an event."""
    rows: list[tuple[Cell, ...]] = []
    for moment in person.moments:
        if moment.gap:
            name = moment.gap[0].removeprefix("TIME//").removeprefix("=")
            times = f" × {len(moment.gap)}" if len(moment.gap) > 1 else ""
            rows.append((Right(""), Aside(f"⋯ {name}{times}"), "", "", ""))
        for k, tokens in enumerate(moment.events):
            bins = [token for token in tokens if token in vocabulary.quantile_tokens]
            codes = [token for token in tokens if token not in bins]
            breaks = vocabulary.quantiles.get(codes[-1], ()) if codes else ()
            value = value_range(breaks, int(bins[0][1:])) if len(bins) == 1 else ""
            time = Right(since(moment.since) if k == 0 else "")
            rows.append((time, " · ".join(codes), " ".join(bins), value, inspection.meaning(labels, codes or tokens)))
    note = "A line an event, at the time since the first one. ⋯ is a token too: the time that passes, by class."
    header = ("time", "tokens", "bin", "value", "meaning")
    return View(
        "One timeline",
        "A generated patient: nobody's record." if generated else f"{WARNING[0].upper()}{WARNING[1:]}.",
        f"{about}: {person.tokens:,} tokens, {sum(len(m.events) for m in person.moments):,} events.",
        [
            Table("context", "Static context at the first event", ("slot", "value"), person.context),
            Table("timeline", "Timeline", header, rows, note),
        ],
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: '8.7 min', '1.5 h', '184.6 d'."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def since(time: int) -> str:
    """µs as days, hours and minutes: '12 d 03:45'."""
    return f"{time // DAY:,} d {time % DAY // HOUR:02}:{time % HOUR // MINUTE:02}"


def number(value: float) -> str:
    """Four significant digits: '0.05', '36.2', '14,010'."""
    return f"{float(f'{value:.4g}'):,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def value_range(breaks: tuple[float, ...], k: int) -> str:
    """The values of bin Qk: '≤ 52', '52 to 58' (above 52, up to 58), '> 84'; empty where the breaks are not known."""
    if not breaks or not 1 <= k <= len(breaks) + 1:
        return ""
    if k == 1:
        return f"≤ {number(breaks[0])}"
    return f"> {number(breaks[-1])}" if k == len(breaks) + 1 else f"{number(breaks[k - 2])} to {number(breaks[k - 1])}"
