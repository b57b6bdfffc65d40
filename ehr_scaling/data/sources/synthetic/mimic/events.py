"""The long tables of the generated MIMIC-IV release: laboratory results, eMAR and prescriptions.

Each is a function of a block of patients and a generator of its own. Rows of one patient come in runs (a stay, or the
time between two stays), runs in draws or rounds at one time. Which items: see `items`.
"""

import numpy as np

from ehr_scaling.data.sources.synthetic.mimic import csv_text
from ehr_scaling.data.sources.synthetic.mimic.csv_text import Column, Rows, clock, fields, join, number, table
from ehr_scaling.data.sources.synthetic.mimic.items import LEVELS, TAPE, given_texts, labs, products, providers, window
from ehr_scaling.data.sources.synthetic.mimic.stays import BLOCK, GROUP, ROWS, Block, apportion, before, quota, runs

_DAY = csv_text.DAY
_EMAR_SINCE = 2015.0  # half of the admissions are later
_SPECIMENS = 240_000  # numbers set aside for a block, which has about 70,000


def labevents(b: Block, rng: np.random.Generator) -> Rows:
    """Draws in and between stays. Two thirds of the rows belong to an admission."""
    items = labs()
    start, end, patient, admission, weight = _spells(b, rng)
    counts = apportion(weight, patient // GROUP, quota(b.index, ROWS["labevents"]))
    spell, place = runs(counts)
    n = len(spell)
    at = window(rng, n, TAPE)
    item = items.tape[at].astype(np.int64)
    opens = items.opens[at] | (place == 0)
    specimen = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    # Two specimens a draw: blood for chemistry and for haematology is taken together.
    specimen_spell = spell[first]
    s = np.arange(len(first))
    nth = s - specimen[(np.cumsum(counts) - counts)[specimen_spell].clip(max=n - 1)]
    draws = (np.bincount(specimen_spell, minlength=len(counts)) + 1) // 2
    jitter = rng.random(len(first))[s - nth % 2]
    taken = start[specimen_spell] + (
        (nth // 2 + jitter) / draws[specimen_spell] * (end - start)[specimen_spell]
    ).astype(np.int64)
    stored = np.where(rng.random(len(first)) < 0.01, -1, taken + rng.integers(20, 240, len(first)))
    rowid = before(b.index, ROWS["labevents"])[0] + 1 + np.arange(n)
    ids = 10_000_000 + (b.index * _SPECIMENS + s) * 7_654_321 % 90_000_000
    who = np.where(rng.random(len(first)) < 0.16, rng.integers(1, 2001, len(first)), 0)
    priority = table(["ROUTINE", "STAT", ""]), np.searchsorted([0.45, 0.92], rng.random(len(first)))
    owner = join(
        len(counts),
        *fields(number(b.subject[patient]), number(np.where(admission < 0, -1, b.hadm[admission])), end=b""),
    )
    left = join(len(first), *fields((owner, specimen_spell), number(ids), end=b""))
    right = join(len(first), *fields((providers(), who), clock(taken), clock(stored), end=b""))
    value = item * LEVELS + rng.integers(0, LEVELS, n, np.uint8)
    measured: list[Column] = [(items.value, value), (join(len(first), priority), specimen), (items.note, value)]
    about: list[Column] = [(items.before, item), (right, specimen)]
    return Rows(patient[spell], fields(number(rowid), (left, specimen), about, measured, end=b""))


def _spells(b: Block, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The time in which a patient may have laboratory results: outside and inside of admissions by turns.

    Returns: start, end (minutes), patient, admission (-1 outside) and weight (expected rows) of each spell, in order.
    """
    stays = np.bincount(b.patient, minlength=BLOCK)
    patient, place = runs(2 * stays + 1)
    n = len(patient)
    inside = place % 2 == 1
    first = np.cumsum(stays) - stays
    admission = np.where(inside, first[patient] + place // 2, -1)
    following = first[patient] + place // 2  # the admission inside, or after a spell outside
    after, previous = following.clip(max=len(b.hadm) - 1), (following - 1).clip(min=0)
    none, final = stays[patient] == 0, place == 2 * stays[patient]
    midyear = (np.char.add(b.anchor_year.astype("U4"), "-07-01").astype("M8[m]") - csv_text.EPOCH).astype(np.int64)
    far = 700 * _DAY
    start = np.where(inside, b.admit[after], np.where(place > 0, b.discharge[previous] + 60, b.admit[after] - far))
    end = np.where(inside, b.discharge[after], np.where(final, start + far, b.admit[after] - 60))
    start, end = np.where(none, midyear[patient], start), np.where(none, midyear[patient] + 3 * far, end)
    dead = ~inside & (b.death[patient] >= 0)
    end = np.where(dead, np.minimum(end, b.death[patient]), end)
    # Inside: median 84, p5 11, p95 583 rows; longer stays have more.
    days = np.log(np.maximum(end - start, 60) / _DAY)
    many = np.exp(3.22 + 0.69 * days + rng.normal(0, 0.93, n))
    outside = np.exp(rng.normal(3.6, 1.3, n)) * np.sqrt(np.exp(days) / 365).clip(max=1.6) * (rng.random(n) < 0.62)
    weight = np.where(inside, many, outside) * (end - start >= _DAY // 24)
    return start, np.maximum(end, start + 1), patient, admission, weight


def emar(b: Block, rng: np.random.Generator) -> Rows:
    """Rounds in which a stay's drugs are given; in the years that have an eMAR."""
    tape_, texts = given_texts()
    weight = (b.year > _EMAR_SINCE) * np.exp(3.35 + 0.7 * np.log(b.days) + rng.normal(0, 0.9, len(b.hadm)))
    counts = apportion(weight, b.group, quota(b.index, ROWS["emar"]))
    stay, place = runs(counts)
    n = len(stay)
    drugs = np.clip(np.sqrt(counts) * rng.uniform(0.8, 1.8, len(counts)), 3, 30).astype(np.int64)
    nth = place % drugs[stay]
    drug = tape_[(rng.integers(0, len(tape_), len(counts))[stay] + nth) % len(tape_)]
    rounds = (counts // drugs + 1)[stay]
    length = (b.discharge - b.admit)[stay]
    due = b.admit[stay] + (place // drugs[stay] + 0.3) * length // rounds + nth * 2
    due = np.minimum(due.astype(np.int64), b.discharge[stay] - 1)
    given = np.minimum(due + rng.integers(0, 40, n, np.uint8) // 4, b.discharge[stay] - 1)
    patient = b.patient[stay]
    seq = np.arange(n) - np.searchsorted(patient, np.arange(BLOCK))[patient] + 1
    order = seq - place + nth  # each drug of a stay was ordered once
    pharmacy = 10_000_000 + (b.hadm[stay] * 31 + drug * 7919) % 90_000_000
    subject = number(b.subject)
    owner = join(len(counts), *fields((subject, b.patient), number(b.hadm), end=b","), (subject, b.patient), b"-")
    again = join(len(counts), (subject, b.patient), b"-")
    who = np.where(rng.random(n, np.float32) < 0.08, rng.integers(1, 2001, n, np.uint16), 0)
    nrs, what = number(seq), drug * LEVELS + rng.integers(0, LEVELS, n, np.uint8)
    order_id: list[Column] = [(again, stay), number(order)]
    times = clock(given), (texts, what), clock(due), clock(given + 3)
    first: list[Column] = [(owner, stay), nrs]
    return Rows(patient, fields(first, nrs, order_id, number(pharmacy), (providers(), who), *times))


def prescriptions(b: Block, rng: np.random.Generator) -> Rows:
    """What was prescribed in a stay, by the hour."""
    tape_, texts = products()
    weight = np.exp(3.0 + 0.35 * np.log(b.days) + rng.normal(0, 0.75, len(b.hadm)))
    counts = apportion(weight, b.group, quota(b.index, ROWS["prescriptions"]))
    stay, place = runs(counts)
    n = len(stay)
    drug = tape_[(rng.integers(0, len(tape_), len(counts))[stay] + place) % len(tape_)]
    length = (b.discharge - b.admit)[stay]
    start = (b.admit[stay] + (place / counts[stay]) ** 2 * length).astype(np.int64) // 60 * 60
    stop = np.minimum(start + rng.integers(1, 120, n) * 60, b.discharge[stay] // 60 * 60 + 60)
    patient = b.patient[stay]
    seq = number(np.arange(n) - np.searchsorted(patient, np.arange(BLOCK))[patient] + 5)
    pharmacy = number(10_000_000 + (b.hadm[stay] * 31 + drug * 7919) % 90_000_000)
    subject = number(b.subject)
    owner = join(len(counts), *fields((subject, b.patient), number(b.hadm), end=b""))
    order_id: list[Column] = [(join(len(counts), (subject, b.patient), b"-"), stay), seq]
    who, what = (providers(), rng.integers(1, 2001, n)), (texts, drug * 4 + rng.integers(0, 4, n))
    return Rows(patient, fields((owner, stay), pharmacy, order_id, seq, who, clock(start), clock(stop), what))
