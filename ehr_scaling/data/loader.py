"""Batches from `packed/t<T>/`: resumable and endless for training, fixed for evaluation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from ehr_scaling.artifacts import read_json
from ehr_scaling.data.packing import FILE
from ehr_scaling.errors import UserError

Batch = dict[str, np.ndarray]
# More reader threads than this only contend: decoding a block is a copy (measured with 0 to 16 on 2 cores).
_READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)


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


class _Blocks:
    """Random access to the blocks of one split; the readers are opened when they are first needed."""

    def __init__(self, packed: Path, split: str) -> None:
        facts = read_json(packed / FILE)
        if split not in facts["splits"]:
            raise UserError(f"there is no split {split!r} in {packed}: take one of {', '.join(facts['splits'])}")
        self.split = facts["splits"][split]
        self.block, self.width = facts["block"], facts["context"] + 1
        self.context_tokens = facts["context_tokens"]
        self._dtype = np.dtype(facts["token_dtype"]).newbyteorder("<")
        self._paths = [packed / name for name in self.split["files"]]
        self._ends = np.cumsum(list(self.split["files"].values()))
        self._readers: dict[int, Any] = {}
        for path in self._paths:
            if not path.is_file():
                raise UserError(f"{path} is missing: {_again(path)}")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:  # grain logs it
        return f"_Blocks({self._paths[0].parent.name}, {len(self)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def __getitem__(self, index: int) -> bytes:
        """The record of block `index`: tokens (K, T+1), then segment ids (K, T+1) int32."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        path = self._paths[file]
        try:
            if file not in self._readers:
                # Blocks are read one by one: a read-ahead buffer would only copy neighbours nobody wants.
                self._readers[file] = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
            local = int(index) - int(self._ends[file - 1] if file else 0)
            record = self._readers[file].read([local])[0]
        except Exception as e:  # the reader raises what its C++ side throws, of several types
            raise UserError(f"{path} is damaged ({str(e).splitlines()[0]}): {_again(path)}") from None
        if len(record) != self.block * self.width * (self._dtype.itemsize + 4):
            raise UserError(f"{path} holds a block of another size than {FILE} says: {_again(path)}")
        return record

    def decode(self, records: Sequence[bytes]) -> Batch:
        """Records of R blocks as one batch: tokens and segments (R·K, T+1) int32, mask (R·K, T) bool."""
        size = self.block * self.width
        tokens = np.empty((len(records), size), np.int32)
        segments = np.empty((len(records), size), np.int32)
        for i, record in enumerate(records):
            tokens[i] = np.frombuffer(record, self._dtype, size)
            segments[i] = np.frombuffer(record, "<i4", size, size * self._dtype.itemsize)
        tokens, segments = tokens.reshape(-1, self.width), segments.reshape(-1, self.width)
        return {"tokens": tokens, "segments": segments, "mask": targets_mask(segments, self.context_tokens)}


def _again(path: Path) -> str:
    return f"delete {path.parent} and run again"


def train_batches(
    packed: Path, *, sequences: int, seed: int, process_index: int = 0, process_count: int = 1
) -> grain.IterDataset:
    """Endless batches of the train split: every block once a pass, in a new order each pass.

    The iterator's `get_state`/`set_state` resume it exactly; the state holds for one `process_index` of one
    `process_count`. Step s of all processes together reads the same blocks whatever their number, as long as
    sequences × process_count is the same.

    Args: packed, a folder of `packing.build`; sequences, rows in a batch of this process, a multiple of the block;
      seed, of the order.
    Returns: a grain data set of {"tokens": (sequences, T+1) int32, "segments": (sequences, T+1) int32, "mask":
      (sequences, T) bool, of `targets_mask`}.
    Raises: UserError for a batch that is not a whole number of blocks, a missing or, while iterating, damaged file.
    """
    blocks = _Blocks(Path(packed), "train")
    if sequences < 1 or sequences % blocks.block:
        raise UserError(
            f"a batch of {sequences} sequences is not a whole number of blocks of {blocks.block}: change the "
            "batch, or --config.data.block and pack again"
        )
    data = grain.MapDataset.source(blocks).shuffle(seed=seed).repeat()[process_index::process_count]
    data = data.batch(sequences // blocks.block, drop_remainder=True, batch_fn=blocks.decode)
    return data.to_iter_dataset(_READ)


def eval_batches(packed: Path, split: str, *, sequences: int, limit_sequences: int | None = None) -> Iterator[Batch]:
    """The first `limit_sequences` rows of a split (all, if None), always the same: rows were shuffled offline.

    Yields: batches as those of `train_batches`; the last one is filled up with empty rows (PAD, segment 0, mask
      False), so that shapes stay the same.
    Raises: UserError for an unknown split, a missing or damaged file.
    """
    blocks = _Blocks(Path(packed), split)
    rows = blocks.split["sequences"] if limit_sequences is None else min(limit_sequences, blocks.split["sequences"])
    for first in range(0, rows, sequences):
        last = min(first + sequences, rows)
        block = first // blocks.block
        batch = blocks.decode([blocks[i] for i in range(block, -(-last // blocks.block))])
        part = slice(first - block * blocks.block, last - block * blocks.block)
        missing = sequences - (last - first)
        yield {key: np.pad(value[part], ((0, missing), (0, 0))) for key, value in batch.items()}
