"""Write the cards of a finished study: of a model, of its data, and the checklist of TRIPOD+AI.

  python -m launch.cards --workdir=W                        # of the model of least validation loss, into W/cards
  python -m launch.cards --workdir=W --cell=ID --out=DIR    # of the one of this id, of W/grid/manifest.jsonl
  python -m launch.cards --workdir=W --answers=answers.yaml # with what people say to the fields that are open

They are made from the artifacts alone: model.xml (CHAI's Applied Model Card, v0.2) and model.html, tripod.json and
tripod.html (27 items, each with where it is answered), croissant.json (Croissant 1.0, a SHA-256 for each file) and
data.html. Each begins with a word for the study: reportable, smoke only, blocked, or not identifiable, and why. What
the artifacts do not say is open: open.json lists it, with who has to say it. Nothing of any patient goes out, and no
count of real patients under 11.
"""

from pathlib import Path

from absl import flags

from ehr_scaling import storage

from .common import log
from .common.common import run

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a study with a report.", required=True)
CELL = flags.DEFINE_string("cell", None, "Id of the model in W/grid [default: the least validation loss].")
OUT = flags.DEFINE_string("out", None, "Folder to write [default: W/cards].")
ANSWERS = flags.DEFINE_string("answers", None, "YAML file of answers to open fields, a line `key: text` each.")


def main() -> None:
    print(f"cards of {WORKDIR.value}: every file is checked first", flush=True)
    workdir = storage.local(WORKDIR.value)
    log.keep(workdir)
    from ehr_scaling.cards import write
    from ehr_scaling.layout import Layout

    out = Path(OUT.value).absolute() if OUT.value else Layout(workdir).cards
    answers = Path(ANSWERS.value) if ANSWERS.value else None
    done = write.write(workdir, out, CELL.value, answers)
    if not OUT.value:
        storage.store(out)
    print(f"{done['word']}: {done['reason']}")
    print(f"cell {done['cell']}: {done['answered']} fields answered, {done['in part']} in part, {done['open']} open")
    print(f"{OUT.value or out}: {', '.join(done['files'])}")


if __name__ == "__main__":
    run(main)
