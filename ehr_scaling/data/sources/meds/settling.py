"""What is put right, and counted, in the rows of whole patients, which come in the order of patients and time."""

from collections import Counter

import numpy as np

from ehr_scaling.data.events import events
from ehr_scaling.data.events.columns import STATIC
from ehr_scaling.data.sources.meds import dialects, spelling
from ehr_scaling.data.sources.meds.rows import Rows, distinct, first_of_run

_ONCE = ("GENDER//", events.BIRTH, events.DEATH, "ED_REGISTRATION", "ED_OUT")


def facts_of_birth(rows: Rows, mended: Counter[str]) -> tuple[Rows, np.ndarray]:
    """Demographics that are told at the time of birth become facts without a time. Returns: rows; their order before.

    They are known of a patient whenever it comes, and would begin an interval that lasts for half a life.
    """
    families = [name.partition("//")[0] for name in rows.names]
    told = np.array([name in spelling.DEMOGRAPHIC for name in families], bool)[rows.codes]
    born = np.flatnonzero(np.array([name == events.BIRTH for name in families], bool)[rows.codes])
    patient = np.cumsum(first_of_run(rows.subjects)) - 1
    birth = np.full(patient[-1] + 1 if len(patient) else 0, STATIC)
    birth[patient[born[::-1]]] = rows.times[born[::-1]]  # reversed: the first one stays
    told &= (rows.times != STATIC) & (rows.times == birth[patient])
    mended["demographics told at birth: facts without a time"] += int(told.sum())
    times = np.where(told, STATIC, rows.times)
    order = np.lexsort((times, rows.subjects))
    return rows._replace(times=times).at(order), order


def death_first(rows: Rows) -> np.ndarray:
    """The order in which a death comes before a discharge of the same time, whatever the file's was: int64 (n,).

    A discharge is what has that word in its family. All else keeps its order.
    """
    families = [name.partition("//")[0].upper() for name in rows.names]
    death = np.array([name == events.DEATH for name in families], bool)[rows.codes]
    leaves = np.flatnonzero(np.array(["DISCHARGE" in name for name in families], bool)[rows.codes])
    position = np.arange(len(rows.codes), dtype=np.float64)
    for i in np.flatnonzero(death).tolist():  # one a patient
        begin = i
        while begin and rows.subjects[begin - 1] == rows.subjects[i] and rows.times[begin - 1] == rows.times[i]:
            begin -= 1
        earlier = leaves[np.searchsorted(leaves, begin) : np.searchsorted(leaves, i)]
        if len(earlier):
            position[i] = earlier[0] - 0.5
    return np.argsort(position, kind="stable")


def count_disorder(rows: Rows, files: np.ndarray, mended: Counter[str]) -> None:
    """What is out of order, or twice, and stays. Args: files, int (n,), which of the data set's each row is from."""
    same = rows.subjects[1:] == rows.subjects[:-1]
    crossing = same & (files[1:] != files[:-1])
    mended["patients in several files"] += len(distinct(rows.subjects[1:][crossing]))
    with np.errstate(over="ignore"):  # a hash, modulo 2^64
        mixed = rows.values.view(np.uint32).astype(np.uint64)
        for column in (rows.subjects, rows.times, rows.codes):
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + column.astype(np.uint64)
    mixed.sort()  # np.unique is ten times slower
    mended["rows that repeat another: kept"] += int((mixed[1:] == mixed[:-1]).sum())
    is_birth = np.array([n.partition("//")[0] == events.BIRTH for n in rows.names], bool)
    at = np.flatnonzero(is_birth[rows.codes])
    born, first = np.unique(rows.subjects[at], return_index=True)
    if len(born):
        i = np.minimum(np.searchsorted(born, rows.subjects), len(born) - 1)
        early = (born[i] == rows.subjects) & (rows.times != STATIC) & (rows.times < rows.times[at][first][i])
        mended["rows before the patient's birth: kept"] += int(early.sum())


def count_deaths(rows: Rows, mended: Counter[str]) -> None:
    """What contradicts a death in a data set whose stays and deaths are not settled."""
    at = np.flatnonzero(np.array([n.partition("//")[0] == events.DEATH for n in rows.names], bool)[rows.codes])
    first = at[first_of_run(rows.subjects[at])]
    mended["deaths told again: kept"] += len(at) - len(first)
    if len(first):
        dead = rows.subjects[first]
        i = np.minimum(np.searchsorted(dead, rows.subjects), len(dead) - 1)
        late = (dead[i] == rows.subjects) & (rows.times > rows.times[first][i])
        mended["rows after the patient's death: kept"] += int(late.sum())


def settled(rows: Rows, dropped: Counter[str], known: bool) -> Rows:
    """What a MIMIC-IV dialect tells in several events: the race, at each admission; where an admission came from.

    Args: known, whether the race stands where it is told, as far as it is news; else one, that tells most, for life.
    """
    starts = {
        head: np.array([n.startswith(head) for n in rows.names], bool) for head in (dialects.RACE, dialects.LOCATION)
    }
    keep, times, codes, names = np.ones(len(rows.codes), bool), rows.times.copy(), rows.codes.copy(), list(rows.names)

    at = np.flatnonzero(starts[dialects.RACE][codes])
    rank = np.array([{"UNKNOWN": 2, "OTHER": 1}.get(n.rpartition("//")[2], 0) for n in names])[codes[at]]
    if known:  # one falling sequence for all patients, as in the mimic-iv source
        best = rank - 3 * np.cumsum(first_of_run(rows.subjects[at]))
        again = ~(best < np.append(np.iinfo(np.int64).max, np.minimum.accumulate(best)[:-1])[: len(best)])
    else:
        at = at[np.lexsort((np.arange(len(at)), rank, rows.subjects[at]))]
        again = ~first_of_run(rows.subjects[at])
        times[at] = STATIC
    keep[at[again]] = False
    dropped["RACE: told again"] += int(again.sum())

    # One visit to the emergency department is told at each admission that follows it.
    once_only = np.array([n.startswith(_ONCE) for n in names], bool)[codes]
    again = once_only[1:] & ~first_of_run(codes)[1:] & ~first_of_run(times)[1:] & ~first_of_run(rows.subjects)[1:]
    keep[1:] &= ~again
    dropped["births, deaths, ED visits: told again"] += int(again.sum())

    at = np.flatnonzero(starts[dialects.LOCATION][codes])
    admitted = np.array([n.startswith(dialects.ADMISSION) for n in names], bool)
    before = np.maximum(at - 1, 0)
    fits = (at > 0) & admitted[codes[before]] & (rows.subjects[before] == rows.subjects[at])
    fits &= rows.times[before] == rows.times[at]
    number = {name: i for i, name in enumerate(names)}
    for i, j in zip(before[fits].tolist(), at[fits].tolist(), strict=True):
        kind, location = names[codes[i]].split("//")[1], names[codes[j]].partition("//")[2]
        codes[i] = number.setdefault(dialects.join("HOSPITAL_ADMISSION", kind, location), len(number))
    keep[at] = False
    dropped["ADMISSION_LOCATION: no admission at its time"] += int((~fits).sum())
    order = np.flatnonzero(keep)
    order = order[np.lexsort((times[order], rows.subjects[order]))]
    return Rows(rows.subjects[order], times[order], codes[order], rows.values[order], rows.stays[order], list(number))
