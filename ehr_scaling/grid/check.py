"""Settings that no run should start with, told in one line before anything is solved or compiled."""

from typing import Any

from ml_collections import ConfigDict

from ehr_scaling.errors import UserError
from ehr_scaling.grid import rules
from ehr_scaling.grid.cell import OPTIMIZERS, SCHEDULES
from ehr_scaling.models import mixing, sizes, transformer


def check(config: ConfigDict, points: list[dict[str, Any]]) -> None:
    """Raises UserError, naming the flag and the remedy."""
    model, t = config.model, config.training
    choices = (
        ("model.dtype", model.dtype, ("float32", "bfloat16")),
        ("model.remat", model.remat, transformer.REMATS),
        ("model.mixing", model.mixing, mixing.MIXINGS),
        ("model.parametrization", model.parametrization, transformer.PARAMETRIZATIONS),
        ("training.optimizer", t.optimizer, OPTIMIZERS),
        ("training.schedule", t.schedule, SCHEDULES),
        *(("grid.schedules", point.get("schedule", t.schedule), SCHEDULES) for point in points),
    )
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"--config.{name}={value!r} is unknown: take one of {', '.join(known)}")
    numbers = (
        ("model.dropout", model.dropout, 0 <= model.dropout < 1, "a share of 0 or more, under 1"),
        ("training.dispatch_sequences", t.dispatch_sequences, t.dispatch_sequences >= 1, "a whole number from 1 up"),
        ("training.microbatch", t.microbatch, t.microbatch >= 0, "a whole number from 0 up"),
        ("training.together", t.together, t.together >= 1, "a whole number from 1 up"),
        ("training.max_skipped", t.max_skipped, t.max_skipped >= 1, "a whole number from 1 up"),
        ("training.min_steps", t.min_steps, t.min_steps >= 1, "a whole number from 1 up"),
        ("training.clip", t.clip, t.clip > 0, "a number above 0"),
        ("training.warmup", t.warmup, 0 <= t.warmup < 1, "a share of 0 or more, under 1"),
        ("training.cooldown", t.cooldown, 0 <= t.cooldown <= 1, "a share from 0 to 1"),
    )
    for name, value, right, remedy in numbers:
        if not right:
            raise UserError(f"--config.{name}={value}: take {remedy}")
    if t.trunk and not any(point.get("schedule", t.schedule) == "wsd" for point in points):
        raise UserError(f"--config.training.trunk needs --config.training.schedule=wsd, not {t.schedule}")
    if t.trunk and not t.cooldown:
        raise UserError("--config.training.cooldown=0 with a trunk leaves its branches nothing to train: take a share")
    for point in points:
        sizes.get(point["size"])
        wanted = point.get("passes") or point.get("budget") or 0
        if not 0 < wanted < float("inf"):
            raise UserError(f"--config.grid.budgets or .passes holds {wanted}: take numbers above 0")
        if not (decay := point.get("weight_decay", t.weight_decay)) >= 0:
            raise UserError(f"--config.grid.weight_decays or --config.training.weight_decay: {decay}: take 0 or more")
    rules.check(t, tuple(point.get("rate", 1.0) for point in points))
