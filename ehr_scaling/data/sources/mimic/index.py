"""What the tables of MIMIC-IV must know of each other: the patients, and when stays began and ended."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling.artifacts import writing
from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import Splits, told
from ehr_scaling.data.sources import reconcile
from ehr_scaling.data.sources.mimic import parsing
from ehr_scaling.data.sources.mimic import reading as mimic_read
from ehr_scaling.data.sources.mimic import tables as mimic_tables
from ehr_scaling.data.sources.mimic.reading import NULL, Batch, Log, Text
from ehr_scaling.errors import UserError

DAY = 86_400  # seconds
_DENSE = 1 << 26  # span of subject ids up to which a table is faster than a search
_YEARS = (1_000, 2_262)


@dataclass
class Index:
    """Arrays of P patients, A admissions, I stays of the ICU and E of the ED, each sorted by its id.

    Times are int64 seconds since 1970, NULL where there is none. What times mean depends on the preset: in `clean`
    they are those that `reconcile` leaves.
    """

    subjects: np.ndarray  # int64 (P,)
    shard: np.ndarray  # int32 (P,), a row of shards
    local: np.ndarray  # int64 (P,), the patient's number within its shard, in the order of ids
    shards: np.ndarray  # int64 (S, 2): index into events.SPLITS, -1 for those left out, number within the split
    birth: np.ndarray
    death: np.ndarray
    death_in_hospital: np.ndarray
    death_elsewhere: np.ndarray
    closed: np.ndarray  # (P,): nothing of a patient is told later; NEVER where there is no such time
    race: np.ndarray  # int64 (P,) into parsing.RACES, their number where no admission tells
    hadm: np.ndarray  # int64 (A,)
    hadm_admit: np.ndarray
    hadm_end: np.ndarray
    hadm_registered: np.ndarray
    hadm_race: np.ndarray  # int64 (A,) into parsing.RACES, their number where it tells no more than was known
    day: np.ndarray  # int64 (A,), patient and day of each admission, sorted, see day_key
    day_admit: np.ndarray
    icu: np.ndarray  # int64 (I,)
    icu_patient: np.ndarray  # int64 (I,), index of the patient
    icu_in: np.ndarray
    icu_out: np.ndarray
    ed: np.ndarray  # int64 (E,)
    ed_in: np.ndarray
    ed_out: np.ndarray
    ed_triaged: np.ndarray
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

    def admitted_on(self, patient: np.ndarray, day: np.ndarray) -> np.ndarray:
        """When a patient was admitted on this day (a time in it), NULL where that is not so: int64, as `patient`."""
        at = find(self.day, day_key(patient, np.where(day == NULL, 0, day)))
        return np.where(at >= 0, self.day_admit[np.maximum(at, 0)], NULL) if len(self.day) else np.full(len(at), NULL)


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
        if kind in ("text", "note"):
            words: dict[str | None, int] = {}
            at = [np.array([words.setdefault(w, len(words)) for w in p[name].words])[p[name].at] for p in parts]
            whole[name] = Text(np.concatenate([np.zeros(0, np.intp), *at]), list(words))
        else:
            empty = np.zeros(0, np.float64 if kind == "number" else np.int64)
            whole[name] = np.concatenate([empty, *(p[name] for p in parts)])
    return whole, log


def build(files: dict[str, Path], preset: str, seed: int, splits: Splits) -> tuple[Index, Counter[str], dict[str, Any]]:
    """The index; what was mended, by reason; what can be said of the tables at once.

    Raises: UserError for patients or admissions that cannot be the ones of this release.
    """
    clean = preset == "clean"
    people, _ = read(files["hosp/patients"], "subject_id anchor_age anchor_year dod", "hosp/patients")
    named = people["subject_id"] != NULL
    people = {k: v[named] for k, v in people.items()}
    order = np.argsort(people["subject_id"], kind="stable")
    subjects, age, year, dod = (people[k][order] for k in ("subject_id", "anchor_age", "anchor_year", "dod"))
    if not len(subjects):
        raise UserError(f"{files['hosp/patients']} holds no patient: download it again")
    if (subjects[1:] == subjects[:-1]).any():
        raise UserError(f"{files['hosp/patients']} holds a patient twice: download it again")
    lookup = Lookup(subjects)
    stays = _admissions(files, preset, lookup)
    patient, hadm, admit, end = (stays[k] for k in ("patient", "hadm_id", "admittime", "dischtime"))
    icu = _stays(files.get("icu/icustays"), "icu/icustays", lookup)
    ed = _stays(files.get("ed/edstays"), "ed/edstays", lookup)

    mended: Counter[str] = Counter()
    if clean:
        died = stays["hospital_expire_flag"] == 1
        place = stays["discharge_location"]
        died |= np.array([(word or "").strip().upper() == "DIED" for word in place.words], bool)[place.at]
        given = reconcile.Stays(patient, admit, end, died, stays["deathtime"])
        settled = reconcile.settle(given, reconcile.day_end(dod))
        end, death, closed = settled.end, settled.death, settled.closed
        at_discharge = elsewhere = np.full(len(subjects), NULL)
        mended.update({f"hosp/admissions: {rule}": n for rule, n in settled.counts.items()})
        for table, columns in (("icu/icustays", icu), ("ed/edstays", ed)):
            mended.update({f"{table}: {rule}": n for rule, n in _settle(columns, hadm, end, table).items()})
    else:
        death, at_discharge, elsewhere = _published_deaths(patient, end, stays["deathtime"], dod, preset)
        closed = np.full(len(subjects), reconcile.NEVER)

    split, k = events.assign(subjects, seed, splits)  # split -1: a split file does not name them, no shard is written
    shards, shard = np.unique(np.stack([split.astype(np.int64), k], 1), axis=0, return_inverse=True)
    shard = shard.reshape(-1).astype(np.int32)
    local = np.zeros(len(subjects), np.int64)
    by_shard = np.argsort(shard, kind="stable")
    counts = np.bincount(shard, minlength=len(shards))
    local[by_shard] = np.arange(len(subjects)) - np.repeat(np.cumsum(counts) - counts, counts)

    by_hadm = np.argsort(hadm, kind="stable")
    by_day = np.argsort(day_key(patient, admit), kind="stable")
    by_ed = np.argsort(ed["stay_id"], kind="stable")
    by_icu = np.argsort(icu["stay_id"], kind="stable")
    registered = _registered(stays, ed)
    index = Index(
        subjects=subjects,
        shard=shard,
        local=local,
        shards=shards,
        birth=_births(year, age, 6 if preset == "ethos_paper" else 0),
        death=death,
        death_in_hospital=at_discharge,
        death_elsewhere=elsewhere,
        closed=closed,
        race=_races(stays["race"], patient, admit, len(subjects)),
        hadm=hadm[by_hadm],
        hadm_admit=admit[by_hadm],
        hadm_end=end[by_hadm],
        hadm_registered=registered[by_hadm],
        hadm_race=_news(stays["race"], patient, registered)[by_hadm],
        day=day_key(patient, admit)[by_day],
        day_admit=admit[by_day],
        icu=icu["stay_id"][by_icu],
        icu_patient=icu["patient"][by_icu],
        icu_in=icu["intime"][by_icu],
        icu_out=icu["outtime"][by_icu],
        ed=ed["stay_id"][by_ed],
        ed_in=ed["intime"][by_ed],
        ed_out=ed["outtime"][by_ed],
        ed_triaged=_triaged({name: column[by_ed] for name, column in ed.items()}, files.get("ed/vitalsign")),
        ed_hadm=np.unique(ed["hadm_id"][ed["hadm_id"] != NULL]),
    )
    return index, mended, {"shards": len(shards), "patients": len(subjects), **told(splits, subjects)}


def admissions(preset: str) -> str:
    """The columns of hosp/admissions that the index is made of."""
    more = " edregtime hospital_expire_flag discharge_location" if preset == "clean" else ""
    return f"subject_id hadm_id admittime dischtime deathtime race{more}"


def _admissions(files: dict[str, Path], preset: str, lookup: Lookup) -> dict[str, Any]:
    """Columns of the admissions of known patients, and "patient", the index of each one's.

    Raises: UserError where the patients of many are not known.
    """
    path = files["hosp/admissions"]
    batch, _ = read(path, admissions(preset), "hosp/admissions")
    patient = lookup(batch["subject_id"])
    strangers = int((patient < 0).sum())
    if strangers > mimic_read.BAD_SHARE * len(patient):
        raise UserError(
            f"{files['hosp/patients']} lacks the patients of {strangers} admissions: are both of one release?"
        )
    known = patient >= 0
    columns = {"patient": patient, **batch}
    return {k: Text(v.at[known], v.words) if isinstance(v, Text) else v[known] for k, v in columns.items()}


def _births(year: np.ndarray, age: np.ndarray, months: int) -> np.ndarray:
    """The first day of the year, or `months` later, in which each patient was born, as far as that is told."""
    born = year - age
    told = (year != NULL) & (age != NULL) & (born >= _YEARS[0]) & (born < _YEARS[1])
    days = (np.where(told, born, 1970) - 1970).astype("datetime64[Y]").astype("datetime64[M]") + months
    return np.where(told, days.astype("datetime64[s]").astype(np.int64), NULL)


def _published_deaths(
    patient: np.ndarray, end: np.ndarray, died: np.ndarray, dod: np.ndarray, preset: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deaths as the ETHOS programs have them: of each patient, and for ethos_ares those at a discharge and others."""
    in_hospital = np.full(len(dod), np.iinfo(np.int64).max)
    np.minimum.at(in_hospital, patient[died != NULL], died[died != NULL])
    inside = in_hospital < np.iinfo(np.int64).max
    nowhere = np.full(len(dod), NULL)
    death = np.where(inside, in_hospital, dod)
    dated = death != NULL
    if preset == "ethos_paper":
        return np.where(~inside & dated, reconcile.day_end(dod) - 59, NULL), nowhere, nowhere
    ends = np.stack([patient, end], 1)[end != NULL]
    leaves = dated & np.isin(time_key(np.arange(len(death)), death), time_key(*ends.T))
    return death, np.where(leaves, death, NULL), np.where(dated & ~leaves, death, NULL)


def _stays(path: Path | None, table: str, lookup: Lookup) -> dict[str, np.ndarray]:
    names = "subject_id hadm_id stay_id intime outtime"
    if path is None:
        return {name: np.zeros(0, np.int64) for name in (*names.split(), "patient")}
    batch, _ = read(path, names, table)
    return {**batch, "patient": lookup(batch["subject_id"])}


def _settle(stays: dict[str, np.ndarray], hadm: np.ndarray, end: np.ndarray, table: str) -> Counter[str]:
    """Mend the ends of stays in place, and let those that are left out lose their times. Returns: stays by rule."""
    by_id = np.argsort(hadm, kind="stable")
    at = find(hadm[by_id], stays["hadm_id"])
    hospital = np.where(at >= 0, end[by_id][np.maximum(at, 0)], NULL) if len(hadm) else np.full(len(at), NULL)
    left, kept, counts = reconcile.settle_pairs(
        stays["intime"], stays["outtime"], hospital, intensive=table == "icu/icustays"
    )
    stays["outtime"], stays["intime"] = np.where(kept, left, NULL), np.where(kept, stays["intime"], NULL)
    return counts


def _registered(stays: dict[str, Any], ed: dict[str, np.ndarray]) -> np.ndarray:
    """When the patient of each admission was registered: in the ED that it came from, or at the admission."""
    first = stays["admittime"]
    if "edregtime" in stays:
        first = np.where(stays["edregtime"] != NULL, np.minimum(stays["edregtime"], first), first)
    by_time = np.argsort(ed["intime"], kind="stable")[::-1]  # the earliest visit of an admission is written last
    by_time = by_time[(ed["hadm_id"][by_time] != NULL) & (ed["intime"][by_time] != NULL)]
    by_id = np.argsort(stays["hadm_id"], kind="stable")
    at = find(stays["hadm_id"][by_id], ed["hadm_id"][by_time])
    visit = np.full(len(first), NULL)
    visit[by_id[at[at >= 0]]] = ed["intime"][by_time[at >= 0]]
    return np.where((visit != NULL) & (first != NULL), np.minimum(visit, first), first)


def _triaged(ed: dict[str, np.ndarray], path: Path | None) -> np.ndarray:
    """When the triage of each visit, sorted by id, is known: at the first vital sign from its arrival, or its end."""
    first = np.full(len(ed["stay_id"]), reconcile.NEVER)
    if path is not None:
        signs, _ = read(path, "stay_id charttime", "ed/vitalsign")
        at = find(ed["stay_id"], signs["stay_id"])
        known = (at >= 0) & (signs["charttime"] != NULL)
        at, time = at[known], signs["charttime"][known]
        np.minimum.at(first, at, np.maximum(time, ed["intime"][at]))
    end = np.where(ed["outtime"] != NULL, ed["outtime"], ed["intime"])
    return np.where(ed["intime"] == NULL, NULL, np.minimum(first, end))


def _codes(race: Text) -> np.ndarray:
    return np.array([parsing.RACES.index(parsing.race(word)) for word in race.words])[race.at]


def _rank(code: np.ndarray) -> np.ndarray:
    return np.maximum(code, 3)  # WHITE to HISPANIC tell the same; OTHER less, UNKNOWN least


def _races(race: Text, patient: np.ndarray, admit: np.ndarray, people: int) -> np.ndarray:
    """One a patient: of the first admission that tells more than OTHER, else OTHER, else UNKNOWN."""
    code = _codes(race)
    order = np.lexsort((np.arange(len(code)), admit, _rank(code), patient))
    first = order[np.append(True, patient[order][1:] != patient[order][:-1])] if len(order) else order
    races = np.full(people, len(parsing.RACES))
    races[patient[first]] = code[first]
    return races


def _news(race: Text, patient: np.ndarray, registered: np.ndarray) -> np.ndarray:
    """The race that each admission tells, where it tells more than those before it; else the number of races."""
    code = _codes(race)
    order = np.lexsort((np.arange(len(code)), registered, patient))
    # One falling sequence for all patients: the best rank so far of each stays below all of the one before.
    best = _rank(code[order]) - (len(parsing.RACES) + 1) * patient[order]
    before = np.append(np.iinfo(np.int64).max, np.minimum.accumulate(best)[:-1])[: len(best)]
    news = np.full(len(code), len(parsing.RACES))
    news[order] = np.where(best < before, code[order], len(parsing.RACES))
    return news
