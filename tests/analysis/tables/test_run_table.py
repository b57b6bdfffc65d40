import json
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simulated

from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.tables.run_table import budget_groups, describe, drop_highest_loss, from_rows
from ehr_scaling.analysis.tables.selection import cooled
from ehr_scaling.errors import UserError

HEADER = "N,D,C,loss\n"


def write(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_directory_gives_one_row_a_finished_run_and_lists_the_others(tmp_path):
    records = simulated.rows(budgets=2, sizes=2, seeds=1)
    simulated.write_runs(tmp_path, records)
    for name, steps in (("broken-off", ["40", "80"]), ("never-saved", [])):
        (tmp_path / name).mkdir()
        for step in steps:
            folder = tmp_path / name / step / "metrics"
            folder.mkdir(parents=True)
            (folder / "metrics").write_text(json.dumps({"finished": step == "40"}))
    (tmp_path / ".hidden.partial").mkdir()
    (tmp_path / "diverged").mkdir()
    (tmp_path / "diverged" / "failed.json").write_text('{"reason": "the loss was not finite"}')
    table = readers.read(tmp_path)
    assert sorted(table.cell) == sorted(r["cell"] for r in records)
    codes = {"broken-off": "unfinished", "never-saved": "unfinished", "diverged": "diverged"}
    assert {n.run: n.code for n in table.notes} == codes
    assert {n.text for n in table.notes if n.code == "diverged"} == {"the loss was not finite"}
    assert len(table.budgets) == 2 and table.generated is True
    np.testing.assert_allclose(table.passes, 0.9 * table.D / 2e6)
    assert "Generated" in describe(table) and "800 patients" in describe(table)


def test_newest_step_is_read_and_half_written_ones_are_passed_over(tmp_path):
    record = simulated.rows(budgets=1, sizes=1, seeds=1)[0]
    simulated.write_runs(tmp_path, [record])
    cell = tmp_path / record["cell"]
    newer = cell / "1000" / "metrics"
    newer.mkdir(parents=True)
    metrics = json.loads((cell / "120" / "metrics" / "metrics").read_text())
    (newer / "metrics").write_text(json.dumps(metrics | {"validation_loss": 1.25}))
    (cell / "2000").mkdir()
    (cell / "3000.orbax-checkpoint-tmp").mkdir()
    assert readers.read(tmp_path).loss.tolist() == [1.25]


def test_directory_without_a_finished_run_or_with_two_data_sets_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        readers.read(tmp_path)
    first, second = simulated.rows(budgets=1, sizes=2, seeds=1)
    simulated.write_runs(tmp_path, [first], data="one hospital", generated=False)
    simulated.write_runs(tmp_path, [second], data="another", generated=False)
    with pytest.raises(UserError, match="2 data sets"):
        readers.read(tmp_path)


def test_damaged_or_incomplete_metrics_name_the_file(tmp_path):
    record = simulated.rows(budgets=1, sizes=1, seeds=1)[0]
    simulated.write_runs(tmp_path, [record])
    path = tmp_path / record["cell"] / "120" / "metrics" / "metrics"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in metrics.items() if k != "flops"}))
    with pytest.raises(UserError, match="metrics lacks 'flops'"):
        readers.read(tmp_path)
    path.write_text('{"finished": tr')
    with pytest.raises(UserError, match=r"metrics is damaged"):
        readers.read(tmp_path)


def test_a_damaged_run_is_left_out_and_listed(tmp_path):
    records = simulated.rows(budgets=2, sizes=3, seeds=1)
    simulated.write_runs(tmp_path / "runs", records)
    damaged, missing = (tmp_path / "runs" / records[k]["cell"] for k in (0, 1))
    next(damaged.glob("*/metrics/metrics")).write_text('{"finished": tr')
    (gone,) = missing.glob("*/metrics/metrics")
    gone.unlink()
    (gone.parents[1] / "files.json").write_text("{}")
    table = readers.read(tmp_path / "runs")
    assert len(table) == len(records) - 2
    assert [(note.run, note.code) for note in table.notes] == [(p.name, "damaged") for p in sorted([damaged, missing])]
    assert all("train that cell again" in note.text and str(tmp_path) not in note.text for note in table.notes)
    assert f"left out: {damaged.name}: " in str(table)


def test_csv_and_jsonl_with_renamed_columns_agree(tmp_path):
    columns = readers.parse_columns("N=params, D=tokens,loss=val")
    csv = write(tmp_path, "params,tokens,C,val,note\n1e4,2e6,1.2e11,3.5,x\n2e4,1e6,1.2e11,3.25,\n")
    lines = [
        {"params": 1e4, "tokens": 2e6, "C": 1.2e11, "val": 3.5},
        {"params": 2e4, "tokens": 1e6, "C": 1.2e11, "val": 3.25},
    ]
    jsonl = write(tmp_path, "\n".join(map(json.dumps, lines)) + "\n\n", "runs.jsonl")
    a, b = readers.read(csv, columns), readers.read(jsonl, columns)
    for name in ("N", "D", "C", "loss", "C_6nd"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.loss.dtype == np.float64 and len(set(a.run)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("N,C,loss\n1,2,3\n", r"runs\.csv row 2: no column 'D' for D"),
        (HEADER + "1e4,2e6,1e11,3\n1e4,many,1e11,3\n", r"row 3: D is not a number"),
        (HEADER + "1e4,2e6,1e11,\n", r"row 2: loss is empty"),
        (HEADER + "1e4,2e6,1e11,nan\n", r"row 2: loss is not finite"),
        (HEADER + "1e4,2e6,inf,3\n", r"row 2: C is not finite"),
        (HEADER + "1e4,-2e6,1e11,3\n", r"row 2: D is -2e\+06; it must be positive"),
        (HEADER + "0,2e6,1e11,3\n", r"row 2: N is 0; it must be positive"),
        (HEADER + "1e4,2e6,1e11,3,9\n", r"row 2: more cells than"),
        (HEADER, r"holds no runs"),
        ("", r"holds no runs"),
        ("N,N,D,C,loss\n1e4,1e4,2e6,1e11,3\n", r"header has 'N' twice"),
        (HEADER + "1e4,2e6,1e11\n", r"row 2: loss is empty"),
        (
            HEADER + "1e4,2e6,1.2e11,3\n2e4,1e6,1.2e11,3\n0.04,5e5,1.2e11,3\n",
            r"row 4: C / \(N D\) is 6e\+06, 6 in most",
        ),
    ],
)
def test_bad_csv_is_named_by_file_row_and_column(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        readers.read(write(tmp_path, text))


def test_other_bad_input(tmp_path):
    with pytest.raises(UserError, match="line 2 is not JSON"):
        readers.read(write(tmp_path, '{"N":1,"D":1,"C":1,"loss":1}\n{"N":\n', "runs.jsonl"))
    with pytest.raises(UserError, match="no such file"):
        readers.read(tmp_path / "absent.csv")
    with pytest.raises(
        UserError, match=r"expected a directory of runs, or a \.csv, \.tsv, \.jsonl, \.json or \.parquet"
    ):
        readers.read(write(tmp_path, "x", "runs.txt"))
    with pytest.raises(UserError, match="should read ours=theirs"):
        readers.parse_columns("N")
    with pytest.raises(UserError, match="'params' is not a column"):
        readers.parse_columns("params=N")


def test_budgets_by_column_or_by_counted_compute():
    C = np.array([1.01e11, 3e11, 0.99e11, 1e11, 3.1e11])
    unknown = np.full(5, np.nan)
    group, budgets = budget_groups(C, unknown)
    assert group.tolist() == [0, 1, 0, 0, 1]
    np.testing.assert_allclose(budgets, [np.exp(np.log(C[[0, 2, 3]]).mean()), np.sqrt(3e11 * 3.1e11)])
    # Named budgets win over closeness, and are ordered by compute whatever their names.
    group, budgets = budget_groups(np.array([1e11, 1.05e11, 9e10]), np.array([1.0, 2.0, 1.0]))
    assert group.tolist() == [0, 1, 0] and budgets[0] < budgets[1]


def test_a_large_product_does_not_overflow():
    table = from_rows([{"N": 10**12, "D": 10**13, "C": 10**26, "loss": 2}], source="x")
    assert table.C_6nd[0] == 6e25


def test_hot_points_and_the_highest_losses_leave_with_a_reason():
    rows = [{"run": f"r{i}", "N": 10.0, "D": 10.0, "C": 600.0, "loss": 1 + i, "phase": "cooled"} for i in range(4)]
    rows[1]["phase"] = "hot"
    table = drop_highest_loss(cooled(from_rows(rows, source="x")), 1)
    assert table.run.tolist() == ["r0", "r2"]
    assert [(n.run, n.code) for n in table.notes] == [("r1", "hot"), ("r3", "highest_loss")]
    with pytest.raises(UserError, match="--drop_highest_loss=2"):
        drop_highest_loss(table, 2)
    all_hot = from_rows([{**r, "phase": "hot"} for r in rows], source="x")
    assert len(cooled(all_hot)) == 4


def same(a, b):
    for name in ("run", "N", "D", "C", "loss", "seed", "lr", "size", "group"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_parquet_csv_and_jsonl_hold_the_same_table(tmp_path):
    rows = [
        {"run": "a", "N": 10**4, "D": 2e6, "C": 1.2e11, "val": 3.5, "seed": 0, "lr": None, "size": "S", "note": [1]},
        {"run": "b", "N": 20000, "D": 1e6, "C": 1.2e11, "val": 3.25, "seed": 1, "lr": 0.01, "size": None, "note": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "runs.parquet")
    columns = {"loss": "val"}
    parquet = readers.read(tmp_path / "runs.parquet", columns)
    assert parquet.size.tolist() == ["S", ""] and np.isnan(parquet.lr[0]) and parquet.seed.tolist() == [0, 1]
    same(parquet, readers.read(write(tmp_path, "\n".join(map(json.dumps, rows)), "runs.jsonl"), columns))
    header = [name for name in rows[0] if name != "note"]
    lines = [",".join("" if row[name] is None else str(row[name]) for name in header) for row in rows]
    same(parquet, readers.read(write(tmp_path, "\n".join([",".join(header), *lines])), columns))


def test_bad_parquet_is_named_by_file_row_and_column(tmp_path):
    path = tmp_path / "runs.parquet"
    with pytest.raises(UserError, match=r"runs\.parquet is not a Parquet table"):
        readers.read(write(tmp_path, "N,D,C,loss", "runs.parquet"))
    good = {"N": [1e4, 2e4], "D": [2e6, 1e6], "C": [1.2e11, 1.2e11]}
    pq.write_table(pa.table(good), path)
    with pytest.raises(UserError, match=r"runs\.parquet: no column 'loss' for loss; the table has N, D, C"):
        readers.read(path)
    for loss, message in (
        ([3.0, None], "loss is empty"),
        ([3.0, np.nan], "not finite"),
        (["3", "x"], "is not a number"),
    ):
        pq.write_table(pa.table({**good, "loss": loss}), path)
        with pytest.raises(UserError, match=rf"runs\.parquet row 2: .*{message}"):
            readers.read(path)
    pq.write_table(pa.table({**good, "loss": [[3.0], [3.1]]}), path)
    with pytest.raises(UserError, match=r"row 1: loss is not a number"):
        readers.read(path)


def test_a_later_line_may_have_other_columns(tmp_path):
    lines = [{"N": 1e4, "D": 2e6, "C": 1.2e11, "loss": 3}, {"N": 1e4, "D": 2e6, "C": 1.2e11, "loss": 3, "lr": 0.5}]
    table = readers.read(write(tmp_path, "\n".join(map(json.dumps, lines)), "runs.jsonl"))
    assert np.isnan(table.lr[0]) and table.lr[1] == 0.5


@pytest.mark.parametrize(("left_out", "rule"), [("D", "C/6N"), ("C", "6ND"), ("N", "C/6D")])
def test_one_of_three_follows_from_six_nd(tmp_path, left_out, rule):
    whole = {"N": 2e4, "D": 1e6, "C": 1.2e11, "loss": 3.25}
    path = write(tmp_path, json.dumps({k: v for k, v in whole.items() if k != left_out}), "runs.jsonl")
    with pytest.raises(UserError, match=f"no column '{left_out}'.*if C = 6ND, --columns={left_out}={rule}"):
        readers.read(path)
    table = readers.read(path, readers.parse_columns(f"{left_out}={rule}"))
    assert getattr(table, left_out)[0] == pytest.approx(whole[left_out], rel=1e-12)
    with pytest.raises(UserError, match="cannot both follow"):
        readers.read(path, {"D": "C/6N", "C": "6ND"})


def test_bad_rows_leave_with_a_reason_by_flag_alone(tmp_path):
    good = "".join(f"r{i},{1e4 * 2**i},{2e6 / 2**i},1.2e11,3.{i}\n" for i in range(4))
    bad = "a,1e4,2e6,1.2e11,nan\nb,1e4,many,1.2e11,3\nc,1e4,2e6,,3\nd,-1e4,2e6,1.2e11,3\ne,0.01,2e6,1.2e11,3\n"
    path = write(tmp_path, "run," + HEADER + good + bad)
    with pytest.raises(UserError, match=r"row 6: loss is not finite; .*--drop_bad_rows"):
        readers.read(path)
    table = readers.read(path, drop_bad_rows=True)
    assert table.run.tolist() == ["r0", "r1", "r2", "r3"]
    assert [(n.run, n.code) for n in table.notes] == [
        ("a", "nonfinite"), ("b", "nonfinite"), ("c", "nonfinite"), ("d", "not_positive"), ("e", "units"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="no row can be used; of the first, loss is not finite"):
        readers.read(write(tmp_path, "run," + HEADER + bad.splitlines()[0]), drop_bad_rows=True)


@hypothesis.given(st.floats(-12, 12), st.floats(-12, 12), st.floats(-12, 12))
@hypothesis.settings(max_examples=40, deadline=None)
def test_units_that_all_rows_share_are_no_mixture(n, d, c):
    """Thousands of parameters or PF-days: the same for all rows, and so no error, whatever C / (N D) becomes."""
    rows = [
        {**row, "N": row["N"] * 10**n, "D": row["D"] * 10**d, "C": row["C"] * 10**c * (1 + 40 / (1 + row["N"] / 1e4))}
        for row in simulated.rows(budgets=3, seeds=1)
    ]
    assert len(from_rows(rows, source="x")) == len(rows)
    rows[5]["N"] /= 1e6
    ratio = rows[5]["C"] / rows[5]["N"] / rows[5]["D"]
    others = [r["C"] / r["N"] / r["D"] for r in rows]
    if ratio > 1e4 or max(others) < 1:
        with pytest.raises(UserError, match=r"x row 6: C / \(N D\) is"):
            from_rows(rows, source="x")


def by_steps(C):
    """The definition of budget groups, one run after another."""
    group, order = np.zeros(len(C), int), np.argsort(C, kind="stable")
    first, current = C[order[0]], 0
    for i in order:
        if C[i] > 1.2 * first:
            first, current = C[i], current + 1
        group[i] = current
    return group


@hypothesis.given(st.lists(st.floats(1, 1e6), min_size=1, max_size=40))
@hypothesis.settings(max_examples=60, deadline=None)
def test_budget_groups_are_those_of_the_definition(C):
    group, budgets = budget_groups(np.array(C), np.full(len(C), np.nan))
    np.testing.assert_array_equal(group, by_steps(np.array(C)))
    assert (np.diff(budgets) > 0).all()


def test_a_large_table_is_read_by_columns(tmp_path):
    """100,000 rows. The bound is loose, for busy machines; a pass over rows in Python would break it."""
    n, rng = 100_000, np.random.default_rng(0)
    N, D = 10 ** rng.uniform(6, 9, n), 10 ** rng.uniform(8, 11, n)
    run = np.repeat([f"run-{i}" for i in range(n // 100)], 100)
    pq.write_table(pa.table({"run": run, "N": N, "D": D, "C": 6 * N * D, "loss": 2 + 1 / D}), tmp_path / "t.parquet")
    begun = time.process_time()
    table = readers.read(tmp_path / "t.parquet")
    assert time.process_time() - begun < 2
    assert len(table) == n and table.clusters.max() == n // 100 - 1
    np.testing.assert_array_equal(table.N, N)


def test_rows_without_a_run_belong_to_their_cell_and_without_that_to_themselves():
    base = {"N": 1e5, "D": 1e7, "C": 6e12, "loss": 3.0}
    rows = [{**base, "cell": "a"}, {**base, "cell": "a"}, {**base, "cell": "a", "run": "b"}, base, base]
    table = from_rows(rows, source="x")
    assert table.run.tolist() == ["a", "a", "b", "row 4", "row 5"]
    assert len(np.unique(table.clusters)) == 4 and table.clusters[0] == table.clusters[1]


def test_passes_are_of_targets_without_padding_where_they_are_known():
    base = {"N": 1e5, "D": 1e7, "C": 6e12, "loss": 3.0, "unique_tokens": 2e6}
    rows = [base, {**base, "real_tokens": 8e6}, {**base, "real_tokens": 8e6, "passes": 3.0}]
    assert from_rows(rows, source="x").passes.tolist() == [5.0, 4.0, 3.0]


def test_small_models_of_a_large_head_are_no_mixture():
    """C / (N D) forty times that of most rows, and none that no training has."""
    rows = [{"N": 1e7, "D": 1e9, "C": 6e16, "loss": 3.0}] * 5 + [{"N": 1e4, "D": 1e9, "C": 2.5e15, "loss": 5.0}]
    assert len(from_rows(rows, source="x")) == 6
    with pytest.raises(UserError, match="x row 6: C"):
        from_rows([*rows[:5], {**rows[5], "C": 2.5e18}], source="x")
