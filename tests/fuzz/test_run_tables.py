"""Tables of runs of any content are read and fitted, or refused in one line; no law holds a number that is none."""

import json
import re
import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.tables import readers
from tests.fuzz.one_line import fuzz, result_or_line
from tests.fuzz.strategies import CELLS, JSON, damaged, encoded, parquets, with_cells

ANYTHING = re.compile(r"(?!)")  # a table of runs holds no patient: its cells and names may be told
FEW = Options(draws=20)

GRID = [
    (n, c / (6 * n), c) for c in (1e14, 1e15, 1e16) for n in [(c / 120) ** 0.5 * by for by in (0.3, 0.6, 1, 1.7, 3)]
]
ROWS = [
    {
        "run": f"r{i}", "N": n, "D": d, "C": c, "loss": 1.8 + 480 / n**0.35 + 2100 / d**0.37 + 0.002 * (i * 7 % 5),
        "seed": i % 2, "lr": 0.01, "unique_tokens": 1e9,
    }
    for i, (n, d, c) in enumerate(GRID)
]  # fmt: skip
TABLE = pa.Table.from_pylist(ROWS)
CSV = "\n".join([",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]) + "\n"
COLUMNS = st.sampled_from([{}, {}, {}, {"C": "6ND"}, {"D": "C/6N"}, {"loss": "lr"}, {"seed": "é"}])
SCALES = st.sampled_from([1e-300, 1e-12, 1e-3, 1e3, 1e6, 1e18, 1e150, 1e300])


@st.composite
def scaled(draw, rows):
    """Some numbers of some rows far off: in other units, or of no meaning at all."""
    rows = [dict(row) for row in rows]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(["N", "D", "C", "loss", "lr", "unique_tokens"]))
        by, every = draw(SCALES), draw(st.sampled_from([1, 1, 2, 5]))
        for row in rows[::every]:
            row[name] = row[name] * by
    return rows


@st.composite
def records(draw):
    """Texts of JSON objects, some of whose values are replaced by any JSON."""
    texts = []
    for row in draw(scaled(ROWS)):
        if draw(st.integers(0, 9)) == 0:
            name, value = draw(st.sampled_from(list(row))), draw(JSON)
            rest = json.dumps({k: v for k, v in row.items() if k != name})
            texts.append(f"{rest[:-1]}, {json.dumps(name)}: {value}}}")
        else:
            texts.append(json.dumps(row))
    return texts


def check(path, data, columns):
    path.write_bytes(data)
    for drop in (False, True):
        table = result_or_line(readers.read, path, columns, drop_bad_rows=drop, secret=ANYTHING)
        if table is not None:
            break
    else:
        return
    assert all((np.isfinite(v) & (v > 0)).all() for v in (table.N, table.D, table.C, table.loss))


@fuzz(60)
@given(data=st.data(), separator=st.sampled_from([",", ",", "\t", ";"]), columns=COLUMNS)
def test_separated_text(tmp_path_factory, data, separator, columns):
    rows = data.draw(scaled(ROWS))
    text = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n"
    text = data.draw(with_cells(text)).replace(",", separator)
    content = data.draw(encoded(text).flatmap(damaged))
    check(tmp_path_factory.mktemp("table") / "runs.csv", content, columns)


@fuzz(60)
@given(lines=records(), columns=COLUMNS, data=st.data())
def test_json_lines(tmp_path_factory, lines, columns, data):
    content = data.draw(encoded("\n".join(lines)).flatmap(damaged))
    check(tmp_path_factory.mktemp("table") / "runs.jsonl", content, columns)


@fuzz(60)
@given(lines=records(), columns=COLUMNS, data=st.data(), whole=st.booleans() | JSON)
def test_json(tmp_path_factory, lines, columns, data, whole):
    if isinstance(whole, str):
        text = whole
    elif whole:
        text = f"[{', '.join(lines)}]"
    else:
        text = json.dumps({name: [row[name] for row in data.draw(scaled(ROWS))] for name in ROWS[0]})
    check(tmp_path_factory.mktemp("table") / "runs.json", data.draw(encoded(text).flatmap(damaged)), columns)


@fuzz(60)
@given(data=parquets(TABLE), columns=COLUMNS)
def test_parquet(tmp_path_factory, data, columns):
    check(tmp_path_factory.mktemp("table") / "runs.parquet", data, columns)


@fuzz(60)
@given(texts=st.lists(st.tuples(st.sampled_from(["N", "run", "corpus", "x", ""]), CELLS), max_size=2))
def test_conditions(texts):
    rows = [{**row, "corpus": "ab"[i % 2]} for i, row in enumerate(ROWS)]
    path_free = readers.files.of_columns({name: [row[name] for row in rows] for name in rows[0]}, "runs")
    conditions = [f"{name}{sign}{value}" for (name, value), sign in zip(texts, ("=", "<"), strict=False)]
    result_or_line(readers.of_columns, path_free, "runs", where=conditions, secret=ANYTHING)


@fuzz(8)
@given(rows=scaled(ROWS), columns=COLUMNS)
@pytest.mark.nightly
def test_a_law_of_any_table_is_finite(rows, columns):
    table = readers.files.of_columns({name: [row[name] for row in rows] for name in rows[0]}, "runs")
    read = result_or_line(readers.of_columns, table, "runs", columns, drop_bad_rows=True, secret=ANYTHING)
    if read is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a user's terminal is not the place for them
        found = result_or_line(lambda: results.to_json(results.fit(read, FEW)), secret=ANYTHING)
    if found is not None:
        json.dumps(found, allow_nan=False)
        for name, law in found["laws"].items():
            assert all(value is not None for value in law["parameters"].values()), (name, law["parameters"])
            assert law["objective"] is not None
