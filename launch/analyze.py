r"""Fit scaling laws to finished runs and write the report.

    python -m launch.analyze --runs=W/runs --out=W/report
    python -m launch.analyze --runs=table.csv --columns=N=params,D=tokens --where="corpus=notes" --out=report
    python -m launch.analyze --runs=table.csv --group_by=corpus --out=reports

--runs is a directory of runs (as launch.sweep leaves it), or a .csv, .tsv, .jsonl, .json or .parquet table of a row a
run with
  N       parameters of the body (without embedding and head)
  D       tokens seen in training, repeats included
  C       training FLOPs
  loss    validation loss, nats a token
and optionally run, cell, size, phase, seed, budget, N_head, N_embedding, real_tokens, unique_tokens, patients, passes,
C_6nd, own_flops, loss_se, lr, rate_multiple, batch, weight_decay, dropout, fraction, schedule, trunk, optimizer,
parametrization, edge. Usual other names (params, n_params, tokens, flops, val_loss, final_loss, ...) are found; where
several could be meant, --columns says which. Rows that share a `run` are resampled together. Without a `budget` column,
runs whose C lies within a factor of 1.2 form one IsoFLOP budget. Of N, D and C one may be left out where C = 6 N D:
--columns=D=C/6N, N=C/6D or C=6ND.

Several corpora in one table are not one law: --where keeps rows (column=value, or a comparison such as N>=1e6; several
must all hold), --group_by writes a report for each value of a column, into a folder of that name below --out.

--out takes report.html (one page, opens without network), laws.json (every number), forecast.json (the largest budget,
forecast before it was looked at) and figures/*.png. A report that is already there is replaced; other files stay.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from ehr_scaling.errors import NO_MEMORY
from ehr_scaling.progress import Steps

from .common.common import run

if TYPE_CHECKING:
    from ehr_scaling.analysis.options import Options
    from ehr_scaling.analysis.tables.run_table import RunTable

LAWS, METHODS = ("auto", "chinchilla", "coupled", "kaplan"), ("parabola", "akima")
RUNS = flags.DEFINE_string(
    "runs", None, "Directory of runs, or a .csv, .tsv, .jsonl, .json or .parquet table of them.", required=True
)
OUT = flags.DEFINE_string("out", None, "Folder of the report.", required=True)
COLUMNS = flags.DEFINE_string("columns", "", "Names in the table for ours: N=params,D=tokens,loss=val_loss.")
WHERE = flags.DEFINE_multi_string("where", [], "Only rows of which this holds: column=value, or a comparison: N>=1e6.")
GROUP = flags.DEFINE_string("group_by", None, "A report for each value of this column of the table.")
BAD = flags.DEFINE_bool("drop_bad_rows", False, "Leave out rows that are no numbers, with a reason, instead of ending.")
OUTCOMES = flags.DEFINE_string("outcomes", None, "Folder outcomes/ with a folder a task; none by default.")
AUDIT = flags.DEFINE_string("audit", None, "Folder audit/ of launch.audit: what models remember; none by default.")
DROP = flags.DEFINE_integer("drop_highest_loss", 0, "Leave out this many runs of highest loss.", lower_bound=0)
ABOVE = flags.DEFINE_float("hold_out_above", None, "Seal the runs above this many FLOPs; default: the largest budget.")
LAW = flags.DEFINE_enum("law", "auto", LAWS, "The joint law; auto: what rolling hold-outs select.")
DRAWS = flags.DEFINE_integer("draws", 1000, "Bootstrap draws.", lower_bound=20)
SEED = flags.DEFINE_integer("bootstrap_seed", 0, "Seed of the draws: the same seed, the same report.")
ISOFLOP = flags.DEFINE_enum(
    "isoflop", "parabola", METHODS, "The curve of a budget; akima follows lopsided profiles, and noise."
)
NEAR = flags.DEFINE_float("near", 0.005, "Sizes within this share of the lowest loss are near-optimal.", 0.0)
WINDOW = flags.DEFINE_float("window", 5.0, "Parabolas see sizes within this factor of the best.", 1.0)


def main() -> None:
    with Steps() as steps:
        steps.say(f"reading {RUNS.value}")
        from ehr_scaling.analysis.report.folder import names
        from ehr_scaling.analysis.report.summary import summary

        runs, out = Path(RUNS.value), Path(OUT.value)
        found = tables(runs)
        for (name, table), place in zip(found.items(), names(found), strict=True):
            folder = out / place if GROUP.value else out
            if GROUP.value:
                steps.say(f"{GROUP.value} {name or '(empty)'}")
            laws = analyze(table, folder, runs, steps.say)
            for doubt in laws["doubts"]:
                print(f"doubtful: {doubt['run']}: {doubt['text']}")
            print(f"{laws['data']['description']}\n{summary(laws)}\nreport: {folder / 'report.html'}", flush=True)


def tables(runs: Path) -> "dict[str, Path | RunTable]":
    """What to analyze, by the value of --group_by; of a directory report.analyze files its forecast of the sealed runs
    before it opens their losses."""
    from ehr_scaling.analysis.tables import readers

    columns = readers.parse_columns(COLUMNS.value)
    if runs.is_dir() and not (columns or WHERE.value or GROUP.value):
        return {"": runs}
    if GROUP.value is None:
        return {"": readers.read(runs, columns, drop_bad_rows=BAD.value, where=WHERE.value)}
    return {**readers.read_groups(runs, GROUP.value, columns, drop_bad_rows=BAD.value, where=WHERE.value)}


def analyze(table: "Path | RunTable", out: Path, runs: Path, say: Any) -> dict[str, Any]:
    from ehr_scaling.analysis.report import report

    return report.analyze(
        table,
        out,
        provenance=lambda: provenance(runs),
        outcomes=Path(OUTCOMES.value) if OUTCOMES.value else None,
        audited=Path(AUDIT.value) if AUDIT.value else None,
        options=options(),
        drop_bad_rows=BAD.value,
        say=say,
    )


def options() -> "Options":
    from ehr_scaling.analysis.options import Options

    return Options(
        draws=DRAWS.value,
        seed=SEED.value,
        isoflop=ISOFLOP.value,
        window=WINDOW.value,
        near=NEAR.value,
        law=LAW.value,
        drop_highest_loss=DROP.value,
        hold_out_above=ABOVE.value,
    )


def provenance(runs: Path) -> dict[str, Any]:
    """What a reader needs to repeat this: versions, commit, and a fingerprint of what was read."""
    from ehr_scaling.artifacts import fingerprint_files
    from ehr_scaling.provenance import versions

    files = sorted(runs.glob("*/*/metrics/metrics")) if runs.is_dir() else [runs]
    root = runs if runs.is_dir() else runs.parent
    return {
        "versions": versions(("numpy", "scipy", "matplotlib")),
        "input": {"runs": runs.name, "files": len(files), "fingerprint": fingerprint_files(files, root)},
    }


if __name__ == "__main__":
    run(main, {NO_MEMORY: f"{NO_MEMORY}: fewer --draws"})
