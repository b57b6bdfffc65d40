"""The cards of a finished study: what they say is what the artifacts say, in the forms that others read."""

import hashlib
import html
import json
import os
import re
import shutil
import types
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts
from ehr_scaling.analysis.outcomes import scores
from ehr_scaling.cards import (
    chai,
    croissant,
    evidence,
    fields,
    metrics,
    model,
    pages,
    standing,
    tripod,
    tripod_answers,
    write,
)  # fmt: skip
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking.tasks.bounds import Bound
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from tests.cards import finished
from tests.cards.schema import CHAI, against, problems, results_of, root_of, text_at, types_of

SCORE = f"outcomes/{finished.TASK}"
PARTS = (
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 "
    "18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c"
)


def test_the_model_card_has_the_elements_of_the_schema_in_order(cards):
    root = root_of(cards / "model.xml")
    assert problems(root) == []
    root.find(f"{CHAI}BasicInfo").append(ElementTree.Element(f"{CHAI}ModelName"))
    root.remove(root.find(f"{CHAI}Warnings"))
    said = problems(root)
    assert any("ModelName is out of place" in s for s in said) and any("Warnings is missing" in s for s in said)


def test_the_model_card_is_valid_by_a_local_copy_of_the_schema(cards):
    """Its licence is stated in two ways, so that it is not in here: https://mc.chai.org/v0.2/schema.xsd."""
    if not (path := os.environ.get("EHR_SCALING_CHAI_XSD")):
        pytest.skip("no copy of CHAI's schema.xsd v0.2: name one in EHR_SCALING_CHAI_XSD")
    schema = ElementTree.parse(path).getroot()
    assert schema.get("targetNamespace") == chai.NAMESPACE
    assert against(root_of(cards / "model.xml"), "", types_of(schema)) == []


def test_numbers_are_those_of_the_scores_and_of_the_report(study, cards):
    told = results_of(root_of(cards / "model.xml"))
    score = json.loads((study / SCORE / f"{finished.best(study)}.json").read_text())
    title = "in hospital death: "
    ends = {"kind": "estimate_ci", "level": 95, "unit": ""}
    told_of = dict(zip(("estimate", "lower", "upper"), ("value", "low", "high"), strict=True))
    auroc = {name: round({**score, "value": score["auroc"]}[end], 4) for name, end in told_of.items()}
    assert told[f"{title}the model: AUROC"] == {**ends, **auroc}
    slope = score["calibration_slope"]
    expected = {**ends, **{name: round(slope[end], 4) for name, end in told_of.items()}}
    assert told[f"{title}the model: calibration slope"] == expected
    assert told[f"{title}sex f: AUROC"]["estimate"] == 0.7
    assert told[f"{title}the model less logistic regression: AUROC"]["estimate"] == -0.01
    laws = json.loads((study / "report" / "laws.json").read_text())
    assert laws["outcomes"][0]["compared"][0]["measures"]["auroc"]["value"] == round(score["auroc"], 4)
    a, (low, high) = laws["isoflop"]["a"], laws["isoflop"]["intervals"]["a"]
    law = f"a of N* ∝ C^a is {a:.3f} ({low:.3f} to {high:.3f}), supported"
    assert law in text_at(root_of(cards / "model.xml"), "ModelSummary/Summary")


def test_thresholds_and_gaps_are_those_of_the_scores(study, cards):
    """Of the risks that somebody would act on, which are the recalibrated ones; what is not told is not here."""
    root = root_of(cards / "model.xml")
    told = results_of(root)
    score = json.loads((study / SCORE / f"{finished.best(study)}.json").read_text())
    where = "in hospital death, acting on its risk, recalibrated: "
    acted = {name: value for name, value in told.items() if name.startswith(where)}
    assert {name.rpartition(": ")[0].removeprefix(where).replace("\N{NO-BREAK SPACE}", " ") for name in acted} == {
        "from a risk of 10 %",
        "5 % of stays may alert: from a risk of 31.2 %",
    }
    alerts = next(value for name, value in acted.items() if "10" in name and name.endswith("alerts per 100 stays"))
    row = score["recalibrated"]["decision"]["table"][0]["alerts"]
    assert [alerts[k] for k in ("estimate", "lower", "upper")] == pytest.approx(
        [100 * row[k] for k in ("value", "low", "high")]
    )
    assert told["in hospital death: sex f less all others: AUROC"]["estimate"] == -0.03
    biases = text_at(root, "Warnings/KnownBiasesOrEthicalConsiderations")
    assert "AUROC of a group less that of all others: 2 groups not told apart, but 0.080 could hide" in biases
    assert "sex f +0.200 (0.150 to 0.250)" in biases
    items = {i["item"]: i["answer"] for i in json.loads((cards / "tripod.json").read_text())["items"]}
    said = items["15"].replace("\N{NO-BREAK SPACE}", " ")
    assert said.endswith("told from risks of 10 %, and where 5 % of stays may alert") and "50 %" not in said
    usefulness = text_at(root, "KeyMetrics/UsefulnessUsabilityEfficacy/Interpretation")
    first = "- in hospital death: the model is not told apart from logistic regression on the same stays, AUROC "
    assert usefulness.replace("\N{MINUS SIGN}", "-").startswith(f"{first}-0.010 (-0.030 to +0.010) more. All models of")


def test_groups_that_are_hidden_are_told_with_their_own_reasons():
    def group(name, why=""):
        return scores.Group("sex", name, {}, {}, why, {})

    few, by_subtraction = "suppressed: a count under 11 patients", "suppressed: it would tell another's by subtraction"
    groups = (group("f"), group("m", by_subtraction), group("x", few), group("m or x"))
    task = types.SimpleNamespace(title="t", model=types.SimpleNamespace(groups=groups))
    assert metrics._suppressed(task) == (
        f"t: 2 groups may be told; {by_subtraction}: sex m; {few}: sex x; told together: sex m or x."
    )


def test_another_score_gives_another_card(copy, cards):
    path = copy / SCORE / f"{finished.best(copy)}.json"
    laws = json.loads((copy / "report" / "laws.json").read_text())
    laws["outcomes"][0]["models"][0]["auroc"] = 0.6125
    finished.change(copy / "report" / "laws.json", outcomes=laws["outcomes"])
    finished.change(path, auroc=0.6125)
    write.write(copy, copy / "cards")
    told = results_of(root_of(copy / "cards" / "model.xml"))
    assert told["in hospital death: the model: AUROC"]["estimate"] == 0.6125
    assert "0.613" not in (cards / "model.html").read_text() and "0.613" in (copy / "cards" / "model.html").read_text()
    assert "AUROC 0.613" in (copy / "cards" / "tripod.html").read_text()


def test_signs_of_markup_survive(cards):
    root = root_of(cards / "model.xml")
    assert text_at(root, "BasicInfo/ModelName").startswith(f"{finished.NAME}: ")
    assert finished.DESCRIPTION in text_at(root, "TrustIngredients/AISystemFacts/OutcomesAndOutputs")
    for name, _ in pages.PAGES:
        page = (cards / name).read_text()
        assert html.escape(finished.NAME, quote=False).split('"')[0] in page and "<hospital>" not in page, name
    assert "Death &lt;in hospital&gt; &amp; &#34;soon&#34;." in (cards / "model.html").read_text()
    assert json.loads((cards / "croissant.json").read_text())["alternateName"] == finished.NAME


def test_marked_text_is_escaped_in_all_its_parts():
    said = pages._marked("<i> `a<b` & **<c>** <d>")
    assert said == "&lt;i&gt; <code>a&lt;b</code> &amp; <b>&lt;c&gt;</b> &lt;d&gt;"


def test_what_no_xml_may_hold_is_replaced(found):
    word = standing.judge(found)
    results = metrics.metrics(found)
    told = [f._replace(text="a\x00b\x1f") if f.key.endswith("ModelName") else f for f in model.fields(found, word)]
    told += [field for metric in results for field in metric.fields]
    assert text_at(ElementTree.fromstring(chai.xml(told, results)), "BasicInfo/ModelName") == "a\ufffdb\ufffd"


def test_every_item_of_tripod_ai_is_there_once(cards):
    items = json.loads((cards / "tripod.json").read_text())["items"]
    assert [item["item"] for item in items] == PARTS.split()
    assert {int(re.match(r"\d+", item["item"])[0]) for item in items} == set(range(1, tripod.ITEMS + 1))
    page = (cards / "tripod.html").read_text()
    assert re.findall(r'<td class="text">(\d+[a-g]?) ', page) == PARTS.split()
    for item in items:
        assert (item["word"] != "answered") == bool(item["who"]), item
        assert (item["word"] != "open") == bool(item["answer"] and item["where"]), item
    assert "AUROC" in next(item for item in items if item["item"] == "23a")["answer"]


def test_without_scores_what_needs_them_is_open(copy):
    shutil.rmtree(copy / "outcomes")
    finished.change(copy / "report" / "laws.json", outcomes=[])
    done = write.write(copy, copy / "cards")
    assert done["word"] == standing.BLOCKED and "run launch.evaluate" in done["reason"]
    words = {i["item"]: i["word"] for i in json.loads((copy / "cards" / "tripod.json").read_text())["items"]}
    assert {words[number] for number in ("1", "6b", "8a", "12e", "20a", "23a")} == {"open"}
    root = root_of(copy / "cards" / "model.xml")
    assert problems(root) == [] and set(map(str, (v["value"] for v in results_of(root).values()))) == {"None"}


def test_croissant_has_what_it_requires_and_names_what_is_there(study, cards, tmp_path):
    told = json.loads((cards / "croissant.json").read_text())
    left = {
        key.removeprefix("data.") for key in json.loads((cards / "open.json").read_text()) if key.startswith("data.")
    }
    assert set(croissant.REQUIRED) - told.keys() == left == {"url", "creator", "datePublished"}
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.0" and told["@type"] == "sc:Dataset"
    answers = tmp_path / "answers.yaml"
    answers.write_text("data.url: https://example.org\ndata.creator: us\ndata.datePublished: 2026-01-31\n")
    write.write(study, tmp_path / "out", answers=answers)
    whole = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert set(croissant.REQUIRED) <= whole.keys() and whole["creator"]["name"] == "us"
    files = {entry["@id"]: entry for entry in told["distribution"] if entry["@type"] == "cr:FileObject"}
    there = {p.relative_to(study).as_posix() for name in ("events", "timelines") for p in (study / name).rglob("*.*")}
    assert set(files) == {name for name in there if not name.endswith("artifact.json") and (study / name).is_file()}
    for name, entry in files.items():
        content = (study / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest() and entry["contentSize"] == f"{len(content)} B"
    sets = {record_set["@id"]: record_set for record_set in told["recordSet"]}
    tables = {
        "events": next((study / "events" / "data").rglob("*.parquet")),
        "codes": study / "events" / "metadata" / "codes.parquet",
        "splits": study / "events" / "metadata" / "subject_splits.parquet",
    }
    assert set(sets) == set(tables)
    for name, path in tables.items():
        columns = [field["source"]["extract"]["column"] for field in sets[name]["field"]]
        assert columns == pq.read_schema(path).names
    kinds = {field["@id"]: field["dataType"] for field in sets["events"]["field"]}
    assert kinds["events/time"] == "sc:Date" and kinds["events/subject_id"] == "sc:Integer"
    assert kinds["events/code"] == "sc:Text" and kinds["events/numeric_value"] == "sc:Float"
    (events,) = (entry for entry in told["distribution"] if entry["@type"] == "cr:FileSet")
    matched = {p.relative_to(study).as_posix() for p in study.glob(events["includes"])}
    assert matched == {name for name in files if name.startswith("events/data/")}
    assert {s["source"].get("fileSet", {}).get("@id") for s in sets["events"]["field"]} == {events["@id"]}


def test_croissant_is_valid_by_its_own_library(study, cards):
    mlcroissant = pytest.importorskip("mlcroissant")
    path = Path(shutil.copy(cards / "croissant.json", study / "croissant.json"))
    try:
        loaded = mlcroissant.Dataset(jsonld=path)
        assert {record_set.id for record_set in loaded.metadata.record_sets} == {"events", "codes", "splits"}
    finally:
        path.unlink()


def test_a_license_is_an_address_or_a_work():
    assert croissant._licence("ODbL 1.0") == "https://spdx.org/licenses/ODbL-1.0"
    attribution = "Open Data Commons Attribution License v1.0"
    assert croissant._licence(attribution) == "https://spdx.org/licenses/ODC-By-1.0"
    assert croissant._licence("of our own") == {"@type": "sc:CreativeWork", "name": "of our own"}


def test_nothing_of_a_patient_and_no_count_of_few_goes_out(study, cards):
    ids = {str(p["subject_id"]) for split in timelines.SPLITS for p in timelines.read(study / "timelines", split)}
    for path in cards.iterdir():
        text = re.sub(r"[0-9a-f]{16,}|\d+ B\"", " ", path.read_text())
        assert not {i for i in ids if len(i) > 3} & set(re.findall(r"\d+", text)), path.name
        assert not re.search(r"\b(19|20|21)\d\d-\d\d", text.replace("2026-01-31", "")), path.name
        assert str(study) not in text
    said = (cards / "model.xml").read_text()
    assert "under 11 whose record ends &lt;before&gt;" in said and "4 whose record" not in said
    assert "suppressed: few: sex x" in said
    assert "under 10" in (cards / "data.html").read_text()  # what the source dropped, of which there were 3


# --- what people say


def test_answers_fill_what_is_open_and_nothing_else(study, cards, tmp_path):
    answers = tmp_path / "answers.yaml"
    answers.write_text(
        "model.BasicInfo/ModelDeveloper: 'Us & <them>'\n"
        "tripod.18a: none\n"
        "tripod.5a: The hospital's own.\n"
        "model.ReleaseInfo/RegulatoryApproval: none\n"
    )
    before = json.loads((cards / "open.json").read_text())
    write.write(study, tmp_path / "out", answers=answers)
    after = json.loads((tmp_path / "out" / "open.json").read_text())
    assert before.keys() - after.keys() == set(fields.read_answers(answers)) and after.keys() <= before.keys()
    root = root_of(tmp_path / "out" / "model.xml")
    assert problems(root) == [] and text_at(root, "BasicInfo/ModelDeveloper") == "Us & <them>"
    assert text_at(root, "ReleaseInfo/RegulatoryApproval") == "none"
    items = {i["item"]: i for i in json.loads((tmp_path / "out" / "tripod.json").read_text())["items"]}
    assert items["5a"]["word"] == "answered" and items["5a"]["answer"].endswith("\n\nThe hospital's own.")
    assert items["5a"]["where"].endswith(fields.BY_HAND)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tripod.18z: x", "'tripod.18z' is no field of a card: did you mean tripod.18"),
        ("model.BasicInfo/ModelName: mine", "is answered by grid/manifest.jsonl: take it out"),
        ("data.datePublished: soon", "takes a date such as 2026-01-31"),
        ("tripod.18a: [none]", "line 1: no text is there"),
        ("tripod.18a: none\ntripod.18a: some", "line 2: a key that was answered before"),
        ("- a", "write a line `key: text`"),
        ("a: [", "is no YAML"),
        ("tripod.18a: ''", "line 1: no text is there"),
    ],
)
def test_answers_to_nothing_that_is_open_are_refused(study, tmp_path, text, said):
    (tmp_path / "answers.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        write.write(study, tmp_path / "out", answers=tmp_path / "answers.yaml")
    assert not (tmp_path / "out").exists()


def test_every_open_field_names_who_has_to_say_it(cards):
    told = json.loads((cards / "open.json").read_text())
    assert len(told) > 20 and all(entry["who"] and entry["what"] for entry in told.values())
    xml = (cards / "model.xml").read_text()
    wanted = [key for key, entry in told.items() if key.startswith("model.") and not entry["optional"]]
    assert xml.count("OPEN: ") == len(wanted)
    pages_text = "".join((cards / name).read_text() for name, _ in pages.PAGES)
    assert all(f"<code>{key}</code>" in pages_text for key in told)


# --- the folder and the pages


def test_the_same_artifacts_give_the_same_bytes(study, cards, tmp_path):
    write.write(study, tmp_path)
    names = sorted(path.name for path in cards.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert all((cards / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_another_model_has_another_card(study, tmp_path):
    cell = json.loads((study / "report" / "laws.json").read_text())["outcomes"][0]["models"][-1]["cell"]
    assert write.write(study, tmp_path, cell)["cell"] == cell
    assert f"cell {cell}" in text_at(root_of(tmp_path / "model.xml"), "BasicInfo/ModelName")
    with pytest.raises(UserError, match="--cell=none is not in"):
        write.write(study, tmp_path, "none")


def test_a_folder_without_a_report_is_refused(copy):
    (copy / "report" / "laws.json").write_text("{}")
    with pytest.raises(UserError, match="is none of this version"):
        write.write(copy, copy / "cards")
    (copy / "report" / "laws.json").unlink()
    with pytest.raises(UserError, match=r"laws\.json is missing: run launch\.study there first"):
        write.write(copy, copy / "cards")
    assert not (copy / "cards").exists()


STRUCTURE = {
    "model.html": {
        "Model": ["Model", "Developer", "Contact"],
        "Release": ["Stage", "Date of release", "Version", "Where it is available", "Approval by regulators"],
        "Summary": ["Summary", "Keywords"],
        "What the study found": ["a of N* ∝ C<sup>a</sup>", "b of D* ∝ C<sup>b</sup>", "forecast of the sealed budget"],
        "Use": ["Intended use", "Intended users", "How to use it", "Patients", "What it must not be used for"],
        "Warnings": ["Risks and limits", "Biases and ethics", "Level of clinical risk"],
        "Usefulness": [
            "the model",
            "the model less logistic regression",
            "logistic regression",
            "from a risk of 10\N{NO-BREAK SPACE}%",
            "5\N{NO-BREAK SPACE}% of stays may alert: from a risk of 31.2\N{NO-BREAK SPACE}%",
            *metrics._LABELS.values(),
        ],
        "Fairness": ["sex f", "sex f less all others", "sex m", "sex m less all others", *metrics._LABELS.values()],
        "Reliability of the risks": ["the model", "the model, recalibrated", *metrics._LABELS.values()],
        "What it is made of": [
            *("Outcomes and outputs", "Kind of model", "Started from", "Records", "Types of input and output"),
            *("Data of development", "Against bias", "Maintenance", "Security", "Transparency", "Funding"),
            *("Of third parties", "Whom it was discussed with"),
        ],
        "Resources": [
            *("Evaluation", "Clinical trial", "Publications with peer review", "Reimbursement", "Consent of patients"),
        ],
        "Bibliography": ["Bibliography"],
    },
    "data.html": {
        "Terms": ["Licence", "Address of its page", "Creator of this data set", "Date of publication, as 2026-01-31"],
        **dict.fromkeys(
            ("Source", "Contents", "Tokens", "Left out", "Privacy", "Made from", "Intended use and limits")
        ),
        "Tables": None,
    },
    "tripod.html": dict.fromkeys(
        ("Title", "Abstract", "Introduction", "Methods", "Open science", "Patients and public", "Results", "Discussion")
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_the_structure_of_the_pages(cards, name):
    page = (cards / name).read_text()
    sections = re.findall(r'<section id="([\w-]+)"><h2>(.*?)</h2>(.*?)</section>', page, re.S)
    assert [title for _, title, _ in sections] == [*STRUCTURE[name], "Open"]
    assert re.findall(r'<a href="#([\w-]+)">', page) == [identity for identity, _, _ in sections]
    for _, title, body in sections[:-1]:
        if rows := STRUCTURE[name][title]:
            assert re.findall(r'<tr><td class="text">(.*?)</td>', body) == rows, title
    first = page.index("<section")
    assert page.index('<p class="rests">') < page.index('<span class="chip good">reportable</span>') < first
    assert {n for n, _ in pages.PAGES} - {name} == set(re.findall(r'<a href="(\w+\.html)">', page))
    assert "<script" not in page and "http://" not in page.replace("http://mlcommons", "")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "t: not recalibrated."),
        ({"method": "line", "missing": "all are the same"}, "t: not recalibrated: all are the same."),
        (
            {"method": "line", "split": "validation", "intercept": -0.1, "slope": 0.9},
            "t: recalibrated on the validation split by a logistic regression on the logit of its risks (Cox 1958), "
            "which keeps ranks: intercept -0.100, slope 0.900.",
        ),
        (
            {"method": "isotonic", "split": "validation", "stays": 9},
            "t: recalibrated on the validation split by an isotonic regression on its risks (Zadrozny and Elkin 2002), "
            "after which stays of one level tie.",
        ),
    ],
)
def test_how_risks_were_moved_is_told_of_each_way(record, said):
    task = types.SimpleNamespace(title="t", record={"recalibrated": record} if record else {})
    assert metrics._recalibration(task) == said


ICU = Task("t", "", anchor=("ICU_ADMISSION", "ED"), tokens=0, positive=("A",), negative=("B",))
LABELLED = Task("t", "", labels="L", positive=("A",), horizon=2.0, at_horizon="negative")
BOUND = Task("t", "", labels="L", values=(Bound("K", above=6.5),), negative=("B",))


@pytest.mark.parametrize(
    ("task", "when", "what"),
    [
        (ICU, "at ICU_ADMISSION or ED", "A, against B, no horizon"),
        (replace(ICU, tokens=2), "at ICU_ADMISSION or ED, with 2 tokens after it", "A, against B, no horizon"),
        (replace(ICU, tokens=-1), "just before ICU_ADMISSION or ED", "A, against B, no horizon"),
        (replace(ICU, tokens=None, hours=24.0), "24 hours after ICU_ADMISSION or ED", "A, against B, no horizon"),
        (replace(ICU, kind="days", negative=()), "at ICU_ADMISSION or ED", "days until A"),
        (
            replace(ICU, kind="class", positive=(), negative=(), classes=("X", "Y")),
            "at ICU_ADMISSION or ED",
            "the next token, of X, Y",
        ),
        (
            replace(ICU, negative=(), horizon=30.0, at_horizon="negative", at_end="negative"),
            "at ICU_ADMISSION or ED",
            "A, against none of it by then or a record that ends before, within 30 days",
        ),
        (
            LABELLED,
            "at the times of label files",
            "A, against none of it by then, within 2 days, as label files say who had it",
        ),
        (BOUND, "at the times of label files", "K above 6.5, against B, no horizon, as label files say who had it"),
    ],
)
def test_every_kind_of_task_is_told(task, when, what):
    """As `questions.prepare` writes it down: with null for what it has not."""
    asked = types.SimpleNamespace(inputs={"task": json.loads(json.dumps(asdict(task)))}, title="t")
    assert model.eligible(asked) == when and tripod_answers._outcome(asked) == what


def test_scores_of_days_of_few_are_withheld(copy):
    """They count no outcomes: with two patients, mean and root mean square of the errors give both."""
    folder, cell = copy / "outcomes" / "length_of_stay", finished.best(copy)
    folder.mkdir()
    artifacts.write_sealed(
        folder / "task.json", {"task": "length_of_stay", "kind": "days", "inputs": {"split": "test"}}
    )
    for n, told in ((2, False), (30, True)):
        artifacts.write_json(
            folder / f"{cell}.json", {"n": n, "patients": n, "mae": {"value": 1.0, "low": 0.5, "high": 2}}
        )
        (asked,) = [task for task in evidence.read(copy).tasks if task.name == "length_of_stay"]
        assert bool(asked.withheld) != told and bool(asked.record) == told


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ("token", "None in training: every token weighs the same"),
        ("patient", "None in training: every patient gives one window a pass"),
        ("", "None in training. Scores"),
    ],
)
def test_what_a_patient_weighs_is_told_by_how_windows_were_drawn(found, sampling, said):
    assert found.sampling == "token"  # as its packed.json says
    e = found._replace(sampling=sampling)
    told = {field.label: field for field in model.fields(e, standing.judge(e))}
    assert told["Against bias"].text.startswith(said)


def test_a_model_that_began_with_real_patients_is_no_generated_one(copy, monkeypatch):
    assert not evidence.read(copy).learnt_of_generated
    finished._rename(copy / "events", generated=True)
    monkeypatch.setattr(evidence.initial, "of_generated", lambda cell, workdir: True)
    assert evidence.read(copy).learnt_of_generated
    monkeypatch.setattr(evidence.initial, "of_generated", lambda cell, workdir: False)
    e = evidence.read(copy)
    assert e.generated and not e.learnt_of_generated
    assert "17" not in tripod_answers.answers(e) and "5b" in tripod_answers.answers(e)
    told = {field.label: field for field in model.fields(e, standing.judge(e))}
    assert told["Consent of patients"].word == fields.OPEN
    assert any("it began with the weights of a model of real ones" in limit for limit in model.limits(e))
