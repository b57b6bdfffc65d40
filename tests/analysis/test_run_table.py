import json

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis import readers
from ehr_scaling.analysis.run_table import budget_groups, describe, drop_highest_loss, from_rows
from ehr_scaling.analysis.selection import cooled
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
    table = readers.read(tmp_path)
    assert sorted(table.cell) == sorted(r["cell"] for r in records)
    assert {(n.run, n.code) for n in table.notes} == {("broken-off", "unfinished"), ("never-saved", "unfinished")}
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
    with pytest.raises(UserError, match=r"expected a directory of runs, a \.csv or a \.jsonl"):
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
