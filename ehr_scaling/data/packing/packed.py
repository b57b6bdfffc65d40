"""What the writer and the reader of `packed/t<T>/` agree on; light to import, since every training process does."""

import numpy as np

FILE = "packed.json"
_WIDE = 1 << 16  # rows this wide need 32 bits for the length of a segment


def run_dtype(width: int) -> np.dtype:
    """Of the lengths of segments in rows of `width` tokens."""
    return np.dtype("<u2" if width < _WIDE else "<u4")
