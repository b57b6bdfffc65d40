"""What is charted in the ICUs of the generated MIMIC-IV release: vital signs, fluids in and out, procedures."""

import numpy as np

from ehr_scaling.data.sources.synthetic.mimic.csv_text import Column, Rows, clock, fields, join, number, table
from ehr_scaling.data.sources.synthetic.mimic.items import LEVELS, TAPE, charted, window
from ehr_scaling.data.sources.synthetic.mimic.stays import ROWS, Block, apportion, before, quota, runs, scatter_stays


def _in_icu(b: Block, rng: np.random.Generator, name: str) -> tuple:
    """Rows in proportion to the length of ICU stays. Returns the rows' stay, owner text, item, value and time."""
    items = charted(name)
    at = np.flatnonzero(b.ward_icu)
    admission = b.ward_admission[at]
    start, end = b.ward_start[at] // 60 + 1, b.ward_end[at] // 60
    weight = (end - start) * rng.lognormal(0, 0.3, len(at))
    counts = apportion(weight, b.group[admission], quota(b.index, ROWS[name]))
    stay, place = runs(counts)
    n = len(stay)
    at_tape = window(rng, n, TAPE)
    item = items.tape[at_tape].astype(np.int64)
    opens = items.opens[at_tape] | (place == 0)
    first = np.maximum.accumulate(np.where(opens, np.arange(n), 0))  # what is charted together has one time
    time = start[stay] + (place[first] / counts[stay] * (end - start)[stay]).astype(np.int64)
    who = number(b.subject[b.patient[admission]]), number(b.hadm[admission]), number(scatter_stays(b))
    owner = join(len(at), *fields(*who, number(10_000 + rng.integers(0, 80_000, len(at))), end=b""))
    value = item * LEVELS + rng.integers(0, LEVELS, n, np.uint8)
    return items, b.patient[admission][stay], (owner, stay), item, value, time, end[stay]


def chartevents(b: Block, rng: np.random.Generator) -> Rows:
    """Nurses' rounds in the ICU."""
    items, patient, owner, item, value, time, _ = _in_icu(b, rng, "chartevents")
    measured: list[Column] = [(items.before, item), (items.value, value)]
    return Rows(patient, fields(owner, clock(time), clock(time + 7), measured, b"0"))


def outputevents(b: Block, rng: np.random.Generator) -> Rows:
    """Urine and drains in the ICU."""
    items, patient, owner, item, value, time, _ = _in_icu(b, rng, "outputevents")
    measured: list[Column] = [(items.before, item), (items.value, value)]
    return Rows(patient, fields(owner, clock(time), clock(time + 7), measured))


def inputevents(b: Block, rng: np.random.Generator) -> Rows:
    """Infusions and boluses in the ICU."""
    items, patient, owner, item, value, time, end = _in_icu(b, rng, "inputevents")
    n = len(item)
    stop = np.minimum(time + rng.integers(1, 360, n), np.maximum(end, time + 1))
    bolus = rng.random(n) < 0.4
    measured: list[Column] = [(items.before, item), (items.value, value)]
    rate = (
        table([*(f"{i / 10:.1f},mL/hour" for i in range(1000)), ","]),
        np.where(bolus, 1000, rng.integers(0, 1000, n)),
    )
    kinds = table(
        [
            "01-Drips,02-Fluids (Crystalloids),Main order parameter,Continuous Med",
            "05-Med Bolus,,Main order parameter,Drug Push",
        ]
    )
    order, kind, weight = _order(b, "inputevents", n), (kinds, bolus.astype(np.int64)), number(rng.integers(45, 140, n))
    times = clock(time), clock(stop), clock(time + 4)
    rest = b"250,ml,0,0,FinishedRunning,1,1"
    return Rows(patient, fields(owner, *times, measured, rate, order, order, kind, weight, rest))


def procedureevents(b: Block, rng: np.random.Generator) -> Rows:
    """Lines, ventilation and imaging in the ICU."""
    items, patient, owner, item, value, time, end = _in_icu(b, rng, "procedureevents")
    n = len(item)
    stop = np.minimum(time + rng.integers(1, 6000, n), np.maximum(end, time + 1))
    measured: list[Column] = [(items.before, item), (items.value, value)]
    order, weight = _order(b, "procedureevents", n), number(rng.integers(45, 140, n))
    times = clock(time), clock(stop), clock(time + 4)
    rest = b"Procedures,Task", weight, b"0,0,FinishedRunning,1,1"
    return Rows(patient, fields(owner, *times, measured, b"", b"", order, order, *rest))


def _order(b: Block, name: str, n: int) -> np.ndarray:
    return number(1_000_000 + (before(b.index, ROWS[name])[0] + np.arange(n)) * 7919 % 9_000_000)
