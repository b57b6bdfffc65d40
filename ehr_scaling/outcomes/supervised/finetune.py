"""Fine-tuning: every weight of a trained model and a linear head, on stays whose outcome is known.

The head starts as the probe that was fitted to the frozen states, so that training does not begin by tearing apart what
the model has learnt (LP-FT: Kumar et al. 2022, arXiv 2202.10054), and a run of no epoch is that probe. On one device of
one process; batches of a few fixed shapes, the stays in memory.

Shapes: B batch, P positions of a prompt, F features of the head.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes.supervised import batches, states
from ehr_scaling.outcomes.supervised.probe import Probe, log_loss, weights
from ehr_scaling.training import optimizer
from ehr_scaling.training.schedule import learning_rate
from ehr_scaling.training.step import Program

_WARMUP = 0.1  # share of the updates


class Recipe(NamedTuple):
    """How a model is fine-tuned; the defaults were chosen on validation stays, see docs/outcomes.md."""

    rates: tuple[float, ...] = (1e-4, 3e-4)  # peak learning rates, of which the tuning stays choose
    epochs: int = 3  # at most
    patience: int = 2  # epochs without a lower tuning loss after which a run ends
    least_updates: int = 60  # of an epoch's share of them: few labels are passed over several times an epoch
    batch: int = 32
    optimizer: str = "adamw"
    weight_decay: float = 0.1
    dropout: float = 0.0
    class_weights: bool = False  # both outcomes weigh the same in all
    features: tuple[str, ...] = (states.LAST, states.MEAN)  # what the head reads
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.95


class Labelled(NamedTuple):
    """Prompts, int (n, P), padded on the left, and their outcomes, bool (n,)."""

    prompts: np.ndarray
    labels: np.ndarray


class Tuned(NamedTuple):
    """A fine-tuned model and its head."""

    params: Any  # {"body": of the model, "classifier": {"kernel" (F,), "bias" ()}}
    rate: float | None  # peak learning rate that was chosen; None where the probe is no worse
    epoch: int  # of the least tuning loss, 0: the probe
    losses: dict[str, list[float]]  # tuning loss after each epoch, from the probe's, by peak rate


class _State(NamedTuple):
    params: Any
    moments: Any
    step: jax.Array


class _Scale(NamedTuple):
    """What standardises the features of the head, as the probe's: float32 (F,)."""

    mean: np.ndarray
    deviation: np.ndarray


def fit(
    model: Transformer,
    params: Any,
    probe: Probe,
    train: Labelled,
    tuning: Labelled,
    context_tokens: int,
    recipe: Recipe,
    seed: int,
    report: Callable[[int], None] = lambda tokens: None,
) -> Tuned:
    """The weights of least log-loss of the tuning stays, over all rates and the ends of all epochs, and before them.

    Args: probe, fitted to the states `recipe.features` of the same train stays; seed, of the order of the stays and of
      dropout; report, called with the positions read.
    """
    program = Program(
        model.clone(dropout=recipe.dropout), recipe.optimizer, "cosine", recipe.clip, recipe.b1, recipe.b2
    )
    scale = _Scale(probe.mean, probe.deviation)
    classifier = {"kernel": jnp.asarray(probe.coefficients, jnp.float32), "bias": jnp.float32(probe.intercept)}
    start = jax.tree.map(jnp.asarray, {"body": params, "classifier": classifier})

    weighs = weights(train.labels, recipe.class_weights).astype(np.float32)
    tuning_weighs = weights(tuning.labels, recipe.class_weights)

    def tuning_loss(params: Any) -> float:
        p = predict(model, params, probe, tuning.prompts, context_tokens, recipe.features, report)
        return log_loss(tuning.labels, p, tuning_weighs)

    first = least = tuning_loss(start)
    best, losses = Tuned(start, None, 0, {}), {}
    times = passes(len(train.labels), recipe)
    updates = recipe.epochs * times * math.ceil(len(train.labels) / recipe.batch)
    for rate in recipe.rates if recipe.epochs else ():
        rng, key = np.random.default_rng(seed), jax.random.key(seed)
        state = _State(_copied(start), program.transform().init(start), jnp.zeros((), jnp.int32))
        curve = [first]
        for epoch in range(1, recipe.epochs + 1):
            for _ in range(times):
                for rows in batches.shuffled(train.prompts, recipe.batch, rng):
                    batch = batches.cut(train.prompts, rows, recipe.batch)
                    state = _update(
                        program, recipe.features, context_tokens, state, scale, batch.prompts,
                        train.labels[batch.rows].astype(np.float32), weighs[batch.rows] * batch.filled,
                        np.float32(rate), np.float32(recipe.weight_decay), np.float32(updates), key,
                    )  # fmt: skip
                    report(3 * batch.prompts.size)
            curve.append(tuning_loss(state.params))
            if curve[-1] < least:
                least, best = curve[-1], Tuned(_copied(state.params), rate, epoch, {})
            if epoch - int(np.argmin(curve)) >= recipe.patience:
                break
        losses[f"{rate:g}"] = curve
    return best._replace(losses=losses)


def passes(stays: int, recipe: Recipe) -> int:
    """Passes over the stays in an epoch: one, or as many as make an epoch's share of the least updates."""
    return max(1, math.ceil(recipe.least_updates / max(recipe.epochs, 1) / math.ceil(stays / recipe.batch)))


def _copied(tree: Any) -> Any:
    """Not the arrays that an update is about to take over."""
    return jax.tree.map(jnp.copy, tree)


def _logits(
    model: Transformer,
    features: tuple[str, ...],
    context_tokens: int,
    params: Any,
    scale: Any,
    prompts_BxP: jax.Array,
    key: jax.Array | None = None,
) -> jax.Array:
    """Log-odds of the outcome, float32 (B,)."""
    parts = states.of_batch(model, params["body"], prompts_BxP, context_tokens, features, key)
    x_BxF = (jnp.concatenate(parts, axis=1) - scale.mean) / scale.deviation
    return x_BxF @ params["classifier"]["kernel"] + params["classifier"]["bias"]


@partial(jax.jit, static_argnames=("program", "features", "context_tokens"), donate_argnames=("state",))
def _update(
    program: Program,
    features: tuple[str, ...],
    context_tokens: int,
    state: _State,
    scale: Any,
    prompts_BxP: jax.Array,
    labels_B: jax.Array,
    weights_B: jax.Array,
    rate: jax.Array,
    weight_decay: jax.Array,
    updates: jax.Array,
    key: jax.Array,
) -> _State:
    """One step down the mean cross-entropy of a batch. Args: weights, float32, 0 of rows that fill the batch up."""
    model = program.model
    dropout = jax.random.fold_in(key, state.step) if model.dropout else None

    def loss(params: Any) -> jax.Array:
        z_B = _logits(model, features, context_tokens, params, scale, prompts_BxP, dropout)
        losses_B = optax.sigmoid_binary_cross_entropy(z_B, labels_B)
        return jnp.sum(weights_B * losses_B) / jnp.sum(weights_B)

    gradient = jax.grad(loss)(state.params)
    direction, moments = program.transform().update(gradient, state.moments, state.params)
    now = learning_rate(
        program.schedule, state.step, peak=rate, steps=updates, warmup=_WARMUP * updates, cooldown=0.0, floor=0.0
    )
    scales = optimizer.scales(program.optimizer, model, state.params)
    params = optimizer.apply(state.params, direction, now, weight_decay, scales)
    return _State(params, moments, state.step + 1)


@partial(jax.jit, static_argnames=("model", "features", "context_tokens"))
def _probabilities(
    model: Transformer, features: tuple[str, ...], context_tokens: int, params: Any, scale: Any, prompts_BxP: jax.Array
) -> jax.Array:
    return jax.nn.sigmoid(_logits(model, features, context_tokens, params, scale, prompts_BxP))


def predict(
    model: Transformer,
    params: Any,
    probe: Probe,
    prompts: np.ndarray,
    context_tokens: int,
    features: tuple[str, ...],
    report: Callable[[int], None] = lambda tokens: None,
) -> np.ndarray:
    """Probability of the outcome of n prompts, float64 (n,). Args: params, as of `Tuned`; probe, that they began as."""
    scale, out = _Scale(probe.mean, probe.deviation), np.empty(len(prompts))
    for batch in batches.in_order(prompts, states.AT_ONCE):
        p = _probabilities(model, features, context_tokens, params, scale, batch.prompts)
        out[batch.rows[batch.filled]] = np.asarray(p)[batch.filled]
        report(batch.prompts.size)
    return out
