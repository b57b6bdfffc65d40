"""A run learns, can be broken off anywhere, and says so when it diverges."""

import json
import shutil

import numpy as np
import pytest

from ehr_scaling.data import loader
from ehr_scaling.errors import UserError
from ehr_scaling.training import checkpoint, loop
from ehr_scaling.training.step import eval_losses
from tests import small


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    workdir, packed = prepared
    cell = small.cell(packed)
    folder = tmp_path_factory.mktemp("runs") / cell["id"]
    return cell, workdir / "packed" / "t64", folder, loop.train(cell, workdir / "packed" / "t64", folder)


def test_it_learns_and_counts(undisturbed):
    cell, _, folder, metrics = undisturbed
    losses = [loss for _, loss in metrics["curve"]]
    assert losses[0] == pytest.approx(np.log(cell["vocab"] - 1), abs=0.3)
    assert metrics["validation_loss"] < losses[0] - 1
    assert metrics["step"] == cell["steps"] == metrics["curve"][-1][0]
    assert metrics["tokens_seen"] == cell["steps"] * cell["batch_sequences"] * 64
    assert 0.5 * metrics["tokens_seen"] < metrics["real_tokens"] < metrics["tokens_seen"]
    assert metrics["passes"] == metrics["real_tokens"] / cell["unique_tokens"]
    assert json.loads(json.dumps(metrics)) == metrics == checkpoint.result(folder)


def test_a_finished_run_is_not_trained_again(undisturbed):
    cell, packed, folder, metrics = undisturbed
    seen = []
    assert loop.train(cell, packed, folder, seen.append) == metrics
    assert seen == [cell["tokens"]]


def test_resumed_is_undisturbed(undisturbed, tmp_path):
    cell, packed, _, whole = undisturbed
    cell = {**cell, "checkpoint_seconds": 0.0}  # a recovery checkpoint after every chunk
    reported = 0

    def stop(tokens):
        nonlocal reported
        reported += tokens
        if reported > cell["tokens"] / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(cell, packed, tmp_path / "run", stop)
    assert checkpoint.result(tmp_path / "run") is None
    resumed = loop.train(cell, packed, tmp_path / "run")
    for name in ("curve", "validation_loss", "validation_loss_se", "real_tokens", "train_loss"):
        assert resumed[name] == whole[name], name  # to the last bit


def test_a_half_written_checkpoint_is_passed_over(undisturbed, tmp_path):
    cell, packed, folder, whole = undisturbed
    shutil.copytree(folder, tmp_path / "run")
    half = tmp_path / "run" / f"{cell['steps'] + 1}.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    assert loop.train(cell, packed, tmp_path / "run")["validation_loss"] == whole["validation_loss"]


def test_seeds_differ(undisturbed, prepared, tmp_path):
    _, packed, _, whole = undisturbed
    other = loop.train(small.cell(prepared[1], seed=1), packed, tmp_path / "run")
    assert other["validation_loss"] != whole["validation_loss"]
    assert other["validation_tokens"] == whole["validation_tokens"]


def test_a_loss_that_is_not_finite_ends_the_run(prepared, tmp_path):
    cell = small.cell(prepared[1], {"training.rate.peak": 1e38})
    with pytest.raises(UserError, match=r"the loss is not finite by step \d+ of .* lower --config.training"):
        loop.train(cell, prepared[0] / "packed" / "t64", tmp_path / "run")
    assert checkpoint.result(tmp_path / "run") is None


def test_a_damaged_result_names_the_remedy(undisturbed, tmp_path):
    cell, packed, folder, _ = undisturbed
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / str(cell["steps"]) / "metrics" / "metrics").write_text("{")
    with pytest.raises(UserError, match=r"delete .* to train the cell again"):
        loop.train(cell, packed, tmp_path / "run")


def test_the_standard_error_is_over_patients(undisturbed):
    """Against the jackknife over patients, which is another way to the same number."""
    cell, packed, folder, metrics = undisturbed
    params = checkpoint.restore_params(folder, loop.initial_state(cell))
    losses: dict[int, list[float]] = {}
    for batch in loader.eval_batches(packed, "validation", sequences=16, limit_sequences=32):
        values = np.asarray(eval_losses(loop.model_of(cell), params, batch))
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
