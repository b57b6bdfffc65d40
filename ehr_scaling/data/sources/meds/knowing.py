"""MIMIC-IV in MEDS by the rules of the mimic-iv source: when each fact was known, and how stays and deaths agree.

MEDS has no tables and few columns, so what an event belongs to is found by `hadm_id` where that is told, else by time:

- Diagnoses, procedures, services (HCPCS) and DRG stand at the discharge of their stay: that of `hadm_id`, else the one
  that ends at their time, else the last that holds their day; without a stay at the end of a bare day, else where they
  are. Diagnoses at the end of a visit to the ED stay there.
- Blood pressure and BMI with a bare day stand at its end, or at the death of that day.
- Acuity and vital signs at a registration in the ED are its triage. They stand at the visit's first later vital sign,
  else at its end; but where one is told twice, there was a vital sign beside the triage, and they stay.
- The race stands at the admissions that tell more than was known (see `shuffle`).
- All else stands where it is: MEDS does not tell when it was filed.

Stays in hospital and deaths are settled by `reconcile.settle`: a death at 00:00:00 or in the last minute of a day is a
date, any other is a time of death; a discharge to DIED says that a stay ended so. Stays in intensive care, and visits
to the ED whose `hadm_id` is told, by `reconcile.settle_pairs`.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from ehr_scaling.data.events import events
from ehr_scaling.data.events.columns import STATIC
from ehr_scaling.data.sources import reconcile
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.sources.meds.rows import NO_STAY, Rows, first_of_run
from ehr_scaling.data.sources.reconcile import DAY, NEVER, NULL, day_end

_SECOND = 1_000_000  # µs
_SHIFT = 40  # bits of a time in seconds, in a key of patient and time
_LAST_MINUTE = DAY - 60
_ADMIT, _LEAVE, _DEATH, _ICU_IN, _ICU_OUT, _ED_IN, _ED_OUT, _DIAGNOSIS, _BILL, _DAYS, _VITAL = range(1, 12)
_KINDS = (  # the first that a code begins with
    ("HOSPITAL_ADMISSION", _ADMIT),
    ("HOSPITAL_DISCHARGE", _LEAVE),
    (events.DEATH, _DEATH),
    ("ICU_ADMISSION", _ICU_IN),
    ("ICU_DISCHARGE", _ICU_OUT),
    ("ED_REGISTRATION", _ED_IN),
    ("ED_OUT", _ED_OUT),
    ("DIAGNOSIS//", _DIAGNOSIS),
    ("PROCEDURE//ICD//", _BILL),
    ("HCPCS//", _BILL),
    ("DRG//", _BILL),
    ("BMI", _DAYS),
    ("VITAL//", _VITAL),
    ("ACUITY", _VITAL),
)


class _Events(NamedTuple):
    """n events, sorted by patient and time."""

    patient: np.ndarray  # int64 (n,), index of the patient
    time: np.ndarray  # int64 (n,) seconds, NULL for static facts
    kind: np.ndarray  # int8 (n,), one of the above, 0 for all else
    stay: np.ndarray  # int64 (n,), the stay in hospital it is told to belong to, or NO_STAY

    def rows(self, *kinds: int) -> np.ndarray:
        return np.flatnonzero(np.isin(self.kind, kinds))

    def key(self, rows: np.ndarray) -> np.ndarray:
        return _key(self.patient[rows], self.time[rows])


class _Hospital(NamedTuple):
    """A stays in hospital, sorted by patient and admission."""

    patient: np.ndarray
    admit: np.ndarray
    told: np.ndarray  # the discharge as the data set has it, NULL for none
    end: np.ndarray  # the discharge as it is settled
    stay: np.ndarray

    def find(self, facts: _Events, rows: np.ndarray, *, bill: bool) -> np.ndarray:
        """int64, the stay of each of some rows, -1 for none. Args: bill, whether a stay holds its days as a whole."""
        out = np.full(len(rows), -1)
        if not len(self.patient) or not len(rows):
            return out
        patient, time = facts.patient[rows], facts.time[rows]
        begun = np.searchsorted(_key(self.patient, self.admit), _key(patient, day_end(time) if bill else time), "right")
        last = np.maximum(begun - 1, 0)
        until = np.where(self.told[last] == NULL, NULL, day_end(self.told[last]) if bill else self.told[last] + DAY)
        fits = (begun > 0) & (self.patient[last] == patient) & ((until == NULL) | (time <= until))
        out[fits] = last[fits]
        if bill:
            ends = np.flatnonzero(self.told != NULL)
            exact = _matching(_key(self.patient[ends], self.told[ends]), _key(patient, time))
            out = np.where(exact >= 0, ends[np.maximum(exact, 0)] if len(ends) else -1, out)
        named = np.flatnonzero(self.stay != NO_STAY)
        match = _matching(self.stay[named], facts.stay[rows])
        match = np.where(match >= 0, named[np.maximum(match, 0)] if len(named) else -1, -1)
        return np.where((match >= 0) & (self.patient[np.maximum(match, 0)] == patient), match, out)


def known(rows: Rows) -> tuple[Rows, Counter[str], Counter[str]]:
    """The events of a shard where they were known, with stays and deaths that agree: see the module's text.

    Args: rows, of a MIMIC-IV dialect in our codes, sorted by patient and time.
    Returns: the same, in the order of `dialects.place` with known; rows that were left out, and that were mended, by
      reason.
    """
    dropped, mended = Counter[str](), Counter[str]()
    of_name = np.array([next((k for head, k in _KINDS if name.startswith(head)), 0) for name in rows.names], np.int8)
    patient = np.cumsum(first_of_run(rows.subjects)) - 1
    people = int(patient[-1]) + 1 if len(patient) else 0
    time = np.where(rows.times == STATIC, NULL, rows.times // _SECOND)
    facts = _Events(patient, time, of_name[rows.codes], rows.stays)
    new, keep = time.copy(), np.ones(len(time), bool)

    hospital, settled = _settled(facts, rows, people, new)
    mended.update({f"stays in hospital: {rule}": n for rule, n in settled.counts.items()})
    deaths = facts.rows(_DEATH)
    again = ~first_of_run(patient[deaths])
    keep[deaths[again]] = False
    dropped["deaths: told again"] += int(again.sum())
    new[deaths] = settled.death[patient[deaths]]

    _intensive(facts, hospital, new, keep, mended)
    visit_ends = _emergency(facts, hospital, new, mended)
    pressure = np.array([name.startswith("VITAL//BLOOD_PRESSURE") for name in rows.names], bool)[rows.codes]
    triage = _triage(facts, visit_ends, rows.codes, pressure, new)
    _coded(facts, hospital, settled.death, pressure, new)

    # What a triage and the vital sign of its time both tell.
    signs, told = facts.rows(_VITAL), np.concatenate([triage, facts.rows(_ED_IN)])
    same_time = signs[np.isin(_key(patient[signs], new[signs]), _key(patient[told], new[told]))]
    columns = (array[same_time] for array in (patient, new, rows.codes, rows.values.view(np.int32)))
    again = same_time[_repeated(*columns)]
    keep[again] = False
    dropped["vital signs: told again"] += len(again)
    late = keep & (time != NULL) & (new > settled.closed[patient])
    keep &= ~late
    dropped["after the patient's death"] += int(late.sum())
    return (
        _ordered(rows, new, keep, np.setdiff1d(np.flatnonzero(settled.death != NULL), patient[deaths]), settled),
        (+dropped),
        +mended,
    )


def _settled(facts: _Events, rows: Rows, people: int, new: np.ndarray) -> tuple[_Hospital, reconcile.Settled]:
    """Stays and deaths by the rules; the times of discharges in `new` are changed."""
    begins, ends = facts.rows(_ADMIT), facts.rows(_LEAVE)
    end_of = _paired(facts, begins, ends, by_stay=True)
    has = end_of >= 0
    told = np.where(has, facts.time[end_of], NULL)
    dies = np.array([name.partition("//")[2].strip().upper() == "DIED" for name in rows.names], bool)
    patient, admit = facts.patient[begins], facts.time[begins]

    deaths = facts.rows(_DEATH)
    of_day = facts.time[deaths] % DAY
    exact = (of_day > 0) & (of_day < _LAST_MINUTE)
    dated = np.full(people, NEVER)
    at = np.where(exact, facts.time[deaths], day_end(facts.time[deaths]))
    np.minimum.at(dated, facts.patient[deaths], at)
    dated = np.where(dated == NEVER, NULL, dated)
    unsettled = _Hospital(patient, admit, told, told, facts.stay[begins])
    death = np.full(len(begins), NULL)
    stay = unsettled.find(facts, deaths[exact], bill=False)
    death[stay[stay >= 0]] = facts.time[deaths[exact][stay >= 0]]
    settled = reconcile.settle(
        reconcile.Stays(patient, admit, told, has & dies[rows.codes[np.maximum(end_of, 0)]], death), dated
    )
    new[end_of[has]] = settled.end[has]
    return unsettled._replace(end=settled.end), settled


def _intensive(facts: _Events, hospital: _Hospital, new: np.ndarray, keep: np.ndarray, mended: Counter[str]) -> None:
    begins = facts.rows(_ICU_IN)
    ends = _paired(facts, begins, facts.rows(_ICU_OUT))
    bound = hospital.find(facts, begins, bill=False)
    last = np.where(bound >= 0, hospital.end[np.maximum(bound, 0)] if len(hospital.end) else NULL, NULL)
    told = np.where(ends >= 0, facts.time[ends], NULL)
    left, kept, counts = reconcile.settle_pairs(facts.time[begins], told, last, intensive=True)
    new[ends[ends >= 0]] = left[ends >= 0]
    keep[begins[~kept]] = False
    keep[ends[~kept & (ends >= 0)]] = False
    mended.update({f"stays in intensive care: {rule}": n for rule, n in counts.items()})


def _emergency(facts: _Events, hospital: _Hospital, new: np.ndarray, mended: Counter[str]) -> np.ndarray:
    """Settle visits to the ED. Returns: the row of the end of each registration, -1 for none."""
    begins = facts.rows(_ED_IN)
    ends = _paired(facts, begins, facts.rows(_ED_OUT))
    told = np.where(ends >= 0, facts.time[ends], NULL)
    named = np.flatnonzero(hospital.stay != NO_STAY)
    bound = _matching(hospital.stay[named], facts.stay[begins])
    last = np.where(bound >= 0, hospital.end[named[np.maximum(bound, 0)]] if len(named) else NULL, NULL)
    left, _, counts = reconcile.settle_pairs(facts.time[begins], told, last, intensive=False)
    new[ends[ends >= 0]] = left[ends >= 0]
    mended.update({f"visits to the ED: {rule}": n for rule, n in counts.items()})
    return ends


def _triage(
    facts: _Events, visit_ends: np.ndarray, codes: np.ndarray, pressure: np.ndarray, new: np.ndarray
) -> np.ndarray:
    """Acuity and vital signs at a registration in the ED: at the visit's first later vital sign, or its end.

    Args: pressure, bool (n,), blood pressures: those of a bare day were measured elsewhere.
    Returns: the rows of which the times in `new` were changed.
    """
    vitals, arrivals = facts.rows(_VITAL), facts.rows(_ED_IN)
    of_day = pressure[vitals] & (facts.time[vitals] % DAY == 0)
    vitals = vitals[~of_day | np.isin(facts.key(vitals), facts.key(arrivals))]
    triage = vitals[np.isin(facts.key(vitals), facts.key(arrivals))]
    sure = triage[~(pressure[triage] & (facts.time[triage] % DAY == 0))]
    by_code = sure[np.lexsort((codes[sure], facts.key(sure)))]
    twice = ~first_of_run(facts.key(by_code)) & ~first_of_run(codes[by_code])
    triage = triage[~np.isin(facts.key(triage), facts.key(by_code[twice]))]
    if not len(triage):
        return triage
    end = visit_ends[np.searchsorted(facts.key(arrivals), facts.key(triage), "right") - 1]
    out = np.where(end >= 0, new[end], NEVER)
    at = np.searchsorted(facts.key(vitals), facts.key(triage), "right")
    sign = vitals[np.minimum(at, len(vitals) - 1)]
    sooner = (at < len(vitals)) & (facts.patient[sign] == facts.patient[triage]) & (facts.time[sign] < out)
    out = np.where(sooner, facts.time[sign], out)
    new[triage] = np.where(out == NEVER, facts.time[triage], out)
    return triage


def _coded(facts: _Events, hospital: _Hospital, death: np.ndarray, pressure: np.ndarray, new: np.ndarray) -> None:
    """Codes of the bill, and what has a day only."""
    bill = facts.rows(_DIAGNOSIS, _BILL)
    of_visit = (facts.kind[bill] == _DIAGNOSIS) & np.isin(facts.key(bill), facts.key(facts.rows(_ED_OUT)))
    leaves = np.isin(facts.key(bill), facts.key(facts.rows(_LEAVE)))
    bill = bill[~of_visit | leaves]
    stay = hospital.find(facts, bill, bill=True)
    ended = (stay >= 0) & (hospital.end[np.maximum(stay, 0)] != NULL) if len(hospital.end) else stay >= 0
    new[bill[ended]] = hospital.end[stay[ended]]
    days = np.flatnonzero((facts.kind == _DAYS) | ((facts.kind == _VITAL) & pressure))
    days = np.concatenate([days, bill[~ended]])
    days = days[(facts.time[days] != NULL) & (facts.time[days] % DAY == 0)]
    days = days[~np.isin(facts.key(days), facts.key(facts.rows(_ED_IN)))]  # those are of a triage
    end, dies = day_end(facts.time[days]), death[facts.patient[days]]
    new[days] = np.where((dies != NULL) & (dies >= facts.time[days]) & (dies < end), dies, end)


def _ordered(rows: Rows, new: np.ndarray, keep: np.ndarray, dying: np.ndarray, settled: reconcile.Settled) -> Rows:
    """The rows with their new times, and deaths of which no event tells, in order. Args: dying, their patients."""
    names = list(rows.names)
    if len(dying) and events.DEATH not in names:
        names.append(events.DEATH)
    at = np.flatnonzero(keep)
    subjects = rows.subjects[np.flatnonzero(first_of_run(rows.subjects))][dying]
    more = len(dying)
    # Times of which nothing was moved stay as they are, to the µs.
    moved = new[at] != np.where(rows.times[at] == STATIC, NULL, rows.times[at] // _SECOND)
    times = np.where(moved, new[at] * np.where(moved, _SECOND, 1), rows.times[at])
    code = names.index(events.DEATH) if more else 0
    out = Rows(
        np.concatenate([rows.subjects[at], subjects]),
        np.concatenate([times, settled.death[dying] * _SECOND]),
        np.concatenate([rows.codes[at], np.full(more, code)]),
        np.concatenate([rows.values[at], np.full(more, np.nan, np.float32)]),
        np.concatenate([rows.stays[at], np.full(more, NO_STAY)]),
        names,
    )
    place = np.array([dialects.place(dialects.ETHOS, name, known=True) for name in names], np.uint8)
    return out.at(np.lexsort((place[out.codes], out.times, out.subjects)))


def _paired(facts: _Events, begins: np.ndarray, ends: np.ndarray, *, by_stay: bool = False) -> np.ndarray:
    """The row of the end of each beginning, -1 for none.

    By the stay, where both tell it and it is one's alone; else by number where a patient has as many of both, else
    the next one before another beginning.
    """
    out = np.full(len(begins), -1)
    if not len(begins) or not len(ends):
        return out
    people = int(max(facts.patient[begins[-1]], facts.patient[ends[-1]])) + 1
    many, of_end = (np.bincount(facts.patient[rows], minlength=people) for rows in (begins, ends))
    first, first_end = np.cumsum(many) - many, np.cumsum(of_end) - of_end
    patient = facts.patient[begins]
    rank = np.arange(len(begins)) - first[patient]
    alike = many[patient] == of_end[patient]
    out[alike] = ends[(first_end[patient] + rank)[alike]]
    at = np.searchsorted(facts.key(ends), facts.key(begins), "left")
    then = ends[np.minimum(at, len(ends) - 1)]
    following = np.append(facts.key(begins)[1:], NEVER)
    fits = ~alike & (at < len(ends)) & (facts.patient[then] == patient) & (facts.key(then) <= following)
    out[fits] = then[fits]
    if by_stay:
        names, index, count = np.unique(facts.stay[ends], return_index=True, return_counts=True)
        single = (names != NO_STAY) & (count == 1)
        match = _matching(names[single], facts.stay[begins])
        told = match >= 0
        row = ends[index[single]][np.maximum(match, 0)] if single.any() else out
        told &= facts.patient[np.maximum(row, 0)] == patient
        out = np.where(told, row, np.where(np.isin(out, row[told]), -1, out))
    return out


def _repeated(*columns: np.ndarray) -> np.ndarray:
    """bool (n,): rows that an earlier one equals in all columns."""
    order = np.lexsort(columns)
    again = np.zeros(len(order), bool)
    again[order] = ~np.any([first_of_run(column[order]) for column in columns], axis=0)
    return again


def _matching(names: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64, where each of `wanted` is in `names`, the first of several; -1 where it is not."""
    if not len(names):
        return np.full(len(wanted), -1)
    order = np.argsort(names, kind="stable")
    at = np.minimum(np.searchsorted(names[order], wanted), len(names) - 1)
    return np.where(names[order][at] == wanted, order[at], -1)


def _key(patient: np.ndarray, time: np.ndarray) -> np.ndarray:
    return (patient.astype(np.int64) << _SHIFT) + np.where(time == NULL, -(1 << (_SHIFT - 1)), time)
