"""Let a trained model leave: a folder that transformers loads, with what its tokens mean and a card. Or a run table.

  python -m launch.export --workdir=W --out=DIR               # the finished model of least validation loss
  python -m launch.export --workdir=W --cell=ID --out=DIR     # the one of this id, of W/grid/manifest.jsonl
  python -m launch.export --workdir=W --runs=exported.parquet # its finished runs, a row each; or .csv, or wandb:PROJECT

DIR gets model.safetensors and config.json (a Llama where the model has no mixing of neighbouring positions; with it a
module of 60 lines beside them, which transformers runs with trust_remote_code=True), tokens.json (the vocabulary, edges
of values, classes of time) and README.md, the model card, in which the licence is left for you to say. No patient's
data goes out. A model of real patients may have learnt some of it by heart: the terms of its data say who may have it.
"""

from pathlib import Path

from absl import flags

from ehr_scaling import storage
from ehr_scaling.errors import UserError

from .common import log
from .common.common import run

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a study, with a trained model.", required=True)
CELL = flags.DEFINE_string("cell", None, "Id of the model in W/grid [default: the least validation loss].")
OUT = flags.DEFINE_string("out", None, "Folder to write the model to, which is not there yet.")
RUNS = flags.DEFINE_string("runs", None, "Instead: a .csv or .parquet file for the run table, or wandb:PROJECT.")


def main() -> None:
    if OUT.value is not None and RUNS.value is None:
        _model(OUT.value)
    elif RUNS.value is not None and OUT.value is None:
        if CELL.value is not None:
            raise UserError(f"--cell={CELL.value}: --runs is the table of all finished runs: leave one of them out")
        _runs(RUNS.value)
    else:
        raise UserError("give --out=DIR, for a model, or --runs=FILE, for the table of all finished runs")


def _runs(to: str) -> None:
    print(f"exporting the runs of {WORKDIR.value} to {to}", flush=True)
    workdir = storage.local(WORKDIR.value)
    log.keep(workdir)
    from ehr_scaling import publish

    print(f"{publish.export_runs(workdir, to)} finished runs: {to}")


def _model(out: str) -> None:
    print(f"exporting a model of {WORKDIR.value} to {out}", flush=True)
    workdir = storage.local(WORKDIR.value)
    log.keep(workdir)
    from ehr_scaling.finished_models import release
    from ehr_scaling.models.export import CODE

    done = release.release(workdir, Path(out).absolute(), CELL.value)
    why = "of the least validation loss among the finished ones, " if CELL.value is None else ""
    loss = f"{done['validation_loss']:.4f} ± {done['validation_loss_se']:.4f} nats a token"
    print(f"cell {done['cell']} ({done['size']}), {why}{loss}")
    if done["mixing"] != "none":
        print(f"mixing is no part of Llama: {CODE} is beside the weights, for from_pretrained(trust_remote_code=True)")
    print(f"{out}: {', '.join(done['files'])}; say in README.md under which licence it may be passed on")


if __name__ == "__main__":
    run(main)
