from collections.abc import Iterator

import pytest

from tests.outcomes.admissions import admissions
from tests.outcomes.scored import trained

__all__ = ["admissions", "trained"]


@pytest.fixture(scope="module")
def few_trees() -> Iterator[None]:
    """For modules whose tests ask what becomes of baselines, not how good they are."""
    from ehr_scaling.outcomes.judging import baselines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "MOST_TREES", 20)
        patch.setattr(baselines, "MORE_TREES", 10)
        yield
