"""From trained cells to heads and their scores: written whole, resumed, and never from a label of a test stay."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts, study
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import evaluate, probabilities, scoring
from ehr_scaling.outcomes.asking import cohort, questions, stays
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging.metrics import metrics
from ehr_scaling.outcomes.supervised import heads, records, supervise
from ehr_scaling.outcomes.supervised.finetune import Recipe
from ehr_scaling.training import loop
from tests import small

pytestmark = pytest.mark.usefixtures("few_trees")
TASK = dataclasses.replace(tasks.load()["in_hospital_death_24h"], name="death_12h", hours=12.0)
OPTIONS = {"context": 64, "copies": 2, "new_tokens": 24, "max_samples": 200, "train_samples": 600, "draws": 50}
RECIPE = Recipe(rates=(1e-3,), epochs=1, least_updates=2)
ASKED = {"counts": (20, None), "draws": 2, "recipe": RECIPE}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with two finished cells that differ in their seed, a prepared task with a baseline, and made-up
    zero-shot risks of the first cell."""
    workdir = tmp_path_factory.mktemp("study")
    config = small.config(**{"data.patients": 2000, "grid.seeds": (0, 1)})
    study.prepare(config, workdir)
    points = [{"budget": 1.2e9, "size": "3.5k", "seed": seed} for seed in (0, 1)]
    cells = study.plan(config, points, workdir)
    for cell in cells:
        loop.job([cell], workdir, small.silent)
    questions.prepare(workdir, TASK, **OPTIONS)
    evaluate.baseline(workdir, TASK)
    return workdir, sorted(manifest.read(workdir / "grid"), key=lambda cell: cell.seed)


@pytest.fixture
def study_of(trained, tmp_path):
    """A copy of it that a test may change."""
    workdir = tmp_path / "copy"
    shutil.copytree(trained[0], workdir)
    return workdir, trained[1]


def zero_shot(workdir, cell):
    """Made-up risks of the test stays, as a score leaves them."""
    folder = workdir / "outcomes" / TASK.name
    asked = questions.load(folder).stays
    risks = np.random.default_rng(cell.seed).random(len(asked.times)) * 0.5 + 0.3 * asked.labels
    predictions.write_binary(folder / f"{cell.id}.parquet", asked, risks)
    return risks


def test_heads_are_fitted_once_scored_and_averaged(study_of, monkeypatch):
    workdir, cells = study_of
    for cell in cells:
        zero_shot(workdir, cell)
    planned = supervise.plan(workdir, **ASKED)
    assert [cell.id for cell in planned.cells] == [cell.id for cell in cells]  # both seeds, without being named
    scores = supervise.run(workdir, planned, workers=1)
    folder = workdir / "outcomes" / TASK.name
    labels = ("20-1", "20-2", "all")
    each = {f"{TASK.name}/{m}/{n}/{cell.id}" for m in heads.METHODS for n in labels for cell in cells}
    means = {key for key in scores if "/mean-" in key}
    assert set(scores) == each | means and len(means) == 2 * 3 + 1  # the zero-shot risks too
    asked = questions.load(folder).stays
    for key, score in scores.items():
        file = folder / "supervised" / f"{key.removeprefix(f'{TASK.name}/')}.json"
        assert artifacts.read_json(file) == score and score["n"] == len(asked.labels)
        said = probabilities.answers(file.with_suffix(".parquet"))
        np.testing.assert_array_equal(said.subject_ids, asked.subject_ids)
        np.testing.assert_array_equal(said.labels, asked.labels)
        assert score["auroc"] == pytest.approx(metrics.auroc(asked.labels, said.probabilities.astype(float)))
        assert {"low", "auprc", "subgroups", "calibration_curve", "against_baseline"} <= set(score)
        assert ("against_zero_shot" in score) == ("/zero-shot/" not in key)
    few, every = (scores[f"{TASK.name}/probe/{n}/{cells[0].id}"] for n in ("20-1", "all"))
    assert (few["labels"], few["draw"], few["train_stays"], few["tuning_stays"]) == (20, 1, 20, 20)
    assert (every["labels"], every["train_stays"]) == ("all", 600) and every["tuning_stays"] > 20
    tuned = scores[f"{TASK.name}/finetune/all/{cells[0].id}"]
    assert tuned["tuning_loss"] == min(tuned["tuning_losses"]["0.001"]) and tuned["recipe"]["epochs"] == 1

    of_seeds = [probabilities.answers(folder / "supervised" / "probe" / "all" / f"{cell.id}.parquet") for cell in cells]
    name = next(key for key in means if "/probe/all/" in key)
    mean = probabilities.answers(folder / "supervised" / f"{name.removeprefix(f'{TASK.name}/')}.parquet")
    np.testing.assert_allclose(mean.probabilities, np.mean([s.probabilities for s in of_seeds], axis=0), atol=1e-7)
    assert scores[name]["cells"] == sorted(cell.id for cell in cells)
    assert supervise.describe(planned, workdir, scores).count(" ± ") == 1 + 2 * 3  # of the header, and of each row

    # What is there is not made again; what is missing is, and comes out the same
    monkeypatch.setattr(records, "restored_params", lambda *args: pytest.fail("fitted again"))
    assert supervise.run(workdir, planned, workers=1) == scores
    monkeypatch.undo()
    gone = folder / "supervised" / "finetune" / "20-2" / f"{cells[1].id}.json"
    gone.unlink()
    fitted = []
    fit = heads.fit
    monkeypatch.setattr(heads, "fit", lambda *args, **about: fitted.append(about["count"]) or fit(*args, **about))
    again = supervise.run(workdir, planned, workers=1)
    key = f"{TASK.name}/finetune/20-2/{cells[1].id}"
    clock = {"seconds": 0, "fitted_at": 0}
    assert fitted == [20] and again[key] | clock == scores[key] | clock
    assert {name: score for name, score in again.items() if name != key}.items() <= scores.items()


def test_a_zero_shot_score_that_comes_later_is_compared_without_fitting_again(study_of, monkeypatch):
    workdir, cells = study_of
    planned = supervise.plan(workdir, cells=[cells[0].id], methods=(heads.PROBE,))
    (key,) = before = supervise.run(workdir, planned, workers=1)
    assert "against_zero_shot" not in before[key] and "against_baseline" in before[key]
    risks = zero_shot(workdir, cells[0])
    monkeypatch.setattr(heads, "fit", lambda *args, **about: pytest.fail("fitted again"))
    after = supervise.run(workdir, planned, workers=1)
    asked = questions.load(workdir / "outcomes" / TASK.name).stays
    first = metrics.auroc(asked.labels, risks.astype(np.float32).astype(float))
    assert after[key]["against_zero_shot"]["auroc"]["first"] == pytest.approx(first)
    assert {name: after[key][name] for name in before[key]} == before[key]


def test_a_head_is_judged_anew_of_what_it_said_and_not_fitted_again(study_of, monkeypatch):
    """Where the baseline was fitted anew or came later, and where the measures are of another version."""
    workdir, cells = study_of
    folder = workdir / "outcomes" / TASK.name
    for path in folder.glob("baseline.*"):
        path.rename(path.with_suffix(f"{path.suffix}.away"))
    planned = supervise.plan(workdir, cells=[cells[0].id], methods=(heads.PROBE,))
    (key,) = first = supervise.run(workdir, planned, workers=1)
    assert "against_baseline" not in first[key]
    monkeypatch.setattr(heads, "fit", lambda *args, **about: pytest.fail("fitted again"))
    for path in folder.glob("baseline.*.away"):
        path.rename(path.with_suffix(""))
    later = supervise.run(workdir, planned, workers=1)[key]
    assert {k: v for k, v in later.items() if k != "against_baseline"} == first[key] | {"baseline": later["baseline"]}
    artifacts.write_sealed(
        folder / "baseline.json", artifacts.read_json(folder / "baseline.json") | {"fingerprint": "of more features"}
    )
    compared = []
    compare = records.paired.compare
    monkeypatch.setattr(records.paired, "compare", lambda *args, **about: compared.append(1) or compare(*args, **about))
    anew = supervise.run(workdir, planned, workers=1)[key]
    assert compared == [1] and anew == later | {"baseline": "of more features"}
    monkeypatch.setattr(scoring, "VERSION", scoring.VERSION + 1)
    assert supervise.run(workdir, planned, workers=1)[key] == anew | {"judged": scoring.VERSION}


def test_a_score_says_how_its_head_was_fitted(study_of):
    workdir, cells = study_of
    about = {"counts": (20,), "draws": 1, "recipe": RECIPE}
    scores = supervise.run(workdir, supervise.plan(workdir, **about), workers=1)
    way = {method: {s["way"] for key, s in scores.items() if f"/{method}/" in key} for method in heads.METHODS}
    assert [len(some) for some in way.values()] == [1, 1] and way[heads.PROBE] != way[heads.FINETUNE]
    about["recipe"] = RECIPE._replace(epochs=0)
    one = supervise.run(workdir, supervise.plan(workdir, cells=[cells[0].id], **about), workers=1)
    for method in heads.METHODS:
        (now,) = (score["way"] for key, score in one.items() if f"/{method}/" in key)
        assert (now in way[method]) == (method == heads.PROBE)  # of which epochs are no part
    request = supervise.plan(workdir, cells=[cells[0].id], **about).requests[0]
    with pytest.raises(UserError, match=r"finetune/20-1/.*parquet is of another recipe or seed than is asked for"):
        records.of_means(workdir, cells, request)


def write_labels(path, workdir):
    """A label file of the stays of TASK, of all splits."""
    every = [cohort.stays(workdir, split, TASK) for split in ("train", "validation", "test")]
    subjects, times, labels = (np.concatenate([s[i] for s in every]) for i in (4, 3, 5))
    at = pa.array(times, pa.int64()).cast(pa.timestamp("us"))
    path.parent.mkdir()
    pq.write_table(pa.table({"subject_id": subjects, "prediction_time": at, "boolean_value": labels}), path)


def test_tasks_of_label_files_are_learnt_wherever_their_files_lie(study_of, tmp_path):
    """Several task files one after the other, as launch.evaluate prepares them, none of which the config names."""
    workdir, cells = study_of
    labelled = []
    for name in ("one", "two"):
        write_labels(path := tmp_path / name / "labels.parquet", workdir)
        about = {"hours": None, "anchor": (), "labels": str(path), "name": name}
        labelled.append(dataclasses.replace(TASK, **about))
        questions.prepare(workdir, labelled[-1], **OPTIONS)
    planned = supervise.plan(workdir, methods=(heads.PROBE,))
    assert [request.tasks[0] for request in planned.requests] == [TASK.name, "one", "two"] and len(planned.notes) == 1
    for task in labelled:
        assert heads.question_of(workdir, task.name).task == task
        assert str(tmp_path) not in (workdir / "outcomes" / task.name / artifacts.RECORD).read_text()
    risks = [heads.predict(workdir, cells[0], task, methods=(heads.PROBE,))[heads.PROBE] for task in ("one", "two")]
    np.testing.assert_array_equal(*risks)
    # Gone or others: that task is passed over where it was not named
    (tmp_path / "one").rename(tmp_path / "away")
    planned = supervise.plan(workdir, methods=(heads.PROBE,))
    assert [request.tasks[0] for request in planned.requests] == [TASK.name, "two"]
    assert "one is passed over: one asks by label files (labels.parquet), which are gone" in planned.notes[1]
    with pytest.raises(UserError, match=r"one asks by label files .* prepare it again with launch.evaluate"):
        supervise.plan(workdir, tasks=["one"])
    # Where they lie now is kept when the task is prepared again
    questions.prepare(
        workdir, dataclasses.replace(labelled[0], labels=str(tmp_path / "away/labels.parquet")), **OPTIONS
    )
    assert len(supervise.plan(workdir, methods=(heads.PROBE,)).requests) == 3


def test_a_task_whose_train_stays_have_one_outcome_is_passed_over(study_of, monkeypatch):
    workdir, _ = study_of
    few = dataclasses.replace(TASK, name="of_few")
    seed = next(s for s in range(99) if not cohort_of_four(workdir, s).any())
    questions.prepare(workdir, few, **OPTIONS | {"train_samples": 4, "seed": seed})
    planned = supervise.plan(workdir)
    assert [request.tasks for request in planned.requests] == [(TASK.name,)]
    assert "of_few is passed over: of the stays of the train split" in planned.notes[1]
    assert "none has the outcome" in planned.notes[1]
    with pytest.raises(UserError, match="of_few is passed over"):
        supervise.plan(workdir, tasks=["of_few"])
    with pytest.raises(tasks.Unanswerable, match="none has the outcome"):
        heads.data_of(workdir, heads.question_of(workdir, "of_few"))


def cohort_of_four(workdir, seed):
    return stays.subsample(cohort.stays(workdir, "train", TASK), 4, None, seed).labels


def test_no_label_of_a_test_stay_is_read(trained, monkeypatch):
    """With every test label turned round, and the test cohort out of reach, the risks are the same to the last bit."""
    workdir, cells = trained
    predict = lambda: heads.predict(workdir, cells[0], TASK.name, recipe=RECIPE, count=100)  # noqa: E731
    risks = predict()
    asked = questions.load(workdir / "outcomes" / TASK.name).stays
    assert set(risks) == set(heads.METHODS) and all(p.shape == asked.labels.shape for p in risks.values())
    load, find = questions.load, cohort.stays

    def turned_round(folder):
        samples = load(folder)
        return samples._replace(stays=samples.stays._replace(labels=~samples.stays.labels))

    def known(folder, split, task):
        assert split in ("train", "validation")
        return find(folder, split, task)

    monkeypatch.setattr(questions, "load", turned_round)
    monkeypatch.setattr(cohort, "stays", known)
    for method, p in predict().items():
        np.testing.assert_array_equal(p, risks[method])
    # Those of train stays do matter
    monkeypatch.setattr(cohort, "stays", lambda *args: (every := find(*args))._replace(labels=~every.labels))
    assert (predict()["probe"] != risks["probe"]).any()


def test_a_probe_knows_more_than_chance(trained):
    workdir, cells = trained
    p = heads.predict(workdir, cells[0], TASK.name, methods=("probe",))["probe"]
    score = metrics.evaluate(
        (asked := questions.load(workdir / "outcomes" / TASK.name).stays).labels, p, asked.patients, draws=100
    )
    assert score["auroc"] > 0.65 and score["low"] > 0.5


def test_what_cannot_be_is_refused_before_anything_is_fitted(study_of):
    workdir, cells = study_of
    for about, message in (
        ({"tasks": ["nothing"]}, "--task=nothing is not prepared in .*: take one of death_12h"),
        ({"cells": ["nobody"]}, "--cell=nobody is not in .*: take an id from there"),
    ):
        with pytest.raises(UserError, match=message):
            supervise.plan(workdir, **about)
    questions.prepare(workdir, tasks.load()["length_of_stay"], **OPTIONS)
    with pytest.raises(UserError, match="--task=length_of_stay asks for a number of days"):
        supervise.plan(workdir, tasks=["length_of_stay"])
    assert [request.tasks for request in supervise.plan(workdir).requests] == [(TASK.name,)]
    many = supervise.plan(workdir, counts=(20, 10_000, 20_000))
    assert many.requests[0].counts == (20, None) and "600 labelled stays" in many.notes[1]
    record = artifacts.read_json((folder := workdir / "outcomes" / TASK.name) / artifacts.RECORD)
    artifacts.write_sealed(folder / artifacts.RECORD, {**record, "inputs": {**record["inputs"], "timelines": "else"}})
    with pytest.raises(UserError, match="other timelines"):
        supervise.plan(workdir, cells=[cells[0].id])


def test_the_cost_is_told_and_counted(trained):
    workdir, cells = trained
    planned = supervise.plan(workdir, **ASKED)
    text = supervise.cost_of(workdir, planned, 2)
    assert text.count("fine-tuning, 20 labels") == 1 and "at most" in text
    assert f"{'3.5k':>6} {2:6} {2 * 2:6}" in text  # two draws of two models
    data = heads.data_of(workdir, heads.question_of(workdir, TASK.name))
    read = []
    model = heads.read(*records.restored_params(cells[0], workdir / "runs" / cells[0].id), data, read.append)
    for count, draw in planned.requests[0].known():
        heads.fit(model, data, heads.FINETUNE, RECIPE, count=count, draw=draw, report=read.append)
    from ehr_scaling.outcomes.supervised import cost

    counted = cost.of_cell(cells[0], [data], planned.requests[0])
    assert sum(read) == pytest.approx(counted.tokens, rel=0.1)  # batches are cut to their longest prompt
    # A pass forward over a position: body without the head of the vocabulary, and attention to half of the width
    each = 2 * (cells[0].N_body - 5 * cells[0].width) + 2 * 2 * cells[0].layers * cells[0].width * 21
    assert counted.flops / counted.tokens == pytest.approx(each, rel=0.05)


@pytest.mark.nightly
def test_the_command(study_of):
    workdir, _ = study_of
    run = lambda *flags: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "launch.supervise", f"--workdir={workdir}", *flags],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    done = run("--dry_run", "--labels=20,all")
    assert done.returncode == 0 and "FLOPs" in done.stdout and "fine-tuning, 20 labels" in done.stdout
    assert not (workdir / "outcomes" / TASK.name / "supervised").exists()
    done = run("--methods=probe", "--labels=20,all", "--draws=1", "--workers=2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "probe, all labels" in done.stdout and " ± " in done.stdout and "logistic regression" in done.stdout
    assert len(list((workdir / "outcomes").glob("*/supervised/probe/*/*.json"))) == 2 * 3
    for flag, message in (
        ("--methods=guess", "--methods=guess: take probe or finetune, or both"),
        ("--labels=none", "--labels=none: take numbers from 4 up, or all"),
        ("--rates=fast", "--rates=fast: take numbers between 0 and 1"),
        ("--task=x", "--task=x is not prepared"),
        ("--distributed", "fine-tuning is by the devices of one process: give --methods=probe, or leave out --dist"),
    ):
        done = run(flag)
        assert done.returncode == 1 and f"error: {message}" in done.stderr, done.stderr
