import itertools
import json
import shutil

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data import loader, packing, timelines
from ehr_scaling.errors import UserError

T, K = 32, 4


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    made_up.write(work / "events", **made_up.splits(patients=30))
    for name in ("timelines", "packed"):
        (work / name).mkdir()
    timelines.build(work / "events", work / "timelines")
    packing.build(work / "timelines", work / "packed", context=T, block=K, seed=0, phases=2)
    return work / "packed"


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "packed")


def facts(packed, split="train"):
    return json.loads((packed / "packed.json").read_text())["splits"][split]


def rows_of(packed, split="train", phase=0):
    return facts(packed, split)["phases"][phase]["sequences"]


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def join(batches):
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def keys(batch):
    """The rows of a batch, each as bytes."""
    return [t.tobytes() + s.tobytes() for t, s in zip(batch["tokens"], batch["segments"], strict=True)]


def same(a, b):
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


def train(packed, sequences, seed=0, **options):
    return iter(loader.train_batches(packed, sequences=sequences, seed=seed, **options))


@pytest.mark.parametrize("sequences", [1, 3 * K, 3 * K + 1])
def test_shapes_and_types(packed, sequences):
    batch = next(train(packed, sequences))
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "tokens": ((sequences, T + 1), np.int32),
        "segments": ((sequences, T + 1), np.int32),
        "mask": ((sequences, T), bool),
    }


def test_each_pass_has_every_row_of_its_phase_once_in_another_order(packed):
    sizes = [rows_of(packed, phase=phase) for phase in (0, 1)]
    stream = keys(join(take(train(packed, 1, seed=5), 2 * sum(sizes))))
    bounds = np.cumsum([0, *sizes, *sizes])
    passes = [stream[a:b] for a, b in itertools.pairwise(bounds)]
    (stored,) = loader.eval_batches(packed, "train", sequences=sizes[0])
    assert sorted(passes[0]) == sorted(passes[2]) == sorted(keys(stored))
    assert sorted(passes[1]) == sorted(passes[3]) != sorted(passes[0])
    assert passes[0] != passes[2] and passes[1] != passes[3]
    real = [b["mask"].sum() for b in take(train(packed, 1, seed=5), sizes[0])]
    assert sum(real) == facts(packed)["real_tokens"]


def test_a_batch_goes_on_from_pass_to_pass(packed):
    total = rows_of(packed) + rows_of(packed, phase=1)
    rows = keys(join(take(train(packed, 1), 3 * total)))
    assert keys(next(train(packed, 3 * total))) == rows
    assert keys(join(take(train(packed, 7), 3 * total // 7))) == rows[: 3 * total // 7 * 7]


def test_order_comes_from_the_seed(packed):
    a, b, c = (take(train(packed, 2 * K, seed=s), 6) for s in (1, 1, 2))
    assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert not all(same(x, y) for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize("done", [0, 1, 7, 100])
def test_resumes_exactly(packed, done):
    iterator = train(packed, 2 * K + 1, seed=1)
    take(iterator, done)
    state = json.loads(json.dumps(iterator.get_state()))
    expect = take(iterator, 9)
    again = train(packed, 2 * K + 1, seed=1)
    take(again, 3)
    again.set_state(state)
    assert all(same(x, y) for x, y in zip(expect, take(again, 9), strict=True))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_reads_the_same_steps_in_the_same_order(packed, processes, steps):
    whole = take(train(packed, 16, seed=1, steps=steps), 30)
    parts = [
        take(
            train(packed, 16 // processes, seed=1, steps=steps, process_index=p, process_count=processes),
            30,
        )
        for p in range(processes)
    ]
    for s, batch in enumerate(whole):
        for key, value in batch.items():
            shares = [part[s][key].reshape(steps, -1, value.shape[-1]) for part in parts]
            np.testing.assert_array_equal(np.concatenate(shares, axis=1).reshape(value.shape), value)


def test_a_state_holds_for_another_number_of_processes(packed):
    iterator = train(packed, 8, process_index=1, process_count=2)
    take(iterator, 5)
    alone = train(packed, 16)
    expect = take(alone, 9)[5:]
    other = train(packed, 16)
    other.set_state(iterator.get_state())
    assert all(same(x, y) for x, y in zip(expect, take(other, 4), strict=True))


def test_mask_is_the_contract_word_for_word(packed):
    prefix = json.loads((packed / "packed.json").read_text())["context_tokens"]
    for batch in take(iter(loader.train_batches(packed, sequences=K, seed=0)), 5):
        segments, tokens = batch["segments"], batch["tokens"]
        for i in range(K):
            for j in range(1, T + 1):
                position = j - int(np.flatnonzero(segments[i] == segments[i, j])[0])
                counts = (
                    segments[i, j] == segments[i, j - 1] and tokens[i, j] != 0 and segments[i, j] > 0
                ) and position >= prefix
                assert batch["mask"][i, j - 1] == counts
    short = np.array([[1, 1, 2, 2, 0]])
    assert loader.targets_mask(short, 1).tolist() == [[True, False, True, False]]
    assert loader.targets_mask(short, 2).tolist() == [[False, False, False, False]]
    assert short.tolist() == [[1, 1, 2, 2, 0]]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 8), st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=9))
def test_mask_from_runs_is_that_from_segments(prefix, rows):
    width = max(16, prefix + 1)
    ids = itertools.count(1)
    runs = [_fit([(next(ids), n) for n in row], width) for row in rows]
    flat = [run for row in runs for run in row]
    record = np.arange(len(rows) * width, dtype="<u2").tobytes()
    record += np.array([i for i, _ in flat], "<u4").tobytes() + np.array([n for _, n in flat], "<u2").tobytes()
    source = object.__new__(loader._Rows)
    source.width, source.prefix, source._dtype = width, prefix, np.dtype("<u2")
    source.sizes, source._read = np.array([len(rows)]), lambda block: record
    whole = source.batch([loader._Piece(0, 0, len(rows))])
    np.testing.assert_array_equal(whole["mask"], loader.targets_mask(whole["segments"], prefix))
    np.testing.assert_array_equal(whole["tokens"].ravel(), np.arange(len(rows) * width))
    expect = [np.repeat([i for i, _ in row], [n for _, n in row]) for row in runs]
    np.testing.assert_array_equal(whole["segments"], expect)
    for first in range(len(rows)):
        part = source.batch([loader._Piece(0, first, len(rows)), loader._Piece(0, 0, first)][: 1 + (first > 0)])
        for key, value in whole.items():
            np.testing.assert_array_equal(part[key], np.concatenate([value[first:], value[:first]]))


def _fit(runs, width):
    """Runs (id, length) that make up a row: what fits of them, then padding."""
    out, used = [], 0
    for i, n in runs:
        if used + n <= width:
            out.append((i, n))
            used += n
    return [*out, (0, width - used)] if used < width else out


@pytest.mark.parametrize("sequences", [1, 3, K, 7, 4 * K, 1000])
def test_evaluation_covers_each_row_once_whatever_the_batch(packed, sequences):
    rows = rows_of(packed, "validation")
    (whole,) = loader.eval_batches(packed, "validation", sequences=rows)
    for limit in (None, 1, 5, rows, rows + 100):
        batches = list(loader.eval_batches(packed, "validation", sequences=sequences, limit_sequences=limit))
        count = min(rows, rows if limit is None else limit)
        assert len(batches) == -(-count // sequences)
        for key in whole:
            joined = np.concatenate([b[key] for b in batches])
            assert len(joined) == len(batches) * sequences
            np.testing.assert_array_equal(joined[:count], whole[key][:count])
            assert not joined[count:].any()
    assert whole["mask"].sum() == facts(packed, "validation")["real_tokens"]


def test_evaluation_takes_its_rows_from_all_files_in_turn(packed):
    """The first patients of the second file come before the last of the first."""
    first, second = facts(packed)["phases"][0]["files"].values()
    patients = len(list(timelines.read(packed.parent, "train"))) // 2
    (batch,) = loader.eval_batches(packed, "train", sequences=4 * K, limit_sequences=4 * K)
    file = (batch["segments"][:, 0] > patients).astype(int)
    assert min(first, second) > 2 * K
    assert file.tolist() == [*[0] * K, *[1] * K] * 2


def test_bad_batches_and_splits_are_named(packed):
    for sequences, steps in ((0, 1), (-4, 2), (5, 2), (4, 0)):
        with pytest.raises(UserError, match=f"{sequences} sequences"):
            loader.train_batches(packed, sequences=sequences, seed=0, steps=steps)
    with pytest.raises(UserError, match="no split 'tuning'"):
        next(loader.eval_batches(packed, "tuning", sequences=4))
    with pytest.raises(UserError, match=r"packed\.json is missing"):
        loader.train_batches(packed / "x", sequences=K, seed=0)


def test_damaged_files_are_named(copy):
    rows = rows_of(packed=copy)

    def read():
        take(train(copy, 1), rows)

    path = copy / "train-0-00000.array_record"
    whole = path.read_bytes()
    other = json.loads((copy / "packed.json").read_text())

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="train-0-00000"):
        read()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    at = int(used[len(used) // 2])
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(UserError, match="train-0-00000"):
        read()
    path.write_bytes(whole)
    read()
    (copy / "packed.json").write_text(json.dumps({**other, "context": T + 1}))
    with pytest.raises(UserError, match=r"train-0-0000.*another size"):
        read()
    (copy / "packed.json").write_text(json.dumps({"splits": {}}))
    with pytest.raises(UserError, match="older version"):
        read()
    (copy / "packed.json").write_text(json.dumps(other))
    path.unlink()
    with pytest.raises(UserError, match=r"train-0-00000.*missing"):
        read()
