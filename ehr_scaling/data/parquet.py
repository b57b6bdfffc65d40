"""Parquet files that this package writes: a checksum in every page, looked at whenever a page is read."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling.artifacts import writing

WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
_GROUP = 1 << 20  # rows of a group, which is Arrow's own choice too
READING: dict[str, Any] = {"page_checksum_verification": True}  # pages without one, of other writers, are read too


def write(path: Path, table: pa.Table) -> None:
    """Write `table` to `path`, whole or not at all."""
    with writing(path) as partial:
        pq.write_table(table, partial, **WRITING)


def write_parts(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
    """Write tables to `path` as one, whole or not at all, with no more than a group of rows in memory."""
    held: list[pa.Table] = [schema.empty_table()]
    with writing(path) as partial, pq.ParquetWriter(partial, schema, **WRITING) as writer:
        for part in parts:
            held.append(part)
            while sum(map(len, held)) > _GROUP:
                table = pa.concat_tables(held)
                writer.write_table(table.slice(0, _GROUP))
                held = [table.slice(_GROUP)]
        writer.write_table(pa.concat_tables(held).combine_chunks())


def read(path: Path, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
    """A table, or some columns of it. Raises: Arrow's errors, among them OSError for a page that was changed."""
    return pq.read_table(path, columns=None if columns is None else list(columns), **READING, **options)
