"""Parquet files that this package writes: a checksum in every page, looked at whenever a page is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling.artifacts import writing

WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
READING: dict[str, Any] = {"page_checksum_verification": True}  # pages without one, of other writers, are read too


def write(path: Path, table: pa.Table) -> None:
    """Write `table` to `path`, whole or not at all."""
    with writing(path) as partial:
        pq.write_table(table, partial, **WRITING)


def read(path: Path, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
    """A table, or some columns of it. Raises: Arrow's errors, among them OSError for a page that was changed."""
    return pq.read_table(path, columns=None if columns is None else list(columns), **READING, **options)
