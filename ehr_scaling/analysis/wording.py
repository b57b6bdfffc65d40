"""How numbers and verdicts read, in the report and on the terminal."""

from collections.abc import Sequence

import numpy as np

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS = "−"
SPACE = "\N{NO-BREAK SPACE}"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
DASH = "–"


def known(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def count(value: float | None, digits: int = 3) -> str:
    """6700 -> '6.7 k', 25e6 -> '25 M'; below a thousand as it is."""
    if value is None or not np.isfinite(value):
        return DASH
    for size, unit in UNITS:
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return significant(value / size, digits) + SPACE + unit
    return significant(value, digits)


def significant(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits without an exponent or trailing zeros; one with outside 1e-4 to 1e6."""
    if value is None or not np.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return power(value, digits)
    places = max(digits - 1 - int(np.floor(np.log10(abs(value)))), 0)
    text = f"{value:.{places}f}".replace("-", MINUS)
    return text.rstrip("0").rstrip(".") if "." in text else text


def power(value: float | None, digits: int = 3) -> str:
    """1.23e11 -> '1.23 × 10¹¹', 1e11 -> '10¹¹'."""
    if value is None or not np.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    tens = "10" + str(int(exponent)).translate(SUPERSCRIPT)
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return tens if mantissa == "1" else f"{mantissa}{SPACE}×{SPACE}{tens}"


def decimal(value: float | None, places: int = 3) -> str:
    return f"{value:.{places}f}".replace("-", MINUS) if value is not None and np.isfinite(value) else DASH


def signed(value: float, places: int = 1) -> str:
    return f"{value:+.{places}f}".replace("-", MINUS)


def percent(value: float | None, places: int = 0) -> str:
    return f"{100 * value:.{places}f}{SPACE}%" if value is not None and np.isfinite(value) else DASH


def span(bounds: Sequence[float | None], text=decimal) -> str:
    """'0.48 to 0.56', or a dash where there is no interval."""
    low, high = bounds
    return f"{text(low)} to {text(high)}" if known(low) and known(high) else DASH


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def integer(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and np.isfinite(value) else DASH


def title(name: str) -> str:
    """in_hospital_death -> 'in hospital death'."""
    return name.replace("_", " ").replace("-", " ")
