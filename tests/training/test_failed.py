"""A run that diverged is a result: the others of its study go on without it."""

import shutil

import pytest

from ehr_scaling import artifacts, study
from ehr_scaling.errors import UserError
from ehr_scaling.layout import FAILED, Layout
from tests import small


@pytest.fixture
def workdir(prepared, tmp_path):
    """A work directory of its own on the prepared data."""
    for name in ("events", "timelines", "packed"):
        shutil.copytree(prepared[0] / name, tmp_path / "w" / name)
    return tmp_path / "w"


def fail(workdir, cell):
    path = Layout(workdir).run(cell.id) / FAILED
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_sealed(path, {"reason": f"cell {cell.id}: the loss was not finite", "time": 0.0})


def points(*seeds):
    return [{"budget": 1.2e9, "size": "3.5k", "seed": seed} for seed in seeds]


def test_the_others_are_trained_and_scored_and_it_is_tried_again_on_demand(workdir, capsys):
    config = small.config(**{"grid.seeds": (0, 1)})
    first, second = study.plan(config, points(0, 1), workdir)
    fail(workdir, first)
    (metrics,) = study.train(config, workdir)
    assert metrics["id"] == second.id
    assert f"left out: cell {first.id}: the loss was not finite" in capsys.readouterr().err
    assert study.to_score(workdir) == [second]
    assert {m["id"] for m in study.train(config, workdir, retry_failed=True)} == {first.id, second.id}
    (metrics,) = Layout(workdir).run(first.id).glob("*/metrics/metrics")
    whole = metrics.read_text()
    metrics.write_text(whole[:-9])
    assert [m["id"] for m in study.train(config, workdir)] == [second.id]
    assert f"delete {Layout(workdir).run(first.id)} to train the cell again" in capsys.readouterr().err
    metrics.write_text(whole)
    fail(workdir, first)  # of a machine that has not heard of the second try
    assert study.to_score(workdir) == [first, second]


def test_of_a_unit_that_failed_those_are_scored_that_were_through(workdir, capsys):
    config = small.config(**{"training.schedule": "wsd", "training.trunk": True})
    grid = [{"budget": budget, "size": "3.5k", "seed": 0} for budget in (1.2e9, 0.6e9)]
    trunk, *branches = study.plan(config, grid, workdir)
    assert study.to_score(workdir) == branches
    fail(workdir, trunk)
    assert study.to_score(workdir) == []
    with pytest.raises(UserError, match="the loss was not finite"):  # all there is has failed
        study.train(config, workdir)
    study.train(config, workdir, retry_failed=True)
    fail(workdir, branches[1])
    assert study.to_score(workdir) == branches
    shutil.rmtree(Layout(workdir).run(branches[1].id))
    fail(workdir, branches[1])
    assert study.to_score(workdir) == branches[:1]
    capsys.readouterr()
    assert [m["id"] for m in study.train(config, workdir)] == [trunk.id, branches[0].id]
    assert f"left out: cell {branches[1].id}: the loss was not finite" in capsys.readouterr().err
