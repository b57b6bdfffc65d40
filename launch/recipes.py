"""The recipe ladder: what changes to the published recipe are worth, one at a time.

  python -m launch.recipes                                        what each rung changes, and why; trains nothing
  python -m launch.recipes --data=synthetic --workdir=W           train and score every rung, and say what it is worth
  python -m launch.recipes --data=challenge-2012 --workdir=W --rungs=published,mixing

Each rung is a study in W/<rung>: run the same command again after an interruption, and it goes on where it was. Told
are, against the rung that it changes: the loss at equal size and compute, the factor of compute by which the rung
reaches the other's loss (below 1: it needs less), an event and a patient-day, since losses a token of two vocabularies
do not compare; the scatter of seeds; and the AUROC of the largest budget's models. W/recipes.json has all of it,
W/recipes.png the factors.
"""

import os
import shutil
from pathlib import Path

from absl import flags

from ehr_scaling import storage
from ehr_scaling.errors import NO_MEMORY, UserError
from ehr_scaling.layout import RESULTS, Layout

from .common import log
from .common.common import run

DATA = flags.DEFINE_enum("data", "synthetic", ["synthetic", "challenge-2012"], "The patients.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the studies of the rungs; without it they are only shown.")
RUNGS = flags.DEFINE_list("rungs", [], "Names of the rungs to train [default: all]; others must be there already.")
RAW = flags.DEFINE_string("raw", None, "Folder with the raw records, instead of downloading them.")
SPLIT_FILE = flags.DEFINE_string("split_file", None, "A published split of the patients: a CSV or parquet file.")
SCORE = flags.DEFINE_bool("score", True, "Ask the models about patients too, for AUROC.")
BESIDE = flags.DEFINE_multi_string("beside", [], "recipes.json of other patients, drawn into the same figure.")
DRAWS = flags.DEFINE_integer("draws", 1000, "Bootstrap draws.", lower_bound=20)


def show() -> None:
    from ehr_scaling.configs import recipes

    for title, changes in (("The ladder, each on the one before it:", recipes.LADDER), ("Tried:", recipes.TRIED)):
        print(f"\n{title}")
        for change in changes:
            fields = ", ".join(f"{name}={value}" for name, value in change.settings.items())
            print(f"  {change.name} ({f'on {change.on}: ' if change.on else ''}{fields})\n      {change.why}")


def share(folder: Path, others: list[Path]) -> None:
    """Links what an earlier rung made of the same records: preparing them again would take longer than to train."""
    source = next((other for other in others if (other / "events").is_dir()), None)
    if source is not None and not folder.exists():
        for name in ("raw", "events"):
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def trained(folders: dict[str, Path]) -> list[str]:
    """The rungs that were trained, brought from the bucket where there is one: some may be of other machines."""
    for folder in map(Layout, folders.values()):
        storage.fetch(folder.runs, RESULTS)
        storage.fetch(folder.outcomes)
    return [name for name, folder in folders.items() if Layout(folder).runs.is_dir()]


def main() -> None:
    print("recipes, one change at a time", flush=True)
    if WORKDIR.value is None:
        show()
        return
    from ehr_scaling.configs import base, recipes

    if missing := [path for path in BESIDE.value if not Path(path).is_file()]:
        raise UserError(f"--beside={missing[0]} is no file: give recipes.json of another ladder")
    names = RUNGS.value or list(recipes.CHANGES)
    if unknown := [name for name in names if name not in recipes.CHANGES]:
        raise UserError(f"--rungs: {unknown[0]!r} is none: take some of {', '.join(recipes.CHANGES)}")
    workdir = storage.local(WORKDIR.value)
    log.keep(workdir)
    from ehr_scaling import study  # this and what it imports take seconds
    from ehr_scaling.analysis.compare import ladder
    from ehr_scaling.analysis.options import Options
    from ehr_scaling.analysis.report.figures import plots, recipe_plots
    from ehr_scaling.artifacts import read_json, write_json

    folders = {name: workdir / name.replace(" ", "-") for name in recipes.CHANGES}
    for name in names:
        config = recipes.get_config(f"{DATA.value}/{name}")
        config.data.raw, config.data.split_file = RAW.value, SPLIT_FILE.value
        print(f"\n{name}: {recipes.CHANGES[name].why}", flush=True)
        share(folders[name], list(folders.values()))
        study.prepare(config, folders[name])
        study.plan(config, list(base.sweep(config)), folders[name])
        study.train(config, folders[name])
        if SCORE.value:
            study.score(config, folders[name])
    there = trained(folders)
    rungs = [ladder.Rung(name, folders[name], recipes.CHANGES[name].on) for name in there]
    if {recipes.FIRST, recipes.TOP} <= set(there):
        rungs.append(ladder.Rung("the whole ladder", folders[recipes.TOP], recipes.FIRST))
    worths = ladder.measure(rungs, Options(draws=DRAWS.value))
    record = {"data": DATA.value, "rungs": ladder.to_json(worths)}
    write_json(workdir / "recipes.json", record)
    ladders = [record, *(read_json(Path(other)) for other in BESIDE.value)]
    plots.render(recipe_plots.ladder, workdir, "recipes", {entry["data"]: entry["rungs"] for entry in ladders})
    rows = ladder.table(worths)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for path in sorted(workdir.glob("recipes.*")):
        storage.store(path)
    print(f"\nall numbers: {workdir / 'recipes.json'}; figure: {workdir / 'recipes.png'}")


if __name__ == "__main__":
    run(main, {NO_MEMORY: NO_MEMORY, "--config.data.split_file": "--split_file"})
