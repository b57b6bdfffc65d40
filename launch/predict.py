"""Predict what a label file asks, zero-shot, by simulating futures of one trained model.

  python -m launch.predict --model=W --labels=DIR --split=held_out --out=P --task=icu_mortality_24h
  python -m launch.predict --model=W --labels=labels/mortality/in_icu/first_24h --split=held_out --out=P
  python -m launch.predict --model=W --labels=DIR --split=held_out --out=P --positive=MEDS_DEATH \\
      --negative=HOSPITAL_DISCHARGE --horizon_days=30 --at_horizon=negative

W is the work directory of a study. Labels are parquet files in the MEDS label schema: they say who is asked and when,
the task or the tokens say what for. P/predictions.parquet is in the MEDS prediction schema.
"""

from pathlib import Path

from absl import flags

from launch import common

MODEL = flags.DEFINE_string("model", None, "Folder of a study, with a trained model.", required=True)
LABELS = flags.DEFINE_string(
    "labels", None, "Parquet file, or folder of such, in the MEDS label schema.", required=True
)
SPLIT = flags.DEFINE_string("split", None, "train, tuning or held_out.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for predictions.parquet.", required=True)
TASK = flags.DEFINE_string("task", None, "A task of tasks.yaml or of MEDS-DEV [default: the end of --labels].")
POSITIVE = flags.DEFINE_list("positive", [], "Instead: tokens of the outcome; NAME means every NAME//… too.")
NEGATIVE = flags.DEFINE_list("negative", [], "Tokens of its opposite.")
OPEN = flags.DEFINE_list("open", [], "Tokens that leave it open.")
HORIZON = flags.DEFINE_float("horizon_days", None, "Days for which the outcome is watched.", lower_bound=0)
AT_HORIZON = flags.DEFINE_enum("at_horizon", "negative", ["positive", "negative", "open"], "What it means without any.")
CELL = flags.DEFINE_string("cell", None, "Id of the model in W/grid [default: the least validation loss].")
COPIES = flags.DEFINE_integer("copies", 20, "Simulated futures of each label.")
TOKENS = flags.DEFINE_integer("new_tokens", 512, "Tokens of the longest future.")
SEED = flags.DEFINE_integer("seed", 0, "Of the simulation.")
TRAJECTORIES = flags.DEFINE_bool("trajectories", False, "Write the futures too, as MEDS trajectories.")


def main() -> None:
    common.use_all_cores()
    from ehr_scaling.outcomes import predict

    labels = Path(LABELS.value)
    task = predict.outcome(
        labels,
        TASK.value,
        positive=POSITIVE.value,
        negative=NEGATIVE.value,
        open=OPEN.value,
        horizon_days=HORIZON.value,
        at_horizon=AT_HORIZON.value,
    )
    done = predict.predict(
        Path(MODEL.value).absolute(),
        task,
        Path(OUT.value),
        SPLIT.value,
        cell=CELL.value,
        copies=COPIES.value,
        new_tokens=TOKENS.value,
        seed=SEED.value,
        keep_futures=TRAJECTORIES.value,
    )
    left_out = "".join(f"; left out: {n:,} labels {reason}" for reason, n in done["left_out"].items())
    print(
        f"{task.name}: {done['stays']:,} predictions by cell {done['cell']} ({done['size']}), "
        f"{done['bounded']:.1%} of futures cut off by --new_tokens{left_out}"
    )


if __name__ == "__main__":
    common.run(main)
