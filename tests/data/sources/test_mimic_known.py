"""Facts of MIMIC-IV stand where they were known; what was given and measured is all there."""

import re
from pathlib import Path

import pytest
from mimic_iv_tables import ED, TABLES, extract, extracted, put, release, rows

from ehr_scaling.data.sources.mimic import presets
from ehr_scaling.data.sources.mimic.deriving import KNOWN

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


@pytest.fixture
def raw(tmp_path):
    return release(tmp_path / "raw", TABLES)


def of(table, subject, *heads):
    return [row for row in rows(table, subject) if row[1].startswith(heads)]


def header(table):
    return TABLES[table].splitlines()[0] + "\n"


def test_a_result_stands_where_it_was_filed(raw, tmp_path):
    lab = "{},2,201,1,{},2150-06-01 09:00:00,{},{v},{v},mg/dL,,\n"
    when = ("2150-06-01 10:30:00", "2150-06-01 08:00:00", "", "2150-06-09 00:00:00")
    put(
        raw,
        "hosp/labevents",
        header("hosp/labevents") + "".join(lab.format(i, i, stored, v=i) for i, stored in enumerate(when)),
    )
    assert of(extract(raw, tmp_path), 2, "LAB") == [
        ("06-01 09:00:00", "LAB//1//mg/dL", 1.0),  # filed before it was drawn: a fault of a clock
        ("06-01 09:00:00", "LAB//2//mg/dL", 2.0),
        ("06-01 10:30:00", "LAB//0//mg/dL", 0.0),
        ("06-09 00:00:00", "LAB//3//mg/dL", 3.0),
    ]
    assert {r[0] for r in of(extract(raw, tmp_path, times="happened"), 2, "LAB")} == {"06-01 09:00:00"}


def test_charts_infusions_and_doses_stand_where_they_were_filed(raw, tmp_path):
    chart = "1,101,11,2150-03-02 01:00:00,2150-03-02 03:00:00,220052,65,65,mmHg\n"
    names = "subject_id,hadm_id,stay_id,charttime,storetime,itemid,value,"
    put(raw, "icu/chartevents", f"{names}valuenum,valueuom\n{chart}")
    out = "1,101,11,2150-03-02 01:00:00,2150-03-02 04:00:00,226559,50,ml\n"
    put(raw, "icu/outputevents", f"{names}valueuom\n{out}")
    infused = "1,101,11,2150-03-02 01:00:00,{},2150-03-02 05:00:00,{},3,mg,0.05,mcg/kg/min\n"
    put(
        raw,
        "icu/inputevents",
        "subject_id,hadm_id,stay_id,starttime,endtime,storetime,itemid,amount,amountuom,rate,rateuom\n"
        + infused.format("2150-03-02 06:00:00", 1)
        + infused.format("2150-03-02 00:00:00", 2),  # an end before its beginning
    )
    given = "1,101,x,9,2150-03-01 11:00:00,2150-03-01 12:00:00,Heparin,Administered\n"
    put(raw, "hosp/emar", header("hosp/emar") + given)
    tables = ("chartevents", "inputevents", "outputevents")
    table, summary = extracted(raw, tmp_path, tables=tables)
    assert of(table, 1, "CHART", "SUBJECT", "INFUSION", "MEDICATION") == [
        ("03-01 12:00:00", "MEDICATION//Heparin//Administered", None),
        ("03-02 03:00:00", "CHART//220052//mmHg", 65.0),
        ("03-02 04:00:00", "SUBJECT_FLUID_OUTPUT//226559//ml", 50.0),
        ("03-02 05:00:00", "INFUSION_START//1", pytest.approx(0.05)),
        ("03-02 05:00:00", "INFUSION_START//2", pytest.approx(0.05)),
        ("03-02 05:00:00", "INFUSION_END//2", 3.0),
        ("03-02 06:00:00", "INFUSION_END//1", 3.0),
    ]
    assert summary["mended"]["icu/inputevents: end before its beginning moved to it"] == 1


def test_what_has_a_day_only_is_known_at_its_end_or_at_the_death(raw, tmp_path):
    died = TABLES["hosp/omr"] + "1,2150-03-08,1,BMI (kg/m2),30\n"
    put(raw, "hosp/omr", died)
    table = extract(raw, tmp_path)
    assert of(table, 2, "BMI") == [("05-01 23:59:59", "BMI", 27.5)]
    assert of(table, 1, "BMI", "MEDS_DEATH") == [
        ("03-08 22:20:00", "BMI", 30.0),
        ("03-08 22:20:00", "MEDS_DEATH", None),
    ]


def test_codes_of_the_bill_follow_the_discharge(raw, tmp_path):
    lost = TABLES["hosp/procedures_icd"] + "2,999,1,2150-05-20,0SR90,10\n"  # of a stay that no one knows
    put(raw, "hosp/procedures_icd", lost)
    codes = of(extract(raw, tmp_path), 2, "PROCEDURE", "HCPCS", "DIAGNOSIS", "HOSPITAL_DISCHARGE")
    assert codes == [
        ("05-20 23:59:59", "PROCEDURE//ICD//10//0SR90", None),
        ("06-03 09:00:00", "HOSPITAL_DISCHARGE//HOME", None),
        ("06-03 09:00:00", "DIAGNOSIS//ICD//9//7150", None),
        ("06-03 09:00:00", "PROCEDURE//ICD//9//8154", None),
        ("06-03 09:00:00", "PROCEDURE//ICD//10//0SR90", None),
        ("06-03 09:00:00", "HCPCS//Hospital, obs. per hr", None),
    ]


def test_a_race_is_told_as_far_as_it_is_news(raw, tmp_path):
    stay = "3,{},2149-0{}-01 10:00:00,2149-0{}-02 10:00:00,,URGENT,,HOME,,?,,{},,,0\n"
    races = ("UNKNOWN", "OTHER", "UNKNOWN", "ASIAN - CHINESE", "WHITE", "OTHER")
    stays = "".join(stay.format(300 + i, i + 1, i + 1, race) for i, race in enumerate(races))
    put(raw, "hosp/admissions", TABLES["hosp/admissions"] + stays)
    assert of(extract(raw, tmp_path), 3, "RACE") == [
        ("01-01 10:00:00", "RACE//UNKNOWN", None),
        ("02-01 10:00:00", "RACE//OTHER", None),
        ("04-01 10:00:00", "RACE//ASIAN", None),
    ]
    assert of(extract(raw, tmp_path, times="happened"), 3, "RACE") == [(None, "RACE//ASIAN", None)]


def test_triage_is_known_at_the_first_vital_sign(raw, tmp_path):
    release(raw, ED)
    signs = ED["ed/vitalsign"] + "1,91,2150-03-01 08:03:00,,70,,,,,,\n1,91,2150-03-01 08:20:00,,70,,,,,,\n"
    put(raw, "ed/vitalsign", signs)
    # The one before the arrival is of the same measurement as the arrival's own
    assert of(extract(raw, tmp_path), 1, "ACUITY")[0][0] == "03-01 08:05:00"
    put(raw, "ed/vitalsign", signs.replace("1,91,2150-03-01 08:03:00,,70,,,,,,\n", ""))
    assert of(extract(raw, tmp_path), 1, "ACUITY")[0][0] == "03-01 08:20:00"


def test_doses_by_all_their_names(raw, tmp_path):
    texts = ("Started", "Delayed Administered", "Applied in Other Location", "Restarted", "Partial Administered")
    others = ("Stopped", "Rate Change", "Flushed in Other Location", "", "Delayed Not Given", "somebody's word")
    row = "1,101,x,{},2150-03-01 1{}:00:00,,Heparin,{}\n"
    put(
        raw,
        "hosp/emar",
        header("hosp/emar") + "".join(row.format(i, i % 10, text) for i, text in enumerate(texts + others)),
    )
    table, summary = extracted(raw, tmp_path)
    given = [code for _, code, _ in of(table, 1, "MEDICATION")]
    # Another word than MIMIC's own is what was done
    assert given == [f"MEDICATION//Heparin//{text}" for text in (texts[0], "somebody's word", *texts[1:])]
    assert {k: n for k, n in summary["dropped"].items() if "emar" in k} == {
        "hosp/emar: no dose: Flushed": 1,
        "hosp/emar: no dose: Not Given": 1,
        "hosp/emar: no dose: Rate Change": 1,
        "hosp/emar: no dose: Stopped": 1,
        "hosp/emar: no dose: not told": 1,
    }
    assert [c for _, c, _ in of(extract(raw, tmp_path, preset="ethos_ares"), 1, "MEDICATION")] == []


def test_a_bound_is_a_number(raw, tmp_path):
    lab = "{},2,201,1,{},2150-06-01 09:00:00,,{},{},ng/mL,,{}\n"
    cases = (
        ("___", "", '"<0.01.  a comment, and\na line"'),
        ("> 182*", "", ""),
        ("5", "5", "<3"),
        ("NEG", "", "no < 3"),
    )
    text = "".join(lab.format(i, i, *case) for i, case in enumerate(cases))
    put(raw, "hosp/labevents", header("hosp/labevents") + text)
    table, summary = extracted(raw, tmp_path)
    assert [row[1:] for row in of(table, 2, "LAB")] == [
        ("LAB//0//ng/mL", pytest.approx(0.01)),
        ("LAB//1//ng/mL", 182.0),
        ("LAB//2//ng/mL", 5.0),
    ]
    assert summary["mended"]["hosp/labevents: result given as a bound read as its number"] == 2
    assert summary["dropped"]["hosp/labevents: no number"] == 1
    assert not any("comment" in code for code in table["code"].to_pylist())
    assert len(of(extract(raw, tmp_path, preset="ethos_ares"), 2, "LAB")) == 1


def test_degrees_celsius_among_fahrenheit(raw, tmp_path):
    release(raw, ED)
    put(raw, "ed/triage", ED["ed/triage"].replace("98.6", "37.0"))
    table, summary = extracted(raw, tmp_path)
    assert of(table, 1, "VITAL//TEMPERATURE") == [("03-01 10:30:00", "VITAL//TEMPERATURE", pytest.approx(98.6))]
    assert summary["mended"]["ed/triage: temperature in °C told in °F"] == 1
    published = extract(raw, tmp_path, preset="ethos_ares")
    assert of(published, 1, "VITAL//TEMPERATURE")[0][2] == 37.0


STAY = "2,201,{admit},{discharge},{death},URGENT,,{place},,?,,WHITE,,,{flag}\n"
CASE = {
    "admit": "2150-03-01 10:00:00",
    "discharge": "2150-03-05 12:00:00",
    "death": "",
    "place": "HOME",
    "flag": 0,
}
DIED = {"place": "DIED", "flag": 1}
AT_DISCHARGE = ["HOSPITAL_ADMISSION", "MEDS_DEATH", "HOSPITAL_DISCHARGE"]


@pytest.mark.parametrize(
    ("case", "dod", "codes", "when", "rule"),
    [
        (DIED, "2150-03-05", AT_DISCHARGE, "03-05 12:00:00", "death in hospital without a time put at the discharge"),
        (
            {**DIED, "death": "2150-03-01 07:00:00"},
            "2150-03-05",
            AT_DISCHARGE,
            "03-05 12:00:00",
            "death in hospital with a time outside of the stay put at the discharge",
        ),
        (
            {**DIED, "death": "2150-03-05 21:00:00"},
            "2150-03-05",
            AT_DISCHARGE,
            "03-05 21:00:00",
            "discharge before death moved to it",
        ),
        ({"death": "2150-03-05 12:00:00"}, "", AT_DISCHARGE, "03-05 12:00:00", "death in hospital by its time alone"),
        (
            {"death": "2150-02-01 12:00:00"},
            "2151-01-01",
            ["HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "MEDS_DEATH"],
            "01-01 23:59:59",
            "time of death outside of a stay that ended alive not used",
        ),
        (
            {},
            "2150-03-03",
            ["HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "MEDS_DEATH"],
            "03-05 23:59:59",
            "date of death before a discharge alive moved behind it",
        ),
        ({}, "2148-03-03", ["MEDS_DEATH"], "03-03 23:59:59", "stay after death left out"),
        (
            DIED,
            "2150-09-09",
            AT_DISCHARGE,
            "03-05 12:00:00",
            "date of death another than that of the death in hospital not used",
        ),
        (
            {"discharge": "2150-02-01 12:00:00"},
            "",
            ["HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE"],
            None,
            "discharge before admission moved to it",
        ),
    ],
)
def test_deaths_that_contradict_a_stay(raw, tmp_path, case, dod, codes, when, rule):
    put(raw, "hosp/patients", TABLES["hosp/patients"].replace("2150-07-01", dod))
    put(raw, "hosp/admissions", header("hosp/admissions").replace("\\\n", "") + STAY.format(**CASE | case))
    for name in ("omr", "procedures_icd", "hcpcsevents", "diagnoses_icd"):
        put(raw, f"hosp/{name}", header(f"hosp/{name}"))
    table, summary = extracted(raw, tmp_path)
    told = of(table, 2, "HOSPITAL_", "MEDS_DEATH")
    assert [code.partition("//")[0] for _, code, _ in told] == codes
    assert [time for time, code, _ in told if code == "MEDS_DEATH"] == ([when] if when else [])
    assert summary["mended"][f"hosp/admissions: {rule}"] == 1


def test_nothing_is_told_after_a_death(raw, tmp_path):
    put(raw, "hosp/patients", TABLES["hosp/patients"].replace("2150-07-01", "2150-06-02"))
    put(raw, "hosp/admissions", TABLES["hosp/admissions"].replace("2150-06-03 09:00:00", "2150-06-01 09:00:00"))
    lab = "{},2,,1,7,2150-0{}-02 09:00:00,,1,1,mg/dL,,\n"
    put(raw, "hosp/labevents", TABLES["hosp/labevents"] + lab.format(90, 6) + lab.format(91, 7))
    table, summary = extracted(raw, tmp_path)
    assert rows(table, 2)[-1] == ("06-02 23:59:59", "MEDS_DEATH", None)
    assert len(of(table, 2, "LAB//7")) == 1
    assert summary["dropped"]["hosp/labevents: after the patient's death"] == 1


def test_intensive_care_ends_after_it_began_and_within_the_stay(raw, tmp_path):
    stay = "1,101,{},Unit A,Unit B,{},{},1\n"
    lines = [
        stay.format(11, "2150-03-02 10:00:00", "2150-03-02 08:00:00"),
        stay.format(12, "2150-03-03 10:00:00", "2150-03-09 10:00:00"),
        stay.format(13, "2150-03-05 10:00:00", "2150-03-05 11:00:00"),
    ]
    put(
        raw,
        "icu/icustays",
        header("hosp/transfers")[:0] + TABLES["icu/icustays"].splitlines()[0] + "\n" + "".join(lines),
    )
    table, summary = extracted(raw, tmp_path)
    assert [(time, code.partition("//")[0]) for time, code, _ in of(table, 1, "ICU", "HOSPITAL_DISCHARGE")][:-1] == [
        ("03-02 10:00:00", "ICU_ADMISSION"),
        ("03-02 10:00:01", "ICU_DISCHARGE"),
        ("03-03 10:00:00", "ICU_ADMISSION"),
        ("03-04 12:00:00", "ICU_DISCHARGE"),
        ("03-04 12:00:00", "HOSPITAL_DISCHARGE"),
    ]
    assert {rule: n for rule, n in summary["mended"].items() if rule.startswith("icu")} == {
        "icu/icustays: end before its beginning moved to it": 1,
        "icu/icustays: end after that of the stay in hospital moved to it": 1,
        "icu/icustays: stay that begins after the stay in hospital left out": 1,
    }


def test_the_docs_say_when_each_table_is_known():
    told = re.sub(r"\s+", " ", DOCS.read_text(encoding="utf-8"))
    for place in presets.places("clean", ed=True, times="known"):
        for entry in place.entries:
            assert f"`{place.table}`" in told
            if entry.known in KNOWN:
                assert KNOWN[entry.known] in told, entry.known
