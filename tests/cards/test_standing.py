"""The word of a study, what speaks against it, and what may be told."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ehr_scaling import artifacts
from ehr_scaling.audit.audit import VERSION
from ehr_scaling.cards import evidence, metrics, model, pages, standing, write
from ehr_scaling.grid import manifest
from ehr_scaling.layout import Layout
from tests.cards import finished
from tests.cards.schema import root_of, text_at

SCORE = f"outcomes/{finished.TASK}"


def test_a_study_that_lacks_nothing_is_reportable(found):
    word = standing.judge(found)
    assert found.problems == [] and word.word == standing.REPORTABLE and "2 seeds" in word.reason
    assert word.reason.endswith("It does not say that the model is good, or safe to use")


def test_generated_patients_are_for_smoke_only(copy):
    record = artifacts.record(copy / "events")
    record["summary"]["generated"] = True
    artifacts.write_sealed(copy / "events" / artifacts.RECORD, record)
    done = write.write(copy, copy / "cards")
    assert done["word"] == standing.SMOKE_ONLY and "generated" in done["reason"]
    root = root_of(copy / "cards" / "model.xml")
    assert text_at(root, "ModelSummary/Summary").startswith("**smoke only**")
    assert "smoke only" in json.loads((copy / "cards" / "croissant.json").read_text())["description"]
    for name, _ in pages.PAGES:
        page = (copy / "cards" / name).read_text()
        assert '<span class="chip warn">smoke only</span>' in page.split("<section")[0], name


def test_the_document_has_a_row_for_each_word():
    text = (Path(__file__).parents[2] / "docs" / "cards.md").read_text()
    rows = re.findall(r"^\| `([a-z ]+)` \|", text[text.index("## The word") : text.index("## What is open")], re.M)
    words = {standing.REPORTABLE, standing.SMOKE_ONLY, standing.BLOCKED, standing.NOT_IDENTIFIABLE}
    assert set(rows) == words and rows.count(standing.BLOCKED) == 2  # in the order of `standing.judge`


def test_a_sealed_forecast_that_failed_is_a_limit(found):
    assert not any("sealed budget" in limit for limit in model.limits(found))
    failed = {**found.laws["holdout"], "coverage": 0.1}
    (limit,) = [s for s in model.limits(found._replace(laws={**found.laws, "holdout": failed})) if "sealed" in s]
    assert "unidentified: the forecast of the sealed budget failed" in limit


def audit_of(cell, **changes):
    attack = {"auroc": 0.6, "low": 0.55, "high": 0.65, "true_positives": None}
    ratio = {**attack, "auroc": 0.7, "low": 0.68, "high": 0.72, "reference": {"saw_members": False}}
    return {
        **{"cell": cell.id, "size": cell.size, "N": 1, "D": 1, "fraction": 1, "passes": 1, "times_read": 1},
        **{"patients_read": 800, "membership": {"loss": attack, "ratio": ratio}, "rare": [], "started_from": None},
        **{"continuation": {"rows": []}, "inputs": {"version": VERSION, "cell": cell.id, "packed": cell.packed}},
        **changes,
    }


def test_what_an_audit_found_is_told(copy):
    """Of this model and of this version of the audit alone; that there is none is a limit."""
    cell = evidence.read(copy).cell
    path = copy / "audit" / f"{cell.id}.json"
    path.parent.mkdir()

    def told():
        e = evidence.read(copy)
        (said,) = [limit for limit in model.limits(e) if "audited" in limit or "membership" in limit]
        results = [r for metric in metrics.metrics(e) for r in metric.results if "membership" in r.name]
        return said, [tuple(r.measure[:3]) for r in results]

    assert told()[0].startswith("It was not audited") and told()[1] == []
    artifacts.write_sealed(path, audit_of(cell))
    assert "a model that never read them: membership AUROC 0.700 (0.680 to 0.720)" in told()[0]
    assert told()[1] == [(0.7, 0.68, 0.72)]
    unfair = audit_of(cell)
    unfair["membership"]["ratio"]["reference"]["saw_members"] = True
    artifacts.write_sealed(path, unfair)
    assert "by its loss: membership AUROC 0.600" in told()[0] and told()[1] == [(0.6, 0.55, 0.65)]
    for other in ({"version": VERSION - 1}, {"packed": "another"}):
        artifacts.write_sealed(path, audit_of(cell, inputs={**audit_of(cell)["inputs"], **other}))
        assert told()[0].startswith("It was not audited") and told()[1] == []
    path.write_text(path.read_text().replace("0.72", "0.99"))
    assert any(path.name in problem and "damaged" in problem for problem in evidence.read(copy).problems)


def test_a_model_that_is_in_no_fit_is_told(found):
    assert not any("No fit" in limit for limit in model.limits(found))
    left = [{"run": found.cell.id, "code": "other_setting", "text": "rate 1"}, {"run": "b", "code": "x", "text": "y"}]
    said = [s for s in model.limits(found._replace(laws={**found.laws, "left_out": left})) if "No fit" in s]
    assert said == ["No fit of the report has it, whose model of least loss is another: rate 1."]


def test_few_patients_are_for_smoke_only(found):
    few = found._replace(laws={**found.laws, "data": {**found.laws["data"], "patients": 100}})
    word = standing.judge(few)
    assert word.word == standing.SMOKE_ONLY and word.reason.startswith("100 patients to train on determine nothing")
    fewer = found._replace(laws={**found.laws, "data": {**found.laws["data"], "patients": 8}})
    assert standing.judge(fewer).reason.startswith("under 11 patients")


@pytest.mark.parametrize(("of_generated", "word"), [(None, "blocked"), (False, "blocked"), (True, "reportable")])
def test_a_model_that_may_know_the_test_patients_is_not_reportable(copy, of_generated, word):
    """Whom the weights that it started from were trained on nobody knows, but that generated patients are not real."""
    cells = [replace(cell, init="0123456789abcdef") for cell in manifest.read(copy / "grid")]
    manifest.write(copy / "grid" / manifest.MANIFEST, cells)
    size = evidence.read(copy).cell.size
    if of_generated is not None:
        artifacts.build(Layout(copy).initial(size), {}, lambda out: {"generated": of_generated})
    e = evidence.read(copy)
    told = {field.label: field.text for metric in metrics.metrics(e) for field in metric.fields}
    unknown = word == "blocked"
    assert standing.judge(e).word == word and e.may_know_test == unknown
    assert ("weights that may know" in told["Kind of test"]) == ("weights that may know" in standing.judge(e).reason)
    assert any("test split: its scores" in limit for limit in model.limits(e)) == unknown
    assert ("no model was trained on" in told["Kind of test"]) != unknown


@pytest.mark.parametrize("name", standing.EXPONENTS)
def test_an_exponent_that_is_not_told_is_not_identifiable(found, name):
    untold = {**found.laws["verdicts"], name: {"word": "unidentified", "reason": "two budgets"}}
    word = standing.judge(found._replace(laws={**found.laws, "verdicts": untold}))
    assert word == (standing.NOT_IDENTIFIABLE, f"the runs do not tell {standing.EXPONENTS[name]}: two budgets")


def test_one_seed_or_no_test_patients_block(found):
    assert standing.judge(found._replace(seeds=[1])) == (
        standing.BLOCKED,
        "1 seed of this model, which is an anecdote: train 2",
    )
    (task,) = found.tasks
    other = task._replace(about={**task.about, "inputs": {**task.inputs, "split": "validation"}})
    assert "no patients of the test split" in standing.judge(found._replace(tasks=[other])).reason


def damaged(root, what):
    """Change one thing of a study; what the card has to say of it."""
    cell = finished.best(root)
    if what == "events":
        path = next((root / "events" / "data").rglob("*.parquet"))
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        return f"{path.relative_to(root)} is damaged"
    if what == "packed":
        next((root / "packed" / "t64").glob("*.array_record")).unlink()
        return "is missing"
    if what == "forecast":
        finished.change(root / "report" / "forecast.json", reason="other")
        return "forecast.json has changed since it was filed"
    if what == "another forecast":
        laws = json.loads((root / "report" / "laws.json").read_text())
        finished.change(root / "report" / "laws.json", holdout={**laws["holdout"], "forecast_fingerprint": "ab"})
        return "is not the forecast that the report compares"
    if what == "score":
        finished.change(root / SCORE / f"{cell}.json", auroc=0.9)
        return "another AUROC than the report says"
    if what == "seal of a score":
        path = root / SCORE / f"{cell}.json"
        path.write_text(path.read_text().replace('"draws": 20', '"draws": 21'))
        return f"{SCORE}/{cell}.json is damaged"
    if what == "run":
        finished.change(root / "runs" / cell / "120" / "metrics" / "metrics", validation_loss=0.1)
        return "another loss than the report says"
    laws = json.loads((root / "report" / "laws.json").read_text())
    laws["provenance"]["fingerprints"]["timelines"] = "ab"
    finished.change(root / "report" / "laws.json", provenance=laws["provenance"])
    return "made from other timelines"


KINDS = ("events", "packed", "forecast", "another forecast", "score", "seal of a score", "run", "report")


@pytest.mark.parametrize("what", KINDS)
def test_what_does_not_fit_blocks_and_says_where(copy, what):
    said = damaged(copy, what)
    done = write.write(copy, copy / "cards")
    assert done["word"] == standing.BLOCKED and said in done["reason"]
    assert str(copy) not in done["reason"] and "the work directory/" not in done["reason"]
    page = (copy / "cards" / "model.html").read_text()
    assert '<span class="chip bad">blocked</span>' in page and str(copy) not in page


def test_weights_that_have_changed_block(copy):
    run = copy / "runs" / finished.best(copy) / "120"
    (run / "state").write_text("weights")
    artifacts.write_sealed(run / "files.json", {"files": artifacts.sums(run)})
    assert evidence.read(copy).problems == []
    (run / "state").write_text("weighty")
    assert "state is damaged" in standing.judge(evidence.read(copy)).reason


@pytest.mark.parametrize(
    ("n", "told"), [(0, "0"), (1, "under 11"), (10, "under 11"), (11, "10"), (15, "20"), (96, "100")]
)
def test_counts_of_real_patients_are_rounded_and_those_of_few_are_not_told(found, n, told):
    assert found.words(n) == told


def test_scores_of_few_patients_are_withheld(copy):
    path = copy / SCORE / f"{finished.best(copy)}.json"
    finished.change(path, positives=7)
    e = evidence.read(copy)
    assert e.scored == [] and standing.judge(e).word == standing.BLOCKED
    assert "in hospital death is suppressed: a count under 11" in standing.judge(e).reason
    record = artifacts.record(copy / "events")
    record["summary"]["generated"] = True
    artifacts.write_sealed(copy / "events" / artifacts.RECORD, record)
    assert evidence.read(copy).scored
