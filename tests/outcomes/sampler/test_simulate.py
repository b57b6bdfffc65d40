"""The sampler: it draws from the model's distribution, whoever else is simulated, whatever cache and slots it uses."""

import os
import signal
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from ehr_scaling.errors import Preempted
from ehr_scaling.models.mixing import MIXINGS
from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import PAD, Transformer
from ehr_scaling.outcomes.sampler import decode, simulate, slots
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Clock, Futures, Stops
from ehr_scaling.processes import preemption
from tests import forked, nightly

VOCAB, PADDED, WIDTH = 37, 40, 24
CONTEXT = 32  # room for 8 tokens, so that longer futures slide
HORIZON = 40.0
INTERVALS = {10: (1.0, 2.0), 11: (5.0, 10.0), 12: (20.0, np.inf)}  # id: mean hours, end
GAPS = np.array([0, 0, 0.7, 3, 11, 0, 0], np.float32)
IDS = np.arange(7, dtype=np.uint64) + np.uint64(1 << 40)


def make(size="1.7k", seed=0, mixing="none"):
    """A model whose next token depends on what it has read."""
    model = Transformer(SHAPES[size], VOCAB, PADDED, mixing=mixing)
    tokens = np.ones((1, 4), np.int32)
    params = jax.jit(model.init)(jax.random.key(seed), tokens, tokens)["params"]
    keys = jax.random.split(jax.random.key(seed + 1), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    return model, jax.tree.map(lambda x, key: x + 0.3 * jax.random.normal(key, x.shape), params, keys)


@pytest.fixture(scope="module", params=MIXINGS)
def made(request):
    return make(mixing=request.param)


@pytest.fixture(scope="module")
def plain():
    return make()


@pytest.fixture(scope="module")
def prompts():
    found = np.random.default_rng(0).integers(1, VOCAB, (7, WIDTH)).astype(np.int32)
    found[0, :20] = found[1, :5] = PAD
    return found


def clock():
    hours, ends = np.zeros((2, VOCAB), np.float32)
    for token, (mean, end) in INTERVALS.items():
        hours[token], ends[token] = mean, end
    return Clock(hours, ends, 0.5)


def sets(*tokens):
    found = np.zeros((len(tokens), VOCAB), bool)
    for k, own in enumerate(tokens):
        found[k, list(own)] = True
    return found


def stops():
    """Two outcomes; the horizon speaks against the first, and for the second."""
    return Stops(sets((5,), (7, 8)), sets((6,), (9,)), sets((2,), (2,)), np.array([NEGATIVE, POSITIVE], np.int8))


def shares():
    """The same, with tokens that are positive with a probability: often, so that a future meets several."""
    positive = stops().positive.astype(np.float32)
    positive[0, 13:23] = np.linspace(0.05, 0.95, 10)
    positive[1, 17:19] = 0.5
    return stops()._replace(positive=positive)


OPTIONS = {"new_tokens": 30, "context": CONTEXT, "context_tokens": 2, "seed": 3}


def run(made, prompts, copies, chosen=slice(None), **options):
    model, params = made
    horizons = np.full((7, 2), HORIZON, np.float32)
    how = {name: options.pop(name) for name in ("rows", "devices", "report") if name in options}
    about = {"stops": stops(), "clock": clock(), "copies": copies, **OPTIONS}
    asked = simulate.SimulationRequest(prompts, IDS, GAPS, horizons, **about).take(chosen)
    return simulate.simulate(model, params, asked._replace(**options), **how)


@pytest.fixture(scope="module")
def futures(made, prompts):
    return run(made, prompts, 6)


@partial(jax.jit, static_argnums=0)
def forward(model, params, x):
    return model.apply({"params": params}, x, (x != PAD).astype(jnp.int32))[0]


def one_by_one(made, prompt, gap, stream, copy, what):
    """A future by reading everything anew for each token, in plain Python: what the engine must come to."""
    known = [int(t) for t in prompt if t != PAD]
    static, rest, drawn = known[:2], known[2:], []
    key = jax.random.key(OPTIONS["seed"])
    for part in (int(stream) >> 32, int(stream) & 0xFFFFFFFF, copy):
        key = jax.random.fold_in(key, np.uint32(part))
    window, here, hours = known, 0, -float(gap)
    ended, decided, sums = [RUNNING] * 2, [0.0] * 2, np.zeros((2, 4))
    times = clock()
    while len(drawn) < OPTIONS["new_tokens"] and RUNNING in ended:
        if here == CONTEXT - WIDTH:  # the oldest make way, and the rest is read anew
            window, here = static + (rest + drawn)[-(WIDTH - 2) :], 0
        filled = np.array([[PAD] * (CONTEXT - len(window)) + window], np.int32)
        logits = np.array(forward(*made, filled))[0, -1]
        if not drawn and gap >= times.shortest:
            logits[:VOCAB][times.ends <= gap] = -1e9
        p = np.exp(logits - logits.max())
        share = (p / p.sum())[:VOCAB]
        for k in range(2):
            if ended[k] == RUNNING:
                positive, left = share @ what.positive[k], 1 - sums[k, 3]
                sums[k] += left * positive, left * share[what.negative[k]].sum(), np.log1p(-positive), 0
        uniform = jax.random.uniform(jax.random.fold_in(key, len(drawn)))
        token = int(slots.draw(jnp.asarray(p)[None], uniform[None])[0])
        drawn.append(token)
        window, here = [*window, token], here + 1
        hours = max(hours + times.hours[token], 0.0)
        for k in range(2):
            if ended[k] != RUNNING:
                continue
            decided[k] = min(hours, HORIZON)
            sums[k, 3] += (1 - sums[k, 3]) * what.positive[k, token]
            if hours > HORIZON:
                ended[k] = int(what.at_horizon[k])
            elif any(x[k, token] == 1 for x in what[:3]):
                ended[k] = [POSITIVE, NEGATIVE, OPEN][[x[k, token] == 1 for x in what[:3]].index(True)]
    return drawn, ended, decided, sums


COMPARED = (0, 5)  # copies of each stay: of its first slots and of one that was filled later


@pytest.mark.parametrize("sample", range(7))
def test_the_engine_equals_reading_everything_anew(made, prompts, futures, sample):
    """Prefix, ring, refilled slots, slides, gaps, clock, horizon and sums: against one future at a time."""
    for copy in COMPARED:
        same_future(Futures(*(field[sample, copy] for field in futures)), made, prompts[sample], sample, copy, stops())


def test_the_engine_weighs_tokens_that_are_positive_with_a_probability(plain, prompts):
    futures = run(plain, prompts, 3, stops=shares())
    for sample, copy in ((0, 0), (2, 1), (3, 2), (6, 0)):
        same_future(Futures(*(x[sample, copy] for x in futures)), plain, prompts[sample], sample, copy, shares())
    part = (futures.share > 0) & (futures.share < 1)
    assert part.mean() > 0.3 and set(np.unique(futures.ended[part])) >= {RUNNING, NEGATIVE, OPEN}
    # Nothing is drawn otherwise for it, and where no token is of that kind all is as it was
    ordinary = run(plain, prompts, 3)
    longer = np.minimum(ordinary.lengths, futures.lengths)[..., None] > np.arange(OPTIONS["new_tokens"])
    np.testing.assert_array_equal(futures.tokens[longer], ordinary.tokens[longer])
    whole = run(plain, prompts, 3, stops=stops()._replace(positive=stops().positive.astype(np.float32)))
    for mine, same in zip(whole, ordinary, strict=True):
        np.testing.assert_array_equal(mine, same)
    np.testing.assert_array_equal(ordinary.share, (ordinary.ended == POSITIVE) & ~ordinary.by_horizon)


def same_future(mine, made, prompt, sample, copy, what):
    drawn, ended, decided, sums = one_by_one(made, prompt, GAPS[sample], IDS[sample], copy, what)
    assert mine.tokens[: mine.lengths].tolist() == drawn and (mine.tokens[mine.lengths :] == PAD).all()
    assert mine.ended.tolist() == ended
    open_ = [e == RUNNING for e in ended]
    np.testing.assert_allclose(np.where(open_, 0, mine.hours), np.where(open_, 0, decided), rtol=1e-5)
    found = np.stack([mine.positive, mine.negative, mine.survival, mine.share], 1)
    np.testing.assert_allclose(found, sums, rtol=2e-4, atol=1e-6)


def test_all_that_can_happen_has_happened(futures):
    """Else the test above says less than it seems to."""
    futures = Futures(*(field[:, COMPARED] for field in futures))
    assert set(np.unique(futures.ended)) == {RUNNING, POSITIVE, NEGATIVE, OPEN}
    assert futures.by_horizon.any() and (futures.lengths > CONTEXT - WIDTH).any() and (futures.lengths == 30).any()
    assert (futures.ended[futures.by_horizon] != RUNNING).all()


@pytest.mark.parametrize("rows", nightly.but(4, of=(1, 4, 6, 64)))
def test_a_future_is_that_of_its_stay_and_copy_alone(made, prompts, futures, rows):
    order = np.random.default_rng(rows).permutation(7)[:5]
    other = run(made, prompts, 9, order, rows=rows)
    for name in Futures._fields:
        mine, same = getattr(other, name)[:, :6], getattr(futures, name)[order]
        if mine.dtype == np.float32:
            np.testing.assert_allclose(mine, same, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(mine, same)


def test_seeds_differ(made, prompts, futures):
    other = run(made, prompts, 6, seed=4)
    assert (other.tokens[:, :, 0] != futures.tokens[:, :, 0]).mean() > 0.5
    assert len({tuple(t) for t in futures.tokens[5]}) == 6  # nor are copies alike


def test_suppressed_tokens_never_come(plain, prompts):
    found = run(plain, prompts, 16, suppress=True)
    assert not np.isin(found.tokens, (5, 7, 8)).any()
    assert (found.ended != POSITIVE)[..., 0].all() and (found.survival < 0).all() and not found.share.any()
    positive = stops().positive.astype(np.float32)
    positive[0, 13:37] = 0.9
    few = run(plain, prompts, 16, suppress=True, stops=stops()._replace(positive=positive))
    assert 0 < np.isin(few.tokens, np.arange(13, 37)).mean() < 0.5 * np.isin(found.tokens, np.arange(13, 37)).mean()
    assert not few.share.any()


def test_report_counts_every_token(plain, prompts):
    seen = []
    run(plain, prompts, 4, report=seen.append)
    assert sum(seen) == 7 * 4 * OPTIONS["new_tokens"]


def test_devices_change_nothing(tmp_path):
    """Four devices, each with its share of the stays and a loop of its own; or two that hold the model together."""
    code = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from tests.outcomes.sampler import test_simulate as t
prompts = np.random.default_rng(0).integers(1, t.VOCAB, (7, t.WIDTH)).astype(np.int32)
made = t.make(mixing="conv", size="25k")
assert len(jax.local_devices()) == 4
t.OPTIONS["new_tokens"] = 12
one, four = (t.run(made, prompts, 3, devices=jax.local_devices()[:n]) for n in (1, 4))
np.testing.assert_array_equal(one.tokens, four.tokens)
np.testing.assert_array_equal(one.ended, four.ended)
np.testing.assert_allclose(one.positive, four.positive, rtol=1e-4)

from ehr_scaling.training import sharding
sharding.WHOLE_BELOW = 0  # cut everything, small as it is
model, params = made
cut = jax.device_put(params, sharding.of_params(sharding.mesh(1, 1, 2), params))
assert sharding.devices_of(cut) == 2 and sharding.devices_of(params) == 1
together = t.run((model, cut), prompts, 3, devices=jax.local_devices()[:3])  # one of them to spare
np.testing.assert_array_equal(one.tokens, together.tokens)
np.testing.assert_allclose(one.positive, together.positive, rtol=1e-4)

# What draws nothing: 7 prompts, two at a time on each device. Batches of one size are alike to the last bit
from ehr_scaling.outcomes.sampler import simulate, two_tokens
two_tokens._ROWS = 6
until = np.full((7, 2), t.HORIZON, np.float32)
asked = simulate.SimulationRequest(prompts, t.IDS, t.GAPS, until, t.stops(), t.clock(), 32, 1, 2)
held, on_host = [], sharding.on_host
def seen(mesh, arrays):
    held.extend(len(x.addressable_shards[0].data) for x in jax.tree.leaves(arrays))
    return on_host(mesh, arrays)
sharding.on_host = seen
def next_and_decided(made, n):
    held.clear()
    some = {"devices": jax.local_devices()[:n]}
    p = simulate.next_token(*made, prompts, np.arange(t.VOCAB), batch=2, **some)
    return [p, *two_tokens.decide(*made, asked, **some)]
one = next_and_decided(made, 1)
assert held == [2] * 4 * (1 + 3), held
assert [x.shape for x in one] == [(7, t.VOCAB), (7, 2), (7, 2), (7, 2)]
four = next_and_decided(made, 4)
assert held == [2] * (1 + 3), held
for x, y in zip(one, four, strict=True):
    np.testing.assert_array_equal(x, y)
together = next_and_decided((model, cut), 3)
assert held == [2] * 4 * (1 + 3), held
for x, y in zip(one, together, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)
"""
    done = forked.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("size", "mixing"),
    [pytest.param(*each, marks=pytest.mark.nightly) for each in (("1.7k", "none"), ("25k", "none"))]
    + [("25k", "conv")],
)
def test_cached_logits_are_the_models(size, mixing):
    """Through prefill, tokens of copies at different ages, and a prefix that copies share: to 1e-4."""
    model, params = make(size, seed=5, mixing=mixing)
    rng = np.random.default_rng(1)
    prompts = rng.integers(1, VOCAB, (2, WIDTH)).astype(np.int32)
    prompts[0, : WIDTH - 2] = PAD  # of two tokens, fewer than mixing reads
    segments = lambda x: (x != PAD).astype(jnp.int32)  # noqa: E731
    first, prefix = decode.read(model, params, jnp.asarray(prompts))
    expected = model.apply({"params": params}, prompts, segments(prompts))[0][:, -1]
    np.testing.assert_allclose(first, expected, atol=1e-4)
    weights, room = decode.weights(model, params), 8
    ring, rows = decode.empty_ring(model, 6, room), 6
    born = np.array([0, 2, 5, 0, 3, 4])  # turns at which the rows begin; three rows share a prompt
    drawn = [[] for _ in range(rows)]
    whole = jax.jit(lambda x: model.apply({"params": params}, x, segments(x))[0])
    step = jax.jit(lambda *args: decode.step(model, weights, prefix, *args))
    for turn in range(11):
        ages = np.array([min(len(d), room - 1) for d in drawn])
        tokens = rng.integers(1, VOCAB, rows)
        alive = [r for r in range(rows) if turn >= born[r] and len(drawn[r]) < room]
        logits, ring = step(ring, tokens, np.where(turn >= born, ages, 0), turn % room)
        for r in alive:
            drawn[r].append(int(tokens[r]))
            x = np.concatenate([[PAD] * (room - len(drawn[r])), prompts[r // 3], drawn[r]])[None].astype(np.int32)
            np.testing.assert_allclose(logits[r], whole(x)[0, -1], atol=1e-4)
    assert min(map(len, drawn)) >= 6


def test_bfloat16_is_near(prompts):
    model, params = make()
    half = model.clone(dtype=jnp.bfloat16)
    exact, near = (simulate.next_token(m, params, prompts, np.arange(VOCAB)) for m in (model, half))
    assert 0.5 * np.abs(exact - near).sum(axis=1).max() < 0.15


def test_next_token(made, prompts):
    model, params = made
    found = simulate.next_token(model, params, prompts, np.arange(VOCAB), batch=3)
    some = np.array([4, 1, VOCAB - 1])
    np.testing.assert_array_equal(simulate.next_token(model, params, prompts, some, batch=3), found[:, some])
    logits = model.apply({"params": params}, prompts, (prompts != PAD).astype(np.int32))[0][:, -1, :VOCAB]
    np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=1e-5)
    assert (found[:, PAD] == 0).all()


def test_sigterm_is_heard_between_two_batches(made, prompts, monkeypatch):
    batches = []

    def asked_to_end(model, mesh, params, some, tokens):
        batches.append(some)
        os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros((len(some[0]), len(tokens)))

    monkeypatch.setattr(simulate, "_next", asked_to_end)
    with preemption.deferred(), pytest.raises(Preempted):
        simulate.next_token(*made, prompts, np.arange(VOCAB), batch=1)
    assert len(batches) == 1


def test_draws_follow_the_softmax():
    """Goodness of fit of the one sampling method there is: χ² of 200,000 draws, also where an id has weight 0."""
    rng = np.random.default_rng(0)
    for ids in (3, 37, 320):
        weights = rng.exponential(size=ids) ** 3
        weights[ids // 2] = 0
        uniform = jax.random.uniform(jax.random.key(ids), (200_000,))
        drawn = np.concatenate(
            [slots.draw(jnp.tile(jnp.asarray(weights, jnp.float32), (len(u), 1)), u) for u in np.split(uniform, 20)]
        )
        counts = np.bincount(drawn, minlength=ids)
        assert counts[weights == 0].sum() == 0
        expected = weights / weights.sum() * len(drawn)
        rare = expected < 5
        observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
        kept = expected > 0
        assert scipy_stats.chisquare(observed[kept], expected[kept]).pvalue > 1e-4


def test_first_tokens_follow_the_model(plain, prompts):
    """Goodness of fit through the whole engine: 4,000 copies of a stay, with and without a gap."""
    model, params = plain
    for row in (5, 3):
        found = run(plain, prompts, 4000, slice(row, row + 1), new_tokens=1, rows=500).tokens[0, :, 0]
        p = simulate.next_token(model, params, prompts[row : row + 1], np.arange(VOCAB))[0].astype(float)
        if GAPS[row]:
            p[clock().ends <= GAPS[row]] = 0
        p /= p.sum()
        counts = np.bincount(found, minlength=VOCAB)
        assert counts[p == 0].sum() == 0
        rare = p * 4000 < 5
        observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, p * 4000))
        kept = expected > 0
        assert scipy_stats.chisquare(observed[kept], expected[kept] * 4000 / expected.sum()).pvalue > 1e-4


def test_no_room(plain, prompts):
    with pytest.raises(ValueError, match="prompts of 24 tokens leave no room in a context of 24"):
        run(plain, prompts, 1, context=24)


def test_sigterm_is_heard_while_a_device_draws(made, prompts, monkeypatch):
    """It comes while a device is at work: nobody waits for what it would have drawn."""

    class AtWork:
        looks = 0

        def is_ready(self):
            self.looks += 1
            if self.looks == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.looks > 1000

    drawn = AtWork()
    monkeypatch.setattr(simulate, "_sharded", lambda *args: (drawn, None))
    with preemption.deferred(), pytest.raises(Preempted):
        run(made, prompts, 2)
    assert 3 <= drawn.looks < 100
