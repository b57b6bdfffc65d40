"""Which units are the same, so that a test has one scale of values a unit and not one a spelling.

Only what is certain is brought together: spellings of one unit, units that are one by arithmetic (µg/l = ng/ml), and
tests of which both units have the same numbers. All else keeps a scale of its own, and is counted by its source.
"""

import re

import numpy as np

# The name (MIMIC-IV's, in upper case), then what else it is called; no spaces, and U for µ.
_SPELLINGS = """
K/UL = 10^3/UL 10*3/UL X10^3/UL X10E3/UL 10E3/UL 10^9/L 10*9/L X10^9/L X10E9/L 10E9/L THOU/UL THOUSAND/UL K/MCL K/MM3
M/UL = 10^6/UL 10*6/UL X10^6/UL X10E6/UL 10E6/UL 10^12/L 10*12/L X10^12/L X10E12/L 10E12/L MIL/UL MILLION/UL M/MCL M/MM3
NG/ML = UG/L MCG/L
PG/ML = NG/L
UG/ML = MCG/ML
UG/DL = MCG/DL
UIU/ML = MIU/L UU/ML MCIU/ML
IU/L = U/L UNITS/L
SEC = SECONDS SECS S
MM HG = MMHG TORR
% = PERCENT PCT
LOG10 COPIES/ML = LOG10COPIES/ML LOG10COP/ML
#/UL = CELLS/UL /UL
DEG C = DEGC CEL C CELSIUS °C
DEG F = DEGF [DEGF] F FAHRENHEIT °F
"""
_SAME = {
    spelling: name
    for name, _, others in (line.partition(" = ") for line in _SPELLINGS.strip().splitlines())
    for spelling in (name.replace(" ", ""), *others.split())
}
# Items of MIMIC-IV whose units have the same numbers: {item: {unit: the one it is called by}}.
_OF_ITEM = {
    "51249": {"%": "G/DL"},  # MCHC: g of haemoglobin in 100 ml of red cells, which some call per cent
    "51099": {"MG/MG": "RATIO"},  # protein to creatinine
    **{index: {"U": "UNK"} for index in ("51678", "50934", "50947")},  # of lipaemia, haemolysis, icterus
}
_CELSIUS = (25.0, 45.0)  # of a body; the same numbers in °F would be a block of ice's


def canonical(unit: str, item: str = "") -> str:
    """The name of a unit: upper case, one spelling for all that mean the same; an unknown one as it is.

    Args: item, MIMIC-IV's id of a test, for those whose units have the same numbers.
    """
    plain = unit.strip().upper().replace("µ", "U").replace("μ", "U").replace("Μ", "U")
    name = _SAME.get(re.sub(r"\s+", "", plain), plain)
    return _OF_ITEM.get(item, {}).get(name, name)


def fahrenheit(temperature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Body temperatures of a column in which some are in °C and the others in °F: all in °F, and bool: which were not.

    Args: temperature, float (n,), NaN for none. A number from 25 to 45 is taken for °C: no living body has so few °F.
    """
    celsius = (temperature >= _CELSIUS[0]) & (temperature <= _CELSIUS[1])
    return np.where(celsius, temperature * 1.8 + 32, temperature), celsius
