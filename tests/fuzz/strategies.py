"""Odd values, odd columns, odd tables and damaged bytes, for whatever is read."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import strategies as st

# Cells of a text file: values that are right somewhere, and those that no reader expects
CELLS = st.one_of(
    st.sampled_from(["", "0", "1", "3", "-1", "1.5", "1e300", "1e999", "nan", "inf", "-inf", "0x1", "1_0", "²", "٣"]),
    st.sampled_from(
        ["2149-01-01 09:00:00", "2149-01-01", "2020-99-99", "0001-01-01", "9999-12-31 23:59:59.9", "24:00"]
    ),
    st.sampled_from(["9" * 19, "-" + "9" * 19, "9" * 5000, "9" * 400, "<0.01", "> 182", "//", "a//", "[" * 500]),
    st.sampled_from(['"', ",", "\r", "\n", "\x00", " ", "\t", "é💊", "\ufeff", "\u2028", "x" * 3000, "None", "True"]),
    st.text(max_size=6),
)
INTEGERS = st.one_of(st.integers(-3, 30), st.integers(-(2**63), 2**63 - 1), st.sampled_from([-(2**63), 2**63 - 1]))

_SIMPLE = [
    *(pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary(8), pa.null()),
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.timestamp("us", "UTC"), pa.timestamp("ns", "+13:45"), pa.date32(), pa.date64(), pa.time32("s")),
    *(pa.time64("ns"), pa.duration("us"), pa.decimal128(20, 3), pa.decimal256(60, 0)),
]
TYPES = st.one_of(
    st.sampled_from(_SIMPLE),
    st.sampled_from(_SIMPLE[:10]).map(pa.list_),
    st.sampled_from(_SIMPLE[:10]).map(lambda kind: pa.struct([("a", kind)])),
    st.sampled_from([pa.string(), pa.int64(), pa.large_string()]).map(lambda kind: pa.dictionary(pa.int32(), kind)),
    st.just(pa.map_(pa.string(), pa.int64())),
)


def _value(kind, number, text):
    """A value of this type: the number, or the text, as the type has it."""
    if pa.types.is_list(kind):
        return [_value(kind.value_type, number, text)]
    if pa.types.is_struct(kind):
        return {"a": _value(kind.field(0).type, number, text)}
    if pa.types.is_map(kind):
        return [(text, number)]
    if pa.types.is_dictionary(kind):
        return _value(kind.value_type, number, text)
    if pa.types.is_null(kind):
        return None
    if pa.types.is_boolean(kind):
        return number % 2 == 0
    if pa.types.is_floating(kind):
        return np.float16(number % 100) if kind == pa.float16() else float(number)
    if pa.types.is_decimal(kind):
        return number % 10**9
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return text.encode("utf-8", "surrogatepass")
    if pa.types.is_fixed_size_binary(kind):
        return number.to_bytes(8, "little", signed=True)
    if any(f(kind) for f in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        return text.encode("utf-8", "replace").decode()
    width = 64 if pa.types.is_temporal(kind) else kind.bit_width
    return number if pa.types.is_temporal(kind) else number % 2 ** (width - 1)


@st.composite
def arrays(draw, rows):
    """An Arrow array of so many rows, of any type; numbers and times of any size, some of them null."""
    kind = draw(TYPES)
    numbers = draw(st.lists(INTEGERS, min_size=1, max_size=3))
    texts = draw(st.lists(CELLS, min_size=1, max_size=2))
    empty = draw(st.sampled_from([(), (0,), range(rows), range(1, rows, 3)]))
    values = [_value(kind, numbers[i % len(numbers)], texts[i % len(texts)]) for i in range(rows)]
    values = [None if i in empty else value for i, value in enumerate(values)]
    if pa.types.is_temporal(kind):
        width = kind.bit_width
        whole = [None if v is None else (v % 2 ** (width - 1) if width < 64 else v) for v in values]
        return pa.array(whole, pa.int32() if width == 32 else pa.int64()).view(kind)
    return pa.array(values, kind)


@st.composite
def edited(draw, table):
    """The table with some columns of another type, lost, renamed, doubled, with nulls, or with rows repeated."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        if not table.num_columns:
            break
        at = draw(st.integers(0, table.num_columns - 1))
        name = table.column_names[at]
        match draw(st.sampled_from(["type", "type", "lost", "renamed", "doubled", "more", "nulls", "none", "again"])):
            case "type":
                table = table.set_column(at, name, draw(arrays(table.num_rows)))
            case "lost":
                table = table.remove_column(at)
            case "renamed":
                other = draw(st.sampled_from([name.upper(), f" {name}", "", "a\nb", "é", "value", "unit"]))
                table = table.rename_columns([other if i == at else c for i, c in enumerate(table.column_names)])
            case "doubled":
                table = table.append_column(name, table.column(at))
            case "more":
                table = table.append_column(draw(st.sampled_from(["x", "a\nb", "unit"])), draw(arrays(table.num_rows)))
            case "nulls":
                mask = pa.array([i % 3 == 0 for i in range(table.num_rows)])
                column = table.column(at)
                kept = pc.if_else(mask, pa.scalar(None, column.type), column) if table.num_rows else column
                table = table.set_column(at, name, kept)
            case "none":
                table = table.slice(0, 0)
            case "again":
                table = pa.concat_tables([table, table])
    return table


@st.composite
def parquets(draw, table):
    """Bytes of a parquet file with the table, edited; now and then damaged."""
    table = draw(edited(table))
    out = io.BytesIO()
    try:
        pq.write_table(table, out, compression=draw(st.sampled_from(["none", "zstd", "snappy"])))
    except pa.ArrowException:  # what parquet cannot hold
        return b"PAR1"
    return draw(damaged(out.getvalue()))


@st.composite
def damaged(draw, data):
    """The bytes; of one file in eight some are changed, or its end is missing."""
    if not data or draw(st.integers(0, 7)):
        return data
    out = bytearray(data)
    for where, byte in draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)):
        out[int(where * len(out))] = byte
    return bytes(out[: int(draw(st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.0])) * len(out))])


@st.composite
def with_cells(draw, text, most=3):
    """The CSV with some cells replaced; lines stay lines unless a cell brings a line break."""
    lines = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(0, most))):
        line = lines[draw(st.integers(0, len(lines) - 1))]
        line[draw(st.integers(0, len(line) - 1))] = draw(CELLS)
    return "\n".join(map(",".join, lines)) + draw(st.sampled_from([*["\n"] * 9, "", "\n\n", "1,2\n", '"', "\x00"]))


def encoded(text):
    """st: bytes of the text, mostly UTF-8."""
    odd = text.encode("utf-8", "surrogatepass")
    return st.sampled_from(
        [*[odd] * 12, odd.replace(b"e", b"\xe9", 1), b"\xef\xbb\xbf" + odd, text.encode("utf-16", "surrogatepass")]
    )


_LEAVES = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), CELLS, st.just(10**400))
JSON = st.one_of(
    st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELLS, inner, max_size=3)).map(
        json.dumps
    ),
    st.sampled_from(
        ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "9" * 5000, "", "nul", "NaN", '"\\ud800"', "{}{}"]
    ),
)
