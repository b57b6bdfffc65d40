"""A model that is made to remember is found out, one that is not is let go; and what is there is not made again."""

import json
import re
import shutil
import sys

import numpy as np
import pytest

from ehr_scaling import artifacts, study
from ehr_scaling.audit import audit, words
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import choosing
from tests import forked, small
from tests.outcomes import as_one
from tests.outcomes.scored import same

SETTINGS = audit.Settings(patients=200, prompt=8, draws=200)


def trained(workdir, points, **changes):
    """Generated patients, a window of 48 tokens each, and cells that are trained on them."""
    config = small.config(
        **{
            "data.context": 48,
            "data.sampling": "patient",
            "training.batch.sequences": 16,
            "training.batch.exponent": 0.0,
            "training.dispatch_sequences": 256,
            "training.min_steps": 2,
            "training.microbatch": 16,
            **changes,
        }
    )
    study.prepare(config, workdir)
    study.plan(config, points, workdir)
    study.train(config, workdir)
    return workdir


def audited(workdir, settings=SETTINGS):
    asked = audit.of_grid(workdir, [], settings, workdir / "audit")
    return list(audit.audits(workdir, asked, settings, lambda i, n: None))


def excess(record, tokens, continuations="all", match="exact"):
    rows = record["continuation"]["rows"]
    return next(r for r in rows if (r["tokens"], r["continuations"], r["match"]) == (tokens, continuations, match))[
        "excess"
    ]


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    """One pass over many patients, with two seeds; and what is found."""
    points = [{"passes": 1.0, "size": "3.5k", "seed": seed} for seed in (0, 1)]
    folder = tmp_path_factory.mktemp("many")
    workdir = trained(folder, points, **{"data.patients": 700, "data.splits": (0.5, 0.05, 0.45)})
    return workdir, audited(workdir)


def test_what_is_written_of_a_model(forgetful):
    for (asked, record, before), seed in zip(forgetful[1], (0, 1), strict=True):
        assert not before and (record["cell"], record["seed"]) == (asked.cell.id, seed)
        assert record["held_out"] == "test" and record["times_read"] == pytest.approx(1.0, abs=0.2)
        assert record["members"] == record["held_out_patients"] == 200 and record["started_from"] is None
        attack, ratio = record["membership"]["loss"], record["membership"]["ratio"]
        assert attack["low"] < attack["auroc"] < attack["high"] < 0.7
        # Of another model that read the same patients as often: it says so, and tells nothing
        assert ratio["reference"]["saw_members"] and ratio["low"] <= 0.5 <= ratio["high"]
        rows = {(r["tokens"], r["continuations"], r["match"]): r for r in record["continuation"]["rows"]}
        assert len(rows) == 12 and all(r["excess"]["low"] <= 0 <= r["excess"]["high"] for r in rows.values())
        for tokens in audit.CONTINUED:
            exact, near = (rows[tokens, "all", match]["members"]["share"] for match in ("exact", "near"))
            assert 0 <= exact <= near <= 1
            some, every = (rows[tokens, which, "exact"]["patients"]["members"] for which in ("unshared", "all"))
            assert 0 < some <= every <= 200


def test_what_is_there_is_not_made_again(forgetful, tmp_path, monkeypatch):
    workdir = tmp_path / "copy"
    shutil.copytree(forgetful[0], workdir)
    monkeypatch.setattr(audit, "restored_params", None)  # no model is restored
    again = audited(workdir)
    assert [(record, before) for _, record, before in again] == [(record, True) for _, record, _ in forgetful[1]]
    with pytest.raises(TypeError):  # but for other settings
        audited(workdir, audit.Settings(patients=201, prompt=8, draws=200))
    path = workdir / "audit" / f"{again[0][1]['cell']}.json"
    path.write_text(path.read_text().replace('"auroc": 0.', '"auroc": 0.9', 1))
    with pytest.raises(UserError, match=r"is damaged .*: delete \S+json and run again"):
        audited(workdir)


def test_a_mistake_is_one_line(forgetful, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(forgetful[0], workdir)
    with pytest.raises(UserError, match=r"--cell=none is not in .*manifest"):
        audit.of_grid(workdir, ["none"], SETTINGS, workdir / "audit")
    shutil.rmtree(workdir / "packed")
    with pytest.raises(UserError, match="an audit needs the rows that cell"):
        audited(workdir)


def test_of_real_patients_no_small_count_is_told(forgetful, tmp_path, monkeypatch):
    """Nothing but these keys is written, no number of patients but rounded ones, and no share that tells few."""
    workdir = tmp_path / "copy"
    shutil.copytree(forgetful[0], workdir)
    path = workdir / "events" / artifacts.RECORD
    record = artifacts.read_json(path)
    record["summary"]["generated"] = False
    artifacts.write_sealed(path, record)
    shutil.rmtree(workdir / "audit")
    monkeypatch.setattr(audit.choosing, "finished", lambda w, all_of=choosing.finished: all_of(w)[:1])
    for _, told, _ in audited(workdir):
        assert told["patients_read"] % 10 == 0 and told["members"] % 10 == 0
        for row in told["continuation"]["rows"]:
            for side in ("members", "held_out"):
                n = row["patients"][side]
                assert n is None or n % 10 == 0
                share = row.get(side, {}).get("share")
                assert share is None or not 0 < share * n < 10
        assert told["times_read"] == float(f"{told['times_read']:.2g}") and "positions" not in told["inputs"]
        attack = told["membership"]["loss"]
        assert all(attack[name] == round(attack[name], 4) for name in ("auroc", "error", "low", "high"))
        assert all(row["tokens"] is None or row["tokens"] % 10 == 0 for row in told["rare"])
        text = json.dumps(told)
        assert not re.search(r"9000\d{4}|\d{4}-\d\d-\d\d|subject", text)  # ids of generated patients, dates
    vocabulary = artifacts.read_json(workdir / "timelines" / "vocabulary.json")
    assert not [token for token in vocabulary["tokens"] if len(token) > 8 and token in text]


def test_the_command(forgetful, tmp_path):
    out = tmp_path / "audits"
    shutil.copytree(forgetful[0] / "audit", out)
    flags = ("--patients=200", "--prompt=8", "--draws=200")
    command = [sys.executable, "-m", "launch.audit", f"--workdir={forgetful[0]}", f"--out={out}", *flags]
    done = forked.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("auditing models of ") and lines[-1] == f"0 audited, 2 there before: {out}"
    assert lines[1].split()[0] == "size" and {line.split()[0] for line in lines[2:4]} == {"3.5k"}
    assert lines[1:5] == words.table([record for _, record, _ in forgetful[1]]).splitlines()
    wrong = forked.run([*command, "--seed=-1"], capture_output=True, text=True, check=False)
    assert wrong.returncode and "Traceback" not in wrong.stderr and "--seed=-1" in wrong.stdout + wrong.stderr


@pytest.mark.nightly  # a model cut over both is in tests/outcomes/test_asking_together.py
def test_two_processes_audit_as_one_does(forgetful, tmp_path):
    """Each reads half of the windows, of the reference too, which is restored after the model."""
    flags = (f"--workdir={forgetful[0]}", f"--out={tmp_path}", "--patients=200", "--prompt=8", "--draws=200")
    first, second = as_one.ends(as_one.start("-m", "launch.audit", *flags, popen=forked.Popen))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "2 audited, 0 there before" in first[1] and "audited" not in second[1]
    for plan, record, _ in forgetful[1]:
        assert record["membership"]["ratio"] and same(artifacts.read_json(tmp_path / plan.path.name), record)


def test_the_table_says_numbers_as_they_are(forgetful):
    record = json.loads(json.dumps(forgetful[1][0][1])) | {"started_from": "0123456789abcdef"}
    record["rare"] = [{"log_ratio": {"value": 10.5, "low": -0.25, "high": 0.75}}]
    lines = words.table([record]).splitlines()
    assert lines[1].startswith("3.5k† ") and lines[1].endswith("  10.500 [-.250, .750]")
    assert lines[-1] == "† started from another model: which patients that was trained on is not known"


@pytest.mark.nightly
def test_one_pass_over_many_patients_is_not_remembered(tmp_path):
    """Forty tokens a parameter, each read once: what is learnt of one patient is far less than of all others."""
    point = {"passes": 1.0, "size": "1.7k", "seed": 0}
    many = {"data.patients": 8000, "data.splits": (0.7, 0.02, 0.28), "training.rate.peak": 0.01}
    workdir = trained(tmp_path, [point], **many)
    ((_, record, _),) = audited(workdir, audit.Settings(patients=600, prompt=8, draws=200))
    attack = record["membership"]["loss"]
    assert attack["low"] <= 0.5 <= attack["high"] and attack["high"] - attack["low"] < 0.07
    assert attack["true_positives"]["low"] <= 0.02
    for tokens in audit.CONTINUED:
        for continuations in ("all", "unshared"):
            found = excess(record, tokens, continuations)
            assert found["low"] <= 0 <= found["high"]


@pytest.mark.nightly
def test_patients_that_are_read_hundreds_of_times_are_remembered(tmp_path):
    """64 patients, 500 passes: every member is told from the others, and continued from a prompt as no other is."""
    splits = {"data.patients": 240, "data.splits": (0.3, 0.05, 0.65)}
    points = [{"passes": 500.0, "size": "14k", "seed": 0}]
    workdir = trained(tmp_path, points, **splits)
    ((_, record, _),) = audited(workdir)
    assert 50 <= record["patients_read"] <= 75 and record["times_read"] == pytest.approx(500, rel=0.02)
    attack = record["membership"]["loss"]
    assert attack["auroc"] > 0.97 and attack["low"] > 0.9 and attack["true_positives"]["value"] > 0.8
    for tokens in (8, 16):
        for match in ("exact", "near"):
            assert excess(record, tokens, "all", match)["low"] > 0.2
            assert excess(record, tokens, "unshared", match)["low"] > 0.2
    assert any(row["log_ratio"]["low"] > 1 for row in record["rare"] if "log_ratio" in row)
    assert record["membership"]["ratio"] is None and len(manifest.read(workdir / "grid")) == 1
    assert np.isfinite(record["passes"])
