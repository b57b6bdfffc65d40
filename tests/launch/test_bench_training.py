"""What launch.bench training compares is the same work on both sides."""

import jax
import pytest

from ehr_scaling.grid import cells
from launch.benchmarks import training


class Solved(Exception):
    """A cell was asked for: with this optimizer."""


def test_our_side_has_the_optimizer_of_pytorchs(monkeypatch):
    """Whatever the configs have: those of PyTorch are AdamW."""

    def solve(config, *rest):
        raise Solved(config.training.optimizer)

    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    monkeypatch.setattr(cells, "solve", solve)
    spec = {"size": "101k", "context": 256, "padded": 4096, "vocab": 4091, "batch_tokens": 8192}
    with pytest.raises(Solved, match=r"^adamw$"):
        training.engine(spec)
