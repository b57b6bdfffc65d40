"""Drug names: golden pairs that are easy to confuse, and what holds for every name."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ehr_scaling.data.codes import drugs
from ehr_scaling.data.codes.drugs import ingredient, normalised

ENTRIES = sorted({"-".join(ingredients) for ingredients in drugs.lexicon().phrases.values()})
NAMES = sorted({" ".join(words) for words in drugs.lexicon().phrases})

GOLDEN = """
    Sodium Chloride 0.9%  Flush | SODIUM_CHLORIDE
    23.4% Sodium Chloride | SODIUM_CHLORIDE
    Isotonic Sodium Chloride | SODIUM_CHLORIDE
    Sodium Bicarbonate | SODIUM_BICARBONATE
    Sodium Phosphate | SODIUM_PHOSPHATE
    Potassium Phosphate | POTASSIUM_PHOSPHATE
    Potassium Chloride Replacement (Critical Care and Oncology) | POTASSIUM_CHLORIDE
    potassium chloride [Klor-Con M20] | POTASSIUM_CHLORIDE
    Neutra-Phos | POTASSIUM_PHOSPHATE-SODIUM_PHOSPHATE
    Sodium Glycerophosphate | SODIUM_GLYCEROPHOSPHATE
    Sodium Polystyrene Sulfonate | SODIUM_POLYSTYRENE_SULFONATE
    Sodium CITRATE 4% | SODIUM_CITRATE
    Citrate Dextrose 3% (ACD-A) CRRT | ANTICOAGULANT_CITRATE_DEXTROSE
    Calcium Carbonate | CALCIUM_CARBONATE
    Calcium Gluconate sliding scale (Critical Care-Ionized calcium) | CALCIUM_GLUCONATE
    Calcium Acetate | CALCIUM_ACETATE
    Calcium Chloride | CALCIUM_CHLORIDE
    Calcium Replacement (Oncology) | CALCIUM
    calcium carbonate-vitamin D3 [Calcium 600 + D(3)] | CALCIUM_CARBONATE-CHOLECALCIFEROL
    Magnesium Sulfate 2 g in Dextrose | MAGNESIUM_SULFATE
    Magnesium Oxide | MAGNESIUM_OXIDE
    Magnesium Citrate | MAGNESIUM_CITRATE
    Milk of Magnesia | MAGNESIUM_HYDROXIDE
    Zinc Sulfate | ZINC_SULFATE
    Ferrous Sulfate (Iron) | FERROUS_SULFATE
    Iron Sucrose | IRON_SUCROSE
    Ferric Gluconate | FERRIC_GLUCONATE
    Vitamin D | VITAMIN_D
    Vitamin D3 | CHOLECALCIFEROL
    Vitamin D-3 | CHOLECALCIFEROL
    cholecalciferol (vitamin D3) | CHOLECALCIFEROL
    ergocalciferol (vitamin D2) | ERGOCALCIFEROL
    Calcitriol | CALCITRIOL
    Vitamin B-12 | CYANOCOBALAMIN
    Vitamin B Complex w/C | VITAMIN_B_COMPLEX
    Vitamin K | PHYTONADIONE
    Vitamin A | VITAMIN_A
    A & D Ointment | PETROLATUM
    Multivitamins W/minerals | MULTIVITAMIN
    Dextrose 50% | DEXTROSE
    D5W | DEXTROSE
    5% Dextrose | DEXTROSE
    Glucose Gel | DEXTROSE
    NS | SODIUM_CHLORIDE
    D5 1/2NS | DEXTROSE-SODIUM_CHLORIDE
    Dextrose 5% in Lactated Ringers | DEXTROSE
    Potassium Chloride 20 mEq / 1000 mL D5 1/2 NS | DEXTROSE-POTASSIUM_CHLORIDE-SODIUM_CHLORIDE
    LR - 1000 mL Bag | LACTATED_RINGERS
    Lactated Ringer's | LACTATED_RINGERS
    Sterile Water | WATER
    Insulin | INSULIN
    Insulin Human Regular 100 unit/mL | INSULIN
    Insulin (Regular) for Hyperkalemia | INSULIN
    Insulin Glargine  (CVICU Protocol) | INSULIN
    insulin asp prt-insulin aspart [Novolog Mix 70-30FlexPen U-100] | INSULIN
    NPH insulin human recomb [Novolin N] | INSULIN
    HumaLOG | INSULIN
    Lantus Solostar | INSULIN
    Heparin | HEPARIN
    Heparin 25,000 units in D5W | HEPARIN
    Fer-In-Sol 50 mg in water | FERROUS_SULFATE
    Heparin Flush (10 units/ml) | HEPARIN
    Heparin Sodium in 0.9% Sodium Chloride | HEPARIN
    Enoxaparin Sodium | ENOXAPARIN
    NORepinephrine | NOREPINEPHRINE
    EPINEPHrine | EPINEPHRINE
    Epinephrine 1:1000 | EPINEPHRINE
    Racepinephrine | RACEPINEPHRINE
    noradrenaline | NOREPINEPHRINE
    PHENYLEPHrine | PHENYLEPHRINE
    ePHEDrine | EPHEDRINE
    HYDROmorphone (Dilaudid) | HYDROMORPHONE
    HYDROmorphone-HP | HYDROMORPHONE
    HYDROmorphone 20 mg / 100 mL 0.9% Sodium Chloride (*Standard*) - Pharmedium | HYDROMORPHONE
    Morphine Sulfate IR | MORPHINE
    Morphine SR (MS Contin) | MORPHINE
    OxyCODONE--Acetaminophen (5mg-325mg) | ACETAMINOPHEN-OXYCODONE
    Percocet | ACETAMINOPHEN-OXYCODONE
    OxycoDONE (Immediate Release)  | OXYCODONE
    HYDROcodone-Acetaminophen (5mg-325mg) | ACETAMINOPHEN-HYDROCODONE
    Acetaminophen w/Codeine | ACETAMINOPHEN-CODEINE
    Acetaminophen-Caff-Butalbital | ACETAMINOPHEN-BUTALBITAL-CAFFEINE
    Acetaminophen IV | ACETAMINOPHEN
    Tylenol | ACETAMINOPHEN
    paracetamol | ACETAMINOPHEN
    predniSONE | PREDNISONE
    prednisoLONE | PREDNISOLONE
    MethylPREDNISolone Sodium Succ | METHYLPREDNISOLONE
    Hydrocortisone Na Succ. | HYDROCORTISONE
    Dexamethasone Sod Phosphate | DEXAMETHASONE
    Dexamethasone Sodium Phosphate | DEXAMETHASONE
    hydrALAZINE | HYDRALAZINE
    hydrOXYzine | HYDROXYZINE
    HydrOXYUREA | HYDROXYUREA
    Hydroxychloroquine Sulfate | HYDROXYCHLOROQUINE
    Hydrochlorothiazide | HYDROCHLOROTHIAZIDE
    Chlorothiazide Sodium | CHLOROTHIAZIDE
    chlorproMAZINE | CHLORPROMAZINE
    chlorproPAMIDE | CHLORPROPAMIDE
    buPROPion XL (Once Daily) | BUPROPION
    busPIRone | BUSPIRONE
    cloNIDine Patch 0.2 mg/24 hr | CLONIDINE
    clonazePAM | CLONAZEPAM
    QUEtiapine Fumarate | QUETIAPINE
    quiniDINE Gluconate E.R. | QUINIDINE
    quiNINE | QUININE
    Levothyroxine Sodium | LEVOTHYROXINE
    Levofloxacin | LEVOFLOXACIN
    LevETIRAcetam | LEVETIRACETAM
    Metoprolol Tartrate | METOPROLOL
    Metoprolol Succinate XL | METOPROLOL
    MetFORMIN XR (Glucophage XR) | METFORMIN
    metroNIDAZOLE (FLagyl) | METRONIDAZOLE
    Losartan Potassium | LOSARTAN
    Losartan Potassium-Hydrochlorothiazide | HYDROCHLOROTHIAZIDE-LOSARTAN
    Potassium Penicillin G | PENICILLIN_G
    Penicillin V Potassium | PENICILLIN_V
    Piperacillin-Tazobactam | PIPERACILLIN-TAZOBACTAM
    Amoxicillin-Clavulanic Acid | AMOXICILLIN-CLAVULANATE
    amoxicillin-pot clavulanate | AMOXICILLIN-CLAVULANATE
    Sulfameth/Trimethoprim DS | SULFAMETHOXAZOLE-TRIMETHOPRIM
    co-trimoxazole | SULFAMETHOXAZOLE-TRIMETHOPRIM
    Trimethoprim | TRIMETHOPRIM
    SulfaSALAzine_ | SULFASALAZINE
    sulfADIAZINE | SULFADIAZINE
    Vancomyci 1000mg/200mL 200mL BAG | VANCOMYCIN
    vinCRIStine | VINCRISTINE
    vinBLAStine | VINBLASTINE
    CISplatin | CISPLATIN
    CARBOplatin | CARBOPLATIN
    DAUNOrubicin | DAUNORUBICIN
    DOXOrubicin | DOXORUBICIN
    Filgrastim-sndz | FILGRASTIM
    Epoetin alfa-epbx (Retacrit) | EPOETIN_ALFA
    *NF* Ertapenem Sodium | ERTAPENEM
    Ipratropium-Albuterol Neb | ALBUTEROL-IPRATROPIUM
    Albuterol-Ipratropium | ALBUTEROL-IPRATROPIUM
    Ipratropium Bromide MDI | IPRATROPIUM
    salbutamol | ALBUTEROL
    Fluticasone-Salmeterol Diskus (100/50) | FLUTICASONE-SALMETEROL
    Dorzolamide 2%/Timolol 0.5% Ophth. | DORZOLAMIDE-TIMOLOL
    Lidocaine 1% (For PICC/Midline Insertions) | LIDOCAINE
    Lidocaine (with epinephrine) | EPINEPHRINE-LIDOCAINE
    Fleet Enema | SODIUM_PHOSPHATE
    Fleet Enema (Mineral Oil) | MINERAL_OIL
    PHENObarbital Alcohol Withdrawal Dose Taper (Days 2-7) | PHENOBARBITAL
    PHENObarbital - ICU Alcohol Withdrawal (Initial Load / Rescue Dose) | PHENOBARBITAL
    Furosemide-Heart Failure | FUROSEMIDE
    Diazepam - CIWA protocol | DIAZEPAM
    Alteplase 1mg/2mL ( Clearance ie. PICC, tunneled access line ) | ALTEPLASE
    Ketamine (For Intubation) | KETAMINE
    Lenalidomide (Revlimide)15mg  | LENALIDOMIDE
    Divalproex Sod. Sprinkles | DIVALPROEX
    Sodium Valproate | VALPROIC_ACID
    Esomeprazole sodium | ESOMEPRAZOLE
    Omeprazole | OMEPRAZOLE
    Hepatitis B Vaccine | HEPATITIS_B_VACCINE
    Hepatitis B Immune Globulin | HEPATITIS_B_IMMUNE_GLOBULIN
    PNEUMOcoccal 23-valent polysaccharide vaccine | PNEUMOCOCCAL_VACCINE
    Influenza Virus Vaccine | INFLUENZA_VACCINE
    Tetanus-DiphTox-Acellular Pertuss (Adacel) | TETANUS_DIPHTHERIA_PERTUSSIS_VACCINE
    Tuberculin Protein | TUBERCULIN
    Stribild | COBICISTAT-ELVITEGRAVIR-EMTRICITABINE-TENOFOVIR
    Preservative-Free Morphine | MORPHINE
    Dextromethorphan-Guaifenesin (Sugar Free) | DEXTROMETHORPHAN-GUAIFENESIN
"""

UNKNOWN = [
    "",
    "   ",
    "((",
    "___",
    "Sodium",  # a salt of nothing
    "Bag",
    "Syringe",
    "Foobarine",
    "Foobarine-Acetaminophen",  # a part that is not known
    "Acetaminophen-Foobarine",
    "Foobarine Acetate",
    "Zinc Undecylenate",
    "Calcium Foobarate",
    "Vitamin D3 / Placebo",  # nobody knows what was given
    "Study Drug (heparin)",
    "Insulin Syringe-Needle U-100",
    "blood-glucose meter",
    "Aspirin-Free",
    "Alcohol swabs",
    "Adrenal",  # a word, not adrenaline cut off
    "Prednis",  # two drugs begin so
]


@pytest.mark.parametrize("line", [line.strip() for line in GOLDEN.strip().splitlines()])
def test_a_name_becomes_its_ingredient(line):
    name, _, expected = line.rpartition("|")
    assert ingredient(name.removesuffix(" ")) == expected.strip()


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_name_that_is_not_surely_known_stays_unknown(name):
    assert ingredient(name) is None


def test_the_lexicon_is_broad_and_every_part_of_a_combination_is_an_entry():
    single = {entry for entry in ENTRIES if "-" not in entry}
    assert len(single) > 1000
    assert {part for entry in ENTRIES for part in entry.split("-")} <= single
    assert all(
        re.fullmatch(r"[A-Z0-9_-]+", entry) and entry.split("-") == sorted(entry.split("-")) for entry in ENTRIES
    )


def test_every_name_of_the_lexicon_is_recognised_as_what_it_names():
    for words, ingredients in drugs.lexicon().phrases.items():
        assert ingredient(" ".join(words)) == "-".join(ingredients), words


def test_what_comes_out_goes_in_unchanged():
    for entry in ENTRIES:
        assert ingredient(entry) == entry


def test_neighbours_in_the_alphabet_are_not_confused():
    single = [entry for entry in ENTRIES if "-" not in entry]
    assert all(ingredient(one) != ingredient(other) for one, other in pairwise(single))


@given(st.sampled_from(ENTRIES), st.sampled_from(ENTRIES))
@example("CALCIUM", "VITAMIN_D")
@example("POTASSIUM", "SODIUM_PHOSPHATE")
def test_a_combination_of_entries_is_idempotent_and_blind_to_order(one, other):
    found = ingredient(f"{one}-{other}")
    assert found is not None
    assert ingredient(found) == found
    if not {one, other} & {"DEXTRAN", "PHOSPHATE"}:  # iron dextran and potassium phosphate are one drug each
        assert ingredient(f"{other}-{one}") == found


@given(
    st.sampled_from(NAMES),
    st.sampled_from(
        ["{}", "  {} ", "*NF* {}", "{} 50 mg", "{} 2.5 mg/5 mL", "{} 100 mg tab", "{} (Hospira)", "{} 0.5%"]
    ),
    st.sampled_from([str.upper, str.lower, str.title]),
)
def test_case_blanks_strength_and_maker_change_nothing(name, form, case):
    if name[-1].isdigit() and form[2:].strip()[:1].isdigit():
        return  # "D 5 50 mg" is no name
    assert ingredient(form.format(case(name))) == ingredient(name)


TEXT = st.one_of(
    st.text(max_size=60),
    st.text("AaBbDd-/+&()[]{}*_.,'%0123456789 \t", max_size=60),
    st.lists(
        st.sampled_from([*NAMES, "(", ")", "-", "/", "IN", "FREE", "W/", "5", "MG", "SODIUM", "XYZZY"]), max_size=6
    ).map(" ".join),
)


@given(TEXT)
def test_any_text_is_recognised_or_not_and_what_is_stays(text):
    found = ingredient(text)
    assert found is None or ingredient(found) == found
    cleaned = normalised(text)
    assert re.fullmatch(r"[A-Z0-9.%_]{1,80}", cleaned)
    assert normalised(cleaned) == cleaned


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_case_is_nothing_to_ascii(text):
    assert ingredient(text.upper()) == ingredient(text.lower())
    assert normalised(text.upper()) == normalised(text.lower())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Orthopedic Solution", "ORTHOPEDIC"),
        ("*NF* Foobarine Sodium 50 mg Tablet (Hospira)", "FOOBARINE_SODIUM"),
        ("foobarine/bazine 5mg-325mg", "FOOBARINE_BAZINE"),
        ("Tablet", "TABLET"),
        ("café ☕ crème", "CAFE_CREME"),
        ("☕", "UNK"),
        ("x" * 10_000, "X" * 80),
    ],
)
def test_an_unknown_name_is_made_comparable(name, expected):
    assert normalised(name) == expected
