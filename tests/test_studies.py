"""Published studies: what others refit from the table of runs is what was published."""

import json
from pathlib import Path

import pytest

from ehr_scaling import analysis as laws

STUDIES = sorted(path.parent for path in (Path(__file__).parents[1] / "studies").glob("*/runs.csv"))


@pytest.fixture(scope="module", params=STUDIES, ids=lambda folder: folder.name)
def study(request):
    folder = request.param
    return json.loads((folder / "laws.json").read_text()), laws.fit(laws.read(folder / "runs.csv")), folder


def test_the_laws_are_those_of_the_table(study):
    published, refitted, _ = study
    for name in ("a", "b"):
        assert refitted.laws["isoflop"]["exponents"][name] == pytest.approx(published["isoflop"]["exponents"][name])
