"""Each parameter is moved by the rule that is meant for it, stacked matrices as if they were not stacked."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import OPTIMIZERS
from ehr_scaling.models.sizes import Shape
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import optimizer

# As many heads as layers as values of qkv, so that an axis taken for another would go unnoticed by shapes alone
MODEL = Transformer(Shape("test", 24, 3, 3, 40), 30, 32, mixing="conv")
SETTINGS = {"clip": 1.0, "b1": 0.9, "b2": 0.95}
BODY = ("qkv", "out", "gate_up", "down")


@pytest.fixture(scope="module")
def params():
    tokens = jnp.zeros((1, 2), jnp.int32)
    return jax.jit(MODEL.init)(jax.random.key(0), tokens, tokens)["params"]


def like(params, seed, scale=1e-3):
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda p: scale * jax.random.normal(next(keys), p.shape), params)


@cache
def compiled(name):
    transform = optimizer.transform(name, **SETTINGS)
    return transform.init, jax.jit(transform.update)


def directions(name, params, gradients):
    """Of updates from each of `gradients` in turn; the parameters stay."""
    init, update = compiled(name)
    state, found = init(params), []
    for gradient in gradients:
        direction, state = update(gradient, state, params)
        found.append(direction)
    return found, state


def test_each_parameter_has_its_rule(params):
    labels = optimizer.labels(params)
    assert labels["embedding"] == labels["head"] == labels["final_norm"]["scale"] == "adam"
    body = dict(labels["blocks"])
    assert body.pop("mixing") == "adam"  # (L, J, D): a vector for each position
    assert {name: set(leaf.values()) for name, leaf in body.items()} == {
        **{name: {"muon"} for name in BODY},
        **{name: {"adam"} for name in ("attention_norm", "mlp_norm")},
    }
    gradients = [like(params, seed) for seed in range(2)]
    (_, muon), (_, adam) = (directions(name, params, gradients)[0] for name in ("muon", "adamw"))
    same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-5), muon, adam)
    assert same == jax.tree.map(lambda label: label == "adam", labels)


def newton_schulz(x):
    """Of one matrix, as in the authors' code, in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def test_a_stacked_matrix_is_its_layers(params):
    gradients = [like(params, seed) for seed in range(3)]
    (*_, direction), _ = directions("muon", params, gradients)
    momentum, beta = jax.tree.map(lambda p: np.zeros(p.shape), params), optimizer.MOMENTUM
    t = len(gradients)
    for g in gradients:
        norm = float(optax.global_norm(g))
        g = jax.tree.map(lambda x, n=norm: np.asarray(x, np.float64) / max(1.0, n), g)
        momentum = jax.tree.map(lambda m, x: beta * m + (1 - beta) * x, momentum, g)
    nesterov = jax.tree.map(lambda m, x: beta * m / (1 - beta ** (t + 1)) + (1 - beta) * x / (1 - beta**t), momentum, g)
    width, ff = MODEL.shape.width, MODEL.shape.ff
    for name, parts in (("qkv", 3), ("out", 1), ("gate_up", 2), ("down", 1)):
        stacked, got = (np.asarray(tree["blocks"][name]["kernel"]) for tree in (nesterov, direction))
        rows = ff if name == "down" else width
        split = lambda x, rows=rows, parts=parts: x.reshape(3, rows, parts, -1).swapaxes(1, 2)  # noqa: E731
        for layer, layer_got in zip(split(stacked), split(got), strict=True):
            for matrix, matrix_got in zip(layer, layer_got, strict=True):
                n, m = matrix.shape
                expected = newton_schulz(matrix) if n <= m else newton_schulz(matrix.T).T
                np.testing.assert_allclose(matrix_got, 0.2 * max(n, m) ** 0.5 * expected, atol=2e-4)
                singular = np.linalg.svd(matrix_got, compute_uv=False) / (0.2 * max(n, m) ** 0.5)
                assert singular.min() > 0.5 and singular.max() < 1.3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_clipped_once_and_together(params, name):
    big = [like(params, seed, scale=10.0) for seed in (0, 1)]
    unit = [optax.tree.scale(1 / optax.global_norm(g), g) for g in big]
    a, b = (directions(name, params, gradients)[0][1] for gradients in (big, unit))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_are_as_if_alone(params, name):
    transform = optimizer.transform(name, **SETTINGS)
    seeds, rates, decays = (0, 1), jnp.array([0.01, 0.3]), jnp.array([0.0, 0.1])

    def two_steps(first, second, rate, decay):
        state, p, scales = transform.init(params), params, optimizer.scales(name, MODEL, params)
        for gradient in (first, second):
            direction, state = transform.update(gradient, state, p)
            p = optimizer.apply(p, direction, rate, decay, scales)
        return p, state

    gradients = [[like(params, seed + 10 * k) for seed in seeds] for k in range(2)]
    stacked = [jax.tree.map(lambda *x: jnp.stack(x), *g) for g in gradients]
    together = jax.jit(jax.vmap(two_steps))(*stacked, rates, decays)
    one = jax.jit(two_steps)
    for i in seeds:
        alone = one(gradients[0][i], gradients[1][i], rates[i], decays[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), together, alone)


def test_decay_is_of_matrices_alone(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    # From zeros nothing would decay
    params = {**params, "blocks": {**params["blocks"], "mixing": 1.0 + params["blocks"]["mixing"]}}
    after = optimizer.apply(params, zeros, 0.5, 0.1, optimizer.scales("adamw", MODEL, params))
    shrunk = jax.tree.map(lambda a, b: bool(np.allclose(a, 0.95 * b, rtol=1e-6)), after, params)
    assert not shrunk["blocks"].pop("mixing")
    assert {name: leaf["kernel"] for name, leaf in shrunk["blocks"].items() if "kernel" in leaf} == dict.fromkeys(
        BODY, True
    )
    assert shrunk["head"] and not shrunk["embedding"] and not shrunk["final_norm"]["scale"]
    assert not any(leaf["scale"] for leaf in shrunk["blocks"].values() if "scale" in leaf)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_mup_gives_vectors_the_rate_itself(params, name):
    """Yang et al. 2022, table 3: they see no sum over the width. The last norm has the factor of the output as well."""
    model = MODEL.clone(parametrization="mup", base=(8, 1))
    scales = optimizer.scales(name, model, params)
    body = {layer: set(leaf.values()) for layer, leaf in scales["blocks"].items() if "norm" in layer}
    assert body == {"attention_norm": {1.0}, "mlp_norm": {1.0}}
    assert scales["blocks"]["mixing"] == scales["embedding"] == scales["head"] == 1.0
    assert scales["final_norm"]["scale"] == pytest.approx(8 / 24)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_can_be_saved(params, name, tmp_path):
    _, state = directions(name, params, [like(params, 0)])
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match=r"training.optimizer=sgd: take one of adamw, muon$"):
        optimizer.transform("sgd", **SETTINGS)
