r"""Compare two tokenizations or two recipes: which reaches a lower loss, and how much compute that is worth.

    python -m launch.compare --runs=W1/runs --runs=W2/runs --out=compare.json
    python -m launch.compare --runs=a.csv --runs=b.csv --unit=event --out=compare.json
    python -m launch.compare --runs=a.csv --runs=b.csv --columns=N=params,D=tokens --where="corpus=notes" --out=c.json

The first --runs is A, the second B: each a directory of runs, or a table as launch.analyze takes it. Losses a token of
two vocabularies do not compare. Runs on the same timelines are compared a token; those on two tokenizations of the same
events an event, a patient-day (--unit=day) or a patient, by what they record of the patients they were measured on (or,
made by an earlier version, by the timelines/ beside runs/, and a patient only); tables a unit of which both have a
column loss_per_event or tokens_per_event (or _day, _patient). --unit=token says that two tables are of one vocabulary.
--columns, --where and --drop_bad_rows are those of launch.analyze, and hold for both tables.

Told are: the difference of losses at cells of equal N and D (else equal N and C), in every unit that both directories
know, the factor of compute by which A reaches B's loss, by the optima of their budgets or a law fitted to each, and the
law that leads from A's losses to B's, each with an interval and supported or unidentified. For the same models on two
data sets the last is what to read.
"""

from pathlib import Path

from absl import flags

from ehr_scaling.errors import NO_MEMORY
from ehr_scaling.progress import Steps

from .common.common import run

UNITS = ("auto", "token", "event", "day", "patient")
RUNS = flags.DEFINE_multi_string(
    "runs", [], "Directory of runs, or a .csv, .tsv, .jsonl, .json or .parquet table of them; give it twice."
)
OUT = flags.DEFINE_string("out", None, "File for the comparison, such as compare.json.", required=True)
UNIT = flags.DEFINE_enum("unit", "auto", UNITS, "What losses are counted by.")
COLUMNS = flags.DEFINE_string("columns", "", "Names in both tables for ours: N=params,D=tokens,loss=val_loss.")
WHERE = flags.DEFINE_multi_string("where", [], "Only rows of which this holds: column=value, or a comparison: N>=1e6.")
BAD = flags.DEFINE_bool("drop_bad_rows", False, "Leave out rows that are no numbers, with a reason, instead of ending.")
DRAWS = flags.DEFINE_integer("draws", 1000, "Bootstrap draws.", lower_bound=20)
SEED = flags.DEFINE_integer("bootstrap_seed", 0, "Seed of the draws: the same seed, the same numbers.")


def main() -> None:
    from ehr_scaling.errors import UserError

    if len(RUNS.value) != 2:
        raise UserError(f"--runs is given {len(RUNS.value)} times: give it twice, once for A and once for B")
    out = Path(OUT.value)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UserError(f"--out={out} is no file in a folder that is there: name one, such as compare.json")
    first, second = RUNS.value
    with Steps() as steps:
        steps.say(f"reading {first} and {second}")
        from ehr_scaling.analysis.compare import comparable, comparison
        from ehr_scaling.analysis.options import Options
        from ehr_scaling.analysis.tables import readers
        from ehr_scaling.artifacts import write_json

        common = comparable.read(
            (Path(first), Path(second)),
            UNIT.value,
            readers.parse_columns(COLUMNS.value),
            where=WHERE.value,
            drop_bad_rows=BAD.value,
        )
        steps.say(f"comparing {len(common.a)} runs with {len(common.b)}, in losses a {common.unit}")
        compared = comparison.compare(common, Options(draws=DRAWS.value, seed=SEED.value))
        write_json(out, comparison.to_json(compared))
    print(f"{comparison.summary(compared)}\ncomparison: {out}")


if __name__ == "__main__":
    run(main, {NO_MEMORY: f"{NO_MEMORY}: fewer --draws"})
