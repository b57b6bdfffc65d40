r"""Fit scaling laws to finished runs and write the report.

    python -m launch.analyze --runs=W/runs --out=W/report
    python -m launch.analyze --runs=table.csv --columns=N=params,D=tokens --out=report

--runs is a directory of runs (as launch.sweep leaves it), or a .csv, .jsonl or .parquet table of a row a run with
  N       parameters of the body (without embedding and head)
  D       tokens seen in training, repeats included
  C       training FLOPs
  loss    validation loss, nats a token
and optionally run, cell, size, phase, seed, budget, N_head, N_embedding, real_tokens, unique_tokens, patients, passes,
C_6nd, own_flops, loss_se, lr, rate_multiple, batch, weight_decay, dropout, fraction, schedule, trunk, optimizer,
parametrization, edge. Rows that share a `run` are resampled together. Without a `budget` column, runs
whose C lies within a factor of 1.2 form one IsoFLOP budget. Of N, D and C one may be left out where C = 6 N D:
--columns=D=C/6N, N=C/6D or C=6ND.

--out takes report.html (one page, opens without network), laws.json (every number), forecast.json (the largest budget,
forecast before it was looked at) and figures/*.png. A report that is already there is replaced.
"""

from pathlib import Path
from typing import Any

from absl import flags

from ehr_scaling.analysis.isoflop import isoflop
from ehr_scaling.analysis.joint.joint_laws import AUTO, FORMS
from ehr_scaling.analysis.report import report
from ehr_scaling.analysis.report.summary import summary
from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.uncertainty import Options
from ehr_scaling.artifacts import fingerprint_files
from ehr_scaling.provenance import versions
from launch.common import run

DEFAULTS = Options()
RUNS = flags.DEFINE_string(
    "runs", None, "Directory of runs, or a .csv, .jsonl or .parquet table of them.", required=True
)
OUT = flags.DEFINE_string("out", None, "Folder of the report.", required=True)
COLUMNS = flags.DEFINE_string("columns", "", "Names in the table for ours: N=params,D=tokens,loss=val_loss.")
BAD = flags.DEFINE_bool("drop_bad_rows", False, "Leave out rows that are no numbers, with a reason, instead of ending.")
OUTCOMES = flags.DEFINE_string("outcomes", None, "Folder outcomes/ with a folder a task; none by default.")
DROP = flags.DEFINE_integer("drop_highest_loss", 0, "Leave out this many runs of highest loss.", lower_bound=0)
ABOVE = flags.DEFINE_float("hold_out_above", None, "Seal the runs above this many FLOPs; default: the largest budget.")
LAW = flags.DEFINE_enum("law", AUTO, [AUTO, *FORMS], "The joint law; auto: what rolling hold-outs select.")
DRAWS = flags.DEFINE_integer("draws", DEFAULTS.draws, "Bootstrap draws.", lower_bound=20)
SEED = flags.DEFINE_integer("bootstrap_seed", DEFAULTS.seed, "Seed of the draws: the same seed, the same report.")
ISOFLOP = flags.DEFINE_enum(
    "isoflop", DEFAULTS.isoflop, isoflop.METHODS, "The curve of a budget; akima follows lopsided profiles, and noise."
)
NEAR = flags.DEFINE_float("near", DEFAULTS.near, "Sizes within this share of the lowest loss are near-optimal.", 0.0)
WINDOW = flags.DEFINE_float("window", DEFAULTS.window, "Parabolas see sizes within this factor of the best.", 1.0)


def main() -> None:
    runs = Path(RUNS.value)
    columns = readers.parse_columns(COLUMNS.value)
    if runs.is_dir() and columns:
        readers.read(runs, columns)  # says what is wrong with that
    # Of a directory report.analyze files its forecast of the sealed runs before it opens their losses.
    table = runs if runs.is_dir() else readers.read(runs, columns, drop_bad_rows=BAD.value)
    options = Options(
        draws=DRAWS.value,
        seed=SEED.value,
        isoflop=ISOFLOP.value,
        window=WINDOW.value,
        near=NEAR.value,
        law=LAW.value,
        drop_highest_loss=DROP.value,
        hold_out_above=ABOVE.value,
    )
    out = Path(OUT.value)
    outcomes = Path(OUTCOMES.value) if OUTCOMES.value else None
    laws = report.analyze(
        table,
        out,
        provenance=lambda: provenance(runs),
        outcomes=outcomes,
        options=options,
        drop_bad_rows=BAD.value,
    )
    print(f"{laws['data']['description']}\n{summary(laws)}\nreport: {out / 'report.html'}")


def provenance(runs: Path) -> dict[str, Any]:
    """What a reader needs to repeat this: versions, commit, and a fingerprint of what was read."""
    files = sorted(runs.glob("*/*/metrics/metrics")) if runs.is_dir() else [runs]
    root = runs if runs.is_dir() else runs.parent
    return {
        "versions": versions(("numpy", "scipy", "matplotlib")),
        "input": {"runs": runs.name, "files": len(files), "fingerprint": fingerprint_files(files, root)},
    }


if __name__ == "__main__":
    run(main)
