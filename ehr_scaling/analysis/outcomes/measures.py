"""A number of a score with its interval, as its file has it."""

from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.analysis.wording import known


class Measure(NamedTuple):
    """A number with its 95 % interval; NaN for an end that is not known. p_value: of a difference from 0."""

    value: float
    low: float
    high: float
    p_value: float = np.nan

    def interval(self) -> dict[str, float]:
        """Of laws.json."""
        return {"value": self.value, "low": self.low, "high": self.high}


def number(value: Any) -> float:
    """NaN for what is no finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if good else np.nan


def measure(part: Any, key: str = "value") -> Measure | None:
    """Of an object with this key, and perhaps low, high and p_value; None where the key holds no number."""
    if not isinstance(part, dict) or not known(value := number(part.get(key))):
        return None
    return Measure(value, *(number(part.get(k)) for k in ("low", "high", "p_value")))
