"""Score the finished runs of a study by simulating futures: timelines/ and runs/ → outcomes/<task>/.

  python -m launch.evaluate --workdir=W                                          the study's own tasks
  python -m launch.evaluate --workdir=W --config.outcome.tasks="('icu_mortality_24h','readmission_30d')"
  python -m launch.evaluate --workdir=W --config.outcome.file=mine.yaml --config.outcome.tasks="('mine',)"
  python -m launch.evaluate --workdir=W --show=4                                 report/futures.html, to look at
  python -m launch.evaluate --workdir=W --trajectories=DIR                       futures as MEDS, a file a copy

--tasks lists what can be asked. Models that are scored already are skipped; what was interrupted goes on. A file of
your own tasks has the form of ehr_scaling/outcomes/tasks.yaml; with `labels:` it takes who is asked, and when, from
label files in the MEDS schema.
"""

from pathlib import Path

from absl import flags

from ehr_scaling import study
from ehr_scaling.outcomes import show, tasks
from launch import common

common.define_config_flags()
TASKS = flags.DEFINE_bool("tasks", False, "List the tasks that can be asked, and nothing else.")
SHOW = flags.DEFINE_integer("show", 0, "Write a page of so many timelines and their simulated futures.", lower_bound=0)
TRAJECTORIES = flags.DEFINE_string("trajectories", None, "Folder for the futures of all stays as MEDS trajectories.")
CELL = flags.DEFINE_string("cell", None, "The model for --show and --trajectories [default: the one of least loss].")


def main() -> None:
    config, _, workdir = common.read_flags()
    if TASKS.value:
        for task in tasks.load(Path(config.outcome.file) if config.outcome.file else None).values():
            print(f"{task.name:24} {task.description}")
        return
    print(study.score(config, workdir))
    if SHOW.value:
        print(f"the page is {show.page(workdir, SHOW.value, cell=CELL.value, seed=config.analysis.seed)}")
    if TRAJECTORIES.value:
        counts = show.write_trajectories(workdir, Path(TRAJECTORIES.value), cell=CELL.value)
        print(f"{TRAJECTORIES.value}: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()))


if __name__ == "__main__":
    common.run(main)
