"""Turn records into packed training data: records → events/ → timelines/ → packed/t<T>/.

  python -m launch.prepare --source=mimic-iv --raw=DIR --workdir=W               your copy of MIMIC-IV
  python -m launch.prepare --source=mimic-iv --raw=DIR --preset=ethos_ares --code_maps=DIR --workdir=W
  python -m launch.prepare --source=meds --raw=DIR --workdir=W                   any MEDS data set
  python -m launch.prepare --source=synthetic --layout=mimic-iv --fraction=0.1 --workdir=W
  python -m launch.prepare --source=mimic-iv --raw=DIR --workdir=W --runner=FlinkRunner --beam=--flink_master=HOST:8081

What is there already is kept, and what was interrupted goes on where it was; a work directory made from other records
is refused. On many machines (--runner, any of Apache Beam's) W and DIR must be on storage that all of them share.
"""

import shlex

from absl import flags

from ehr_scaling import layout, settings, storage
from ehr_scaling.errors import UserError

from .common import common

common.define_config_flags()
UNTIL = flags.DEFINE_enum("until", "packed", layout.STAGES, "The last stage to make.")
RUNNER = flags.DEFINE_string("runner", None, "Beam runner: DirectRunner, DaskRunner, FlinkRunner, SparkRunner, …")
BEAM = flags.DEFINE_string("beam", "", "More flags for the Beam pipeline, as one string.")


def beam_flags() -> tuple[str, ...]:
    """--runner and --beam as the flags of a pipeline; none where neither is given."""
    if not RUNNER.value:
        if BEAM.value:
            raise UserError("--beam has flags of a Beam pipeline, and without a runner there is none: give --runner")
        return ()
    try:
        return (f"--runner={RUNNER.value}", *shlex.split(BEAM.value))
    except ValueError as e:
        raise UserError(f"--beam={BEAM.value}: {str(e).lower()}: quote it as a shell would") from None


def main() -> None:
    config, _, workdir = common.read_flags()
    if flags_of_beam := beam_flags():
        config.data.beam = flags_of_beam
    common.begin(config, workdir, makes=True)
    from ehr_scaling.data import pipeline  # not above: --help would wait for it

    fractions = tuple(config.grid.fractions)
    with settings.kept(config, workdir):
        pipeline.prepare(config.data, workdir, workers=config.workers, until=UNTIL.value, fractions=fractions)
    place = storage.given(workdir)
    print(f"made: {place}; look at it with python -m ehr_scaling.launch.inspect --workdir={place}")


if __name__ == "__main__":
    common.run(main)
