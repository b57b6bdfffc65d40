"""What each stage makes of the same inputs, beside the version that says so.

A failure here need not be a fault. Where a stage is meant to make something else of its inputs, raise its VERSION, so
that nothing made before is taken for what is made now, and write the new value here.
"""

import hashlib

import numpy as np
import pytest

from ehr_scaling import study
from ehr_scaling.configs.published import SETTINGS
from ehr_scaling.data import parquet
from ehr_scaling.data.packing import loader, packing
from ehr_scaling.data.sources.synthetic import patients
from ehr_scaling.data.timelines import timelines
from ehr_scaling.grid.cell import VERSION
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.training import loop
from tests import small

SAID = {  # of each stage: its version, and what it makes, by the tokenization
    "events": (2, {"fused": "9855b5569fe08057", "separate": "9855b5569fe08057"}),
    "timelines": (1, {"fused": "c5f1032015a13abf", "separate": "e39ffe9f00ed56b3"}),
    "rows": (1, {"fused": "26d773e461c1ee0c", "separate": "b94b2d2d9f967482"}),
    "samples": (2, {"fused": "407b7bac510dce19", "separate": "19ffd21f81915ed9"}),
}
LEARNT = 1  # and of a cell, the loss over its first steps
CURVES = {
    "default": [6.67977, 5.85209, 5.38019, 5.19166, 5.28689, 4.70325, 4.61005, 4.61288],
    "published": [5.38816, 4.65822, 4.41056, 4.05386, 3.76260, 3.39296, 3.44017, 3.52352],
}


def digest(*arrays):
    """Of the values of arrays, whatever files, compression or widths they are kept in."""
    return hashlib.sha256(repr([np.ravel(array).tolist() for array in arrays]).encode()).hexdigest()[:16]


@pytest.fixture(scope="module", params=["fused", "separate"])
def made(request, tmp_path_factory):
    """The tokenization, a work directory that was prepared with it, and the record of its packed data."""
    workdir = tmp_path_factory.mktemp("study")
    config = small.config(**{"data.tokens.value_tokens": request.param})
    return request.param, workdir, study.prepare(config, workdir)


def test_events(made):
    name, workdir, _ = made
    files = sorted((workdir / "events").rglob("data/**/*.parquet"))
    assert files
    columns = ("subject_id", "time", "code", "numeric_value")
    told = digest(*(parquet.read(path)[column].to_pylist() for path in files for column in columns))
    assert (patients.VERSION, told) == (SAID["events"][0], SAID["events"][1][name])


def test_timelines(made):
    name, workdir, _ = made
    parts = [part for split in timelines.SPLITS for part in timelines.batches(workdir, split)]
    told = digest(*(field for part in parts for field in part))
    assert (timelines.VERSION, told) == (SAID["timelines"][0], SAID["timelines"][1][name])


def test_rows(made):
    name, workdir, _ = made
    batches = loader.eval_batches(workdir / "packed" / "t64", "train", sequences=16, limit_sequences=64)
    told = digest(*(batch[key] for batch in batches for key in sorted(batch)))
    assert (packing.VERSION, told) == (SAID["rows"][0], SAID["rows"][1][name])


def test_samples(made):
    name, workdir, _ = made
    task = tasks.load()["in_hospital_death_24h"]
    questions.prepare(workdir, task, context=64, copies=2, new_tokens=24, max_samples=20, positive_share=0.4)
    stays, *others = questions.load(workdir / "outcomes" / task.name)
    told = digest(*stays, *others)
    assert (questions.VERSION, told) == (SAID["samples"][0], SAID["samples"][1][name])


@pytest.mark.parametrize("recipe", CURVES)
def test_what_a_cell_learns(recipe, tmp_path):
    changes = SETTINGS if recipe == "published" else {}
    packed = study.prepare(small.config(**changes), tmp_path)
    curve = loop.job([small.cell(packed, changes)], tmp_path, small.silent)[0]["curve"]
    # Sums in another order end within 1e-4; another rate, moment or mask does not
    assert [loss for _, loss in curve][:8] == pytest.approx(CURVES[recipe], rel=1e-3)
    assert VERSION == LEARNT
