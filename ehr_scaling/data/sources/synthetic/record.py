"""What the hospital writes down of the lives in `synthetic_course`: events, in the order of tokens. See `synthetic`."""

from typing import Any

import numpy as np

from ehr_scaling.data.sources.synthetic import tables as hospital
from ehr_scaling.data.sources.synthetic.course import Table, choose, logistic

STATIC = -1  # minute of an event without time

# Places within one minute. A round lies between what happens on arrival and on departure.
ADMISSION, ADMIT, ICU_OUT, TO_WARD, TO_ICU, ICU_IN, MEASURED, DRUGS = 0, 1, 2, 3, 4, 5, 100, 200
LAST_ICU_OUT, DEATH, DISCHARGE, DIAGNOSES = 300, 301, 302, 303

Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # key, code, value, of events in any order


def events(rng: np.random.Generator, people: Table, stays: Table, rounds: Table) -> Part:
    """All events: patient int64, minute int64 (STATIC: none), code int16, value float32 (NaN: none), sorted."""
    parts = [*_static(people), *_arrivals_and_departures(rng, people, stays), *_rounds(rng, people, stays, rounds)]
    patient, minute, place, code, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    # One integer key sorts several times faster than three columns; a minute fits 28 bits, a place 10
    by = np.argsort((patient << 40) | ((minute + 1) << 10) | place, kind="stable")
    return patient[by], minute[by], code[by], value[by]


def _part(patient: np.ndarray, minute: Any, place: Any, code: Any, value: Any = np.nan) -> tuple[np.ndarray, ...]:
    columns = ((minute, np.int64), (place, np.int64), (code, np.int16), (value, np.float32))
    return patient.astype(np.int64), *(np.broadcast_to(x, patient.shape).astype(t) for x, t in columns)


def _static(people: Table) -> list[tuple[np.ndarray, ...]]:
    who = np.arange(len(people["birth"]))
    parts = [
        _part(who, STATIC, place, hospital.code_of[name] + people[name]) for place, name in enumerate(hospital.STATIC)
    ]
    return [*parts, _part(who, people["birth"], 0, hospital.code_of["birth"])]


def _arrivals_and_departures(rng: np.random.Generator, people: Table, stays: Table) -> list[tuple[np.ndarray, ...]]:
    who, start, end, died, disease, ill = (stays[key] for key in ("patient", "start", "end", "died", "disease", "ill"))
    n, code_of = len(who), hospital.code_of
    emergency = stays["type"] == 0
    arrival = choose(rng, np.where(emergency[:, None], [[0.75, 0.17, 0.08]], [[0.7, 0.2, 0.1]]))
    unit = np.where(emergency, len(hospital.WARDS), hospital.ward[disease])  # after the wards: the emergency room
    scores = np.stack([0 * ill, 0.5 * ill - 0.3, ill - 0.9, 0.7 * ill - 1.6, 2 * ill - 5.5], axis=1)
    place = np.where(died, len(hospital.DISCHARGES) - 1, choose(rng, np.exp(scores)))
    after = stays["death_after"] > 0
    parts = [
        _part(who, start, ADMISSION, code_of["admission"] + 3 * stays["type"] + arrival),
        _part(who, start, ADMIT, code_of["admit"] + unit),
        _part(who[died], end[died], DEATH, code_of["death"]),
        _part(who, end, DISCHARGE, code_of["discharge"] + place),
        _part(who[after], stays["death_after"][after], DEATH, code_of["death"]),
    ]
    # Principal diagnosis, the one that goes with it, the other chronic ones by frequency, then complications
    row = np.arange(n)
    listed = people["has"][who] & (rng.random((n, hospital.D)) < 0.7)
    listed[row, disease] = listed[row, stays["second"]] = False
    rate = logistic(1.3 * ill[:, None] - np.linspace(2.5, 5.0, len(hospital.COMPLICATIONS)))
    rate[:, 0] += 0.3 * stays["ever_icu"]
    rate[:, -2:] += 0.4 * died[:, None]  # palliative care
    listed = np.concatenate([listed, rng.random(rate.shape) < rate], axis=1)
    parts += [_part(who, end, DIAGNOSES, code_of["diagnosis"] + disease)]
    parts += [_part(who, end, DIAGNOSES + 1, code_of["diagnosis"] + stays["second"])]
    row, which = np.nonzero(listed)
    return [*parts, _part(who[row], end[row], DIAGNOSES + 2 + which, code_of["diagnosis"] + which)]


def _rounds(rng: np.random.Generator, people: Table, stays: Table, rounds: Table) -> list[tuple[np.ndarray, ...]]:
    """Moves between units, then vitals and labs in the ward's order, then, an hour or two later, drugs."""
    stay, time, severity = rounds["stay"], rounds["time"], rounds["severity"]
    who, disease, second = (stays[key][stay] for key in ("patient", "disease", "second"))
    first, inside = rounds["first"], rounds["inside"]
    morning = rounds["morning"] | first
    ward, unit, code_of = hospital.ward[disease], hospital.icu[disease], hospital.code_of
    parts: list[tuple[np.ndarray, ...]] = []

    def add(rows: np.ndarray, minute: np.ndarray, place: Any, code: Any, value: Any = np.nan) -> None:
        parts.append(_part(who[rows], minute[rows], place, code, value))

    enters, leaves = np.flatnonzero(inside & ~rounds["was_inside"]), np.flatnonzero(rounds["was_inside"] & ~inside)
    add(enters, time, TO_ICU, code_of["transfer"] + len(hospital.WARDS) + unit[enters])
    add(enters, time, ICU_IN, code_of["icu_in"] + unit[enters])
    add(leaves, time, ICU_OUT, code_of["icu_out"] + unit[leaves])
    up = np.flatnonzero((rounds["was_inside"] & ~inside) | (first & ~inside & (stays["type"][stay] == 0)))
    add(up, time, TO_WARD, code_of["transfer"] + ward[up])
    final = np.flatnonzero(np.append(stay[1:] != stay[:-1], True) & inside)
    add(final, stays["end"][stay], LAST_ICU_OUT, code_of["icu_out"] + unit[final])

    # Which panels (rounds, panels), and which items of them (rounds, J)
    when = np.where(first, 1.0, np.where(morning, 0.3, np.where(inside, 0.25, 0.04)))
    panels = hospital.panel_rate[disease] * when[:, None]
    panels[:, hospital.PANELS.index("V")] = np.where(inside, 0.9, 0.6)
    panels[severity > 1, hospital.PANELS.index("GAS")] = 0.5
    drawn = rng.random(panels.shape, np.float32) < panels
    items = hospital.item_rate[disease] * np.where(first, 1.0, 0.9)[:, None]
    measured = drawn[:, hospital.panel] & (rng.random(items.shape, np.float32) < items)

    # Values in standard deviations. What calls for an answer is the untreated value; what is measured is that one
    # after the answer of the round before.
    value = hospital.signature[disease] + 0.5 * hospital.signature[second] + people["baseline"][who]
    value += severity[:, None] * hospital.load[0] + rounds["factors"] @ hospital.load[1:]
    value += 0.25 * rng.standard_normal(value.shape, np.float32)
    drug_time = time + 70 + rng.integers(0, 35, len(time))
    same_stay = stay[1:] == stay[:-1]
    for place, (name, threshold, drug, effect) in enumerate(hospital.ANSWERS):
        item = hospital.CODES.index(name) - code_of["measurement"]
        calls = (value[:, item] - threshold) * np.sign(threshold) > 0
        given = measured[:, item] & calls & (rng.random(len(time)) < 0.85)
        value[1:, item] += np.float32(effect) * (given[:-1] & same_stay)
        rows = np.flatnonzero(given)
        add(rows, drug_time, DRUGS + place, code_of["drug"] + hospital.MEDS.index(drug))
    rows, j = np.nonzero(measured)
    add(rows, time, MEASURED + hospital.habit[ward[rows], j], code_of["measurement"] + j, _in_units(value[rows, j], j))

    # The protocol of the principal disease, then the first drugs of the other's
    tier = (severity > 0.4).astype(int) + (severity > 1.3)
    for which, length, place in ((disease, hospital.PROTOCOL, DRUGS + 20), (second, 2, DRUGS + 40)):
        drugs = hospital.protocol[which, tier][:, :length]
        rate = hospital.protocol_rate[which, tier][:, :length] * np.where(
            morning[:, None] | hospital.twice[drugs], 0.93, 0.03
        )
        rows, position = np.nonzero(rng.random(rate.shape, np.float32) < rate)
        add(rows, drug_time, place + position, code_of["drug"] + drugs[rows, position])
    return parts


def _in_units(z: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Measurement j at z standard deviations, in its units, rounded as a laboratory does."""
    z = 0.8 * np.clip(z, -4, 4)
    x = np.where(
        hospital.log[j], hospital.median[j] * np.exp(hospital.sd[j] * z), hospital.median[j] + hospital.sd[j] * z
    )
    return np.clip(np.round(x * hospital.rounding[j]) / hospital.rounding[j], hospital.low[j], hospital.high[j])
