"""Cells are whole numbers, meet their budget, and are told apart by what they learn."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import base
from ehr_scaling import flops
from ehr_scaling.errors import UserError
from ehr_scaling.grid import cells, manifest
from ehr_scaling.models.sizes import SHAPES

ABOUT = {"data": "made up", "generated": True}


def packed(vocab=250, context=128, **changes):
    train = {"real_tokens": 1_000_000, "patients": 5_000}
    summary = {"vocab_size": vocab, "context": context, "splits": {"train": train}}
    return {"fingerprint": "0123456789abcdef", "summary": summary} | changes


@settings(max_examples=60, deadline=None)
@given(
    budget=st.floats(1e9, 1e20),
    size=st.sampled_from(list(SHAPES)),
    exponent=st.floats(0, 0.6),
    context=st.sampled_from([128, 256, 2048]),
)
def test_a_cell_meets_its_budget_or_says_why_not(budget, size, exponent, context):
    config = base.get_config()
    config.training.batch.exponent = exponent
    try:
        cell = cells.solve(config, {"budget": budget, "size": size, "seed": 0}, packed(context=context), ABOUT)
    except cells.Infeasible as e:
        assert size in str(e)
        return
    dims = {"width": cell["width"], "layers": cell["layers"], "ff": cell["ff"], "vocab": cell["padded_vocab"]}
    assert cell["flops"] == cell["steps"] * cell["batch_sequences"] * flops.training(**dims, context=context)
    assert abs(cell["flops"] / budget - 1) <= 0.01
    assert cell["tokens"] == cell["steps"] * cell["batch_tokens"]
    assert cell["steps"] >= config.training.min_steps
    assert cell["padded_vocab"] % config.model.vocab_multiple == 0
    assert json.loads(json.dumps(cell)) == cell


def test_rules_are_the_same_for_all_budgets():
    config = base.get_config()
    config.training.batch.exponent = config.training.rate.batch_exponent = 0.5
    config.training.rate.width_exponent = -1.0
    small, large = (
        cells.solve(config, {"budget": c, "size": "25k", "seed": 0}, packed(), ABOUT) for c in (1e11, 1.6e13)
    )
    for cell in (small, large):  # of the reference width, 32
        more = cell["batch_sequences"] / config.training.batch.sequences
        assert cell["learning_rate"] == pytest.approx(config.training.rate.peak * more**0.5)
    narrow = cells.solve(config, {"budget": 1e11, "size": "6.7k", "seed": 0}, packed(), ABOUT)
    more = narrow["batch_sequences"] / small["batch_sequences"]
    assert narrow["learning_rate"] / small["learning_rate"] == pytest.approx(2.0 * more**0.5)  # half the width
    assert large["batch_sequences"] / small["batch_sequences"] in (8, 16, 32)  # D grew 160 times


def test_the_id_is_of_what_is_learnt():
    config, point = base.get_config(), {"budget": 1e11, "size": "25k", "seed": 0}
    cell = cells.solve(config, point, packed(), ABOUT)
    config.training.checkpoint_seconds = 1.0
    assert cells.solve(config, point, packed(), ABOUT)["id"] == cell["id"]
    assert cells.solve(config, point, packed(fingerprint="fedcba9876543210"), ABOUT)["id"] != cell["id"]
    assert cells.solve(config, {**point, "seed": 1}, packed(), ABOUT)["id"] != cell["id"]
    config.training.weight_decay = 0.2
    assert cells.solve(config, point, packed(), ABOUT)["id"] != cell["id"]


def test_a_grid_without_a_feasible_cell_is_refused():
    config = base.get_config()
    with pytest.raises(UserError, match=r"no feasible cell .*min_steps"):
        cells.grid(config, [{"budget": 1e9, "size": "1b", "seed": 0}], packed(), ABOUT)
    with pytest.raises(UserError, match="no feasible cell"):
        cells.grid(config, [], packed(), ABOUT)
    with pytest.raises(UserError, match="unknown model size '25kk'"):
        cells.grid(config, [{"budget": 1e11, "size": "25kk", "seed": 0}], packed(), ABOUT)


def test_infeasible_points_are_listed_not_lost():
    config = base.get_config()
    points = [{"budget": 1e11, "size": size, "seed": 0} for size in ("25k", "1b")]
    solved, refused = cells.grid(config, points, packed(), ABOUT)
    assert [cell["size"] for cell in solved] == ["25k"]
    assert len(refused) == 1
    assert "1b" in refused[0]


def test_the_manifest_is_read_as_it_was_written(tmp_path):
    config = base.get_config()
    config.training.rate.peak = 0.01
    points = list(base.sweep(config))
    record = manifest.build(config, points, packed(), ABOUT, tmp_path / "grid")
    assert record["summary"]["cells"] == len(points)
    assert manifest.read(tmp_path / "grid") == cells.grid(config, points, packed(), ABOUT)[0]
    config.training.rate.peak = 0.02
    with pytest.raises(UserError, match=r"training\.rate\.peak was 0\.01, now 0\.02"):
        manifest.build(config, points, packed(), ABOUT, tmp_path / "grid")
    with (tmp_path / "grid" / manifest.MANIFEST).open("a") as f:
        f.write("{half")
    with pytest.raises(UserError, match="line 3 is not JSON"):
        manifest.read(tmp_path / "grid")
