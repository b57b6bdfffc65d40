r"""Fit scaling laws to finished runs and write the report.

    python -m launch.analyze --runs=W/runs --out=W/report
    python -m launch.analyze --runs=table.csv --columns=N=params,D=tokens --out=report

--runs is a directory of runs (as launch.sweep leaves it), or a .csv or .jsonl table with a row a run and the columns
  N       parameters of the body (without embedding and head)
  D       tokens seen in training, repeats included
  C       training FLOPs
  loss    validation loss, nats a token
and optionally run, cell, size, phase, seed, budget, N_head, N_embedding, real_tokens, unique_tokens, patients, passes,
C_6nd, loss_se, lr, batch, weight_decay. Rows that share a `run` are resampled together. Without a `budget` column, runs
whose C lies within a factor of 1.2 form one IsoFLOP budget.

--out takes report.html (one page, opens without network), laws.json (every number), forecast.json (the largest budget,
forecast before it was looked at) and figures/*.png. A report that is already there is replaced.
"""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import flags

from ehr_scaling.analysis import readers, report
from ehr_scaling.analysis.run_table import describe
from ehr_scaling.analysis.uncertainty import Options
from ehr_scaling.analysis.wording import DASH, count, decimal, percent, power, span
from ehr_scaling.artifacts import fingerprint_files
from launch.common import run

DEFAULTS = Options()
RUNS = flags.DEFINE_string("runs", None, "Directory of runs, or a .csv or .jsonl table of them.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder of the report.", required=True)
COLUMNS = flags.DEFINE_string("columns", "", "Names in the table for ours: N=params,D=tokens,loss=val_loss.")
OUTCOMES = flags.DEFINE_string("outcomes", None, "Folder outcomes/ with a folder a task; none by default.")
DROP = flags.DEFINE_integer("drop_highest_loss", 0, "Leave out this many runs of highest loss.", lower_bound=0)
ABOVE = flags.DEFINE_float("hold_out_above", None, "Seal the runs above this many FLOPs; default: the largest budget.")
DRAWS = flags.DEFINE_integer("draws", DEFAULTS.draws, "Bootstrap draws.", lower_bound=20)
SEED = flags.DEFINE_integer("bootstrap_seed", DEFAULTS.seed, "Seed of the draws: the same seed, the same report.")
WINDOW = flags.DEFINE_float("window", DEFAULTS.window, "Parabolas see sizes within this factor of the best.", 1.0)


def main() -> None:
    runs = Path(RUNS.value)
    table = readers.read(runs, readers.parse_columns(COLUMNS.value))
    options = Options(
        draws=DRAWS.value,
        seed=SEED.value,
        window=WINDOW.value,
        drop_highest_loss=DROP.value,
        hold_out_above=ABOVE.value,
    )
    out = Path(OUT.value)
    outcomes = Path(OUTCOMES.value) if OUTCOMES.value else None
    laws = report.analyze(table, out, provenance=provenance(runs), outcomes=outcomes, options=options)
    print(f"{describe(table)}\n{summary(laws)}\nreport: {out / 'report.html'}")


def summary(laws: dict[str, Any]) -> str:
    """Budgets with verdicts, exponents with intervals, the forecast: what a terminal has room for."""
    iso = laws["isoflop"]
    lines = [f"{'C (FLOPs)':>12} {'runs':>5}  {'verdict':<24} {'N*':>8}  {'interval':<20} {'L*':>7}"]
    for b in iso["budgets"]:
        bounds = span(b["intervals"]["N"], count)
        lines.append(
            f"{power(b['C']):>12} {b['runs']:>5}  {b['verdict']:<24} {count(b['N']):>8}  {bounds:<20} "
            f"{decimal(b['L']):>7}"
        )
    for key, name in (("a", "N* ~ C^a"), ("b", "D* ~ C^b")):
        verdict = laws["verdicts"][key]
        value = (
            f"{key} = {decimal(iso[key])}  [{span(iso['intervals'][key])}]" if iso[key] is not None else f"{key} {DASH}"
        )
        lines.append(f"{name}: {value}  {verdict['word']}: {verdict['reason']}")
    chosen = laws["laws"].get(laws["selected"])
    if chosen:
        p, verdict = chosen["parameters"], laws["verdicts"][laws["selected"]]
        lines.append(
            f"joint law: E {p['E']:.4g}, A {p['A']:.4g}, B {p['B']:.4g}, alpha {p['alpha']:.4f}, beta {p['beta']:.4f}, "
            f"a {p['a']:.4f}, objective {chosen['objective']:.7g}  {verdict['word']}: {verdict['reason']}"
        )
    sealed = laws["holdout"]
    if sealed and sealed["rows"]:
        lines.append(
            f"sealed budget: {len(sealed['rows'])} runs forecast with mean error {sealed['error_percent']:.2f} %, "
            f"{percent(sealed['coverage'])} inside the interval"
        )
    return "\n".join(lines)


def provenance(runs: Path) -> dict[str, Any]:
    """What a reader needs to repeat this: versions, commit, and a fingerprint of what was read."""
    versions = {name: metadata.version(name) for name in ("ehr_scaling", "numpy", "scipy", "matplotlib")}
    files = sorted(runs.glob("*/*/metrics/metrics")) if runs.is_dir() else [runs]
    root = runs if runs.is_dir() else runs.parent
    return {
        "versions": {"python": platform.python_version(), **versions, "commit": commit()},
        "input": {"runs": runs.name, "files": len(files), "fingerprint": fingerprint_files(files, root)},
    }


def commit() -> str:
    """The code's git commit, with + when files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


if __name__ == "__main__":
    run(main)
