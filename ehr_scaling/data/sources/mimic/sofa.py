"""The SOFA score of the first day of an ICU stay, from the tables of MIMIC-IV.

Vincent et al., "The SOFA (Sepsis-related Organ Failure Assessment) score to describe organ dysfunction/failure",
Intensive Care Med 1996;22:707: six organs, 0 to 4 points each for the worst value in 24 hours. What was not measured
counts as normal, as is usual; a stay of which no organ was measured has no score. As charted: the verbal response of
an intubated patient counts 1.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

DAY, HOUR = 86_400, 3_600  # seconds
ORGANS = ("respiration", "coagulation", "liver", "cardiovascular", "nervous system", "renal")
PAO2, PLATELETS, BILIRUBIN, CREATININE = 50821, 51265, 50885, 50912
FIO2, PRESSURES = 223835, (220052, 220181, 225312)  # percent; mean arterial pressure, mmHg
EYES, VERBAL, MOTOR = 220739, 223900, 223901  # Glasgow coma scale
VENTILATOR = (224684, 224685, 224686, 224687, 220339, 224688, 224689)  # settings and readings of a ventilator
NOREPINEPHRINE, EPINEPHRINE, DOPAMINE, DOBUTAMINE = 221906, 221289, 221662, 221653  # rates in µg/kg/min
IRRIGANT = 227488  # put into the bladder: the only urine item that counts against the output
URINE = (226559, 226560, 226561, 226584, 226563, 226564, 226565, 226567, 226557, 226558, 227489)
LABS = (PAO2, PLATELETS, BILIRUBIN, CREATININE)
CHART = (FIO2, *PRESSURES, EYES, VERBAL, MOTOR, *VENTILATOR)
PRESSORS = (NOREPINEPHRINE, EPINEPHRINE, DOPAMINE, DOBUTAMINE)
_FIO2_LASTS, _VENTILATION_LASTS = 4 * HOUR, 8 * HOUR  # how long what was charted is taken to hold


class Series(NamedTuple):
    """Measurements of one kind, sorted by patient and time: int64 (M,), int64 seconds (M,), float64 (M,)."""

    patient: np.ndarray
    time: np.ndarray
    value: np.ndarray


_NOTHING = Series(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def first_day(
    patient: np.ndarray, begin: np.ndarray, end: np.ndarray, series: Mapping[int, Series]
) -> tuple[np.ndarray, Counter[str]]:
    """SOFA of stays.

    Args: patient, int64 (S,); begin and end of the stays, int64 seconds (S,); series, by itemid, of the items above.
    Returns: float64 (S,), 0 to 24, NaN where nothing was measured; how many of the stays with a score lack each organ.
    """
    until = np.minimum(begin + DAY, end)
    window = _Window(patient, begin, until)

    def of(*items: int) -> Series:
        return _merged([series[item] for item in items if item in series])

    full_day = end >= begin + DAY
    urine = window.sum(_merged([of(*URINE), _negated(of(IRRIGANT))]))
    points = {
        "respiration": _respiration(window, of(PAO2), of(FIO2), of(*VENTILATOR)),
        "coagulation": _low(window.lowest(of(PLATELETS)), (150, 100, 50, 20)),
        "liver": _high(window.highest(of(BILIRUBIN)), (1.2, 2, 6, 12)),
        "cardiovascular": _circulation(window, of(*PRESSURES), {i: of(i) for i in PRESSORS}),
        "nervous system": _low(window.lowest(_coma(of(EYES), of(VERBAL), of(MOTOR))), (15, 13, 10, 6)),
        "renal": np.fmax(
            _high(window.highest(of(CREATININE)), (1.2, 2, 3.5, 5)),
            # Less than a day of urine is not a day's output.
            np.where(full_day, _low(urine, (500, 500, 500, 200)), np.nan),
        ),
    }
    table = np.stack([points[organ] for organ in ORGANS])  # (6, S)
    measured = ~np.isnan(table)
    some = measured.any(0)
    score = np.where(some, np.where(measured, table, 0).sum(0), np.nan)
    lacking = Counter({organ: int((some & ~m).sum()) for organ, m in zip(ORGANS, measured, strict=True)})
    return score, lacking


def _key(patient: np.ndarray, time: np.ndarray) -> np.ndarray:
    return (patient.astype(np.int64) << 40) + time + (1 << 38)  # times from 1970 - 8,700 years on


class _Window:
    """The measurements of each stay's first day."""

    def __init__(self, patient: np.ndarray, begin: np.ndarray, until: np.ndarray):
        self.low, self.high = _key(patient, begin), _key(patient, until)

    def _reduce(self, s: Series, ufunc: np.ufunc) -> np.ndarray:
        key = _key(s.patient, s.time)
        first, last = np.searchsorted(key, self.low), np.searchsorted(key, self.high, side="right")
        reduced = np.full(len(first), np.nan)
        if (some := first < last).any():
            edges = np.stack([first[some], last[some]], 1).ravel()
            # reduceat takes no index past the end: a value that changes nothing is put there
            reduced[some] = ufunc.reduceat(np.append(s.value, s.value[-1:]), edges)[::2]
        return reduced

    def lowest(self, s: Series) -> np.ndarray:
        return self._reduce(s, np.minimum)

    def highest(self, s: Series) -> np.ndarray:
        return self._reduce(s, np.maximum)

    def sum(self, s: Series) -> np.ndarray:
        return self._reduce(s, np.add)


def _merged(parts: list[Series]) -> Series:
    if not parts:
        return _NOTHING
    merged = Series(*(np.concatenate([p[i] for p in parts]) for i in range(3)))
    order = np.argsort(_key(merged.patient, merged.time), kind="stable")
    return Series(*(column[order] for column in merged))


def _negated(s: Series) -> Series:
    return s._replace(value=-s.value)


def _low(value: np.ndarray, limits: tuple[float, float, float, float]) -> np.ndarray:
    """Points for values below each of the limits; NaN for NaN."""
    return np.where(np.isnan(value), np.nan, sum((value < limit).astype(float) for limit in limits))


def _high(value: np.ndarray, limits: tuple[float, float, float, float]) -> np.ndarray:
    """Points for values of at least each of the limits; NaN for NaN."""
    return np.where(np.isnan(value), np.nan, sum((value >= limit).astype(float) for limit in limits))


def _latest(at: Series, s: Series, lasts: int) -> np.ndarray:
    """The latest value of `s` at each time of `at`, NaN where there is none of the last `lasts` seconds."""
    if not len(s.value):
        return np.full(len(at.value), np.nan)
    key = _key(at.patient, at.time)
    i = np.searchsorted(_key(s.patient, s.time), key, side="right") - 1
    held = (i >= 0) & (s.patient[i] == at.patient) & (s.time[i] >= at.time - lasts)
    return np.where(held, s.value[i], np.nan)


def _respiration(window: _Window, pao2: Series, fio2: Series, ventilator: Series) -> np.ndarray:
    fraction = _latest(pao2, fio2, _FIO2_LASTS)
    fraction = np.where(fraction > 1, fraction / 100, fraction)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((fraction >= 0.2) & (fraction <= 1), pao2.value / fraction, np.nan)
    known = ~np.isnan(ratio)
    supported = ~np.isnan(_latest(pao2, ventilator, _VENTILATION_LASTS))
    points = _low(ratio, (400, 300, 200, 100))
    points = np.where(supported, points, np.minimum(points, 2))
    return window.highest(Series(pao2.patient[known], pao2.time[known], points[known]))


def _coma(eyes: Series, verbal: Series, motor: Series) -> Series:
    """The sum of the three where all are charted at one time."""
    e, v, m = (_key(s.patient, s.time) for s in (eyes, verbal, motor))
    both = np.intersect1d(np.intersect1d(e, v), m)
    at = [np.searchsorted(key, both) for key in (e, v, m)]
    return Series(eyes.patient[at[0]], eyes.time[at[0]], eyes.value[at[0]] + verbal.value[at[1]] + motor.value[at[2]])


def _circulation(window: _Window, pressure: Series, rates: Mapping[int, Series]) -> np.ndarray:
    highest = {item: np.nan_to_num(window.highest(s)) for item, s in rates.items()}
    strong = np.maximum(highest[NOREPINEPHRINE], highest[EPINEPHRINE])
    dopamine, dobutamine = highest[DOPAMINE], highest[DOBUTAMINE]
    drugs = np.select(
        [(dopamine > 15) | (strong > 0.1), (dopamine > 5) | (strong > 0), (dopamine > 0) | (dobutamine > 0)],
        [4.0, 3.0, 2.0],
        np.nan,
    )
    lowest = window.lowest(Series(*(column[pressure.value > 0] for column in pressure)))  # 0: not a measurement
    return np.fmax(drugs, np.where(np.isnan(lowest), np.nan, (lowest < 70).astype(float)))
