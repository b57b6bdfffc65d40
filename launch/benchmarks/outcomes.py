"""Simulated futures: tokens drawn a second, what sharing a prompt is worth, and the variance of the estimators."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from .flags import REPEATS
from .rows import Row, row, seconds

VOCAB = 1446  # of the demo of MIMIC-IV in the vocabulary of ETHOS
TOY = {"width": 128, "layers": 2, "heads": 2, "ff": 352}  # context 256
ETHOS = {"width": 768, "layers": 6, "heads": 12, "ff": 2048}  # of the published size, prompts of about 1,000 tokens
GRID = ("3.5k", "25k", "151k")  # of the quickstart, context 128


class Sampler:
    """A model with random parameters, and prompts for it. Nothing ends a copy, so that each draws all tokens."""

    def __init__(self, shape: Any, vocab: int, prompts: int, width: int, dtype: str = "float32") -> None:
        import jax
        import jax.numpy as jnp

        from ehr_scaling.models.transformer import Transformer, padded_vocab

        self.model = Transformer(shape, vocab, padded_vocab(vocab, 128), dtype=jnp.dtype(dtype))
        self.prompts = np.random.default_rng(0).integers(1, vocab, (prompts, width)).astype(np.int32)
        self.params = jax.jit(self.model.init)(jax.random.key(0), self.prompts[:1], self.prompts[:1])["params"]

    def run(self, copies: int, new: int, context: int, **options: Any) -> int:
        """Simulate; returns the tokens drawn."""
        from ehr_scaling.outcomes.sampler.simulate import OPEN, Clock, SimulationRequest, Stops, simulate

        never, zeros = np.zeros((1, self.model.vocab), bool), np.zeros(self.model.vocab, np.float32)
        ids = np.arange(len(self.prompts), dtype=np.uint64)
        stops, clock = Stops(never, never, never, np.array([OPEN], np.int8)), Clock(zeros, zeros, 1.0)
        gaps, horizons = np.zeros(len(ids)), np.full((len(ids), 1), np.inf)
        request = SimulationRequest(self.prompts, ids, gaps, horizons, stops, clock, context, copies, new)
        futures = simulate(self.model, self.params, request, **options)
        return int(futures.lengths.sum())

    def rate(self, copies: int, new: int, context: int, **options: Any) -> tuple[float, float]:
        """Tokens a second of decoding alone, and seconds until the first tokens: of `new` tokens less those of one."""
        spent = []
        for length in (1, new):
            self.run(copies, length, context, **options)  # compile
            spent.append(seconds(partial(self.run, copies, length, context, **options)))
        return len(self.prompts) * copies * (new - 1) / (spent[1] - spent[0]), spent[0]


def rows() -> Iterator[Row]:
    import jax

    from ehr_scaling.models.sizes import SHAPES, Shape

    if jax.default_backend() != "cpu":
        yield from _accelerator()
        return
    toy = "2 layers × 128, context 256, 256 live copies, prompts included"
    yield row(f"{toy}, a device a core", _a_device_a_core(), "tokens/s", 15e3)
    yield row("  one device, with threads", _toy(256), "tokens/s")

    shape = Shape("ethos", **ETHOS)
    ethos = Sampler(shape, VOCAB, 1, 1000)
    rate, first = ethos.rate(16, 49, 1049)
    yield row("6 layers × 768, prompt of 1,000, 16 copies of a stay: decoding", rate, "tokens/s", 200)
    yield row("  the prompt and first tokens of 16 copies", first, "s")
    apart = Sampler(shape, VOCAB, 16, 1000)
    alone, _ = apart.rate(1, 49, 1049)
    yield row("  compare: 16 copies, each of a prompt of its own", alone, "tokens/s")
    for copies in (1, 32):
        ethos.run(copies, 1, 1001)
        spent = seconds(partial(ethos.run, copies, 1, 1001))
        yield row(f"  the prompt read, and a token of {copies} copies", spent, "s")

    for name in GRID:
        sampler = Sampler(SHAPES[name], 315, 64, 96)
        sampler.run(4, 32, 128)
        spent = seconds(partial(sampler.run, 4, 32, 128))
        yield row(f"{name}, T = 128", 64 * 4 * 32 / spent / 1e3, "ktokens/s")
        yield row("  compare: whole prompt for every token", 64 * 4 * 32 / _uncached(sampler) / 1e3, "ktokens/s")
    yield from _estimators()


def _toy(rows: int) -> float:
    """Tokens a second of 32 stays with 16 copies and 128 tokens, `rows` copies under way on each device."""
    from ehr_scaling.models.sizes import Shape

    toy = Sampler(Shape("toy", **TOY), VOCAB, 32, 128)
    toy.run(16, 128, 256, rows=rows)
    return 32 * 16 * 128 / seconds(partial(toy.run, 16, 128, 256, rows=rows))


def _a_device_a_core() -> float:
    """In a process of its own, as workers of a study and launch.predict run: before JAX has started."""
    code = (
        "import sys; from absl import flags; from ehr_scaling.launch.common import common; "
        "from ehr_scaling.launch.benchmarks import outcomes; "
        "flags.FLAGS(sys.argv); common.use_all_cores(); import jax; "
        "print(outcomes._toy(256 // jax.local_device_count()))"
    )
    command = [sys.executable, "-c", code, f"--repeats={REPEATS.value}"]
    environment = {**os.environ, "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def _uncached(sampler: Sampler) -> float:
    """Seconds of 4 copies and 32 tokens by reading everything anew for each token."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def one_more(tokens: jax.Array, length: jax.Array) -> jax.Array:
        seen = jnp.broadcast_to((jnp.arange(128) < length).astype(jnp.int32), tokens.shape)
        logits, _ = sampler.model.apply({"params": sampler.params}, tokens, seen)
        return tokens.at[:, length].set(jax.random.categorical(jax.random.key(length), logits[:, length - 1]))

    def run() -> None:
        tokens = jnp.pad(np.repeat(sampler.prompts, 4, axis=0), ((0, 0), (0, 32)))
        for length in range(96, 128):
            tokens = one_more(tokens, length)
        jax.block_until_ready(tokens)

    run()
    return seconds(run)


def _estimators() -> Iterator[Row]:
    """Of a Markov chain whose answer is known: bias in standard errors, and variance at equal tokens."""
    from ehr_scaling.outcomes.sampler.simulate import POSITIVE

    from . import known_truth

    for rare in (1.0, 0.1):
        chain = known_truth.random_chain(1, rare=rare)
        truth = known_truth.exact(chain)[POSITIVE]
        judged = known_truth.judge(chain, copies=20_000, seed=0)
        counting = judged["monte_carlo"].variance_at_equal_tokens
        for name, stats in judged.items():
            off = (stats.probability - truth) / stats.error
            yield row(f"{name}, P = {truth:.3g}: off the truth", off, "standard errors")
            yield row("  variance at equal tokens, of that of counting", stats.variance_at_equal_tokens / counting, "×")


def _accelerator() -> Iterator[Row]:
    from ehr_scaling.models.sizes import SHAPES

    for name in ("11m", "85m", "127m"):
        sampler = Sampler(SHAPES[name], VOCAB, 64, 1024, "bfloat16")
        start = time.perf_counter()
        drawn = sampler.run(32, 256, 1280)
        compiled = time.perf_counter() - start
        spent = seconds(partial(sampler.run, 32, 256, 1280))
        what = f"{name}, bfloat16, prompts of 1,024, 1,024 live copies, 32 of a stay"
        yield row(what, drawn / spent / 1e3, "ktokens/s")
        yield row("  compiled and run once", compiled, "s")
