"""A run learns, can be broken off anywhere, alone or with others, and says so when it diverges."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from ehr_scaling import artifacts
from ehr_scaling.configs.published import SETTINGS
from ehr_scaling.data.packing import loader
from ehr_scaling.errors import Preempted, RunFailed, UserError
from ehr_scaling.grid import cells as grid
from ehr_scaling.grid.cell import units
from ehr_scaling.layout import Layout
from ehr_scaling.processes import agreement, preemption
from ehr_scaling.training import checkpoint, loop, setup, sharding, tracking
from ehr_scaling.training.evaluation import evaluate
from ehr_scaling.training.step import eval_losses
from tests import forked, small

EXACT = ("curve", "validation_loss", "validation_loss_se", "real_tokens", "train_loss", "skipped")


def at(prepared, folder):
    """A work directory of its own on the prepared data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "packed").symlink_to(prepared[0] / "packed")
    return folder


def trained(prepared, folder, **changes):
    """The cell, the work directory it was trained in, and its metrics."""
    cell = small.cell(prepared[1], changes)
    workdir = at(prepared, folder / "w")
    return cell, workdir, loop.job([cell], workdir, small.silent)[0]


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    return trained(prepared, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def published(prepared, tmp_path_factory):
    """The same by the published recipe, as far as the prepared data allow."""
    changes = {name: value for name, value in SETTINGS.items() if not name.startswith("data")}
    return trained(prepared, tmp_path_factory.mktemp("published"), **changes)


def log_of(workdir, cell):
    """Its lines without what depends on the clock."""
    lines = tracking.read(Layout(workdir).run(cell.id))
    return [{name: value for name, value in line.items() if name not in tracking.CLOCK} for line in lines]


def test_it_learns_and_counts(undisturbed):
    cell, workdir, metrics = undisturbed
    losses = [loss for _, loss in metrics["curve"]]
    assert losses[0] == pytest.approx(np.log(cell.vocab - 1), abs=0.3)
    assert metrics["validation_loss"] < losses[0] - 1
    assert metrics["step"] == cell.steps == metrics["curve"][-1][0]
    assert metrics["tokens_seen"] == cell.steps * cell.batch_sequences * 64
    assert 0.5 * metrics["tokens_seen"] < metrics["real_tokens"] < metrics["tokens_seen"]
    assert metrics["passes"] == metrics["real_tokens"] / cell.unique_tokens
    assert json.loads(json.dumps(metrics)) == metrics == checkpoint.result(Layout(workdir).run(cell.id))
    assert sum(v for k, v in metrics["seconds"].items() if k != "wall") == pytest.approx(metrics["seconds"]["wall"])
    lines = tracking.read(Layout(workdir).run(cell.id))
    assert [(line["step"], line["loss"]) for line in lines] == [tuple(point) for point in metrics["curve"]]
    assert lines[-1]["validation_loss"] == metrics["validation_loss"]


def test_a_finished_run_is_not_trained_again(undisturbed, monkeypatch):
    cell, workdir, metrics = undisturbed
    monkeypatch.setattr(loop, "setup", lambda cells: pytest.fail("trained again"))
    assert loop.job([cell], workdir, small.silent) == [metrics] == loop.finished([cell], workdir)


def test_the_validation_loss_is_looked_at_on_the_way(undisturbed, prepared, tmp_path):
    """And changes nothing, is there after a restart, and takes no more than its share."""
    quiet, _, metrics = undisturbed
    assert metrics["validation_curve"] == []  # 2 % of so short a run are less than a batch
    cell = replace(quiet, engine=replace(quiet.engine, validation_share=0.2))
    steps, sequences = loop.looks_of(cell)
    assert sequences == 16 * int(3 * 0.2 * cell.steps * cell.batch_sequences / 4 / 16) >= 16
    workdir = at(prepared, tmp_path / "w")
    with pytest.raises(KeyboardInterrupt):
        loop.job([saving(cell)], workdir, Interruption(cell.tokens))
    looked = loop.job([cell], workdir, small.silent)[0]
    assert {name: looked[name] for name in EXACT} == {name: metrics[name] for name in EXACT}  # to the last bit
    dispatched = [step for step, _ in metrics["curve"]]
    assert [step for step, *_ in looked["validation_curve"]] == [min(d for d in dispatched if d >= s) for s in steps]
    losses = [loss for _, loss, _ in looked["validation_curve"]]
    assert losses[0] > losses[-1] > metrics["validation_loss"] and all(se > 0 for *_, se in looked["validation_curve"])
    lines = {line["step"]: line for line in log_of(workdir, cell) if "validation_loss" in line}
    assert [(s, lines[s]["validation_loss"]) for s, *_ in looked["validation_curve"]] == [
        (s, loss) for s, loss, _ in looked["validation_curve"]
    ]
    assert max(lines) == cell.steps


def test_looks_are_no_more_than_can_be_afforded(undisturbed):
    cell = replace(undisturbed[0], steps=1_000, batch_sequences=64, eval_sequences=64, validation_sequences=512)
    at_share = lambda share, **k: loop.looks_of(  # noqa: E731
        replace(cell, engine=replace(cell.engine, validation_share=share), **k)
    )
    assert at_share(0.02) == ([125, 250, 500, 750], 512)
    assert at_share(0.005) == ([125, 250, 500, 750], 192)  # of 240
    assert at_share(0.001) == at_share(0.0) == at_share(None) == ([], 0)
    assert at_share(0.02, start=800) == ([], 0)
    assert at_share(0.002, start=600) == ([750], 128)  # a branch has its own steps alone: 153 sequences


class Interruption:
    """A report that breaks a run off when a share of its tokens is done."""

    def __init__(self, tokens, share=0.5, how=KeyboardInterrupt):
        self.left, self.how = share * tokens, how

    def __call__(self, tokens, before=False):
        self.left -= tokens
        if self.left < 0:
            raise self.how


def saving(cell, seconds=0.0):
    """The cell, with a recovery checkpoint after every dispatch."""
    return replace(cell, engine=replace(cell.engine, checkpoint_seconds=seconds))


@pytest.mark.parametrize("which", ["undisturbed", "published"])
def test_resumed_is_undisturbed(which, prepared, tmp_path, request):
    cell, whole, metrics = request.getfixturevalue(which)
    workdir = at(prepared, tmp_path / "w")
    with pytest.raises(KeyboardInterrupt):
        loop.job([saving(cell)], workdir, Interruption(cell.tokens))
    assert loop.finished([cell], workdir) is None
    before = []
    resumed = loop.job([cell], workdir, lambda tokens, before_=False, **k: before.append((tokens, k)))[0]
    assert {name: resumed[name] for name in EXACT} == {name: metrics[name] for name in EXACT}  # to the last bit
    tokens, how = before[0]  # what the broken-off run had done is no progress of this one
    assert how == {"before": True} and cell.tokens / 3 < tokens < cell.tokens
    assert log_of(workdir, cell) == log_of(whole, cell)


def test_killed_it_goes_on_bit_by_bit(undisturbed, prepared, tmp_path):
    """SIGKILL to a process that trains, at a moment nobody chose. All in processes of their own: what this one has run
    before may have left XLA other programs, which end 1e-6 elsewhere."""
    cell, _, _ = undisturbed
    whole, workdir = at(prepared, tmp_path / "whole"), at(prepared, tmp_path / "w")
    (tmp_path / "cell.json").write_text(json.dumps(saving(cell).to_json()))
    program = """
import json, sys
from pathlib import Path
from ehr_scaling.grid.cell import of_json
from ehr_scaling.training import loop
loop.job([of_json(json.loads(Path(sys.argv[1]).read_text()))], Path(sys.argv[2]), lambda tokens, before=False: None)
"""

    def start(folder, popen=forked.Popen):
        return popen([sys.executable, "-c", program, str(tmp_path / "cell.json"), str(folder)])

    assert start(whole, subprocess.Popen).wait() == 0  # with another seed of hashes than the others
    process = start(workdir)
    deadline = time.monotonic() + 120
    while len(tracking.read(Layout(workdir).run(cell.id))) < 8 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert loop.finished([cell], workdir) is None
    assert start(workdir).wait() == 0
    (resumed,), (metrics,) = loop.finished([cell], workdir), loop.finished([cell], whole)
    assert {name: resumed[name] for name in EXACT} == {name: metrics[name] for name in EXACT}
    assert log_of(workdir, cell) == log_of(whole, cell)


def test_sigterm_saves_and_goes_on(undisturbed, prepared, tmp_path):
    cell, _, metrics = undisturbed
    workdir, asked = at(prepared, tmp_path / "w"), Interruption(cell.tokens, how=RuntimeError)

    def report(tokens, before=False):
        try:
            asked(tokens)
        except RuntimeError:
            os.kill(os.getpid(), signal.SIGTERM)

    with preemption.deferred(), pytest.raises(Preempted):
        loop.job([cell], workdir, report)  # its recovery checkpoints are a minute apart: this one is SIGTERM's
    kept = checkpoint.Saver(Layout(workdir).run(cell.id))
    assert len(kept.steps()) == 1 and cell.steps / 3 < kept.steps()[0] < cell.steps
    kept.close()
    resumed = loop.job([cell], workdir, small.silent)[0]
    assert {name: resumed[name] for name in EXACT} == {name: metrics[name] for name in EXACT}


@pytest.fixture(scope="module")
def looking(prepared, tmp_path_factory):
    """As `undisturbed`, with looks at the validation loss on the way, of several batches each."""
    cell = replace(small.cell(prepared[1], {"training.validation_share": 0.2}), eval_sequences=8)
    assert len(loop.looks_of(cell)[0]) == 4 and loop.looks_of(cell)[1] >= 16
    workdir = at(prepared, tmp_path_factory.mktemp("looking"))
    return cell, workdir, loop.job([cell], workdir, small.silent)[0]


def goes_on_as(looking, workdir):
    """The tokens that are trained where a run goes on, which ends as if it had not been broken off."""
    cell, whole, metrics = looking
    trained_now = []
    resumed = loop.job([cell], workdir, lambda n, before=False: trained_now.append(0 if before else n))[0]
    names = (*EXACT, "validation_curve", "places")
    assert {name: resumed[name] for name in names} == {name: metrics[name] for name in names}
    assert log_of(workdir, cell) == log_of(whole, cell)
    assert {path.name for path in Layout(workdir).run(cell.id).glob("[0-9]*")} == {str(cell.steps)}
    return sum(trained_now)


@pytest.mark.parametrize("number", [2, 5], ids=["in a look", "in the last one"])
def test_sigterm_is_heard_between_batches_of_an_evaluation(looking, prepared, tmp_path, monkeypatch, number):
    cell, _, metrics = looking
    workdir, begun, batches = at(prepared, tmp_path / "w"), [], []

    def asked_to_end_in_one(*args):
        begun.append(args)
        if len(begun) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args[:-1], lambda: batches.append(len(begun)) or args[-1]())

    with monkeypatch.context() as patch, preemption.deferred(), pytest.raises(Preempted):
        patch.setattr(loop, "evaluate", asked_to_end_in_one)
        loop.job([cell], workdir, small.silent)
    assert batches.count(number) == 1 and len(begun) == number  # not all of its batches
    step = [*(step for step, *_ in metrics["validation_curve"]), cell.steps][number - 1]
    assert [path.name for path in Layout(workdir).run(cell.id).glob("[0-9]*")] == [str(step)]
    assert goes_on_as(looking, workdir) == (cell.steps - step) * cell.batch_tokens


def test_what_a_long_evaluation_is_of_is_saved_and_of_a_short_one_nothing(looking, prepared, tmp_path, monkeypatch):
    cell, _, metrics = looking
    workdir, save, saves = at(prepared, tmp_path / "w"), checkpoint.Saver.save, []

    def counted(saver, step, *args):
        saves.append(step)
        save(saver, step, *args)

    def killed_in_the_last_one(*args):
        def between():
            args[-1]()
            if args[4] == cell.validation_sequences:
                raise KeyboardInterrupt

        return evaluate(*args[:-1], between)

    monkeypatch.setattr(checkpoint.Saver, "save", counted)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_LONG", 0.0)
        patch.setattr(loop, "evaluate", killed_in_the_last_one)
        loop.job([cell], workdir, small.silent)
    assert saves == [*(step for step, *_ in metrics["validation_curve"]), cell.steps]
    assert goes_on_as(looking, workdir) == 0
    saves.clear()
    assert goes_on_as(looking, at(prepared, tmp_path / "short")) == cell.tokens
    assert saves == [cell.steps]


def test_a_look_at_the_end_is_the_evaluation(looking, prepared, tmp_path):
    """Where the last dispatch leads over a step of a look."""
    cell, _, metrics = looking
    long = replace(cell, engine=replace(cell.engine, dispatch_sequences=cell.steps * cell.batch_sequences))
    workdir = at(prepared, tmp_path / "w")
    once = loop.job([long], workdir, small.silent)[0]
    assert once["validation_curve"] == [] and once["validation_loss"] == metrics["validation_loss"]
    (line,) = log_of(workdir, cell)
    assert line["step"] == cell.steps and line["validation_loss"] == metrics["validation_loss"]


@pytest.mark.parametrize("damage", ["half-written", "truncated", "metrics", "all"])
def test_a_damaged_checkpoint_is_passed_over(undisturbed, prepared, tmp_path, damage):
    cell, _, metrics = undisturbed
    workdir = at(prepared, tmp_path / "w")
    with pytest.raises(KeyboardInterrupt):
        loop.job([saving(cell)], workdir, Interruption(cell.tokens))
    folder = Layout(workdir).run(cell.id)
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    assert len(steps) == 2
    if damage == "half-written":
        (folder / f"{steps[1] + 4}.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    item = "metrics" if damage == "metrics" else "state"
    for step in {"half-written": (), "all": steps}.get(damage, steps[1:]):
        for path in (folder / str(step) / item).rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    resumed = loop.job([cell], workdir, small.silent)[0]
    assert {name: resumed[name] for name in EXACT} == {name: metrics[name] for name in EXACT}


@pytest.mark.parametrize(("number", "status"), [(errno.ESTALE, 69), (errno.EACCES, 1)])
def test_a_checkpoint_that_the_system_does_not_give_is_not_passed_over(
    undisturbed, prepared, tmp_path, monkeypatch, number, status
):
    """It may be whole: a network drive comes back, rights are given."""
    cell, _, metrics = undisturbed
    workdir = at(prepared, tmp_path / "w")
    with pytest.raises(KeyboardInterrupt):
        loop.job([saving(cell)], workdir, Interruption(cell.tokens))

    def fails(saver, step, abstract):
        raise RuntimeError("it cannot be restored") from OSError(number, os.strerror(number))

    with monkeypatch.context() as broken, pytest.raises(UserError, match=cell.id) as told:
        broken.setattr(checkpoint.Saver, "restore", fails)
        loop.job([cell], workdir, small.silent)
    assert told.value.status == status and not isinstance(told.value, RunFailed)
    resumed = loop.job([cell], workdir, small.silent)[0]
    assert {name: resumed[name] for name in EXACT} == {name: metrics[name] for name in EXACT}


def test_members_are_trained_together_and_resumed_together(undisturbed, prepared, tmp_path):
    cell, _, metrics = undisturbed
    other = small.cell(prepared[1], seed=1)
    slow = small.cell(prepared[1], rate=0.25)
    members = [replace(c, unit=cell.id) for c in (cell, other, slow)]
    workdir = at(prepared, tmp_path / "w")
    results = loop.job(members, workdir, small.silent)
    assert [r["seed"] for r in results] == [0, 1, 0]
    # Batched kernels add up in another order: alone and together agree as far as float32 training does.
    assert results[0]["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=0.02)
    assert len({r["validation_loss"] for r in results}) == 3

    again = at(prepared, tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        loop.job([saving(c) for c in members], again, Interruption(3 * cell.tokens))
    last = max((Layout(again).run(other.id)).glob("[0-9]*"), key=lambda p: int(p.name))
    shutil.rmtree(last)  # as a kill between two members' saves leaves it
    resumed = loop.job(members, again, small.silent)
    for a, b in zip(resumed, results, strict=True):
        assert {name: a[name] for name in EXACT} == {name: b[name] for name in EXACT}


def test_a_branch_is_its_trunk_cooled(prepared, tmp_path, monkeypatch):
    """A branch equals a run that was never broken off: the same rates, the same rows."""
    dispatches = []

    class Due(loop.Due):
        def __call__(self, number):
            dispatches.append(number)
            return super().__call__(number)

    monkeypatch.setattr(loop, "Due", Due)
    seen, together = set(), agreement.together
    monkeypatch.setattr(
        agreement, "together", lambda see, *more: seen.add(see.__qualname__.split(".")[0]) or together(see, *more)
    )
    config = small.config(**{"training.schedule": "wsd", "training.trunk": True})
    points = [{"budget": b, "size": "3.5k", "seed": 0} for b in (1.2e9, 0.6e9)]
    cells, _ = grid.grid(config, points, {1.0: prepared[1]}, small.ABOUT)
    assert [c.phase for c in cells] == ["hot", "cooled", "cooled"]
    trunk, *branches = cells
    workdir = at(prepared, tmp_path / "w")
    results = {m["id"]: m for m in loop.job(units(cells)[0], workdir, small.silent)}
    assert results[trunk.id]["phase"] == "hot"
    # What one of several processes may find wrong alone they see together
    assert seen >= {"job", "train", "_from_trunk", "_verify"}
    # At every one, marks or not: several processes find their pace at the fourth
    assert dispatches[:5] == [1, 2, 3, 4, 5] and dispatches.count(1) == len(cells)
    assert all(b in (1, a + 1) for a, b in itertools.pairwise(dispatches))
    for branch in branches:
        alone = replace(branch, id=f"alone-{branch.id}", start=0, trunk="")
        whole = loop.job([alone], workdir, small.silent)[0]
        own = results[branch.id]
        for name in ("validation_loss", "validation_loss_se", "real_tokens", "tokens_seen", "flops"):
            assert own[name] == whole[name], name
    longest = results[branches[-1].id]
    assert longest["validation_loss"] < results[trunk.id]["validation_loss"] + 0.5
    assert loop.finished(cells, workdir) is not None
    assert {int(p.name) for p in Layout(workdir).run(trunk.id).glob("[0-9]*")} == set(trunk.marks)
    with pytest.raises(UserError, match=r"no checkpoint at step \d+, where cell .* branches off"):
        loop.job([replace(branches[0], id="b", trunk="nowhere")], workdir, small.silent)
    assert results[trunk.id]["places"] == [{"step": 0, "processes": 1, "data": 1, "fsdp": 1, "tensor": 1}]

    # A branch whose own checkpoint is damaged begins where it branched off: its trunk is whole.
    whole = results[branches[0].id]
    (step,) = Layout(workdir).run(branches[0].id).glob("[0-9]*")
    left = step.rename(step.with_name(str(branches[0].start + 1))) / "metrics" / "metrics"
    artifacts.write_sealed(left, {**artifacts.read_json(left), "finished": False})  # not the file that was saved
    again = loop.job([branches[0]], workdir, small.silent)[0]
    assert again["validation_loss"] == whole["validation_loss"]
    # Where that is damaged, it is named.
    shutil.rmtree(Layout(workdir).run(branches[0].id))
    for file in (Layout(workdir).run(trunk.id) / str(branches[0].start)).rglob("*"):
        if file.is_file() and file.stat().st_size and "metrics" not in file.parts:
            file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=rf"trunk's checkpoint at step {branches[0].start} is damaged: delete .*{trunk.id}"
    ):
        loop.job([branches[0]], workdir, small.silent)


def test_seeds_differ(undisturbed, prepared, tmp_path):
    _, _, whole = undisturbed
    other = loop.job([small.cell(prepared[1], seed=1)], at(prepared, tmp_path / "w"), small.silent)[0]
    assert other["validation_loss"] != whole["validation_loss"]
    assert other["validation_tokens"] == whole["validation_tokens"]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_kept(prepared, tmp_path, monkeypatch):
    cell = replace(small.cell(prepared[1]), learning_rate=1e38)
    workdir = at(prepared, tmp_path / "w")
    with pytest.raises(UserError, match=r"not finite in the last \d+ updates by step \d+ of .* --config.training"):
        loop.job([cell], workdir, small.silent)
    with pytest.raises(RunFailed, match="not finite"):
        loop.finished([cell], workdir)
    reason = loop.failed([cell], workdir)[cell.id]
    assert "not finite" in reason and cell.id in reason
    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="not finite"):
        patch.setattr(loop, "setup", lambda cells: pytest.fail("trained again"))
        loop.job([cell], workdir, small.silent)
    loop.retry([cell], workdir)
    assert loop.failed([cell], workdir) == {}


def test_those_trained_with_one_that_diverges_are_trained_to_their_end(prepared, tmp_path, monkeypatch):
    bad, good = (replace(small.cell(prepared[1], seed=seed), unit="u") for seed in (0, 1))
    bad = replace(bad, learning_rate=1e38)
    workdir = at(prepared, tmp_path / "w")
    with pytest.raises(RunFailed, match=f"cell {bad.id} .* not finite"):
        loop.job([bad, good], workdir, small.silent)
    assert loop.failed([bad, good], workdir).keys() == {bad.id}
    result = checkpoint.result(Layout(workdir).run(good.id))
    assert result is not None and result["step"] == good.steps
    with pytest.raises(RunFailed, match=f"cell {bad.id} .* not finite"):
        loop.finished([bad, good], workdir)
    loop.retry([bad, good], workdir)
    left = []
    monkeypatch.setattr(loop, "setup", lambda cells: left.extend(cells) or setup.setup(cells))
    with pytest.raises(RunFailed):
        loop.job([bad, good], workdir, small.silent)
    assert left == [bad]  # what was over is not trained again
    assert checkpoint.result(Layout(workdir).run(good.id)) == result


def test_what_cannot_be_is_refused_before_anything_is_compiled(undisturbed, prepared, tmp_path, monkeypatch):
    cell = undisturbed[0]
    monkeypatch.setattr(loop, "_train", lambda *args: pytest.fail("too late"))
    devices = jax.device_count()

    def refused(match, engine=(), **changes):
        changed = replace(cell, **changes, engine=replace(cell.engine, **dict(engine)))
        with pytest.raises(UserError, match=match):
            loop.job([changed], at(prepared, tmp_path / f"w{len(list(tmp_path.iterdir()))}"), small.silent)

    refused(f"16 × 1 × 1 .* does not make up the {devices} devices", {"mesh": {"data": 16, "fsdp": 1, "tensor": 1}})
    refused("--config.training.mesh", {"mesh": {"data": 0, "fsdp": 3, "tensor": 1}})
    refused("--config.training.microbatch=3 does not divide", {"microbatch": 3}, batch_sequences=4)
    refused("--config.model.attention", {"attention": "cudnn"})
    refused("--config.model.attention", {"attention": "fast"})
    refused("unknown model size '5k'", size="5k")


def test_a_checkpoint_of_another_config_is_refused(undisturbed, prepared, tmp_path):
    cell = undisturbed[0]
    workdir = at(prepared, tmp_path / "w")
    with pytest.raises(KeyboardInterrupt):
        loop.job([saving(cell)], workdir, Interruption(cell.tokens))
    with pytest.raises(UserError, match=r"another config \(learning_rate was .*, now 0.5; weight_decay was 0.1, now 0"):
        loop.job([replace(cell, learning_rate=0.5, weight_decay=0.0)], workdir, small.silent)


def test_a_run_of_before_there_was_mixing_goes_on_and_takes_no_other(published, prepared, tmp_path, monkeypatch):
    cell, _, metrics = published
    workdir, save = at(prepared, tmp_path / "w"), checkpoint.Saver.save
    without = lambda saved: {name: value for name, value in saved.items() if name != "mixing"}  # noqa: E731
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            checkpoint.Saver, "save", lambda self, step, state, saved: save(self, step, state, without(saved))
        )
        loop.job([saving(cell)], workdir, Interruption(cell.tokens))
    with pytest.raises(UserError, match=r"another config \(mixing was 'none', now 'conv'\): take"):
        loop.job([replace(cell, mixing="conv")], workdir, small.silent)
    before = []
    resumed = loop.job([cell], workdir, lambda tokens, before_=False, **k: before.append(tokens))[0]
    assert before[0] > cell.tokens / 3
    assert {name: resumed[name] for name in EXACT} == {name: metrics[name] for name in EXACT}


def test_an_interruption_that_a_library_swallowed_comes_again(prepared, tmp_path):
    cell, workdir = small.cell(prepared[1]), at(prepared, tmp_path / "w")

    def report(tokens, before=False):
        if not before:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    with preemption.deferred(), pytest.raises(KeyboardInterrupt):
        loop.job([cell], workdir, report)
    assert loop.finished([cell], workdir) is None
    with preemption.deferred():
        assert not preemption.requested()


def test_a_full_disk_is_one_line(undisturbed, prepared, tmp_path, monkeypatch):
    cell = undisturbed[0]
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match="the disk is full"):
        loop.job([saving(cell)], at(prepared, tmp_path / "w"), small.silent)


def test_a_damaged_result_names_the_remedy(undisturbed, tmp_path):
    cell, workdir, _ = undisturbed
    shutil.copytree(workdir, tmp_path / "w", symlinks=True)
    (Layout(tmp_path / "w").run(cell.id) / str(cell.steps) / "metrics" / "metrics").write_text("{")
    with pytest.raises(UserError, match=r"delete .* to train the cell again"):
        loop.job([cell], tmp_path / "w", small.silent)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_whatever_is_damaged_of_a_finished_run_is_named_at_scoring(undisturbed, tmp_path, damage):
    cell, workdir, _ = undisturbed
    whole = Layout(workdir).run(cell.id) / str(cell.steps)
    files = [path.relative_to(whole.parent) for path in sorted(whole.rglob("*")) if path.is_file()]
    assert len(files) > 10
    for name in files:
        if damage == "gone" and name.name == checkpoint.FILES:  # as earlier versions saved
            continue
        run = tmp_path / name.name
        shutil.copytree(whole.parent, run)
        content = (run / name).read_bytes()
        middle = len(content) // 2
        changed = {
            "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :] if content else b"x"
        }
        (run / name).write_bytes(changed.get(damage, content[: middle if damage == "cut" else 0]))
        if damage == "gone":
            (run / name).unlink()
        with pytest.raises(UserError, match=rf"{run}.*: delete {run} to train the cell again"):
            setup.restored_params(cell, run)
        shutil.rmtree(run)


def test_an_evaluation_of_a_part_of_its_batches_is_none(undisturbed, monkeypatch):
    """As it would be where the processes of a mesh read other shares than their devices hold."""
    cell, workdir, _ = undisturbed
    parts = setup.setup([cell])
    params = jax.tree.map(lambda x: x[None], setup.restored_params(cell, Layout(workdir).run(cell.id))[1])
    monkeypatch.setattr(sharding, "shares", lambda mesh: sharding.Shares((0,), 2))
    with pytest.raises(AssertionError, match="the whole batch"):
        evaluate(cell, params, workdir / "packed" / "t64", "validation", 32, parts)


def test_the_standard_error_is_over_patients(undisturbed):
    """Against the jackknife over patients, which is another way to the same number."""
    cell, workdir, metrics = undisturbed
    model, params = setup.restored_params(cell, Layout(workdir).run(cell.id))
    params = jax.tree.map(lambda x: x[None], params)
    losses: dict[int, list[float]] = {}
    packed = workdir / "packed" / "t64"
    for batch in loader.eval_batches(packed, "validation", sequences=16, limit_sequences=32):
        values = np.asarray(eval_losses(model, params, batch))[0]
        for segment, value, counts in zip(
            batch["segments"][:, 1:].ravel(), values.ravel(), batch["mask"].ravel(), strict=True
        ):
            if counts:
                losses.setdefault(int(segment), []).append(float(value))
    sums = np.array([(np.sum(x), len(x)) for x in losses.values()])
    total = sums.sum(axis=0)
    assert metrics["validation_loss"] == pytest.approx(total[0] / total[1], rel=1e-5)
    assert metrics["validation_patients"] == len(sums)
    left_out = total - sums
    estimates = left_out[:, 0] / left_out[:, 1]
    n = len(sums)
    jackknife = np.sqrt((n - 1) / n * np.sum((estimates - estimates.mean()) ** 2))
    assert metrics["validation_loss_se"] == pytest.approx(jackknife, rel=0.2)
