"""A model that is asked tasks of several kinds, for tests of how it is scored."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ehr_scaling import study
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import evaluate
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.training import loop
from tests import small

OWN = tasks.load()
KIND = Task(
    "kind_of_admission", "", anchor=("HOSPITAL_ADMISSION",), tokens=0, kind="class", classes=("ADMISSION_TYPE",)
)
TOGETHER = [OWN["icu_admission"], OWN["prolonged_stay"], OWN["length_of_stay"]]
OPTIONS = {
    "context": 64,
    "copies": 3,
    "new_tokens": 24,
    "max_samples": 50,
    "positive_share": 0.4,
    "train_samples": 100,
    "draws": 20,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with a finished cell, tasks that share their prompts and one that does not; cell and scores."""
    workdir = tmp_path_factory.mktemp("study")
    packed = study.prepare(small.config(**{"data.patients": 400}), workdir)
    cell = small.cell(packed, size="25k")  # of two heads
    loop.job([cell], workdir, small.silent)
    (workdir / "grid").mkdir()
    manifest.write(workdir / "grid" / manifest.MANIFEST, [cell])
    for task in (*TOGETHER, KIND):
        questions.prepare(workdir, task, **OPTIONS)
    return workdir, cell, evaluate.job([cell], workdir, small.silent)[0]


def alone(workdir, tmp_path, task, **options):
    """A work directory of the same model in which one task is prepared."""
    other = tmp_path / "alone"
    other.mkdir(parents=True, exist_ok=True)
    for name in ("events", "timelines", "packed", "runs", "grid"):
        (other / name).symlink_to(workdir / name)
    questions.prepare(other, task, **{**OPTIONS, **options})
    return other


def same(one, other):
    """Whether two scores are, but for rounding and for how long they took."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(
            same(one[k], other[k]) for k in one if k not in ("seconds", "generated_tokens", "fingerprint", "answers")
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == (pytest.approx(other, rel=1e-4, abs=1e-6) if isinstance(other, float) else other)


def check_predictions(cell, name, one, other):
    """That the predictions of a task in two work directories are the same, but for rounding."""
    ours, theirs = (pq.read_table(there / "outcomes" / name / f"{cell.id}.parquet") for there in (one, other))
    assert ours.select(ours.column_names[:-1]) == theirs.select(ours.column_names[:-1])
    np.testing.assert_allclose(ours.columns[-1].to_numpy(), theirs.columns[-1].to_numpy(), rtol=1e-4, atol=1e-7)


def drawn(model, params, asked, report=small.silent):
    """Futures that tell which sample and outcome they are of, without a model."""
    ids, stops, copies, new_tokens = asked.ids, asked.stops, asked.copies, asked.new_tokens
    report(len(ids) * copies * new_tokens)
    outcome = np.arange(1, len(stops.at_horizon) + 1)
    share = np.broadcast_to(
        (ids[:, None] % np.uint64(1_009) / 1_009)[:, None] / outcome, (len(ids), copies, len(outcome))
    )
    share = share.astype(np.float32)
    ended = np.where(share > 0.3, simulate.POSITIVE, simulate.NEGATIVE).astype(np.int8)
    tokens = np.ones((len(ids), copies, new_tokens), np.int32)
    return simulate.Futures(
        *(tokens, tokens.sum(axis=2), ended, ended < 0, 24 * share, share, 1 - share, np.log1p(-share)),
        np.zeros_like(share),
    )
