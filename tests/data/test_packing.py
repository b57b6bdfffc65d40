import json

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data import loader, packing, timelines
from ehr_scaling.data.packing import Windows
from ehr_scaling.data.tokenizer import STATIC, Timelines
from ehr_scaling.data.vocabulary import AGES, SPECIAL, YEAR, Vocabulary
from ehr_scaling.errors import UserError

V = Vocabulary((*SPECIAL, *AGES, "SEX//UNKNOWN", "SEX//F", *(f"T{i}" for i in range(900))), (), ("SEX",), {}, (), {})
FIRST = V.index["T0"]
S = 2


def cohort(sizes, seed=0):
    """Patients of `sizes` tokens, a year apart from token to token, born at their first one."""
    rng = np.random.default_rng(seed)
    count = len(sizes)
    ages = [np.arange(n) for n in sizes]
    births = rng.integers(-(10**15), 10**15, count)
    return Timelines(
        subject_ids=np.arange(count),
        births=births,
        tokens=rng.integers(FIRST, FIRST + 900, sum(sizes)).astype(np.uint16),
        times=np.concatenate([(b + a * YEAR + 1e9).astype(np.int64) for b, a in zip(births, ages, strict=True)]),
        offsets=np.cumsum([0, *sizes]),
        context_tokens=np.full(count, V.index["SEX//F"], np.uint16),
        context_times=np.full(count, STATIC),
        context_slots=np.zeros(count, np.uint8),
        context_offsets=np.arange(count + 1),
    )


def layout(part: Timelines, context, seed=0):
    windows = packing.cut(V, iter([part]), context)
    rows, columns = packing.arrange(windows.lengths + S, context + 1, np.random.default_rng(seed))
    shape = (int(rows.max()) + 1, context + 1)
    return windows, *packing._lay_out(windows, np.argsort(rows, kind="stable"), rows, columns, shape)


def segments_of(tokens, segments):
    """(row, segment id, tokens) of each segment, after checking that it is contiguous and that padding is last."""
    for row in range(len(tokens)):
        ids = segments[row]
        used = int((ids > 0).sum())
        assert (ids[:used] > 0).all() and (tokens[row, used:] == 0).all()
        starts = np.flatnonzero(np.diff(ids[:used], prepend=-1))
        assert len(np.unique(ids[starts])) == len(starts), "a patient meets itself in a row"
        for a, b in zip(starts, [*starts[1:], used], strict=True):
            yield row, ids[a], tokens[row, a:b]


@settings(deadline=None, max_examples=120)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(S, 24), st.integers(0, 3), st.integers(0, 2**31)
)
def test_every_token_is_a_target_once_and_in_order(sizes, context, seed, order):
    part = cohort(sizes, seed)
    _, tokens, segments = layout(part, context, order)
    mask = loader.targets_mask(segments, S)
    assert int(mask.sum()) == sum(sizes)
    found: dict[int, list] = {}
    for row, segment, content in segments_of(tokens, segments):
        found.setdefault(segment - 1, []).append((content[:S], content[S:]))
        assert len(content) > S
        columns = np.flatnonzero(segments[row] == segment)
        assert (tokens[row, 1:][mask[row] & (segments[row, 1:] == segment)] == content[S:]).all()
        assert columns[-1] - columns[0] == len(content) - 1
    room = context + 1 - S
    for p, n in enumerate(sizes):
        timeline = part.tokens[part.offsets[p] : part.offsets[p + 1]]
        windows = [timeline[i : i + room] for i in range(0, n, room)]
        # Rows are shuffled: find each window by its age, which tells the windows of a patient apart by 5 years.
        prefixes = [(V.index["SEX//F"], V.index[AGES[1 + min(i // 5, 19)]]) for i in range(0, n, room)]
        expect = sorted((*prefix, *w.tolist()) for prefix, w in zip(prefixes, windows, strict=True))
        assert sorted((*a.tolist(), *b.tolist()) for a, b in found[p]) == expect


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.integers(0, 2**31), st.data())
def test_rows_hold_what_fits_without_overlap(width, seed, data):
    sizes = np.array(data.draw(st.lists(st.integers(1, width), min_size=1, max_size=200)))
    rows, columns = packing.arrange(sizes, width, np.random.default_rng(seed))
    used = np.zeros((rows.max() + 1, width), int)
    for size, row, column in zip(sizes, rows, columns, strict=True):
        used[row, column : column + size] += 1
        assert column + size <= width
    assert used.max() == 1
    assert (used.sum(1) > 0).all()
    # A row is opened only for what fits nowhere else, so no two rows could be one.
    filled = np.sort(used.sum(1))
    assert len(filled) < 2 or filled[0] + filled[1] > width


def test_best_fit_by_hand():
    rows, columns = packing.arrange(np.array([10, 6, 5, 4, 3, 2]), 10, np.random.default_rng(0))
    groups = {tuple(sorted(np.array([10, 6, 5, 4, 3, 2])[rows == r].tolist())) for r in range(3)}
    assert groups == {(10,), (4, 6), (2, 3, 5)}
    assert sorted(columns.tolist()) == [0, 0, 0, 5, 6, 8]


@pytest.mark.parametrize("context", [128, 256, 1024, 2048])
def test_rows_of_a_realistic_cohort_are_98_percent_full(context):
    rng = np.random.default_rng(3)
    sizes = np.maximum(4, np.exp(rng.normal(5.6, 0.9, 3000))).astype(int)
    _, _, segments = layout(cohort(sizes.tolist()), context)
    assert (segments > 0).mean() > 0.98


def test_the_seed_decides_the_rows_and_nothing_else():
    part = cohort([30, 7, 12, 50, 9, 21] * 5)
    _, a, _ = layout(part, 20, 1)
    _, b, _ = layout(part, 20, 1)
    _, c, _ = layout(part, 20, 2)
    assert (a == b).all()
    assert a.shape == c.shape and (a != c).any()
    assert np.sort(a.ravel()).tolist() == np.sort(c.ravel()).tolist()


def test_rows_are_shuffled():
    _, _, segments = layout(cohort([200] * 40), 20)
    assert abs(np.corrcoef(segments[:, 0], np.arange(len(segments)))[0, 1]) < 0.2


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    made_up.write(work / "events", **made_up.splits(patients=40))
    (work / "timelines").mkdir()
    timelines.build(work / "events", work / "timelines")
    return work


def pack(work, out, context=32, block=8, seed=0):
    out.mkdir(parents=True)
    return packing.build(work / "timelines", out, context=context, block=block, seed=seed)


def test_files_hold_the_timelines(work, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_RECORDS", 3)
    monkeypatch.setattr(packing, "_ASSEMBLE", 1000)
    summary = pack(work, tmp_path / "p")
    assert json.loads((tmp_path / "p" / "packed.json").read_text()) == summary
    vocabulary = timelines.vocabulary(work)
    prefix = vocabulary.context_tokens
    assert (summary["context_tokens"], summary["vocab_size"]) == (prefix, len(vocabulary.tokens))
    for split, facts in summary["splits"].items():
        patients = list(timelines.read(work, split))
        (batch,) = loader.eval_batches(tmp_path / "p", split, sequences=facts["sequences"])
        pieces: dict[int, list] = {}
        for _, segment, content in segments_of(batch["tokens"], batch["segments"]):
            pieces.setdefault(segment - 1, []).append(content)
        room = 33 - prefix
        for p, patient in enumerate(patients):
            timeline, times = patient["tokens"], patient["times"]
            starts = np.arange(0, len(timeline), room)
            at = timelines.start_times(vocabulary, timeline, times, starts)
            expect = [
                [*timelines.context_at(vocabulary, patient, t).tolist(), *timeline[i : i + room].tolist()]
                for i, t in zip(starts, at, strict=True)
            ]
            assert sorted(expect) == sorted(c.tolist() for c in pieces.pop(p))
        assert not pieces
        assert facts["real_tokens"] == sum(len(p["tokens"]) for p in patients) == batch["mask"].sum()
        assert facts["patients"] == len(patients)
        assert facts["fill"] == pytest.approx((batch["segments"] > 0).mean())
        assert facts["context_real"] == prefix * facts["segments"]
        assert facts["blocks"] * 8 == facts["sequences"] + facts["empty_rows"] and 0 <= facts["empty_rows"] < 8
        assert sum(facts["files"].values()) == facts["blocks"] and len(facts["files"]) == -(-facts["blocks"] // 3)
    assert summary["unique_tokens"] == summary["splits"]["train"]["real_tokens"]


def test_same_seed_same_bytes(work, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack(work, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / n / "train-00000.array_record").read_bytes() for n in "abc")
    assert a == b != c


def test_bad_settings_are_named(work, tmp_path):
    prefix = timelines.vocabulary(work).context_tokens
    with pytest.raises(UserError, match=f"context={prefix - 1} has no room"):
        pack(work, tmp_path / "a", context=prefix - 1)
    with pytest.raises(UserError, match="block=0"):
        pack(work, tmp_path / "b", block=0)
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        pack(tmp_path, tmp_path / "c")
    summary = pack(work, tmp_path / "d", context=prefix)  # one timeline token a window
    assert summary["splits"]["test"]["segments"] == summary["splits"]["test"]["real_tokens"]


def test_windows_are_cut_the_same_from_one_part_or_many():
    sizes = [5, 40, 1, 17, 33]
    part = cohort(sizes)
    halves = []
    for a, b in ((0, 2), (2, 5)):
        rows = slice(part.offsets[a], part.offsets[b])
        halves.append(
            part._replace(
                births=part.births[a:b], subject_ids=part.subject_ids[a:b], tokens=part.tokens[rows],
                times=part.times[rows], offsets=part.offsets[a : b + 1] - part.offsets[a],
                context_tokens=part.context_tokens[a:b], context_times=part.context_times[a:b],
                context_slots=part.context_slots[a:b], context_offsets=np.arange(b - a + 1),
            )
        )  # fmt: skip
    whole, joined = packing.cut(V, iter([part]), 12), packing.cut(V, iter(halves), 12)
    for name in Windows._fields:
        np.testing.assert_array_equal(getattr(whole, name), getattr(joined, name))
