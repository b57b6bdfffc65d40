"""Cells are whole numbers, meet their budget, and are told apart by what they learn."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling import artifacts, flops
from ehr_scaling.configs import base
from ehr_scaling.errors import UserError
from ehr_scaling.grid import cells, manifest
from ehr_scaling.grid.cell import BEFORE, OPTIMIZERS, VERSION, Cell, ensembles, of_json, units
from ehr_scaling.models.mixing import MIXINGS
from ehr_scaling.models.sizes import SHAPES

ABOUT = {"data": "made up", "generated": True}


def packed(vocab=250, context=128, **changes):
    train = {"real_tokens": 1_000_000, "patients": 5_000, "phases": [{"sequences": 8_000}]}
    summary = {"vocab_size": vocab, "context": context, "splits": {"train": train}}
    return {"fingerprint": "0123456789abcdef", "summary": summary} | changes


WHOLE = {1.0: packed()}


@settings(max_examples=60, deadline=None)
@given(
    budget=st.floats(1e9, 1e20),
    size=st.sampled_from(list(SHAPES)),
    exponent=st.floats(0, 0.6),
    context=st.sampled_from([128, 256, 2048]),
    mixing=st.sampled_from(MIXINGS),
    optimizer=st.sampled_from(OPTIMIZERS),
)
def test_a_cell_meets_its_budget_or_says_why_not(budget, size, exponent, context, mixing, optimizer):
    config = base.get_config()
    config.training.optimizer = optimizer
    config.training.batch.exponent, config.model.mixing = exponent, mixing
    try:
        cell = cells.solve(config, {"budget": budget, "size": size, "seed": 0}, packed(context=context), ABOUT)
    except cells.Infeasible as e:
        assert size in str(e)
        return
    dims = {"width": cell.width, "layers": cell.layers, "ff": cell.ff, "vocab": cell.padded_vocab}
    dims["mixing"] = mixing
    counts = flops.parameters(**dims, tied=config.model.tied)
    assert (cell.N_body, cell.N_head, cell.N_embedding) == (counts.body, counts.head, counts.embedding)
    assert cell.flops_6nd == 6 * counts.body * cell.tokens
    update = flops.update(optimizer, width=cell.width, layers=cell.layers, ff=cell.ff)
    each = cell.batch_sequences * flops.training(**dims, context=context) + update
    assert cell.flops == cell.own_flops == float(cell.steps * each)
    assert abs(cell.flops / budget - 1) <= 0.01
    assert cell.tokens == cell.steps * cell.batch_tokens
    assert cell.steps >= config.training.min_steps
    assert cell.padded_vocab % config.model.vocab_multiple == 0
    assert of_json(json.loads(json.dumps(cell.to_json()))) == cell


def test_rules_are_the_same_for_all_budgets():
    config = base.get_config()
    config.training.batch.exponent = config.training.rate.batch_exponent = 0.5
    config.training.rate.width_exponent, config.training.rate.tokens_exponent = -1.0, -0.4
    small, large = (
        cells.solve(config, {"budget": c, "size": "25k", "seed": 0}, packed(), ABOUT) for c in (1e11, 1.6e13)
    )
    for cell in (small, large):  # of the reference width, 32
        more = cell.batch_sequences / config.training.batch.sequences
        longer = cell.tokens / config.training.rate.at_tokens
        assert cell.learning_rate == pytest.approx(config.training.rate.peak * more**0.5 * longer**-0.4)
    narrow = cells.solve(config, {"budget": 1e11, "size": "6.7k", "seed": 0}, packed(), ABOUT)
    more = narrow.batch_sequences / small.batch_sequences
    longer = narrow.tokens / small.tokens
    assert narrow.learning_rate / small.learning_rate == pytest.approx(2.0 * more**0.5 * longer**-0.4)
    assert large.batch_sequences / small.batch_sequences in (8, 16, 32)  # D grew 160 times


def test_the_id_is_of_what_is_learnt():
    config, point = base.get_config(), {"budget": 1e11, "size": "25k", "seed": 0}
    cell = cells.solve(config, point, packed(), ABOUT)
    config.training.checkpoint_seconds = 1.0
    assert cells.solve(config, point, packed(), ABOUT).id == cell.id
    assert cells.solve(config, point, packed(fingerprint="fedcba9876543210"), ABOUT).id != cell.id
    assert cells.solve(config, {**point, "seed": 1}, packed(), ABOUT).id != cell.id
    config.model.mixing = "none"
    assert cells.solve(config, point, packed(), ABOUT).id != cell.id
    config.model.mixing, config.training.weight_decay = "conv", 0.2
    assert cells.solve(config, point, packed(), ABOUT).id != cell.id


def test_ids_stay_what_they_are():
    """They name the folders of runs that are there; a new way to begin is another id."""
    cell = cells.solve(base.get_config(), {"budget": 1e11, "size": "25k", "seed": 0}, packed(), ABOUT)
    assert cell.id == "e9ae032a3105983e"
    warm = cells.grid(base.get_config(), [{"budget": 1e11, "size": "25k", "seed": 0}], WHOLE, ABOUT, {"25k": "0" * 16})
    assert [(cell.init, cell.id == "e9ae032a3105983e") for cell in warm[0]] == [("0" * 16, False)]


def test_a_grid_that_was_planned_before_there_was_mixing_is_gone_on_with(tmp_path):
    """Its settings and its cells do not have it, nor a version; ids, which name the folders of runs, do not change."""
    config = base.get_config()
    config.model.mixing = "none"
    points, out = list(base.sweep(config)), tmp_path / "grid"
    planned = cells.grid(config, points, WHOLE, ABOUT)[0]
    manifest.build(config, points, WHOLE, ABOUT, out)
    lines = [{name: value for name, value in cell.to_json().items() if name not in BEFORE} for cell in planned]
    for line, cell in zip(lines, planned, strict=True):
        assert of_json(line) == cell and of_json({**line, "id": ""}).named().id == cell.id
    artifacts.write_lines(out / manifest.MANIFEST, lines)
    assert manifest.read(out) == planned
    record = artifacts.record(out)
    del record["inputs"]["model"]["mixing"]
    artifacts.write_sealed(out / artifacts.RECORD, record)
    manifest.build(config, points, WHOLE, ABOUT, out)
    assert manifest.read(out) == planned
    config.model.mixing = "conv"
    with pytest.raises(UserError, match=r"from other inputs \(model\.mixing was 'none', now 'conv'\): take"):
        manifest.build(config, points, WHOLE, ABOUT, out)


def test_cells_that_an_earlier_version_planned_are_not_gone_on_with(tmp_path, monkeypatch):
    config, out = base.get_config(), tmp_path / "grid"
    points = list(base.sweep(config))[:2]
    manifest.build(config, points, WHOLE, ABOUT, out)
    before = cells.grid(config, points, WHOLE, ABOUT)[0]
    monkeypatch.setattr(Cell.__init__, "__kwdefaults__", {**Cell.__init__.__kwdefaults__, "version": VERSION + 1})
    now = cells.grid(config, points, WHOLE, ABOUT)[0]
    assert {cell.id for cell in now}.isdisjoint(cell.id for cell in before)
    with pytest.raises(UserError, match="planned by another version of this program: take another --workdir"):
        manifest.build(config, points, WHOLE, ABOUT, out)


@settings(max_examples=60, deadline=None)
@given(budget=st.floats(1e8, 1e10))
def test_few_steps_that_miss_the_budget_are_refused(budget):
    """Whole steps are within half a step of what was asked for: from 50 of them on that is 1 % at most."""
    config = base.get_config()
    config.training.min_steps, point = 1, {"budget": budget, "size": "6.7k", "seed": 0}
    try:
        cell = cells.solve(config, point, packed(), ABOUT)
    except cells.Infeasible as e:
        assert "steps miss what was asked for by over 1 %" in str(e) or "0 steps" in str(e)
        return
    assert abs(cell.flops / budget - 1) <= 0.01


def test_a_budget_between_two_steps_is_refused():
    config = base.get_config()
    config.training.batch.exponent, config.training.min_steps = 0.0, 1
    point = {"size": "6.7k", "seed": 0}
    step = cells.solve(config, {**point, "budget": 1e11}, packed(), ABOUT)
    each = step.flops / step.steps
    assert cells.solve(config, {**point, "budget": 20 * each}, packed(), ABOUT).steps == 20
    with pytest.raises(cells.Infeasible, match="over 1 %"):
        cells.solve(config, {**point, "budget": 20.4 * each}, packed(), ABOUT)


def test_a_grid_without_a_feasible_cell_is_refused():
    config = base.get_config()
    with pytest.raises(UserError, match=r"no feasible cell .*min_steps"):
        cells.grid(config, [{"budget": 1e9, "size": "1b", "seed": 0}], WHOLE, ABOUT)
    with pytest.raises(UserError, match="no feasible cell"):
        cells.grid(config, [], WHOLE, ABOUT)
    with pytest.raises(UserError, match="unknown model size '25kk'"):
        cells.grid(config, [{"budget": 1e11, "size": "25kk", "seed": 0}], WHOLE, ABOUT)


def test_infeasible_points_are_listed_not_lost():
    config = base.get_config()
    points = [{"budget": 1e11, "size": size, "seed": 0} for size in ("25k", "1b")]
    solved, refused = cells.grid(config, points, WHOLE, ABOUT)
    assert [cell.size for cell in solved] == ["25k"]
    assert len(refused) == 1
    assert "1b" in refused[0]


def test_the_manifest_is_read_as_it_was_written(tmp_path):
    config = base.get_config()
    config.training.rate.peak = 0.01
    points = list(base.sweep(config))
    record = manifest.build(config, points, WHOLE, ABOUT, tmp_path / "grid")
    assert record["summary"]["cells"] == len(points)
    assert manifest.read(tmp_path / "grid") == cells.grid(config, points, WHOLE, ABOUT)[0]
    config.training.rate.peak = 0.02
    with pytest.raises(UserError, match=r"training\.rate\.peak was 0\.01, now 0\.02"):
        manifest.build(config, points, WHOLE, ABOUT, tmp_path / "grid")
    with (tmp_path / "grid" / manifest.MANIFEST).open("a") as f:
        f.write("{half")
    with pytest.raises(UserError, match=r"manifest\.jsonl is damaged at line 1, or not all there"):
        manifest.read(tmp_path / "grid")


def test_a_grid_is_solved_once_a_call(tmp_path, monkeypatch):
    config, real, calls = base.get_config(), cells.grid, []
    monkeypatch.setattr(cells, "grid", lambda *args: (calls.append(args), real(*args))[1])
    for times in (1, 2):
        manifest.build(config, list(base.sweep(config)), WHOLE, ABOUT, tmp_path / "grid")
        assert len(calls) == times


def test_how_cells_are_trained_may_change_between_calls(tmp_path):
    """It is no input of the grid: the manifest has it as it was given last, and no id changes."""
    config, grid = base.get_config(), tmp_path / "grid"
    points = list(base.sweep(config))
    manifest.build(config, points, WHOLE, ABOUT, grid)
    before = manifest.read(grid)
    config.model.remat, config.training.mesh.fsdp, config.training.together = "full", 2, 2
    manifest.build(config, points, WHOLE, ABOUT, grid)
    after = manifest.read(grid)
    assert [cell.id for cell in after] == [cell.id for cell in before]
    assert {(cell.engine.remat, cell.engine.mesh["fsdp"]) for cell in after} == {("full", 2)}
    assert len(units(after)) == 1 and len(units(before)) == 2


def test_rules_say_where_they_were_found():
    config = base.get_config()
    config.training.explored.parameters, config.training.explored.tokens = (1e4, 3e4), (1e5, 1e6)

    def edge(size, budget):
        return cells.solve(config, {"budget": budget, "size": size, "seed": 0}, packed(), ABOUT).edge

    assert edge("25k", 1e11) == ""
    assert edge("40k", 1e11) == "N"
    assert edge("25k", 1e13) == "D"
    assert edge("101k", 1e13) == "N, D"


def trunk_config(cooldown=0.2):
    config = base.get_config()
    config.training.schedule, config.training.trunk, config.training.cooldown = "wsd", True, cooldown
    return config


def test_a_trunk_serves_the_cells_of_a_size():
    config = trunk_config()
    points = [
        {"budget": b, "size": size, "seed": seed}
        for b in (4e11, 2e11, 1e11)
        for size in ("14k", "25k")
        for seed in (1, 2)
    ]
    found, refused = cells.grid(config, points, WHOLE, ABOUT)
    assert not refused and len(found) == 12 + 4
    grouped = units(found)
    assert [len(unit) for unit in grouped] == [4] * 4
    for unit in grouped:
        trunk, *branches = unit
        assert trunk.phase == "hot" and trunk.cooldown == 0 and trunk.budget is None
        assert trunk.marks == tuple(branch.start for branch in branches)
        assert trunk.steps == branches[-1].start
        for branch in branches:
            assert branch.trunk == trunk.id and branch.phase == "cooled"
            assert branch.cooldown == branch.steps - branch.start == -(-branch.steps // 5)
            assert abs(branch.flops / branch.budget - 1) <= 0.01  # the law's C is of the whole way
            assert branch.own_flops / branch.flops == pytest.approx(0.2, abs=0.01)
            for same in ("warmup", "batch_sequences", "learning_rate", "size", "seed"):
                assert getattr(branch, same) == getattr(trunk, same)
    assert len({cell.id for cell in found}) == len(found)
    # A branch is what it learns: that another budget joins the study does not make it another.
    fewer, _ = cells.grid(config, points[4:], WHOLE, ABOUT)
    of = lambda grid: {(c.size, c.seed, c.steps, c.batch_sequences): c.id for c in grid if c.start}  # noqa: E731
    both = set(of(found)) & set(of(fewer))
    assert all(of(found)[key] == of(fewer)[key] for key in both)


def test_trunks_cost_less():
    """The same (N, D), budgets a factor of 1.5 apart: at most 60 % of the FLOPs of separate runs."""
    config = trunk_config()
    points = [{"budget": 1e11 * 1.5**i, "size": size, "seed": 1} for i in range(5) for size in ("14k", "25k", "40k")]
    found, _ = cells.grid(config, points, WHOLE, ABOUT)
    separate = sum(cell.flops for cell in found if cell.phase == "cooled")
    assert sum(cell.own_flops for cell in found) <= 0.6 * separate


def test_a_budget_that_cannot_be_takes_no_other_with_it():
    config = trunk_config()
    points = [{"budget": budget, "size": "25k", "seed": 0} for budget in (1e7, 1e11, 1e12)]
    solved, refused = cells.grid(config, points, WHOLE, ABOUT)
    assert refused == [f"25k at 1e+07 FLOPs: 0 steps, under training.min_steps={config.training.min_steps}"]
    assert solved == cells.grid(config, points[1:], WHOLE, ABOUT)[0]  # whose trunk is that of the others alone
    solved, refused = cells.grid(config, points[:2], WHOLE, ABOUT)
    assert len(refused) == 1
    assert solved == cells.grid(config, points[1:2], WHOLE, ABOUT)[0]


def test_a_trunk_is_as_long_as_its_last_branch_needs():
    """The shortest may begin before a run may end, if the trunk goes on."""
    config = trunk_config()
    config.training.batch.exponent = 0.0
    step = cells.solve(config, {"budget": 1e11, "size": "25k", "seed": 0}, packed(), ABOUT)
    each, least = step.flops / step.steps, config.training.min_steps
    points = [{"budget": n * each, "size": "25k", "seed": 0} for n in (1.1 * least, 40 * least)]
    (trunk, short, long), refused = cells.grid(config, points, WHOLE, ABOUT)
    assert not refused and short.start < least < trunk.steps == long.start
    # Where none goes on for long enough each is trained by itself
    apart, refused = cells.grid(config, [{**points[0], "budget": n * least * each} for n in (1.1, 1.2)], WHOLE, ABOUT)
    assert not refused and [(cell.phase, cell.start, cell.trunk) for cell in apart] == 2 * [("cooled", 0, "")]


def test_one_budget_needs_no_trunk():
    found, _ = cells.grid(trunk_config(), [{"budget": 1e11, "size": "25k", "seed": 1}], WHOLE, ABOUT)
    assert [(cell.phase, cell.start, cell.trunk) for cell in found] == [("cooled", 0, "")]


def test_cells_that_differ_in_seed_rate_or_decay_are_trained_together():
    config = base.get_config()
    config.training.together = 4
    points = [
        {"budget": 1e11, "size": size, "seed": seed, "rate": rate, "weight_decay": 0.1}
        for size in ("14k", "25k")
        for seed in (1, 2, 3)
        for rate in (0.5, 1.0)
    ]
    found, _ = cells.grid(config, points, WHOLE, ABOUT)
    grouped = units(found)
    assert sorted(len(unit) for unit in grouped) == [2, 2, 4, 4]
    for unit in grouped:
        assert len({(cell.size, cell.steps) for cell in unit}) == 1
        assert [len(part) for part in ensembles(unit)] == [len(unit)]
    config.training.trunk, config.training.schedule, config.training.together = True, "wsd", 2
    more = [{**point, "budget": budget} for point in points for budget in (1e11, 2e11)]
    for unit in units(cells.grid(config, more, WHOLE, ABOUT)[0]):
        assert [len(part) for part in ensembles(unit)] == [2, 2, 2]  # two trunks, then branch by branch


def test_passes_and_fractions_take_the_place_of_budgets():
    config = base.get_config()
    config.grid.sizes, config.grid.seeds = ("14k", "25k"), (1,)
    config.grid.passes, config.grid.fractions = (4.0, 1.0), (0.5, 1.0)
    points = list(base.sweep(config))
    assert len(points) == 2 * 2 * 2 and all("budget" not in point for point in points)
    half = packed(fingerprint="of half")
    train = {"real_tokens": 500_000, "patients": 2_500, "phases": [{"sequences": 4_000}]}
    half["summary"] = {**half["summary"], "splits": {"train": train}}
    found, refused = cells.grid(config, points, {**WHOLE, 0.5: half}, ABOUT)
    assert not refused and len(found) == 8
    for cell in found:
        rows = {0.5: 4_000, 1.0: 8_000}[cell.fraction]
        passes = cell.steps * cell.batch_sequences / rows
        assert min(abs(passes / wanted - 1) for wanted in (4.0, 1.0)) <= 0.01
        assert cell.unique_tokens == {0.5: 500_000, 1.0: 1_000_000}[cell.fraction]
        assert cell.budget is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"training.optimizer": "adam"}, r"training.optimizer='adam' is unknown: take one of adamw, muon"),
        ({"training.schedule": "linear"}, "training.schedule='linear'"),
        ({"model.remat": "some"}, "model.remat='some'"),
        ({"model.parametrization": "ntk"}, "model.parametrization='ntk'"),
        ({"model.mixing": "canon"}, r"model.mixing='canon' is unknown: take one of none, conv"),
        ({"model.dtype": "float16"}, "model.dtype='float16'"),
        ({"model.dropout": 1.0}, "model.dropout=1.0"),
        ({"training.rate.peak": 0.0}, "learning rate of 0"),
        ({"training.rate.peak": 1e9}, r"learning rate of 1e\+09"),
        ({"grid.rates": (0.0,)}, "learning rate of 0"),
        ({"grid.rates": (-1.0,)}, "learning rate of -"),
        ({"grid.budgets": (float("nan"),)}, "budgets or .passes holds nan"),
        ({"grid.weight_decays": (-0.1,)}, "weight_decay: -0.1"),
        ({"training.trunk": True}, "trunk needs --config.training.schedule=wsd"),
        (
            {"training.trunk": True, "training.schedule": "wsd", "training.cooldown": 0.0},
            "cooldown=0 with a trunk leaves its branches nothing to train",
        ),
        ({"training.microbatch": -1}, "microbatch=-1"),
        ({"training.together": 0}, "together=0"),
        ({"training.max_skipped": 0}, "max_skipped=0"),
    ],
)
def test_senseless_settings_are_refused_before_anything_is_solved(change, match):
    config = base.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=match):
        cells.grid(config, list(base.sweep(config)), WHOLE, ABOUT)
