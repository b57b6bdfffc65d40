"""The tables of the generated MIMIC-IV release about patients and stays, and its dictionaries."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from ehr_scaling.data.sources.synthetic.mimic import csv_text, facts
from ehr_scaling.data.sources.synthetic.mimic.csv_text import (
    Column,
    Rows,
    clock,
    clock_seconds,
    date,
    fields,
    number,
    quote,
    table,
)
from ehr_scaling.data.sources.synthetic.mimic.items import icu_items, lab_items, providers, tape, zipf
from ehr_scaling.data.sources.synthetic.mimic.stays import (
    BLOCK,
    GROUP,
    ICD10,
    ICUS,
    ROWS,
    WARDS,
    Block,
    apportion,
    choose,
    draw,
    quota,
    runs,
    scatter_stays,
    scatter_transfers,
)

_DAY = csv_text.DAY
_CODES = 3000  # of each kind; the first are common real codes, the rest have their form
_TAPE = 1 << 16


def _pick(rng: np.random.Generator, names: Sequence[tuple[str, int]], n: int) -> tuple[np.ndarray, np.ndarray]:
    return table([quote(name) for name, _ in names]), draw(rng, np.array([parts for _, parts in names]), n)


def _owner(b: Block, admission: np.ndarray) -> tuple[Column, Column]:
    """subject_id and hadm_id of rows of admissions."""
    return (number(b.subject), b.patient[admission]), (number(b.hadm), admission)


def patients(b: Block, rng: np.random.Generator) -> Rows:
    groups = table([f"{2008 + 3 * i} - {2010 + 3 * i}" for i in range(5)])
    death = date(np.where(b.death < 0, -1, b.death // _DAY))
    sex = table(["M", "F"]), b.female.astype(np.int64)
    year = number(b.anchor_year)
    return Rows(np.arange(BLOCK), fields(number(b.subject), sex, number(b.age), year, (groups, b.year_group), death))


def admissions(b: Block, rng: np.random.Generator) -> Rows:
    n = len(b.hadm)
    columns = [
        (names, index[b.patient]) for names, index in (_pick(rng, c, BLOCK) for c in (facts.LANGUAGE, facts.RACE))
    ]
    language, race = columns
    kinds = table([name for name, _ in facts.ADMISSION_TYPE])
    places, place = _pick(rng, facts.ADMISSION_LOCATION, n)
    places = np.append(places, b"EMERGENCY ROOM")
    place = np.where(b.ed & (rng.random(n) < 0.75), len(places) - 1, place)
    ends, end = _pick(rng, facts.DISCHARGE_LOCATION, n)
    ends = np.append(ends, b"DIED")
    registered = np.where(b.ed, b.admit - rng.integers(60, 720, n), -1)
    left = np.where(b.ed, np.minimum(b.admit + rng.integers(10, 240, n), b.discharge), -1)
    provider = providers(), rng.integers(1, 2001, n)
    insurance, marital = _pick(rng, facts.INSURANCE, n), _pick(rng, facts.MARITAL_STATUS, n)
    times = clock(b.admit), clock(b.discharge), clock(np.where(b.died, b.discharge, -1))
    kind, source, target = (kinds, b.kind), (places, place), (ends, np.where(b.died, len(ends) - 1, end))
    person = insurance, language, marital, race
    rest = clock(registered), clock(left), (table(["0", "1"]), b.died.astype(np.int64))
    return Rows(b.patient, fields(*_owner(b, np.arange(n)), *times, kind, provider, source, target, *person, *rest))


def icustays(b: Block, rng: np.random.Generator) -> Rows:
    at = np.flatnonzero(b.ward_icu)
    a = b.ward_admission[at]
    start, end, unit = b.ward_start[at], b.ward_end[at], (ICUS, b.ward_unit[at])
    los = table([f"{days:.16f}" for days in (end - start) / (60 * _DAY)])
    times = clock_seconds(start), clock_seconds(end)
    return Rows(b.patient[a], fields(*_owner(b, a), number(scatter_stays(b)), unit, unit, *times, los))


def transfers(b: Block, rng: np.random.Generator) -> Rows:
    """Emergency room, ward stays and discharge of each admission; visits to the first alone make up the rest."""
    wards = np.bincount(b.ward_admission, minlength=len(b.hadm))
    mine = np.bincount(b.group, b.ed + wards + 1, BLOCK // GROUP).astype(np.int64)
    rest = np.maximum(quota(b.index, ROWS["transfers"]) - mine, 0) // 2
    everyone = np.arange(BLOCK)
    visits = apportion(rng.lognormal(0, 1.2, BLOCK), everyone // GROUP, rest)
    visitor = np.repeat(everyone, visits)
    new_year = (np.char.add(b.anchor_year.astype("U4"), "-01-01").astype("M8[s]") - csv_text.EPOCH).astype(np.int64)
    came = new_year[visitor] + rng.integers(0, 365 * _DAY * 60, len(visitor))
    went = came + rng.integers(3600, 43_200, len(visitor))
    units = np.concatenate([[b"", b"Emergency Department"], WARDS, ICUS])
    begin, end = 60 * b.admit, 60 * b.discharge
    first = np.append(True, b.ward_admission[1:] != b.ward_admission[:-1])
    a = np.arange(len(b.hadm))
    ed, w = a[b.ed], b.ward_admission
    parts: list[tuple] = [  # patient, admission, kind, unit, start, end
        (b.patient[ed], ed, 0, 1, begin[ed] - rng.integers(3600, 36_000, len(ed)), begin[ed]),
        (b.patient[w], w, 2 - first, 2 + b.ward_unit + len(WARDS) * b.ward_icu, b.ward_start, b.ward_end),
        (b.patient, a, 3, 0, end, np.full(len(a), -1)),
        (visitor, np.full(len(visitor), -1), 0, 1, came, went),
        (visitor, np.full(len(visitor), -1), 3, 0, went, np.full(len(visitor), -1)),
    ]
    patient, admission, kind, unit, start, stop = (
        np.concatenate([np.broadcast_to(part[i], len(part[0])) for part in parts]) for i in range(6)
    )
    order = np.lexsort((kind, start, patient))
    patient, admission, kind, unit, start, stop = (x[order] for x in (patient, admission, kind, unit, start, stop))
    who = number(b.subject[patient]), number(np.where(admission < 0, -1, b.hadm[admission]))
    what = (table(["ED", "admit", "transfer", "discharge"]), kind), (units, unit)
    number_of = number(scatter_transfers(b, len(patient)))
    return Rows(patient, fields(*who, number_of, *what, clock_seconds(start), clock_seconds(stop)))


def services(b: Block, rng: np.random.Generator) -> Rows:
    more = choose(rng, b.days, b.group, quota(b.index, ROWS["services"] - ROWS["admissions"]))
    stay, place = runs(1 + more)
    names, first = _pick(rng, facts.SERVICES, len(b.hadm))
    now = np.where(place > 0, (first[stay] + 1) % len(names), first[stay])
    names = np.append(names, b"")
    past = np.where(place > 0, first[stay], len(names) - 1)
    time = (
        60 * b.admit[stay] + np.where(place > 0, 30 * (b.discharge - b.admit)[stay], 0) + rng.integers(0, 59, len(stay))
    )
    return Rows(b.patient[stay], fields(*_owner(b, stay), clock_seconds(time), (names, past), (names, now)))


@cache
def codes(kind: str) -> list[str]:
    """_CODES codes, common ones first. kind: a name in facts, such as "ICD10CM"."""
    rng = np.random.default_rng(10)
    known = dict.fromkeys(getattr(facts, kind).split())
    digits, letters = "0123456789", "ABCDEFGHIJKLMNOPQRSTVZ"
    form = {
        "ICD10CM": [letters, digits, digits, "01289"],
        "ICD9CM": [digits, digits, digits, "01289"],
        "ICD10PCS": ["0", "012346789BCDFGHJLNQRSTUVWXY", "5789BCDHNPQRSTVW", "123456789ABCD", "0348X", "Z", "ZX"],
        "ICD9PROC": [digits, digits, digits, digits],
    }[kind]
    while len(known) < _CODES:
        known["".join(signs[rng.integers(len(signs))] for signs in form)] = None
    return list(known)


@cache
def _code_tape(kinds: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    texts = [f"{code},{version}" for kind, version in zip(kinds, (9, 10), strict=True) for code in codes(kind)]
    return tape(zipf(_CODES), _TAPE), table(texts)


def _coded(b: Block, rng: np.random.Generator, stay: np.ndarray, kinds: tuple[str, str]) -> tuple:
    tape_, texts = _code_tape(kinds)
    code = tape_[(rng.integers(len(tape_)) + np.arange(len(stay))) % len(tape_)]
    return texts, code + _CODES * (b.year >= ICD10)[stay]


def diagnoses_icd(b: Block, rng: np.random.Generator) -> Rows:
    weight = np.minimum(rng.gamma(2.4, 1 / 2.4, len(b.hadm)) * (0.75 + 0.12 * np.sqrt(b.days)), 3)
    counts = np.minimum(apportion(weight, b.group, quota(b.index, ROWS["diagnoses_icd"])), 39)
    stay, place = runs(counts)
    code = _coded(b, rng, stay, ("ICD9CM", "ICD10CM"))
    return Rows(b.patient[stay], fields(*_owner(b, stay), number(place + 1), code))


def procedures_icd(b: Block, rng: np.random.Generator) -> Rows:
    total = ROWS["procedures_icd"]
    some = choose(rng, np.sqrt(b.days), b.group, quota(b.index, int(total / 2.95)))
    more = quota(b.index, total) - quota(b.index, int(total / 2.95))
    counts = some + apportion(some * np.minimum(rng.lognormal(0, 1.1, len(some)), 12), b.group, more)
    stay, place = runs(counts)
    when = date((b.admit[stay] + place / counts[stay] * (b.discharge - b.admit)[stay]).astype(np.int64) // _DAY)
    code = _coded(b, rng, stay, ("ICD9PROC", "ICD10PCS"))
    return Rows(b.patient[stay], fields(*_owner(b, stay), number(place + 1), when, code))


@cache
def _drgs() -> tuple[np.ndarray, int]:
    """ "S": the HCFA rows from "drg_type" on, then the APR rows; and how many are HCFA."""
    names = [name.strip() for name in facts.DRGS.strip().replace("\n", ";").split(";")]
    hcfa = [
        f"HCFA,{3 * i + 20 + k:03d},{quote(name + grade)},,"
        for i, name in enumerate(names)
        for k, grade in enumerate((" W MCC", " W CC", " W/O CC/MCC"))
    ]
    apr = [
        f"APR,{7 * i + 20:03d},{quote(name)},{severity},{mortality}"
        for i, name in enumerate(names)
        for severity in range(1, 5)
        for mortality in range(1, 5)
    ]
    return table(hcfa + apr), len(hcfa)


def drgcodes(b: Block, rng: np.random.Generator) -> Rows:
    n = len(b.hadm)
    hcfa = choose(rng, np.ones(n), b.group, quota(b.index, int(0.54 * ROWS["drgcodes"])))
    apr = choose(
        rng, np.ones(n), b.group, quota(b.index, ROWS["drgcodes"]) - quota(b.index, int(0.54 * ROWS["drgcodes"]))
    )
    stay, place = runs(hcfa.astype(np.int64) + apr)
    texts, first = _drgs()
    kind = draw(rng, zipf(first // 3), n)[stay]
    second = (place == 1) | ~hcfa[stay]
    row = np.where(second, first + 16 * kind + rng.integers(0, 16, len(stay)), 3 * kind + rng.integers(0, 3, len(stay)))
    return Rows(b.patient[stay], fields(*_owner(b, stay), (texts, row)))


def hcpcsevents(b: Block, rng: np.random.Generator) -> Rows:
    counts = apportion(rng.lognormal(0, 1.2, len(b.hadm)), b.group, quota(b.index, ROWS["hcpcsevents"]))
    stay, place = runs(counts)
    kind = draw(rng, np.array([parts for *_, parts in facts.HCPCS]), len(stay))
    code, name = (table([quote(text.split(" ", 1)[i]) for text, _ in facts.HCPCS]) for i in range(2))
    when = date(b.admit[stay] // _DAY)
    return Rows(b.patient[stay], fields(*_owner(b, stay), when, (code, kind), number(place + 1), (name, kind)))


def omr(b: Block, rng: np.random.Generator) -> Rows:
    """Visits to the outpatient clinics: blood pressure, weight, body mass index, now and then height and eGFR."""
    weight = rng.lognormal(0, 1.5, BLOCK).clip(max=30) * (rng.random(BLOCK) < 0.55)
    counts = apportion(weight, np.arange(BLOCK) // GROUP, quota(b.index, ROWS["omr"]))
    patient, place = runs(counts)
    n = len(patient)
    start = (np.char.add(b.anchor_year.astype("U4"), "-01-01").astype("M8[m]") - csv_text.EPOCH).astype(
        np.int64
    ) // _DAY
    end = start + 3650
    np.maximum.at(end, b.patient, b.discharge // _DAY + 365)
    end = np.where(b.death < 0, end, np.minimum(end, b.death // _DAY))
    visit, nth = place // 3, place % 3
    when = start[patient] + (visit + 0.5) / (counts // 3 + 1)[patient] * (end - start)[patient]
    height = rng.normal(66, 4, BLOCK).clip(50, 80)
    pounds = (rng.lognormal(5.15, 0.24, BLOCK)[patient] * rng.normal(1, 0.03, n)).clip(60, 600)
    names = table(["Blood Pressure", "Weight (Lbs)", "BMI (kg/m2)", "Height (Inches)", "eGFR"])
    pressures = [f"{s}/{d}" for s in range(80, 200) for d in range(45, 110)]
    results = table([*pressures, *(f"{i / 10:g}" for i in range(6001))])
    systolic = rng.normal(127, 17, n).clip(80, 199).astype(np.int64)
    diastolic = (systolic * 0.35 + 29 + rng.normal(0, 7, n)).clip(45, 109).astype(np.int64)
    rare = rng.random(n)
    kind = np.where((nth == 2) & (rare < 0.25), 3, np.where((nth == 0) & (rare < 0.06), 4, nth))
    tenths = [
        0 * pounds, 10 * pounds, 7030 * pounds / height[patient] ** 2, 10 * np.rint(height[patient]),
        10 * rng.integers(15, 100, n),
    ]  # fmt: skip
    value = np.where(
        kind == 0, (systolic - 80) * 65 + diastolic - 45, len(pressures) + np.choose(kind, tenths).clip(0, 6000)
    ).astype(np.int64)
    who = number(b.subject), patient
    return Rows(patient, fields(who, date(when.astype(np.int64)), b"1", (names, kind), (results, value)))


def _titles(versions: tuple[tuple[str, int, str], ...]) -> list[str]:
    return [f"{code},{version},{what} {code}" for kind, version, what in versions for code in codes(kind)]


# table: header, lines
DICTIONARIES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "hosp/d_labitems": (
        "itemid,label,fluid,category",
        lambda: [
            f"{i},{quote(label)},{fluid},{category}"
            for fluid, category, i, label, _ in sorted(lab_items(), key=lambda x: x[2])
        ],
    ),
    "hosp/d_icd_diagnoses": (
        "icd_code,icd_version,long_title",
        lambda: _titles((("ICD9CM", 9, "Generated diagnosis"), ("ICD10CM", 10, "Generated diagnosis"))),
    ),
    "hosp/d_icd_procedures": (
        "icd_code,icd_version,long_title",
        lambda: _titles((("ICD9PROC", 9, "Generated procedure"), ("ICD10PCS", 10, "Generated procedure"))),
    ),
    "hosp/d_hcpcs": (
        "code,category,long_description,short_description",
        lambda: ["{0},,{1},{1}".format(*text.split(" ", 1)) for text, _ in facts.HCPCS],
    ),
    "icu/d_items": (
        "itemid,label,abbreviation,linksto,category,unitname,param_type,lownormalvalue,highnormalvalue",
        lambda: [
            f"{i},{quote(label)},{quote(label)},{linksto},{category},{'' if unit == '-' else unit},Numeric,,"
            for i, label, linksto, category, unit, *_ in icu_items()
        ],
    ),
    "hosp/provider": ("provider_id", lambda: [p.decode() for p in providers()[1:]]),
}
