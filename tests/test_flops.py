"""The counter against XLA's own, and against arithmetic done by hand."""

import jax
import jax.numpy as jnp
import pytest

from ehr_scaling import flops
from ehr_scaling.models.mixing import MIXINGS
from ehr_scaling.models.sizes import SHAPES, Shape
from ehr_scaling.models.transformer import Block, Multipliers, Transformer
from ehr_scaling.training import optimizer


def dims(shape: Shape, vocab: int) -> dict[str, int]:
    return {"width": shape.width, "layers": shape.layers, "ff": shape.ff, "vocab": vocab}


@pytest.mark.parametrize("name", ["3.5k", "25k", "151k"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_parameters_are_those_of_the_model(name, tied, mixing):
    shape = SHAPES[name]
    tokens = jnp.zeros((1, 4), jnp.int32)
    model = Transformer(shape, 90, 96, tied, mixing=mixing)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    counts = flops.parameters(**dims(shape, 96), tied=tied, mixing=mixing)
    assert counts.total == size(params)
    assert counts.body == size(params["blocks"]) + size(params["final_norm"])
    assert counts.embedding == (0 if tied else size(params["embedding"]))


@pytest.mark.parametrize(("width", "heads", "ff", "context"), [(64, 2, 176, 32), (128, 4, 344, 64)])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_block_costs_what_xla_says(width, heads, ff, context, mixing):
    """Matmuls dominate at these widths, so XLA's count (which adds norms and softmax) is a little above ours."""
    shape = Shape("test", width, 1, heads, ff)
    block = Block(shape, jnp.float32, "xla", 0.0, 1, Multipliers(), mixing)
    x = jnp.ones((1, context, width))
    arguments = (x, None, jnp.ones((1, context), jnp.int32), None, None, jnp.arange(context), 0)
    params = block.init(jax.random.key(0), *arguments)
    compiled = jax.jit(lambda p, x: block.apply(p, x, *arguments[1:])[0]).lower(params, x).compile()
    ours = flops.forward(width=width, layers=1, ff=ff, vocab=0, context=context, mixing=mixing, causal=False)
    assert ours <= compiled.cost_analysis()["flops"] <= 1.12 * ours


def test_the_head_costs_what_xla_says():
    x, head = jnp.ones((32, 64)), jnp.ones((64, 512))
    counted = jax.jit(jnp.dot).lower(x, head).compile().cost_analysis()["flops"]
    assert counted == flops.forward(width=64, layers=0, ff=0, vocab=512, context=32)


def test_by_hand():
    # One layer, width 2, inner width 3, vocabulary 5, two tokens: body 2·(16+18) a token, three causal pairs of 4·2.
    assert flops.forward(width=2, layers=1, ff=3, vocab=5, context=2) == 2 * 2 * (16 + 18) + 3 * 8 + 2 * 2 * 2 * 5
    assert flops.training(width=2, layers=1, ff=3, vocab=5, context=2) == 3 * 200
    # Mixing: three products and sums of each of two channels
    assert flops.training(width=2, layers=1, ff=3, vocab=5, context=2, mixing="conv") == 3 * (200 + 2 * 2 * 3 * 2)
    assert flops.six_nd(10**10, 10**12) == pytest.approx(6e22)


@pytest.mark.parametrize("name", ["25k", "151k"])
def test_an_update_of_muon_costs_what_xla_says(name):
    """Momentum and scaling are elementwise, and few beside the products."""
    shape = SHAPES[name]
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = Transformer(shape, 8, 8).init(jax.random.key(0), tokens, tokens)["params"]
    muon = optimizer.transform("muon", clip=1.0, b1=0.9, b2=0.95)
    state = jax.eval_shape(muon.init, params)
    counted = jax.jit(muon.update).lower(params, state, params).compile().cost_analysis()["flops"]
    size = {"width": shape.width, "layers": shape.layers, "ff": shape.ff}
    ours = flops.update("muon", **size)
    assert ours <= counted <= 1.1 * ours
    assert flops.update("adamw", **size) == 0


def test_names_of_the_registry_are_their_sizes():
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}
    bodies = [flops.parameters(**dims(s, 0), tied=True).body for s in SHAPES.values()]
    assert bodies == sorted(bodies)
    assert bodies[0] < 4e3
    assert bodies[-1] > 0.95e9
    for shape, body in zip(SHAPES.values(), bodies, strict=True):
        assert float(shape.name[:-1]) * scale[shape.name[-1]] == pytest.approx(body, rel=0.06)
        assert shape.width % (2 * shape.heads) == 0  # rotary embedding pairs the halves of a head
