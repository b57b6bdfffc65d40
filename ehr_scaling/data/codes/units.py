"""Which units are the same, so that a test has one scale of values a unit and not one a spelling.

Only what is certain is brought together: spellings of one unit, units that are one by arithmetic (µg/l = ng/ml), and
tests of which both units have the same numbers. All else keeps a scale of its own, and is counted by its source.
"""

import re

import numpy as np

# Canonical: MIMIC-IV's spelling, in upper case. Keys have no spaces, and U for µ.
_SAME = {
    **dict.fromkeys(
        "10^3/UL 10*3/UL X10^3/UL X10E3/UL 10E3/UL 10^9/L 10*9/L X10^9/L X10E9/L 10E9/L THOU/UL TH/UL "
        "THOUSAND/UL K/MCL K/MM3 10^3/MM3 GIGA/L".split(),
        "K/UL",
    ),
    **dict.fromkeys(
        "10^6/UL 10*6/UL X10^6/UL X10E6/UL 10E6/UL 10^12/L 10*12/L X10^12/L X10E12/L 10E12/L MIL/UL MILL/UL "
        "MILLION/UL M/MCL M/MM3 TERA/L".split(),
        "M/UL",
    ),
    **dict.fromkeys("UG/L MCG/L NG/ML".split(), "NG/ML"),
    **dict.fromkeys("NG/L PG/ML".split(), "PG/ML"),
    **dict.fromkeys("MCG/ML UG/ML".split(), "UG/ML"),
    **dict.fromkeys("MCG/DL UG/DL".split(), "UG/DL"),
    **dict.fromkeys("MIU/L UU/ML UIU/ML MCIU/ML".split(), "UIU/ML"),
    **dict.fromkeys("U/L IU/L UNITS/L".split(), "IU/L"),
    **dict.fromkeys("SECONDS SECS S SEC".split(), "SEC"),
    **dict.fromkeys("MMHG TORR".split(), "MM HG"),
    **dict.fromkeys("PERCENT PCT %".split(), "%"),
    **dict.fromkeys("LOG10COP/ML LOG10COPIES/ML".split(), "LOG10 COPIES/ML"),
    **dict.fromkeys("CELLS/UL /UL #/UL".split(), "#/UL"),
    **dict.fromkeys("DEGC CEL C CELSIUS °C".split(), "DEG C"),
    **dict.fromkeys("DEGF [DEGF] F FAHRENHEIT °F".split(), "DEG F"),
}
# Items of MIMIC-IV whose units have the same numbers: {item: {unit: the one it is called by}}.
_OF_ITEM = {
    "51249": {"%": "G/DL"},  # MCHC: g of haemoglobin in 100 ml of red cells, which some call per cent
    "51099": {"MG/MG": "RATIO"},  # protein to creatinine
    **dict.fromkeys(("51678", "50934", "50947"), {"U": "UNK"}),  # indices of lipaemia, haemolysis, icterus
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
