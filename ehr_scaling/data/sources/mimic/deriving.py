"""Columns that no table has: times at which facts were known, what other tables say of a row, and mended values."""

from collections import Counter

import numpy as np

from ehr_scaling.data.codes import units
from ehr_scaling.data.sources.mimic import parsing
from ehr_scaling.data.sources.mimic.index import Index, find
from ehr_scaling.data.sources.mimic.reading import NULL, Batch, Text
from ehr_scaling.data.sources.reconcile import day_end

_FILED = ("charttime", "storetime")
_Columns = dict[str, tuple[str, ...]]
_BEGUN: _Columns = {"begun": ("starttime", "storetime")}
_ENDED: _Columns = {
    "ended": ("starttime", "endtime"),
    "ended_filed": ("starttime", "endtime", "storetime"),
}
_BILLED: _Columns = {"day": ("chartdate", "hadm_id"), "billed": ("chartdate", "hadm_id")}
# By table: the columns that `derive` makes, and the columns of the file that it needs for them.
DERIVED: dict[str, _Columns] = {
    "hosp/patients": dict.fromkeys(("birth", "death", "death_in_hospital", "death_elsewhere", "race"), ()),
    "hosp/admissions": {
        "end": ("hadm_id",),
        "edreg": ("edregtime", "hadm_id"),
        "edout": ("edregtime", "edouttime", "hadm_id"),
        "death_in_hospital": ("hadm_id", "deathtime"),
        "told_race": ("hadm_id",),
        "registered": ("hadm_id",),
    },
    "hosp/diagnoses_icd": {"end": ("hadm_id",), "admit": ("hadm_id",)},
    "hosp/drgcodes": {"end": ("hadm_id",)},
    "hosp/procedures_icd": _BILLED,
    "hosp/hcpcsevents": _BILLED,
    "hosp/omr": {"day": ("chartdate",), "day_end": ("chartdate",)},
    "hosp/labevents": {"label": ("itemid",), "filed": _FILED, "measured": ("valuenum", "value", "comments")},
    "hosp/emar": {"filed": _FILED},
    "icu/chartevents": {"filed": _FILED, "measured": ("valuenum", "value")},
    "icu/outputevents": {"filed": _FILED},
    "icu/inputevents": _BEGUN | _ENDED,
    "icu/procedureevents": _BEGUN | _ENDED,
    "icu/icustays": {"entered": ("intime", "stay_id"), "left": ("stay_id",)},
    "ed/edstays": {"left": ("stay_id",)},
    "ed/triage": {"intime": ("stay_id",), "triaged": ("stay_id",)},
    "ed/diagnosis": {"outtime": ("stay_id",)},
}
# When facts are known, in words, by the column that says so: docs/data.md has them too.
KNOWN = {
    "filed": "when it was filed (`storetime`), or at its `charttime` where that is later or alone",
    "begun": "when it was filed, or at its `starttime` where that is later or alone",
    "ended_filed": "when it was filed, or at its `endtime` where that is later or alone",
    "billed": "coded for the bill: at the discharge of its stay; of an unknown stay at the end of its day",
    "end": "coded for the bill: at the discharge of its stay",
    "day_end": "only its day is told: at the end of that, or at the death if that comes first",
    "triaged": "it has no time of its own: at the first vital sign of the visit from its arrival on, else at its end",
    "registered": "at the registration in the ED that led to the admission, else at the admission; each as far as it "
    "tells more than was known",
}


def derive(table: str, batch: Batch, index: Index, preset: str, patient: np.ndarray, labels: dict[str, str]) -> Counter:
    """Add to a batch the columns of DERIVED for which its columns suffice. Returns: values that were mended, by rule.

    Args: patient, int64 (rows,), index of each row's patient, -1 for none; labels, of laboratory items (ethos_paper).
    """
    known = np.maximum(patient, 0)
    clean = preset == "clean"
    mended: Counter[str] = Counter()
    if table == "hosp/patients":
        for name in ("birth", "death", "death_in_hospital", "death_elsewhere"):
            batch[name] = getattr(index, name)[known]
        batch["race"] = Text(index.race[known], [*parsing.RACES, None])
    if "hadm_id" in batch and table.startswith("hosp/"):
        stay = find(index.hadm, batch["hadm_id"])
        batch["end"], batch["admit"] = _joined(stay, index.hadm_end), _joined(stay, index.hadm_admit)
        if table == "hosp/admissions":
            batch["registered"] = _joined(stay, index.hadm_registered)
            told = _joined(stay, index.hadm_race, len(parsing.RACES))
            batch["told_race"] = Text(told, [*parsing.RACES, None])
    if table == "hosp/admissions":
        elsewhere = find(index.ed_hadm, batch["hadm_id"]) >= 0  # the ED module has it
        if "edregtime" in batch:
            batch["edreg"] = np.where(elsewhere, NULL, batch["edregtime"])
        if "edouttime" in batch:
            out = batch["edouttime"]
            out = np.where((out != NULL) & clean, np.maximum(out, batch["edregtime"]), out)
            batch["edout"] = np.where(elsewhere, NULL, out)
        if "deathtime" in batch:
            batch["death_in_hospital"] = np.where(batch["deathtime"] != NULL, batch["end"], NULL)
    if "chartdate" in batch:
        _of_a_day(table, batch, index, known, clean)
    if "storetime" in batch:
        for name, time_column in (("filed", "charttime"), ("begun", "starttime")):
            if time_column in batch:
                batch[name] = _later(batch[time_column], batch["storetime"])
    if "endtime" in batch:
        end = batch["ended"] = _later(batch["endtime"], batch["starttime"])
        mended["end before its beginning moved to it"] += int((end != batch["endtime"]).sum())
        if "storetime" in batch:
            batch["ended_filed"] = _later(end, batch["storetime"])
    if table == "icu/icustays":
        at = find(index.icu, batch["stay_id"])
        batch["left"] = _joined(at, index.icu_out)
        batch["entered"] = _joined(at, index.icu_in)
    if table.startswith("ed/") and "stay_id" in batch:
        at = find(index.ed, batch["stay_id"])
        if table == "ed/triage":
            batch["intime"], batch["triaged"] = _joined(at, index.ed_in), _joined(at, index.ed_triaged)
        elif table == "ed/diagnosis":
            batch["outtime"] = _joined(at, index.ed_out)
        elif table == "ed/edstays":
            batch["left"] = _joined(at, index.ed_out)
    if clean and "temperature" in batch:
        batch["temperature"], celsius = units.fahrenheit(batch["temperature"])
        mended["temperature in °C told in °F"] += int(celsius.sum())
    if "valuenum" in batch and "value" in batch and clean:
        batch["measured"] = _measured(batch)
        mended["result given as a bound read as its number"] += int(
            (np.isnan(batch["valuenum"]) & ~np.isnan(batch["measured"])).sum()
        )
    if preset == "ethos_ares" and "sbp" in batch:
        # It takes whole numbers, and what it finds of two as the systolic pressure.
        alone = np.isnan(batch["sbp"])
        batch["sbp"] = np.where(alone, batch["dbp"], np.trunc(batch["sbp"]))
        batch["dbp"] = np.where(alone, np.nan, batch["dbp"])
    if preset == "ethos_paper" and table == "hosp/labevents":
        items = batch["itemid"]
        batch["label"] = Text(items.at, [labels.get(word or "") for word in items.words])
    return +mended


def _joined(at: np.ndarray, values: np.ndarray, lacking: int = NULL) -> np.ndarray:
    """The values at these places, `lacking` where there is none (-1): there may be none at all."""
    return np.where(at >= 0, values[np.maximum(at, 0)], lacking) if len(values) else np.full(len(at), lacking)


def _later(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The later of two times; NULL where the first one is: NULL is before all."""
    return np.where(first == NULL, NULL, np.maximum(first, other))


def _of_a_day(table: str, batch: Batch, index: Index, known: np.ndarray, clean: bool) -> None:
    """Times of facts of which only the day is told: `day`, `day_end`, `billed`."""
    day = batch["chartdate"]
    end = day_end(day)
    death = index.death[known]
    batch["day"], batch["day_end"] = day, np.where((day != NULL) & (death >= day) & (death < end), death, end)
    if table != "hosp/omr":
        batch["billed"] = np.where(batch["end"] != NULL, batch["end"], batch["day_end"])
    if clean:
        admit = index.admitted_on(known, day) if table == "hosp/omr" else batch["admit"]
        batch["day"] = np.where((day != NULL) & (admit > day), admit, day)


def _measured(batch: Batch) -> np.ndarray:
    """Results as numbers: `valuenum`, else the bound that `value` is, or that `comments` begin with."""
    numbers = batch["valuenum"]
    for name in ("value", "comments"):
        if name not in batch or not (lacking := np.isnan(numbers)).any():
            continue
        words = batch[name]
        used = np.flatnonzero(np.bincount(words.at[lacking], minlength=len(words.words)))
        bounds = np.full(len(words.words), np.nan)
        parsed = [parsing.bound(word) if (word := words.words[i]) else None for i in used.tolist()]
        bounds[used] = [np.nan if number is None else number for number in parsed]
        numbers = np.where(lacking, bounds[words.at], numbers)
    return numbers
