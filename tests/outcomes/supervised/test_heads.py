"""Heads on small models: padding, batches and test labels change nothing, and what can be learnt is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from ehr_scaling.errors import UserError
from ehr_scaling.models import sizes
from ehr_scaling.models.transformer import PAD, Transformer
from ehr_scaling.outcomes.judging.metrics import metrics
from ehr_scaling.outcomes.supervised import batches, finetune, heads, labels, probe, states
from ehr_scaling.outcomes.supervised.finetune import Labelled, Recipe
from tests.nightly import but

CONTEXT, WIDTH, VOCAB = 2, 32, 40


def prompts_of(n, seed=0, shortest=3, width=WIDTH):
    """Left-padded prompts of random tokens and lengths, int32 (n, width)."""
    rng = np.random.default_rng(seed)
    out = rng.integers(1, VOCAB, (n, width)).astype(np.int32)
    out[np.arange(width) < width - rng.integers(shortest, width + 1, n)[:, None]] = PAD
    return out


@pytest.fixture(scope="module")
def model():
    """Of two layers with mixing, its weights random, and a head that has been moved from zero."""
    transformer = Transformer(sizes.get("3.5k"), VOCAB, 64, tied=True, mixing="conv")
    params = transformer.init(jax.random.key(0), jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))["params"]
    noise = jax.random.normal(jax.random.key(1), (3, transformer.shape.width)) * 0.3
    params["blocks"]["mixing"] = params["blocks"]["mixing"] + noise
    return transformer, params


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(2, 9), st.integers(0, 99))
def test_batches_hold_each_stay_once_and_all_of_its_prompt(n, size, seed):
    prompts = prompts_of(n, seed)
    shuffled = batches.shuffled(prompts, size, np.random.default_rng(seed))
    assert sorted(np.concatenate(shuffled).tolist()) == list(range(n))
    for cut in (*batches.in_order(prompts, size), *(batches.cut(prompts, rows, size) for rows in shuffled)):
        width = cut.prompts.shape[1]
        assert cut.prompts.shape[0] == len(cut.rows) == size and width in batches.widths(WIDTH)
        np.testing.assert_array_equal(cut.prompts, prompts[cut.rows, WIDTH - width :])
        assert (prompts[cut.rows, : WIDTH - width] == PAD).all()  # nothing is cut off but padding
        assert cut.filled[0] and len(np.unique(cut.rows[cut.filled])) == cut.filled.sum()
    whole = [cut.rows[cut.filled] for cut in batches.in_order(prompts, size)]
    assert sorted(np.concatenate(whole).tolist()) == list(range(n))


def test_widths_are_few():
    assert batches.widths(496).tolist() == [64, 128, 192, 256, 320, 384, 448, 496]
    assert batches.widths(40).tolist() == [16, 32, 40] and batches.widths(7).tolist() == [7]


def test_states_are_those_of_the_prompt_alone(model):
    """Left of it, and beside it, may be anything."""
    transformer, params = model
    prompts = prompts_of(50)
    of_all = states.of_prompts(transformer, params, prompts, CONTEXT)
    assert set(of_all) == set(states.NAMES)
    about = {"method": "hidden", "capture_intermediates": True, "mutable": ["intermediates"]}
    apply = jax.jit(lambda tokens: transformer.apply({"params": params}, tokens, tokens // tokens, **about))
    for row in (0, 7):
        (stream, _, _), kept = apply(prompts[row][prompts[row] != PAD][None])
        middle = kept["intermediates"]["blocks"]["__call__"][0][0][0]  # of two layers the first
        expected = {
            "last": stream[0, -1],
            "mean": stream[0, CONTEXT:].mean(axis=0),
            "middle last": middle[0, -1],
            "middle mean": middle[0, CONTEXT:].mean(axis=0),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(of_all[name][row], value, atol=2e-5, err_msg=name)
    for_gpus = transformer.clone(attention="cudnn")  # of which a prompt's width would be none
    np.testing.assert_allclose(states.of_prompts(for_gpus, params, prompts, CONTEXT)["mean"], of_all["mean"], atol=2e-5)
    wider = np.pad(prompts, ((0, 0), (16, 0)))
    for name, state in states.of_prompts(transformer, params, wider[::-1], CONTEXT).items():
        np.testing.assert_allclose(state[::-1], of_all[name], atol=2e-5)


def test_a_prompt_of_context_alone_has_a_mean_of_nothing(model):
    prompts = np.zeros((1, WIDTH), np.int32)
    prompts[0, -CONTEXT:] = 5
    found = states.of_prompts(*model, prompts, CONTEXT)
    assert (found["mean"] == 0).all() and np.isfinite(found["last"]).all()


def linear(n, seed=0, D=6, scale=1.0):
    """States with a known truth: log-odds 1.5·x₀ − x₁ − 1 times the scale, x in units of their standard deviations."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)).astype(np.float32)
    z = 1.5 * x[:, 0] - x[:, 1] - 1
    return {"last": 50 * x + 7, "mean": rng.normal(size=(n, D)).astype(np.float32)}, rng.random(n) < expit(scale * z), z


def test_a_probe_recovers_a_linear_truth():
    train, y, _ = linear(20_000)
    tuning, y_tuning, _ = linear(4_000, 1)
    fitted = probe.fit(train, y, tuning, y_tuning, [("mean",), ("last",)])
    assert fitted.features == ("last",)  # the others say nothing
    np.testing.assert_allclose(fitted.coefficients, [1.5, -1, 0, 0, 0, 0], atol=0.08)
    assert fitted.intercept == pytest.approx(-1, abs=0.08)
    test, _, z = linear(500, 2)
    np.testing.assert_allclose(fitted.probability(test), expit(z), atol=0.05)
    assert fitted.tuning_loss == pytest.approx(
        probe.log_loss(y_tuning, fitted.probability(tuning), np.ones(len(y_tuning)))
    )


def test_the_tuning_stays_choose_the_strength():
    """Where nothing is to be learnt the strongest penalty is the best one, of many telling labels a weak one."""
    strengths = []
    for n, scale in ((30, 0.0), (20_000, 1.0)):
        (train, y, _), (tuning, y_tuning, _) = linear(n, 3, scale=scale), linear(4_000, 1, scale=scale)
        fit = lambda **about: probe.fit(train, y, tuning, y_tuning, [("last",)], **about)  # noqa: B023, E731
        losses = {c: fit(strengths=(c,)).tuning_loss for c in probe.STRENGTHS}
        strengths.append(fit().strength)
        assert losses[strengths[-1]] == pytest.approx(min(losses.values()), abs=1e-5)
        assert (losses[1.0] > min(losses.values()) + 0.01) == (n == 30)
    assert strengths[0] <= 0.01 <= strengths[1]


def test_class_weights_move_the_risk_and_not_the_ranks():
    train, y, _ = linear(20_000)
    tuning, y_tuning, _ = linear(4_000, 1)
    plain, even = (probe.fit(train, y, tuning, y_tuning, [("last",)], class_weights=w) for w in (False, True))
    share = y.mean()
    assert even.intercept - plain.intercept == pytest.approx(np.log((1 - share) / share), abs=0.15)
    np.testing.assert_allclose(even.coefficients, plain.coefficients, atol=0.1)
    weighs = probe.weights(y, True)
    assert weighs[y].sum() == pytest.approx(weighs[~y].sum()) and weighs.mean() == pytest.approx(1)
    assert (probe.weights(y, False) == 1).all()


def test_a_constant_state_is_no_error():
    train, y, _ = linear(200)
    train["last"][:, 3] = 4.0
    fitted = probe.fit(train, y, train, y, [("last",)])
    assert np.isfinite(fitted.probability(train)).all() and fitted.coefficients[3] == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 400), st.floats(0.005, 0.995), st.integers(0, 99))
def test_label_draws_are_nested_and_have_both_outcomes(n, share, seed):
    y = np.zeros(n, bool)
    y[: min(max(1, round(share * n)), n - 1)] = True
    y = np.random.default_rng(seed).permutation(y)
    before = set()
    for count in sorted({2, n // 3, n // 2, n - 1, n} - {0, 1}):
        rows = labels.draw(y, count, seed, 0)
        assert len(rows) == count == len(set(rows.tolist())) and (np.diff(rows) > 0).all()
        assert before <= set(rows.tolist()) and 0 < y[rows].sum() < count
        if count * y.mean() - 0.5 >= 1 and count * y.mean() + 0.5 <= count - 1:
            assert abs(y[rows].sum() - count * y.mean()) <= 0.5 + 1e-9
        before = set(rows.tolist())
    assert len(before) == n


def test_label_draws_differ_by_their_number_and_repeat_by_their_seed():
    y = np.arange(400) % 7 == 0
    first, second = (labels.draw(y, 50, 0, number) for number in (0, 1))
    assert set(first.tolist()) != set(second.tolist())
    np.testing.assert_array_equal(first, labels.draw(y, 50, 0, 0))
    assert set(labels.draw(y, 50, 1, 0).tolist()) != set(first.tolist())


def test_numbers_of_labels_as_a_user_gives_them():
    assert labels.of_flag(["1000", "all", "50", "50"]) == (50, 1000, None)
    for wrong in (["many"], ["3"], ["-5"], ["1e3"]):
        with pytest.raises(UserError, match=f"--labels={wrong[0]}: take numbers from 4 up, or all"):
            labels.of_flag(wrong)
    with pytest.raises(UserError, match="--labels is empty"):
        labels.of_flag([])


def learnable(n, seed):
    """Prompts whose outcome is, but for some noise, whether the number of their last token is even: more than a line
    through random states can tell."""
    prompts, rng = prompts_of(n, seed), np.random.default_rng(seed + 100)
    return Labelled(prompts, (prompts[:, -1] % 2 == 0) ^ (rng.random(n) < 0.05))


@pytest.fixture(scope="module")
def started(model):
    """A model, the probe on its states, train and tuning stays."""
    train, tuning = learnable(320, 1), learnable(96, 2)
    of = lambda part: states.of_prompts(*model, part.prompts, CONTEXT)  # noqa: E731
    return *model, probe.fit(of(train), train.labels, of(tuning), tuning.labels, [("last",)]), train, tuning


RECIPE = Recipe(rates=(1e-2,), epochs=3, batch=32, features=("last",), least_updates=1)


def test_fine_tuning_of_no_epoch_is_the_probe(started):
    transformer, params, linear_probe, train, tuning = started
    nothing = finetune.fit(transformer, params, linear_probe, train, tuning, CONTEXT, RECIPE._replace(epochs=0), 0)
    assert (nothing.epoch, nothing.rate) == (0, None)
    asked = learnable(40, 5).prompts
    p = finetune.predict(transformer, nothing.params, linear_probe, asked, CONTEXT, ("last",))
    frozen = linear_probe.probability(states.of_prompts(transformer, params, asked, CONTEXT))
    np.testing.assert_allclose(p, frozen, atol=2e-6)
    jax.tree.map(np.testing.assert_array_equal, nothing.params["body"], params)


def test_fine_tuning_learns_what_frozen_states_do_not_tell(started):
    transformer, params, linear_probe, train, tuning = started
    recipe = RECIPE._replace(epochs=8, patience=8)
    tuned = finetune.fit(transformer, params, linear_probe, train, tuning, CONTEXT, recipe, 0)
    test = learnable(400, 9)
    p = finetune.predict(transformer, tuned.params, linear_probe, test.prompts, CONTEXT, ("last",))
    frozen = linear_probe.probability(states.of_prompts(transformer, params, test.prompts, CONTEXT))
    assert metrics.auroc(test.labels, p) > 0.9 > metrics.auroc(test.labels, frozen) + 0.1


def test_the_best_epoch_is_returned_and_a_seed_repeats(started):
    """At rates that go astray: the weights are those of the least tuning loss that is told, not the last."""
    transformer, params, linear_probe, train, tuning = started
    recipe = RECIPE._replace(rates=(1e-2, 0.5), epochs=4, patience=1)
    fit = lambda seed: finetune.fit(transformer, params, linear_probe, train, tuning, CONTEXT, recipe, seed)  # noqa: E731
    tuned = fit(0)
    assert set(tuned.losses) == {"0.01", "0.5"} and len({curve[0] for curve in tuned.losses.values()}) == 1
    for curve in tuned.losses.values():  # it ends an epoch after the best one
        assert len(curve) - 1 == min(int(np.argmin(curve)) + 1, recipe.epochs)
    least = min(min(curve) for curve in tuned.losses.values())
    assert tuned.losses[f"{tuned.rate:g}"][tuned.epoch] == least < tuned.losses["0.5"][-1]
    p = finetune.predict(transformer, tuned.params, linear_probe, tuning.prompts, CONTEXT, ("last",))
    assert probe.log_loss(tuning.labels, p, np.ones(len(p))) == pytest.approx(least, abs=1e-6)
    again, other = fit(0), fit(1)
    jax.tree.map(np.testing.assert_array_equal, tuned.params, again.params)
    assert tuned.losses == again.losses != other.losses


@pytest.mark.parametrize("features", but(("last",), of=[("last",), ("last", "mean"), states.NAMES]))
def test_padding_is_inert_in_training(started, features):
    """The same batches in wider rows: the same weights but for rounding."""
    transformer, params, _, train, tuning = started
    of = lambda part: states.of_prompts(transformer, params, part.prompts, CONTEXT)  # noqa: E731
    linear_probe = probe.fit(of(train), train.labels, of(tuning), tuning.labels, [features])
    wide = [Labelled(np.pad(part.prompts, ((0, 0), (9, 0))), part.labels) for part in (train, tuning)]
    recipe = RECIPE._replace(epochs=1, features=features, rates=(1e-3,))
    risks = []
    for parts in ((train, tuning), wide):
        tuned = finetune.fit(transformer, params, linear_probe, *parts, CONTEXT, recipe, 0)
        assert tuned.epoch == 1
        risks.append(finetune.predict(transformer, tuned.params, linear_probe, tuning.prompts, CONTEXT, features))
    np.testing.assert_allclose(risks[0], risks[1], atol=2e-4)


def test_rows_that_fill_a_batch_up_teach_nothing(started):
    """40 stays in batches of 32 are 32 and 8: the gradient of the second is that of its 8."""
    transformer, params, linear_probe, train, tuning = started
    some = Labelled(train.prompts[:8], train.labels[:8])
    recipe = RECIPE._replace(epochs=1, rates=(1e-3,))
    whole, filled = (
        finetune.fit(transformer, params, linear_probe, some, tuning, CONTEXT, recipe._replace(batch=batch), 0)
        for batch in (8, 32)
    )
    assert whole.losses["0.001"] == pytest.approx(filled.losses["0.001"], abs=2e-6)
    assert whole.losses["0.001"][1] != whole.losses["0.001"][0]


def test_few_labels_are_passed_over_several_times():
    recipe = Recipe(epochs=4, least_updates=60, batch=32)
    assert [finetune.passes(n, recipe) for n in (10, 50, 200, 1000)] == [15, 8, 3, 1]


@pytest.mark.nightly
def test_dropout_and_class_weights_change_what_is_learnt(started):
    transformer, params, linear_probe, train, tuning = started
    recipe = RECIPE._replace(epochs=1, rates=(1e-3,))
    of = lambda **changes: finetune.fit(  # noqa: E731
        transformer, params, linear_probe, train, tuning, CONTEXT, recipe._replace(**changes), 0
    ).losses["0.001"][1]
    assert len({of(), of(dropout=0.2), of(class_weights=True), of(optimizer="muon")}) == 4


def test_a_task_of_a_number_is_refused_in_one_line():
    from ehr_scaling.outcomes.asking.prepared import Question
    from ehr_scaling.outcomes.asking.tasks import tasks

    every = tasks.load()
    for kind, told in (("days", "a number of days"), ("class", "a class")):
        task = next(task for task in every.values() if task.kind == kind)
        with pytest.raises(UserError, match=f"--task={task.name} asks for {told}: heads answer tasks of yes or no"):
            heads.check_kind(Question(None, {}, task))
    heads.check_kind(Question(None, {}, every["in_hospital_death_24h"]))
