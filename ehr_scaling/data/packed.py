"""What the writer and the reader of `packed/t<T>/` agree on; light to import, since every training process does."""

from pathlib import Path

import numpy as np

FILE = "packed.json"
_WIDE = 1 << 16  # rows this wide need 32 bits for the length of a segment


def folder(workdir: Path, context: int, fraction: float = 1.0) -> Path:
    """Where rows of `context` + 1 tokens lie, of this fraction of the training patients."""
    return workdir / "packed" / (f"t{context}" if fraction == 1 else f"t{context}-f{float(fraction)}")


def run_dtype(width: int) -> np.dtype:
    """Of the lengths of segments in rows of `width` tokens."""
    return np.dtype("<u2" if width < _WIDE else "<u4")
