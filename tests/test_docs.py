"""What the documents name is there: modules by their paths, commands, and the flags of commands."""

import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")) if p.stem != "CHANGELOG"
]
FILES = [
    p.relative_to(ROOT).as_posix()
    for top in ("ehr_scaling", "launch", "configs", "tests")
    for p in (ROOT / top).rglob("*.*")
]
PATH = re.compile(r"(?<![\w/.*{}-])(?:[a-z_]\w*/)*[a-z_]\w*\.(?:py|js|yaml)\b")
COMMAND = re.compile(r"-m launch\.(\w+)((?:[^\S\n]|\\\\?\n)+[^`#\n]*(?:\\\n[^`#\n]*)*)?")
DEFINED = re.compile(r"""DEFINE_\w+\(\s*"(\w+)\"""")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_modules_are_where_documents_say(document):
    named = set(PATH.findall(document.read_text())) - {"mine.yaml", "answers.yaml", "sheet.yaml"}  # files of the user's
    assert not [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in FILES)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_have_the_flags_that_documents_show(document):
    common = (ROOT / "launch" / "common" / "common.py").read_text()
    for name, rest in COMMAND.findall(document.read_text()):
        parts = [ROOT / "launch" / f"{name}.py"]
        if name == "bench":
            parts.append(ROOT / "launch" / "benchmarks" / "flags.py")  # of all its parts
        script = "".join(part.read_text() for part in parts)
        defined = set(DEFINED.findall(script)) | {"help"}
        if "define_config_flags" in script or "define_process_flags" in script:
            defined |= {*DEFINED.findall(common), "config"}
        if "slurm_flags" in script:
            defined |= set(DEFINED.findall((ROOT / "launch" / "common" / "slurm_flags.py").read_text()))
        used = set(re.findall(r"(?<!\S)--(\w+)", rest))
        assert used <= defined, (name, used - defined)


def test_no_heading_of_the_changelog_is_empty():
    parts = (ROOT / "CHANGELOG.md").read_text().split("\n\n")
    under = {part: after for part, after in itertools.pairwise(parts) if part.strip().endswith(":")}
    assert len(under) > 10 and not [part for part, after in under.items() if not after.startswith("- ")]
