"""The presets on the MIMIC-IV demo: what is known of the published programs' output, and of the rows themselves."""

import collections
import gzip
import itertools
import shutil

import numpy as np
import pytest

from ehr_scaling.data.codes import maps
from ehr_scaling.data.events import events
from ehr_scaling.data.sources.mimic import release as mimic_iv
from ehr_scaling.data.timelines import static_context
from ehr_scaling.data.tokenization import counting, fitting, rare, tokenizer

DEMO = "physionet/files/mimic-iv-demo/2.2"
PUBLIC = ("gem2018_icd9cm_to_icd10cm.csv.gz", "gem2018_icd9proc_to_icd10pcs.csv.gz", "icd10cm-order-Jan-2021.csv.gz")


@pytest.fixture(scope="module")
def code_maps(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    for name in PUBLIC:
        if not (real_data / "maps" / name).is_file():
            pytest.skip(f"no code map {name} at {real_data / 'maps'}")
        shutil.copy(real_data / "maps" / name, folder)
    return maps.load(folder)


class Tokenized:
    """All patients of the demo as train, tokenized by one preset."""

    def __init__(self, raw, out, code_maps, preset, **options):
        out.mkdir()
        mimic_iv.extract(raw, out, seed=0, splits=(1.0, 0.0, 0.0), preset=preset)
        settings = tokenizer.options({"preset": preset, **options})
        shards = events.shards(out, "train")
        counts = counting.merge(counting.count(path, settings, code_maps) for path in shards)
        self.v, again = fitting.fit(counts, settings, code_maps), bool(settings["min_patients"])
        while again:
            bins = rare.merge_bins(rare.count_bins(path, self.v, code_maps) for path in shards)
            self.v, again = rare.collapse(self.v, bins)
        found = [made for path in shards for made in tokenizer.tokenize(path, self.v, code_maps)]
        self.parts = [part for part, _ in found]
        self.silent = collections.Counter()
        for _, stats in found:
            self.silent.update(stats.silent)
        self.patients = [
            [self.v.tokens[i] for i in part.tokens[a:b].tolist()]
            for part in self.parts
            for a, b in itertools.pairwise(part.offsets.tolist())
        ]
        self.tokens = collections.Counter(token for patient in self.patients for token in patient)

    def family(self, name):
        return sum(n for token, n in self.tokens.items() if token.partition("//")[0] == name)


@pytest.fixture(scope="module")
def ares(real_data, code_maps, tmp_path_factory):
    return Tokenized(real_data / DEMO, tmp_path_factory.mktemp("demo") / "ares", code_maps, "ethos_ares")


def column(real_data, table, name):
    with gzip.open(real_data / DEMO / f"{table}.csv.gz", "rt", encoding="utf-8") as f:
        header = f.readline().strip().split(",")
        return [line.rstrip("\n").split(",")[header.index(name)] for line in f]


def test_ares_tokens_are_the_rows(ares, real_data):
    admissions = len(column(real_data, "hosp/admissions", "hadm_id"))
    icu = len(column(real_data, "icu/icustays", "stay_id"))
    for token in ("HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE"):
        assert ares.tokens[token] == admissions
    for name in ("ADMISSION_TYPE", "DISCHARGE_LOCATION", "INSURANCE"):
        assert ares.family(name) == admissions
    assert ares.family("DRG") >= admissions  # one at least for every stay
    assert ares.tokens["ICU_ADMISSION"] == ares.tokens["ICU_DISCHARGE"] == ares.family("ICU_TYPE") == icu
    died = [time for time in column(real_data, "hosp/patients", "dod") if time]
    assert ares.tokens["MEDS_DEATH"] == len(died)
    assert ares.family("TRANSFER") == sum(
        kind in ("admit", "transfer") for kind in column(real_data, "hosp/transfers", "eventtype")
    )
    assert ares.tokens["TIMELINE_END"] == len(ares.patients) == 100


def test_ares_vocabulary_is_as_published(ares):
    """203 scales on the demo with 2 to 9 breaks; 200 labs; 19 intervals; what a table lacks is UNK, as is no more."""
    v = ares.v
    assert len(v.quantiles) == 203
    assert {len(breaks) for breaks in v.quantiles.values()} <= set(range(2, 10))
    assert sum(token.startswith("LAB//") for token in v.tokens) == 200
    assert len(v.intervals) == 19 and v.intervals[-1] == "=6mt"
    missing = {token for token in v.tokens if token.endswith("//UNK") and not token.startswith("LAB//")}
    assert missing == {"DISCHARGE_LOCATION//UNK"}
    assert ares.tokens["UNK"] == ares.tokens["PAD"] == 0
    assert v.context_slots == ("BMI", "GENDER", "MARITAL", "RACE") and v.context_tokens == 6
    assert "ICD//CM//HEART_FAILURE" in v.tokens and ares.tokens["ICD//CM//ESSENTIAL_(PRIMARY)_HYPERTENSION"] > 0


def test_ares_order_within_events(ares):
    follows = collections.defaultdict(set)
    for patient in ares.patients:
        for a, b in itertools.pairwise(patient):
            follows[a.partition("//")[0]].add(b.partition("//")[0])
    quantiles = {f"Q{k}" for k in range(1, 11)}
    assert follows["LAB"] <= quantiles
    assert follows["VITAL"] <= quantiles
    assert follows["HOSPITAL_ADMISSION"] == {"ADMISSION_TYPE"}
    assert follows["ADMISSION_TYPE"] == {"INSURANCE"}
    assert follows["HOSPITAL_DISCHARGE"] == {"DISCHARGE_LOCATION"}
    assert follows["ICU_ADMISSION"] == {"ICU_TYPE"}
    for patient in ares.patients:
        assert patient[-1] == "TIMELINE_END" and patient.count("TIMELINE_END") == 1
        assert not any(patient[0] == name for name in ares.v.intervals)
        for is_pcs, run in itertools.groupby(patient, lambda token: token.startswith("ICD//PCS//")):
            assert not is_pcs or len(list(run)) % 7 == 0
        for i, token in enumerate(patient):
            if token == "VITAL//BLOOD_PRESSURE":
                assert set(patient[i + 1 : i + 3]) <= quantiles


def test_ares_intervals_are_the_time_between(ares):
    bounds = np.array(ares.v.interval_bounds)
    ids = ares.v.index[ares.v.intervals[0]] + np.arange(19)
    for part in ares.parts:
        for p in range(len(part.subject_ids)):
            rows = slice(part.offsets[p], part.offsets[p + 1])
            tokens, times = part.tokens[rows], part.times[rows]
            gaps, ends = np.diff(np.unique(times)), np.unique(times)[1:]
            for gap, end in zip(gaps.tolist(), ends.tolist(), strict=True):
                here = tokens[times == end]
                found = here[np.isin(here, ids)] - ids[0]
                kind = np.searchsorted(bounds, gap, side="right") - 1
                repeats = 0 if kind < 0 else 1 if kind < 18 else int(np.floor(gap / bounds[-1] + 0.5))
                assert found.tolist() == [kind] * repeats


def test_ares_prefixes(ares):
    part = ares.parts[0]
    firsts = part.times[part.offsets[:-1]]
    prefix = static_context.contexts(ares.v, part, np.arange(len(firsts)), firsts)
    for row in prefix.tolist():
        names = [ares.v.tokens[i] for i in row]
        assert [name.partition("//")[0] for name in (*names[:3], names[5])] == ["BMI", "GENDER", "MARITAL", "RACE"]
        assert set(names[3:5]) <= set(ares.v.quantile_tokens)


def test_clean_tells_of_no_few(real_data, code_maps, tmp_path_factory):
    """With k = 10, no token of a timeline is one of fewer than 10 patients, and what is lost is counted."""
    made = Tokenized(
        real_data / DEMO, tmp_path_factory.mktemp("demo") / "clean", code_maps, "clean", min_patients=10, min_count=1
    )
    have = collections.Counter(token for patient in made.patients for token in set(patient))
    special = {*made.v.special, "MEDS_DEATH"}
    assert min(n for token, n in have.items() if token not in special) >= 10
    assert not any(token.partition("//")[0] in ("ICD9CM", "ICD9PCS") and n < 10 for token, n in have.items())
    assert made.tokens["LAB//UNK"] < 0.05 * made.family("LAB")
    # Every lab result with a number is there, whatever became of its name.
    numbers = sum(text != "" for text in column(real_data, "hosp/labevents", "valuenum"))
    assert made.family("LAB") == pytest.approx(numbers, rel=0.02)
