"""Write a finished study down as others can cite and refit it, and judge the claims that were filed before it ran.

  python -m launch.publish --workdir=W --claims=studies/NAME/claims.yaml --out=studies/NAME

Writes runs.csv (a row a run: parameters, tokens, passes, FLOPs, loss a token, event, patient-day and patient, AUROC,
rates, recipe, seconds, versions), curves.csv (thinned losses of training), laws.json, claims.json and the figures.
The claims file says which runs enter: others are left out, and missing ones make a claim incomplete. No patient's data
and no checkpoint goes out.
"""

from pathlib import Path

from absl import flags

from ehr_scaling import storage
from ehr_scaling.layout import Layout

from .common import log
from .common.common import run

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the study.", required=True)
CLAIMS = flags.DEFINE_string("claims", None, "The claims file, YAML.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder to write to.", required=True)


def main() -> None:
    print(f"publishing the study {WORKDIR.value}", flush=True)
    workdir = storage.local(WORKDIR.value)
    log.keep(workdir)
    from ehr_scaling import publish
    from ehr_scaling.errors import UserError

    claims = Path(CLAIMS.value)
    if not claims.is_file():
        raise UserError(f"--claims={claims} is no file")
    storage.fetch(Layout(workdir).grid)
    if not Layout(workdir).grid.is_dir():
        raise UserError(f"--workdir={workdir} holds no grid/: run launch.study there first")
    summary = publish.publish(workdir, claims, Path(OUT.value))
    print(f"{summary['finished']} of {summary['listed']} listed runs; {summary['others']} others are left out")
    for claim in summary["claims"]:
        print(f"{claim['word']:>10}: {claim['claim']} ({claim['figure']} is {claim['value']})")
    print(f"published: {OUT.value}")


if __name__ == "__main__":
    run(main)
