"""A leaderboard: labels of everybody, a study a split, a table of means over splits."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest

from ehr_scaling import leaderboard, study
from ehr_scaling.configs import base
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.errors import UserError
from ehr_scaling.leaderboard import P12, Row
from ehr_scaling.outcomes.asking.tasks import tasks
from tests import small

ROWS = [
    Row("zero-shot", "split1", 3, 0.83, 0.46, 170_000, 260.0),
    Row("zero-shot", "split2", 3, 0.85, 0.5, 170_000, 240.0),
    Row("gradient-boosted trees", "split1", 1, 0.86, 0.55, None, None),
]
ADMITTED = P12._replace(
    splits=("a", "b"),
    anchor="HOSPITAL_ADMISSION",
    hours=24.0,
    sweep=base.sweep,
    task=P12.task.replace("silence: 24", "silence: 0"),
)


def test_the_table_is_kept_and_told(tmp_path):
    path = tmp_path / "board.csv"
    leaderboard.write(path, ROWS)
    again = [ROWS[1]._replace(auroc=0.87), Row("fine-tuned", "split1", 3, 0.9, 0.6, 170_000, 900.0)]
    leaderboard.write(path, again)
    kept = leaderboard.read(path)
    assert sorted(kept) == sorted([ROWS[0], ROWS[2], *again])
    lines = leaderboard.table(P12, kept).splitlines()
    (ours,) = [line.split() for line in lines if line.startswith("zero-shot")]
    assert ours == ["zero-shot", "2", "85.0", "±", "2.8", "48.0", "±", "2.8", "170,000", "250"]
    assert [line.split() for line in lines if line.startswith("gradient")] == [
        ["gradient-boosted", "trees", "1", "86.0", "55.0"]
    ]
    assert [line.split() for line in lines][-1] == ["MTM", "88.0", "58.6"]
    path.write_text("system,split\nx,y\n")
    with pytest.raises(UserError, match=r"board\.csv is no table of a leaderboard \(.*\): delete it"):
        leaderboard.read(path)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """A work directory's events, and a file of two splits of their patients."""
    folder = tmp_path_factory.mktemp("board")
    small.prepare(folder / "w")
    shards = sorted((folder / "w" / "events" / "data").rglob("*.parquet"))
    ids = np.unique(np.concatenate([pq.read_table(path)["subject_id"].to_numpy() for path in shards]))
    names = np.array(["train"] * 6 + ["tuning"] * 2 + ["held_out"] * 2)
    rng = np.random.default_rng(0)
    with (folder / "splits.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["subject_id", "a", "b"])
        out.writerows(zip(ids.tolist(), *(names[rng.integers(0, 10, len(ids))] for _ in range(2)), strict=True))
    return folder


def test_everybody_is_asked_before_what_ends_the_hours(splits):
    path = leaderboard.write_labels(ADMITTED, splits / "w")
    rows = pq.read_table(path).to_pylist()
    shards = sorted((splits / "w" / "events" / "data").rglob("*.parquet"))
    events = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    dead = {row["subject_id"] for row in events if row["code"] == "MEDS_DEATH"}
    admitted = [row for row in events if row["code"].split("//")[0] == "HOSPITAL_ADMISSION"]
    assert len(rows) == len(admitted) > 100 and len(dead) > 5
    for row, admission in zip(rows, admitted, strict=True):
        assert row["subject_id"] == admission["subject_id"] and row["boolean_value"] == (row["subject_id"] in dead)
        waited = row["prediction_time"] - admission["time"]
        assert waited.total_seconds() == 24 * 3600 - 1 and HOUR == 3_600_000_000
    task = tasks.load(splits / "w" / leaderboard.TASKS)["p12_death"]
    assert task.labels == str(path) and task.by_time
    with pytest.raises(UserError, match="holds no NOTHING: it is not the data set of this benchmark"):
        leaderboard.write_labels(ADMITTED._replace(anchor="NOTHING"), splits / "w")


@pytest.mark.nightly
def test_each_split_is_a_study_of_its_own(splits):
    config = small.config(**{"outcome.tasks": ("p12_death",), "outcome.method": "exact", "grid.seeds": (0, 1)})
    config.analysis.draws, config.outcome.samples = 20, 100
    every = []
    for split in ADMITTED.splits:
        workdir = splits / split
        every += leaderboard.run(ADMITTED, config, split, str(splits / "splits.csv"), workdir, ("probe",))
        with (splits / "splits.csv").open() as file:
            tested = {int(row["subject_id"]) for row in csv.DictReader(file) if row[split] == "held_out"}
        asked = pq.read_table(next((workdir / "outcomes" / "p12_death").glob("baseline.parquet")))
        assert set(asked["subject_id"].to_pylist()) <= tested
    names = ["zero-shot", "linear probe"]
    seeds = leaderboard.OF_SEEDS
    expected = [name for way in names for name in (way, way + seeds, f"{way}{seeds} and of trees")]
    expected += ["logistic regression", leaderboard.TREES]
    for split in ADMITTED.splits:
        of_split = [row for row in every if row.split == split]
        assert [row.system for row in of_split] == expected
        assert all(0 < row.auroc < 1 and 0 < row.auprc <= 1 for row in of_split)
    assert "linear probe" in leaderboard.table(ADMITTED, every)
    # Of whom fewer seeds are there, what those say
    cells = study.plan(config, ADMITTED.sweep(config), workdir)
    (workdir / "outcomes" / "p12_death" / "supervised" / "probe" / "all" / f"{cells[0].id}.json").unlink()
    fewer = {row.system: row for row in leaderboard.rows(workdir, "p12_death", split, cells)}
    whole = {row.system: row for row in every if row.split == split}
    assert list(fewer) == [
        *expected[:4], f"linear probe{seeds} and of trees", "logistic regression", leaderboard.TREES
    ]  # fmt: skip
    assert (fewer["linear probe"].models, whole["linear probe"].models) == (1, 2)
    assert fewer["linear probe"].parameters == whole["linear probe"].parameters
