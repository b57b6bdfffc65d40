"""The preset ethos_ares against tests/data/ethos_oracle.py, patient by patient, on the MIMIC-IV demo.

What a failure prints: families of tokens with their counts, and tokens around the first difference: no id, no time.
"""

import csv
import gzip
import sys
from collections import Counter
from pathlib import Path

import pytest

from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.data.timelines import timelines
from tests import nightly

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from ethos_oracle import load_maps, oracle

# Drugs as nurses' records name them, with ATC codes of general knowledge; some with several, and of several lengths.
DRUGS = {
    "insulin": "A10AB01 A10AB02 A10AB03 A10AB04 A10AB05 A10AC01 A10AD01 A10AE01 A10AF01",
    "heparin": "B01AB01 C05BA03 S01XA14", "aspirin": "B01AC06 N02BA01 A01AD05", "vancomycin": "J01XA01 A07AA09",
    "metronidazole": "J01XD01 G01AF01", "metronidazole (flagyl)": "J01XD01", "vancomycin oral liquid": "A07AA09",
    "acetaminophen": "N02BE01", "acetaminophen iv": "N02BE01", "acetaminophen (liquid)": "N02BE01",
    "metoprolol tartrate": "C07AB02", "metoprolol succinate xl": "C07AB02",
    "oxycodone (immediate release)": "N02AA05", "oxycodone liquid": "N02AA05", "docusate sodium": "A06AA02",
    "docusate sodium (liquid)": "A06AA02", "hydromorphone (dilaudid)": "N02AA03", "pantoprazole": "A02BC02",
    "furosemide": "C03CA01", "levothyroxine sodium": "H03AA01", "acyclovir": "J05AB01 S01AD03",
    "gabapentin": "N02BF01", "midodrine": "C01CA17", "multivitamins": "A11BA", "vitamin d": "A11CC",
    "senna": "A06AB06", "lorazepam": "N05BA06", "lactulose": "A06AD11", "atorvastatin": "C10AA05",
    "cefepime": "J01DE01", "hydralazine": "C02DB02", "thiamine": "A11DA01", "folic acid": "B03BB01",
    "calcium carbonate": "A02AC01 A12AA04", "famotidine": "A02BA03", "rifaximin": "A07AA11",
    "potassium chloride": "A12BA01", "ipratropium-albuterol neb": "R03AL02", "piperacillin-tazobactam": "J01CR05",
    "allopurinol": "M04AA01", "morphine sulfate": "N02AA01", "ferrous sulfate": "B03AA07", "ondansetron": "A04AA01",
    "omeprazole": "A02BC01", "diltiazem": "C08DB01", "warfarin": "B01AA03", "ceftriaxone": "J01DD04",
    "levetiracetam": "N03AX14", "torsemide": "C03CA04", "magnesium sulfate": "A12CC02 V04CC02",
    "enoxaparin sodium": "B01AB05", "fluoxetine": "N06AB03", "digoxin": "C01AA05", "amlodipine": "C08CA01",
    "meropenem": "J01DH02", "cyanocobalamin": "B03BA01", "clonidine": "C02AC01 N02CX02", "carvedilol": "C07AG02",
    "spironolactone": "C03DA01", "cefazolin": "J01DB04", "diazepam": "N05BA01", "nystatin cream": "D01AA01",
    "labetalol": "C07AG01", "nothing by that name": "Z99", "nicotine patch": "N07",
}  # fmt: skip
GROUPS = {
    "A01": "Stomatological preparations",
    "A02": "Drugs for acid related disorders",
    "A04": "Antiemetics and antinauseants",
    "A06": "Drugs for constipation",
    "A07": "Antidiarrheals, intestinal antiinflammatory/antiinfective agents",
    "A10": "Drugs used in diabetes",
    "A11": "Vitamins",
    "A12": "Mineral supplements",
    "B01": "Antithrombotic agents",
    "B03": "Antianemic preparations",
    "C01": "Cardiac therapy",
    "C02": "Antihypertensives",
    "C03": "Diuretics",
    "C05": "Vasoprotectives",
    "C07": "Beta blocking agents",
    "C08": "Calcium channel blockers",
    "C10": "Lipid modifying agents",
    "D01": "Antifungals for dermatological use",
    "G01": "Gynecological antiinfectives and antiseptics",
    "H03": "Thyroid therapy",
    "J01": "Antibacterials for systemic use",
    "J05": "Antivirals for systemic use",
    "M04": "Antigout preparations",
    "N02": "Analgesics",
    "N03": "Antiepileptics",
    "N05": "Psycholeptics",
    "N06": "Psychoanaleptics",
    "N07": "Other nervous system drugs",
    "R03": "Drugs for obstructive airway diseases",
    "S01": "Ophthalmologicals",
}  # fmt: skip  (V04 has no title, so its first part is lost)


def write(path, header, rows):
    with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def code_maps(real_data, tmp_path_factory):
    """A folder of code maps named and laid out as that program's own."""
    out = tmp_path_factory.mktemp("maps")
    for ours, theirs in (("icd9cm_to_icd10cm", "icd_cm"), ("icd9proc_to_icd10pcs", "icd_pcs")):
        with gzip.open(real_data / f"maps/gem2018_{ours}.csv.gz", "rt", newline="") as file:
            rows = [(row["source"], row["target"], row["flag"]) for row in csv.DictReader(file)]
        write(out / f"{theirs}_9_to_10_mapping.csv.gz", ("icd_9", "icd_10", "flags"), rows)
    titles = "icd10cm-order-Jan-2021.csv.gz"
    (out / titles).write_bytes((real_data / "maps" / titles).read_bytes())
    write(
        out / "mimic_drug_to_atc.csv.gz",
        ("drug", "atc_code"),
        [(d, atc) for d, codes in DRUGS.items() for atc in codes.split()],
    )
    write(out / "atc_coding.csv.gz", ("atc_code", "atc_name"), GROUPS.items())
    return out


def ours(real_data, maps, work, ed, splits=(1.0, 0.0, 0.0)):
    """patient → [(token, time)] by the pipeline, the vocabulary, and the training patients."""
    config = base.get_config()
    data = config.data
    data.source, data.preset, data.code_maps, data.splits = "mimic-iv", "ethos_ares", str(maps), splits
    data.raw = str(real_data / "physionet/files/mimic-iv-demo/2.2")
    data.ed = str(ed) if ed else ""
    pipeline.prepare(data, work, workers=1, until="timelines")
    folder = work / "timelines"
    names = timelines.vocabulary(folder).tokens
    out, train = {}, set()
    for split in ("train", "validation", "test"):
        for patient in timelines.read(folder, split):
            out[patient["subject_id"]] = [
                (names[i], int(t)) for i, t in zip(patient["tokens"], patient["times"], strict=True)
            ]
            if split == "train":
                train.add(patient["subject_id"])
    return out, names, train


def family(token):
    head, *rest = token.split("//")
    return f"{head}//{rest[0]}" if head == "ICD" else head


def compare(mine, theirs):
    """Nothing, or why they differ, without ids or times."""
    lines = []
    counts = [Counter(family(token) for tokens in side.values() for token, _ in tokens) for side in (mine, theirs)]
    for name in sorted(counts[0] | counts[1]):
        if counts[0][name] != counts[1][name]:
            lines.append(f"  {name}: {counts[0][name]} by the preset, {counts[1][name]} by the oracle")
    if mine.keys() != theirs.keys():
        lines.append(f"  patients: {len(mine)}, {len(theirs)}; {len(mine.keys() & theirs.keys())} in both")
    wrong = [p for p in sorted(mine.keys() & theirs.keys()) if mine[p] != theirs[p]]
    for patient in wrong[:3]:
        a, b = mine[patient], theirs[patient]
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        what = [[token for token, _ in side[max(0, at - 3) : at + 5]] for side in (a, b)]
        kind = "token" if what[0] != what[1] else "time"
        lines.append(f"  first {kind} that differs is {at} of {len(a)} and {len(b)}:\n    {what[0]}\n    {what[1]}")
    return f"{len(wrong)} patients differ\n" + "\n".join(lines) if wrong or lines else ""


@pytest.mark.parametrize("module", nightly.but("mimic-iv-ed-demo", of=("", "mimic-iv-ed-demo")), ids=["base", "ed"])
def test_equals_the_oracle(module, real_data, code_maps, tmp_path):
    ed = real_data / "physionet/files" / module / "2.2" if module else None
    mine, names, _ = ours(real_data, code_maps, tmp_path, ed)
    theirs, facts = oracle(real_data / "physionet/files/mimic-iv-demo/2.2", load_maps(code_maps), ed)
    if problem := compare(mine, theirs):
        pytest.fail(problem, pytrace=False)
    assert set(facts["vocabulary"]) <= set(names)


@pytest.mark.nightly
def test_unseen_codes_are_treated_as_there(real_data, code_maps, tmp_path):
    """Fitted on part of the patients: what only others have is dropped or cut, and UNK where that program stops."""
    mine, _, train = ours(real_data, code_maps, tmp_path, None, (0.6, 0.0, 0.4))
    assert 0 < len(train) < len(mine)
    theirs, facts = oracle(real_data / "physionet/files/mimic-iv-demo/2.2", load_maps(code_maps), train=train)
    spelt = {
        p: [("UNK" if token in facts["stops"] else token, time) for token, time in tokens]
        for p, tokens in theirs.items()
    }
    if problem := compare(mine, spelt):
        pytest.fail(problem, pytrace=False)
