"""A stage's result is whole and from these inputs, or it is not there."""

import pytest

from ehr_scaling import artifacts
from ehr_scaling.errors import UserError


def test_build_skips_what_is_there_and_refuses_other_inputs(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("1")
        return {"n": 1}

    first = artifacts.build(tmp_path / "a", {"seed": (1, 2), "data": {"t": 1}}, make)
    again = artifacts.build(tmp_path / "a", {"seed": (1, 2), "data": {"t": 1}}, make)
    assert first == again
    assert len(made) == 1
    assert (tmp_path / "a" / "x").exists()
    with pytest.raises(UserError, match=r"data\.t was 1, now 2.*--workdir"):
        artifacts.build(tmp_path / "a", {"seed": (1, 2), "data": {"t": 2}}, make)


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("x"), OSError(28, "No space left on device")])
def test_a_broken_build_leaves_nothing(tmp_path, error):
    def make(folder):
        (folder / "half").write_text("1")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        artifacts.build(tmp_path / "a", {}, make)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_is_made_anew(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "left_over").write_text("1")
    artifacts.build(tmp_path / "a", {}, lambda folder: {})
    assert [p.name for p in (tmp_path / "a").iterdir()] == [artifacts.RECORD]


def test_a_damaged_record_names_the_remedy(tmp_path):
    artifacts.build(tmp_path / "a", {}, lambda folder: {})
    (tmp_path / "a" / artifacts.RECORD).write_text('{"inputs": ')
    with pytest.raises(UserError, match=r"artifact\.json is damaged.*delete"):
        artifacts.build(tmp_path / "a", {}, lambda folder: {})


def test_fingerprints_of_files_see_both_ends(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"a" * (3 << 20))
    before = artifacts.fingerprint_files([path], tmp_path)
    path.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    assert artifacts.fingerprint_files([path], tmp_path) != before
