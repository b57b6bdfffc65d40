"""Which model is asked, also where the files of another are damaged."""

import json

import pytest

from ehr_scaling.errors import RunFailed, UserError
from ehr_scaling.grid import manifest
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import choosing
from tests import blank


@pytest.fixture
def workdir(tmp_path):
    """Three finished runs, the best of which is damaged, and one that has not begun."""
    Layout(tmp_path).grid.mkdir()
    manifest.write(Layout(tmp_path).grid / manifest.MANIFEST, [blank.cell(name) for name in "abcd"])
    for name, loss in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        path = Layout(tmp_path).run(name) / "8" / "metrics" / "metrics"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"finished": True, "validation_loss": loss})[: None if name != "a" else -5])
    return tmp_path


def test_a_damaged_run_stops_nothing_about_others(workdir, capsys):
    assert choosing.best_cell(workdir, "b").id == "b"
    assert capsys.readouterr().err == ""  # nothing else is read
    assert choosing.best_cell(workdir, None).id == "b"
    assert [(loss, cell.id) for loss, cell in choosing.finished(workdir)] == [(2.0, "b"), (3.0, "c")]
    first, second = capsys.readouterr().err.splitlines()
    assert first == second and first.startswith("warning: left out: ") and "runs/a to train the cell again" in first


def test_what_cannot_be_asked_is_told(workdir):
    with pytest.raises(RunFailed, match=r"metrics is damaged .*: delete .*a to train the cell again"):
        choosing.best_cell(workdir, "a")
    with pytest.raises(UserError, match="no finished run"):
        choosing.best_cell(workdir, "d")
    with pytest.raises(UserError, match="--cell=e is not in"):
        choosing.best_cell(workdir, "e")
