"""What is measured, given and prescribed in the generated MIMIC-IV release: the texts of it, and how often it comes.

Everything here is the same in every release, and made once a process. Rows read items off a "tape", a long sequence in
which each occurs as often as it should and in its usual company.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from ehr_scaling.data.sources.synthetic.mimic import facts
from ehr_scaling.data.sources.synthetic.mimic.csv_text import quote, table
from ehr_scaling.data.sources.synthetic.mimic.stays import runs

LEVELS = 256  # values of an item; one byte draws one
TAPE = 1 << 20
_SEED = 31


class Items(NamedTuple):
    """Things measured, in panels: text by itemid·LEVELS + level, and the tape that says what is measured when."""

    before: np.ndarray  # "S" (items,): "itemid,"
    value: np.ndarray  # "S" (items · LEVELS,): what follows from the value
    note: np.ndarray
    tape: np.ndarray  # int16 (TAPE,): items
    opens: np.ndarray  # bool (TAPE,): first of its panel


def tape(parts: np.ndarray, length: int) -> np.ndarray:
    """Indices as frequent as `parts`, each spread evenly, so that a stretch of it seldom repeats one. int64 (n,)."""
    rng = np.random.default_rng(_SEED)
    counts = np.maximum(1, np.rint(parts / parts.sum() * length)).astype(np.int64)
    which, place = runs(counts)
    return which[np.argsort((place + rng.random(len(counts))[which] + 0.4 * rng.random(len(which))) / counts[which])]


def zipf(n: int) -> np.ndarray:
    """Mandelbrot's law for the frequencies of n names: the commonest of 3000 has 1.2 %."""
    return 1 / (np.arange(n) + 15)


def _panels(thousands: np.ndarray, family: list) -> tuple[np.ndarray, np.ndarray]:
    """The tape of items, where those of one family that are about as frequent are measured together."""
    rng = np.random.default_rng(_SEED)
    panels: list[list[int]] = []
    for item in sorted(range(len(family)), key=lambda i: (family[i], -thousands[i])):
        head = panels[-1][0] if panels else item
        if panels and family[head] == family[item] and thousands[item] > 0.7 * thousands[head]:
            panels[-1].append(item)
        else:
            panels.append([item])
    sizes = np.array([len(p) for p in panels])
    members, head = np.concatenate(panels), np.cumsum(sizes) - sizes
    rate = thousands[members[head]]
    drawn = rng.choice(len(panels), int(TAPE / (rate @ sizes / rate.sum()) * 1.3), p=rate / rate.sum())
    panel, place = runs(sizes[drawn])
    member = head[drawn[panel]] + place
    kept = rng.random(len(member)) < (thousands[members] / np.repeat(rate, sizes))[member]
    kept[place == 0] = True
    return members[member[kept]][:TAPE].astype(np.int16), (place == 0)[kept][:TAPE]


def _values(law: list[str], floor: bool) -> list[tuple[str, str]]:
    """LEVELS equally likely results (value, comment) of an item. law: as in facts.LABS; floor: none below zero."""
    if law[0] == "t":
        words = facts.WORDS[law[1]]
        share = np.cumsum([parts for *_, parts in words]) / 100 * LEVELS
        return [words[int(np.searchsorted(share, i, side="right"))][:2] for i in range(LEVELS)]
    centre, spread, decimals = float(law[1]), float(law[2]), int(law[3])
    z = ndtri((np.arange(LEVELS) + 0.5) / LEVELS) * spread
    x = centre * np.exp(z) if law[0] == "l" else centre + z
    x = np.round(x.clip(min=0) if floor else x, decimals) + 0.0  # no negative zero
    return [(f"{v:.{decimals}f}", "") for v in x]


def lab_items() -> list[tuple[str, str, str, str, list[str]]]:
    """(fluid, category, itemid, label, the rest of its line in facts.LABS) of every laboratory item."""
    items = []
    for (fluid, category), text in facts.LABS.items():
        for row in text.replace("\n", " ").split(";"):
            itemid, label, *rest = row.split()
            items.append((fluid, category, itemid, label.replace("_", " "), rest))
    return items


@cache
def labs() -> Items:
    value, note = [], []
    items = lab_items()
    for _, _, _, label, (_, unit, low, high, *law) in items:
        unit, low, high = ("" if part == "-" else part.replace("_", " ") for part in (unit, low, high))
        for text, comment in _values(law, label not in facts.NEGATIVE):
            amount = f"{float(text):.10g}" if law[0] != "t" else ""
            odd = amount and low and high and not float(low) <= float(amount) <= float(high)
            odd = odd or text in ("POS", "MOD", "LG", "MANY")
            value.append(f"{quote(text)},{amount},{quote(unit)},{low},{high},{'abnormal' if odd else ''},")
            note.append(f",{quote(comment)}\n")
    thousands = np.array([float(rest[0]) for *_, rest in items])
    tape_, opens = _panels(thousands, [(fluid, category) for fluid, category, *_ in items])
    return Items(table([f"{itemid}," for _, _, itemid, *_ in items]), table(value), table(note), tape_, opens)


@cache
def providers() -> np.ndarray:
    """Names of providers, "S6" (2001,); the first is null."""
    rng = np.random.default_rng(_SEED)
    signs = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    return table(["", *("P" + "".join(row) for row in signs[rng.integers(0, 36, (2000, 5))])])


@cache
def drugs() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The tape of drugs, and of each whether it flushes a line (bool), and its name."""
    names = [" ".join(name.split()) for name in facts.DRUGS.replace("\n", " ").split(";")]
    return tape(zipf(len(names)), 1 << 16), np.array([name.endswith("Flush") for name in names]), names


@cache
def given_texts() -> tuple[np.ndarray, np.ndarray]:
    """The tape of drugs; and "medication,event_txt" by drug and level, "S" (drugs · LEVELS,)."""
    tape_, flush, names = drugs()
    texts = []
    for name, flushed in zip(names, flush, strict=True):
        what = facts.FLUSH_TXT if flushed else facts.EVENT_TXT
        share = np.cumsum([parts for _, parts in what]) / sum(parts for _, parts in what) * LEVELS
        texts += [f"{quote(name)},{what[int(np.searchsorted(share, i, side='right'))][0]}" for i in range(LEVELS)]
    return tape_, table(texts)


@cache
def products() -> tuple[np.ndarray, np.ndarray]:
    """The tape of drugs; and "drug_type,drug,...,route" of four products of each, "S" (drugs · 4,)."""
    rng = np.random.default_rng(_SEED)
    tape_, _, names = drugs()
    products = [row.split("|") for row in facts.PRODUCTS.strip().replace("\n", ";").split(";")]
    texts = []
    for i, name in enumerate(names):
        fluid = any(word in name for word in ("Sodium Chloride", "Dextrose", "Ringer", "Sterile Water"))
        short = "".join(filter(str.isalnum, name.upper()))[:4]
        for k in range(4):
            strength, dose, unit, amount, form, route = (
                products[10 + k % 2] if fluid else products[int(rng.integers(len(products)))]
            )
            code, gsn, ndc = f"{short}{k + 1}", f"{1001 + 17 * i + k:06d}", f"{10_000_000 + 7919 * (4 * i + k):011d}"
            daily = ["", "1", "2", "3"][k]
            texts.append(
                f"{'BASE' if fluid else 'MAIN'},{quote(name)},{code},{gsn},{ndc},{strength.strip()},,{dose},{unit},"
                f"{amount},{form},{daily},{route}"
            )
    return tape_, table(texts)


def icu_items(linksto: str = "") -> list[list[str]]:
    """The fields of facts.ICU_ITEMS, of one table or of all."""
    items = [[part.replace("_", " ") for part in row.split()] for row in facts.ICU_ITEMS.strip().split("\n")]
    return [item for item in items if not linksto or item[2] == linksto]


@cache
def charted(linksto: str) -> Items:
    items = icu_items(linksto)
    value = []
    for _, _, _, _, unit, _, *law in items:
        unit = "" if unit == "-" else unit
        for text, _ in _values(["l", *law], True):
            value.append(f"{text},{text},{unit}" if linksto == "chartevents" else f"{text},{unit}")
    parts = np.array([float(item[5]) for item in items])
    tape_, opens = _panels(parts, [tuple(item[3:4]) for item in items])
    return Items(table([f"{item[0]}," for item in items]), table(value), table([""]), tape_, opens)


def window(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    """A stretch of n places of a tape."""
    return (int(rng.integers(length)) + np.arange(n)) % length
