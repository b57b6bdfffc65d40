"""MEDS-DEV around the model folder: its tasks and a data set's predicates, in our own words, where it has its own.

What the tasks say is what those that it ships say (July 2025): the same triggers, windows, counts and thresholds.
"""

import shutil
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "meds_dev" / "ehr_scaling"
# Task: what is measured, which side of what limit is abnormal, and the codes of it in MIMIC-IV
ABNORMAL = {
    "abnormal_lab/blood_chemistry/elevated_creatinine/first_24h": (
        ("creatinine", "value_min", 1.3),
        ("LAB//RESULT//50912//mg/dL", "LAB//RESULT//52546//mg/dL"),
    ),
    "abnormal_lab/blood_chemistry/hyponatremia/first_24h": (
        ("sodium", "value_max", 135),
        ("LAB//220645//mEq/L", "LAB//RESULT//50983//mEq/L", "LAB//RESULT//52623//mEq/L"),
    ),
    "abnormal_lab/blood_chemistry/metabolic_acidosis/first_24h": (
        ("bicarbonate", "value_max", 22),
        ("LAB//227443//mEq/L", "LAB//RESULT//50882//mEq/L"),
    ),
    "abnormal_lab/cbc/anemia/first_24h": (
        ("hemoglobin", "value_max", 13),
        ("LAB//220228//g/dl", "LAB//RESULT//50811//g/dL"),
    ),
    "abnormal_lab/cbc/leukocytosis/first_24h": (
        ("wbc", "value_min", 11),
        ("LAB//220546//K/uL", "LAB//RESULT//51300//K/uL"),
    ),
    "abnormal_lab/cbc/thrombocytopenia/first_24h": (
        ("platelets", "value_max", 150),
        ("LAB//227457//K/uL", "LAB//RESULT//51265//K/uL"),
    ),
    "abnormal_lab/vital/hypotension/first_24h": (
        ("map", "value_max", 65),
        ("LAB//220052//mmHg", "LAB//220181//mmHg", "LAB//225312//mmHg"),
    ),
}
MORTALITY, READMISSION = "mortality/in_icu/first_24h", "readmission/general_hospital/30d"
TASKS = (*ABNORMAL, MORTALITY, READMISSION)
NOTHING, SOME = "(None, 0)", "(1, None)"


def window(start, end, *, inclusive=False, **fields):
    return {"start": start, "end": end, "start_inclusive": inclusive, "end_inclusive": True, **fields}


def abnormal(what, side, limit):
    """A value beyond in the second day of a stay, of adults who are there for two days and had none before."""
    high = f"abnormal_{what}"
    return {
        "description": "A task of a test.",
        "predicates": {
            "hospital_admission": "???",
            "hospital_discharge": "???",
            "birth": {"code": {"regex": "MEDS_BIRTH.*"}},
            "death": {"code": {"regex": "MEDS_DEATH.*"}},
            "discharge_or_death": {"expr": "or(death, hospital_discharge)"},
            what: {"code": "???"},
            f"{high}_range": {"code": None, side: limit, f"{side}_inclusive": False},
            high: {"expr": f"and({what}, {high}_range)"},
        },
        "trigger": "hospital_admission",
        "windows": {
            "input": window(None, "trigger + 24h", inclusive=True, index_timestamp="end", has={high: NOTHING}),
            "no_discharge": window(
                "trigger", "start + 48h", has={"hospital_admission": NOTHING, "discharge_or_death": NOTHING}
            ),
            "no_children": window("end - 6570d", "trigger", inclusive=True, has={"birth": NOTHING}),
            "target": window("input.end", "start + 24h", has={what: SOME}, label=high),
        },
    }


def mortality():
    """Death in intensive care, of those whom two days there have not decided, asked after the first."""
    return {
        "metadata": {"description": "A task of a test."},
        "predicates": {
            "icu_admission": "???",
            "icu_discharge": "???",
            "death": {"code": {"regex": "MEDS_DEATH.*"}},
            "discharge_or_death": {"expr": "or(icu_discharge, death)"},
        },
        "trigger": "icu_admission",
        "windows": {
            "input": window(None, "trigger + 24h", inclusive=True, index_timestamp="end"),
            "gap": window("trigger", "start + 48h", has={"icu_admission": NOTHING, "discharge_or_death": NOTHING}),
            "target": window("gap.end", "start -> discharge_or_death", label="death"),
        },
    }


def readmission():
    """Another admission within 30 days of a discharge, of those whose record goes on for longer."""
    return {
        "predicates": {"hospital_admission": {"code": "???"}, "hospital_discharge": {"code": "???"}},
        "trigger": "hospital_discharge",
        "windows": {
            "input": window(None, "trigger", inclusive=True, index_timestamp="end"),
            "prior_hospitalization": window("end <- hospital_admission", "trigger", inclusive=True),
            "target": window("trigger", "start + 30d", label="hospital_admission"),
            "censoring_protection_window": window("target.end", None, has={"_ANY_EVENT": SOME}),
        },
    }


def task(name):
    return abnormal(*ABNORMAL[name][0]) if name in ABNORMAL else mortality() if name == MORTALITY else readmission()


def predicates(one_each=False):
    """Of MIMIC-IV. Args: one_each, a predicate for each code with its limits, and or() of them, as newer files have."""
    families = ("HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "ICU_ADMISSION", "ICU_DISCHARGE")
    found = {name.lower(): {"code": {"regex": f"^{name}//.*"}} for name in families}
    for (what, side, limit), codes in ABNORMAL.values():
        if not one_each:
            found[what] = {"code": {"any": list(codes)}}
            continue
        for k, code in enumerate(codes):
            found[f"{what}_{k}"] = {"code": code}
            found[f"abnormal_{what}_{k}"] = {"code": code, side: limit, f"{side}_inclusive": False}
        for name in (what, f"abnormal_{what}"):
            found[name] = {"expr": f"or({', '.join(f'{name}_{k}' for k in range(len(codes)))})"}
    return {"predicates": found}


def lay_out(root, **options):
    """The package MEDS_DEV in the folder `root`, with our model in it: the model's folder."""
    for name in TASKS:
        write(root / "tasks" / f"{name}.yaml", task(name))
    write(root / "datasets" / "MIMIC-IV" / "predicates.yaml", predicates(**options))
    write(root / "datasets" / "other" / "predicates.yaml", {"predicates": {}})
    return shutil.copytree(FOLDER, root / "models" / "ehr_scaling")


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path
