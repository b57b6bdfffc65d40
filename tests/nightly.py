"""Tests for `make nightly`: what shows once more, in other forms or for longer, what others show in `make test`."""

from collections.abc import Iterable
from typing import Any

import pytest


def but(*now: Any, of: Iterable[Any]) -> list[Any]:
    """Values of one parameter, for `pytest.mark.parametrize`: those of `now` always, the others nightly."""
    values = list(of)
    assert all(value in values for value in now)
    return [value if value in now else pytest.param(value, marks=pytest.mark.nightly) for value in values]
