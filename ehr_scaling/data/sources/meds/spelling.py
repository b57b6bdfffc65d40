"""Codes as other hospitals spell them, so that a family can be found whatever its separator and case."""

import re

from ehr_scaling.data.presets import FAMILIES

# <family><separator><rest>: SNOMED/73211009, LOINC/718-7, ICD10CM/E11.9, RxNorm/860975, CPT4/99213, Visit/IP (OMOP,
# meds_etl, FEMR), HP:0001250, ICD10:E11.9 (CURIEs), ICD-10-CM|E11.9. A family has no blank, so that the names of
# measurements ("BMI (kg/m2)", "Mean pressure: left") stay whole.
_PREFIXED = re.compile(r"([A-Za-z][\w.\-]+)[/:|](?=\S)(.+)", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|urn:).+", re.DOTALL)  # FHIR: http://loinc.org|718-7, urn:oid:2.16.840.1|A1
_ALSO_CALLED = {"SEX": "GENDER", "HOSPITAL_DEATH": "MEDS_DEATH", "DEATH": "MEDS_DEATH", "BIRTH": "MEDS_BIRTH"}
# What is no event where it is told at the time of birth, as FEMR and meds_etl write it, but a fact without a time.
DEMOGRAPHIC = ("GENDER", "RACE", "ETHNICITY", "MARITAL_STATUS", "MARITAL", "LANGUAGE", "RELIGION")


def join(family: str, *parts: str) -> str:
    """A code of parts, of which those that are empty are UNK, and in which "//" only separates."""
    return "//".join((family, *(re.sub("/{2,}", "/", part.strip()) or "UNK" for part in parts)))


def prefixed(code: str) -> str:
    """FAMILY//rest, so that a rare code can fall back to its family. A code with `//` is kept as it is.

    The first "/", ":" or "|" after a word separates; of an address (FHIR), the last "|", else the last "/" or ":".
    """
    if _ADDRESS.fullmatch(code):
        system, separator, rest = code.rpartition("|")
        if not separator:
            system, _, rest = code.rpartition("/" if code.startswith("http") else ":")
        return f"{system.replace('//', '/')}//{rest}" if rest.strip() else code.replace("//", "/")
    if "//" in code or not (found := _PREFIXED.fullmatch(code)):
        return code
    return f"{found[1]}//{found[2]}"


def own_family(code: str) -> str:
    """The code with its family as this program spells it, where it knows it in another case: Gender//F → GENDER//F."""
    family, separator, rest = code.partition("//")
    name = re.sub(r"[\s\-]+", "_", family.strip()).upper()
    name = _ALSO_CALLED.get(name, name)
    if name not in FAMILIES and name not in DEMOGRAPHIC:
        return code
    return f"{name}{separator}{rest}"
