"""Which records are a dose, and which units are the same."""

import numpy as np
import pytest

from ehr_scaling.data.codes import doses, units


@pytest.mark.parametrize(
    "text",
    [
        "Administered",
        "Administered Bolus from IV Drip",
        "Administered in Other Location",
        "Applied",
        "Delayed Administered",
        "Delayed Started",
        "Partial Administered",
        "Removed Existing / Applied New",
        "Restarted",
        "Started in Other Location",
        " in Other Location",
        "STARTED_IN_OTHER_LOCATION",  # as tokens spell it
        "GIVEN",  # another hospital's word
    ],
)
def test_doses(text):
    assert doses.why_no_dose(text) == ""


@pytest.mark.parametrize(
    ("text", "why", "told"),
    [
        ("Not Given per Sliding Scale", "nothing was given", "Not Given per Sliding Scale"),
        ("Delayed Not Given", "nothing was given", "Not Given"),
        ("Hold Dose", "nothing was given", "Hold Dose"),
        ("Stopped in Other Location", "an end", "Stopped"),
        ("Removed", "an end", "Removed"),
        ("Rate Change", "a change of rate", "Rate Change"),
        ("Flushed", "no drug", "Flushed"),
        # Of other hospitals
        ("MAR Hold", "nothing was given", "another text"),
        ("Automatically Held", "nothing was given", "another text"),
        ("Patient refused", "nothing was given", "another text"),
        ("Infusion Verify", "nothing was given", "another text"),
        ("No longer given", "nothing was given", "another text"),
        ("Entered in error", "nothing was given", "another text"),
        ("Return to Cabinet", "nothing was given", "another text"),
        ("Due", "nothing was given", "another text"),
        ("discontinued", "nothing was given", "another text"),
        ("Delayed ", "not told", "not told"),
        ("", "not told", "not told"),
        (None, "not told", "not told"),
        ("Stopped by Dr Who", "an end", "another text"),  # nobody's own words are told
    ],
)
def test_what_is_no_dose(text, why, told):
    assert doses.why_no_dose(text) == why
    assert doses.told(text) == told


def test_verbs_are_told_from_drugs():
    assert all(map(doses.is_verb, ("STARTED", "given", "Delayed Administered", "Not Given")))
    assert not any(map(doses.is_verb, ("aspirin", "Heparin", "started on aspirin")))


def test_units_that_are_one():
    for spellings in (("K/uL", "10^9/L", "x10^3/µL", "10*3/uL"), ("mm Hg", "mmHg"), ("ng/mL", "ug/L"), ("°C", "C")):
        assert len({units.canonical(unit) for unit in spellings}) == 1
    for different in (("mg/dL", "mmol/L"), ("ng/mL", "ng/mL FEU"), ("%", "g/dL"), ("mEq/L", "mmol/L"), ("°C", "°F")):
        assert len({units.canonical(unit) for unit in different}) == 2
    assert units.canonical("%", "51249") == units.canonical("g/dL", "51249")  # MCHC
    assert units.canonical("%", "51221") != units.canonical("g/dL", "51221")
    assert units.canonical("") == units.canonical(" ") == ""


def test_degrees():
    given = np.array([36.6, 98.6, np.nan, 45.0, 45.1, 25.0, 24.9])
    told, celsius = units.fahrenheit(given)
    np.testing.assert_allclose(told, [97.88, 98.6, np.nan, 113.0, 45.1, 77.0, 24.9])
    assert celsius.tolist() == [True, False, False, True, False, True, False]
