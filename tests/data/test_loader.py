import itertools
import json

import made_up
import numpy as np
import pytest

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
    packing.build(work / "timelines", work / "packed", context=T, block=K, seed=0)
    return work / "packed"


@pytest.fixture
def copy(packed, tmp_path):
    out = tmp_path / "packed"
    out.mkdir()
    for path in packed.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def facts(packed, split="train"):
    return json.loads((packed / "packed.json").read_text())["splits"][split]


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def keys(batch):
    """The blocks of a batch, each as bytes."""
    return [batch["tokens"][i : i + K].tobytes() for i in range(0, len(batch["tokens"]), K)]


def same(a, b):
    return all((a[key] == b[key]).all() for key in a)


def test_shapes_and_types(packed):
    batch = next(iter(loader.train_batches(packed, sequences=3 * K, seed=0)))
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "tokens": ((3 * K, T + 1), np.int32),
        "segments": ((3 * K, T + 1), np.int32),
        "mask": ((3 * K, T), bool),
    }


def test_each_pass_has_every_block_once_in_another_order(packed):
    blocks = facts(packed)["blocks"]
    stream = [keys(b)[0] for b in take(iter(loader.train_batches(packed, sequences=K, seed=5)), 3 * blocks)]
    passes = [stream[i * blocks : (i + 1) * blocks] for i in range(3)]
    assert all(len(set(p)) == blocks for p in passes)
    assert set(passes[0]) == set(passes[1]) == set(passes[2])
    assert passes[0] != passes[1] != passes[2]
    real = [b["mask"].sum() for b in take(iter(loader.train_batches(packed, sequences=K, seed=5)), blocks)]
    assert sum(real) == facts(packed)["real_tokens"]


def test_order_comes_from_the_seed(packed):
    a, b, c = (take(iter(loader.train_batches(packed, sequences=2 * K, seed=s)), 6) for s in (1, 1, 2))
    assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert not all(same(x, y) for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize("done", [0, 1, 7, 100])
def test_resumes_exactly(packed, done):
    iterator = iter(loader.train_batches(packed, sequences=2 * K, seed=1))
    take(iterator, done)
    state = json.loads(json.dumps(iterator.get_state()))
    expect = take(iterator, 9)
    again = iter(loader.train_batches(packed, sequences=2 * K, seed=1))
    take(again, 3)
    again.set_state(state)
    assert all(same(x, y) for x, y in zip(expect, take(again, 9), strict=True))


def test_processes_share_what_one_would_read(packed):
    whole = take(iter(loader.train_batches(packed, sequences=4 * K, seed=1)), 20)
    parts = [
        take(iter(loader.train_batches(packed, sequences=2 * K, seed=1, process_index=p, process_count=2)), 20)
        for p in range(2)
    ]
    for step in range(20):
        shares = [set(keys(parts[p][step])) for p in range(2)]
        assert sorted(keys(whole[step])) == sorted([*keys(parts[0][step]), *keys(parts[1][step])])
        assert step * 4 + 4 > facts(packed)["blocks"] or not shares[0] & shares[1]


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


@pytest.mark.parametrize("sequences", [1, 3, K, 7, 4 * K, 1000])
def test_evaluation_covers_each_row_once_whatever_the_batch(packed, sequences):
    rows = facts(packed, "validation")["sequences"]
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


def test_bad_batches_and_splits_are_named(packed):
    for sequences in (0, K + 1, K - 1):
        with pytest.raises(UserError, match=f"{sequences} sequences"):
            loader.train_batches(packed, sequences=sequences, seed=0)
    with pytest.raises(UserError, match="no split 'tuning'"):
        next(loader.eval_batches(packed, "tuning", sequences=4))
    with pytest.raises(UserError, match=r"packed\.json is missing"):
        loader.train_batches(packed / "x", sequences=K, seed=0)


def test_damaged_files_are_named(copy):
    blocks = facts(copy)["blocks"]

    def train():
        take(iter(loader.train_batches(copy, sequences=K, seed=0)), blocks)

    path = copy / "train-00000.array_record"
    whole = path.read_bytes()
    other = json.loads((copy / "packed.json").read_text())

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="train-00000"):
        train()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    at = int(used[len(used) // 2])
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(UserError, match="train-00000"):
        train()
    path.write_bytes(whole)
    train()
    (copy / "packed.json").write_text(json.dumps({**other, "context": T + 1}))
    with pytest.raises(UserError, match=r"train-00000.*another size"):
        train()
    path.unlink()
    with pytest.raises(UserError, match=r"train-00000.*missing"):
        train()
