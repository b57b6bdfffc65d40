"""What the tables of MIMIC-IV must know of each other: the patients, and when stays began and ended."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling.artifacts import writing
from ehr_scaling.data import events
from ehr_scaling.data.sources.mimic import reading as mimic_read
from ehr_scaling.data.sources.mimic import tables as mimic_tables
from ehr_scaling.data.sources.mimic.reading import NULL, Batch, Log, Text
from ehr_scaling.errors import UserError

DAY = 86_400  # seconds
_DENSE = 1 << 26  # span of subject ids up to which a table is faster than a search
_YEARS = (1_000, 2_262)


@dataclass
class Index:
    """Arrays of P patients, sorted by id; A admissions and E stays of the ED, sorted by theirs; I stays of the ICU.

    Times are int64 seconds since 1970, NULL where there is none. What times mean depends on the preset.
    """

    subjects: np.ndarray  # int64 (P,)
    shard: np.ndarray  # int32 (P,), a row of shards
    local: np.ndarray  # int64 (P,), the patient's number within its shard, in the order of ids
    shards: np.ndarray  # int64 (S, 2): index into events.SPLITS, number within the split
    birth: np.ndarray
    death: np.ndarray
    death_in_hospital: np.ndarray
    death_elsewhere: np.ndarray
    race: np.ndarray  # int64 (P,) into mimic_tables.RACES, their number where no admission tells
    hadm: np.ndarray  # int64 (A,)
    hadm_admit: np.ndarray
    hadm_end: np.ndarray
    day: np.ndarray  # int64 (A,), patient and day of each admission, sorted, see day_key
    day_admit: np.ndarray
    icu_patient: np.ndarray  # int64 (I,), index of the patient
    icu_in: np.ndarray
    icu_out: np.ndarray
    ed: np.ndarray  # int64 (E,)
    ed_in: np.ndarray
    ed_out: np.ndarray
    ed_hadm: np.ndarray  # int64, sorted: admissions that the ED module knows

    def save(self, path: Path) -> None:
        with writing(path) as partial:
            np.savez(partial, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Index":
        with np.load(path, allow_pickle=False) as arrays:
            index = cls(**{f.name: arrays[f.name] for f in dataclasses.fields(cls)})
        return index

    def lookup(self) -> "Lookup":
        return Lookup(self.subjects)


class Lookup:
    """Index of a patient by id."""

    def __init__(self, subjects: np.ndarray):
        self.subjects = subjects
        self.first = int(subjects[0]) if len(subjects) else 0
        span = int(subjects[-1]) - self.first + 1 if len(subjects) else 0
        self.table: np.ndarray | None = None
        if 0 < span <= _DENSE:
            self.table = np.full(span, -1, np.int32)
            self.table[subjects - self.first] = np.arange(len(subjects))

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """int64 (n,): index into subjects, -1 for an id that is not there."""
        if self.table is None:
            return find(self.subjects, ids)
        inside = (ids >= self.first) & (ids < self.first + len(self.table))
        return np.where(inside, self.table[np.where(inside, ids - self.first, 0)], -1).astype(np.int64)


def find(sorted_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """int64 (n,): where each id is in `sorted_ids`, -1 where it is not."""
    if not len(sorted_ids):
        return np.full(len(ids), -1)
    at = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.where(sorted_ids[at] == ids, at, -1)


def time_key(patient: np.ndarray, time: np.ndarray) -> np.ndarray:
    return (patient.astype(np.int64) << 40) + time


def day_key(patient: np.ndarray, time: np.ndarray) -> np.ndarray:
    return (patient.astype(np.int64) << 24) + time // DAY + (1 << 23)


def read(path: Path, columns: str, table: str) -> tuple[Batch, Log]:
    """A whole table, for those that are small."""
    kinds = {name: mimic_tables.kind(table, name) for name in columns.split()}
    for lenient in (False, True):
        log = Log()
        try:
            parts = list(mimic_read.batches(path, kinds, log, lenient=lenient))
            break
        except pa.ArrowInvalid:
            continue
    whole: Batch = {}
    for name, kind in kinds.items():
        if kind == "text":
            words: dict[str | None, int] = {}
            at = [np.array([words.setdefault(w, len(words)) for w in p[name].words])[p[name].at] for p in parts]
            whole[name] = Text(np.concatenate([np.zeros(0, np.intp), *at]), list(words))
        else:
            empty = np.zeros(0, np.float64 if kind == "number" else np.int64)
            whole[name] = np.concatenate([empty, *(p[name] for p in parts)])
    return whole, log


def build(
    files: dict[str, Path], preset: str, seed: int, splits: tuple[float, float, float]
) -> tuple[Index, Counter[str], dict[str, Any]]:
    """The index; what was mended, by reason; what can be said of the tables at once.

    Raises: UserError for patients or admissions that cannot be the ones of this release.
    """
    mended: Counter[str] = Counter()
    people, _ = read(files["hosp/patients"], "subject_id anchor_age anchor_year dod", "hosp/patients")
    stays, _ = read(
        files["hosp/admissions"], "subject_id hadm_id admittime dischtime deathtime race", "hosp/admissions"
    )
    named = people["subject_id"] != NULL
    people = {k: v[named] for k, v in people.items()}
    order = np.argsort(people["subject_id"], kind="stable")
    subjects, age, year, dod = (people[k][order] for k in ("subject_id", "anchor_age", "anchor_year", "dod"))
    if not len(subjects):
        raise UserError(f"{files['hosp/patients']} holds no patient: download it again")
    if (subjects[1:] == subjects[:-1]).any():
        raise UserError(f"{files['hosp/patients']} holds a patient twice: download it again")
    lookup = Lookup(subjects)
    patient = lookup(stays["subject_id"])
    strangers = int((patient < 0).sum())
    if strangers > mimic_read.BAD_SHARE * len(patient):
        raise UserError(
            f"{files['hosp/patients']} lacks the patients of {strangers} admissions: are both of one release?"
        )
    known = patient >= 0
    patient = patient[known]
    hadm, admit, disch, died = (stays[k][known] for k in ("hadm_id", "admittime", "dischtime", "deathtime"))

    months = 6 if preset == "ethos_paper" else 0
    born = year - age
    told = (year != NULL) & (age != NULL) & (born >= _YEARS[0]) & (born < _YEARS[1])
    days = (np.where(told, born, 1970) - 1970).astype("datetime64[Y]").astype("datetime64[M]") + months
    birth = np.where(told, days.astype("datetime64[s]").astype(np.int64), NULL)

    end = disch.copy()
    if preset == "clean":
        late = (died != NULL) & (disch != NULL) & (died >= disch) & (died <= disch + DAY)
        end = np.where(late, died, end)
        mended["hosp/admissions: discharge before death moved to it"] = int((late & (died > disch)).sum())
        early = (end != NULL) & (admit != NULL) & (end < admit)
        end = np.where(early, admit, end)
        mended["hosp/admissions: discharge before admission moved to it"] = int(early.sum())

    in_hospital = np.full(len(subjects), np.iinfo(np.int64).max)
    np.minimum.at(in_hospital, patient[died != NULL], died[died != NULL])
    inside = in_hospital < np.iinfo(np.int64).max
    nowhere = np.full(len(subjects), NULL)
    death = np.where(inside, in_hospital, dod)
    at_discharge, elsewhere = nowhere, nowhere
    dated = death != NULL
    if preset == "clean":
        death = np.where(~inside & dated, dod // DAY * DAY + DAY - 1, death)
    elif preset == "ethos_paper":
        death = np.where(~inside & dated, dod // DAY * DAY + DAY - 60, NULL)
    else:
        ends = np.stack([patient, end], 1)[end != NULL]
        leaves = dated & np.isin(time_key(np.arange(len(death)), death), time_key(*ends.T))
        at_discharge = np.where(leaves, death, NULL)
        elsewhere = np.where(dated & ~leaves, death, NULL)

    split, k = events.assign(subjects, seed, splits)
    shards, shard = np.unique(np.stack([split.astype(np.int64), k], 1), axis=0, return_inverse=True)
    shard = shard.reshape(-1).astype(np.int32)
    local = np.zeros(len(subjects), np.int64)
    by_shard = np.argsort(shard, kind="stable")
    counts = np.bincount(shard, minlength=len(shards))
    local[by_shard] = np.arange(len(subjects)) - np.repeat(np.cumsum(counts) - counts, counts)

    by_hadm = np.argsort(hadm, kind="stable")
    by_day = np.argsort(day_key(patient, admit), kind="stable")
    icu = _stays(files.get("icu/icustays"), "icu/icustays", lookup)
    ed = _stays(files.get("ed/edstays"), "ed/edstays", lookup)
    by_ed = np.argsort(ed["stay_id"], kind="stable")
    index = Index(
        subjects=subjects,
        shard=shard,
        local=local,
        shards=shards,
        birth=birth,
        death=death,
        death_in_hospital=at_discharge,
        death_elsewhere=elsewhere,
        race=_races(stays["race"], known, patient, admit, len(subjects)),
        hadm=hadm[by_hadm],
        hadm_admit=admit[by_hadm],
        hadm_end=end[by_hadm],
        day=day_key(patient, admit)[by_day],
        day_admit=admit[by_day],
        icu_patient=icu["patient"],
        icu_in=icu["intime"],
        icu_out=icu["outtime"],
        ed=ed["stay_id"][by_ed],
        ed_in=ed["intime"][by_ed],
        ed_out=ed["outtime"][by_ed],
        ed_hadm=np.unique(ed["hadm_id"][ed["hadm_id"] != NULL]),
    )
    return index, mended, {"shards": len(shards), "patients": len(subjects)}


def _stays(path: Path | None, table: str, lookup: Lookup) -> dict[str, np.ndarray]:
    names = "subject_id hadm_id stay_id intime outtime"
    if path is None:
        return {name: np.zeros(0, np.int64) for name in (*names.split(), "patient")}
    found, _ = read(path, names, table)
    return {**found, "patient": lookup(found["subject_id"])}


def _races(race: Any, known: np.ndarray, patient: np.ndarray, admit: np.ndarray, people: int) -> np.ndarray:
    """One a patient: of the first admission that tells more than OTHER, else OTHER, else UNKNOWN."""
    races = mimic_tables.RACES
    code = np.array([races.index(mimic_tables.race(word)) for word in race.words])[race.at[known]]
    rank = np.maximum(code, 3)  # WHITE to HISPANIC tell the same
    order = np.lexsort((np.arange(len(code)), admit, rank, patient))
    first = order[np.append(True, patient[order][1:] != patient[order][:-1])] if len(order) else order
    found = np.full(people, len(races))
    found[patient[first]] = code[first]
    return found
