"""A model that is asked about patients its study does not have: the same answers as through the study, or none."""

import dataclasses
import json
import re
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ehr_scaling import study
from ehr_scaling.data import disclosure
from ehr_scaling.data.codes import maps
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import known, others, timelines
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import evaluate, predict, transport
from ehr_scaling.outcomes.asking import cohort, questions, stays
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.judging.metrics import calibration, subgroups
from ehr_scaling.training import loop
from tests import forked, small
from tests.data import made_up

TASK = "in_hospital_death_24h"
FAST = {"copies": 3, "new_tokens": 24}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with a finished cell."""
    workdir = tmp_path_factory.mktemp("study") / "w"
    changes = {"data.patients": 900, "data.splits": (0.5, 0.1, 0.4)}
    packed = study.prepare(small.config(**changes), workdir)
    cell = small.cell(packed, changes)
    loop.job([cell], workdir, small.silent)
    (workdir / "grid").mkdir(exist_ok=True)
    manifest.write(workdir / "grid" / manifest.MANIFEST, [cell])
    return workdir


@pytest.fixture(scope="module")
def strangers(trained, tmp_path_factory):
    """The study's held-out patients as the MEDS data set of somebody else, in one file without splits."""
    folder = tmp_path_factory.mktemp("strangers") / "meds"
    (folder / "metadata").mkdir(parents=True)
    (folder / "data").mkdir()
    shutil.copy(trained / "events/metadata/codes.parquet", folder / "metadata")
    files = sorted((trained / "events/data/held_out").glob("*.parquet"))
    pq.write_table(pa.concat_tables(map(pq.read_table, files)), folder / "data/all.parquet")
    return folder


@pytest.fixture(scope="module")
def asked(trained, strangers, tmp_path_factory):
    """The folder of the predictions, and what `predict` says."""
    out = tmp_path_factory.mktemp("others") / "out"
    others.prepare(strangers, trained, out)
    return out, predict.predict(trained, predict.of_cohort(TASK), out, others.SPLIT, patients=out, **FAST)


def rows(path):
    table = pq.read_table(path).sort_by([("subject_id", "ascending"), ("prediction_time", "ascending")])
    return table.to_pydict()


def renamed(strangers, folder, change):
    """The same patients with other codes."""
    shutil.copytree(strangers, folder)
    table = pq.read_table(folder / "data/all.parquet")
    codes = [change(code) for code in table["code"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("code"), "code", pa.array(codes, pa.string()))
    pq.write_table(table, folder / "data/all.parquet")
    return folder


def test_the_same_patients_get_the_same_prompts_and_probabilities(trained, asked, tmp_path):
    out, done = asked
    task = predict.of_cohort(TASK)
    through = predict.predict(trained, task, tmp_path / "own", "held_out", **FAST)
    assert through["stays"] == done["stays"] > 50 and through["left_out"] == done["left_out"]
    mine, theirs = rows(tmp_path / "own" / predict.FILE), rows(out / predict.FILE)
    chances = "predicted_boolean_probability"
    np.testing.assert_allclose(theirs.pop(chances), mine.pop(chances), rtol=1e-4)
    assert mine == theirs
    prompts = {}
    for folder in (trained, out):
        of = cohort.stays(folder, "test", task)
        made = stays.prompts(folder, "test", of, 40)
        prompts[folder] = {(s, t): p.tolist() for s, t, p in zip(of.subject_ids, of.times, made, strict=True)}
    assert prompts[trained] == prompts[out]
    assert timelines.vocabulary(out) == timelines.vocabulary(trained)
    assert (out / "events").stat().st_mode & 0o077 == 0 == (out / "timelines").stat().st_mode & 0o077
    assert not (out / "events/data/train").exists()


def test_metrics_where_the_outcome_is_known(asked):
    _, done = asked
    found = done["metrics"]
    assert 0 < found["positives"] < found["n"] == done["stays"]
    assert found["low"] <= found["auroc"] <= found["high"]
    assert predict.describe(done, True).startswith(
        f"AUROC {found['auroc']:.3f} ({found['low']:.3f} to {found['high']:.3f}), AU"
    )


def test_what_the_move_costs(trained, asked, tmp_path, monkeypatch):
    out, done = asked
    task, of = predict.of_cohort(TASK), cohort.stays(out, "test", predict.of_cohort(TASK))
    (cell,) = manifest.read(trained / "grid")
    risks = pq.read_table(out / predict.FILE)["predicted_boolean_probability"].to_numpy()
    how = {"context": cell.context, **FAST}

    def prepared(name, task=task, **changes):
        """A copy of the study whose own test patients are to be asked, in some way."""
        shutil.copytree(trained, tmp_path / name)
        questions.prepare(tmp_path / name, task, **how, **{"max_samples": None, "draws": 50, **changes})
        return tmp_path / name

    home = prepared("home")
    nobody = transport.home(home, cell.id, task)
    assert nobody.startswith("the study's own patients were not asked: launch.evaluate --workdir=")
    assert done["transport"] == {"missing": transport.home(trained, cell.id, task)}
    assert "what the move costs is not known: the study's own patients were not" in predict.describe(done, True)
    evaluate.job([cell], home, small.silent)
    at_home = transport.home(home, cell.id, task)
    cost = lambda risks, options=how: transport.penalty(at_home, of, risks, options=options, draws=200, seed=0)  # noqa: E731
    # The same patients twice: the same AUROC, and the chance of both in the interval
    same = cost(risks)
    assert same["home"]["auroc"] == pytest.approx(done["metrics"]["auroc"], abs=1e-3)
    assert same["auroc"]["value"] == pytest.approx(0, abs=1e-3) and not same["auroc"]["told"]
    width = done["metrics"]["high"] - done["metrics"]["low"]
    assert 1.1 * width < same["auroc"]["high"] - same["auroc"]["low"] < 1.8 * width
    assert transport.describe(same).endswith(f"; none is shown, one of {same['auroc']['could_hide']:.3f} not excluded")
    # Elsewhere the risks rank all the wrong way round, and are too low
    worse = cost(np.where(of.labels, 0.001, 0.002))
    assert worse["auroc"]["value"] == pytest.approx(-same["home"]["auroc"], abs=1e-3) and worse["auroc"]["told"]
    assert worse["calibration_in_the_large"]["told"] and worse["calibration_in_the_large"]["value"] > 1
    # They are asked as the study's own were
    again = predict.predict(home, task, out, others.SPLIT, patients=out)
    np.testing.assert_allclose(rows(out / predict.FILE)["predicted_boolean_probability"], risks, rtol=1e-4)
    assert again["transport"]["auroc"]["value"] == pytest.approx(0, abs=1e-3)
    # What is no matter of the patients is not compared
    monkeypatch.setattr(subgroups, "gaps", lambda *args, **how: pytest.fail("compared"))
    assert cost(risks, {**how, "new_tokens": 512})["missing"].endswith("asked with 24 new_tokens: ask these so too")
    counted = prepared("counted", method="monte_carlo")
    sooner = prepared("sooner", dataclasses.replace(task, horizon=2.0, at_horizon="negative"))
    for workdir in (counted, sooner):
        for path in (home / "outcomes" / TASK).glob(f"{cell.id}.*"):
            shutil.copy(path, workdir / "outcomes" / TASK)
    assert "asked by monte_carlo, and these by scope" in transport.home(counted, cell.id, task)
    assert "another question by the name" in transport.home(sooner, cell.id, task)
    assert "labels say who" in transport.home(
        home, cell.id, dataclasses.replace(task, anchor=(), hours=None, labels="x")
    )
    # Of real patients few are not told of, and no number in full
    monkeypatch.setattr(inspection, "of_generated", lambda workdir: False)
    monkeypatch.setattr(subgroups, "gaps", lambda *args, **how: {"auroc": {"value": 0.123456}})
    assert cost(risks)["auroc"] == {"value": 0.123456}
    real = transport.home(home, cell.id, task)
    told = transport.penalty(real, of, risks, options=how, draws=2, seed=0)
    assert told["auroc"] == {"value": 0.1235} and told["home"]["auroc"] == round(at_home.score["auroc"], 4)
    monkeypatch.setattr(calibration, "SMALLEST", 10_000)
    assert "too few of the study's own patients" in transport.home(home, cell.id, task)
    # What is damaged at home keeps nobody from being asked elsewhere
    (home / "outcomes" / TASK / f"{cell.id}.parquet").write_bytes(b"no table")
    assert "is damaged" in transport.home(home, cell.id, task)


def test_few_real_patients_are_not_told(asked):
    out, done = asked
    of = cohort.stays(out, "test", predict.of_cohort(TASK))
    labels = np.zeros(len(of.times), bool)
    labels[np.unique(of.patients, return_index=True)[1][:10]] = True
    risks, few = np.linspace(0, 1, len(labels)), of._replace(labels=labels)
    assert predict._judged(few, risks, 0, True)["metrics"]["positives"] == 10
    assert predict._judged(few, risks, 0, False) == {
        "metrics": None,
        "metrics_missing": "fewer than 11 patients with the outcome, or without it, are asked",
    }
    record = predict.as_told({**done, "left_out": {"left open": 3, "too young": 26}}, False)
    assert record["left_out"] == {"left open": None, "too young": 30} and record["stays"] % 10 == 0
    assert record["metrics"]["n"] % 10 == 0
    assert record["metrics"]["auroc"] == round(done["metrics"]["auroc"], 4) != done["metrics"]["auroc"]
    assert all(one["n"] % 10 == 0 for one in record["metrics"]["calibration_curve"])
    assert record["metrics"]["decision"]["prevalence"]["value"] == round(
        done["metrics"]["decision"]["prevalence"]["value"], 4
    )
    gap = {"value": 0.123456, "low": None, "high": None, "told": False, "could_hide": None}
    moved = {**done, "transport": {"home": {"auroc": 0.765432, "low": None, "high": None}, "auroc": gap}}
    assert predict.as_told(moved, False)["transport"]["auroc"]["value"] == 0.1235
    assert predict.as_told(moved, False)["transport"]["home"]["auroc"] == 0.7654
    assert "changes the AUROC by +0.123 (no interval), from 0.765" in predict.describe(moved, True)
    assert predict.as_told(done, True) == done


def test_a_named_task_is_asked_as_it_is(tmp_path):
    """Of labels too: what the records are silent about, and no flag that it has an answer to."""
    task = predict.outcome(tmp_path / "labels", "challenge_2012_death")
    assert task.silence == tasks.load()["challenge_2012_death"].silence == 24
    flags = ("--model=W", "--labels=L", "--split=held_out", f"--out={tmp_path}", "--task=readmission_30d")
    done = run(*flags, "--horizon_days=90")
    assert done.returncode == 1 and done.stderr.startswith("error: --horizon_days goes with --positive")


@pytest.mark.nightly
def test_labels_of_the_strangers(trained, asked, tmp_path):
    out, done = asked
    every = pq.read_table(out / predict.FILE).select(["subject_id", "prediction_time", "boolean_value"])
    pq.write_table(every, tmp_path / "labels.parquet")
    task = predict.outcome(tmp_path / "labels.parquet", positive=["MEDS_DEATH"], negative=["HOSPITAL_DISCHARGE"])
    by_label = predict.predict(trained, task, tmp_path / "p", others.SPLIT, patients=out, **FAST)
    assert by_label["stays"] == done["stays"] and by_label["metrics"]["positives"] == done["metrics"]["positives"]
    pq.write_table(every.drop_columns(["boolean_value"]), tmp_path / "labels.parquet")
    bare = predict.predict(trained, task, tmp_path / "p", others.SPLIT, patients=out, **FAST)
    assert bare["metrics"] is None and predict.describe(bare, True) == "no metrics: the labels have no boolean_value"
    alive = cohort.stays(out, "test", task)._replace(labels=np.zeros(bare["stays"], bool))
    none = predict._judged(alive, np.full(bare["stays"], 0.3), 0, True)
    assert none == {"metrics": None, "metrics_missing": "all who are asked have the outcome, or none has"}


def test_unknown_codes_are_counted_by_family(trained, strangers, tmp_path, capsys):
    table = pq.read_table(strangers / "data/all.parquet")
    codes = table["code"].to_pylist()
    labs = [code for code in codes if code.startswith("LAB//")]
    few = set(sorted(set(labs))[:2])
    foreign = renamed(strangers, tmp_path / "some", lambda c: c.replace("LAB//", "LAB//there-") if c in few else c)
    record = others.prepare(foreign, trained, tmp_path / "out")
    found = record["summary"]["known"]
    lost = sum(code in few for code in labs)
    assert found["families"]["LAB"]["unknown"] == pytest.approx(lost / len(labs))
    plain = others.prepare(strangers, trained, tmp_path / "plain")["summary"]["known"]
    assert found["unknown"] - plain["unknown"] == pytest.approx(lost / found["events"])
    assert plain["families"]["LAB"]["unknown"] == 0.0 and found["events"] == plain["events"]
    assert f"  LAB: 0.0% fell back, {lost / len(labs):.1%} unknown" in capsys.readouterr().out


def test_too_little_is_known(trained, strangers, tmp_path):
    foreign = renamed(strangers, tmp_path / "foreign", lambda c: c if c.startswith("MEDS_") else f"THEIRS//{c}")
    with pytest.raises(UserError, match=r"the model knows \d+% of the events, and 50% are needed") as e:
        others.prepare(foreign, trained, tmp_path / "out")
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="the model knows"):  # also when the artifacts are there
        others.prepare(foreign, trained, tmp_path / "out")
    assert others.prepare(foreign, trained, tmp_path / "out", least_known=0.0)["summary"]["known"]["unknown"] > 0.5


def test_what_a_code_becomes(tmp_path):
    """Counts by hand: what is known, what fell back, what is unknown, and what does not count."""
    day = made_up.DAY
    train = {
        p: [(None, "GENDER//F", None), (p * day, "MEDS_BIRTH", None)]
        + [(20_000 * day + k, "LAB//1//MG", float(k)) for k in range(30)]
        + [(20_001 * day, "MED//A", None), (20_001 * day, "MED//A//ORAL", None)]
        for p in range(20)
    }
    made_up.write(tmp_path / "events", train=train, tuning={90: train[0]})
    (tmp_path / "timelines").mkdir()
    timelines.build(tmp_path / "events", tmp_path / "timelines", min_count=5)
    vocabulary = timelines.vocabulary(tmp_path)
    theirs = {
        500: [
            *((None, "GENDER//F", None), (None, "GENDER//X", None), (None, "SHOE", None)),
            *((day, "MEDS_BIRTH", None), (2 * day, "LAB//1//MG", 3.0), (2 * day, "LAB//2//MG", 3.0)),
            *((3 * day, "MED//A//ORAL", None), (3 * day, "MED//A//NASAL", None), (3 * day, "JOB//clerk", None)),
        ]
    }
    made_up.write(tmp_path / "theirs", train=train, held_out=theirs)
    path = tmp_path / "theirs/data/held_out/0.parquet"
    assert known.count(path, vocabulary, maps.load(None)) == {
        "GENDER": [2, 0, 1],
        "LAB": [2, 0, 1],
        "MED": [2, 1, 0],
        known.OTHERS: [2, 0, 2],
    }
    # Families of fewer than ten events are not told by themselves
    told = known.shares([{"LAB": [9, 0, 9], "MED": [40, 10, 0]}, {"LAB": [0, 0, 0], known.OTHERS: [1, 0, 1]}])
    assert told == {
        **{"events": 50, "known": 0.6, "fallen_back": 0.2, "unknown": 0.2},
        "families": {
            "MED": {"known": 0.75, "fallen_back": 0.25, "unknown": 0.0},
            known.OTHERS: {"known": 0.0, "fallen_back": 0.0, "unknown": 1.0},
        },
    }


def test_mistakes_are_told_in_one_line(trained, tmp_path):
    with pytest.raises(UserError, match=r"--data=.* holds none of hosp/ \(MIMIC-IV\)"):
        others.prepare(tmp_path, trained, tmp_path / "out")
    with pytest.raises(UserError, match=r"--data=.*none is no folder"):
        others.prepare(tmp_path / "none", trained, tmp_path / "out")
    with pytest.raises(UserError, match="--task=drg has no yes-or-no outcome"):
        predict.of_cohort("drg")
    with pytest.raises(UserError, match="neither --labels nor --task"):
        predict.of_cohort(None)
    assert not list(tmp_path.iterdir())


def run(*flags):
    command = [sys.executable, "-m", "launch.predict", *flags]
    return forked.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.nightly
def test_the_command(trained, strangers, asked, tmp_path):
    flags = [f"--model={trained}", f"--data={strangers}", f"--out={tmp_path / 'p'}", f"--task={TASK}"]
    done = run(*flags, "--split=held_out")
    assert done.returncode == 1 and "--split does not apply with --data" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "--split is missing" in run(flags[0], flags[2], "--labels=x").stderr
    done = run(*flags, "--new_tokens=2000000000")
    assert re.fullmatch(r"error: no memory is left.*: fewer --copies or --new_tokens\n", done.stderr)
    done = run(*flags, "--copies=3", "--new_tokens=24")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "p" / predict.METRICS).read_text())
    assert written["metrics"]["n"] == disclosure.told(asked[1]["metrics"]["n"], False) and written["task"] == TASK
    assert written["metrics"]["auroc"] == pytest.approx(asked[1]["metrics"]["auroc"], abs=0.01)
    assert set(written["known"]) == {"events", "known", "fallen_back", "unknown", "families"}
    assert f"AUROC {written['metrics']['auroc']:.3f} (" in done.stdout and "events in the model's vo" in done.stdout


def test_nobody_is_asked_whom_the_model_was_trained_on(trained, asked, tmp_path):
    """The same number is another person, where the birth differs."""
    folder = tmp_path / "meds"
    (folder / "metadata").mkdir(parents=True)
    (folder / "data").mkdir()
    shutil.copy(trained / "events/metadata/codes.parquet", folder / "metadata")
    files = [path for name in ("train", "held_out") for path in sorted((trained / "events/data" / name).glob("*"))]
    every = pa.concat_tables(map(pq.read_table, files))
    pq.write_table(every, folder / "data/all.parquet")
    out = tmp_path / "out"
    others.prepare(folder, trained, out)
    known = others.trained_on(trained, out)
    ids = pq.read_table(trained / "events/metadata/subject_splits.parquet").to_pydict()
    split = dict(zip(ids["subject_id"], ids["split"], strict=True))
    in_both = set(every["subject_id"].to_pylist())
    assert set(known.tolist()) == {i for i in in_both if split[i] == "train"}
    done = predict.predict(trained, predict.of_cohort(TASK), out, others.SPLIT, patients=out, **FAST)
    assert done["stays"] == asked[1]["stays"]
    assert done["left_out"]["of patients the model was trained or chosen on"] > 50
    assert rows(out / predict.FILE)["subject_id"] == rows(asked[0] / predict.FILE)["subject_id"]
    # Of somebody else's patients, born on other days, nobody is known.
    moved = renamed_births(every)
    pq.write_table(moved, folder / "data/all.parquet")
    others.prepare(folder, trained, tmp_path / "moved")
    assert not len(others.trained_on(trained, tmp_path / "moved"))


def renamed_births(table):
    """The same events, each patient born an hour earlier."""
    births = pc.equal(table["code"], "MEDS_BIRTH")
    hour = pa.scalar(3_600_000_000, pa.duration("us"))
    times = pc.if_else(births, pc.subtract(table["time"], hour), table["time"])
    return table.set_column(table.schema.get_field_index("time"), "time", times)
