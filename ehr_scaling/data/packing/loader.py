"""Batches from `packed/t<T>/`: resumable and endless for training, fixed for evaluation."""

import bisect
import contextlib
import functools
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import logging

from ehr_scaling.artifacts import read_json
from ehr_scaling.data import array_records
from ehr_scaling.data.deadline import Deadline
from ehr_scaling.data.packing.packed import FILE, run_dtype
from ehr_scaling.errors import UserError, first_line, of_system

Batch = dict[str, np.ndarray]
_READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
_OPEN = 16_384  # files open at once, at most: to open one takes as long as to read ten blocks of it
_STREAMS = 4
_SPARE = 512  # files that this process may need beside them


def targets_mask(segments: np.ndarray, context_tokens: int) -> np.ndarray:
    """Which targets count in the loss: bool (n, T) from segment ids (n, T+1) and the prefix length S.

    The target in column j of a row counts when it is no padding and lies at position S or later of its segment:
    segments[:, j] > 0 and segments[:, j] == segments[:, j − S]. Then its input, one column earlier, is of the same
    segment too (S ≥ 1). A segment is contiguous and its id occurs once in a row, which packing guarantees. The
    same three lines make the mask in JAX.
    """
    mask = segments[:, 1:] > 0
    mask[:, : context_tokens - 1] = False
    mask[:, context_tokens - 1 :] &= segments[:, context_tokens:] == segments[:, :-context_tokens]
    return mask


class _Piece(NamedTuple):
    """Rows [first, last) of a block."""

    block: int
    first: int
    last: int


class _Block(NamedTuple):
    """n rows, and their runs of equal segment id."""

    tokens: np.ndarray  # (n, T+1) of the token dtype
    ids: np.ndarray  # int64 (R,)
    lengths: np.ndarray  # int64 (R,)
    ends: np.ndarray  # int64 (R,), their running sum


class _Rows:
    """Random access to the rows of a split, by block. Several threads may use it at once.

    skip: whether a block that cannot be read counts as empty rows, its file named in a warning, instead of an error;
      None where that is no choice. streams: of this process that read at once.
    """

    def __init__(self, packed: Path, split: str, skip: bool | None = None, streams: int = 1) -> None:
        facts = read_json(packed / FILE)
        if "phases" not in facts:
            raise UserError(f"{packed} was packed by an older version: {_again(packed / FILE)}")
        if split not in facts["splits"]:
            raise UserError(f"there is no split {split!r} in {packed}: take one of {', '.join(facts['splits'])}")
        phases = [phase["files"] for phase in facts["splits"][split]["phases"]]
        if not phases:
            raise UserError(f"{packed} has no {split} patients: change --config.data.splits and prepare again")
        self.width, self.prefix = facts["context"] + 1, facts["context_tokens"]
        self._dtype = np.dtype(facts["token_dtype"]).newbyteorder("<")
        self._paths = [packed / name for files in phases for name in files]
        rows = np.array([count for files in phases for count in files.values()])
        many = -(-rows // facts["block"])
        self._file = np.repeat(np.arange(len(rows)), many)
        self._nth = np.arange(len(self._file)) - np.repeat(np.cumsum(many) - many, many)
        self.sizes = np.minimum(facts["block"], rows[self._file] - self._nth * facts["block"])  # rows of each block
        last = np.cumsum([len(files) for files in phases])
        self.phases = [  # blocks of each, the first of every file before the second of any
            blocks[np.argsort(self._nth[blocks], kind="stable")]
            for blocks in np.split(np.arange(len(self._file)), np.searchsorted(self._file, last[:-1]))
        ]
        self._open = functools.lru_cache(_files_to_open(streams))(_reader)
        self._skip, self._skipped, self._named = skip, set[int](), set[int]()
        there = {path.name for path in packed.iterdir()}  # a look at each of thousands takes seconds on a network drive
        for file, path in enumerate(self._paths):
            if path.name not in there:
                self._damaged(file, np.flatnonzero(self._file == file), f"{path} is missing")

    def batch(self, pieces: list[_Piece]) -> Batch:
        """The rows of `pieces`, one piece after another."""
        blocks = {block: self._block(block) for block in {piece.block for piece in pieces}}
        # One allocation for both: the C library gives large ones back to the system and pays for every page again.
        tokens, segments = np.empty((2, sum(p.last - p.first for p in pieces), self.width), np.int32)
        runs, done = [], 0
        for piece in pieces:
            block, rows = blocks[piece.block], piece.last - piece.first
            # A run ends with its row at the latest, so that whole rows are whole runs.
            first, last = block.ends.searchsorted((piece.first * self.width, piece.last * self.width), side="right")
            runs.append((block.ids[first:last], block.lengths[first:last]))
            tokens[done : done + rows] = block.tokens[piece.first : piece.last]
            done += rows
        ids, lengths = (np.concatenate(part) for part in zip(*runs, strict=True))
        segments.reshape(-1)[:] = np.repeat(ids.astype(np.int32), lengths)
        # `targets_mask` made of runs: of each segment S tokens that are no target, then those that are. Column 0,
        # which is no row's target, is the first token of the run that begins there.
        spans = np.empty((len(ids), 2), np.int64)
        spans[:, 0] = np.where(ids > 0, np.minimum(lengths, self.prefix), lengths)
        spans[:, 1] = lengths - spans[:, 0]
        spans[(lengths.cumsum() - lengths) % self.width == 0, 0] -= 1
        counts = np.zeros((len(ids), 2), bool)
        counts[:, 1] = True
        mask = counts.repeat(spans.ravel()).reshape(done, self.width - 1)
        return {"tokens": tokens, "segments": segments, "mask": mask}

    def _block(self, block: int) -> _Block:
        """A block of the split; empty rows where it is one to skip. Raises: UserError for a damaged file."""
        file = int(self._file[block])
        path = self._paths[file]
        if block not in self._skipped:
            reader = None
            try:
                reader = self._open(str(path))
                record = reader.read([int(self._nth[block])])[0]
            except UserError:
                raise
            except Exception as e:  # the reader raises what its C++ side throws, of several types
                # Of a file that is there and is not read for want of rights, memory or a network the rows are not lost
                if path.exists() and (told := of_system(e, path)):
                    raise told from None
                lost = [block] if reader else np.flatnonzero(self._file == file)
                self._damaged(file, lost, f"{path} is damaged ({first_line(e)})")
            else:
                if (decoded := self._decode(record, int(self.sizes[block]))) is not None:
                    return decoded
                self._damaged(file, [block], f"{path} holds a block of another size than {FILE} says")
        return _empty(int(self.sizes[block]), self.width, self._dtype)

    def _decode(self, record: bytes, rows: int) -> _Block | None:
        """What a record of `packing` holds; None where it is not `rows` rows."""
        kind = run_dtype(self.width)
        begin = rows * self.width * self._dtype.itemsize
        count, rest = divmod(len(record) - begin, 4 + kind.itemsize)
        if rest or count <= 0:
            return None
        lengths = np.frombuffer(record, kind, count, begin + 4 * count).astype(np.int64)
        ends = lengths.cumsum()
        if ends[-1] != rows * self.width:
            return None
        tokens = np.frombuffer(record, self._dtype, rows * self.width).reshape(rows, self.width)
        return _Block(tokens, np.frombuffer(record, "<u4", count, begin).astype(np.int64), lengths, ends)

    def _damaged(self, file: int, blocks: Iterable[int], what: str) -> None:
        """Raise UserError that says `what`, or count `blocks` among those to skip and warn, once for a file."""
        path = self._paths[file]
        if not self._skip:
            instead = ", or train without its rows: --config.data.skip_damaged" if self._skip is False else ""
            raise UserError(f"{what}: {_again(path)}{instead}")
        self._skipped.update(map(int, blocks))
        if 2 * len(self._skipped) > len(self._file):
            raise UserError(f"over half of the data to train on in {path.parent} cannot be read: {_again(path)}")
        if file not in self._named:
            self._named.add(file)
            logging.warning("%s: training goes on without the rows that cannot be read", what)


def _empty(rows: int, width: int, dtype: np.dtype) -> _Block:
    """Rows of padding."""
    lengths = np.full(rows, width)
    return _Block(np.zeros((rows, width), dtype), np.zeros(rows, np.int64), lengths, lengths.cumsum())


def _files_to_open(streams: int) -> int:
    """A share of what the system lets this process have open, where so many streams read at once, and others beside
    them: a quarter at most. The soft limit is raised where that is less than is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _STREAMS * _OPEN + _SPARE
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # where the system's own limit is lower
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    there = (wanted if soft == resource.RLIM_INFINITY else soft) - _SPARE
    return max(64, min(_OPEN, there // max(_STREAMS, streams + 1)))


def _reader(path: str) -> Any:
    # Blocks are read one by one: a read-ahead buffer would only copy neighbours nobody wants.
    return array_records.reader(path, "readahead_buffer_size:0,max_parallelism:0")


def _again(path: Path) -> str:
    return f"delete {path.parent} and run again"


def _pieces(order: np.ndarray, ends: np.ndarray, first: int, last: int) -> list[_Piece]:
    """Rows [first, last) of blocks standing in `order`; `ends`, the number of rows up to the end of each."""
    low, high = int(ends.searchsorted(first, side="right")), int(ends.searchsorted(last, side="left")) + 1
    begin, pieces = int(ends[low - 1]) if low else 0, []
    for block, end in zip(order[low:high].tolist(), ends[low:high].tolist(), strict=True):
        pieces.append(_Piece(block, max(first - begin, 0), min(last, end) - begin))
        begin = end
    return pieces


class _Steps:
    """The rows of `steps` optimizer steps of one process, by the number of the first: what grain iterates over."""

    def __init__(self, rows: _Rows, sequences: int, seed: int, steps: int, shares: Sequence[int], of: int) -> None:
        self._rows, self._seed, self._steps = rows, seed, steps
        size = sequences // steps // len(shares)
        self._step = of * size  # rows of a step of all processes
        starts = [k for k in shares if k - 1 not in shares]
        ends = [k + 1 for k in shares if k + 1 not in shares]
        self._runs = [(begin * size, end * size) for begin, end in zip(starts, ends, strict=True)]
        self._ends = np.cumsum([int(rows.sizes[blocks].sum()) for blocks in rows.phases]).tolist()
        self._order = functools.lru_cache(4)(self._shuffled)

    def __len__(self) -> int:
        return sys.maxsize

    def __repr__(self) -> str:  # grain logs it
        return f"_Steps({len(self._rows.sizes)} blocks)"

    def __getitem__(self, number: int) -> Batch:
        if self._runs == [(0, self._step)]:  # the steps lie side by side, which are fewer pieces
            return self._rows.batch(self._between(number * self._step, (number + self._steps) * self._step))
        pieces: list[_Piece] = []
        for step in range(number, number + self._steps):
            for begin, end in self._runs:
                pieces += self._between(step * self._step + begin, step * self._step + end)
        return self._rows.batch(pieces)

    def _between(self, first: int, last: int) -> list[_Piece]:
        """Rows [first, last) of the endless stream: of pass after pass."""
        pieces: list[_Piece] = []
        while first < last:
            cycle, row = divmod(first, self._ends[-1])  # of as many passes as there are phases
            phase = bisect.bisect_right(self._ends, row)
            order, ends = self._order(cycle * len(self._ends) + phase)
            row -= self._ends[phase - 1] if phase else 0
            count = min(last - first, int(ends[-1]) - row)
            pieces += _pieces(order, ends, row, row + count)
            first += count
        return pieces

    def _shuffled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks of a pass in their order, and the rows up to the end of each."""
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(self._rows.phases[number % len(self._ends)])
        return order, np.cumsum(self._rows.sizes[order])


class _Source:
    """_Steps whose every access has a deadline. It is opened within one, too: a dead mount blocks any access."""

    def __init__(self, deadline: Deadline, make: Callable[[], _Steps]) -> None:
        self._deadline, self._steps = deadline, deadline(make)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:  # grain logs it
        return repr(self._steps)

    def __getitem__(self, number: int) -> Batch:
        return self._deadline(self._steps.__getitem__, number)


class Batches(Iterator[Batch]):
    """Endless batches of `train_batches`, read ahead by grain.

    position: optimizer steps taken. It is the whole state: `seek` to it, in any process, and the stream goes on.
    """

    def __init__(self, source: Any, steps: int) -> None:
        self._source, self._steps = source, steps
        self.position = 0
        self._iterator = self._from(0)

    def _from(self, step: int) -> grain.DatasetIterator[Batch]:
        return iter(grain.MapDataset.source(self._source)[step :: self._steps].to_iter_dataset(_READ))

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self.position += self._steps
        return batch

    def seek(self, step: int) -> None:
        """Go on from optimizer step `step`, whether or not a batch began there so far."""
        self.close()
        self._iterator, self.position = self._from(step), step

    def close(self) -> None:
        """Stop reading ahead."""
        self._iterator.close()


def train_batches(
    packed: Path,
    *,
    sequences: int,
    seed: int,
    steps: int = 1,
    shares: Sequence[int] = (0,),
    of: int = 1,
    skip_damaged: bool = False,
    timeout: float | None = None,
    streams: int = 1,
) -> Batches:
    """Endless batches of the train split: every row once a pass, its blocks in a new order each pass.

    Pass i reads phase i mod P of the packed data; a batch may begin in one pass and end in the next. The rows of
    optimizer step s, of all processes together, depend on the data, the seed and the rows of a step alone: not on the
    number of processes, nor on how many steps share a batch, nor on where reading began. Each step is cut into equal
    shares: all of them, joined along the batch axis step by step, are the steps of one process.

    Args: packed, a folder of `packing.build`; sequences, rows in a batch of this process; seed, of the order; steps,
      optimizer steps that share a batch; shares, which of so many (`of`) are this process's, ascending;
      skip_damaged, whether rows that cannot be read become empty rows (PAD,
      segment 0, mask False), so that all others keep their place, and each file with such rows is named once in a
      warning; timeout, seconds that a batch may take to be read, none: any number; streams, of this process that read
      at once, which share the files that it may have open.
    Returns: batches {"tokens": (sequences, T+1) int32, "segments": (sequences, T+1) int32, "mask": (sequences, T)
      bool, of `targets_mask`}.
    Raises: UserError for a batch that cannot be, an empty split, a missing or, while iterating, damaged file (with
      skip_damaged: when over half of the blocks are), for one that is there and that the system does not give, and when
      the timeout is over.
    """
    if sequences < 1 or steps < 1 or sequences % (steps * len(shares)):
        raise UserError(f"a batch of {sequences} sequences for {steps} steps: take a positive multiple of the steps")

    def make() -> _Steps:
        rows = _Rows(Path(packed), "train", skip_damaged, streams)
        return _Steps(rows, sequences, seed, steps, shares, of)

    if not timeout:
        return Batches(make(), steps)
    hung = (
        f"{packed}: nothing could be read for {timeout:g} s: see that its disk or network mount answers and run again, "
        "or give it longer by --config.data.read_timeout"
    )
    return Batches(_Source(Deadline(timeout, hung), make), steps)


def eval_batches(
    packed: Path, split: str, *, sequences: int, limit_sequences: int | None = None, phase: int = 0
) -> Iterator[Batch]:
    """The first `limit_sequences` rows of a phase of a split (all, if None), always the same.

    They come from all files in turn. Patients were given to files by a hash and rows shuffled within each, so that
    the first rows are a random sample of the split's.

    Yields: batches as those of `train_batches`; the last one is filled up with empty rows (PAD, segment 0, mask
      False), so that shapes stay the same.
    Raises: UserError for an unknown or empty split, a missing or damaged file.
    """
    rows = _Rows(Path(packed), split)
    order = rows.phases[phase]
    ends = np.cumsum(rows.sizes[order])
    count = int(ends[-1]) if limit_sequences is None else min(limit_sequences, int(ends[-1]))
    for first in range(0, count, sequences):
        last = min(first + sequences, count)
        batch = rows.batch(_pieces(order, ends, first, last))
        missing = sequences - (last - first)
        yield {key: np.pad(value, ((0, missing), (0, 0))) for key, value in batch.items()}


def times_read(packed: Path, *, seed: int, rows: int) -> list[np.ndarray]:
    """How often each row of the train split is among the first `rows` of the stream of `train_batches`.

    Returns: of each phase int64, in the order of the rows of `eval_batches`.
    Raises: UserError as that does.
    """
    there = _Rows(Path(packed), "train")
    steps = _Steps(there, 1, seed, 1, (0,), 1)
    times = [np.zeros(size, np.int64) for size in there.sizes.tolist()]
    for piece in steps._between(0, rows):
        times[piece.block][piece.first : piece.last] += 1
    return [np.concatenate([times[block] for block in blocks.tolist()]) for blocks in there.phases]
