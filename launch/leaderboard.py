"""A public benchmark, entered: models trained on each of its published splits, beside the figures of others.

  python -m launch.leaderboard --benchmark=p12 --split_file=p12_splits.csv --workdir=W --dry_run     what it costs
  python -m launch.leaderboard --benchmark=p12 --split_file=p12_splits.csv --workdir=W --out=p12.csv
  python -m launch.leaderboard --benchmark=p12 --table=studies/p12/leaderboard.csv                   the table alone

p12 is in-hospital death on Challenge 2012, with five splits of its patients in a file with the columns record_id and
split1 to split5. Each split is a study in W/<split>: the same command again goes on where it was. Asked are the models
zero-shot, with a linear probe on frozen states, and fine-tuned (--methods), beside a logistic regression and boosted
trees fitted to the same patients.
"""

from pathlib import Path

from absl import flags

from ehr_scaling import storage
from ehr_scaling.errors import UserError

from .common import log
from .common.common import run

BENCHMARK = flags.DEFINE_enum("benchmark", "p12", ["p12"], "Which.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the studies of the splits.")
SPLIT_FILE = flags.DEFINE_string("split_file", None, "The published splits: a CSV or parquet file.")
SPLITS = flags.DEFINE_list("splits", [], "Columns of the file [default: all of the benchmark].")
RAW = flags.DEFINE_string("raw", None, "Folder with the raw records, instead of downloading them.")
METHODS = flags.DEFINE_list("methods", ["probe", "finetune"], "Ways to learn from labels; empty: zero-shot alone.")
SIZE = flags.DEFINE_string("size", None, "Of the models [default: as in the config of the benchmark].")
BUDGET = flags.DEFINE_float("budget", None, "FLOPs of a model [default: as there].", lower_bound=1.0)
SEEDS = flags.DEFINE_integer("seeds", None, "Models of each split [default: as there].", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "CSV with a row a system and split; rows of others in it stay.")
TABLE = flags.DEFINE_string("table", None, "Print the table of such a CSV, and do nothing else.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what training costs, and train nothing.")


def main() -> None:
    print(f"benchmark {BENCHMARK.value}", flush=True)
    if WORKDIR.value:
        log.keep(storage.local(WORKDIR.value))
    from ehr_scaling import leaderboard, study  # this and what it imports take seconds
    from ehr_scaling.grid import cost

    benchmark = leaderboard.BENCHMARKS[BENCHMARK.value]
    if TABLE.value:
        print(leaderboard.table(benchmark, leaderboard.read(Path(TABLE.value))))
        return
    if not WORKDIR.value or not SPLIT_FILE.value:
        raise UserError("--workdir and --split_file are needed: a folder for the studies, and the published splits")
    if unknown := [split for split in SPLITS.value if split not in benchmark.splits]:
        raise UserError(f"--splits: {unknown[0]!r} is none: take some of {', '.join(benchmark.splits)}")
    if unknown := [method for method in METHODS.value if method not in leaderboard.HEADS.values()]:
        raise UserError(f"--methods: {unknown[0]!r} is none: take some of {', '.join(leaderboard.HEADS.values())}")
    config = benchmark.config()
    config.data.raw = RAW.value
    config.grid.sizes = (SIZE.value,) if SIZE.value else config.grid.sizes
    config.grid.budgets = (BUDGET.value,) if BUDGET.value else config.grid.budgets
    config.grid.seeds = tuple(range(1, SEEDS.value + 1)) if SEEDS.value else config.grid.seeds
    splits, top = SPLITS.value or list(benchmark.splits), storage.local(WORKDIR.value)
    if DRY_RUN.value:
        config.data.split_file = f"{SPLIT_FILE.value}:{splits[0]}"
        study.prepare(config, top / splits[0])
        cells = study.plan(config, benchmark.sweep(config), top / splits[0])
        print(cost.table(cells, workdir=top / splits[0], workers=cost.workers(config.workers, cells)))
        print(f"once for each of {len(splits)} splits; heads that learn from labels cost about as much again")
        return
    rows = []
    for split in splits:
        print(f"\n{split}", flush=True)
        rows += leaderboard.run(benchmark, config, split, SPLIT_FILE.value, top / split, METHODS.value)
        if OUT.value:
            leaderboard.write(Path(OUT.value), rows)
    print(f"\n{leaderboard.table(benchmark, rows)}")


if __name__ == "__main__":
    run(main)
