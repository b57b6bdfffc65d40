"""Published studies: what others refit from the table of runs is what was published."""

import json
from pathlib import Path

import pytest

from ehr_scaling import analysis as laws
from ehr_scaling import publish

STUDIES = sorted(path.parent for path in (Path(__file__).parents[1] / "studies").glob("*/runs.csv"))
FIGURES = (
    *(f"isoflop.intervals.{exponent}{end}" for exponent in "ab" for end in ("[0]", "[1]")),
    *("isoflop.lines.N.word", "isoflop.budgets.verdict.count(bracketed)", "holdout.error_percent"),
    *("holdout.coverage", "selected", "repeated.word"),
)


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_laws_are_those_of_the_table(folder):
    published = json.loads((folder / "laws.json").read_text())
    refitted = json.loads(json.dumps(laws.fit(laws.read(folder / "runs.csv")).to_json()))
    for figure in FIGURES:
        there = publish.figure(published, figure)
        here = publish.figure(refitted, figure)
        assert there is not None, figure
        assert here == (pytest.approx(there, rel=1e-6) if isinstance(there, float) else there), figure


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_runs_are_those_of_the_claims(folder):
    claims = publish.read_claims(folder / "claims.yaml")
    summary = json.loads((folder / "claims.json").read_text())
    assert summary["listed"] == len(publish.points(claims)) and summary["missing"] == summary["others"] == 0
    assert [row["claim"] for row in summary["claims"]] == [claim.claim for claim in claims.claims]
    assert len((folder / "runs.csv").read_text().splitlines()) == summary["finished"] + 1
