"""Many steps in one dispatch are the same as one at a time, in pieces as whole, together as alone, and as AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ehr_scaling.models.mixing import MIXINGS
from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import Transformer, token_losses
from ehr_scaling.training.schedule import learning_rate
from ehr_scaling.training.step import Hyper, Program, eval_losses, init, train_chunk

MODEL = Transformer(SHAPES["3.5k"], 30, 32)
PROGRAM = Program(MODEL)
PROGRAMS = [pytest.param(Program(MODEL.clone(mixing=mixing)), id=mixing) for mixing in MIXINGS]
K, B, T = 4, 8, 16


def hyper(members=1, **changes):
    values = {"learning_rate": 0.01, "steps": 12, "warmup": 3, "cooldown": 0, "floor": 0.1, "weight_decay": 0.1}
    return Hyper(**{n: np.broadcast_to(np.float32(v), members) for n, v in {**values, **changes}.items()})


def batch(*seeds, steps=K):
    """(M, K, B, …), of each seed a member."""
    found = []
    for seed in seeds or (0,):
        rng = np.random.default_rng(seed)
        found.append(
            {
                "tokens": rng.integers(1, 30, (steps, B, T + 1)).astype(np.int32),
                "segments": np.repeat(rng.integers(1, 3, (steps, B, 1)), T + 1, axis=-1).astype(np.int32),
                "mask": rng.random((steps, B, T)) < 0.8,
            }
        )
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def run(data, updates=K, pieces=1, program=PROGRAM, seeds=(3,), state=None, **changes):
    """New state and sums. `data` are (M, K, B, …), cut into pieces here."""
    seeds = np.array(seeds, np.int32)
    cut = {name: x.reshape(len(x), -1, x.shape[2] // pieces, x.shape[3]) for name, x in data.items()}
    state = init(program, seeds) if state is None else state
    return train_chunk(program, state, cut, hyper(len(seeds), **changes), seeds, np.int32(updates), np.int32(pieces))


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_a_chunk_is_its_steps():
    data = batch()
    together, sums = run(data)
    state, loss, targets = None, 0.0, 0
    for k in range(K):
        state, s = run({name: np.roll(x, -k, axis=1) for name, x in data.items()}, updates=1, state=state)
        loss, targets = loss + float(s["loss_sum"][0]), targets + float(s["targets"][0])
    assert_same(together, state, rtol=1e-6, atol=1e-7)
    assert float(sums["targets"][0]) == targets == data["mask"].sum()
    assert float(sums["loss_sum"][0]) == pytest.approx(loss, rel=1e-6)
    assert int(together.step[0]) == K


def test_every_piece_of_every_step_is_dropped_out_anew():
    """The same rows at a rate of 0: what the losses differ by is what was dropped."""
    program = Program(MODEL.clone(dropout=0.5))
    begun, _ = run(batch(), learning_rate=0.3)  # as it is initialised a layer adds next to nothing
    same = {name: np.broadcast_to(x[:, :1, :1], x.shape) for name, x in batch().items()}

    def loss(rows, pieces, state=begun, **more):
        data = {name: x[:, :, :rows] for name, x in same.items()}
        rates = {"learning_rate": 0.0, "weight_decay": 0.0}
        state, sums = run(
            data, updates=1, pieces=pieces, program=program, state=jax.tree.map(jnp.copy, state), **rates, **more
        )
        return state, float(sums["loss_sum"][0]) / rows

    state, first = loss(1, 1)
    assert loss(1, 1)[1] == first  # the same whenever it is made
    assert abs(loss(1, 1, state)[1] - first) > 1e-3  # the next step
    assert abs(loss(1, 1, seeds=(4,))[1] - first) > 1e-3
    assert abs(loss(2, 2)[1] - first) > 1e-3  # two pieces of one row each: were they alike, so would be their mean


def test_the_last_chunk_makes_fewer_updates():
    data, other = batch(), batch(1)
    mixed = {name: np.concatenate([data[name][:, :2], other[name][:, 2:]], axis=1) for name in data}
    a, sums = run(data, updates=2)
    b, _ = run(mixed, updates=2)
    assert_same(a, b, rtol=0, atol=0)  # what lies past the second step is not even looked at
    assert float(sums["targets"][0]) == data["mask"][:, :2].sum()


@pytest.mark.parametrize("pieces", [2, 8])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_batch_in_pieces_is_the_whole_batch(pieces, program):
    """Pieces hold different numbers of targets: their gradients are weighted by them."""
    data = batch()
    data["mask"][:, :, : B // 2] &= np.random.default_rng(9).random(data["mask"][:, :, : B // 2].shape) < 0.3
    whole, sums = run(data, program=program)
    cut, same = run(data, pieces=pieces, program=program)
    assert_same(whole.params, cut.params, rtol=2e-5, atol=2e-6)
    assert_same(sums, same, rtol=1e-5)


def test_batches_of_any_size_share_a_program():
    data = {name: x.reshape(1, 8, 4, -1) for name, x in batch().items()}  # eight pieces of four sequences
    before = train_chunk._cache_size()
    for updates, pieces in ((8, 1), (4, 2), (2, 4), (1, 8)):
        seeds = np.array([3], np.int32)
        train_chunk(PROGRAM, init(PROGRAM, seeds), dict(data), hyper(), seeds, np.int32(updates), np.int32(pieces))
    assert train_chunk._cache_size() <= before + 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_members_are_trained_as_if_alone(program):
    """Seeds, rates and decays of their own, in one program."""
    seeds, rates, decays = (3, 4, 3), (0.01, 0.02, 0.001), (0.1, 0.0, 0.3)
    how = {"program": program}
    together, sums = run(batch(0, 1, 0), seeds=seeds, learning_rate=rates, weight_decay=decays, **how)
    for m, seed in enumerate(seeds):
        alone, own = run(batch((0, 1, 0)[m]), seeds=(seed,), learning_rate=rates[m], weight_decay=decays[m], **how)
        assert_same(jax.tree.map(lambda x, m=m: x[m : m + 1], together.params), alone.params, rtol=2e-4, atol=2e-6)
        assert float(sums["loss_sum"][m]) == pytest.approx(float(own["loss_sum"][0]), rel=1e-5)


def test_an_update_without_a_finite_gradient_is_skipped_member_by_member():
    seeds = (3, 4)
    state = init(PROGRAM, np.array(seeds, np.int32))
    broken = jax.tree.map(lambda x: x.at[1].set(jnp.nan), state.params["embedding"])
    state = state._replace(params={**state.params, "embedding": broken})
    kept = jax.tree.map(lambda x: np.asarray(x[1]), (state.params, state.optimizer))
    alone, _ = run(batch(0))
    after, sums = run(batch(0, 1), seeds=seeds, state=state)
    assert_same(jax.tree.map(lambda x: x[:1], after.params), alone.params, rtol=2e-4, atol=2e-6)
    assert_same(jax.tree.map(lambda x: x[1], (after.params, after.optimizer)), kept, rtol=0, atol=0)
    assert after.skipped.tolist() == after.in_a_row.tolist() == [0, K]
    assert after.step.tolist() == [K, K]
    assert float(sums["targets"][1]) == float(sums["loss_sum"][1]) == 0


def test_a_good_update_ends_a_row_of_skipped_ones():
    state = init(PROGRAM, np.array([3], np.int32))
    state = state._replace(skipped=state.skipped + 5, in_a_row=state.in_a_row + 2)
    after, _ = run(batch(), state=state)
    assert (int(after.skipped[0]), int(after.in_a_row[0])) == (5, 0)


def test_a_step_without_targets_changes_nothing_but_decay():
    data = batch(steps=1)
    data["mask"][:] = False
    start = init(PROGRAM, np.array([3], np.int32)).params
    after, sums = run(data, updates=1, weight_decay=0.0)
    assert_same(after.params, start, rtol=0, atol=0)
    assert float(sums["targets"][0]) == 0 and after.skipped.tolist() == [0]


def test_an_update_is_optax_adamw():
    data = batch(steps=1)
    start = init(PROGRAM, np.array([3], np.int32))
    start = start._replace(
        params={**start.params, "head": jax.random.normal(jax.random.key(1), start.params["head"].shape)}
    )
    params = jax.tree.map(lambda x: x[0], start.params)

    def loss(params):
        logits, _ = MODEL.apply({"params": params}, data["tokens"][0, 0, :, :-1], data["segments"][0, 0, :, :-1])
        mask = data["mask"][0, 0]
        return (token_losses(logits, data["tokens"][0, 0, :, 1:]) * mask).sum() / mask.sum()

    own = {name: getattr(hyper(), name)[0] for name in ("steps", "warmup", "cooldown", "floor")}
    rate = learning_rate("cosine", start.step[0], peak=0.01, **own)
    matrices = jax.tree_util.tree_map_with_path(
        lambda path, _: any(w in jax.tree_util.keystr(path) for w in ("kernel", "head")), params
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, mask=matrices)
    )

    @jax.jit
    def update(params):
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    expected = update(params)
    got, _ = run(data, updates=1, state=start)
    assert_same(jax.tree.map(lambda x: x[0], got.params), expected, rtol=1e-5, atol=1e-7)


def test_masked_targets_do_not_count():
    data = {name: x[0, 0] for name, x in batch().items()}
    params = init(PROGRAM, np.array([0, 1], np.int32)).params
    losses = np.asarray(eval_losses(MODEL, params, data))
    assert losses.shape == (2, B, T)
    assert (losses[:, ~data["mask"]] == 0).all()
    np.testing.assert_allclose(losses[:, data["mask"]], np.log(29), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "step", "share"),
    [
        ("cosine", 0, 1 / 3),
        ("cosine", 2, 1.0),
        ("cosine", 3, 1.0),
        ("cosine", 8, 0.1 + 0.9 * 0.5),
        ("cosine", 13, 0.1),
        ("wsd", 3, 1.0),
        ("wsd", 9, 1.0),
        ("wsd", 10, 0.1 + 0.9 * (1 - 0.5)),
        ("wsd", 13, 0.1),
    ],
)
def test_schedules(kind, step, share):
    rate = learning_rate(kind, jnp.float32(step), peak=2.0, steps=13, warmup=3, cooldown=4, floor=0.1)
    assert float(rate) == pytest.approx(2.0 * share, rel=1e-5)
