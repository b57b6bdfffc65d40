"""Thresholds on binned values: shares of bins against counts of the values themselves."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.vocabulary import SPECIAL, Vocabulary
from ehr_scaling.outcomes.asking import label_files
from ehr_scaling.outcomes.asking.tasks import bounds, task_tokens, tasks, train_values
from ehr_scaling.outcomes.asking.tasks.bounds import Bound, Values
from ehr_scaling.outcomes.asking.tasks.tasks import Task, Unanswerable
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, POSITIVE

SIDES = ("above", "at_least", "below", "at_most")


def known(values):
    return Values(*np.unique(np.asarray(values, np.float32), return_counts=True), missing=0)


def counted(breaks, values, meant):
    """Share of each bin by looking at every value; None: there is none in it."""
    edges = [-np.inf, *breaks, np.inf]
    inside = [(values > low) & (values <= high) for low, high in itertools.pairwise(edges)]
    return [float(meant[rows].mean()) if rows.any() else None for rows in inside]


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-5, 15), min_size=1, max_size=60),
    st.lists(st.integers(0, 10), min_size=1, max_size=5, unique=True),
    st.sampled_from(SIDES),
    st.integers(-1, 22),
)
def test_shares_are_counts_of_the_values(values, breaks, side, doubled):
    """Of whole numbers with limits on them and between them, so that ties of every kind occur."""
    breaks, values, limit = sorted(breaks), np.array(values, np.float32), doubled / 2
    meant = {"above": values > limit, "at_least": values >= limit, "below": values < limit, "at_most": values <= limit}
    found = bounds.of_bins(breaks, [Bound("A", **{side: limit})], known(values))
    for k, share in enumerate(counted(breaks, values, meant[side])):
        assert share is None or found.shares[k] == pytest.approx(share)
    assert ((found.shares >= 0) & (found.shares <= 1)).all()
    assert found.cut.tolist() == [0 < share < 1 for share in found.shares]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 10), min_size=1, max_size=5, unique=True), st.sampled_from(SIDES), st.integers(-1, 22))
def test_what_lies_on_one_side_as_a_whole_needs_no_values(breaks, side, doubled):
    breaks, limit = sorted(breaks), doubled / 2
    fine = np.linspace(-20, 30, 5001).astype(np.float32)
    meant = {"above": fine > limit, "at_least": fine >= limit, "below": fine < limit, "at_most": fine <= limit}[side]
    found = bounds.of_bins(breaks, [Bound("A", **{side: limit})])
    for share, wanted in zip(found.shares, counted(breaks, fine, meant), strict=True):
        assert share == wanted if wanted in (0, 1) else 0 <= share <= 1


def test_by_the_edges_alone():
    breaks = (1.0, 2.0, 4.0)
    assert bounds.of_bins(breaks, [Bound("A", above=2.5)]).shares.tolist() == [0, 0, 0.75, 1]
    # The outer bins are as wide as those beside them: 0 to 1, and 4 to 6
    assert bounds.of_bins(breaks, [Bound("A", above=4.5)]).shares.tolist() == [0, 0, 0, 0.75]
    assert bounds.of_bins(breaks, [Bound("A", above=9)]).shares.tolist() == [0, 0, 0, 0]
    assert bounds.of_bins(breaks, [Bound("A", below=0.25)]).shares.tolist() == [0.25, 0, 0, 0]
    assert bounds.of_bins((1.0,), [Bound("A", below=0.5)]).shares.tolist() == [0.5, 0]
    # Several: a range, and what either of two means, once where both do
    assert bounds.of_bins(breaks, [Bound("A", above=1.5, at_most=3)]).shares.tolist() == [0, 0.5, 0.5, 0]
    both = [Bound("A", below=1.5), Bound("A", below=1.25), Bound("A", at_least=3)]
    assert bounds.of_bins(breaks, both).shares.tolist() == [1, 0.5, 0.5, 1]
    # Evenly spread values are what is assumed; others are counted
    even = np.linspace(1, 4, 3001)[1:]
    for values in (None, known(even)):
        np.testing.assert_allclose(bounds.of_bins(breaks, [Bound("A", above=2.5)], values).shares[2], 0.75, atol=1e-3)
    assert bounds.of_bins(breaks, [Bound("A", above=2.5)], known([2.25, 2.5, 2.5, 3])).shares[2] == 0.25


def test_values_are_compared_as_records_hold_them():
    edge = float(np.float32(1.3))
    assert bounds.of_bins((0.5, edge), [Bound("A", above=1.3)]).shares.tolist() == [0, 0, 1]
    assert bounds.of_bins((0.5, edge), [Bound("A", at_least=1.3)], known([0.9, 1.3, 2])).shares.tolist() == [0, 0.5, 1]
    assert not Bound("A", above=1.3).meets(np.array([1.3, np.nan], np.float32)).any()


CODES = ("LAB//A//MG/DL", "LAB//B//MG/DL", "LAB//C//MG/DL")
BINS = {CODES[0]: (1.0, 2.0, 4.0), CODES[1]: (10.0,)}
OF_BINS = [f"{code}//Q{k + 1}" for code, breaks in BINS.items() for k in range(len(breaks) + 1)]
TOKENS = (*SPECIAL, "MEDS_DEATH", CODES[0], CODES[2], *OF_BINS)  # the second has a value whenever it comes
VOCABULARY = Vocabulary(
    TOKENS, (1,) * len(TOKENS), (), BINS, (60.0,) * 13, {"preset": "clean", "value_tokens": "fused"}
)


def ask(path="labels", **fields):
    return label_files.from_labels(path, **({"name": "t", "horizon_days": 1.0, "negative": ("MEDS_DEATH",)} | fields))


def test_tokens_of_a_threshold():
    task = ask(values=(Bound("LAB//A", above=2.5), Bound("LAB//C", above=1)))
    kinds = task_tokens.kinds(VOCABULARY, task, {CODES[2]: Values(np.float32([1, 2]), np.array([1, 2]), missing=1)})
    named = {TOKENS[i]: float(kinds[i]) for i in np.flatnonzero(kinds)}
    end = named.pop("TIMELINE_END")
    assert named == {f"{CODES[0]}//Q3": 0.75, f"{CODES[0]}//Q4": 1, CODES[2]: 0.5, "MEDS_DEATH": NEGATIVE} and end == 3
    # A code without bins says nothing by itself
    assert task_tokens.kinds(VOCABULARY, task)[TOKENS.index(CODES[2])] == 0
    stops = task_tokens.stops(VOCABULARY, [task])
    assert stops.positive.dtype == np.float32 and stops.positive.sum() == 1.75
    assert stops.negative.sum() == 1 and stops.at_horizon.tolist() == [NEGATIVE]
    lines = task_tokens.describe_thresholds(VOCABULARY, task, None)
    assert lines[0].startswith("LAB//A//MG/DL above 2.5: 1 of 4 bins lies beyond, 1 is cut, and counts by its edges")
    told = task_tokens.describe_thresholds(VOCABULARY, task, {CODES[0]: known([3, 3.5])})
    assert told == ["LAB//A//MG/DL above 2.5: 2 of 4 bins lie beyond"]


def test_a_code_that_always_has_a_value_is_told_by_its_bins_alone():
    task = ask(values=(Bound("LAB//B", at_most=10),), requires=("LAB//B",))
    assert task_tokens.scales(VOCABULARY, task.values) == [CODES[1]]
    assert task_tokens.stops(VOCABULARY, [task]).positive.sum() == 1
    assert task_tokens.describe_thresholds(VOCABULARY, task, None) == [
        "LAB//B//MG/DL at or below 10: 1 of 2 bins lies beyond"
    ]
    with pytest.raises(Unanswerable, match="asks for LAB//A above 99: no bin of values reaches there"):
        task_tokens.kinds(VOCABULARY, ask(values=(Bound("LAB//A", above=99),)))


def test_a_threshold_on_an_edge_is_a_set_of_tokens():
    by_values = ask(values=(Bound("LAB//A", above=2),))
    by_names = ask(positive=(f"{CODES[0]}//Q3", f"{CODES[0]}//Q4"))
    for mine, same in zip(*(task_tokens.stops(VOCABULARY, [task]) for task in (by_values, by_names)), strict=True):
        np.testing.assert_array_equal(mine, same)


def test_what_cannot_be_asked():
    separate = dataclasses.replace(VOCABULARY, settings={"preset": "ethos_ares", "value_tokens": "separate"})
    with pytest.raises(Unanswerable, match="tokens of their own in this vocabulary: prepare timelines in which"):
        task_tokens.kinds(separate, ask(values=(Bound("LAB//A", above=2),)))
    with pytest.raises(Unanswerable, match="needs the token LAB//X"):
        task_tokens.kinds(VOCABULARY, ask(values=(Bound("LAB//X", above=2),)))
    assert task_tokens.lacking(VOCABULARY, ask(values=(Bound("LAB//X", above=2),), requires=("Y",))) == ["LAB//X", "Y"]
    with pytest.raises(tasks.UserError, match="values is given without labels"):
        Task("t", "", anchor=("A",), hours=1.0, values=({"code": "A", "above": 1},), at_end="negative")
    with pytest.raises(tasks.UserError, match="negative and values both hold"):
        ask(values=(Bound("MEDS_DEATH", above=2),))
    with pytest.raises(tasks.UserError, match="requires is given without a horizon"):
        ask(positive=("A",), requires=("B",), horizon_days=None)
    with pytest.raises(tasks.UserError, match="gap is 24 hours, and the horizon 1 days"):
        ask(positive=("A",), gap=24.0)
    for wrong in ([{"code": "A"}], [{"code": "A", "over": 1}], [{"code": "A", "above": "1"}], [{"above": 1}], "A"):
        with pytest.raises(tasks.UserError, match="take a list of maps of a code and some of above"):
            ask(values=wrong)


def test_thresholds_in_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "anemia:\n  labels: labels\n  values: [{code: LAB//A, below: 13}, {code: LAB//B, at_least: 1, at_most: 2}]\n"
        "  requires: LAB//A\n  horizon: 1\n  at_horizon: negative\n"
    )
    task = tasks.load(tmp_path / "mine.yaml")["anemia"]
    assert task.values == (Bound("LAB//A", below=13.0), Bound("LAB//B", at_least=1.0, at_most=2.0))
    assert [str(bound) for bound in task.values] == ["LAB//A below 13", "LAB//B at or above 1 and at or below 2"]
    again = Task(**dataclasses.asdict(task))  # as a record keeps it
    assert again == task
    assert task_tokens.kinds(VOCABULARY, task)[TOKENS.index(f"{CODES[0]}//Q2")] == POSITIVE


def test_values_of_the_train_split(tmp_path, monkeypatch):
    """Read from a study's events, and from no others."""
    from ehr_scaling.configs import base
    from ehr_scaling.data import pipeline
    from ehr_scaling.data.timelines import timelines
    from ehr_scaling.layout import Layout
    from tests.data import made_up

    made_up.write(tmp_path / "raw", **made_up.splits())
    data = base.get_config().data
    data.source, data.raw = "meds", str(tmp_path / "raw")
    data.tokens.min_count, data.tokens.min_values = 1, 5
    pipeline.prepare(data, tmp_path / "work", workers=1, until="timelines")
    vocabulary = timelines.vocabulary(tmp_path / "work")
    scale = "LAB//7//MG/DL"
    rows = [
        value for shard in made_up.splits()["train"] for events in shard.values() for _, code, value in events
        if code == scale
    ]  # fmt: skip
    values = np.array([value for value in rows if value is not None], np.float32)
    found = train_values.of_scales(tmp_path / "work", vocabulary, [scale])[scale]
    np.testing.assert_array_equal(np.repeat(found.values, found.counts), np.sort(values))
    assert found.missing == len(rows) - len(values) > 0
    # A threshold in the middle of the values: the share of its bin is that of the train split's tokens
    limit = float(np.median(values))
    task = ask(values=(Bound(scale, above=limit),))
    shares, cut = task_tokens.thresholds(vocabulary, task, {scale: found})[scale]
    per_bin = np.bincount(np.searchsorted(np.float32(vocabulary.quantiles[scale]), values), minlength=len(shares))
    assert cut.sum() <= 1 and shares @ per_bin == pytest.approx((values > np.float32(limit)).sum())
    # Of a work directory in a bucket the record alone may be here, and the events come when they are asked for
    data_folder, elsewhere = Layout(tmp_path / "work").events / "data", tmp_path / "elsewhere"
    data_folder.rename(elsewhere)
    assert train_values.of_scales(tmp_path / "work", vocabulary, [scale]) is None
    monkeypatch.setattr(train_values.storage, "fetch", lambda folder: elsewhere.rename(folder / "data"))
    again = train_values.of_scales(tmp_path / "work", vocabulary, [scale])[scale]
    np.testing.assert_array_equal(again.values, found.values)
    monkeypatch.undo()
    (Layout(tmp_path / "work").events / "artifact.json").unlink()
    assert train_values.of_scales(tmp_path / "work", vocabulary, [scale]) is None
