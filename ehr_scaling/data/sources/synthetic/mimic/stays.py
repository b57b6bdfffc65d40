"""Who the generated MIMIC-IV release is about: patients, their admissions, and where in the hospital they lay.

Counts come out right at every scale because they are quotas: each GROUP of patients, in order, gets its share of a
table's rows to the row, and heavy-tailed weights say which of its admissions have them. So a prefix of the patients has
a prefix of the rows. Times are minutes (seconds where said) since csv_text.EPOCH.
"""

from dataclasses import dataclass

import numpy as np

from ehr_scaling.data.sources.synthetic.mimic import csv_text, facts

GROUP = 100  # patients
BLOCK = 10 * GROUP  # patients generated at once, from a generator of their own

# Rows of MIMIC-IV 3.1. Admitted patients, ICU admissions (15.3 %) and deaths in hospital (2.1 %) are no table.
ROWS = {
    "patients": 364_627,
    "admissions": 546_028,
    "icustays": 94_458,
    "labevents": 158_374_764,
    "emar": 42_808_593,
    "prescriptions": 20_292_611,
    "diagnoses_icd": 6_364_488,
    "procedures_icd": 859_655,
    "transfers": 2_413_581,
    "omr": 7_753_027,
    "drgcodes": 761_856,
    "hcpcsevents": 186_074,
    "services": 593_071,
    "chartevents": 432_997_491,
    "inputevents": 10_953_713,
    "outputevents": 5_359_395,
    "procedureevents": 808_706,
}
ADMITTED = 223_452
ICU_ADMISSIONS = round(0.153 * ROWS["admissions"])
DEATHS = round(0.021 * ROWS["admissions"])
LOS = (1.457, 1.096)  # mean and sd of the logarithm, in days
GAP = (4.202, 2.059)  # from discharge to the next admission
# First digit of the ids of patients, hospital stays and ICU stays, of eight digits each. MIMIC-IV has 1, 2 and 3: an id
# of a real person or stay is never that of a generated one.
SUBJECT, HADM, STAY = 4, 5, 6
_DAY = csv_text.DAY
_YEAR = 365.25 * _DAY
ICD10 = 2015.75  # the year in which the hospital's diagnoses go over to ICD-10
_YEAR_GROUPS = (0.29, 0.20, 0.20, 0.17, 0.14)  # of the first stay: 2008 - 2010, ... 2020 - 2022

WARDS = csv_text.table([csv_text.quote(name) for name, _ in facts.WARDS])
ICUS = csv_text.table([name for name, _ in facts.ICUS])


def before(block: int, total: int, groups: int = BLOCK // GROUP) -> np.ndarray:
    """Rows of a table of `total` rows that come before each group of a block, and before the next block."""
    first = block * (BLOCK // GROUP)
    return np.rint(total / ROWS["patients"] * GROUP * np.arange(first, first + groups + 1)).astype(np.int64)


def quota(block: int, total: int) -> np.ndarray:
    """Rows for each group of a block, int64 (groups,)."""
    return np.diff(before(block, total))


def apportion(weights: np.ndarray, group: np.ndarray, quotas: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to `weights` (n,), which add up to its quota in each group, int64 (n,).

    group: int64 (n,), ascending. A group without weight gets nothing.
    """
    total = np.bincount(group, weights, len(quotas))
    share = weights * np.divide(quotas, total, out=np.zeros(len(quotas)), where=total > 0)[group]
    return np.diff(np.floor(np.cumsum(share) + 1e-6), prepend=0).astype(np.int64)


def choose(rng: np.random.Generator, weights: np.ndarray, group: np.ndarray, quotas: np.ndarray) -> np.ndarray:
    """Its quota of each group, drawn by weight without replacement, bool (n,). Efraimidis and Spirakis 2006."""
    with np.errstate(divide="ignore"):
        key = rng.exponential(size=len(weights)) / weights
    order = np.lexsort((key, group))
    rank = np.arange(len(group)) - np.searchsorted(group, group)  # group is ascending, also in that order
    chosen = np.zeros(len(group), bool)
    chosen[order] = rank < quotas[group]
    return chosen & (weights > 0)


def draw(rng: np.random.Generator, parts: np.ndarray, n: int) -> np.ndarray:
    """Indices drawn in proportion to `parts`, int64 (n,)."""
    return np.searchsorted(np.cumsum(parts) / np.sum(parts), rng.random(n), side="right").clip(max=len(parts) - 1)


def runs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For rows that come in runs of `counts`: the run of each row, and its place within the run."""
    run = np.repeat(np.arange(len(counts)), counts)
    return run, np.arange(len(run)) - (np.cumsum(counts) - counts)[run]


def _scatter(index: np.ndarray, first: int, salt: int) -> np.ndarray:
    """Different 8-digit numbers for different indices below ten million, beginning with the digit `first`."""
    return first * 10_000_000 + (index * 7_654_321 + salt) % 10_000_000


@dataclass(frozen=True)
class Block:
    """1000 patients. Arrays of patients (P,), of admissions (A,) by patient and time, of ward stays (W,) likewise."""

    index: int
    subject: np.ndarray
    female: np.ndarray
    age: np.ndarray  # at the anchor
    anchor_year: np.ndarray
    year_group: np.ndarray
    death: np.ndarray  # minutes, -1 for none
    patient: np.ndarray  # from here on admissions: their patient
    hadm: np.ndarray
    admit: np.ndarray
    discharge: np.ndarray
    died: np.ndarray  # in hospital
    last: np.ndarray
    kind: np.ndarray  # index into facts.ADMISSION_TYPE
    ed: np.ndarray  # came through the emergency department
    year: np.ndarray  # the true year, float
    icu: np.ndarray
    stays: np.ndarray  # ICU stays
    ward_admission: np.ndarray  # from here on ward stays: their admission
    ward_start: np.ndarray  # seconds
    ward_end: np.ndarray
    ward_unit: np.ndarray  # index into WARDS, or into ICUS if:
    ward_icu: np.ndarray

    @property
    def group(self) -> np.ndarray:
        """The group of each admission."""
        return self.patient // GROUP

    @property
    def days(self) -> np.ndarray:
        """Length of stay of each admission, float days."""
        return (self.discharge - self.admit) / _DAY


def block(seed: int, index: int) -> Block:
    """The patients index·BLOCK to (index + 1)·BLOCK - 1."""
    rng = np.random.default_rng([seed, index])
    people = np.arange(BLOCK)
    group = people // GROUP
    subject = SUBJECT * 10_000_000 + 27 * (index * BLOCK + people) + rng.integers(0, 27, BLOCK)
    age = np.clip(rng.normal(51, 20, BLOCK), 18, 91).astype(np.int64)
    anchor_year = rng.integers(2110, 2191, BLOCK)
    year_group = draw(rng, np.array(_YEAR_GROUPS), BLOCK)

    admitted = choose(rng, np.ones(BLOCK), group, quota(index, ADMITTED))
    again = admitted * np.minimum(rng.lognormal(0, 1.5, BLOCK), 40)
    extra = quota(index, ROWS["admissions"]) - quota(index, ADMITTED)
    count = admitted + apportion(again, group, extra)
    patient, place = runs(count)
    n = len(patient)
    last = place == count[patient] - 1
    days = np.clip(rng.lognormal(*LOS, n), 1 / 24, 300)
    gap = np.where(last, 0, np.clip(rng.lognormal(*GAP, n), 0.6, 4000))
    # Nobody lives on for a century: where the gaps of one patient add up to that, they shrink together.
    limit = np.clip(105 - age, 10, 30) * 365.0
    gap = np.maximum(gap * np.minimum(1, limit / np.maximum(np.bincount(patient, gap, BLOCK), 1))[patient], ~last * 0.6)
    step = np.rint((days + gap) * _DAY).astype(np.int64)
    since = np.cumsum(step) - step
    first = np.searchsorted(patient, people).clip(max=n - 1)
    new_year = (np.char.add(anchor_year.astype("U4"), "-01-01").astype("M8[m]") - csv_text.EPOCH).astype(np.int64)
    admit = new_year[patient] + rng.integers(0, 365 * _DAY, BLOCK)[patient] + since - since[first][patient]
    discharge = admit + np.rint(days * _DAY).astype(np.int64)
    year = 2008 + 3 * year_group[patient] + rng.random(BLOCK)[patient] * 3 + (admit - admit[first][patient]) / _YEAR

    icu = choose(rng, np.sqrt(days), patient // GROUP, quota(index, ICU_ADMISSIONS))
    died = choose(rng, last * np.where(icu, 0.285, 0.009), patient // GROUP, quota(index, DEATHS))
    second = quota(index, ROWS["icustays"]) - quota(index, ICU_ADMISSIONS)
    stays = icu + choose(rng, icu * days, patient // GROUP, second).astype(np.int64)
    kind = draw(rng, np.array([parts for _, parts in facts.ADMISSION_TYPE]), n)
    ed = rng.random(n) < np.array(facts.THROUGH_ED)[kind] / 100

    death = np.full(BLOCK, -1)
    death[patient[died]] = discharge[died]
    # Deaths after discharge are known for a year.
    later = last & ~died & (rng.random(n) < 0.16 * np.clip(age[patient] / 65, 0.1, 1.4))
    death[patient[later]] = discharge[later] + np.rint(rng.integers(1, 365, n)[later] * _DAY)

    # Ward stays: a stay in an ICU lies between ordinary ones, unless it is the first or ended in death.
    lead = rng.integers(0, 2, n)
    wards = 1 + draw(rng, np.array([45, 30, 15, 6, 3, 1]), n)
    wards = np.where(icu, np.maximum(wards, lead + 2 * stays - died), wards)
    admission, at = runs(wards)
    begin, end = 60 * admit[admission], 60 * discharge[admission]
    start = begin + np.where(at > 0, (at + rng.uniform(0, 0.8, len(at))) / wards[admission] * (end - begin), 0)
    start = start.astype(np.int64) + np.where(at > 0, rng.integers(0, 60, len(at)), 0)
    order = at - lead[admission]
    ward_icu = icu[admission] & (order >= 0) & (order % 2 == 0) & (order // 2 < stays[admission])
    unit = np.where(
        ward_icu,
        draw(rng, np.array([p for _, p in facts.ICUS]), len(at)),
        draw(rng, np.array([p for _, p in facts.WARDS]), len(at)),
    )
    return Block(
        index=index,
        subject=subject,
        female=rng.random(BLOCK) < 0.52,
        age=age,
        anchor_year=anchor_year,
        year_group=year_group,
        death=death,
        patient=patient,
        hadm=_scatter(before(index, ROWS["admissions"])[0] + np.arange(n), HADM, 29_079),
        admit=admit,
        discharge=discharge,
        died=died,
        last=last,
        kind=kind,
        ed=ed,
        year=year,
        icu=icu,
        stays=stays,
        ward_admission=admission,
        ward_start=start,
        ward_end=np.where(at == wards[admission] - 1, end, np.append(start[1:], 0)),
        ward_unit=unit,
        ward_icu=ward_icu,
    )


def scatter_stays(b: Block) -> np.ndarray:
    """stay_id of the ICU stays of a block, in their order."""
    return _scatter(before(b.index, ROWS["icustays"])[0] + np.arange(int(b.ward_icu.sum())), STAY, 553_953)


def scatter_transfers(b: Block, n: int) -> np.ndarray:
    """transfer_id of the n transfers of a block."""
    return _scatter(before(b.index, ROWS["transfers"])[0] + np.arange(n), STAY, 99_712)
