import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ehr_scaling.data import presets
from ehr_scaling.data.codes.maps import CodeMaps, load
from ehr_scaling.data.tokenization import tokenizer

MAPS = CodeMaps(
    icd9cm={"4280": ("I509",), "25000": ("E119", "E1165"), "E8120": ("V4352XA", "V8350XA"), "8120": ("S42201A",) * 2},
    icd9pcs={"3893": ("02HV33Z", "05HM33Z"), "9671": ("5A1935Z",)},
    titles={"I50": "Heart failure", "E11": "Type 2 diabetes mellitus", "A00": "Cholera, by X."},
    atc={"insulin": ("A10AB01", "A10AC01", "A10AE04"), "heparin (iv)": ("B01AB01",), "odd": ("C01", "N02BE01")},
    atc_titles={"A10": "DRUGS USED IN DIABETES", "B01": "Antithrombotic agents", "N02": "ANALGESICS"},
    gsn={"002": ("B01AC06", "N02BA01")},
    files={"atc": "0" * 64},
)


def words(preset, code, maps=MAPS, **options):
    rule = presets.rules(tokenizer.options({"preset": preset, **options}), maps)(code)
    return " ".join(token for path in rule.paths for token in path) or f"({rule.why_not})"


NO_MAPS = load(None)
CLEAN = {
    "DIAGNOSIS//ICD//10//I50": "ICD10CM//I50",
    "DIAGNOSIS//ICD//10//I5022": "ICD10CM//I50 ICD10CM//3-6//22",
    "DIAGNOSIS//ICD//10//S72.001A": "ICD10CM//S72 ICD10CM//3-6//001 ICD10CM//SFX//A",
    "DIAGNOSIS//ICD//9//4280": "ICD9CM//428 ICD9CM//SFX//0",
    "DIAGNOSIS//ICD//9//V1082": "ICD9CM//V10 ICD9CM//SFX//82",
    "DIAGNOSIS//ICD//9//E8120": "ICD9CM//E812 ICD9CM//SFX//0",
    "PROCEDURE//ICD//10//0210093": " ".join(f"ICD10PCS//{c}" for c in "0210093"),
    "PROCEDURE//ICD//9//3893": "ICD9PCS//38 ICD9PCS//SFX//93",
    "PROCEDURE//START//225459": "PROCEDURE//START//225459",
    "HOSPITAL_ADMISSION//URGENT//CLINIC": "HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY",
    "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM": "HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY",
    "HOSPITAL_ADMISSION//SURGICAL SAME DAY ADMISSION//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//SCHEDULED",
    "HOSPITAL_ADMISSION//EU OBSERVATION//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//OBSERVATION",
    "HOSPITAL_ADMISSION//SCHEDULED//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//SCHEDULED",
    "HOSPITAL_ADMISSION//Night stay//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//NIGHT_STAY",
    "HOSPITAL_ADMISSION": "HOSPITAL_ADMISSION",
    "HOSPITAL_DISCHARGE//HOME HEALTH CARE": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//HOME_HEALTH_CARE",
    "HOSPITAL_DISCHARGE//CHRONIC/LONG TERM ACUTE CARE": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//HEALTHCARE_FACILITY",
    "HOSPITAL_DISCHARGE//UNK": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//UNKNOWN",
    "HOSPITAL_DISCHARGE": "HOSPITAL_DISCHARGE",
    "HOSPITAL_DISCHARGE//": "HOSPITAL_DISCHARGE",
    "ICU_ADMISSION//Medical Intensive Care Unit (MICU)": "ICU_ADMISSION ICU_TYPE//MEDICAL_INTENSIVE_CARE_UNIT_(MICU)",
    "ICU_DISCHARGE//MICU": "ICU_DISCHARGE",
    "ED_REGISTRATION": "ED_REGISTRATION",
    "ED_REGISTRATION//WALK IN": "ED_REGISTRATION ED_TRANSPORT//WALK_IN",
    "ED_OUT": "ED_OUT",
    "ED_OUT//ADMITTED": "ED_OUT ED_DISPOSITION//ADMITTED",
    "TRANSFER_TO//transfer//Med/Surg": "TRANSFER//MED/SURG",
    "TRANSFER_TO//ADMIT//WARD": "TRANSFER//WARD",
    "TRANSFER_TO//admit//UNK": "TRANSFER//UNKNOWN",
    "TRANSFER_TO//ED//WARD": "(repeats an admission or discharge)",
    "TRANSFER_TO//Ward 3": "TRANSFER_TO//Ward 3",  # of dialects that are not known
    "DRG//MS//470": "DRG//MS//470",
    "DRG//HCFA//0871//SEPTICEMIA": "DRG//871",
    "DRG//APR//720//SEPTICEMIA": "(not of the system HCFA)",
    "DRG//UNKNOWN": "(not known)",
    "INSURANCE//Medicare": "INSURANCE//MEDICARE",
    "MARITAL_STATUS//MARRIED": "MARITAL//MARRIED",
    "MARITAL_STATUS//UNK": "MARITAL//UNKNOWN",
    "MEDICATION//Heparin (IV)//Administered": "MED//HEPARIN",
    "MEDICATION//Insulin Human Regular 100 unit/mL//Administered": "MED//INSULIN",
    "MEDICATION//Xyzzy,  Foo. 40 mg//Started": "MED//XYZZY_FOO",  # strengths make no drug of its own
    "MEDICATION//XYZZY_40_MG": "MED//XYZZY_40_MG",  # but what the source has normalised is left alone
    "MEDICATION//METOPROLOL_TARTRATE//ADMINISTERED": "MED//METOPROLOL_TARTRATE",
    "MEDICATION//HEPARIN": "MED//HEPARIN",
    "MEDICATION//HEPARIN//Not Given": "(no dose: nothing was given)",
    "MEDICATION//HEPARIN//HOLD_DOSE": "(no dose: nothing was given)",
    "MEDICATION//HEPARIN//NOT_GIVEN_PER_SLIDING_SCALE": "(no dose: nothing was given)",
    "MEDICATION//START//HEPARIN": "(an order, not a dose)",
    "MEDICATION//STARTED//aspirin": "MED//ASPIRIN",  # another hospital's order of the parts, and its words
    "MEDICATION//GIVEN//aspirin": "MED//ASPIRIN",
    "MEDICATION//aspirin//GIVEN": "MED//ASPIRIN",
    "MEDICATION//STOPPED//aspirin": "(no dose: an end)",
    "MEDICATION//ORDERED//aspirin": "(no dose: an order)",
    "MEDICATION//HELD//aspirin": "(no dose: nothing was given)",
    "MEDICATION//aspirin//REFUSED": "(no dose: nothing was given)",
    "LAB//51249//%": "LAB//51249//G/DL",  # one scale, two names of its unit
    "LAB//51249//g/dL": "LAB//51249//G/DL",
    "MEDS_DEATH//IN_HOSPITAL": "MEDS_DEATH",
    "BMI_(KG/M2)": "BMI",
    "BMI (kg/m2)": "BMI",
    "LAB//50912//mg/dL": "LAB//50912//MG/DL",
    "LAB//51237//UNK": "LAB//51237//UNK",
    "Oxygen sat//a, b": "Oxygen sat//a, b",  # a dialect's codes are its own
    "PAD": "UNK",  # a source cannot reach the tokens that have a meaning of their own
    "Q3": "UNK",
    "TIME//1h-2h": "UNK",
}
CLEAN_MAPPED = {
    "DIAGNOSIS//ICD//9//4280": "ICD10CM//I50 ICD10CM//3-6//9",
    "DIAGNOSIS//ICD//9//25000": "ICD10CM//E11",  # what both targets agree on
    "DIAGNOSIS//ICD//9//99999": "ICD9CM//999 ICD9CM//SFX//99",
    "PROCEDURE//ICD//9//9671": " ".join(f"ICD10PCS//{c}" for c in "5A1935Z"),
    "MEDICATION//Insulin//Administered": "ATC//A10 ATC//4//A",  # one drug, one path
    "MEDICATION//Insulin Glargine 100 units/mL//Administered": "ATC//A10 ATC//4//A",  # by its ingredient
    "MEDICATION// heparin (IV)//Started": "ATC//B01 ATC//4//A ATC//SFX//B01",
    "MEDICATION//Heparin 5000 units//Started": "ATC//B01 ATC//4//A ATC//SFX//B01",  # no heparin in the table
    "MEDICATION//odd//Started": "ATC//C01",  # no ingredient that is known: as it is spelt
    "MEDICATION//Warfarin 5 mg//Administered": "MED//WARFARIN",
}
ARES = {
    "DIAGNOSIS//ICD//10//I5022": "ICD//CM//HEART_FAILURE ICD//CM//3-6//22",
    "DIAGNOSIS//ICD//10//A000": "ICD//CM//CHOLERA_BY_X ICD//CM//3-6//0",
    "DIAGNOSIS//ICD//10//Z9911XA": "ICD//CM//3-6//11X ICD//CM//SFX//A",  # no title: its first token is lost
    "DIAGNOSIS//ICD//10//Z99": "(no title in the map)",
    "DIAGNOSIS//ICD//9//4280": "ICD//CM//HEART_FAILURE ICD//CM//3-6//9",
    "DIAGNOSIS//ICD//9//25000": "ICD//CM//TYPE_2_DIABETES_MELLITUS",  # several targets: the first one's category
    "DIAGNOSIS//ICD//9//99999": "(no ICD-10 code in the map)",
    "PROCEDURE//ICD//9//3893": " ".join(f"ICD//PCS//{c}" for c in "02HV33Z"),
    "PROCEDURE//ICD//10//0210093": " ".join(f"ICD//PCS//{c}" for c in "0210093"),
    "PROCEDURE//START//225459": "(not in this preset)",
    "MEDICATION// Insulin//Administered": " ".join(
        f"ATC//A10//DRUGS_USED_IN_DIABETES ATC//4//A ATC//SFX//{x}" for x in ("B01", "C01", "E04")
    ),
    "MEDICATION//odd//Administered": "ATC//N02//ANALGESICS ATC//4//B ATC//SFX//E01",  # C01 has no description
    "MEDICATION//insulin//Not Given": "(not given)",
    "MEDICATION//warfarin//Administered": "(no ATC code in the map)",
    "HOSPITAL_ADMISSION//AMBULATORY OBSERVATION//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//OBSERVATION",
    "HOSPITAL_ADMISSION//DIRECT EMER.//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//OBSERVATION",
    "HOSPITAL_ADMISSION//SURGICAL SAME DAY ADMISSION//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//OBSERVATION",
    "HOSPITAL_ADMISSION//ELECTIVE//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//SCHEDULED",
    "HOSPITAL_ADMISSION//SCHEDULED//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//SCHEDULED",
    "HOSPITAL_ADMISSION//URGENT//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY",
    "HOSPITAL_ADMISSION//EMERGENCY": "HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY",
    "HOSPITAL_DISCHARGE//UNK": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//UNK",
    "HOSPITAL_DISCHARGE": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//UNK",
    "ICU_ADMISSION//UNK": "ICU_ADMISSION ICU_TYPE//UNK",
    "HOSPITAL_DISCHARGE//REHAB": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//HEALTHCARE_FACILITY",
    "INSURANCE//Medicaid": "INSURANCE//MEDICAID",
    "INSURANCE//UNK": "(not known)",
    "DRG//HCFA//0871//SEPTICEMIA": "DRG//871",
    "DRG//UNKNOWN": "DRG//UNKNOWN",
    "HCPCS//Hospital observation per hr": "HCPCS//HOSPITAL_OBSERVATION_PER_HR",
    "LAB//51237//UNK": "LAB//51237//UNK",
    "LAB//50820//units": "LAB//50820//UNITS",
    "LAB//51498// ": "LAB//51498//_",
    "TRANSFER_TO//transfer//UNK": "TRANSFER//UNK",
    "VITAL//BLOOD_PRESSURE//SYSTOLIC": "VITAL//BLOOD_PRESSURE",
    "VITAL//BLOOD_PRESSURE//DIASTOLIC": "()",  # only its quantile
    "VITAL//O2_SATURATION": "VITAL//O2_SATURATION",
    "ED_REGISTRATION//HELICOPTER": "ED_REGISTRATION ED_TRANSPORT//OTHER",
    "ED_REGISTRATION//UNK": "ED_REGISTRATION",
    "ED_REGISTRATION": "ED_REGISTRATION",
    "ED_OUT//HOME": "ED_OUT",
    "SERVICE//MED": "(not in this preset)",
    "CHART//220045//bpm": "(not in this preset)",
    "=6mt": "UNK",
}
PAPER = {
    "HOSPITAL_ADMISSION//DIRECT EMER.//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY",
    "HOSPITAL_ADMISSION//SURGICAL SAME DAY ADMISSION//X": "HOSPITAL_ADMISSION ADMISSION_TYPE//SCHEDULED",
    "HOSPITAL_DISCHARGE//UNK": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//UNKNOWN",
    "SERVICE//MED": "TRANSFER//MED",
    "TRANSFER_TO//transfer//X": "(not in this preset)",
    "DRG//HCFA//871//SEPTICEMIA, W MV": "DRG//SEPTICEMIA_W_MV",
    "HCPCS//X": "(not in this preset)",
    "VITAL//TEMPERATURE": "(not in this preset)",
    "VITAL//BLOOD_PRESSURE//SYSTOLIC": "VITAL//BLOOD_PRESSURE",
    "MEDICATION//insulin//Administered": "ATC//A10//DRUGS_USED_IN_DIABETES ATC//4//A ATC//SFX//B01",
    "MEDICATION//any name//Administered//001 002": "ATC//B01//ANTITHROMBOTIC_AGENTS ATC//4//A ATC//SFX//C06",
    "LAB//Creatinine//mg/dL//50912": "LAB//CREATININE//MG/DL//50912",
    "DIAGNOSIS//ICD//9//25000": "ICD//CM//TYPE_2_DIABETES_MELLITUS ICD//CM//3-6//9",
    "_<5": "UNK",
}


@pytest.mark.parametrize(("code", "tokens"), CLEAN.items())
def test_clean(code, tokens):
    assert words("clean", code, NO_MAPS) == tokens


@pytest.mark.parametrize(("code", "tokens"), CLEAN_MAPPED.items())
def test_clean_with_maps(code, tokens):
    assert words("clean", code) == tokens


@pytest.mark.parametrize(("code", "tokens"), ARES.items())
def test_ethos_ares(code, tokens):
    assert words("ethos_ares", code) == tokens


@pytest.mark.parametrize(("code", "tokens"), PAPER.items())
def test_ethos_paper(code, tokens):
    assert words("ethos_paper", code) == tokens


def test_without_maps_nothing_is_dropped():
    assert words("ethos_ares", "DIAGNOSIS//ICD//9//4280", NO_MAPS) == "ICD9CM//428 ICD9CM//SFX//0"
    assert words("ethos_ares", "DIAGNOSIS//ICD//10//I5022", NO_MAPS) == "ICD//CM//I50 ICD//CM//3-6//22"
    assert words("ethos_ares", "PROCEDURE//ICD//9//3893", NO_MAPS) == "ICD9PCS//38 ICD9PCS//SFX//93"
    assert words("ethos_ares", "MEDICATION//Warfarin 5 mg//Administered", NO_MAPS) == "MED//WARFARIN"


def test_depth_cuts_classifications_only():
    for depth, tokens in ((1, "ICD10CM//S72"), (2, "ICD10CM//S72 ICD10CM//3-6//001")):
        assert words("clean", "DIAGNOSIS//ICD//10//S72001A", code_depth=depth) == tokens
    assert words("clean", "MEDICATION//heparin (iv)//Administered", code_depth=1) == "ATC//B01"
    assert words("clean", "HOSPITAL_ADMISSION//URGENT//X", code_depth=1).endswith("ADMISSION_TYPE//EMERGENCY")
    assert (
        words("ethos_ares", "MEDICATION//insulin//Administered", code_depth=1).split()
        == ["ATC//A10//DRUGS_USED_IN_DIABETES"] * 3
    )


@pytest.mark.parametrize("preset", presets.PRESETS)
@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(st.sampled_from([*sorted(presets.FAMILIES), "ICD", "9", "10", "HCFA", "START", "admit"]), st.text()),
        min_size=1,
        max_size=5,
    ).map("//".join)
)
@example("DIAGNOSIS//ICD//9//")
@example("DIAGNOSIS//ICD//10// .")
@example("PROCEDURE//ICD//9//😀")
@example("DRG//HCFA//²//x")
@example("MEDICATION////")
@example("//")
@example(",")
@example("x" * 10_000)
def test_any_code_has_a_rule(preset, code):
    """No text in a code stops the work; a code makes tokens, or says why not."""
    for maps in (MAPS, NO_MAPS):
        rule = presets.rules(tokenizer.options({"preset": preset}), maps)(code)
        assert all(token for path in rule.paths for token in path)
        assert rule.paths or rule.why_not or rule.scale
        assert not rule.paths or all(rule.paths)


def test_ancestors_come_nearest_first_and_circles_end():
    rules = presets.rules(tokenizer.options(), NO_MAPS)
    parents = {"A": ["B", "C"], "B": ["D"], "C": ["D", "A"], "D": ["B", "E", "PAD"], "E": [], "Z": ["Z"]}
    assert rules.ancestors("A", parents) == [(("B",),), (("C",),), (("D",),), (("E",),)]
    assert rules.ancestors("Z", parents) == rules.ancestors("E", parents) == []
    deep = {str(i): [str(i + 1)] for i in range(1000)}
    assert len(rules.ancestors("0", deep)) < 50
