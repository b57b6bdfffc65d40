"""The made-up hospital of `synthetic`: its codes, its diseases, its habits. The same for every seed.

What a clinician would recognise (which organ a disease hits, which way illness moves a laboratory value, typical
units and ranges) is written down below. What differs between real hospitals and is arbitrary (the order of drugs in
a protocol, the finer signature of a disease) is drawn once from HOSPITAL_SEED: those are the facts that a model can
only learn from data, thousands of them, with Zipf frequencies.
"""

import numpy as np

HOSPITAL_SEED = 2012
ADMISSION_TYPES = ("EMERGENCY", "SCHEDULED", "OBSERVATION")
ED = "EMERGENCY_DEPARTMENT"


def _rows(text: str) -> list[tuple[str, ...]]:
    """The rows of a table written with one or more rows a line, `;` between them."""
    return [tuple(row.split()) for row in text.replace("\n", ";").split(";") if row.strip()]


# system: ward, ICU, P(admission type), signature (mean shift in standard deviations) of labs and vitals
SYSTEMS = {
    "CARDIAC": (
        "CARDIOLOGY",
        "CCU",
        (0.6, 0.2, 0.2),
        "51003 1.5 50911 1.2 50963 1.6 SYSTOLIC_BP -.4 HEART_RATE .4",
    ),
    "VESSEL": ("VASCULAR", "CVICU", (0.35, 0.55, 0.1), "SYSTOLIC_BP 1 DIASTOLIC_BP .8 51275 .6 50911 .3"),
    "LUNG": (
        "MEDICINE",
        "MICU",
        (0.8, 0.05, 0.15),
        "50818 1 50821 -1 RESPIRATORY_RATE 1 OXYGEN_SATURATION -1.2 50882 .7",
    ),
    "INFECTION": (
        "MEDICINE",
        "MICU",
        (0.85, 0.05, 0.1),
        "51301 1.4 51256 1 50889 1.5 TEMPERATURE 1.4 HEART_RATE .6 51244 -1",
    ),
    "RENAL": (
        "TRANSPLANT",
        "MICU",
        (0.6, 0.25, 0.15),
        "50912 1.8 51006 1.6 50971 .9 50970 .9 50882 -.7 50868 .6 51222 -.6",
    ),
    "LIVER": (
        "TRANSPLANT",
        "MICU",
        (0.7, 0.15, 0.15),
        "50885 1.8 50861 1.2 50878 1.3 51237 1.1 51274 1.1 50862 -1.2 51265 -1",
    ),
    "METABOLIC": ("MEDICINE", "MICU", (0.6, 0.1, 0.3), "50931 1.8 50983 -.5 50868 .7 50893 -.4 50960 -.4"),
    "NEURO": (
        "NEUROLOGY",
        "NEURO_ICU",
        (0.75, 0.1, 0.15),
        "SYSTOLIC_BP .8 50983 -.3 TEMPERATURE .2 HEART_RATE -.4",
    ),
    "BLOOD": (
        "HEMATOLOGY_ONCOLOGY",
        "MICU",
        (0.45, 0.45, 0.1),
        "51222 -1.3 51221 -1.3 51265 -1.2 51277 1.2 50954 1.3 51250 .5",
    ),
    "BOWEL": ("MED_SURG", "SICU", (0.6, 0.3, 0.1), "51301 .6 50889 .7 50862 -.5 50971 -.5 50960 -.5"),
    "INJURY": ("TRAUMA", "TSICU", (0.6, 0.35, 0.05), "51222 -.8 51221 -.8 50911 .6 HEART_RATE .4 50813 .3"),
    "MIND": ("MEDICINE", "MICU", (0.5, 0.1, 0.4), "HEART_RATE .4 51250 .5 50861 .2 50893 .1"),
}
WARDS = tuple(dict.fromkeys(s[0] for s in SYSTEMS.values()))
ICUS = tuple(dict.fromkeys(s[1] for s in SYSTEMS.values()))

# ICD-10-CM code, system, chronic or acute, change of log-odds per 18 years of age, severity it brings; by frequency
DISEASES = _rows("""
I10 VESSEL c .6 -.4;     E785 METABOLIC c .6 -.5;  I2510 CARDIAC c .8 0;     E119 METABOLIC c .4 -.2
J189 LUNG a .3 .4;       N179 RENAL a .4 .5;       I5032 CARDIAC c .8 .3;    A419 INFECTION a .3 1.0
I4891 CARDIAC c .9 .1;   J449 LUNG c .5 .2;        F329 MIND c -.1 -.6;      K219 BOWEL c .1 -.6
E039 METABOLIC c .4 -.4; N390 INFECTION a .5 0;    I214 CARDIAC a .5 .5;     N183 RENAL c .7 .1
I639 NEURO a .7 .4;      D649 BLOOD c .3 0;        K7030 LIVER c -.1 .5;     F419 MIND c -.3 -.7
G4733 LUNG c .1 -.3;     E1122 RENAL c .4 .2;      I110 CARDIAC c .6 .2;     S72001A INJURY a .9 .1
C3490 BLOOD c .4 .6;     F1020 MIND c -.3 -.1;     I5023 CARDIAC a .6 .6;    J9601 LUNG a .3 1.1
K5730 BOWEL a .4 -.3;    M109 RENAL c .4 -.3;      N186 RENAL c .1 .5;       I480 CARDIAC a .6 -.1
D696 BLOOD a .1 .4;      K922 BOWEL a .5 .4;       E1165 METABOLIC a .1 .1;  L03115 INFECTION a .1 -.2
J690 LUNG a .6 .8;       I6529 VESSEL c .7 .1;     G40909 NEURO c -.2 .1;    K8000 BOWEL a .1 -.3
R6521 INFECTION a .3 1.6; I739 VESSEL c .6 .2;     C189 BOWEL c .4 .3;       J45909 LUNG c -.4 -.5
E871 METABOLIC a .3 .2;  I611 NEURO a .5 1.2;      K767 LIVER a 0 1.2;       C9000 BLOOD c .5 .4
I7102 VESSEL a .4 .8;    E1010 METABOLIC a -.7 .4; B182 LIVER c -.1 0;       S065X9A INJURY a .3 .7
I350 CARDIAC c 1.0 .2;   K5660 BOWEL a .3 .1;      C9200 BLOOD c .1 1.0;     G20 NEURO c .9 -.1
K8590 BOWEL a 0 .4;      I2699 LUNG a .3 .5;       F200 MIND c -.4 -.5;      T8119XA INJURY a 0 .6
K703 LIVER a -.2 .4;     S2249XA INJURY a .1 -.1;    G35 NEURO c -.4 -.3;      Z9484 BLOOD c -.2 .3
""")
# Added to the discharge diagnoses by the course of a stay; acidosis to palliative care
COMPLICATIONS = ("E872", "J9600", "D62", "E875", "E43", "Z66", "Z515")

# code, scale (n: median + sd z; l: median exp(sd z)), median, sd, decimals, panel, effect of severity, factor
MEASUREMENTS = _rows("""
VITAL//HEART_RATE n 84 15 0 V .5 SHOCK;                 VITAL//RESPIRATORY_RATE n 18 3.5 0 V .5 SHOCK
VITAL//TEMPERATURE n 36.9 .55 1 V .2 SHOCK;             VITAL//SYSTOLIC_BP n 124 19 0 V -.5 SHOCK
VITAL//DIASTOLIC_BP n 70 12 0 V -.3 SHOCK;              VITAL//OXYGEN_SATURATION n 96 2.2 0 V -.4 SHOCK
LAB//50983//MEQ/L n 138 4 0 BMP -.1 RENAL;              LAB//50902//MEQ/L n 102 5 0 BMP -.1 RENAL
LAB//50882//MEQ/L n 25 3.8 0 BMP -.5 RENAL;             LAB//50868//MEQ/L n 14 3 0 BMP .5 RENAL
LAB//51006//MG/DL l 19 .6 0 BMP .5 RENAL;               LAB//50912//MG/DL l 1.0 .5 1 BMP .4 RENAL
LAB//50971//MEQ/L n 4.1 .5 1 BMP .2 RENAL;              LAB//50931//MG/DL l 121 .33 0 BMP .1 RENAL
LAB//51221//% n 32 6 1 CBC -.3 MARROW;                  LAB//51222//G/DL n 10.4 2.1 1 CBC -.3 MARROW
LAB//51265//K/UL l 195 .5 0 CBC -.3 MARROW;             LAB//51277//% l 15 .14 1 CBC .2 MARROW
LAB//51250//FL n 91 6.5 0 CBC .1 MARROW;                LAB//51301//K/UL l 9.2 .5 1 CBC .3 MARROW
LAB//50893//MG/DL n 8.6 .7 1 MIN -.3 RENAL;             LAB//50960//MG/DL n 2.0 .27 1 MIN .1 RENAL
LAB//50970//MG/DL l 3.5 .32 1 MIN .3 RENAL;             LAB//51237//UNK l 1.3 .33 1 COAG .3 LIVER
LAB//51274//SEC l 14 .28 1 COAG .3 LIVER;               LAB//51275//SEC l 34 .35 1 COAG .2 LIVER
LAB//50861//IU/L l 28 .9 0 LFT .2 LIVER;                LAB//50878//IU/L l 37 .9 0 LFT .3 LIVER
LAB//50863//IU/L l 91 .5 0 LFT .1 LIVER;                LAB//50885//MG/DL l .6 .8 1 LFT .3 LIVER
LAB//50862//G/DL n 3.5 .6 1 LFT -.5 LIVER;              LAB//50820//UNITS n 7.38 .07 2 GAS -.5 SHOCK
LAB//50821//MM_HG l 98 .5 0 GAS -.3 SHOCK;              LAB//50802//MEQ/L n -1 4.5 0 GAS -.5 SHOCK
LAB//50818//MM_HG n 41 9 0 GAS .1 SHOCK-;               LAB//50813//MMOL/L l 1.8 .55 1 GAS .8 SHOCK
LAB//51003//NG/ML l .06 1.2 2 HEART .3 SHOCK;           LAB//50911//NG/ML l 4 .8 0 HEART .2 SHOCK
LAB//50963//PG/ML l 1900 1.2 0 HEART .4 SHOCK;          LAB//51244//% l 18 .6 1 DIFF -.3 INFLAMED-
LAB//51256//% n 68 14 1 DIFF .3 INFLAMED;               LAB//50889//MG/L l 40 1.1 1 MARK .3 INFLAMED
LAB//50954//IU/L l 280 .5 0 MARK .4 INFLAMED
""")
# The first moves every value and changes slowly: one latent level that any recent value tells something about
FACTORS = ("TONE", "SHOCK", "RENAL", "MARROW", "LIVER", "INFLAMED")
memory = np.array([20.0] + 5 * [4.0])  # days in which a factor forgets itself
PANELS = tuple(dict.fromkeys(m[5] for m in MEASUREMENTS))

# Drugs by frequency within the systems that use them; ANY fits all, ICU only the gravest tier
DRUGS = {
    "ANY": "ACETAMINOPHEN HEPARIN DOCUSATE_SODIUM PANTOPRAZOLE SENNA ONDANSETRON POLYETHYLENE_GLYCOL OXYCODONE",
    "CARDIAC": "METOPROLOL_TARTRATE ASPIRIN ATORVASTATIN FUROSEMIDE CLOPIDOGREL AMIODARONE DIGOXIN SPIRONOLACTONE",
    "VESSEL": "AMLODIPINE LISINOPRIL LOSARTAN HYDRALAZINE ATORVASTATIN ASPIRIN",
    "LUNG": "IPRATROPIUM_ALBUTEROL PREDNISONE AZITHROMYCIN TIOTROPIUM ENOXAPARIN",
    "INFECTION": "VANCOMYCIN CEFTRIAXONE PIPERACILLIN_TAZOBACTAM CEFEPIME METRONIDAZOLE LEVOFLOXACIN",
    "RENAL": "SEVELAMER CALCIUM_CARBONATE SODIUM_BICARBONATE ALLOPURINOL FUROSEMIDE",
    "LIVER": "LACTULOSE RIFAXIMIN SPIRONOLACTONE THIAMINE NADOLOL",
    "METABOLIC": "INSULIN METFORMIN LEVOTHYROXINE ATORVASTATIN",
    "NEURO": "LEVETIRACETAM GABAPENTIN ASPIRIN CARBIDOPA_LEVODOPA LABETALOL",
    "BLOOD": "ALLOPURINOL ACYCLOVIR DEXAMETHASONE FILGRASTIM FOLIC_ACID",
    "BOWEL": "METRONIDAZOLE OCTREOTIDE MORPHINE PANTOPRAZOLE",
    "INJURY": "HYDROMORPHONE ENOXAPARIN OXYCODONE CEFAZOLIN",
    "MIND": "SERTRALINE LORAZEPAM QUETIAPINE THIAMINE TRAZODONE",
    "ICU": "NOREPINEPHRINE PROPOFOL FENTANYL MIDAZOLAM VASOPRESSIN CHLORHEXIDINE",
}
# What a value beyond the threshold (in standard deviations) is answered with, and how far that moves the next value
ANSWERS = [
    ("LAB//50971//MEQ/L", -0.9, "POTASSIUM_CHLORIDE", 0.7),
    ("LAB//50931//MG/DL", 0.9, "INSULIN", -0.7),
    ("LAB//50960//MG/DL", -0.9, "MAGNESIUM_SULFATE", 0.7),
    ("LAB//50893//MG/DL", -1.1, "CALCIUM_GLUCONATE", 0.5),
    ("LAB//50813//MMOL/L", 1.2, "NOREPINEPHRINE", -0.2),
    ("LAB//51237//UNK", 1.3, "PHYTONADIONE", -0.4),
    ("VITAL//SYSTOLIC_BP", 1.0, "HYDRALAZINE", -0.5),
    ("VITAL//TEMPERATURE", 0.9, "ACETAMINOPHEN", -0.4),
    ("VITAL//HEART_RATE", 1.2, "METOPROLOL_TARTRATE", -0.5),
]
STATIC = {  # at null time; MARITAL and INSURANCE shift with age
    "GENDER": ("M", "F"),
    "RACE": ("WHITE", "BLACK", "HISPANIC", "ASIAN", "OTHER", "UNKNOWN"),
    "INSURANCE": ("MEDICARE", "MEDICAID", "OTHER"),
    "MARITAL": ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED"),
}
ARRIVALS = {
    "EMERGENCY": ("EMERGENCY_ROOM", "TRANSFER_FROM_HOSPITAL", "WALK-IN/SELF_REFERRAL"),
    "SCHEDULED": ("PHYSICIAN_REFERRAL", "CLINIC_REFERRAL", "TRANSFER_FROM_HOSPITAL"),
    "OBSERVATION": ("EMERGENCY_ROOM", "PROCEDURE_SITE", "PHYSICIAN_REFERRAL"),
}
DISCHARGES = ("HOME", "HOME_HEALTH_CARE", "SKILLED_NURSING_FACILITY", "REHAB", "HOSPICE", "DIED")

MEDS = tuple(dict.fromkeys(name for names in DRUGS.values() for name in names.split())) + tuple(
    dict.fromkeys(a[2] for a in ANSWERS if not any(a[2] in names.split() for names in DRUGS.values()))
)
D, J, F = len(DISEASES), len(MEASUREMENTS), len(FACTORS)
TIERS, PROTOCOL, ARCHETYPES = 3, 6, 8

_rng = np.random.default_rng(HOSPITAL_SEED)
chronic = np.array([d[2] == "c" for d in DISEASES])  # (D,)
age_slope = np.array([float(d[3]) for d in DISEASES])
gravity = np.array([float(d[4]) for d in DISEASES])
system = np.array([list(SYSTEMS).index(d[1]) for d in DISEASES])
zipf = (1.0 / np.arange(1, D + 1)) ** 0.9
ward = np.array([WARDS.index(SYSTEMS[d[1]][0]) for d in DISEASES])
icu = np.array([ICUS.index(SYSTEMS[d[1]][1]) for d in DISEASES])
admission_type = np.array([SYSTEMS[d[1]][2] for d in DISEASES])  # (D, 3) probabilities
affinity = _rng.normal(0, 0.9, (ARCHETYPES, D))  # log-odds by kind of patient: who has one has certain others

panel = np.array([PANELS.index(m[5]) for m in MEASUREMENTS])  # (J,)
log = np.array([m[1] == "l" for m in MEASUREMENTS])
median, sd = (np.array([float(m[k]) for m in MEASUREMENTS]) for k in (2, 3))
rounding = 10.0 ** np.array([int(m[4]) for m in MEASUREMENTS])
low = np.array([-np.inf if "//50802//" in m[0] else 0.0 for m in MEASUREMENTS])  # only a base excess is below 0
high = np.array([100.0 if m[0].endswith("SATURATION") else np.inf for m in MEASUREMENTS])
# How often a disease calls for a panel: as its system does, or not
panel_rate = _rng.beta(0.35, 0.9, (len(SYSTEMS), len(PANELS)))[system]
panel_rate = np.where(_rng.random((D, len(PANELS))) < 0.7, panel_rate, _rng.beta(0.35, 0.9, (D, len(PANELS))))
panel_rate = np.clip(panel_rate, 0.02, 0.97)
panel_rate[:, PANELS.index("V")] = 1.0
panel_rate[:, PANELS.index("BMP")] = np.clip(_rng.normal(0.75, 0.15, D), 0.3, 0.97)
panel_rate[:, PANELS.index("CBC")] = np.clip(_rng.normal(0.65, 0.2, D), 0.2, 0.97)
# Most diseases keep to the hospital's habit, so that much is learnt early and the exceptions are learnt late
item_rate = np.where(_rng.random((D, J)) < 0.7, _rng.beta(0.3, 0.2, J), _rng.beta(0.3, 0.3, (D, J)))
item_rate = np.clip(item_rate, 0.03, 0.98)  # and for an item of a drawn panel
load = np.zeros((1 + F, J), np.float32)  # of severity and of the latent factors on each value
for _j, _m in enumerate(MEASUREMENTS):
    _sign = -1.0 if _m[7].endswith("-") else 1.0  # whether its factor lowers or raises it
    load[0, _j] = 1.2 * float(_m[6])
    load[1, _j] = _sign * 1.1
    load[1 + FACTORS.index(_m[7].rstrip("-")), _j] = _sign * 0.5
signature = _rng.normal(0, 0.3, (D, J))  # what a disease does to a value beyond its organ's pattern
_item = {m[0].split("//")[1]: j for j, m in enumerate(MEASUREMENTS)}
for _d, _row in enumerate(DISEASES):
    _words = SYSTEMS[_row[1]][3].split()
    for _name, _shift in zip(_words[::2], _words[1::2], strict=True):
        signature[_d, _item[_name]] += 0.5 * float(_shift)
signature = signature.astype(np.float32)
twice = _rng.random(len(MEDS)) < 0.25  # drugs given in the evening as well
# Each ward has its own order of panels; within a panel all keep to one
_turn = np.argsort(np.argsort(np.arange(len(PANELS)) + _rng.normal(0, 0.8, (len(WARDS), len(PANELS)))))
_turn[:, PANELS.index("V")] = -1
habit = np.argsort(np.argsort(_turn[:, panel] * J + np.arange(J)))  # (wards, J): place in the order


def _protocols() -> tuple[np.ndarray, np.ndarray]:
    """Drugs of each disease and tier in the order they are given, (D, TIERS, PROTOCOL), and their rates.

    Each organ system has one protocol; a disease departs from its system's, and a tier from its disease's.
    """
    weight = np.full((len(SYSTEMS), len(MEDS)), 0.04)
    for i, name in enumerate(SYSTEMS):
        for pool, factor in (("ANY", 0.7), (name, 2.0)):
            for rank, drug in enumerate(DRUGS[pool].split()):
                weight[i, MEDS.index(drug)] += factor / (1 + rank)
    grave = [MEDS.index(drug) for drug in DRUGS["ICU"].split()]

    def draw(w: np.ndarray) -> np.ndarray:
        return _rng.choice(len(MEDS), PROTOCOL, replace=False, p=w / w.sum())

    of_system = [draw(w) for w in weight]
    rate_of_system = _rng.beta(1.2, 0.2, (len(SYSTEMS), PROTOCOL))
    drugs, rates = np.zeros((D, TIERS, PROTOCOL), int), np.zeros((D, TIERS, PROTOCOL), np.float32)
    for d in range(D):
        chosen, rate = of_system[system[d]].copy(), rate_of_system[system[d]].copy()
        for tier in range(TIERS):
            change = _rng.random(PROTOCOL) < (0.35, 0.2, 0.2)[tier]
            left = weight[system[d]].copy()
            left[chosen] = 0  # no drug twice
            chosen[change] = draw(left)[change]
            rate[change] = _rng.beta(1.2, 0.2, PROTOCOL)[change]
            drugs[d, tier], rates[d, tier] = chosen, rate
        drugs[d, 2, :3] = _rng.choice(grave, 3, replace=False)
    return drugs, rates


protocol, protocol_rate = _protocols()

# One list of codes; `code_of[family]` is where a family begins in it
CODES: list[str] = []
code_of: dict[str, int] = {}


def _family(name: str, codes: list[str]) -> None:
    code_of[name] = len(CODES)
    CODES.extend(codes)


for _name, _values in STATIC.items():
    _family(_name, [f"{_name}//{value}" for value in _values])
_family("birth", ["MEDS_BIRTH"])
_family("death", ["MEDS_DEATH"])
_family("admission", [f"HOSPITAL_ADMISSION//{t}//{a}" for t in ADMISSION_TYPES for a in ARRIVALS[t]])
_family("discharge", [f"HOSPITAL_DISCHARGE//{place}" for place in DISCHARGES])
_family("admit", [f"TRANSFER_TO//ADMIT//{unit}" for unit in (*WARDS, ED)])
_family("transfer", [f"TRANSFER_TO//TRANSFER//{unit}" for unit in (*WARDS, *ICUS)])
_family("icu_in", [f"ICU_ADMISSION//{unit}" for unit in ICUS])
_family("icu_out", [f"ICU_DISCHARGE//{unit}" for unit in ICUS])
_family("diagnosis", [f"DIAGNOSIS//ICD//10//{code}" for code in (*(d[0] for d in DISEASES), *COMPLICATIONS)])
_family("drug", [f"MEDICATION//{name}//ADMINISTERED" for name in MEDS])
_family("measurement", [m[0] for m in MEASUREMENTS])
