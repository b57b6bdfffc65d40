"""Predict what a label file or a task asks, zero-shot, by simulating futures of one trained model.

  python -m launch.predict --model=W --labels=DIR --split=held_out --out=P --task=icu_mortality_24h
  python -m launch.predict --model=W --labels=labels/mortality/in_icu/first_24h --split=held_out --out=P
  python -m launch.predict --model=W --labels=DIR --split=held_out --out=P --task_file=anemia/first_24h.yaml \\
      --predicates=MIMIC-IV/predicates.yaml
  python -m launch.predict --model=W --labels=DIR --split=held_out --out=P --positive=MEDS_DEATH \\
      --negative=HOSPITAL_DISCHARGE --horizon_days=30 --at_horizon=negative
  python -m launch.predict --model=W --data=OTHERS --out=P --task=hospital_mortality
  python -m launch.predict --model=W --data=OTHERS --out=P --task=hospital_mortality --distributed

W is the work directory of a study. Labels are parquet files in the MEDS label schema: they say who is asked and when,
the task or the tokens say what for. A task file of MEDS-DEV with the data set's predicates says it too, thresholds on
values included: a bin that a threshold cuts counts with the share of its values that lie beyond.
P/predictions.parquet is in the MEDS prediction schema. With --data, the patients are those of another folder of
records, all of them held out; without --labels, the task says which of them are asked. A model that no machine holds
is asked by all processes of --distributed (or --coordinator) together: the same command in each.
"""

from pathlib import Path

from absl import flags

from ehr_scaling.errors import NO_MEMORY

from .common import common

MODEL = flags.DEFINE_string("model", None, "Folder of a study, with a trained model.", required=True)
LABELS = flags.DEFINE_string("labels", None, "Parquet file, or folder of such, in the MEDS label schema.")
SPLIT = flags.DEFINE_string("split", None, "train, tuning or held_out, of the study's own patients.")
DATA = flags.DEFINE_string("data", None, "Instead: records of other patients, MIMIC-IV, MEDS or Challenge 2012.")
OUT = flags.DEFINE_string("out", None, "Folder for predictions.parquet.", required=True)
TASK = flags.DEFINE_string("task", None, "A task of tasks.yaml or of MEDS-DEV [default: the end of --labels].")
TASK_FILE = flags.DEFINE_string(
    "task_file",
    None,
    "Instead: a task file of MEDS-DEV, or the folder of them, of which the end of --labels names one.",
)
PREDICATES = flags.DEFINE_string(
    "predicates", None, "With --task_file: predicates.yaml of the data set, or the folder of those of all data sets."
)
POSITIVE = flags.DEFINE_list("positive", [], "Instead: tokens of the outcome; NAME means every NAME//… too.")
NEGATIVE = flags.DEFINE_list("negative", [], "Tokens of its opposite.")
OPEN = flags.DEFINE_list("open", [], "Tokens that leave it open.")
HORIZON = flags.DEFINE_float("horizon_days", None, "Days for which the outcome is watched.", lower_bound=0)
AT_HORIZON = flags.DEFINE_enum("at_horizon", "negative", ["positive", "negative", "open"], "What it means without any.")
CELL = flags.DEFINE_string("cell", None, "Id of the model in W/grid [default: the least validation loss].")
COPIES = flags.DEFINE_integer(
    "copies",
    None,
    "Simulated futures of each label [default: with --data as the study asked its own patients; else 20].",
)
TOKENS = flags.DEFINE_integer("new_tokens", None, "Tokens of the longest future [default: likewise; else 512].")
SEED = flags.DEFINE_integer("seed", 0, "Of the simulation.")
TRAJECTORIES = flags.DEFINE_bool("trajectories", False, "Write the futures too, as MEDS trajectories.")
CODE_MAPS = flags.DEFINE_string("code_maps", None, "With --data: the folder of code maps that the study has, if any.")
DIALECT = flags.DEFINE_string("dialect", None, "With --data: which program wrote the MEDS codes [default: they tell].")
MAY_LOSE = flags.DEFINE_list("may_lose", [], "With --data: families of MEDS codes that may be left out whole.")
LEAST_KNOWN = flags.DEFINE_float(
    "least_known",
    0.5,
    "With --data: share of the events that must not be unknown to the model. Below half, a prompt says less of the "
    "patient than of what stands in for codes that the model never read, and nothing is predicted.",
    lower_bound=0,
    upper_bound=1,
)
common.define_process_flags()
WORKERS = flags.DEFINE_integer("workers", 0, "With --data: processes that prepare it; 0: one a core.", lower_bound=0)
# What messages of the stages call the flags that have other names here
NAMES = {
    "--config.data.dialect": "--dialect",
    "--config.data.may_lose": "--may_lose",
    "--config.outcome.new_tokens": "--new_tokens",
    "--config.workers": "--workers",
    "--raw": "--data",
    "another --workdir": "another --out",
    "--workdir": "--model",
    NO_MEMORY: f"{NO_MEMORY}: fewer --copies or --new_tokens",
}


def main() -> None:
    _check_flags()
    common.use_all_cores(f"predicting with a model of {MODEL.value}")
    model = Path(MODEL.value).absolute()
    common.ask_together(lambda: write_predictions(model), model)


def write_predictions(model: Path) -> None:
    """Ask the model and write the risks to --out: by process 0 of those that ask as one."""
    from ehr_scaling import artifacts
    from ehr_scaling.data import disclosure
    from ehr_scaling.data.inspection import inspection
    from ehr_scaling.data.timelines import others
    from ehr_scaling.outcomes import choosing, predict
    from ehr_scaling.outcomes.asking.meds_dev import meds_dev

    data, out = None if DATA.value is None else Path(DATA.value).absolute(), Path(OUT.value)
    if LABELS.value is None:
        task = predict.of_cohort(TASK.value)
    elif TASK_FILE.value is not None:
        choosing.best_cell(model, CELL.value)
        predicates = None if PREDICATES.value is None else Path(PREDICATES.value)
        task, notes = meds_dev.of_file(model, Path(LABELS.value), Path(TASK_FILE.value), predicates)
        for note in notes:
            print(note)
    else:
        task = predict.outcome(
            Path(LABELS.value),
            TASK.value,
            positive=POSITIVE.value,
            negative=NEGATIVE.value,
            open=OPEN.value,
            horizon_days=HORIZON.value,
            at_horizon=AT_HORIZON.value,
        )
    known = None
    if data is not None:
        choosing.best_cell(model, CELL.value)  # before work on records: is there a model?
        prepared = others.prepare(
            data,
            model,
            out.absolute(),
            code_maps=CODE_MAPS.value,
            dialect=DIALECT.value,
            may_lose=MAY_LOSE.value,
            least_known=LEAST_KNOWN.value,
            workers=WORKERS.value,
        )
        known = prepared["summary"]["known"]
    done = predict.predict(
        model,
        task,
        out,
        SPLIT.value or others.SPLIT,
        patients=None if data is None else out.absolute(),
        cell=CELL.value,
        copies=COPIES.value,
        new_tokens=TOKENS.value,
        seed=SEED.value,
        keep_futures=TRAJECTORIES.value,
    )
    generated = inspection.of_generated(model if data is None else out)

    def count(n: int) -> str:
        return disclosure.words(n, generated)

    for line in done.get("thresholds", ()):
        print(line)
    if data is not None and done["began_with"]:
        print(
            "the model began with the weights of another, whose patients are not known: some may be among those asked"
        )
    silent = done.pop("unknown")  # a count that may be small
    mean = f"; {count(silent)} of whom no future said anything have the mean of the others" if silent else ""
    left_out = "".join(f"; left out: {count(n)} labels {reason}" for reason, n in done["left_out"].items())
    print(
        f"{task.name}: {count(done['stays'])} predictions by cell {done['cell']} ({done['size']}), "
        f"{done['bounded']:.1%} of futures cut off by --new_tokens{mean}{left_out}"
    )
    if data is not None:
        print(predict.describe(done, generated))
        record = {"task": task.name, **predict.as_told(done, generated), "known": known}
        artifacts.write_json(out / predict.METRICS, record)


def _check_flags() -> None:
    from ehr_scaling.errors import UserError

    if DATA.value is None:
        if SPLIT.value is None:
            raise UserError("--split is missing: train, tuning or held_out, or give other patients with --data")
        if LABELS.value is None:
            raise UserError("--labels is missing: the study's own cohort is asked by launch.evaluate")
        for flag in (CODE_MAPS, DIALECT):
            if flag.value is not None:
                raise UserError(f"--{flag.name} is for the records of --data: leave it out")
    elif SPLIT.value is not None:
        raise UserError("--split does not apply with --data, of which all patients are held out: leave it out")
    if TASK_FILE.value is not None and (TASK.value or POSITIVE.value):
        raise UserError("--task_file says what is asked: leave --task and --positive out")
    if PREDICATES.value is not None and TASK_FILE.value is None:
        raise UserError("--predicates is for a task file: give it with --task_file")
    if LABELS.value is None and TASK_FILE.value is not None:
        raise UserError("--labels is missing: a task file of MEDS-DEV is asked of labels made of it")
    beside = [flag.name for flag in (NEGATIVE, OPEN, HORIZON, AT_HORIZON) if flags.FLAGS[flag.name].present]
    if LABELS.value is None and (POSITIVE.value or beside):
        raise UserError("--positive and the flags beside it say what --labels ask: give --labels, or --task alone")
    if beside and not POSITIVE.value:
        raise UserError(f"--{beside[0]} goes with --positive: a task says for itself what decides it, and until when")


if __name__ == "__main__":
    common.run(main, NAMES)
