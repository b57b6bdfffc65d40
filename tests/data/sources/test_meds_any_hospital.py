"""MEDS of any hospital: its splits, spellings, units, deaths and demographics. All patients are made up."""

import pyarrow as pa
import pytest
from meds_files import extract, put, table

from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.data.sources.meds import dialects as d
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError


@pytest.mark.parametrize(
    ("code", "spelt"),
    [
        ("SNOMED/73211009", "SNOMED//73211009"),
        ("LOINC/LG32850-6", "LOINC//LG32850-6"),
        ("ICD10CM/E11.9", "ICD10CM//E11.9"),
        ("ICD-10-CM|E11.9", "ICD-10-CM//E11.9"),
        ("HP:0001250", "HP//0001250"),
        ("STANFORD_OBS/WBC:auto/manual", "STANFORD_OBS//WBC:auto/manual"),
        ("http://loinc.org|718-7", "http:/loinc.org//718-7"),
        ("http://snomed.info/id/73211009", "http:/snomed.info/id//73211009"),
        ("urn:oid:2.16.840.1.113883.6.96|7", "urn:oid:2.16.840.1.113883.6.96//7"),
        ("urn:oid:2.16.840:7", "urn:oid:2.16.840//7"),
        ("LAB//50912//mg/dL", "LAB//50912//mg/dL"),
        ("BMI (kg/m2)", "BMI (kg/m2)"),
        ("Mean pressure: left", "Mean pressure: left"),
        ("MEDS_BIRTH", "MEDS_BIRTH"),
        ("A/", "A/"),
        ("/", "/"),
        ("x: y", "x: y"),
    ],
)
def test_separators_of_other_vocabularies(code, spelt):
    assert d.prefixed(code) == spelt
    if "ICD" not in code:
        assert d.canonical(d.OTHER, code) == (spelt,)


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("ICD10CM/E11.9", "DIAGNOSIS//ICD//10//E119"),
        ("ICD-10-CM|E11.9", "DIAGNOSIS//ICD//10//E119"),
        ("http://hl7.org/fhir/sid/icd-10-cm|E11.9", "DIAGNOSIS//ICD//10//E119"),
        ("ICD10:I50", "DIAGNOSIS//ICD//10//I50"),
        ("ICD9CM/410.71", "DIAGNOSIS//ICD//9//41071"),
        ("ICD9CM/E880.9", "DIAGNOSIS//ICD//9//E8809"),
        ("ICD9Proc/00.66", "PROCEDURE//ICD//9//0066"),
        ("ICD10PCS/027034Z", "PROCEDURE//ICD//10//027034Z"),
        ("DIAGNOSIS//I50.9", "DIAGNOSIS//ICD//10//I509"),
        ("Diagnosis//i50.9", "DIAGNOSIS//ICD//10//I509"),
        ("DIAGNOSIS//428.0", "DIAGNOSIS//ICD//9//4280"),
        ("DIAGNOSIS//ICD10CM//E11.9", "DIAGNOSIS//ICD//10//E119"),
        ("PROCEDURE//ICD9//00.66", "PROCEDURE//ICD//9//0066"),
        ("DIAGNOSIS//ICD//10//E119", "DIAGNOSIS//ICD//10//E119"),
        ("DIAGNOSIS//V58.6", "DIAGNOSIS//V58.6"),  # of both classifications
        ("DIAGNOSIS//428", "DIAGNOSIS//428"),  # perhaps, but so might be any number
        ("DIAGNOSIS//heart failure", "DIAGNOSIS//heart failure"),
        ("ICD10CM/E08-E13", "ICD10CM//E08-E13"),
        ("Gender/F", "GENDER//F"),
        ("Hospital Admission//x", "HOSPITAL_ADMISSION//x"),
        ("Death", "MEDS_DEATH"),
    ],
)
def test_what_other_vocabularies_say_is_brought_to_the_families_of_tasks(code, ours):
    assert d.canonical(d.OTHER, code) == (ours,)
    assert d.canonical(d.OTHER, ours) == (ours,)


def test_a_death_comes_before_a_discharge_of_its_time(tmp_path):
    rows = [(1, 5, "Hospital_Discharge//HOME", None), (1, 5, "LAB//x", 1.0), (1, 5, "MEDS_DEATH", None)]
    rows += [(2, 5, "LAB//x", 1.0), (2, 5, "MEDS_DEATH", None), (2, 6, "HOSPITAL_DISCHARGE//HOME", None)]
    put(tmp_path / "raw", {"0": table(rows)})
    _, found = extract(tmp_path / "raw", tmp_path / "events", splits=(1.0, 0.0, 0.0))
    (told,) = found["train"]
    codes = [(r["subject_id"], r["code"].partition("//")[0].upper()) for r in told.to_pylist()]
    assert codes == [
        (1, "MEDS_DEATH"),
        (1, "HOSPITAL_DISCHARGE"),
        (1, "LAB"),
        (2, "LAB"),
        (2, "MEDS_DEATH"),
        (2, "HOSPITAL_DISCHARGE"),
    ]


def test_folders_are_splits(tmp_path):
    a, b = table([(1, 1, "A", None)]), table([(2, 1, "A", None)])
    put(tmp_path / "raw", {"train/0": a, "tuning/0": b})
    summary, _ = extract(tmp_path / "raw", tmp_path / "events")
    assert summary["patients"] == {"train": 1, "tuning": 1, "held_out": 0}
    assert summary["splits"].startswith("those of the folders data/")
    put(tmp_path / "two", {"train/0": a, "tuning/0": pa.concat_tables([a, b])})
    with pytest.raises(UserError, match="under 10 patients are in more than one of data/train"):
        extract(tmp_path / "two", tmp_path / "events2")


def test_a_set_without_a_tuning_split_is_refused_before_the_work(tmp_path):
    data = base.get_config().data
    data.source, data.raw = "meds", str(put(tmp_path / "raw", {"train/0": table([(1, 1, "A", None)])}))
    with pytest.raises(UserError, match=r"those of the folders data/\{train\}, have no patient in tuning"):
        pipeline.prepare(data, tmp_path / "work", workers=1)
    assert not (tmp_path / "work" / "events").exists()


def of_birth(patient, *more):
    """As FEMR writes demographics, then events a day apart from the age of 50 on."""
    told = [(patient, 0, code, None) for code in ("MEDS_BIRTH", "Gender/F", "Race/White", *more)]
    return told + [(patient, 438_000 + 24 * day, "Visit/OP", None) for day in range(3)]


def test_demographics_told_at_birth_are_context_and_begin_no_interval(tmp_path, capsys):
    data = base.get_config().data
    data.source, data.splits, data.tokens.min_count, data.tokens.min_patients = "meds", (1.0, 0.0, 0.0), 1, 0
    rows = [row for patient in range(30) for row in of_birth(patient)]
    data.raw = str(put(tmp_path / "raw", {"0": table(rows)}))
    pipeline.prepare(data, tmp_path / "work", workers=1, until="timelines")
    words = timelines.vocabulary(tmp_path / "work")
    assert words.context_slots[:2] == ("GENDER", "RACE")
    (part,) = timelines.batches(tmp_path / "work", "train")
    tokens = [words.tokens[i] for i in part.tokens[: part.offsets[1]]]
    assert tokens[0] == "Visit//OP" and len(tokens) == 6 and tokens[-1] == "TIMELINE_END"
    warning = "of the tokens are intervals"
    assert (warning in capsys.readouterr().out) == (words.interval_share > 1 / 3)
    # What is not known to be a fact of the whole life stays an event, and the share is told.
    rows = [row for patient in range(30) for row in of_birth(patient, "SNOMED/1")]
    data.raw = str(put(tmp_path / "raw2", {"0": table(rows)}))
    pipeline.prepare(data, tmp_path / "work2", workers=1, until="timelines")
    assert "warning: 9" in (out := capsys.readouterr().out) and warning in out


def test_what_contradicts_a_death_is_counted(tmp_path):
    rows = [(1, 5, "MEDS_DEATH", None), (1, 6, "MEDS_DEATH", None), (1, 7, "A", None), (2, 7, "A", None)]
    summary, _ = extract(put(tmp_path / "raw", {"0": table(rows)}), tmp_path / "events", splits=(1.0, 0.0, 0.0))
    assert summary["mended"]["deaths told again: kept"] == 1
    assert summary["mended"]["rows after the patient's death: kept"] == 2


def test_a_unit_is_part_of_the_code(tmp_path):
    t = table([(1, h, "Glucose", v) for h, v in enumerate((90.0, 5.0, 100.0, None))])
    t = t.append_column("unit", pa.array(["mg/dL", "mmol/L", "MG/DL", None]))
    put(tmp_path / "raw", {"0": t})
    summary, found = extract(tmp_path / "raw", tmp_path / "events", splits=(1.0, 0.0, 0.0))
    codes = [r["code"] for r in found["train"][0].to_pylist()]
    assert codes == ["Glucose//MG/DL", "Glucose//MMOL/L", "Glucose//MG/DL", "Glucose"]
    assert summary["several_units"] == 1


def test_numbers_in_another_column_are_read_or_named(tmp_path, capsys):
    t = table([(1, 1, "A", 5.0)]).rename_columns(["subject_id", "time", "code", "value", "text_value"])
    put(tmp_path / "raw", {"0": t})
    _, found = extract(tmp_path / "raw", tmp_path / "events", splits=(1.0, 0.0, 0.0))
    assert found["train"][0]["numeric_value"].to_pylist() == [5.0]
    assert "numbers: those of the column value, for files that have no column numeric_value" in capsys.readouterr().out
    put(tmp_path / "text", {"0": t.set_column(3, "value", pa.array(["5.0"]))})
    with pytest.raises(UserError, match="column value is string, and there is no numeric_value"):
        extract(tmp_path / "text", tmp_path / "events2")


def test_a_bound_in_the_text_is_a_number(tmp_path, capsys):
    numbers, texts = [None, None, 5.0, None], ["<93.2", "> 182", "<7", "hemolyzed"]
    told = table([(1, k, "LAB//glucose", value) for k, value in enumerate(numbers)])
    put(tmp_path / "raw", {"0": told.set_column(4, "text_value", pa.array(texts, pa.large_string()))})
    summary, found = extract(tmp_path / "raw", tmp_path / "events", splits=(1.0, 0.0, 0.0))
    assert [v if v is None else round(v, 3) for v in found["train"][0]["numeric_value"].to_pylist()] == [
        93.2, 182.0, 5.0, None
    ]  # fmt: skip
    assert summary["mended"]["result given as a bound read as its number"] == 2


def test_patients_whose_rows_are_apart_are_counted_once(tmp_path):
    rows = [(1, 1, "A", 1.0), (2, 1, "A", 1.0)] * 3 + [(3, 1, "A", 1.0)]
    put(tmp_path / "raw", {"0": table(rows)})
    summary, _ = extract(tmp_path / "raw", tmp_path / "events", splits=(1.0, 0.0, 0.0))
    assert summary["mended"]["patients whose rows are not together"] == 2


def test_a_family_without_a_token_stops_the_work(tmp_path):
    """Orders are no doses: a hospital that codes its doses as such is told, and may have it so."""
    rows = [(i, 1, "MEDS_BIRTH", None) for i in range(9)]
    rows += [(i, k, code, 1.0) for i in range(9) for k in range(2, 9) for code in ("MEDICATION//START//x", "LAB//y")]
    put(tmp_path / "raw", {"0": table(sorted(rows))})
    config = base.get_config().data
    config.source, config.raw, config.splits = "meds", str(tmp_path / "raw"), (0.8, 0.2, 0.0)
    told = r"none of the \d+ events of MEDICATION of the train split would become a token \(an order, not a dose\)"
    with pytest.raises(UserError, match=told):
        pipeline.prepare(config, tmp_path / "w", workers=1, until="timelines")
    config.may_lose = ("MEDICATION",)
    pipeline.prepare(config, tmp_path / "may", workers=1, until="timelines")
