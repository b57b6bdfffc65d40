"""Teach trained models an outcome by labels: a linear probe on frozen states, and fine-tuning, beside zero-shot.

  python -m launch.supervise --workdir=W                                       all labels, of each task that is prepared
  python -m launch.supervise --workdir=W --labels=50,200,1000,all              how much do labels help?
  python -m launch.supervise --workdir=W --methods=probe --task=in_hospital_death_24h
  python -m launch.supervise --workdir=W --labels=50,200,1000,all --dry_run    FLOPs and time, before anything is fitted
  python -m launch.supervise --workdir=W --methods=probe --distributed         one of several processes, as one

W is the work directory of a study whose tasks launch.evaluate has prepared. Heads learn from stays of the train split,
are chosen by the log-loss of stays of the tuning split (of n labels, n more to choose by), and answer the test stays
that the models answered zero-shot. Without --cell, the models are the finished one of least validation loss and those
that differ from it in the seed alone. W/outcomes/<task>/supervised/ gets a score and predictions of each head, and of
the mean risk of the seeds; launch.study puts them into the report. What is there is not made again. A model that no
machine holds is read for probes by all processes of --distributed (or --coordinator) together; they fine-tune none.
"""

from pathlib import Path

from absl import flags

from ehr_scaling import storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.layout import Layout

from .common import common, log

METHODS = ("probe", "finetune")
WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a study, with trained models.", required=True)
CELL = flags.DEFINE_list("cell", [], "Ids of models in W/grid [default: the least validation loss, in all seeds].")
TASK = flags.DEFINE_list("task", [], "Names of prepared tasks [default: all that ask for yes or no].")
LABELS = flags.DEFINE_list("labels", ["all"], "Numbers of labelled train stays, and `all`.")
METHODS_FLAG = flags.DEFINE_list("methods", list(METHODS), "probe, finetune, or both.")
DRAWS = flags.DEFINE_integer("draws", 3, "Draws of the labels, of each number but for all.", lower_bound=1)
RATES = flags.DEFINE_list("rates", None, "Peak learning rates of fine-tuning, chosen from on the tuning stays.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Of fine-tuning, at most.", lower_bound=0)
WEIGHTS = flags.DEFINE_bool("class_weights", False, "Let both outcomes weigh the same in all while learning.")
SEED = flags.DEFINE_integer("seed", 0, "Of the draws of labels, of the order of training and of dropout.")
WORKERS = flags.DEFINE_integer("workers", 0, "Processes, a model each; 0: one a core.", lower_bound=0)
common.define_process_flags()
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what it costs, and fit nothing.")


def main() -> None:
    workdir = storage.local(WORKDIR.value)
    print(f"heads on models of {WORKDIR.value}", flush=True)
    _rates()
    if not METHODS_FLAG.value or set(METHODS_FLAG.value) - set(METHODS):
        raise UserError(f"--methods={','.join(METHODS_FLAG.value)}: take {' or '.join(METHODS)}, or both")
    if common.several_processes() and "finetune" in METHODS_FLAG.value:
        raise UserError(
            "fine-tuning is by the devices of one process: give --methods=probe, or leave out --distributed "
            "(--coordinator, --processes, --process)"
        )
    common.ask_together(lambda: fit_heads(workdir), workdir)


def fit_heads(workdir: Path) -> None:
    """Fit and score the heads that are asked for: by process 0 of those that ask as one."""
    manifest.read(Layout(workdir).grid)
    # Not above: a mistake in a flag, or a folder without models, needs no JAX.
    from ehr_scaling.outcomes.supervised import labels, supervise
    from ehr_scaling.outcomes.supervised.finetune import Recipe

    counts = labels.of_flag(LABELS.value)
    recipe = Recipe(class_weights=WEIGHTS.value)
    recipe = recipe._replace(rates=_rates() or recipe.rates)
    recipe = recipe if EPOCHS.value is None else recipe._replace(epochs=EPOCHS.value)
    plan = supervise.plan(
        workdir,
        cells=CELL.value,
        tasks=TASK.value,
        methods=tuple(METHODS_FLAG.value),
        counts=counts,
        draws=DRAWS.value,
        recipe=recipe,
        seed=SEED.value,
    )
    for line in plan.notes:
        print(line)
    if DRY_RUN.value:
        print(supervise.cost_of(workdir, plan, WORKERS.value))
        return
    log.keep(workdir)
    scores = supervise.run(workdir, plan, WORKERS.value)
    print(supervise.describe(plan, workdir, scores))


def _rates() -> tuple[float, ...]:
    given = RATES.value or []
    try:
        rates = tuple(float(rate) for rate in given)
    except ValueError:
        rates = (-1.0,)
    if any(not 0 < rate < 1 for rate in rates):
        raise UserError(f"--rates={','.join(given)}: take numbers between 0 and 1, such as 3e-4,1e-3")
    return rates


if __name__ == "__main__":
    common.run(main)
