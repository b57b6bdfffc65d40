"""Codes as other hospitals spell them, so that a family can be found whatever its separator and case."""

import re

from ehr_scaling.data.presets import FAMILIES

# <family><separator><rest>: SNOMED/73211009, LOINC/718-7, ICD10CM/E11.9, RxNorm/860975, CPT4/99213, Visit/IP (OMOP,
# meds_etl, FEMR), HP:0001250, ICD10:E11.9 (CURIEs), ICD-10-CM|E11.9. A family has no blank, so that the names of
# measurements ("BMI (kg/m2)", "Mean pressure: left") stay whole.
_PREFIXED = re.compile(r"([A-Za-z][\w.\-]+)[/:|](?=\S)(.+)", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|urn:).+", re.DOTALL)  # FHIR: http://loinc.org|718-7, urn:oid:2.16.840.1|A1
_ALSO_CALLED = {"SEX": "GENDER", "HOSPITAL_DEATH": "MEDS_DEATH", "DEATH": "MEDS_DEATH", "BIRTH": "MEDS_BIRTH"}
# Names of the classifications, without case and what is no letter or digit: (family, version)
_ICD = {
    **dict.fromkeys(("ICD10", "ICD10CM", "ICD10DX", "ICD10GM", "ICD10WHO"), ("DIAGNOSIS", "10")),
    **dict.fromkeys(("ICD9", "ICD9CM", "ICD9DX"), ("DIAGNOSIS", "9")),
    "ICD10PCS": ("PROCEDURE", "10"),
    **dict.fromkeys(("ICD9PROC", "ICD9PCS", "ICD9CMPROC", "ICD9CMVOL3", "ICD9SG"), ("PROCEDURE", "9")),
}
_SHAPE = {
    ("DIAGNOSIS", "10"): re.compile(r"[A-Z]\d[\dA-Z](\.?[\dA-Z]{1,4})?"),
    ("DIAGNOSIS", "9"): re.compile(r"(\d{3}|V\d{2}|E\d{3})(\.?\d{1,2})?"),
    ("PROCEDURE", "10"): re.compile(r"[\dA-HJ-NP-Z]{7}"),
    ("PROCEDURE", "9"): re.compile(r"\d{2}(\.?\d{1,2})?"),
}
# Of no named classification only what has a dot and cannot be of the other one: E and V begin codes of both.
_SURE = ((re.compile(r"[A-UW-Z]\d[\dA-Z]\.[\dA-Z]{1,4}"), "10"), (re.compile(r"(\d{3}|E\d{3})\.\d{1,2}"), "9"))
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
    if "//" in code or not (match := _PREFIXED.fullmatch(code)):
        return code
    return f"{match[1]}//{match[2]}"


def own_spelling(code: str) -> str:
    """The code as this program spells it, as far as it knows what it says: its family and, of ICD, all of it.

    Gender//F → GENDER//F; ICD10CM//E11.9, DIAGNOSIS//ICD10//E11.9, DIAGNOSIS//E11.9 → DIAGNOSIS//ICD//10//E119. A code
    that does not look like one of its classification (a range, a name) stays as it is.
    Args: code, with its separators as `prefixed` leaves them.
    """
    code = _own_family(code)
    *above, last = code.split("//")
    if not above or len(above) > 3 or above[:2] in (["DIAGNOSIS", "ICD"], ["PROCEDURE", "ICD"]):
        return code
    plain = last.strip().upper()
    name = re.sub(r"[^A-Z0-9]", "", above[-1].rpartition("/")[2].upper())
    system = _ICD.get(name)
    if system is None and above == ["DIAGNOSIS"]:
        version = next((version for shape, version in _SURE if shape.fullmatch(plain)), "")
        system = ("DIAGNOSIS", version) if version else None
    if system and above[0] == "PROCEDURE":
        system = ("PROCEDURE", system[1])
    if system is None or not _SHAPE[system].fullmatch(plain):
        return code
    return "//".join((system[0], "ICD", system[1], plain.replace(".", "")))


def _own_family(code: str) -> str:
    """The code with its family as this program spells it, where it knows it in another case."""
    family, separator, rest = code.partition("//")
    name = re.sub(r"[\s\-]+", "_", family.strip()).upper()
    name = _ALSO_CALLED.get(name, name)
    if name not in FAMILIES and name not in DEMOGRAPHIC:
        return code
    return f"{name}{separator}{rest}"
