"""The `packed/t<T>/` artifact: timelines cut into windows and packed into rows of T+1 tokens, seeded."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from ehr_scaling.artifacts import write_json, writing
from ehr_scaling.data import shards
from ehr_scaling.data.events import events
from ehr_scaling.data.packing.packed import FILE, run_dtype
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.timelines.timelines import SPLITS
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError

VERSION = 1  # of the rows that are made of timelines: raise it with every change to them
SAMPLING = ("token", "patient")
_FILL = 0.985  # below it, windows of the emptiest rows are cut; a little above the 0.98 that is promised
_FRACTION_SEED = 0xF7  # so that a fraction is not drawn by the number that drew the split, nor by the shard's


class Windows(NamedTuple):
    """W windows of one shard: window w is its prefix and then tokens[starts[w] : starts[w] + lengths[w]]."""

    owners: np.ndarray  # int64 (W,), patient of the shard
    starts: np.ndarray  # int64 (W,), row of the shard's tokens
    lengths: np.ndarray  # int64 (W,), timeline tokens: 1 up to T+1−S

    def take(self, rows: np.ndarray) -> "Windows":
        return Windows(*(field[rows] for field in self))


class Rows(NamedTuple):
    """Rows of tokens, and the runs of one patient or of padding in them, in order; none goes on in the next row."""

    tokens: np.ndarray  # (n, T+1) of the token dtype
    owners: np.ndarray  # int64 (R,), patient of the shard; −1 is padding
    lengths: np.ndarray  # int64 (R,), tokens


def build(
    folder: Path,
    out: Path,
    *,
    context: int,
    block: int,
    seed: int,
    phases: int = 1,
    sampling: str = "token",
    fraction: float = 1.0,
    runner: shards.Runner | None = None,
) -> dict[str, Any]:
    """Pack the timelines in `folder` into the folder `out`, file by file, as units of `shards`.

    A window is the S tokens of static context, as they were at its start, and up to T+1−S tokens of the timeline.
    Rows of T+1 tokens are filled with whole windows by best fit (`arrange`), and where that leaves too much padding
    some windows are cut again (`pour`). No patient meets itself in a row. Rows are shuffled by the seed within their
    file, which is a random sample of the patients; nothing depends on the number of workers.

    A file of timelines becomes one ArrayRecord file a phase. A record is a block of K rows (the last of a file: of the
    rows that are left), all little endian: tokens [K, T+1]; then the R runs of equal segment id in these rows, in
    order, a run ending with its row at the latest: ids uint32 [R], lengths uint16 [R] (uint32 from T+1 = 65,536 up).
    A segment id is 1 + the ordinal of the patient in its split; 0 is padding, which only follows a row's segments.

    Args: context, T; block, K; seed; phases, P: in phase p > 0 of the train split the windows of the patients who need
      several begin elsewhere, so that pass i over the data, which reads phase i mod P, does not repeat those of the
      pass before; it takes P times the disk. sampling, of the train split: "token", every timeline token is a target
      once a pass; "patient", every patient gives one window a pass, drawn from its windows of that phase with equal
      probability, so that long records weigh no more than short ones; fraction, share of the patients of the train
      split who are packed, nested (`sampled`); the other splits are whole, and the same whatever it is.
    Returns: the summary that is also `packed.json`; of each split: patients, real_tokens (timeline tokens that are a
      target in at least one phase), phases (none where there are no patients); of each phase: sequences (rows),
      segments, real_tokens (targets of a pass), context_real (prefix tokens), fill (share of the rows' positions in
      use), bytes (of its files), files {name: rows}; measured_on, see `timelines.measured_on`.
    Raises: UserError when T has no room for the prefix, a setting is not one, or nobody is in the fraction, or as
      `timelines.read_file` does.
    """
    vocabulary = timelines.vocabulary(folder)
    prefix = vocabulary.context_tokens
    if context < prefix:
        raise UserError(
            f"--config.data.context={context} has no room: {prefix} tokens of static context come first, take at "
            f"least {4 * prefix}"
        )
    for name, value in (("block", block), ("phases", phases)):
        if value < 1:
            raise UserError(f"--config.data.{name}={value}: take a whole number from 1 up")
    if sampling not in SAMPLING:
        raise UserError(f"--config.data.sampling={sampling!r}: take one of {', '.join(SAMPLING)}")
    check_fraction(fraction)
    settings = {
        "context": context,
        "block": block,
        "seed": seed,
        "phases": phases,
        "sampling": sampling,
        "fraction": float(fraction),
    }
    units: list[tuple[str, int, int]] = []  # split, file, patients of the split in the files before
    for split in SPLITS:
        counts = timelines.files(folder, split)
        units += [(split, i, before) for i, before in enumerate([0, *itertools.accumulate(counts)][:-1])]
    items = [(folder, out, *unit, settings) for unit in units]
    records = [_record(out, split, i) for split, i, _ in units]
    parts = shards.run(pack, items, records, runner or shards.Runner(), "pack")
    summary: dict[str, Any] = {
        **settings,
        "vocab_size": len(vocabulary.tokens),
        "token_dtype": vocabulary.dtype.name,
        "context_tokens": prefix,
        "splits": {
            split: _total([part for part, unit in zip(parts, units, strict=True) if unit[0] == split], context + 1)
            for split in SPLITS
        },
    }
    train = summary["splits"]["train"]
    if fraction < 1 and not train["patients"]:
        raise UserError(f"--config.grid.fractions: {fraction} of the training patients are none, take more")
    summary["unique_tokens"] = train["real_tokens"]
    summary["measured_on"] = timelines.measured_on(folder)
    write_json(out / FILE, summary)
    return summary


def check_fraction(fraction: float) -> None:
    """Raises: UserError for what is no share of the patients."""
    if not 0 < fraction <= 1:
        raise UserError(f"--config.grid.fractions={fraction}: take shares of the patients, over 0 and up to 1")


def sampled(subject_ids: np.ndarray, seed: int, fraction: float) -> np.ndarray:
    """Which patients are in a sample of this fraction: bool (P,), by a hash of their ids and the seed.

    Samples of one seed are nested: who is in one is in every larger one, whatever the number of files.
    """
    if fraction == 1:
        return np.ones(len(subject_ids), bool)
    return events.uniform(subject_ids, seed + _FRACTION_SEED) < fraction


def _record(out: Path, split: str, i: int) -> Path:
    return out / events.PARTS / f"{split}-{i:05d}.json"


def _total(parts: list[dict[str, Any]], width: int) -> dict[str, Any]:
    """Facts of a split from those of its files."""
    parts = [part for part in parts if part["patients"]]
    phases = []
    for files in zip(*(part["phases"] for part in parts), strict=True):
        phase: dict[str, Any] = {key: sum(p[key] for p in files) for key in _COUNTS}
        used = phase["real_tokens"] + phase["context_real"]
        phase["fill"] = used / (phase["sequences"] * width)
        phase["files"] = {p["name"]: p["sequences"] for p in files}
        phases.append(phase)
    return {
        "patients": sum(part["patients"] for part in parts),
        "real_tokens": sum(part["real_tokens"] for part in parts),
        "phases": phases,
    }


_COUNTS = ("sequences", "segments", "real_tokens", "context_real", "bytes")


def pack(folder: str, out: str, split: str, i: int, first: int, settings: dict[str, Any]) -> None:
    """One unit: file i of a split, all its phases. Args: first, patients of the split in the files before."""
    record = _record(Path(out), split, i)
    shards.once(record, lambda: _pack(Path(folder), Path(out), split, i, first, settings))


def _pack(folder: Path, out: Path, split: str, i: int, first: int, settings: dict[str, Any]) -> dict[str, Any]:
    vocabulary, part = timelines.vocabulary(folder), timelines.read_file(folder, split, i)
    if split != "train":  # a loss is measured on every token, in windows that are always the same
        settings = {**settings, "phases": 1, "sampling": "token", "fraction": 1.0}
    kept = sampled(part.subject_ids, settings["seed"], settings["fraction"])
    if not kept.any():
        return {"patients": 0, "real_tokens": 0, "phases": []}
    seen = np.zeros(len(part.tokens) + 1, np.int64)
    phases = []
    for phase in range(settings["phases"]):
        # Random numbers of its own for each file and phase: nothing depends on what was packed before.
        rng = np.random.default_rng([settings["seed"], list(SPLITS).index(split), i, phase])
        windows, rows = assemble(vocabulary, part, phase, settings, rng, kept)
        seen[windows.starts] += 1
        seen[windows.starts + windows.lengths] -= 1
        name = f"{split}-{phase}-{i:05d}.array_record"
        phases.append(
            {
                "name": name,
                "sequences": len(rows.tokens),
                "segments": len(windows.starts),
                "real_tokens": int(windows.lengths.sum()),
                "context_real": len(windows.starts) * vocabulary.context_tokens,
                "bytes": write_rows(out / name, rows, first, settings["block"]),
            }
        )
    real = int(np.count_nonzero(np.cumsum(seen)))
    return {"patients": int(kept.sum()), "real_tokens": real, "phases": phases}


def assemble(
    vocabulary: Vocabulary,
    part: timelines.Timelines,
    phase: int,
    settings: dict[str, Any],
    rng: np.random.Generator,
    kept: np.ndarray | None = None,
) -> tuple[Windows, Rows]:
    """The windows of some patients in one phase, and the rows they make, shuffled.

    Args: settings, as `build` has; kept, bool (P,), whose windows are packed, by default everybody's. A patient's are
      the same whoever else is kept, until some are cut again to fill the rows.
    """
    width, prefix = settings["context"] + 1, vocabulary.context_tokens
    shifts = starting_shifts(len(part.subject_ids), width - prefix, phase, settings["phases"], rng)
    windows = cut(part.offsets, width - prefix, shifts)
    if settings["sampling"] == "patient":
        windows = one_each(windows, rng)
    if kept is not None:
        windows = windows.take(kept[windows.owners])
    rows, columns = arrange(windows.lengths + prefix, windows.owners, width, rng)
    windows, rows, columns = pour(windows, rows, columns, prefix, width, rng)
    rows = rng.permutation(rows.max() + 1)[rows]
    times = static_context.start_times(vocabulary, part.tokens, part.times, windows.starts)
    contexts = static_context.contexts(vocabulary, part, windows.owners, times)
    return windows, lay_out(part.tokens, windows, contexts, rows, columns, width)


def starting_shifts(patients: int, room: int, phase: int, phases: int, rng: np.random.Generator) -> np.ndarray:
    """How much shorter than `room` the first of several windows of each patient is: int64 (patients,).

    0 in phase 0; in phase p, drawn for each patient between p/P and (p+1)/P of the room, so that no two phases share a
    boundary. One shift for all would make thousands of windows of one size, which pack badly.
    """
    if phase == 0:
        return np.zeros(patients, np.int64)
    return ((phase + rng.random(patients)) / phases * room).astype(np.int64)


def cut(offsets: np.ndarray, room: int, shifts: np.ndarray) -> Windows:
    """Windows of up to `room` timeline tokens of the patients between `offsets` (P+1,), in order.

    All windows of a patient but the first, which is `shifts` (P,) tokens shorter, and the last have `room` tokens. A
    patient who fits in one window stays whole whatever the shift: a cut would only take context away.
    """
    sizes = np.diff(offsets)
    shifts = np.where(sizes > room, shifts, 0)
    many = -(-(sizes + shifts) // room)
    owners = np.repeat(np.arange(len(sizes)), many)
    ends = (1 + np.arange(len(owners)) - np.repeat(np.cumsum(many) - many, many)) * room - shifts[owners]
    starts = np.maximum(ends - room, 0)
    return Windows(owners, offsets[owners] + starts, np.minimum(ends, sizes[owners]) - starts)


def one_each(windows: Windows, rng: np.random.Generator) -> Windows:
    """One of the windows of each patient, each with equal probability. Windows of a patient stand together."""
    first = np.flatnonzero(np.diff(windows.owners, prepend=-1))
    many = np.diff(first, append=len(windows.owners))
    return windows.take(first + rng.integers(many))


def arrange(
    sizes: np.ndarray, owners: np.ndarray, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Row and first column of windows of `sizes` (W,) tokens, at most `width`, packed best fit in falling size.

    Two windows of one owner (W,) never share a row; an owner has at most two that do not fill one. Which of the
    windows of one size shares a row with which is drawn from `rng`.
    O(W log W + W·width/64): the rows that are open stand in one stack for each size of their remaining room.
    """
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    rows = np.empty(len(sizes), np.int64)
    columns = np.zeros(len(sizes), np.int64)
    full = int((sizes == width).sum())
    rows[order[:full]] = np.arange(full)
    n_rows = full
    stacks: list[list[int]] = [[] for _ in range(width + 1)]
    open_rooms = 0  # bit r is set when stacks[r] holds a row: the best fit is the lowest bit from the size up

    def push(row: int, room: int) -> None:
        nonlocal open_rooms
        if room:
            stacks[room].append(row)
            open_rooms |= 1 << room

    def pop(size: int) -> tuple[int, int]:
        nonlocal open_rooms, n_rows
        if not (fitting := open_rooms >> size):
            n_rows += 1
            return n_rows - 1, width
        room = size + (fitting & -fitting).bit_length() - 1
        row = stacks[room].pop()
        if not stacks[room]:
            open_rooms ^= 1 << room
        return row, room

    row_of, column_of = [], []
    placed: dict[int, int] = {}  # owner: row
    for size, owner in zip(sizes[order[full:]].tolist(), owners[order[full:]].tolist(), strict=True):
        row, room = pop(size)
        if placed.get(owner) == row:
            same_row = row, room
            row, room = pop(size)
            push(*same_row)
        placed[owner] = row
        row_of.append(row)
        column_of.append(width - room)
        push(row, room - size)
    rows[order[full:]] = row_of
    columns[order[full:]] = column_of
    return rows, columns


def pour(
    windows: Windows, rows: np.ndarray, columns: np.ndarray, prefix: int, width: int, rng: np.random.Generator
) -> tuple[Windows, np.ndarray, np.ndarray]:
    """The arrangement with 1.5 % of padding at most, or nearly: windows of the emptiest rows are cut again.

    The windows of the 2, 4, 8, … emptiest rows, as few as it takes, are laid end to end in an order drawn from `rng`;
    what does not fit at the end of a row goes on in the next one, behind a prefix of its own. So a cut costs `prefix`
    positions, and the tokens after it the sight of those before; best fit first makes it one that few rows need. A
    shard of a few dozen rows may miss the mark by one.
    """
    used = np.bincount(rows, windows.lengths + prefix)
    emptiest = np.argsort(used, kind="stable")
    best, n = (windows, rows, columns), len(used)
    for count in (min(2**i, len(used)) for i in range(1, len(used).bit_length() + 1)):
        if used.sum() >= _FILL * width * n:
            break
        chosen = np.zeros(len(used), bool)
        chosen[emptiest[:count]] = True
        loose, number = chosen[rows], np.cumsum(~chosen) - 1
        again = windows.take(rng.permutation(np.flatnonzero(loose)))
        new = _end_to_end(again, prefix, width)
        new[3] += len(used) - count
        if new[3].max() + 1 < n:
            n = int(new[3].max()) + 1
            kept = (*windows.take(~loose), number[rows[~loose]], columns[~loose])
            joined = [np.concatenate(pair) for pair in zip(kept, new, strict=True)]
            best = Windows(*joined[:3]), joined[3], joined[4]
    return best


def _end_to_end(windows: Windows, prefix: int, width: int) -> np.ndarray:
    """Owners, starts, lengths, rows and columns (5, pieces) of windows laid one after another, cut where a row ends."""
    row = column = 0
    in_row: set[int] = set()
    pieces: list[tuple[int, int, int, int, int]] = []
    for owner, start, left in zip(*(field.tolist() for field in windows), strict=True):
        while left:
            size = min(left, width - column - prefix)
            # A piece shorter than its prefix is not worth the cut.
            if size < min(left, prefix) or owner in in_row:
                row, column, in_row = row + 1, 0, set()
                continue
            pieces.append((owner, start, size, row, column))
            start, left, column = start + size, left - size, column + prefix + size
            in_row.add(owner)
    return np.array(pieces, np.int64).T


def lay_out(
    source: np.ndarray, windows: Windows, contexts: np.ndarray, rows: np.ndarray, columns: np.ndarray, width: int
) -> Rows:
    """The rows that windows make. Args: source, (n,) tokens of the timelines; contexts, (W, S) prefixes."""
    n, prefix = int(rows.max()) + 1, contexts.shape[1]
    tokens = np.zeros((n, width), source.dtype)  # 0 is PAD
    flat, begin = tokens.reshape(-1), rows * width + columns
    flat[begin[:, None] + np.arange(prefix)] = contexts
    places = zip((begin + prefix).tolist(), windows.starts.tolist(), windows.lengths.tolist(), strict=True)
    for to, start, length in places:
        flat[to : to + length] = source[start : start + length]
    lengths = windows.lengths + prefix
    used = np.bincount(rows, lengths, n).astype(np.int64)
    short = np.flatnonzero(used < width)
    order = np.argsort(np.concatenate([begin, short * width + used[short]]))
    owners = np.concatenate([windows.owners, np.full(len(short), -1)])
    return Rows(tokens, owners[order], np.concatenate([lengths, width - used[short]])[order])


def write_rows(path: Path, rows: Rows, first: int, block: int) -> int:
    """Write blocks of rows. Args: first, ordinal of patient 0 in the split. Returns the bytes of the file."""
    n, width = rows.tokens.shape
    tokens = rows.tokens.astype(rows.tokens.dtype.newbyteorder("<"), copy=False)
    bounds = np.searchsorted(np.cumsum(rows.lengths), np.arange(0, n + block, block) * width, side="right")
    ids = np.where(rows.owners < 0, 0, 1 + first + rows.owners).astype("<u4")
    lengths = rows.lengths.astype(run_dtype(width))
    with writing(path) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1,zstd:1")
        for i, begin in enumerate(range(0, n, block)):
            runs = slice(bounds[i], bounds[i + 1])
            writer.write(tokens[begin : begin + block].tobytes() + ids[runs].tobytes() + lengths[runs].tobytes())
        writer.close()
    return path.stat().st_size
