"""Stays and deaths that contradict each other: which record wins, what is moved, what is left out.

The same rules for MIMIC-IV's own tables and for MIMIC-IV in MEDS. In the order in which they are applied:

| the records say | what is made of it |
|---|---|
| a discharge before its admission | the discharge is put at the admission |
| a death in hospital, by its flag or by the place of discharge, without a time | death at the discharge |
| the same with a time outside of the stay | death at the discharge |
| a time of death inside a stay, which neither flag nor place calls a death | the time wins: who is alive has none |
| a time of death outside of a stay that nothing else calls a death | it is not one; the date of death decides |
| a death up to a day after its discharge, which is now and then a bare date | the discharge is put at the death |
| a date of death that is not that of the death in hospital | the hospital's counts |
| a date of death before the end of a stay that began by then and ended alive | death at the end of that day |
| a stay that begins after the death | it is left out, and so is all that is told after death and discharge |
| the end of a stay in intensive care or the ED after that of its hospital stay | it is put at that end |
| a stay in intensive care that begins when its hospital stay has ended | it is left out |
| an end before its beginning (in intensive care, or at it) | it is put at the beginning (a second after it) |

A time of death "inside" a stay is from its admission up to a day after its discharge. All times are int64 seconds,
NULL where there is none.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

NULL = np.iinfo(np.int64).min
NEVER = np.iinfo(np.int64).max
DAY = 86_400
EARLY_END = "discharge before admission moved to it"
NO_TIME = "death in hospital without a time put at the discharge"
FAR_TIME = "death in hospital with a time outside of the stay put at the discharge"
ONLY_TIME = "death in hospital by its time alone"
NO_DEATH = "time of death outside of a stay that ended alive not used"
LATE_DEATH = "discharge before death moved to it"
OTHER_DATE = "date of death another than that of the death in hospital not used"
ALIVE = "date of death before a discharge alive moved behind it"
AFTER_DEATH = "stay after death left out"
BEYOND = "end after that of the stay in hospital moved to it"
OUTSIDE = "stay that begins after the stay in hospital left out"
REVERSED = "end before its beginning moved to it"


class Stays(NamedTuple):
    """A stays in hospital, arrays (A,)."""

    patient: np.ndarray  # int64, index of the patient, 0 to P - 1
    admit: np.ndarray
    end: np.ndarray
    died: np.ndarray  # bool: the flag, or the place of discharge, says so
    death: np.ndarray  # the time of death that is told of this stay


class Settled(NamedTuple):
    """What holds after the rules."""

    end: np.ndarray  # (A,) of the stays
    kept: np.ndarray  # bool (A,)
    death: np.ndarray  # (P,)
    in_hospital: np.ndarray  # bool (P,): the death is one in hospital
    closed: np.ndarray  # (P,): nothing is told later than this; NEVER where the patient lives
    counts: Counter[str]  # stays or patients that each rule touched


def day_end(time: np.ndarray) -> np.ndarray:
    """The last second of the day of each time; NULL stays NULL."""
    return np.where(time == NULL, NULL, time // DAY * DAY + DAY - 1)


def settle(stays: Stays, dated: np.ndarray) -> Settled:
    """Ends of stays and the death of each patient: the rules of this module.

    Args: dated, int64 (P,), when each patient is dead by what is told outside of stays: the end of the day where only
      that is known.
    """
    counts: Counter[str] = Counter()
    patient, admit, died, told = stays.patient, stays.admit, stays.died, stays.death

    def touched(rule: str, which: np.ndarray) -> np.ndarray:
        counts[rule] += int(which.sum())
        return which

    has_end, has_admit, has_time = stays.end != NULL, admit != NULL, told != NULL
    end = np.where(touched(EARLY_END, has_end & has_admit & (stays.end < admit)), admit, stays.end)
    inside = has_time & ~(has_admit & (told < admit)) & ~(has_end & (told > np.where(has_end, end, 0) + DAY))
    touched(NO_TIME, died & ~has_time & has_end)
    touched(FAR_TIME, died & has_time & ~inside & has_end)
    touched(ONLY_TIME, ~died & inside)
    touched(NO_DEATH, ~died & has_time & ~inside)
    death_of = np.where(inside, told, np.where(died, end, NULL))
    late = inside & has_end & (told > end)
    end = np.where(touched(LATE_DEATH, late), told, end)

    first = np.full(len(dated), NEVER)
    dead = death_of != NULL
    np.minimum.at(first, patient[dead], death_of[dead])
    in_hospital = first < NEVER
    touched(OTHER_DATE, in_hospital & (dated != NULL) & (np.abs(dated // DAY - first // DAY) > 1))
    death = np.where(in_hospital, first, dated)

    alive = ~dead & has_admit & has_end
    moved = death.copy()
    while True:  # a death that moves may come to lie in the next stay
        seen = np.where(in_hospital | (moved == NULL), NULL, moved)[patient]
        open_ = alive & (seen != NULL) & (admit <= seen) & (end > seen)
        if not open_.any():
            break
        np.maximum.at(moved, patient[open_], day_end(end[open_]))
    touched(ALIVE, moved != death)
    death = moved

    of_patient = death[patient]
    kept = ~touched(AFTER_DEATH, (of_patient != NULL) & has_admit & (admit > of_patient))
    closed = np.where(death == NULL, NEVER, death)
    last = dead & kept & (death_of == of_patient) & has_end
    np.maximum.at(closed, patient[last], end[last])
    return Settled(end, kept, death, in_hospital, closed, +counts)


def settle_pairs(
    begin: np.ndarray, end: np.ndarray, hospital_end: np.ndarray, *, intensive: bool
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Ends of stays within a stay in hospital, or of none, and which are kept: the rules of this module.

    Args: begin, end, int64 (n,); hospital_end, that of the stay in hospital they belong to, after `settle`, NULL for
      none; intensive, stays in intensive care, of which one that begins at the end of the other is one too many, and of
      which beginning and end may not bear the same time, for ends come first there; else visits to the ED.
    Returns: end, int64 (n,); kept, bool (n,); how many each rule touched.
    """
    counts: Counter[str] = Counter()
    both, bound = (begin != NULL) & (end != NULL), hospital_end != NULL
    within = bound & ~((begin != NULL) & (begin >= hospital_end))
    kept = ~(bound & ~within) if intensive else np.ones(len(begin), bool)
    counts[OUTSIDE] += int((~kept).sum())
    beyond = within & (end != NULL) & (end > hospital_end)
    end = np.where(beyond, hospital_end, end)
    counts[BEYOND] += int(beyond.sum())
    least = begin + 1 if intensive else begin
    early = both & kept & (end < least)
    counts[REVERSED] += int(early.sum())
    return np.where(early, least, end), kept, +counts
