r"""Look at the timelines of a work directory: what is in them, and whether it is what you meant.

    python -m launch.inspect --workdir=W                          # tables and small histograms, in this terminal
    python -m launch.inspect --workdir=W --html=timelines.html    # the same as one page, opens without network
    python -m launch.inspect --workdir=W --family=LAB --top=100   # one family: its tokens, the edges of its bins
    python -m launch.inspect --workdir=W --split=test --patient=0 # one patient, as the model reads it

W is what launch.prepare or launch.study was given as --workdir. Shown are: where the records come from and what was
left out of them, the vocabulary by family, the token mix, the most frequent tokens, timeline lengths, time between
events, edges of value bins, the static context, and how full the packed sequences are.

These are counts; of real patients, numbers below 10 are not shown. --patient shows one person instead, by ordinal in
the split (from 0), with the time since the first event, without id and without dates. Of real records it does so only
with --i_may_see_patients: on your own screen, if the terms of the data let you. A file that --html writes is readable
by you alone.
"""

import io
import os
import sys
from pathlib import Path

from absl import flags

from ehr_scaling import artifacts, layout, storage
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout

from .common.common import run
from .inspection import tables

WORKDIR = flags.DEFINE_string("workdir", None, "Folder that holds timelines/.", required=True)
HTML = flags.DEFINE_string("html", None, "File for a page, instead of the terminal.")
SPLIT = flags.DEFINE_enum("split", "train", list(layout.SPLITS), "Patients to look at.")
FAMILY = flags.DEFINE_string("family", None, "Only this family of tokens, such as LAB.")
TOP = flags.DEFINE_integer("top", 30, "Rows of frequent tokens, of bin edges, and of values of a slot.", lower_bound=1)
PATIENT = flags.DEFINE_integer("patient", None, "One patient: ordinal in the split, from 0.", lower_bound=0)
MAY_SEE = flags.DEFINE_bool("i_may_see_patients", False, "Show --patient of real records, which you may see.")


def main() -> None:
    os.umask(0o077)
    workdir = storage.local(WORKDIR.value)
    for folder in (Layout(workdir).timelines, Layout(workdir).events):
        storage.fetch(folder)
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is no folder: give the one that launch.prepare wrote to")
    out = Path(HTML.value) if HTML.value else None
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"--html={out} is no file in a folder that is there: name one, such as inspect.html")
    view = _split(workdir) if PATIENT.value is None else _patient(workdir, PATIENT.value)
    if out:
        artifacts.write_text(out, tables.page(view))
        print(f"page: {out}")
    else:
        _print(tables.terminal(view))


# What reads timelines is imported below: --help would wait for it
def _split(workdir: Path) -> tables.View:
    from ehr_scaling.data.inspection import inspection

    from .inspection import views

    return views.split(inspection.gather(workdir, SPLIT.value), TOP.value, FAMILY.value)


def _patient(workdir: Path, ordinal: int) -> tables.View:
    from ehr_scaling.data.inspection import inspection, one_patient
    from ehr_scaling.data.timelines import timelines

    from .inspection import views

    if FAMILY.value:
        raise UserError("--family and --patient do not go together: give one of them")
    generated = inspection.of_generated(workdir)
    if not generated:
        if not MAY_SEE.value:
            raise UserError(
                "--patient shows the record of one person: add --i_may_see_patients, if the terms of the data let you"
            )
        print(f"warning: {views.WARNING}", file=sys.stderr, flush=True)
    patient = one_patient.read(workdir, SPLIT.value, ordinal)
    labels = inspection.labels(Layout(workdir).events)
    about = f"Patient {ordinal:,} of the split {SPLIT.value}"
    return views.patient(patient, timelines.vocabulary(workdir), labels, about, generated)


def _print(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that know no bars
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; what is left goes nowhere, at exit too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run(main)
