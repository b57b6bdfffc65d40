"""What two tokens decide: against reading every first token anew, one at a time."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehr_scaling.errors import Preempted
from ehr_scaling.models.mixing import MIXINGS
from ehr_scaling.models.transformer import PAD
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.sampler import two_tokens
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, SimulationRequest
from ehr_scaling.processes import preemption
from tests.outcomes.sampler.test_simulate import GAPS, HORIZON, IDS, INTERVALS, VOCAB, WIDTH, clock, make, shares, stops

HORIZONS = np.array([[HORIZON, 4.0], [6.0, 15.0], *[[HORIZON, np.inf]] * 5], np.float32)
KINDS = (POSITIVE, NEGATIVE, OPEN)


@pytest.fixture(scope="module", params=MIXINGS)
def trained(request):
    return make(mixing=request.param)


@pytest.fixture(scope="module")
def asked():
    prompts = np.random.default_rng(0).integers(1, VOCAB, (7, WIDTH)).astype(np.int32)
    prompts[0, :20] = prompts[1, :5] = PAD
    return SimulationRequest(prompts, IDS, GAPS, HORIZONS, stops(), clock(), 32, 1, 2, 2)


def one_by_one(trained, request, row):
    """[3, K] of one prompt, by a pass over it for each interval, in plain Python."""
    model, params = trained
    forward = jax.jit(lambda x: model.apply({"params": params}, x, (x != PAD).astype(jnp.int32))[0])
    prompt, gap, horizons = list(request.prompts[row]), float(request.gaps[row]), request.horizons[row]
    what, times = request.stops, request.clock

    def share(tokens, banned):
        filled = np.array([[PAD] * (32 - len(tokens)) + tokens], np.int32)
        logits = np.array(forward(filled), np.float64)[0, -1, :VOCAB]
        logits[banned] = -np.inf
        p = np.exp(logits - logits.max())
        return p / p.sum()

    def ends(token, hours, k):
        if hours > horizons[k]:
            return int(what.at_horizon[k])
        return next((kind for kind, of in zip(KINDS, what[:3], strict=True) if of[k, token] == 1), None)

    first = share(prompt, times.ends <= gap if gap >= times.shortest else np.zeros(VOCAB, bool))
    out = np.zeros((3, 2))
    for token in range(VOCAB):
        hours = max(times.hours[token] - gap, 0)
        kinds = [ends(token, hours, k) for k in range(2)]
        for k in range(2):
            if kinds[k]:
                out[KINDS.index(kinds[k]), k] += first[token]
            elif part := what.positive[k, token]:
                out[0, k] += first[token] * part
        if token in INTERVALS and first[token] and None in kinds:
            second = share([*prompt, token], np.zeros(VOCAB, bool))
            for later, k in np.ndindex(VOCAB, 2):
                kind = ends(later, hours + times.hours[later], k)
                if kinds[k] is None and kind:
                    out[KINDS.index(kind), k] += first[token] * second[later]
                elif kinds[k] is None:
                    out[0, k] += first[token] * second[later] * what.positive[k, later]
    return out


def test_it_is_the_sum_over_intervals_and_what_follows(trained, asked, monkeypatch):
    decided = two_tokens.decide(*trained, asked)
    truth = np.stack([one_by_one(trained, asked, row) for row in range(7)], axis=1)
    np.testing.assert_allclose(np.stack(decided[:3]), truth, rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(decided.undecided, 1 - truth.sum(axis=0), atol=1e-5)
    late = [decided.positive[1, 1], decided.negative[1, 0]]  # by horizons nearer than the longest interval
    assert min(late) > 1e-3 and (decided.undecided > 0).all()
    monkeypatch.setattr(two_tokens, "_ROWS", 7)  # two prompts at a time
    for whole, parts in zip(decided, two_tokens.decide(*trained, asked), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-7)


def test_sigterm_is_heard_between_two_batches(asked, monkeypatch):
    batches = []

    def asked_to_end(*args):
        batches.append(args)
        os.kill(os.getpid(), signal.SIGTERM)
        return (np.zeros((2, 2)),) * 3

    monkeypatch.setattr(two_tokens, "_ROWS", 7)
    monkeypatch.setattr(two_tokens, "_decide", asked_to_end)
    with preemption.deferred(), pytest.raises(Preempted):
        two_tokens.decide(*make(), asked)
    assert len(batches) == 1


def test_a_token_that_is_positive_with_a_probability_counts_for_it(asked):
    trained, parts = make(), asked._replace(stops=shares())
    truth = np.stack([one_by_one(trained, parts, row) for row in range(3)], axis=1)
    decided = two_tokens.decide(*trained, parts.take(np.arange(3)))
    np.testing.assert_allclose(np.stack(decided[:3]), truth, rtol=2e-4, atol=1e-7)
    without = np.stack([one_by_one(trained, asked, row) for row in range(3)], axis=1)
    assert (truth[0] > without[0]).all() and (truth[0] > without[0] + 0.1).any()


def test_the_estimate_is_the_share_of_what_is_decided():
    decided = two_tokens.Decided(*(np.array([[9.0, p], [9.0, 0.0]]) for p in (0.1, 0.3, 0.2)))
    probability, error = estimators.exact(decided, 1)
    np.testing.assert_allclose(probability, [0.25, np.nan])
    np.testing.assert_array_equal(error, [0, np.nan])
    np.testing.assert_allclose(decided.take([0]).undecided[:, 1], [0.4])
