"""The face of the package calls what the commands call, and says a mistake in one line."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

import ehr_scaling as ehr
from ehr_scaling.configs import base
from ehr_scaling.errors import UserError
from ehr_scaling.finished_models import release
from ehr_scaling.grid import manifest
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import evaluate
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.sampler.simulate import POSITIVE
from tests import small

TASK = "in_hospital_death_24h"
CONFIG = SimpleNamespace(get_config=small.config, sweep=base.sweep)  # as a module of the user's own
SETTINGS = {"data.patients": 1200, "data.splits": (0.5, 0.1, 0.4), "grid.budgets": (4e8, 1.2e9)}
FAST = {"copies": 3, "new_tokens": 24}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory, and the better of its two models."""
    workdir = tmp_path_factory.mktemp("study") / "w"
    return workdir, ehr.train(workdir, CONFIG, SETTINGS)


@pytest.fixture(scope="module")
def simulated(trained):
    workdir, model = trained
    return ehr.simulate(model, workdir, TASK, **FAST)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a.params, b.params)))


def test_the_model_is_the_better_one_and_the_same_when_it_has_left(trained, tmp_path):
    workdir, model = trained
    cells = manifest.read(Layout(workdir).grid)
    longer, shorter = sorted(cells, key=lambda cell: -cell.flops)
    assert same(model, ehr.load_model(workdir, longer.id)) and not same(model, ehr.load_model(workdir, shorter.id))
    assert (model.name, model.context) == ("3.5k", 64) and model.vocabulary == ehr.vocabulary(workdir).fingerprint
    release.release(workdir, tmp_path / "out")
    left = ehr.load_model(tmp_path / "out")
    assert left[2:] == model[2:]
    futures = [ehr.simulate(m, workdir, TASK, patients=range(100), **FAST).futures for m in (model, left)]
    np.testing.assert_array_equal(futures[0].tokens, futures[1].tokens)


def test_it_does_no_work_twice(trained, monkeypatch):
    workdir, model = trained
    monkeypatch.setattr("ehr_scaling.training.loop.job", lambda *a: pytest.fail("trained again"))
    assert same(ehr.train(workdir, CONFIG, SETTINGS), model)
    assert ehr.prepare(workdir, CONFIG, SETTINGS) == workdir


def test_the_risks_are_those_of_the_study(trained, simulated):
    """All who can be asked are, and each gets the same futures as where a study scores the model."""
    workdir, _ = trained
    cell = max(manifest.read(Layout(workdir).grid), key=lambda cell: cell.flops)
    questions.prepare(workdir, ehr.tasks()[TASK], context=64, max_samples=None, **FAST)
    evaluate.job([cell], workdir, small.silent)
    table = pq.read_table(Layout(workdir).task(TASK) / f"{cell.id}.parquet")
    np.testing.assert_array_equal(simulated.labels, table["boolean_value"].to_numpy())
    risks, _ = estimators.filled(simulated.risk.probability)
    np.testing.assert_allclose(risks, table["predicted_boolean_probability"].to_numpy(), rtol=1e-6)
    assert repr(simulated) == f"{TASK}: {len(risks)} stays, 3 futures each"


def test_some_patients_have_the_futures_they_have_among_all(trained, simulated):
    workdir, model = trained
    some = sorted(set(simulated.patients.tolist()))[3:6]
    alone = ehr.simulate(model, workdir, ehr.tasks()[TASK], patients=some, **FAST)
    rows = np.isin(simulated.patients, some)
    np.testing.assert_array_equal(alone.patients, simulated.patients[rows])
    np.testing.assert_array_equal(alone.futures.tokens, simulated.futures.tokens[rows])
    other = ehr.simulate(model, workdir, TASK, patients=some, **FAST, seed=1)
    assert not np.array_equal(other.futures.tokens, alone.futures.tokens)


def test_what_is_read_of_a_future(trained, simulated):
    workdir, _ = trained
    names, futures = ehr.vocabulary(workdir).tokens, simulated.futures
    i, c = (int(at[0]) for at in np.nonzero(futures.lengths > 3))
    told = simulated.tokens(i, c)
    assert len(told) == futures.lengths[i, c] and told[0] == names[futures.tokens[i, c, 0]]
    died = (futures.ended[:, :, 0] == POSITIVE).any(1)
    assert died.any() and not died.all()
    for stay in (int(died.argmax()), int(died.argmin())):
        curve = simulated.incidence(stay)
        assert (curve.share[-1] > 0) == died[stay] and (np.diff(curve.share) >= 0).all()


def test_timelines_and_a_patient_are_the_same_ones(trained):
    workdir, _ = trained
    names = ehr.vocabulary(workdir).tokens
    second = list(ehr.timelines(workdir, "test"))[1]
    told = ehr.patient(workdir, "test", 1)
    events = [token for moment in told.moments for event in moment.events for token in event]
    assert set(events) <= {names[t] for t in second["tokens"]} and told.tokens == len(second["tokens"])


def test_the_published_table_is_that_of_the_repository():
    assert len(ehr.analysis.read(ehr.published("challenge_2012"))) == 148


def test_a_config_of_the_package_by_its_name(tmp_path):
    settings = {"data.patients": 60, "data.context": 64, "workers": 1}
    assert ehr.prepare(tmp_path / "w", "quickstart", settings) == tmp_path / "w"
    assert sum(1 for split in ("train", "validation", "test") for _ in ehr.timelines(tmp_path / "w", split)) == 60


MISTAKES = {
    "data.patientz is no field of configs/base.py: did you mean data.patients": lambda w, m: ehr.prepare(
        w, "quickstart", {"data.patientz": 3}
    ),
    "data.patients.x is no field of configs/base.py": lambda w, m: ehr.prepare(w, "quickstart", {"data.patients.x": 3}),
    "settings: data.patients: ": lambda w, m: ehr.run_study(w, "quickstart", {"data.patients": "many"}),
    "config=.*records gives no config so": lambda w, m: ehr.prepare(w, "records"),
    "config=.*quickstart gives no config so": lambda w, m: ehr.prepare(w, "quickstart:x"),
    r"configs/published\.py:nope: take one of base": lambda w, m: ehr.prepare(w, "published:nope"),
    "--patient=-1: the split test has": lambda w, m: ehr.patient(w, "test", -1),
    "config='quikstart' is none": lambda w, m: ehr.train(w, "quikstart"),
    "'challenge' is published: take one of challenge_2012": lambda w, m: ehr.published("challenge"),
    "neither the work directory of a study nor": lambda w, m: ehr.load_model(w / "runs"),
    "--cell=0 is not in": lambda w, m: ehr.load_model(w, "0"),
    "task='death' is none: take one of": lambda w, m: ehr.simulate(m, w, "death"),
    "length_of_stay is not answered by yes or no": lambda w, m: ehr.simulate(m, w, "length_of_stay"),
    "copies=0: take 1 or more": lambda w, m: ehr.simulate(m, w, copies=0),
    "there is no split 'held_out'": lambda w, m: ehr.simulate(m, w, split="held_out"),
    "nobody of these patients; .* stays asked": lambda w, m: ehr.simulate(m, w, patients=[10**6]),
    "another vocabulary than that of the model": lambda w, m: ehr.simulate(m._replace(vocabulary="x"), w),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line(message, trained):
    with pytest.raises(UserError, match=message):
        MISTAKES[message](*trained)


def test_an_exported_model_is_one(trained, tmp_path):
    release.release(trained[0], tmp_path / "out")
    with pytest.raises(UserError, match="is an exported model, of which there is one"):
        ehr.load_model(tmp_path / "out", "0")


def test_a_task_may_be_changed(trained, simulated):
    workdir, model = trained
    later = dataclasses.replace(ehr.tasks()[TASK], hours=72)
    assert 0 < len(ehr.simulate(model, workdir, later, **FAST).labels) < len(simulated.labels)


def test_a_whole_study_says_its_steps(tmp_path, monkeypatch, capsys):
    """Half a minute of silence looks like one that hangs."""
    monkeypatch.setattr("ehr_scaling.study.run", lambda config, points, workdir, say: say("fitting the laws"))
    assert ehr.run_study(tmp_path, CONFIG, SETTINGS) == tmp_path / "report" / "report.html"
    assert capsys.readouterr().out == "[   0 s] fitting the laws\n"
