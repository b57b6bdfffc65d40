"""Models that start from the weights of a finished one: the same model at step 0, and rows by the names of tokens."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from ehr_scaling import artifacts, study
from ehr_scaling.configs import base
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import RunFailed, UserError
from ehr_scaling.finished_models import release, warm_start
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import units
from ehr_scaling.layout import Layout
from ehr_scaling.models import export
from ehr_scaling.processes import agreement
from ehr_scaling.training import checkpoint, initial, loop
from ehr_scaling.training.evaluation import evaluate
from ehr_scaling.training.run import Run, begin
from ehr_scaling.training.setup import restored_params, setup, states
from ehr_scaling.training.step import init
from tests import small

EXACT = ("curve", "validation_loss", "validation_loss_se", "real_tokens", "train_loss", "skipped")
OTHER = {"data.tokens.intervals": 19}  # another vocabulary, of which some tokens are the same


def planned(workdir, **changes):
    config = small.config(**changes)
    study.prepare(config, workdir)
    return study.plan(config, list(base.sweep(config)), workdir)


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A work directory with one finished model, and its cell."""
    workdir = tmp_path_factory.mktemp("donor") / "w"
    (cell,) = planned(workdir)
    loop.job([cell], workdir, small.silent)
    return workdir, cell


@pytest.fixture(scope="module")
def warm(donor, tmp_path_factory):
    """A work directory of the same records, whose two cells start from that model, and the cells."""
    workdir = tmp_path_factory.mktemp("warm") / "w"
    shutil.copytree(donor[0], workdir, ignore=shutil.ignore_patterns("grid", "runs"))
    return workdir, planned(workdir, **{"training.init_from": str(donor[0]), "grid.seeds": (0, 5)})


@pytest.fixture(scope="module")
def other(donor, tmp_path_factory):
    """A work directory with another vocabulary, its cell, and what was said of the weights."""
    workdir = tmp_path_factory.mktemp("other") / "w"
    (cell,) = planned(workdir, **OTHER)
    weights, line = bring(str(donor[0]), workdir)
    return workdir, replace(cell, init=weights, id="").named(), line


def bring(init_from, workdir, size="3.5k", mixing="conv"):
    shape = warm_start._shape(warm_start.sizes.get(size), True, mixing)
    return warm_start.bring(init_from, size, shape, workdir)


def at_step_0(cells, workdir):
    """Parts of the program, and the state with which runs of these cells begin."""
    parts = setup(cells)
    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(parts.mesh))
        runs = [Run(cell, Layout(workdir).run(cell.id)) for cell in cells]
        for run in runs:
            stack.callback(run.saver.close)
        return parts, begin(parts, runs, workdir)[0]


def test_at_step_0_it_is_the_other_model(donor, warm):
    workdir, cells = warm
    result = checkpoint.result(Layout(donor[0]).run(donor[1].id))
    parts, state = at_step_0(cells, workdir)  # two members, whose seeds differ
    assert not state.step.any()
    with jax.set_mesh(parts.mesh):
        packed = Layout(workdir).packed(cells[0].context)
        found = evaluate(cells[0], state.params, packed, "validation", cells[0].validation_sequences, parts)
    assert [metrics["loss"] for metrics in found] == pytest.approx([result["validation_loss"]] * 2, rel=1e-6)


def test_it_is_another_cell_and_says_from_what(donor, warm):
    workdir, cells = warm
    record = artifacts.record(Layout(workdir).initial("3.5k"))
    assert {cell.init for cell in cells} == {record["inputs"]["weights"]} and donor[1].init == ""
    assert cells[0].seed == donor[1].seed and cells[0].id != donor[1].id
    assert replace(cells[0], init="", id="").named().id == donor[1].id  # all else is the same
    assert [cell.init for cell in manifest.read(Layout(workdir).grid)] == [cell.init for cell in cells]
    assert "init_from" not in json.dumps(artifacts.record(Layout(workdir).grid)["inputs"])


def test_resumed_is_undisturbed(warm, tmp_path, monkeypatch):
    workdir, cells = warm
    seen, together = set(), agreement.together
    with monkeypatch.context() as watched:
        watched.setattr(agreement, "together", lambda see: seen.add(see.__qualname__) or together(see))
        metrics = loop.job(cells[:1], workdir, small.silent)[0]
    assert "lay_over.<locals>.look" in seen  # what one of several processes finds wrong with them all learn
    again = tmp_path / "w"
    shutil.copytree(workdir, again, ignore=shutil.ignore_patterns("runs"))
    cell, left = replace(cells[0], engine=replace(cells[0].engine, checkpoint_seconds=0.0)), [cells[0].tokens // 2]

    def interrupt(tokens, before=False):
        left[0] -= tokens
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.job([cell], again, interrupt)
    shutil.rmtree(Layout(again).initial("3.5k"))  # what has begun needs it no more
    resumed = loop.job([cell], again, small.silent)[0]
    assert {name: resumed[name] for name in EXACT} == {name: metrics[name] for name in EXACT}
    fresh = checkpoint.result(Layout(workdir).run(cells[0].id))
    assert fresh["init"] == cells[0].init and metrics["curve"][0][1] < 4.5  # a fresh model's is above 5


def test_rows_go_by_the_names_of_tokens(donor, other):
    workdir, cell, line = other
    theirs, ours = (timelines.vocabulary(folder).tokens for folder in (donor[0], workdir))
    common = [token for token in ours if token in set(theirs)]
    assert 20 < len(common) < len(ours)
    assert f": {len(common)} of {len(ours)} tokens are matched by name, {len(ours) - len(common)} start afresh" in line
    _, given = restored_params(donor[1], Layout(donor[0]).run(donor[1].id))
    parts, state = at_step_0([cell], workdir)
    new = jax.tree.map(lambda x: np.asarray(x[0]), state.params)
    with jax.set_mesh(parts.mesh):
        fresh = states(parts.program, parts.mesh, 1).fresh(np.array([cell.seed], np.int32)).params
    for row in range(cell.padded_vocab):
        known = row < len(ours) and ours[row] in theirs
        expected = given["embedding"][theirs.index(ours[row])] if known else fresh["embedding"][0, row]
        np.testing.assert_array_equal(new["embedding"][row], expected)
    for name in ("blocks", "final_norm"):
        jax.tree.map(np.testing.assert_array_equal, new[name], given[name])


def test_a_head_of_its_own_goes_by_names_too(donor, tmp_path):
    """Rows of the embedding are columns of the head; here of an exported model, as others may have trained it."""
    shutil.copytree(donor[0], tmp_path / "w", ignore=shutil.ignore_patterns("grid", "runs"))
    cell = replace(donor[1], tied=False)
    program, names = setup([cell]).program, timelines.vocabulary(tmp_path / "w").tokens
    model, rng = program.model, np.random.default_rng(0)
    shapes = jax.eval_shape(partial(init, program), np.zeros(1, np.int32)).params
    params = jax.tree.map(lambda x: rng.normal(size=x.shape[1:]).astype(np.float32), shapes)
    (tmp_path / "out").mkdir()
    export.save(tmp_path / "out", model, params, cell.context)
    backwards = {token: len(names) - 1 - row for row, token in enumerate(names)}  # another order of the same tokens
    (tmp_path / "out" / release.TOKENS).write_text(json.dumps({"vocabulary": backwards}))
    shape = warm_start._shape(model.shape, False, "conv")
    weights, line = warm_start.bring(str(tmp_path / "out"), "3.5k", shape, tmp_path / "w")
    assert f"{len(names)} of {len(names)} tokens are matched by name, 0 start afresh, 0 of its own are left out" in line
    new = at_step_0([replace(cell, init=weights, id="").named()], tmp_path / "w")[1].params
    np.testing.assert_array_equal(new["head"][0][:, : len(names)], params["head"][:, : len(names)][:, ::-1])
    np.testing.assert_array_equal(new["embedding"][0][: len(names)], params["embedding"][: len(names)][::-1])


def test_an_exported_model_is_the_same_weights(donor, tmp_path):
    """Whichever way it comes: the fingerprint is that of the weights and their tokens."""
    release.release(donor[0], tmp_path / "out")
    from_study = warm_start._donor(f"{donor[0]}:{donor[1].id}", "3.5k")
    exported = warm_start._donor(str(tmp_path / "out"), "3.5k")
    best = warm_start._donor(str(donor[0]), "3.5k")
    assert len({warm_start._fingerprint(model) for model in (from_study, exported, best)}) == 1
    assert from_study.tokens == exported.tokens
    assert from_study.generated and not exported.generated  # a folder does not tell
    other = exported._replace(tokens=(*exported.tokens[:-2], *exported.tokens[:-3:-1]))
    assert warm_start._fingerprint(other) != warm_start._fingerprint(exported)
    moved = exported._replace(params={**exported.params, "embedding": exported.params["embedding"] + 1e-3})
    assert warm_start._fingerprint(moved) != warm_start._fingerprint(exported)


def test_what_cannot_be_is_one_line(donor, warm, tmp_path):
    workdir, said = donor[0], f"--config.training.init_from={donor[0]}"
    with pytest.raises(UserError, match=r"has no finished model of size 14k: it has 3\.5k"):
        bring(str(workdir), warm[0], "14k")
    with pytest.raises(UserError) as told:
        bring(f"{workdir}:{donor[1].id}", warm[0], "14k")
    theirs, ours = (f"width {warm_start.sizes.get(size).width}, " for size in ("3.5k", "14k"))
    assert f"(3.5k) of {workdir} has {theirs}" in str(told.value) and f"and 14k of this grid {ours}" in str(told.value)
    with pytest.raises(UserError, match=r"mixing conv, one matrix .* 3\.5k of this grid .* mixing none, one matrix"):
        bring(str(workdir), warm[0], mixing="none")
    with pytest.raises(UserError, match=f"{said}:{'0' * 16} has no finished cell {'0' * 16}: it has {donor[1].id}"):
        bring(f"{workdir}:{'0' * 16}", warm[0])
    with pytest.raises(UserError, match=r"is neither the work directory of a study nor a model that launch\.export"):
        bring(str(tmp_path), warm[0])


def test_a_grid_of_other_weights_is_refused(donor, warm):
    config = small.config(**{"grid.seeds": (0, 5)})
    with pytest.raises(UserError, match=r"made from other inputs \(initial was .*now None\)"):
        study.plan(config, list(base.sweep(config)), warm[0])


def test_weights_that_are_not_those_of_the_cell_are_not_started_from(warm, tmp_path):
    workdir, cells = tmp_path / "w", warm[1]
    shutil.copytree(warm[0], workdir, ignore=shutil.ignore_patterns("runs"))
    with pytest.raises(RunFailed, match="holds other weights than cell"):
        at_step_0([replace(cells[0], init="0" * 16)], workdir)
    path = Layout(workdir).initial("3.5k") / export.TENSORS
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        loop.verify(units(cells), workdir)


def test_what_has_learnt_of_real_patients_is_not_let_go_as_generated(warm, tmp_path):
    workdir, cells = tmp_path / "w", warm[1]
    shutil.copytree(warm[0], workdir, ignore=shutil.ignore_patterns("runs"))
    assert initial.of_generated(cells[0], workdir)
    path = Layout(workdir).initial("3.5k") / artifacts.RECORD
    record = artifacts.read_json(path)
    record["summary"]["generated"] = False
    artifacts.write_sealed(path, record)
    assert cells[0].generated and not initial.of_generated(cells[0], workdir)
    loop.job(cells[:1], workdir, small.silent)
    with pytest.raises(UserError, match=r"keeps tokens that fewer than 10 patients have \(min_patients is 0\)"):
        release.release(workdir, tmp_path / "out", cells[0].id)
