"""Many steps in one dispatch are the same as one at a time, as optax's AdamW, and as many devices."""

import io
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import Transformer, token_losses
from ehr_scaling.training.schedule import learning_rate
from ehr_scaling.training.step import Hyper, eval_losses, init, train_chunk

MODEL = Transformer(SHAPES["3.5k"], 30, 32)
FIXED = ("cosine", 1.0, 0.9, 0.95)
HYPER = Hyper(*map(np.float32, (0.01, 12, 3, 0, 0.1, 0.1)))
K, B, T = 4, 8, 16


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(1, 30, (K, B, T + 1)).astype(np.int32),
        "segments": np.ones((K, B, T + 1), np.int32),
        "mask": rng.random((K, B, T)) < 0.8,
    }


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_a_chunk_is_its_steps():
    data = batch()
    together, sums = train_chunk(MODEL, *FIXED, init(MODEL, 3, *FIXED[1:]), data, HYPER, np.int32(K))
    state, loss, targets = init(MODEL, 3, *FIXED[1:]), 0.0, 0
    for k in range(K):
        one = {name: np.roll(x, -k, axis=0) for name, x in data.items()}
        state, s = train_chunk(MODEL, *FIXED, state, one, HYPER, np.int32(1))
        loss, targets = loss + float(s["loss_sum"]), targets + float(s["targets"])
    assert_same(together, state, rtol=1e-6, atol=1e-7)
    assert float(sums["targets"]) == targets == data["mask"].sum()
    assert float(sums["loss_sum"]) == pytest.approx(loss, rel=1e-6)
    assert int(together.step) == K


def test_the_last_chunk_makes_fewer_updates():
    data, other = batch(), batch(1)
    mixed = {name: np.concatenate([data[name][:2], other[name][2:]]) for name in data}
    a, sums = train_chunk(MODEL, *FIXED, init(MODEL, 3, *FIXED[1:]), data, HYPER, np.int32(2))
    b, _ = train_chunk(MODEL, *FIXED, init(MODEL, 3, *FIXED[1:]), mixed, HYPER, np.int32(2))
    assert_same(a, b, rtol=0, atol=0)  # what lies past the second step is not even looked at
    assert float(sums["targets"]) == data["mask"][:2].sum()


def test_an_update_is_optax_adamw():
    data = {name: x[:1] for name, x in batch().items()}
    start = init(MODEL, 3, *FIXED[1:])
    start = start._replace(params={**start.params, "head": jnp.ones_like(start.params["head"]) * 0.01})

    def loss(params):
        logits, _ = MODEL.apply({"params": params}, data["tokens"][0, :, :-1], data["segments"][0, :, :-1])
        mask = data["mask"][0]
        return (token_losses(logits, data["tokens"][0, :, 1:]) * mask).sum() / mask.sum()

    shape = {name: getattr(HYPER, name) for name in ("steps", "warmup", "cooldown", "floor")}
    rate = learning_rate("cosine", start.step, peak=HYPER.learning_rate, **shape)
    matrices = jax.tree_util.tree_map_with_path(
        lambda path, _: any(w in jax.tree_util.keystr(path) for w in ("kernel", "head")), start.params
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, mask=matrices)
    )

    @jax.jit
    def update(params):
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    expected = update(start.params)
    got, _ = train_chunk(MODEL, *FIXED, start, data, HYPER, np.int32(1))
    assert_same(got.params, expected, rtol=1e-5, atol=1e-7)


def test_masked_targets_do_not_count():
    data = {name: x[0] for name, x in batch().items()}
    params = init(MODEL, 0, *FIXED[1:]).params
    losses = np.asarray(eval_losses(MODEL, params, data))
    assert (losses[~data["mask"]] == 0).all()
    np.testing.assert_allclose(losses[data["mask"]], np.log(29), rtol=1e-6)


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


def test_eight_devices_are_as_one():
    """Losses and parameters of a sharded batch, on devices that XLA simulates in another process."""
    program = """
import sys, numpy as np, jax
sys.path.insert(0, ".")
from tests.training.test_step import FIXED, HYPER, K, MODEL, batch
from ehr_scaling.training import sharding
from ehr_scaling.training.step import init, train_chunk
assert jax.device_count() == int(sys.argv[1])
state = jax.device_put(init(MODEL, 3, *FIXED[1:]), sharding.replicated())
data = sharding.shard(batch(), axis=1)
assert len(data["tokens"].sharding.device_set) == jax.device_count()
for _ in range(3):
    state, sums = train_chunk(MODEL, *FIXED, state, data, HYPER, np.int32(K))
flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)])
np.save(sys.stdout.buffer, np.append(flat, float(sums["loss_sum"])))
"""
    results = []
    for devices in (1, 8):
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        done = subprocess.run(
            [sys.executable, "-c", program, str(devices)], env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        results.append(np.load(io.BytesIO(done.stdout)))
    np.testing.assert_allclose(results[0], results[1], rtol=2e-4, atol=2e-6)
