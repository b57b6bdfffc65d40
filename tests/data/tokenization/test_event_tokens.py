"""Tokens are put together to the events that they were made of, in all presets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data import presets
from ehr_scaling.data.codes import maps
from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.events.columns import Columns
from ehr_scaling.data.tokenization import tokenizer
from ehr_scaling.data.tokenization.counting import CodeCount, Counts
from ehr_scaling.data.tokenization.event_tokens import Grouping
from ehr_scaling.data.tokenization.fitting import fit
from ehr_scaling.data.vocabulary import AGES, DAY, END, SPECIAL, Vocabulary

MINUTE = DAY // 1440
FILLED = CodeMaps(
    icd9cm={"4280": ("I509",), "25000": ("E119", "E1165")},
    icd9pcs={"3893": ("02HV33Z", "05HM33Z")},
    titles={c: f"Title of {c}" for c in ("I50", "E11", "A41", "S72")},
    atc={"insulin": ("A10AB01",), "heparin": ("B01AB01",), "aspirin": ("N02",)},
    atc_titles={"A10": "DRUGS USED IN DIABETES", "B01": "Antithrombotic agents", "N02": "ANALGESICS"},
    gsn={},
    files={"atc": "0" * 64},
)
PRESSURE = ("VITAL//BLOOD_PRESSURE//SYSTOLIC", "VITAL//BLOOD_PRESSURE//DIASTOLIC")
_BARE = """HOSPITAL_ADMISSION//URGENT//ED HOSPITAL_ADMISSION//ELECTIVE//X HOSPITAL_DISCHARGE//HOME
HOSPITAL_DISCHARGE//DIED HOSPITAL_DISCHARGE//SKILLED_NURSING_FACILITY ICU_ADMISSION//MICU
ICU_DISCHARGE//MICU MEDS_DEATH ED_REGISTRATION ED_REGISTRATION//AMBULANCE ED_OUT//ADMITTED ED_OUT
TRANSFER_TO//admit//WARD SERVICE//MED INSURANCE//MEDICARE DIAGNOSIS//ICD//10//I50
DIAGNOSIS//ICD//10//I5023 DIAGNOSIS//ICD//10//E11 DIAGNOSIS//ICD//10//S72001A
DIAGNOSIS//ICD//10//A419 DIAGNOSIS//ICD//9//4280 DIAGNOSIS//ICD//9//V1082 DIAGNOSIS//ICD//9//E8120
DIAGNOSIS//ICD//9//428 DIAGNOSIS//ICD//9//E812 PROCEDURE//ICD//10//02HV33Z
PROCEDURE//ICD//10//0000000 PROCEDURE//ICD//9//3893 PROCEDURE//ICD//9//9671
MEDICATION//Insulin//Administered MEDICATION//Heparin//Administered
MEDICATION//Aspirin//Administered MEDICATION//Other//Administered DRG//HCFA//291//HF
DRG//HCFA//871//SEPSIS HCPCS//99213 ICD10PCS//02HV33Z ICD10CM//E11.9 ATC//A10BA02 SNOMED//73211009"""
BARE = _BARE.split()
VALUED = ["LAB//51221//%", "LAB//50912//mg/dL", "VITAL//HEART_RATE", "BMI (kg/m2)", "SOFA", "ACUITY", *PRESSURE]


def fitted(preset, code_maps, **options):
    """A vocabulary of all these codes."""
    settings = tokenizer.options({"preset": preset, "min_count": 1, "min_values": 1, "top_labs": 0, **options})
    counts, rules = Counts(), presets.rules(settings, code_maps)
    for code in (*BARE, *VALUED):
        counts.codes[code] = CodeCount(20, 0, 20 if code in VALUED else 0, 20)
        if (rule := rules(code)).scale and code in VALUED:
            number = counts.scales.setdefault(rule.scale, len(counts.scales))
            counts.values.add(np.full(10, number), np.arange(10).astype(np.float32))
    counts.values.merge()
    return fit(counts, settings, code_maps)


CASES = {
    f"{preset}-{name}-{values}-depth{depth}": (preset, code_maps, values, depth)
    for preset in presets.PRESETS
    for name, code_maps in (("bare", maps.load(None)), ("maps", FILLED))
    for values in ("separate", "fused")
    for depth in (0, 2)
}
# One event, or the two of a measurement, each (code, value)
ONE = st.one_of(
    st.sampled_from(BARE).map(lambda code: ((code, np.nan),)),
    st.tuples(st.sampled_from(VALUED[:-2]), st.sampled_from([np.nan, -1.0, 2.5, 6.0, 99.0])).map(
        lambda event: (event,)
    ),
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda both: tuple(zip(PRESSURE, both, strict=True))),
)
GAP = st.sampled_from([0, 0, 0, 1, 30, 90_000])  # minutes


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request):
    preset, code_maps, values, depth = request.param
    vocabulary = fitted(preset, code_maps, value_tokens=values, code_depth=depth)
    table = tokenizer.code_table([*BARE, *VALUED], vocabulary, code_maps, {})
    return vocabulary, table, Grouping(vocabulary)


def tokens_of(patients, vocabulary, table):
    """Timelines of patients, each a list of (minutes, code, value); an empty one for who has no token."""
    names = [*BARE, *VALUED]
    rows = [(p, DAY + t * MINUTE, names.index(code), value) for p, own in enumerate(patients) for t, code, value in own]
    subjects, times, codes, values = (np.array(column) for column in zip(*rows, strict=True))
    part = Columns(subjects, times, codes.astype(np.int32), values.astype(np.float32), names)
    made, _ = tokenizer.tokenize_part(part, table, vocabulary)
    out = {p: ([], []) for p in range(len(patients))}
    for i, subject in enumerate(made.subject_ids.tolist()):
        own = slice(made.offsets[i], made.offsets[i + 1] - 1)  # without the end
        out[subject] = made.tokens[own].tolist(), made.times[own].tolist()
    return out


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(GAP, ONE), min_size=1, max_size=14))
def test_tokens_regroup_to_the_events_they_were_made_of(case, drawn):
    vocabulary, table, grouping = case
    now, whole, alone = 0, [], []
    for gap, event in drawn:
        now += gap
        whole += [(now, code, value) for code, value in event]
        own = [(0, code, value) for code, value in event]
        # Only the ETHOS programs name both values of a blood pressure once.
        alone += [[row] for row in own] if vocabulary.preset == "clean" else [own]
    *expected, (tokens, times) = tokens_of([*alone, whole], vocabulary, table).values()
    events = list(grouping.split([*tokens, vocabulary.index[END]], [*times, times[-1] if times else 0]))
    assert [list(event.tokens) for event in events[:-1]] == [own for own, _ in expected if own]
    assert all(tokens[event.at] == event.tokens[0] for event in events[:-1])
    assert events[-1].tokens == (vocabulary.index[END],)


def spelt(vocabulary, text):
    """The events of these tokens, as lists of names."""
    tokens = [vocabulary.index[name] for name in text.split()]
    return [[vocabulary.tokens[i] for i in event.tokens] for event in Grouping(vocabulary).split(tokens)]


def a_vocabulary(*names, **fields):
    tokens = (*SPECIAL, *AGES, *names)
    return Vocabulary(tokens, (1,) * len(tokens), (), {}, (0.0,) * 13, {}, **fields)


CHARACTERS = [f"ICD10PCS//{c}" for c in "0234A7Z"]


def test_procedures_cut_short_are_not_cut_into_others():
    """Seven and five characters: any cut but the right one would tell of something that was not done."""
    v = a_vocabulary(*CHARACTERS, "DRG//5")
    full, short = (" ".join(f"ICD10PCS//{c}" for c in code) for code in ("4A02304", "703Z4"))
    assert spelt(v, f"{full} {short} DRG//5") == [[*full.split(), *short.split()], ["DRG//5"]]
    assert spelt(v, f"{full} {full} DRG//5") == [full.split(), full.split(), ["DRG//5"]]
    # What ends in the midst of one was cut there: the end of a simulated future, or padding after it.
    for end in ("", " PAD PAD"):
        assert spelt(v, f"{full} {short}{end}") == [full.split(), short.split()]


def test_parts_follow_a_full_part_alone():
    v = a_vocabulary("ICD10CM//I50", "ICD10CM//UNK", "ICD10CM//3-6//23", "ICD10CM//3-6//230", "ICD10CM//SFX//A")
    assert spelt(v, "ICD10CM//I50 ICD10CM//3-6//230 ICD10CM//SFX//A") == [
        ["ICD10CM//I50", "ICD10CM//3-6//230", "ICD10CM//SFX//A"]
    ]
    assert spelt(v, "ICD10CM//I50 ICD10CM//3-6//23 ICD10CM//SFX//A") == [
        ["ICD10CM//I50", "ICD10CM//3-6//23"],
        ["ICD10CM//SFX//A"],
    ]
    assert spelt(v, "ICD10CM//UNK ICD10CM//3-6//230") == [["ICD10CM//UNK"], ["ICD10CM//3-6//230"]]


def test_codes_that_another_hospital_spells_alike_stay_apart():
    """Whole codes in one token each, as sources of unknown dialects have them."""
    codes = ["ICD10PCS//02HV33Z", "ICD10PCS//5A1935Z", "ICD9CM//428.0", "ICD10CM//E11.9", "ATC//A10BA02"]
    assert spelt(a_vocabulary(*codes), " ".join(codes)) == [[code] for code in codes]


def test_an_unknown_place_goes_with_its_event():
    """Where the vocabulary has no UNK of that family, UNK is what a place becomes that it does not know."""
    without = a_vocabulary("HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME", "ED_OUT")
    assert spelt(without, "HOSPITAL_DISCHARGE UNK UNK") == [["HOSPITAL_DISCHARGE", "UNK"], ["UNK"]]
    assert spelt(without, "ED_OUT UNK") == [["ED_OUT"], ["UNK"]]  # it never has a place
    with_one = a_vocabulary("HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME", "DISCHARGE_LOCATION//UNK")
    assert spelt(with_one, "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//UNK UNK") == [
        ["HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//UNK"],
        ["UNK"],
    ]


@given(st.lists(st.integers(0, 60)))
def test_no_token_is_lost(tokens):
    names = [
        *CHARACTERS,
        "HOSPITAL_ADMISSION",
        "ADMISSION_TYPE//X",
        "ICD10CM//I50",
        "ICD10CM//3-6//1",
        "4//SFX//",
        "A//",
    ]
    v = a_vocabulary(*names, "ATC//4//A", "ATC//A10", "VITAL//BLOOD_PRESSURE", "LAB//1")
    tokens = [i % len(v.tokens) for i in tokens]
    silent = {v.index["PAD"], *(v.index[name] for name in v.intervals)}
    events = list(Grouping(v).split(tokens))
    assert [i for event in events for i in event.tokens] == [i for i in tokens if i not in silent]
    assert all(tokens[e.at : e.at + len(e.tokens)] == list(e.tokens) for e in events)
