"""Score the finished runs of a study by simulating futures: timelines/ and runs/ → outcomes/<task>/.

  python -m launch.evaluate --workdir=W                                          the study's own tasks
  python -m launch.evaluate --workdir=W --config.outcome.tasks="('icu_mortality_24h','readmission_30d')"
  python -m launch.evaluate --workdir=W --config.outcome.file=mine.yaml --config.outcome.tasks="('mine',)"
  python -m launch.evaluate --workdir=W --show=4                                 report/futures.html, to look at
  python -m launch.evaluate --workdir=W --trajectories=DIR                       futures as MEDS, a file a copy
  python -m launch.evaluate --workdir=W --executor=slurm --slurm_time=1:00:00    a task a model, in Slurm's queue
  python -m launch.evaluate --workdir=W --distributed                            one of several processes, as one

--tasks lists what can be asked. Models that are scored already are skipped; what was interrupted goes on. The same
command on several machines that share W shares the models, and the last ones by parts. A model that no machine holds is
scored by all processes of --distributed (or --coordinator) together, or by those of --slurm_nodes. A file of your own
tasks has the form of ehr_scaling/outcomes/asking/tasks/tasks.yaml; with `labels:` it takes who is asked, and when, from
label files in the MEDS schema.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ehr_scaling import artifacts
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.progress import Steps

from .common import common, slurm_flags

common.define_config_flags()
common.define_process_flags()
flags.adopt_module_key_flags(slurm_flags)
EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm"], "Who scores.")
TASKS = flags.DEFINE_bool("tasks", False, "List the tasks that can be asked, and nothing else.")
SHOW = flags.DEFINE_integer("show", None, "Write a page of so many timelines and their futures.", lower_bound=1)
TRAJECTORIES = flags.DEFINE_string("trajectories", None, "New folder for the futures of all stays, as MEDS.")
CELL = flags.DEFINE_string("cell", None, "The model for --show and --trajectories [default: the one of least loss].")


def main() -> None:
    config, _, workdir = common.read_flags(goes_on=True)
    from ehr_scaling.outcomes.asking.tasks import tasks

    if TASKS.value:
        custom_tasks = tasks.load(Path(config.outcome.file)) if config.outcome.file else {}
        for task in (tasks.load() | custom_tasks).values():
            print(f"{task.name:24} {task.description}")
        return
    if EXECUTOR.value == "slurm":
        slurm_flags.check()
        if common.several_processes():
            raise UserError("--executor=slurm starts the processes of --slurm_nodes itself: leave --distributed out")
    common.begin(config, workdir)
    print(f"scoring the models of {workdir}", flush=True)
    common.ask_together(lambda: score(config, workdir), workdir)


def score(config: ConfigDict, workdir: Path) -> None:
    """By process 0 of those that score as one."""
    # Not above: what lists tasks and flags needs no JAX.
    from ehr_scaling import study
    from ehr_scaling.outcomes import evaluate, following
    from ehr_scaling.outcomes.pages import show

    trajectories = Path(TRAJECTORIES.value) if TRAJECTORIES.value else None
    show.check(workdir, SHOW.value, trajectories, CELL.value)  # before hours of simulation
    if EXECUTOR.value == "slurm":
        with Steps() as steps:
            _, any_asked = study.ask(config, workdir, steps.say)
        each = [[cell] for cell in study.to_score(workdir)] if any_asked else []
        costs = evaluate.costs(workdir, each)
        about = {"title": "simulating futures", "done": evaluate.finished, "costs": costs, "kind": "score"}
        about["steps"] = following.steps
        queued = slurm_flags.submit(evaluate.job, each, workdir, **about)
        if queued:
            print("when they have ended, the same command without --executor tells the scores")
            return
    else:
        with Steps() as steps:
            study.score(config, workdir, steps.say)
    folders = {name: Layout(workdir).task(name) for name in config.outcome.tasks}
    answered = {name: folder for name, folder in folders.items() if (folder / evaluate.BASELINE).exists()}
    for name, folder in answered.items():
        scores = [artifacts.read_json(path) for path in folder.glob("*.json")]
        bounded = [score["bounded"] for score in scores if "bounded" in score]
        what = "futures" if any(score.get("copies") for score in scores) else "the probability"
        cut = f" Cut off by new_tokens: {min(bounded):.0%} to {max(bounded):.0%} of {what}." if bounded else ""
        print(f"{name}: {artifacts.read_json(folder / 'task.json')['description']}{cut}")
    if answered and SHOW.value:
        print(f"the page is {show.page(workdir, SHOW.value, cell=CELL.value, seed=config.analysis.seed)}")
    if answered and trajectories:
        counts = show.write_trajectories(workdir, trajectories, cell=CELL.value)
        print(f"{trajectories}: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()))
    if unanswered := [name for name in folders if name not in answered]:
        raise UserError(f"{', '.join(unanswered)}: not scored, for the reason above; choose other tasks (--tasks)")


if __name__ == "__main__":
    common.run(main)
