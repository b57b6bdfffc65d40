import hashlib
import itertools
import json
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.events import events
from ehr_scaling.data.packing import loader, packing
from ehr_scaling.data.shards import Runner
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.tokenization.tokenizer import STATIC, Timelines
from ehr_scaling.data.vocabulary import AGES, SPECIAL, YEAR, Vocabulary
from ehr_scaling.errors import UserError
from tests.data import made_up

V = Vocabulary((*SPECIAL, *AGES, "SEX//UNKNOWN", "SEX//F", *(f"T{i}" for i in range(900))), (), ("SEX",), {}, (), {})
FIRST = V.index["T0"]
S = 2


def cohort(sizes, seed=0):
    """Patients of `sizes` tokens, each the next of the vocabulary, a year apart, born at their first one."""
    rng = np.random.default_rng(seed)
    count = len(sizes)
    ages = [np.arange(n) for n in sizes]
    births = rng.integers(-(10**15), 10**15, count)
    return Timelines(
        subject_ids=np.arange(count),
        births=births,
        tokens=np.concatenate([FIRST + (a + rng.integers(800)) % 900 for a in ages]).astype(np.uint16),
        times=np.concatenate([(b + a * YEAR + 1e9).astype(np.int64) for b, a in zip(births, ages, strict=True)]),
        offsets=np.cumsum([0, *sizes]),
        context_tokens=np.full(count, V.index["SEX//F"], np.uint16),
        context_times=np.full(count, STATIC),
        context_slots=np.zeros(count, np.uint8),
        context_offsets=np.arange(count + 1),
    )


def settings_of(context, phases=1, sampling="token"):
    return {"context": context, "phases": phases, "sampling": sampling}


def assemble(part, context, phase=0, phases=1, sampling="token", seed=0):
    """Windows, tokens (n, T+1) and segment ids (n, T+1), the latter written out from their runs."""
    rng = np.random.default_rng(seed)
    windows, rows = packing.assemble(V, part, phase, settings_of(context, phases, sampling), rng)
    return windows, rows.tokens, np.repeat(1 + rows.owners, rows.lengths).reshape(rows.tokens.shape)


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


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(S, 24),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
def test_every_token_is_a_target_once_in_every_phase(sizes, context, phases, seed, order):
    part = cohort(sizes, seed)
    age = V.index[AGES[1]]
    for phase in range(phases):
        _, tokens, segments = assemble(part, context, phase, phases, seed=order)
        mask = loader.targets_mask(segments, S)
        assert int(mask.sum()) == sum(sizes)
        found: dict[int, list] = {}
        for row, segment, content in segments_of(tokens, segments):
            assert len(content) > S
            assert (tokens[row, 1:][mask[row] & (segments[row, 1:] == segment)] == content[S:]).all()
            found.setdefault(segment - 1, []).append(content)
        for p, n in enumerate(sizes):
            timeline = part.tokens[part.offsets[p] : part.offsets[p + 1]]
            # Where a piece begins is told by its tokens, which `cohort` numbers through a patient.
            pieces = sorted(found[p], key=lambda content: content[S])
            assert np.concatenate([content[S:] for content in pieces]).tolist() == timeline.tolist()
            at = np.cumsum([0, *(len(content) - S for content in pieces)])[:-1]
            for i, content in zip(at, pieces, strict=True):
                assert content[:S].tolist() == [V.index["SEX//F"], age + min(i // 5, 19)]
            assert n == sum(len(content) - S for content in pieces)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.integers(0, 2**31), st.data())
def test_rows_hold_what_fits_without_overlap(width, seed, data):
    sizes = np.array(data.draw(st.lists(st.integers(1, width), min_size=1, max_size=200)))
    rows, columns = packing.arrange(sizes, np.arange(len(sizes)), width, np.random.default_rng(seed))
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
    sizes = np.array([10, 6, 5, 4, 3, 2])
    rows, columns = packing.arrange(sizes, np.arange(6), 10, np.random.default_rng(0))
    groups = {tuple(sorted(sizes[rows == r].tolist())) for r in range(3)}
    assert groups == {(10,), (4, 6), (2, 3, 5)}
    assert sorted(columns.tolist()) == [0, 0, 0, 5, 6, 8]
    rows, _ = packing.arrange(np.array([6, 4, 4]), np.array([7, 7, 8]), 10, np.random.default_rng(0))
    assert rows[0] == rows[2] != rows[1], "two windows of a patient share a row"


REALISTIC = np.maximum(4, np.exp(np.random.default_rng(3).normal(5.6, 0.9, 2048))).astype(int).tolist()
FEW = np.maximum(30, np.exp(np.random.default_rng(4).normal(7.2, 1.2, 80))).astype(int).tolist()


@pytest.mark.parametrize("context", [256, 1024, 2048])
@pytest.mark.parametrize("sizes", [REALISTIC, FEW, [int(700 * 1.01**i) for i in range(60)], [150, 600, 1400] * 90])
def test_98_percent_of_the_positions_are_in_use(sizes, context):
    for phase in range(3):
        windows, _, segments = assemble(cohort(sizes), context, phase, 3)
        assert (segments > 0).mean() >= 0.98
        # It takes few cuts: not one for every row.
        room = context + 1 - S
        assert len(windows.starts) <= sum(1 + n // room + (phase > 0) for n in sizes) + len(segments)


def test_phases_begin_their_windows_elsewhere():
    sizes = [*FEW, 20, 30]
    part = cohort(sizes)
    room, boundaries = 128, []
    for phase in range(4):
        shifts = packing.starting_shifts(len(sizes), room, phase, 4, np.random.default_rng(phase))
        windows = packing.cut(part.offsets, room, shifts)
        inner = windows.starts[~np.isin(windows.starts, part.offsets)]
        boundaries.append(set(inner.tolist()))
        assert len(inner) >= sum(n // room for n in sizes) - len(sizes)
        assert (np.bincount(windows.owners)[np.array(sizes) <= room] == 1).all(), "a short record is cut"
        assert (windows.lengths >= 1).all() and (windows.lengths <= room).all()
    for i in range(4):
        for j in range(i):
            assert not boundaries[i] & boundaries[j]
    assert (packing.starting_shifts(9, room, 0, 4, np.random.default_rng(0)) == 0).all()


def test_patient_sampling_draws_one_window_of_each_with_equal_chance():
    sizes = [5, 30, 90, 10, 42]
    part = cohort(sizes)
    room = 20 + 1 - S
    drawn = []
    for seed in range(3000):
        windows = packing.one_each(
            packing.cut(part.offsets, room, np.zeros(len(sizes), np.int64)), np.random.default_rng(seed)
        )
        assert windows.owners.tolist() == [0, 1, 2, 3, 4]
        drawn.append((windows.starts - part.offsets[:-1]) // room)
    for p, n in enumerate(sizes):
        counts = np.bincount(np.array(drawn)[:, p], minlength=-(-n // room))
        assert len(counts) == -(-n // room)
        expect = 3000 / len(counts)
        assert (abs(counts - expect) < 5 * np.sqrt(expect)).all()
    for phase in range(2):
        windows, _, segments = assemble(part, 20, phase, 2, "patient")
        assert sorted(set(windows.owners.tolist())) == [0, 1, 2, 3, 4]
        assert loader.targets_mask(segments, S).sum() == windows.lengths.sum()
        assert np.bincount(windows.owners, windows.lengths).max() <= room


def test_the_seed_decides_the_rows_and_nothing_else():
    part = cohort([30, 7, 12, 50, 9, 21] * 5)
    _, a, _ = assemble(part, 20, seed=1)
    _, b, _ = assemble(part, 20, seed=1)
    _, c, _ = assemble(part, 20, seed=2)
    assert (a == b).all()
    assert a.shape != c.shape or (a != c).any()


def test_rows_are_shuffled():
    """Rows come in no order of patients, nor of how full windows fill them: the first of them are a sample."""
    sizes = np.random.default_rng(0).integers(3, 60, 400).tolist()
    _, _, segments = assemble(cohort(sizes), 20)
    several = (np.diff(segments, axis=1) != 0).any(1)  # made of ends, not of one whole window
    assert 0.2 < several.mean() < 0.8
    place = np.arange(len(segments))
    assert len(place) > 300
    for x in (segments[:, 0], several):
        assert abs(np.corrcoef(x, place)[0, 1]) < 4 / np.sqrt(len(place))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    made_up.write(work / "events", **made_up.splits(patients=40))
    (work / "timelines").mkdir()
    timelines.build(work / "events", work / "timelines", value_tokens="separate")  # as the digest below has it
    return work


def pack(work, out, context=32, block=8, seed=0, **options):
    out.mkdir(parents=True)
    return packing.build(work / "timelines", out, context=context, block=block, seed=seed, **options)


def tile(vocabulary, patient, pieces, at=0):
    """Whether `pieces`, in some order, are the timeline from `at` on, each behind the context of where it begins."""
    prefix, timeline = vocabulary.context_tokens, patient["tokens"]
    if not pieces:
        return at == len(timeline)
    time = static_context.start_times(vocabulary, timeline, patient["times"], np.array([at]))[0]
    context = static_context.context_at(vocabulary, patient, time).tolist()
    for i, piece in enumerate(pieces):
        size = len(piece) - prefix
        if piece == [*context, *timeline[at : at + size].tolist()]:
            rest = pieces[:i] + pieces[i + 1 :]
            if tile(vocabulary, patient, rest, at + size):
                return True
    return False


def test_files_hold_the_timelines(work, tmp_path):
    summary = pack(work, tmp_path / "p", phases=2)
    assert json.loads((tmp_path / "p" / "packed.json").read_text()) == summary
    vocabulary = timelines.vocabulary(work)
    prefix = vocabulary.context_tokens
    assert (summary["context_tokens"], summary["vocab_size"]) == (prefix, len(vocabulary.tokens))
    train = iter(loader.train_batches(tmp_path / "p", sequences=1, seed=0))
    for split, facts in summary["splits"].items():
        patients = list(timelines.read(work, split))
        assert facts["real_tokens"] == sum(len(p["tokens"]) for p in patients)
        assert facts["patients"] == len(patients)
        assert len(facts["phases"]) == (2 if split == "train" else 1)
        for phase in facts["phases"]:
            n = phase["sequences"]
            rows = (
                itertools.islice(train, n)
                if split == "train"
                else loader.eval_batches(tmp_path / "p", split, sequences=n)
            )
            batch = {key: np.concatenate(values) for key, values in _columns(rows).items()}
            pieces: dict[int, list] = {}
            for _, segment, content in segments_of(batch["tokens"], batch["segments"]):
                pieces.setdefault(segment - 1, []).append(content.tolist())
            assert len(pieces) == len(patients)
            assert all(tile(vocabulary, patient, pieces[p]) for p, patient in enumerate(patients))
            assert phase["real_tokens"] == facts["real_tokens"] == batch["mask"].sum()
            assert phase["segments"] == sum(map(len, pieces.values()))
            assert phase["fill"] == pytest.approx((batch["segments"] > 0).mean())
            assert phase["context_real"] == prefix * phase["segments"]
            assert sum(phase["files"].values()) == len(batch["tokens"]) == n
            assert phase["bytes"] == sum((tmp_path / "p" / name).stat().st_size for name in phase["files"])
    assert len(summary["splits"]["train"]["phases"][0]["files"]) == 2
    assert summary["unique_tokens"] == summary["splits"]["train"]["real_tokens"]


def _columns(batches):
    batches = list(batches)
    return {key: [batch[key] for batch in batches] for key in batches[0]}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_same_seed_same_bytes_whoever_packs(work, tmp_path):
    options = {"phases": 2, "sampling": "patient"}
    pack(work, tmp_path / "a", seed=1, **options)
    pack(work, tmp_path / "c", seed=2, **options)
    pack(work, tmp_path / "pool", seed=1, **options, runner=Runner(2))
    assert files(tmp_path / "a") == files(tmp_path / "pool")
    assert files(tmp_path / "a").keys() == files(tmp_path / "c").keys()
    assert files(tmp_path / "a") != files(tmp_path / "c")
    assert not list((tmp_path / "a").glob(".*.array_record"))


def test_goes_on_where_it_was_killed(work, tmp_path, monkeypatch):
    pack(work, tmp_path / "whole")
    write, left = packing.write_rows, 2

    def dies(*args):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return write(*args)

    with monkeypatch.context() as m:
        m.setattr(packing, "write_rows", dies)
        with pytest.raises(KeyboardInterrupt):
            pack(work, tmp_path / "p")
    calls = []
    monkeypatch.setattr(packing, "write_rows", lambda *args: calls.append(0) or write(*args))
    packing.build(work / "timelines", tmp_path / "p", context=32, block=8, seed=0)
    assert files(tmp_path / "p") == files(tmp_path / "whole")
    assert len(calls) == sum(len(timelines.files(work, split)) for split in timelines.SPLITS) - 2


def test_every_patient_gives_one_window_a_pass(work, tmp_path):
    summary = pack(work, tmp_path / "p", phases=3, sampling="patient")
    facts = summary["splits"]["train"]
    room = 33 - summary["context_tokens"]
    stream = iter(loader.train_batches(tmp_path / "p", sequences=1, seed=0))
    for phase in facts["phases"]:
        rows = itertools.islice(stream, phase["sequences"])
        batch = {key: np.concatenate(values) for key, values in _columns(rows).items()}
        per_patient = np.bincount(batch["segments"][:, 1:][batch["mask"]])[1:]
        assert len(per_patient) == facts["patients"]
        assert per_patient.min() >= 1 and per_patient.max() <= room
        assert per_patient.sum() == phase["real_tokens"]
    total = sum(len(p["tokens"]) for p in timelines.read(work, "train"))
    assert max(phase["real_tokens"] for phase in facts["phases"]) < facts["real_tokens"] < total
    held_out = summary["splits"]["validation"]
    assert held_out["real_tokens"] == sum(len(p["tokens"]) for p in timelines.read(work, "validation"))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**40), st.lists(st.floats(1e-3, 1), min_size=2, max_size=5), st.integers(1, 9), st.booleans())
def test_samples_are_nested_and_of_the_size_asked_for(seed, fractions, pieces, shuffled):
    """By the id alone: whoever else is there, in whatever order and number of files."""
    count = 4000
    ids = np.arange(10_000_000, 10_000_000 + 7 * count, 7)
    if shuffled:
        ids = np.random.default_rng(seed).permutation(ids)
    kept = [packing.sampled(ids, seed, fraction) for fraction in sorted([*fractions, 1])]
    assert kept[-1].all()
    for fraction, small, large in zip(sorted(fractions), kept, kept[1:], strict=False):
        assert (large | ~small).all()
        assert abs(small.sum() - fraction * count) < 6 * np.sqrt(fraction * (1 - fraction) * count) + 1
    parts = [packing.sampled(part, seed, fractions[0]) for part in np.array_split(ids, pieces)]
    np.testing.assert_array_equal(np.concatenate(parts), packing.sampled(ids, seed, fractions[0]))


def test_samples_are_none_of_the_splits_nor_of_the_shards():
    ids = np.arange(40_000)
    kept = packing.sampled(ids, 3, 0.25)
    assert (kept != packing.sampled(ids, 4, 0.25)).any()
    split, shard = events.assign(ids, 3, (0.5, 0.25, 0.25))
    for i in range(3):
        assert kept[split == i].mean() == pytest.approx(0.25, abs=0.02)
    first = (split == 0) & (shard == 0)
    assert kept[first].mean() == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("sampling", packing.SAMPLING)
def test_a_fraction_packs_its_patients_whole_and_no_others(work, tmp_path, sampling):
    vocabulary = timelines.vocabulary(work)
    patients = list(timelines.read(work, "train"))
    ids = np.array([patient["subject_id"] for patient in patients])
    whole = files(pack_into(work, tmp_path / "1", seed=1, phases=2, sampling=sampling))
    held_out = {name for name in whole if name.startswith(("validation", "test"))}
    for fraction in (0.5, 0.25, 0.1):
        out = pack_into(work, tmp_path / str(fraction), seed=1, phases=2, sampling=sampling, fraction=fraction)
        summary = json.loads((out / "packed.json").read_text())
        train, kept = summary["splits"]["train"], np.flatnonzero(packing.sampled(ids, 1, fraction))
        assert summary["fraction"] == fraction
        assert train["patients"] == len(kept) < len(ids)
        tokens = sum(len(patients[p]["tokens"]) for p in kept)
        assert summary["unique_tokens"] == train["real_tokens"] <= tokens
        assert sampling == "patient" or train["real_tokens"] == tokens
        stream = loader.train_batches(out, sequences=1, seed=0)
        for phase in train["phases"]:
            batch = {
                key: np.concatenate(v) for key, v in _columns(itertools.islice(stream, phase["sequences"])).items()
            }
            found: dict[int, list] = {}
            for _, segment, content in segments_of(batch["tokens"], batch["segments"]):
                found.setdefault(segment - 1, []).append(content.tolist())
            assert sorted(found) == kept.tolist(), "a segment id is the ordinal in the whole split"
            if sampling == "token":
                assert all(tile(vocabulary, patients[p], pieces) for p, pieces in found.items())
        made = files(out)
        assert {name: made[name] for name in held_out} == {name: whole[name] for name in held_out}
    again = pack_into(work, tmp_path / "again", seed=1, phases=2, sampling=sampling, fraction=1)
    assert files(again) == whole


def test_what_is_packed_of_everybody_stays_as_it_was(work, tmp_path):
    """Runs of an earlier version go on: rows, their order and their ids. The digest is from before fractions."""
    out = pack_into(work, tmp_path / "p", seed=1, phases=2)
    digest = hashlib.sha256()
    for path in sorted(out.glob("*.array_record")):
        for record in ArrayRecordReader(str(path)).read_all():
            digest.update(record)
    assert digest.hexdigest() == "634a73e3d26e1c1f9fc901b564b13f64bcc546d853183d1a06e9216b8dfb3080"


def pack_into(work, out, **options):
    pack(work, out, **options)
    return out


def test_a_fraction_may_leave_a_file_without_anybody(work, tmp_path):
    ids = np.array([patient["subject_id"] for patient in timelines.read(work, "train")])
    lowest = events.uniform(ids, packing._FRACTION_SEED).min()
    train = pack(work, tmp_path / "p", fraction=lowest + 1e-9)["splits"]["train"]
    assert train["patients"] == len(train["phases"][0]["files"]) == 1
    assert next(loader.train_batches(tmp_path / "p", sequences=4, seed=0))["mask"].any()


def test_a_fraction_of_nobody_is_told(work, tmp_path):
    for i, fraction in enumerate((0, -0.5, 1.5, float("nan"))):
        with pytest.raises(UserError, match=r"config\.grid\.fractions="):
            pack(work, tmp_path / str(i), fraction=fraction)
    with pytest.raises(UserError, match=r"config\.grid\.fractions: 1e-06 of the training patients are none"):
        pack(work, tmp_path / "few", fraction=1e-6)


def test_bad_settings_are_named(work, tmp_path):
    prefix = timelines.vocabulary(work).context_tokens
    with pytest.raises(UserError, match=f"context={prefix - 1} has no room"):
        pack(work, tmp_path / "a", context=prefix - 1)
    for name, value in (("block", 0), ("phases", 0), ("sampling", "patients")):
        with pytest.raises(UserError, match=f"data.{name}='?{value}"):
            pack(work, tmp_path / name, **{name: value})
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        pack(tmp_path, tmp_path / "c")
    summary = pack(work, tmp_path / "d", context=prefix)  # one timeline token a window
    (test,) = summary["splits"]["test"]["phases"]
    assert test["segments"] == test["real_tokens"]


def test_a_split_may_be_empty_until_somebody_reads_it(work, tmp_path):
    folder = tmp_path / "timelines"
    shutil.copytree(work / "timelines", folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] != "test"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    summary = pack(tmp_path, tmp_path / "p")
    assert summary["splits"]["test"] == {"patients": 0, "real_tokens": 0, "phases": []}
    assert next(loader.eval_batches(tmp_path / "p", "validation", sequences=4))["mask"].any()
    with pytest.raises(UserError, match="no test patients"):
        next(loader.eval_batches(tmp_path / "p", "test", sequences=4))


@pytest.mark.parametrize("width", [33, 70_000])
def test_blocks_are_as_documented_and_small(width, tmp_path):
    vocabulary, room = V, width - S
    part = cohort([room] * 20 + [room // 3] * 40)
    settings = settings_of(width - 1)
    _, rows = packing.assemble(vocabulary, part, 0, settings, np.random.default_rng(0))
    size = packing.write_rows(tmp_path / "x", rows, 100, 8)
    records = ArrayRecordReader(str(tmp_path / "x")).read_all()
    assert len(records) == -(-len(rows.tokens) // 8)
    done = 0
    for record in records:
        n = min(8, len(rows.tokens) - done)
        tokens = np.frombuffer(record, "<u2", n * width).reshape(n, width)
        np.testing.assert_array_equal(tokens, rows.tokens[done : done + n])
        kind = "<u2" if width < 65_536 else "<u4"
        count = (len(record) - tokens.nbytes) // (4 + np.dtype(kind).itemsize)
        ids = np.frombuffer(record, "<u4", count, tokens.nbytes)
        lengths = np.frombuffer(record, kind, count, tokens.nbytes + 4 * count)
        assert np.isin(ids, [0, *range(101, 161)]).all()
        segments = np.repeat(ids, lengths).reshape(n, width)
        assert ((segments > 0) == (tokens > 0)).all()
        done += n
    if width > 1000:
        assert size < 2.1 * rows.tokens.size
