"""Generated patients: the default source, so that a whole study runs with no data at hand.

Causal structure (tables and the fixed "hospital" in `synthetic_tables`):
  kind of patient, age, sex → chronic diseases (Zipf), frailty, a personal baseline of each laboratory value
  diseases, last stay       → principal disease of the next stay, one that goes with it, ward, kind of admission
  disease, frailty          → severity at admission and the level it drifts to, an Ornstein-Uhlenbeck process
  severity                  → ICU with denser rounds, length of stay, death in hospital or after, readmission
  disease, round            → which panels are drawn, in the ward's habitual order
  diseases, severity, seven latent factors (AR 1), personal baseline, noise → values of labs and vitals
  disease × tier of severity → a protocol: an ordered list of drugs, each given with its own rate
  values beyond a threshold → a drug, which moves the next value back
  diseases, course          → discharge diagnoses, place of discharge
Frequencies of diseases and so of protocols and signatures follow Zipf's law: frequent habits are learnt from few
tokens, rare ones only from many, which is what makes loss fall smoothly with data and with model size.
Nothing here is medicine: results on these patients show that the machinery works.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling.data import events
from ehr_scaling.data.sources import synthetic_tables as hospital
from ehr_scaling.errors import UserError

VERSION = 1  # of the patients that a seed gives: raise it with every change of this file or of the tables
BLOCK = 2_000  # patients generated at once, from a generator of their own: more patients never change earlier ones
FIRST_ID = 10_000_001
MAX_STAYS, MAX_ROUNDS, MAX_RECORD_ROUNDS = 14, 40, 90  # the last bounds a record to about 3,000 tokens
DAY = 1440  # minutes, the unit of time within this module
STATIC_TIME = -1

# Length of stay and gap between stays, lognormal, in days; truncated to what a record can hold
STAY_LOG, STAY_SD, GAP_LOG, GAP_SD = 1.457, 1.096, 4.202, 2.059
MAX_STAY, MAX_GAP = 90.0, 1_500.0


def inputs(raw: Path | None = None, *, patients: int = 20_000) -> dict[str, Any]:
    """What determines the events besides seed and splits, as JSON. Raises UserError on a senseless number."""
    _check(raw, patients)
    return {"source": "synthetic", "version": VERSION, "patients": patients}


def extract(
    raw: Path | None,
    out: Path,
    *,
    seed: int,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    patients: int = 20_000,
) -> dict[str, Any]:
    """Generate `patients` patients and write them as MEDS events into the folder `out`.

    Args: raw, None; out, an existing folder; seed, which fixes every patient (a larger `patients` keeps the earlier
      ones as they are); splits, fractions of train, tuning and held_out.
    Returns: the summary of `events.write` with the source's name, licence and what the data are.
    Raises: UserError when raw files are given, or there are fewer than ten patients.
    """
    _check(raw, patients)
    facts = {
        "dataset_name": "ehr_scaling generated patients",
        "dataset_version": str(VERSION),
        "license": "Apache-2.0",
    }
    summary = events.write(out, _shards(seed, splits, patients), metadata=facts)
    return {
        **summary,
        "source": "synthetic",
        "name": facts["dataset_name"],
        "license": facts["license"],
        "generated": True,
        "seed": seed,
    }


def _check(raw: Path | None, patients: int) -> None:
    if raw is not None:
        raise UserError(f"the source 'synthetic' generates its patients and reads no files: drop --raw={raw}")
    if patients < 10:
        raise UserError(
            f"--config.data.patients={patients} is too few to split: take 10 or more, 20000 for a study"
        )


def _shards(seed: int, splits: tuple[float, float, float], patients: int) -> Iterator[tuple[str, pa.Table]]:
    codes = pa.array(hospital.CODES, pa.string())
    for first in range(0, patients, BLOCK):
        patient, minute, code, value = _block(seed, first // BLOCK)
        n = min(BLOCK, patients - first)
        split = events.assign_splits(FIRST_ID + first + np.arange(BLOCK), seed, splits)
        for i, name in enumerate(events.SPLITS):
            rows = np.flatnonzero((split[patient] == i) & (patient < n))
            time = pa.array(minute[rows] * 60_000_000, pa.int64(), mask=minute[rows] == STATIC_TIME)
            columns = [
                pa.array(FIRST_ID + first + patient[rows], pa.int64()),
                time.cast(pa.timestamp("us")),
                codes.take(pa.array(code[rows])),
                pa.array(value[rows], pa.float32(), mask=np.isnan(value[rows])),
                pa.nulls(len(rows), pa.large_string()),
            ]
            yield name, pa.Table.from_arrays(columns, schema=events.SCHEMA)


class _Events:
    """Collects events of one block in any order; `order` tells those of one minute apart."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, ...]] = []

    def add(self, patient: np.ndarray, minute: Any, order: Any, code: Any, value: np.ndarray | None = None) -> None:
        shape = patient.shape
        self.parts.append(
            (
                patient.astype(np.int64),
                np.broadcast_to(minute, shape).astype(np.int64),
                np.broadcast_to(order, shape).astype(np.int64),
                np.broadcast_to(code, shape).astype(np.int16),
                np.full(shape, np.nan, np.float32) if value is None else value.astype(np.float32),
            )
        )

    def sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        patient, minute, order, code, value = (np.concatenate(c) for c in zip(*self.parts, strict=True))
        # One integer key (patient, minute, order) sorts several times faster than three columns
        by = np.argsort((patient << 44) | ((minute + 1) << 12) | order, kind="stable")
        return patient[by], minute[by], code[by], value[by]


# Order of events within a minute: rounds lie between an arrival and a departure
ADMISSION, ADMIT, TRANSFER, ICU_IN, ICU_OUT, BACK, ROUND, DRUGS = 0, 1, 4, 5, 2, 3, 100, 300
LAST_ICU_OUT, DEATH, DISCHARGE, DIAGNOSES = 400, 401, 402, 403


def _block(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Events of BLOCK patients: their number in the block, minutes since 1970 (STATIC_TIME: static), code, value
    (NaN: none), in the order of tokens."""
    rng = np.random.default_rng([seed, index, VERSION])
    out = _Events()
    person = _people(rng, out)
    stays, rounds = _stays(rng, person, out)
    _stay_events(rng, person, stays, out)
    _round_events(rng, person, stays, rounds, out)
    return out.sorted()


def _choose(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """One index a row, with the probabilities of the row."""
    edges = np.cumsum(p, axis=1)
    return (rng.random((len(p), 1)) * edges[:, -1:] >= edges[:, :-1]).sum(axis=1)


def _people(rng: np.random.Generator, out: _Events) -> dict[str, np.ndarray]:
    everyone = np.arange(BLOCK)
    age = np.clip(np.where(rng.random(BLOCK) < 0.75, rng.normal(66, 14, BLOCK), rng.normal(38, 13, BLOCK)), 18, 97)
    female = (rng.random(BLOCK) < 0.52).astype(int)
    kind = rng.choice(
        hospital.ARCHETYPES,
        BLOCK,
        p=hospital.zipf[: hospital.ARCHETYPES] / hospital.zipf[: hospital.ARCHETYPES].sum(),
    )
    tendency = np.exp(hospital.affinity[kind] + hospital.age_slope * ((age - 60) / 18)[:, None])
    has = hospital.chronic & (rng.random(tendency.shape) < 1 - np.exp(-0.75 * hospital.zipf * tendency))
    race = _choose(rng, np.tile([0.66, 0.14, 0.07, 0.04, 0.05, 0.04], (BLOCK, 1)))
    old = (age >= 65)[:, None]
    insurance = _choose(rng, np.where(old, [[0.85, 0.03, 0.12]], [[0.15, 0.25, 0.60]]))
    marital = _choose(rng, np.where(old, [[0.5, 0.15, 0.27, 0.08]], [[0.42, 0.47, 0.02, 0.09]]))
    for order, (name, value) in enumerate(
        {"GENDER": female, "RACE": race, "INSURANCE": insurance, "MARITAL": marital}.items()
    ):
        out.add(everyone, STATIC_TIME, order, hospital.code_of[name] + value)
    # Shifted into a century that no record comes from
    first = ((130 + 60 * rng.random(BLOCK)) * 365.25 * DAY).astype(np.int64)
    birth = first - (age * 365.25 * DAY).astype(np.int64)
    birth -= birth % DAY
    out.add(everyone, birth, 0, hospital.code_of["birth"])
    return {
        "first": first,
        "has": has,
        "tendency": tendency,
        "frailty": 0.8 * rng.standard_normal(BLOCK) + 0.3 * (age - 60) / 18 + 0.08 * (has.sum(axis=1) - 4),
        "baseline": 0.3 * rng.standard_normal((BLOCK, hospital.J), np.float32),
    }


def _stays(
    rng: np.random.Generator, person: dict[str, np.ndarray], out: _Events
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All hospital stays of the block, one row a stay, and their rounds, one row a round, both in order of time."""
    stays, rounds = [], []
    who, start = np.arange(BLOCK), person["first"]
    last = np.full(BLOCK, -1)  # principal disease of the stay before
    seen = np.zeros(BLOCK, int)
    total = 0
    for _ in range(MAX_STAYS):
        has, frailty = person["has"][who], person["frailty"][who]
        weight = hospital.zipf * person["tendency"][who] * np.where(hospital.chronic, np.where(has, 2.5, 0.05), 0.8)
        weight[np.arange(len(who)), last] *= np.where(last >= 0, 4.0, 1.0)
        disease = _choose(rng, weight)
        other = np.where(has, hospital.zipf**0.5, 1e-3) + 0.1 * weight
        other[np.arange(len(who)), disease] = 0
        second = _choose(rng, other)
        stay = {
            "patient": who,
            "start": start,
            "disease": disease,
            "second": second,
            "type": _choose(rng, hospital.admission_type[disease]),
        }
        course, visits = _course(rng, stay, frailty)
        stay |= course
        visits["stay"] += total
        total += len(who)
        stays.append(stay)
        rounds.append(visits)
        seen[who] += np.bincount(visits["stay"] - (total - len(who)), minlength=len(who))

        # After discharge: death, another stay sooner the sicker, or the end of the record
        ill = stay["severity_end"] + 0.4 * frailty
        alive = ~stay["died"]
        leave = start + stay["minutes"]
        dies = alive & (rng.random(len(who)) < 1 / (1 + np.exp(4.3 - 1.0 * ill)))
        days = np.exp(rng.normal(4.0, 1.3, len(who)))
        out.add(
            who[dies], (leave + np.clip(days, 0.5, 720) * DAY)[dies].astype(np.int64), 0, hospital.code_of["death"]
        )
        again = alive & ~dies & (rng.random(len(who)) < 1 / (1 + np.exp(-0.45 - 0.45 * ill)))
        again &= seen[who] < MAX_RECORD_ROUNDS
        gap = np.exp(rng.normal(GAP_LOG - 0.35 * ill, GAP_SD, len(who)))
        start = (leave + np.clip(gap, 0.5, MAX_GAP) * DAY)[again].astype(np.int64)
        last, who = disease[again], who[again]
        person["frailty"][who] += 0.05
        if not len(who):
            break
    return (
        {key: np.concatenate([s[key] for s in stays]) for key in stays[0]},
        {key: np.concatenate([r[key] for r in rounds]) for key in rounds[0]},
    )


def _course(
    rng: np.random.Generator, stay: dict[str, np.ndarray], frailty: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Severity over time, ICU, death and discharge of n stays. Severity 0 is an ordinary patient of a ward."""
    n = len(frailty)
    severity = 0.45 * frailty + 0.8 * hospital.gravity[stay["disease"]] + 0.7 * rng.standard_normal(n)
    target = 0.75 * severity - 0.35 + 0.45 * rng.standard_normal(n)
    length = STAY_LOG + 0.15 + STAY_SD * (0.4 * np.clip(target, -2, 3) + 0.9 * rng.standard_normal(n))
    minutes = (np.clip(np.exp(length), 0.3, MAX_STAY) * DAY).astype(np.int64)
    factors = rng.standard_normal((n, hospital.F), np.float32)
    icu, hours_icu, died = np.zeros(n, bool), np.zeros(n), np.zeros(n, bool)
    ever_icu = np.zeros(n, bool)
    time = rng.integers(25, 50, n)  # of the round, minutes since admission
    severity_end = severity.copy()
    kept: list[dict[str, np.ndarray]] = []
    at = np.arange(n)  # stays that go on
    for k in range(MAX_ROUNDS):
        s, was = severity[at], icu[at]
        # Hysteresis keeps one ICU stay one
        inside = np.where(
            was, s + 0.15 * rng.standard_normal(len(at)) > 0.75, s + 0.35 * rng.standard_normal(len(at)) > 1.5
        )
        icu[at], ever_icu[at] = inside, ever_icu[at] | inside
        clock = (stay["start"][at] + time[at]) % DAY
        morning = (clock > 5 * 60) & (clock < 8 * 60)
        kept.append(
            {
                "stay": at,
                "round": np.full(len(at), k),
                "time": stay["start"][at] + time[at],
                "severity": s,
                "inside": inside,
                "was": was,
                "morning": morning | (k == 0),
                "factors": factors[at],
            }
        )
        gap = _next_round(rng, clock, time[at], inside & (hours_icu[at] < 120))
        hours_icu[at] += np.where(inside, gap / 60, 0)
        dies = rng.random(len(at)) < 1 - np.exp(-np.exp(2.6 * (s - 2.9)) * np.minimum(gap, 2 * DAY) / DAY)
        leaves = ~dies & (time[at] + gap + 60 > minutes[at])
        died[at] |= dies
        minutes[at] = np.where(
            dies,
            time[at] + np.maximum(150, (gap * rng.random(len(at))).astype(np.int64)),
            np.where(leaves, np.maximum(minutes[at], time[at] + 150), minutes[at]),
        )
        severity_end[at] = s
        time[at] += gap
        days = np.minimum(gap / DAY, 3.0)
        severity[at] += (target[at] - s) * (1 - np.exp(-days / 2.5)) + 0.3 * np.sqrt(days) * rng.standard_normal(
            len(at)
        )
        keep = np.exp(-days / 4).astype(np.float32)[:, None]
        factors[at] = keep * factors[at] + np.sqrt(1 - keep**2) * rng.standard_normal(
            (len(at), hospital.F), np.float32
        )
        at = at[~dies & ~leaves]
        if not len(at):
            break
    visits = {key: np.concatenate([v[key] for v in kept]) for key in kept[0]}
    # Those still in after the last round leave at its end
    minutes[at] = time[at] - 30
    by = np.lexsort((visits["round"], visits["stay"]))
    return (
        {"minutes": minutes, "died": died, "ever_icu": ever_icu, "severity_end": severity_end},
        {key: value[by] for key, value in visits.items()},
    )


def _next_round(rng: np.random.Generator, clock: np.ndarray, time: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Minutes to the next round: every 4 h, later every 8 h, in the ICU; at 6 and 20 h in a ward, then rarer."""

    def until(hour: float, period: float, least: Any) -> np.ndarray:
        wait = (hour * 60 - clock - least) % (period * 60)
        return wait + least

    ward = np.minimum(until(6, 24, 5 * 60), until(20, 24, 5 * 60))
    ward = np.where(time > 3 * DAY, until(6, 24, 30 * 60), ward)
    ward = np.where(time > 10 * DAY, until(6, 24, 100 * 60), ward)
    unit = np.where(time > DAY, until(6, 8, 5 * 60), until(2, 4, 2.5 * 60))
    return (np.where(dense, unit, ward) + rng.integers(-12, 13, len(clock))).astype(np.int64)


def _stay_events(
    rng: np.random.Generator, person: dict[str, np.ndarray], stays: dict[str, np.ndarray], out: _Events
) -> None:
    """Arrival, and at the end death, discharge and diagnoses."""
    who, start, disease, died = stays["patient"], stays["start"], stays["disease"], stays["died"]
    n, code_of = len(who), hospital.code_of
    emergency = stays["type"] == 0
    arrival = _choose(rng, np.where(emergency[:, None], [[0.75, 0.17, 0.08]], [[0.7, 0.2, 0.1]]))
    out.add(who, start, ADMISSION, code_of["admission"] + 3 * stays["type"] + arrival)
    unit = np.where(emergency, len(hospital.WARDS), hospital.ward[disease])
    out.add(who, start, ADMIT, code_of["admit"] + unit)
    end = start + stays["minutes"]
    out.add(who[died], end[died], DEATH, code_of["death"])
    ill = stays["severity_end"] + 0.4 * person["frailty"][who]
    scores = np.stack([0 * ill, 0.5 * ill - 0.3, 1.0 * ill - 0.9, 0.7 * ill - 1.6, 2.0 * ill - 5.5], axis=1)
    place = np.where(died, len(hospital.DISCHARGES) - 1, _choose(rng, np.exp(scores)))
    out.add(who, end, DISCHARGE, code_of["discharge"] + place)

    # Principal diagnosis, its companion, the other chronic diseases in order of frequency, then complications
    listed = person["has"][who] & (rng.random((n, hospital.D)) < 0.75)
    listed[np.arange(n), disease] = listed[np.arange(n), stays["second"]] = False
    out.add(who, end, DIAGNOSES, code_of["diagnosis"] + disease)
    out.add(who, end, DIAGNOSES + 1, code_of["diagnosis"] + stays["second"])
    row, which = np.nonzero(listed)
    out.add(who[row], end[row], DIAGNOSES + 2 + which, code_of["diagnosis"] + which)
    rate = 1 / (1 + np.exp(np.linspace(2.5, 5.0, len(hospital.COMPLICATIONS)) - 1.3 * ill[:, None]))
    rate[:, 0] += 0.3 * stays["ever_icu"]
    rate[:, -2:] += 0.4 * died[:, None]
    row, which = np.nonzero(rng.random(rate.shape) < rate)
    out.add(who[row], end[row], DIAGNOSES + 2 + hospital.D + which, code_of["diagnosis"] + hospital.D + which)


def _round_events(
    rng: np.random.Generator,
    person: dict[str, np.ndarray],
    stays: dict[str, np.ndarray],
    rounds: dict[str, np.ndarray],
    out: _Events,
) -> None:
    """Moves between units, then vitals and labs in the ward's order, then drugs an hour or two later."""
    code_of, stay, time, first = hospital.code_of, rounds["stay"], rounds["time"], rounds["round"] == 0
    who, disease, second = stays["patient"][stay], stays["disease"][stay], stays["second"][stay]
    m = len(stay)
    severity = rounds["severity"].astype(np.float32)

    ward, unit = hospital.ward[disease], hospital.icu[disease]
    enters, exits = rounds["inside"] & ~rounds["was"], rounds["was"] & ~rounds["inside"]
    out.add(who[enters], time[enters], TRANSFER, code_of["transfer"] + len(hospital.WARDS) + unit[enters])
    out.add(who[enters], time[enters], ICU_IN, code_of["icu_in"] + unit[enters])
    out.add(who[exits], time[exits], ICU_OUT, code_of["icu_out"] + unit[exits])
    moves = exits | (first & ~enters & (stays["type"][stay] == 0))
    out.add(who[moves], time[moves], BACK, code_of["transfer"] + ward[moves])
    final = np.append(stay[1:] != stay[:-1], True) & rounds["inside"]
    end = (stays["start"] + stays["minutes"])[stay]
    out.add(who[final], end[final], LAST_ICU_OUT, code_of["icu_out"] + unit[final])

    # Which are drawn: (rounds, panels), then (rounds, measurements)
    when = np.where(first, 1.0, np.where(rounds["morning"], 0.42, 0.05))[:, None]
    panels = (
        hospital.panel_rate[disease] * np.where(rounds["inside"], np.maximum(when, 0.3)[:, 0], when[:, 0])[:, None]
    )
    gas, vital = hospital.PANELS.index("GAS"), hospital.PANELS.index("V")
    panels[:, gas] = np.where(severity > 1.0, 0.5, panels[:, gas])
    panels[:, vital] = np.where(rounds["inside"], 1.0, 0.75)
    drawn = rng.random(panels.shape, np.float32) < panels
    rate = hospital.item_rate[disease] * np.where(first, 1.0, 0.75)[:, None]
    taken = drawn[:, hospital.panel] & (rng.random((m, hospital.J), np.float32) < rate)

    # Untreated values in standard deviations, then what the answers of the round before did to them
    value = hospital.signature[disease] + 0.5 * hospital.signature[second] + person["baseline"][who]
    value += severity[:, None] * hospital.load[0] + rounds["factors"] @ hospital.load[1:]
    value += 0.35 * rng.standard_normal(value.shape, np.float32)
    items = [m[0] for m in hospital.MEASUREMENTS]
    untreated = value.copy()
    for order, (name, threshold, drug, effect) in enumerate(hospital.ANSWERS):
        j = items.index(name)
        beyond = untreated[:, j] > threshold if threshold > 0 else untreated[:, j] < threshold
        given = taken[:, j] & beyond & (rng.random(m) < 0.85)
        value[1:, j] += np.float32(effect) * (given[:-1] & (stay[1:] == stay[:-1]))
        row = np.flatnonzero(given)
        out.add(
            who[row],
            time[row] + _delay(stay, rounds)[row],
            DRUGS + order,
            code_of["drug"] + hospital.MEDS.index(drug),
        )
    row, item = np.nonzero(taken)
    place = ROUND + hospital.habit[ward[row], item]
    out.add(who[row], time[row], place, code_of["measurement"] + item, _measured(value[row, item], item))

    # Drugs of the principal disease's protocol, then the first few of the other's
    tier = (severity > 0.4).astype(int) + (severity > 1.3)
    for which, length, begin in ((disease, hospital.PROTOCOL, 20), (second, 4, 40)):
        rate = hospital.protocol_rate[which, tier][:, :length] * np.where(rounds["morning"], 0.8, 0.3)[:, None]
        row, position = np.nonzero(rng.random(rate.shape, np.float32) < rate)
        drug = hospital.protocol[which[row], tier[row], position]
        out.add(who[row], time[row] + _delay(stay, rounds)[row], DRUGS + begin + position, code_of["drug"] + drug)


def _delay(stay: np.ndarray, rounds: dict[str, np.ndarray]) -> np.ndarray:
    """Minutes from a round to its drugs, the same for all of them."""
    return 70 + (rounds["time"] * 7919 + stay) % 35


def _measured(z: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Values in the units of measurement j from standard deviations z, rounded as a laboratory does."""
    log = np.array([m[1] == "l" for m in hospital.MEASUREMENTS])[j]
    median, sd = (np.array([float(m[c]) for m in hospital.MEASUREMENTS])[j] for c in (2, 3))
    scale = 10.0 ** np.array([int(m[4]) for m in hospital.MEASUREMENTS])[j]
    z = np.clip(z, -4, 4)
    x = np.where(log, median * np.exp(sd * z * 0.8), median + sd * z * 0.8)
    low = np.where(np.char.find([m[0] for m in hospital.MEASUREMENTS], "50802")[j] >= 0, -np.inf, 0.0)
    top = np.where(np.char.find([m[0] for m in hospital.MEASUREMENTS], "SATURATION")[j] >= 0, 100.0, np.inf)
    return np.clip(np.round(x * scale) / scale, low, top)
