"""Shards of a MEDS data set by a hash of the id: no table of patients, and every one of them in one shard."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meds_files import extract, put, table

from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import ALL_HELD_OUT, Listed
from ehr_scaling.data.shards import Runner
from ehr_scaling.data.sources.meds import assignment, shuffle
from ehr_scaling.data.sources.meds import dataset as meds
from ehr_scaling.data.sources.meds import splits as meds_splits
from ehr_scaling.errors import UserError

ids = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(ids, min_size=1, max_size=50, unique=True), st.integers(0, 2**31), st.integers(1, 10**6), st.data())
def test_a_shard_is_told_by_the_id_alone(some, seed, many, data):
    some = np.array(some, np.int64)
    shard = events.shards_by_hash(some, seed, many)
    assert shard.dtype == np.int64 and (shard >= 0).all() and (shard < many).all()
    few = np.array(data.draw(st.permutations(range(len(some)))))[: len(some) // 2 + 1]
    assert events.shards_by_hash(some[few], seed, np.full(len(few), many)).tolist() == shard[few].tolist()


def undone(x: int, shift: int, factor: int) -> int:
    """What gave x by (y ^ y >> shift) * factor modulo 2^64."""
    x = x * pow(factor, -1, 2**64) % 2**64
    y = x
    for _ in range(64 // shift + 1):
        y = x ^ y >> shift
    return y


def test_a_draw_that_is_rounded_to_one_is_of_the_last_shard():
    seed = 5
    x = undone(undone(undone(2**64 - 1, 31, 1), 27, 0x94D049BB133111EB), 30, 0xBF58476D1CE4E5B9)
    given = (x - (seed + events._SHARDS_SEED + 1) * 0x9E3779B97F4A7C15) % 2**64
    last = np.array([given], np.uint64).view(np.int64)
    assert events.uniform(last, seed + events._SHARDS_SEED)[0] == 1.0
    assert events.shards_by_hash(last, seed, 7).tolist() == [6]


@pytest.mark.parametrize("step", [1, 2, 1 << 20])
def test_shards_are_of_one_size(step):
    """As those of a fair draw are: by chi-squared, and none five standard deviations from the mean."""
    many, patients = 50, 50 * 2_048
    sizes = np.bincount(events.shards_by_hash(np.arange(patients) * step, 0, many), minlength=many)
    assert len(sizes) == many and (np.abs(sizes - 2_048) < 5 * 2_048**0.5).all()
    assert 20 < ((sizes - 2_048) ** 2 / 2_048).sum() < 95  # 49 expected; each bound one in a few ten thousand


HOW = ["hash", "file", "own file", "folders"]
FRACTIONS = (0.5, 0.3, 0.2)
pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=60)


def said(how, patient):
    return patient * 7 % 4 - 1 if how == "file" else patient * 7 % 3


def pieces_of(folder, rows, how, per_piece):
    """Files, one of each number that rows of (patient, file) have, and pieces of some of their row groups."""
    folder.mkdir()
    units, held = [[]], 0
    for file in range(6):
        some = [p for p, k in rows if (said(how, p) * 2 + k % 2 if how == "folders" else k) == file]
        columns = {"subject_id": pa.array(some, pa.int64()), "code": pa.array(["A"] * len(some), pa.string())}
        pq.write_table(pa.table(columns), folder / f"{file}.parquet", row_group_size=4)
        for group in range(-(-len(some) // 4)):
            if held >= per_piece:
                units.append([])
                held = 0
            units[-1].append((str(folder / f"{file}.parquet"), file, group, group + 1))
            held += 4
    return [unit for unit in units if unit]


def assigned(tmp_path, name, units, how, patch, ranges, within):
    patch.setattr(events, "SHARD", 4)
    patch.setattr(assignment, "_MANY", 1 if within else 1 << 30)
    patch.setattr(assignment, "_RANGE", ranges)
    folder = shuffle.Folder(tmp_path / name)
    folder.path.mkdir()
    every = np.arange(41)
    own_splits, wanted = meds_splits.GivenSplits(""), FRACTIONS
    if how == "file":
        named = every[[said(how, p) >= 0 for p in every]]
        wanted = Listed("some", named, np.array([said(how, p) for p in named], np.int8))
    if how == "own file":
        own_splits = meds_splits.GivenSplits("", Listed("own", every, np.array([said(how, p) for p in every], np.int8)))
    if how == "folders":
        own_splits = meds_splits.GivenSplits("", folders=(0, 0, 1, 1, 2, 2))
    return assignment.assign(folder, units, own_splits, 3, wanted)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    how=st.sampled_from(HOW),
    rows=pairs,
    per_piece=st.integers(1, 30),
    ranges=st.integers(1, 60),
    within=st.booleans(),
    apart=st.booleans(),
)
def test_every_patient_is_in_one_shard_of_its_split(tmp_path_factory, how, rows, per_piece, ranges, within, apart):
    """Whoever is in which files, however they are cut and counted; and there are as many shards as there must be."""
    tmp_path = tmp_path_factory.mktemp("meds")
    # Some of each, so that neither train nor tuning is empty, and none in two splits
    rows = [*rows, *((p, p % 2) for p in range(12))]
    rows = [(p, p % 6) for p, _ in [*rows, *rows[:20]]] if apart else rows
    units = pieces_of(tmp_path / "files", rows, how, per_piece)
    with pytest.MonkeyPatch.context() as patch:
        if how == "file" and not {0, 1} <= {said(how, p) for p, _ in rows}:
            return
        found = assigned(tmp_path, "a", units, how, patch, ranges, within)
        again = assigned(tmp_path, "b", units, how, patch, 1 << 20, within)
        assert found.shards == again.shards and found.width == again.width
        assert [p[1:] for p in found.places] == [p[1:] for p in again.places]
        truth = dict(zip(range(41), events.assign_splits(np.arange(41), 3, FRACTIONS).tolist(), strict=True))
        if how != "hash":
            truth = {p: said(how, p) for p in range(41)}
        there = {p for p, _ in rows}
        shard_of, pieces_with = {}, {p: set() for p in there}
        for unit, (parts, places) in enumerate(zip(units, found.places, strict=True)):
            places = meds_splits.Places(*json.loads(json.dumps(places)))
            for path, number, first, last in parts:
                ids = pq.ParquetFile(path).read_row_groups(range(first, last))["subject_id"].to_numpy()
                for p, shard in zip(ids.tolist(), places.of(ids, np.full(len(ids), number)).tolist(), strict=True):
                    assert shard_of.setdefault(p, shard) == shard
                    pieces_with[p].add(unit)
        assert shard_of.keys() == there
        for p, shard in shard_of.items():
            if truth[p] < 0:
                assert shard == -1
            else:
                split, _, pieces = found.shards[shard]
                assert split == events.SPLITS[truth[p]]
                assert pieces is None or pieces_with[p] <= {*pieces}
    sizes = Counter(truth[p] for p in there if truth[p] >= 0)
    numbers = {name: [k for split, k, _ in found.shards if split == name] for name in events.SPLITS}
    assert all(ks == list(range(len(ks))) for ks in numbers.values())
    in_all = tuple(range(len(units)))
    if found.shards and found.shards[0][2] is None:
        wanted = {(i, in_all): n for i, n in sizes.items()}
    else:  # patients of those pieces alone
        groups = {tuple(pieces) for _, _, pieces in found.shards}
        wanted = Counter((truth[p], g) for p in there if truth[p] >= 0 for g in groups if pieces_with[p] <= {*g})
    many = Counter((events.SPLITS.index(split), tuple(pieces or in_all)) for split, _, pieces in found.shards)
    assert many == {key: -(-n // 4) for key, n in wanted.items()}
    if how == "file":
        assert found.met["split_file"]["not named"] == sum(truth[p] < 0 for p in there)


def test_who_is_in_two_splits_is_found_wherever_it_is(tmp_path, monkeypatch):
    """In one piece, or in two; counted at once or by ranges."""
    both = {"train/0": table([(1, 0, "A", None), (2, 0, "A", None)]), "tuning/0": table([(2, 0, "A", None)])}
    for unit in (1, 100):
        for at_once in (1, 100):
            monkeypatch.setattr(meds, "_UNIT", unit)
            monkeypatch.setattr(assignment, "_RANGE", at_once)
            with pytest.raises(UserError, match=r"^under 10 patients are in more than one of data/train, data/tuning"):
                extract(put(tmp_path / "raw", both), tmp_path / f"e{unit}-{at_once}")
    summary, _ = extract(tmp_path / "raw", tmp_path / "all", splits=ALL_HELD_OUT)  # a file says where they are
    assert summary["patients"] == {"train": 0, "tuning": 0, "held_out": 2}


def spread_out(tmp_path, monkeypatch):
    """Sixty patients in six files, ten each, a piece a file."""
    rows = [[(10 * k + i, 0, "A", 1.0 * k) for i in range(10)] for k in range(6)]
    monkeypatch.setattr(meds, "_UNIT", 10)
    monkeypatch.setattr(events, "SHARD", 4)
    return put(tmp_path / "raw", {str(k): table(some) for k, some in enumerate(rows)})


def test_nothing_that_is_left_or_held_is_of_all_patients(tmp_path, monkeypatch):
    """Where no file lists them: arrays are those of a piece, and of a range those whose hash is in it."""
    root = spread_out(tmp_path, monkeypatch)
    monkeypatch.setattr(assignment, "_RANGE", 10)
    sorted_at_once, lexsort = [], np.lexsort
    monkeypatch.setattr(assignment.np, "lexsort", lambda keys: (sorted_at_once.append(len(keys[-1])), lexsort(keys))[1])
    summary, _ = extract(root, tmp_path / "events")
    assert sum(summary["patients"].values()) == 60
    assert sum(sorted_at_once) >= 120 and max(sorted_at_once) <= 25
    files = (tmp_path / "events" / events.PARTS / "exchange").glob("*.npy")
    arrays = [np.load(path) for path in files if not path.stem.endswith("begins")]  # of each range, not each patient
    assert len(arrays) > 12 and max(map(len, arrays)) <= 25


def test_one_who_is_counted_and_killed_comes_to_the_same(tmp_path, monkeypatch):
    root = spread_out(tmp_path, monkeypatch)
    monkeypatch.setattr(assignment, "_RANGE", 20)
    whole, found = extract(root, tmp_path / "whole")
    real, calls = assignment.count, []

    def dies(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(assignment, "count", dies)
    out = tmp_path / "resumed"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        meds.extract(root, out, seed=0)
    monkeypatch.setattr(assignment, "patients", None)  # nobody is looked for again
    assert meds.extract(root, out, seed=0, runner=Runner()) == whole
    assert calls == [0, 1, 1, 2]
    for split, tables in found.items():
        assert [pq.read_table(p) for p in sorted((out / "data" / split).glob("*.parquet"))] == tables
