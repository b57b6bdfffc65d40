"""Which windows a model has read, what others share of them, and what it says of them: against the plain way."""

import itertools
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from ehr_scaling import artifacts, storage, study
from ehr_scaling.audit import asking, sharing, statistics, whom, windows
from ehr_scaling.data.packing import loader, packing
from ehr_scaling.data.packing.packed import FILE
from ehr_scaling.data.timelines import timelines
from ehr_scaling.layout import Layout
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import loop
from tests import buckets, small

SILENT = lambda n: None  # noqa: E731


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    return workdir, small.prepare(workdir)


@pytest.fixture(scope="module")
def model(prepared):
    """Of random weights, with mixing as the recipes have it."""
    record = prepared[1]
    cell = small.cell(record, {"model.mixing": "conv"})
    from ehr_scaling.training.setup import model_of

    transformer = model_of(cell)
    start = jax.jit(transformer.init)(jax.random.key(0), np.zeros((1, 4), np.int32), np.ones((1, 4), np.int32))
    rng = np.random.default_rng(1)
    return transformer, jax.tree.map(lambda x: x + rng.normal(0, 0.2, x.shape).astype(np.float32), start["params"])


def packed(workdir):
    return Layout(workdir).packed(64)


def test_windows_are_those_of_the_rows(prepared):
    """Each is a run of one patient: the prefix, and tokens that follow each other in a timeline; all rows are there."""
    workdir, record = prepared
    found = windows.of_split(packed(workdir), "train")
    phase = record["summary"]["splits"]["train"]["phases"][0]
    assert len(found.rows) == phase["segments"]
    assert found.lengths.sum() == phase["real_tokens"] + phase["context_real"]
    records = list(timelines.read(workdir, "train"))
    prefix, tokens = record["summary"]["context_tokens"], windows.read(packed(workdir), "train", found)
    for k in range(0, len(found.rows), 7):
        own = tokens[k, prefix : found.lengths[k]]
        whole = records[found.patients[k]]["tokens"]
        assert any((whole[i : i + len(own)] == own).all() for i in range(len(whole) - len(own) + 1))
        assert not tokens[k, found.lengths[k] :].any()


def test_one_window_stands_for_a_patient(prepared):
    every = windows.of_split(packed(prepared[0]), "train")
    chosen = windows.one_each(every)
    assert chosen.patients.tolist() == sorted(set(every.patients.tolist()))
    for k in range(0, len(chosen.rows), 11):
        assert chosen.lengths[k] == every.lengths[every.patients == chosen.patients[k]].max()
    drawn = windows.one_each(every, np.random.default_rng(0))
    assert drawn.patients.tolist() == chosen.patients.tolist() and (drawn.rows != chosen.rows).any()


@pytest.mark.parametrize("steps", [3, 500])
def test_times_read_are_those_of_training(prepared, steps):
    """By the stream that a run of so many steps trains on; the shorter is a part of a pass, the longer several."""
    folder = packed(prepared[0])
    rows = [row for b in loader.eval_batches(folder, "train", sequences=1) for row in b["tokens"]]
    stream = loader.train_batches(folder, sequences=4, seed=5)
    read = [row.tobytes() for batch in itertools.islice(stream, steps) for row in batch["tokens"]]
    stream.close()
    (times,) = loader.times_read(folder, seed=5, rows=4 * steps)
    assert times.tolist() == [read.count(row.tobytes()) for row in rows]
    assert times.sum() == 4 * steps and (times == 0).any() == (steps == 3)


@pytest.mark.parametrize("passes", [0.5, 3.5])
def test_times_read_are_those_of_all_phases(prepared, tmp_path_factory, passes):
    """By the tokens of the stream: a patient who fits in one window has the same one in every phase, a pass each."""
    folder = tmp_path_factory.getbasetemp() / "phases"
    if not folder.exists():
        packing.build(prepared[0] / "timelines", folder, context=64, block=4, seed=0, phases=3)
    rows = [len(times) for times in loader.times_read(folder, seed=5, rows=0)] * 2
    whole = int(passes)
    count = sum(rows[:whole]) + round((passes - whole) * rows[whole])
    said = windows._exposure(folder, 5, count)
    every = [windows.of_split(folder, "train", phase) for phase in range(3)]
    single = np.all([np.bincount(w.patients) <= 1 for w in every], axis=0)
    stream, read = loader.train_batches(folder, sequences=1, seed=5), np.zeros(len(single))
    for batch in itertools.islice(stream, count):
        read[np.unique(batch["segments"][batch["segments"] > 0]) - 1] += 1
    stream.close()
    alone = single[said.windows.patients]
    assert alone.sum() > 20 and (said.times[alone] == read[said.windows.patients[alone]]).all()
    assert (said.times >= whole).all() and (said.times <= whole + 1).all()
    assert np.average(said.times, weights=said.windows.lengths) == pytest.approx(passes, abs=0.05)
    assert set(said.seen) == set(np.flatnonzero(read))


def test_what_others_share(prepared):
    workdir, record = prepared
    size, records = record["summary"]["vocab_size"], list(timelines.read(workdir, "train"))
    seen = np.arange(0, len(records), 2)
    counts = sharing.patients_by_token(workdir, seen, size)
    having = [{int(t) for t in records[p]["tokens"]} for p in seen]
    assert counts.tolist() == [sum(t in tokens for tokens in having) for t in range(size)]

    texts = [" ".join(["", *map(str, r["tokens"]), ""]) for r in records]
    runs = np.array([records[p]["tokens"][i : i + 4] for p in (0, 1, 2, 3, 4) for i in (0, 5, 9)], np.int64)
    runs = np.concatenate([runs, runs[:1], [[1, 1, 1, 1]]])  # twice the same, and one that is nowhere
    wanted = [sum(" ".join(["", *map(str, run), ""]) in texts[p] for p in seen) for run in runs]
    assert sharing.patients_by_run(workdir, seen, runs, size).tolist() == wanted
    assert wanted[-1] == 0 and max(wanted) > 1

    few = sharing.rarest(workdir, "train", np.arange(len(records)), counts, 2)
    least = [min((counts[t] for t in r["tokens"] if 0 < counts[t] <= 2), default=0) for r in records]
    assert sorted(few) == [p for p in range(len(records)) if least[p]]
    assert [least[p] for p in few] == sorted(least[p] for p in few) and len(few) < len(records)


def test_answers_are_those_of_the_model(prepared, model):
    """Whatever the batch and the padding: its own losses of a window alone, and the rank among its logits."""
    transformer, params = model
    every = windows.of_split(packed(prepared[0]), "test")
    chosen = every.take(np.argsort(every.lengths, kind="stable")[:: len(every.rows) // 3])
    tokens = windows.read(packed(prepared[0]), "test", chosen)
    told = []
    found = asking.answers(transformer, params, tokens, chosen.lengths, told.append)
    assert sum(told) == chosen.lengths.sum() and len(set(chosen.lengths.tolist())) > 1

    @jax.jit
    def alone(params, tokens, segments):
        losses = transformer.apply({"params": params}, tokens, segments, method=Transformer.losses)
        return losses, transformer.apply({"params": params}, tokens[:, :-1], segments[:, :-1])[0]

    for k, n in enumerate(chosen.lengths):
        own, one = tokens[k : k + 1, :n], np.ones((1, n), np.int32)
        losses, logits = alone(params, own, one)
        np.testing.assert_allclose(found.losses[k, : n - 1], losses[0], atol=2e-5)
        ranks = [(row > row[t]).sum() for row, t in zip(np.asarray(logits)[0], own[0, 1:], strict=True)]
        assert np.abs(found.ranks[k, : n - 1] - ranks).max() <= 1 and not found.losses[k, n - 1 :].any()


def test_continuations_are_the_likeliest_tokens(prepared, model):
    """By the decoder with its cache as by the model on all that stands there, token by token."""
    transformer, params = model
    chosen = windows.one_each(windows.of_split(packed(prepared[0]), "test")).take(np.arange(5))
    prompts = windows.read(packed(prepared[0]), "test", chosen)[:, :20]
    found = asking.continuations(transformer, params, prompts, 10, SILENT)
    whole = np.concatenate([prompts, found], axis=1)  # greedy is right token by token where each is, behind the others
    logits = jax.jit(lambda p, t: transformer.apply({"params": p}, t, np.ones_like(whole))[0])(params, whole)
    assert (np.argmax(logits, -1)[:, 19:-1] == found).all() and len(np.unique(found)) > 3


def test_edits():
    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, (2, 40, 5))
    assert asking.edits(a, b).tolist() == [distance(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert asking.edits(np.array([[1, 2, 3, 4]]), np.array([[9, 1, 2, 3]])).tolist() == [2]


def test_who_is_asked_about(prepared):
    """Members are those whose window was read; the others never were, and the reference has read neither."""
    workdir, record = prepared
    cells = {
        steps: small.cell(record, {"training.min_steps": 2}, passes=passes, budget=None, seed=seed)
        for steps, passes, seed in (("part", 0.1, 1), ("other part", 0.1, 2), ("whole", 3.0, 3))
    }
    others = [(2.0, cells["part"]), (1.0, cells["other part"]), (0.5, cells["whole"])]
    choice = whom.choose(workdir, cells["whole"], others, 0)
    assert choice.source == whom.TEST and choice.times.min() >= 2
    assert len(choice.members.windows.patients) == record["summary"]["splits"]["train"]["patients"]
    assert choice.reference == (cells["other part"], False)  # of those that have not read most of them the best
    unread = choice.unread(workdir, choice.members)
    read = windows.exposure(workdir, cells["other part"]).seen
    assert set(choice.members.windows.patients[~unread]) == set(read) and 0.4 < unread.mean() < 1

    alone = whom.choose(workdir, cells["part"], [(0.5, cells["whole"]), (1.0, cells["part"])], 0)
    assert alone.reference == (cells["whole"], True)  # there is no better one, and it says so
    assert whom.choose(workdir, cells["part"], [(1.0, cells["part"])], 0).reference is None


@pytest.fixture(scope="module")
def fractions(tmp_path_factory):
    """Patients of one window to twenty; the packed data of 0.4 of them, and of all; and cells of either."""
    workdir = tmp_path_factory.mktemp("fractions")
    changes = {"data.patients": 1500, "data.splits": (0.6, 0.05, 0.35), "grid.fractions": (0.4,)}
    whole = study.prepare(small.config(**changes), workdir)
    part = artifacts.record(Layout(workdir).packed(64, 0.4))
    few = {"training.min_steps": 2}
    cells = [
        small.cell(part if fraction < 1 else whole, few, passes=passes, fraction=fraction, budget=None, seed=seed)
        for seed, (fraction, passes) in enumerate([(0.4, 0.3), (0.4, 2.0), (1.0, 0.3), (1.0, 0.1)])
    ]
    return workdir, cells


@pytest.mark.parametrize(("of", "source"), [(0, whom.OUTSIDE), (1, whom.OUTSIDE), (2, whom.TEST)])
def test_how_long_a_record_is_does_not_tell_who_was_read(fractions, monkeypatch, of, source):
    """A model that has learnt nothing of its patients may still find long records easier: of members and the others,
    and of those that the reference has not read, one window in each order is as long, and one patient has as many."""
    monkeypatch.setattr(whom, "ENOUGH", 20)
    workdir, cells = fractions
    choice = whom.choose(workdir, cells[of], [(1.0, cells[3])], 0)
    assert choice.source == source and choice.reference == (cells[3], False)
    sides = (choice.members, choice.held_out)
    in_fraction = np.unique(windows.exposure(workdir, cells[of]).windows.patients)
    if source == whom.OUTSIDE:
        assert choice.held_out.split == "train" and not np.isin(choice.held_out.windows.patients, in_fraction).any()
    else:
        assert choice.held_out.split == "test"
    unread = [choice.unread(workdir, side) for side in sides]
    assert not np.isin(choice.members.windows.patients[unread[0]], windows.exposure(workdir, cells[3]).seen).any()
    number = [np.bincount(windows.of_split(s.packed, s.split).patients)[s.windows.patients] for s in sides]
    for values in ([side.windows.lengths for side in sides], number):
        for kept in ([...] * 2, unread):
            of_members, of_others = (v[k] for v, k in zip(values, kept, strict=True))
            told = statistics.attack(of_members, of_others, generated=True, draws=20, seed=0)
            assert abs(told["auroc"] - 0.5) < 3 * told["error"] and told["error"] < 0.04
    least = [share.mean() for share in unread]
    assert min(least) > 0.4 and max(least) < 0.9


def test_of_a_model_that_started_from_another_the_test_patients_are_held_out(fractions, monkeypatch):
    """Which training patients that one has read is not known, nor what it has not read as a reference."""
    monkeypatch.setattr(whom, "ENOUGH", 20)
    workdir, cells = fractions
    started = replace(cells[1], init="0123456789abcdef").named()
    assert whom.choose(workdir, started, [(1.0, cells[3])], 0).source == whom.TEST
    choice = whom.choose(workdir, cells[1], [(1.0, replace(cells[3], init="0123456789abcdef").named())], 0)
    assert choice.source == whom.OUTSIDE and choice.reference.saw_members


def test_what_is_chosen_does_not_depend_on_the_machine(fractions, monkeypatch, tmp_path):
    """Of a bucket, rows that this machine has not yet are brought; a folder that has come in part is not there."""
    monkeypatch.setattr(whom, "ENOUGH", 20)
    workdir, cells = fractions
    url, chosen = buckets.url("file", tmp_path), []
    for machine in ("one", "two", "three"):
        monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / machine))
        mirror = storage.local(url)
        if machine == "one":
            shutil.copytree(workdir / "packed", mirror / "packed")
            storage.store(mirror / "packed")
        if machine == "three":
            storage.forget(Layout(mirror).packed(64))
            shutil.copytree(workdir / "packed" / "t64", mirror / "packed" / "t64")
            (mirror / "packed" / "t64" / FILE).unlink()
        choice = whom.choose(mirror, cells[0], [(1.0, cells[3])], 0)
        chosen.append((choice.source, choice.reference.saw_members))
    assert chosen == [(whom.OUTSIDE, False), (whom.OUTSIDE, False), (whom.TEST, True)]


@pytest.mark.nightly
def test_a_run_reads_what_is_said_of_it(tmp_path):
    """Of a trained cell: its loop seeks and batches as `times_read` supposes; checked by the rows it was given."""
    packed_record, given = small.prepare(tmp_path), []
    cell = small.cell(packed_record, seed=4)
    batches = loader.Batches.__next__

    def spy(stream):
        batch = batches(stream)
        given.append(batch["tokens"].reshape(-1, 65).copy())
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader.Batches, "__next__", spy)
        loop.job([cell], tmp_path, small.silent)
    rows = [row for b in loader.eval_batches(Layout(tmp_path).packed(64), "train", sequences=1) for row in b["tokens"]]
    read = np.concatenate(given)[: cell.steps * cell.batch_sequences]
    index = {row.tobytes(): k for k, row in enumerate(rows)}
    times = np.bincount([index[row.tobytes()] for row in read], minlength=len(rows))
    said = windows.exposure(tmp_path, cell)
    assert (said.times == times[said.windows.rows]).all()
