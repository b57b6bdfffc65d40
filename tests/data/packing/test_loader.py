import errno
import gc
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.packing import loader, packing
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from tests.data import made_up

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
    return loader.train_batches(packed, sequences=sequences, seed=seed, **options)


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
    stored = [keys(next(loader.eval_batches(packed, "train", sequences=sizes[phase], phase=phase))) for phase in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[2]) == sorted(stored[0])
    assert passes[0] != stored[0] and passes[1] != stored[1]  # the first ones are shuffled too
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


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 60),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([[[0]], [[0], [1]], [[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3], [1], [2]]]),
    st.integers(0, 9),
)
def test_the_rows_of_a_step_depend_on_its_number_alone(packed, begin, steps, processes, seed):
    """Whoever reads it, wherever reading began, however many steps share a batch: the only state is the number."""
    count, rows = 3, 8
    alone = train(packed, rows, seed=seed)
    alone.seek(begin)
    expect = join(take(alone, count * steps))
    assert alone.position == begin + count * steps
    of, parts = sum(map(len, processes)), {}
    for own in processes:
        data = train(packed, steps * rows * len(own) // of, seed=seed, steps=steps, shares=own, of=of)
        take(data, 2)
        assert data.position == 2 * steps
        data.seek(begin)
        read = join(take(data, count))
        for k, share in enumerate(own):
            parts[share] = {key: x.reshape(count * steps, len(own), -1, x.shape[-1])[:, k] for key, x in read.items()}
        data.close()
    for key, value in expect.items():
        shares = [parts[share][key] for share in range(of)]
        np.testing.assert_array_equal(np.concatenate(shares, axis=1).reshape(value.shape), value)


def test_so_many_files_are_open_as_the_system_lets(monkeypatch):
    limits = {"now": (1024, 20_000)}
    monkeypatch.setattr(loader.resource, "getrlimit", lambda kind: limits["now"])
    monkeypatch.setattr(loader.resource, "setrlimit", lambda kind, wanted: limits.update(now=wanted))
    assert loader._files_to_open(1) == (20_000 - loader._SPARE) // 4 and limits["now"] == (20_000, 20_000)
    limits["now"] = (1024, 1 << 20)
    assert loader._files_to_open(1) == loader._OPEN and limits["now"] == (4 * loader._OPEN + loader._SPARE, 1 << 20)
    limits["now"] = (4096, 4096)  # of which more streams may open no more together
    assert 8 * loader._files_to_open(8) + loader._SPARE <= 4096
    limits["now"] = (100, 300)
    assert loader._files_to_open(1) == 64
    limits["now"] = (loader.resource.RLIM_INFINITY,) * 2
    assert loader._files_to_open(1) == loader._OPEN

    def refused(kind, wanted):
        raise ValueError

    limits["now"] = (1024, loader.resource.RLIM_INFINITY)
    monkeypatch.setattr(loader.resource, "setrlimit", refused)
    assert loader._files_to_open(1) == (1024 - loader._SPARE) // 4


def test_files_that_are_closed_in_between_change_nothing(packed, monkeypatch):
    many = train(packed, 8)
    monkeypatch.setattr(loader, "_files_to_open", lambda streams: 1)
    few = train(packed, 8)
    for _ in range(30):
        same(next(many), next(few))


def test_sought_is_what_reading_on_gives(packed):
    whole = take(train(packed, 2 * K + 1, seed=1), 120)
    for step in (0, 1, 7, 100):
        data = train(packed, 2 * K + 1, seed=1)
        take(data, 3)
        data.seek(step)
        assert all(same(x, y) for x, y in zip(whole[step : step + 9], take(data, 9), strict=True))


def test_mask_is_the_contract_word_for_word(packed):
    prefix = json.loads((packed / "packed.json").read_text())["context_tokens"]
    for batch in take(train(packed, K), 5):
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
    source._block = lambda block: source._decode(record, len(rows))
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


def flip(path, share):
    """Change a byte of a file, about this share of what is no filling from its begin."""
    whole = path.read_bytes()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    at = int(used[int(share * len(used))])
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("harm", [lambda path: flip(path, 0.3), truncate, Path.unlink])
def test_rows_of_a_damaged_file_are_left_out_where_they_stood(copy, packed, harm, caplog):
    steps, name = 60, "train-0-00001"
    whole = join(take(train(packed, 2 * K, seed=1), steps))
    (all_rows,) = loader.eval_batches(packed, "train", sequences=rows_of(packed))
    last = len(list(timelines.read(packed.parent, "train"))) // 2  # of the patients of the first file
    harm(copy / f"{name}.array_record")
    with pytest.raises(UserError, match=rf"{name}.*again, or train without its rows: --config.data.skip_damaged"):
        take(train(copy, 2 * K, seed=1), steps)
    with pytest.raises(UserError, match=rf"{name}.*again$"):
        list(loader.eval_batches(copy, "train", sequences=K))
    part = join(take(train(copy, 2 * K, seed=1, skip_damaged=True), steps))
    lost = ~part["mask"].any(1)
    assert lost.any()
    for key, value in whole.items():
        assert not part[key][lost].any()
        np.testing.assert_array_equal(part[key][~lost], value[~lost])
    gone = set(keys({key: value[lost] for key, value in whole.items()}))
    assert gone < set(keys(all_rows)), "only rows of its phase, and not all of them"
    assert whole["segments"][lost].max(1).min() > last or harm is not truncate
    assert [record.levelname for record in caplog.records if name in record.message] == ["WARNING"]
    # Resumed, and read by two processes, it is the same.
    other = [train(copy, K, seed=1, skip_damaged=True, shares=(p,), of=2, timeout=60.0) for p in range(2)]
    for data in other:
        data.seek(20)
    shares = [take(data, 40) for data in other]
    again = join([join(pair) for pair in zip(*shares, strict=True)])
    assert all((again[key] == part[key][20 * 2 * K :]).all() for key in part)


@pytest.mark.parametrize("skip", [True, False])
def test_a_file_that_the_system_does_not_give_is_not_damaged(copy, monkeypatch, skip):
    """Its rows come when the drive does: they are not left out, and nobody is told to delete them."""

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(loader, "_reader", stale)
    with pytest.raises(UserError, match="network drive lost this file: mount it again"):
        take(train(copy, K, skip_damaged=skip), 1)


def test_of_a_file_with_a_damaged_block_the_others_are_read(copy, packed):
    flip(copy / "train-0-00000.array_record", 0.5)
    rows = rows_of(packed)
    mask = join(take(train(copy, 1, skip_damaged=True), rows))["mask"]
    assert K >= int((~mask.any(1)).sum()) > 0


def test_data_that_is_mostly_damaged_is_not_trained_on(copy):
    for path in copy.glob("train-*"):
        truncate(path)
    with pytest.raises(UserError, match=r"over half of the data to train on in .* cannot be read"):
        take(train(copy, K, skip_damaged=True), 2 * rows_of(copy))
    for path in copy.glob("train-*"):
        path.unlink()
    with pytest.raises(UserError, match="over half"):
        train(copy, K, skip_damaged=True)


HUNG = """
import sys, time
from pathlib import Path
from ehr_scaling.data.packing import loader
from ehr_scaling.errors import UserError
data = loader.train_batches(Path(sys.argv[1]), sequences=4, seed=0, timeout=0.5)
started = time.monotonic()
try:
    while True:
        next(data)
except UserError as e:
    print(e)
assert 0.4 < time.monotonic() - started < 30
try:
    next(data)
except UserError:
    pass
"""


def test_a_reader_that_hangs_is_given_up_and_does_not_keep_the_process(copy):
    """A pipe that nobody writes to hangs as a dead mount does: in open(2), for ever."""
    path = copy / "train-0-00001.array_record"
    path.unlink()
    os.mkfifo(path)
    run = subprocess.run([sys.executable, "-c", HUNG, str(copy)], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(rf"{copy}: nothing could be read for 0.5 s: .* --config\.data\.read_timeout\n", run.stdout)


def test_opening_that_hangs_is_given_up(copy):
    (copy / "packed.json").unlink()
    os.mkfifo(copy / "packed.json")
    with pytest.raises(UserError, match=r"nothing could be read for 0\.2 s"):
        train(copy, K, timeout=0.2)


def test_slow_is_not_hung(packed, monkeypatch):
    expect = take(train(packed, K), 4)
    block = loader._Rows._block

    def slow(self, number):
        time.sleep(0.05)
        return block(self, number)

    monkeypatch.setattr(loader._Rows, "_block", slow)
    assert all(same(x, y) for x, y in zip(expect, take(train(packed, K, timeout=2.0), 4), strict=True))


def test_no_thread_is_left_behind(packed):
    before = set(threading.enumerate())
    for _ in range(3):
        data = train(packed, K, timeout=60.0)
        next(data)
        data.seek(7)
        next(data)
        data.close()
        del data
    gc.collect()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_what_is_not_packed_is_named(packed):
    with pytest.raises(UserError, match=r"t64/packed\.json is missing"):
        loader.train_batches(packed / "t64", sequences=K, seed=0, timeout=9.0)
