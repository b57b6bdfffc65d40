"""The `packed/t<T>/` artifact: timelines cut into windows and packed into rows of T+1 tokens, seeded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from ehr_scaling.artifacts import write_json
from ehr_scaling.data import timelines
from ehr_scaling.data.timelines import SPLITS
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError

FILE = "packed.json"
_RECORDS = 4096  # blocks a file: single reads of array_record slow down beyond about 5,000
_FILE_BYTES = 1 << 30
_ASSEMBLE = 4_000_000  # tokens of rows laid out at once


class Windows(NamedTuple):
    """W windows of a split: window w is prefix[w] and then tokens[starts[w] : starts[w] + lengths[w]]."""

    tokens: np.ndarray  # (n,) every timeline token of the split, in order
    starts: np.ndarray  # int64 (W,)
    lengths: np.ndarray  # int64 (W,), timeline tokens: 1 up to T+1−S
    patients: np.ndarray  # int64 (W,), ordinal of the patient in its split
    prefix: np.ndarray  # (W, S) of the token dtype


def build(folder: Path, out: Path, *, context: int, block: int, seed: int) -> dict[str, Any]:
    """Pack the timelines in `folder` into the folder `out`, which exists and is empty.

    A window is the S tokens of static context, as they were at its start, and up to T+1−S tokens of the timeline;
    each timeline token is in exactly one. A full window is a row of its own. The rest of each patient, one window
    at most, shares rows by best fit, so that no patient meets itself in a row. Rows are shuffled by the seed.
    A record is a block of K rows: tokens [K, T+1], then segment ids [K, T+1] int32, little endian and C order;
    a segment id is 1 + the ordinal of the patient in its split, 0 is padding, which only follows a row's segments.

    Args: context, T; block, K; seed.
    Returns: the summary that is also `packed.json`; of each split: sequences (rows with tokens), empty_rows (that
      fill up the last block), blocks, files {name: blocks}, real_tokens (timeline tokens, each a target once),
      context_real (prefix tokens), patients, segments, fill (share of the positions of `sequences` rows in use).
    Raises: UserError when T has no room for the prefix or K is not positive, or as `timelines.batches` does.
    """
    vocabulary = timelines.vocabulary(folder)
    prefix = vocabulary.context_tokens
    if context < prefix:
        raise UserError(
            f"--config.data.context={context} has no room: {prefix} tokens of static context come first, take at "
            f"least {4 * prefix}"
        )
    if block < 1:
        raise UserError(f"--config.data.block={block}: take a whole number from 1 up")
    summary: dict[str, Any] = {
        "context": context,
        "block": block,
        "seed": seed,
        "vocab_size": len(vocabulary.tokens),
        "token_dtype": vocabulary.dtype.name,
        "context_tokens": prefix,
        "splits": {},
    }
    for i, split in enumerate(SPLITS):
        windows = cut(vocabulary, timelines.batches(folder, split), context)
        rng = np.random.default_rng([seed, i])
        row_of, position = arrange(windows.lengths + prefix, context + 1, rng)
        summary["splits"][split] = _write(out, split, windows, row_of, position, context + 1, block)
    summary["unique_tokens"] = summary["splits"]["train"]["real_tokens"]
    write_json(out / FILE, summary)
    return summary


def cut(vocabulary: Vocabulary, parts: Iterator[timelines.Timelines], context: int) -> Windows:
    """Windows of the patients of `parts`, in order: all but a patient's last have T+1−S timeline tokens."""
    room = context + 1 - vocabulary.context_tokens
    pieces: list[Windows] = []
    tokens = patients = 0
    for part in parts:
        sizes = np.diff(part.offsets)
        many = -(-sizes // room)
        owners = np.repeat(np.arange(len(sizes)), many)
        inside = (np.arange(len(owners)) - np.repeat(np.cumsum(many) - many, many)) * room
        starts = part.offsets[owners] + inside
        times = timelines.start_times(vocabulary, part.tokens, part.times, starts)
        pieces.append(
            Windows(
                part.tokens,
                starts + tokens,
                np.minimum(sizes[owners] - inside, room),
                owners + patients,
                timelines.contexts(vocabulary, part, owners, times),
            )
        )
        tokens += len(part.tokens)
        patients += len(sizes)
    return Windows(*(np.concatenate(field) for field in zip(*pieces, strict=True)))


def arrange(sizes: np.ndarray, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row and first column of windows of `sizes` (W,) tokens, at most `width`, packed best fit in falling size.

    Which of the windows of one size shares a row with which is drawn from `rng`, and so is the order of the rows.
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
    row_of, column_of = [], []
    for size in sizes[order[full:]].tolist():
        fitting = open_rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = stacks[room].pop()
            if not stacks[room]:
                open_rooms ^= 1 << room
        else:
            room, row = width, n_rows
            n_rows += 1
        row_of.append(row)
        column_of.append(width - room)
        if left := room - size:
            stacks[left].append(row)
            open_rooms |= 1 << left
    rows[order[full:]] = row_of
    columns[order[full:]] = column_of
    return rng.permutation(n_rows)[rows], columns


def _write(
    out: Path, split: str, windows: Windows, rows: np.ndarray, columns: np.ndarray, width: int, block: int
) -> dict[str, Any]:
    sequences = int(rows.max()) + 1
    blocks = -(-sequences // block)
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(0, blocks + 1) * block)
    token_bytes = windows.tokens.dtype.newbyteorder("<")
    per_file = max(1, min(_RECORDS, _FILE_BYTES // (block * width * (token_bytes.itemsize + 4))))
    at_once = max(1, _ASSEMBLE // (block * width))
    files: dict[str, int] = {}
    writer: Any = None
    with tqdm(total=blocks, desc=f"pack {split}", unit="block", disable=None) as bar:
        for first in range(0, blocks, at_once):
            last = min(first + at_once, blocks)
            tokens, segments = _lay_out(
                windows,
                order[bounds[first] : bounds[last]],
                rows - first * block,
                columns,
                ((last - first) * block, width),
            )
            tokens = tokens.astype(token_bytes, copy=False).reshape(last - first, block, width)
            segments = segments.astype("<i4", copy=False).reshape(tokens.shape)
            for i in range(last - first):
                if (first + i) % per_file == 0:
                    if writer:
                        writer.close()
                    name = f"{split}-{len(files):05d}.array_record"
                    writer, files[name] = ArrayRecordWriter(str(out / name), "group_size:1,zstd:1"), 0
                writer.write(tokens[i].tobytes() + segments[i].tobytes())
                files[name] += 1
            bar.update(last - first)
    writer.close()
    context_real = windows.prefix.size
    return {
        "sequences": sequences,
        "empty_rows": blocks * block - sequences,
        "blocks": blocks,
        "files": files,
        "real_tokens": len(windows.tokens),
        "context_real": context_real,
        "patients": int(windows.patients[-1]) + 1,
        "segments": len(windows.starts),
        "fill": (len(windows.tokens) + context_real) / (sequences * width),
    }


def _lay_out(
    windows: Windows, chosen: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segment ids of the rows that the windows `chosen` make: two arrays of `shape`."""
    tokens = np.zeros(shape, windows.tokens.dtype)  # 0 is PAD
    segments = np.zeros(shape, np.int32)
    prefix = windows.prefix.shape[1]
    begin = rows[chosen] * shape[1] + columns[chosen]
    tokens.reshape(-1)[begin[:, None] + np.arange(prefix)] = windows.prefix[chosen]
    lengths = windows.lengths[chosen]
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = np.repeat(windows.starts[chosen], lengths) + inside
    tokens.reshape(-1)[np.repeat(begin + prefix, lengths) + inside] = windows.tokens[source]
    sizes = lengths + prefix
    inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    segments.reshape(-1)[np.repeat(begin, sizes) + inside] = np.repeat(1 + windows.patients[chosen], sizes)
    return tokens, segments
