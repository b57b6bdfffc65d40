"""The Python that documents show is what it says: every block runs."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import ehr_scaling as ehr
from ehr_scaling.finished_models import release
from tests.test_api import CONFIG, SETTINGS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
BEGIN = re.compile(r"^(from \S+ )?import ", re.M)
INDENTED = re.compile(r"(?:^ {4}.*\n|^\n)+", re.M)


def blocks(path):
    text = path.read_text()
    indented = (textwrap.dedent(block) for block in INDENTED.findall(text))
    begun = (BEGIN.search(block) for block in indented)  # commands may stand above
    return FENCED.findall(text) + [match.string[match.start() :] for match in begun if match]


BLOCKS = {f"{path.name} {i}": block for path in DOCUMENTS for i, block in enumerate(blocks(path))}
# Others are run in test_export.py, and, of fitted heads, in tests/outcomes/supervised
ELSEWHERE = ("from transformers", "supervised import heads")
OURS = [name for name, block in BLOCKS.items() if not any(words in block for words in ELSEWHERE)]


def test_blocks_are_found():
    assert {"README.md 0", "README.md 1", "export.md 0", "export.md 1", "laws.md 0"} <= set(BLOCKS)
    for name, block in BLOCKS.items():
        compile(block, name, "exec")


@pytest.mark.nightly
@pytest.mark.parametrize("name", OURS)
def test_a_block_runs(name, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "W").symlink_to(study)
    (tmp_path / "table.csv").symlink_to(ROOT / "studies" / "challenge_2012" / "runs.csv")
    release.release(study, tmp_path / "DIR")
    smaller = {'"quickstart", {"data.patients": 5_000}': "CONFIG, SETTINGS", "W/runs": "table.csv"}
    block = BLOCKS[name]
    for shown, run in smaller.items():
        block = block.replace(shown, run)
    tokens = np.ones((2, 8), np.int32)
    names = {"__name__": "__main__", "CONFIG": CONFIG, "SETTINGS": SETTINGS, "tokens": tokens, "segments": tokens}
    exec(compile(block, name, "exec"), names)
    assert {"found", "asked", "logits"} & set(names)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "w"
    ehr.train(workdir, CONFIG, SETTINGS)
    return workdir
