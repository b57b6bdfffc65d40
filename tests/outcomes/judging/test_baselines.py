"""Baselines find what is in the features, keep patients whole, and say what they chose."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks.tasks import Unanswerable
from ehr_scaling.outcomes.judging import baselines
from tests.data import made_up


def histories(n=900, width=60, seed=0):
    """Sparse features, of which the first four matter, and a risk that they make, on a scale of about -3 to 3."""
    rng = np.random.default_rng(seed)
    x = sp.csr_array((rng.random((n, width)) < 0.3) * rng.uniform(0.5, 2, (n, width)), dtype=np.float32)
    risk = np.asarray(x[:, :4].sum(axis=1)).ravel()
    return of(x), (risk - risk.mean()) / risk.std(), rng.integers(0, n // 2, n), rng


def of(x, values=None):
    return baselines.Features(x, np.zeros((x.shape[0], 0), np.float32) if values is None else values)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_TREES", 40)


def test_binary_outcomes():
    x, risk, patients, rng = histories()
    labels = rng.random(900) < 1 / (1 + np.exp(1 - 2 * risk))
    train, test = slice(600), slice(600, 900)
    fitted = baselines.fit_all(x.take(train), labels[train], patients[train], 0)
    p = {name: one.predict(x.take(test)) for name, one in fitted.items()}
    assert list(p) == ["prevalence", "logistic regression", "gradient-boosted trees"]
    best = roc_auc_score(labels[test], risk[test])
    for name, values in p.items():
        assert values.shape == (300,) and values.dtype == np.float64 and (values >= 0).all() and (values <= 1).all()
        json.dumps(fitted[name].settings)
    assert (p["prevalence"] == labels[train].mean()).all()
    for name in ("logistic regression", "gradient-boosted trees"):
        assert best - 0.06 < roc_auc_score(labels[test], p[name]) <= best + 0.02, name
        assert log_loss(labels[test], p[name]) < log_loss(labels[test], p["prevalence"]) - 0.1, name
    assert fitted["logistic regression"].settings["strength"] in baselines.STRENGTHS
    assert 1 <= fitted["gradient-boosted trees"].settings["trees"] <= 40
    # The same seed, the same model
    again = baselines.fit_all(x.take(train), labels[train], patients[train], 0)
    for name, one in again.items():
        np.testing.assert_array_equal(one.predict(x.take(test)), p[name])


def test_values_are_read_where_tokens_say_nothing():
    """By all methods; a value that is missing, or out of all bounds, is no ruin."""
    x, risk, patients, rng = histories()
    values = np.c_[risk + 0.1 * rng.normal(size=900), rng.normal(size=900), np.full(900, np.nan)].astype(np.float32)
    values[rng.random(900) < 0.2, 0] = np.nan
    values[0, 0] = 1e30
    x = of(sp.csr_array(x.tokens.shape, dtype=np.float32), values)
    labels, train, test = rng.random(900) < 1 / (1 + np.exp(-2 * risk)), slice(600), slice(600, 900)
    fitted = baselines.fit_all(x.take(train), labels[train], patients[train], 0)
    ridge = baselines.fit_all(x.take(train), risk[train].astype(np.float32), patients[train], 0)
    classes = baselines.fit_all(x.take(train), np.digitize(risk[train], [-0.5, 0.5]), patients[train], 0)
    for name in ("logistic regression", "gradient-boosted trees"):
        assert roc_auc_score(labels[test], fitted[name].predict(x.take(test))) > 0.75, name
    for name in ("ridge regression", "gradient-boosted trees"):
        assert r2_score(risk[test], ridge[name].predict(x.take(test))) > 0.6, name
    p = classes["multinomial logistic regression"].predict(x.take(test))
    assert (p.argmax(axis=1) == np.digitize(risk[test], [-0.5, 0.5])).mean() > 0.6
    assert fitted["logistic regression"].settings["columns"] == 2  # tokens are all zero, a value is nobody's
    settings_of_trees = fitted["gradient-boosted trees"].settings
    assert settings_of_trees["columns"] == 2 and settings_of_trees["tried"] == list(baselines.TREES)
    assert settings_of_trees["tried_on_at_most"] == baselines.TUNED_ON


@pytest.mark.nightly
def test_noise_is_not_learnt_by_way_of_the_same_patient():
    """Labels that only a patient's other stays tell: with patients whole in the folds, fewer trees are better."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(150), 4)
    x = of(sp.csr_array(np.repeat(rng.random((150, 30)).astype(np.float32), 4, axis=0)))  # as good as a name
    labels = np.repeat(rng.random(150) < 0.5, 4)
    assert baselines.fit_all(x, labels, patients, 0)["gradient-boosted trees"].settings["trees"] < 12
    assert baselines.fit(x, labels, patients, 0).settings["strength"] <= 1e-3
    apart = baselines.fit_all(x, labels, np.arange(600), 0)
    assert apart["gradient-boosted trees"].settings["trees"] == 40


def test_numbers():
    x, risk, patients, rng = histories()
    days = np.exp(0.5 * risk + 0.3 * rng.normal(0, 1, 900)).astype(np.float32)
    train, test = slice(600), slice(600, 900)
    fitted = baselines.fit_all(x.take(train), days[train], patients[train], 0)
    p = {name: one.predict(x.take(test)) for name, one in fitted.items()}
    assert list(p) == ["mean", "ridge regression", "gradient-boosted trees"]
    np.testing.assert_allclose(p["mean"], days[train].mean(), rtol=1e-6)
    for name in ("ridge regression", "gradient-boosted trees"):
        assert 0.3 < r2_score(days[test], p[name]) < 0.9, name
        assert days[train].min() <= p[name].min() and p[name].max() <= days[train].max()


def test_classes_common_and_rare(monkeypatch):
    monkeypatch.setattr(baselines, "CLASSES", 3)
    x, risk, patients, rng = histories()
    labels = np.digitize(risk + 0.2 * rng.normal(0, 1, 900), [-0.7, 0, 0.7])  # 0 to 3
    labels[(labels == 3) & (rng.random(900) < 0.7)] = 4
    train, test = slice(600), slice(600, 900)
    fitted = baselines.fit_all(x.take(train), labels[train], patients[train], 0, classes=7)
    p = {name: one.predict(x.take(test)) for name, one in fitted.items()}
    assert list(p) == ["prevalence", "multinomial logistic regression"]
    counts = np.bincount(labels[train], minlength=7)
    np.testing.assert_allclose(p["prevalence"], np.tile((counts + 1) / 607, (300, 1)))
    own = p["multinomial logistic regression"]
    np.testing.assert_allclose(own.sum(axis=1), 1)
    assert own.shape == (300, 7) and (own > 0).all()  # classes that no train stay has are not impossible
    assert log_loss(labels[test], own, labels=range(7)) < log_loss(labels[test], p["prevalence"], labels=range(7)) - 0.3
    # The rare ones share what is left for them, as they share the train split
    rare = np.argsort(-counts, kind="stable")[3:5]
    shares = (own[:, rare] * 607 - 1) / (own[:, rare] * 607 - 1).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, np.tile(counts[rare] / counts[rare].sum(), (300, 1)), rtol=1e-6)


def test_columns_of_the_trees(monkeypatch):
    monkeypatch.setattr(baselines, "COLUMNS", 3)
    seen = [50, 5, 30, 0, 21, 60]
    x = np.zeros((100, 6), np.float32)
    for column, count in enumerate(seen):
        x[:count, column] = 1
    assert baselines._columns(sp.csr_array(x)).tolist() == [0, 2, 5]
    monkeypatch.setattr(baselines, "COLUMNS", 10)
    monkeypatch.setattr(baselines, "SEEN", 8)
    assert baselines._columns(sp.csr_array(x)).tolist() == [0, 2, 4, 5]
    monkeypatch.setattr(baselines, "_AT_ONCE", 30)
    values = np.arange(100, dtype=np.float32)[:, None]
    dense = baselines._dense(of(sp.csr_array(x), values), np.array([0, 4]), lambda rows: rows[:, 1:] + len(rows))
    in_parts = np.repeat([30, 30, 30, 10], [30, 30, 30, 10])[:, None]
    np.testing.assert_array_equal(dense, np.c_[x[:, 4], values] + in_parts)


def test_too_few_to_fit():
    x = of(sp.csr_array(np.eye(4, dtype=np.float32)))
    few = "cannot be fitted: fewer than two patients of the train split"
    for labels, lacking in (([1, 0, 0, 0], "have"), ([1, 1, 1, 0], "lack"), ([1, 0], "have and lack")):
        with pytest.raises(Unanswerable, match=f"{few} {lacking} the outcome") as raised:
            baselines.fit_all(x.take(slice(len(labels))), np.array(labels, bool), np.arange(len(labels)), 0)
        assert not any(letter.isdigit() for letter in str(raised.value))  # counts of few patients are not told
    with pytest.raises(Unanswerable, match=f"{few} can be asked"):
        baselines.fit_all(x, np.ones(4), np.zeros(4, int), 0)
    with pytest.raises(Unanswerable, match="have 1 classes"):
        baselines.fit_all(x, np.zeros(4, int), np.arange(4), 0, classes=3)


def test_how_recently_a_token_came(tmp_path):
    noon = 50 * 365 * 24 * HOUR
    at = lambda hours, code: (noon + round(hours * HOUR), code, None)  # noqa: E731
    codes = [at(0, "A//1"), at(24, "B//1"), at(60, "A//1"), at(72, "C//1"), at(90, "B//1")]
    people = {subject: [(None, "GENDER//F", None), *codes] for subject in (1, 2)}
    made_up.write(tmp_path / "events", train=people, tuning={3: people[1]}, held_out={4: people[1]})
    (tmp_path / "timelines").mkdir()
    timelines.build(tmp_path / "events", tmp_path / "timelines", min_count=1, min_values=1)
    tokens = timelines.vocabulary(tmp_path)
    record = next(timelines.read(tmp_path, "train"))
    time = noon + 84 * HOUR
    one = lambda value: np.array([value])  # noqa: E731
    asked = Stays(one(1), one(0), one(int((record["times"] <= time).sum())), one(time), one(2), one(False))
    x = baselines.features(tmp_path, "train", asked).toarray().reshape(len(baselines.BLOCKS), -1)
    recency = x[baselines.BLOCKS.index("recency")]
    days = {"A//1": 1.0, "B//1": 2.5, "C//1": 0.5}
    for name, ago in days.items():
        assert recency[tokens.index[name]] == pytest.approx(1 / (1 + ago))
    assert ((recency > 0) == (x[0] > 0)).all()  # of what is in the record, and of nothing else


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_both_tokenizations_of_values_give_the_same_features(tmp_path_factory, data):
    """A code that is never alone when it is fused has the column of its first bin."""
    noon = 50 * 365 * 24 * HOUR
    code = st.sampled_from(["LAB//X//mg", "LAB//Y//mg", "DIAGNOSIS//Z"])
    event = st.tuples(st.integers(0, 200), code, st.one_of(st.none(), st.integers(1, 9).map(float)))
    events = data.draw(st.lists(event, min_size=1, max_size=8))
    timed = [
        (noon + hours * HOUR, name, x if name.startswith("LAB") else None)
        for hours, name, x in sorted(events, key=lambda e: e[:2])
    ]
    filler = [(noon + k * HOUR, f"LAB//{c}//mg", float(k % 9 + 1)) for k in range(40) for c in "XY"]
    train = {1: [(None, "GENDER//F", None), *timed], **{s: [(None, "GENDER//F", None), *filler] for s in (2, 3)}}
    found = {}
    for way in ("separate", "fused"):
        folder = tmp_path_factory.mktemp(way)
        made_up.write(folder / "events", train=train, tuning={4: train[2]}, held_out={5: train[2]})
        (folder / "timelines").mkdir()
        timelines.build(folder / "events", folder / "timelines", min_count=1, min_values=1, value_tokens=way)
        tokens = timelines.vocabulary(folder)
        at, record = next(x for x in enumerate(timelines.read(folder, "train")) if x[1]["subject_id"] == 1)
        time = noon + data.draw(st.integers(0, 200), label="until") * HOUR if way == "separate" else found["time"]
        found["time"] = time
        known = int((record["times"] <= time).sum())
        one = lambda value: np.array([value])  # noqa: E731
        asked = Stays(one(at), one(0), one(known), one(time), one(0), one(False))
        x = baselines.features(folder, "train", asked).toarray().reshape(len(baselines.BLOCKS), -1)
        first = {head: i - k for i, (head, k) in tokens.fused.items()}
        names = {first[head]: head for head in first if head not in tokens.index}
        found[way] = {
            (block, names.get(i, tokens.tokens[i])): x[b, i]
            for b, block in enumerate(baselines.BLOCKS)
            for i in np.flatnonzero(x[b])
        }
    assert found["separate"] == found["fused"]
