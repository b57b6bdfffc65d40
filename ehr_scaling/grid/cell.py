"""A cell: one run of the grid, by what it learns and how it is trained. No JAX: reading a grid needs none."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ehr_scaling.artifacts import fingerprint

VERSION = 1  # of what a cell learns from its settings: raise it with every change to that, and no run before is taken
# Settings of config.model that earlier versions did not have, and what they were
SETTINGS_BEFORE = {"mixing": "none"}
# Fields that cells of earlier versions did not have, and what those are: their ids and their runs stay good
BEFORE = {**SETTINGS_BEFORE, "version": 1, "init": ""}
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd")


# What a field of a cell is, beside learnt: `how` it is trained, with whom, and what its loss is counted by, which is no
# part of the id; of a `member`: it may differ between cells that are trained together as one program
_MEMBER, _HOW, _MEMBER_HOW = {"member": True}, {"how": True}, {"how": True, "member": True}


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Settings of how a cell is trained, which change nothing in what it learns; see configs/base.py."""

    attention: str
    remat: str
    mesh: Mapping[str, int]  # devices along data, fsdp and tensor; 0: all that the others leave
    dispatch_sequences: int
    microbatch: int
    max_skipped: int
    checkpoint_seconds: float
    skip_damaged: bool
    read_timeout: float
    tracking: Mapping[str, Any]  # tensorboard, wandb, profile
    validation_share: float | None  # of the FLOPs, for the validation loss on the way; none: an earlier version's cell


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run. Its id is the fingerprint of what it learns; numbers of parameters are those of `flops.parameters`."""

    id: str = ""
    version: int = VERSION
    size: str
    width: int
    layers: int
    heads: int
    ff: int
    tied: bool
    dtype: str
    dropout: float
    mixing: str
    parametrization: str
    base_width: int  # at which "mup" is the standard parametrization
    vocab: int
    padded_vocab: int
    context: int
    seed: int = field(metadata=_MEMBER)
    budget: float | None  # FLOPs asked for
    flops: float  # FLOPs as counted
    flops_6nd: float
    N_body: int
    N_head: int
    N_embedding: int
    tokens: int  # D, padding included
    fraction: float  # of the training patients
    unique_tokens: int
    patients: int
    steps: int
    start: int  # step at which a branch leaves its trunk
    phase: str  # "hot": a trunk, at a constant rate; else "cooled"
    batch_sequences: int
    batch_tokens: int
    optimizer: str
    schedule: str
    learning_rate: float = field(metadata=_MEMBER)
    rate_multiple: float = field(metadata=_MEMBER)
    warmup: float
    cooldown: float
    floor: float
    weight_decay: float = field(metadata=_MEMBER)
    clip: float
    b1: float
    b2: float
    eval_sequences: int
    validation_sequences: int
    packed: str  # fingerprint of the packed data
    data: str
    generated: bool
    init: str = ""  # fingerprint of the weights that it starts from; none: fresh ones of its seed

    engine: Engine = field(metadata=_HOW)
    # What training it adds: of a branch the cooldown alone, since its trunk is a cell too
    own_tokens: int = field(metadata=_HOW)
    own_flops: float = field(metadata=_HOW)
    # Counts of what its loss is of; data packed by an earlier version do not tell
    measured_on: Mapping[str, Any] | None = field(default=None, metadata=_HOW)
    marks: tuple[int, ...] = field(default=(), metadata=_HOW)  # of a trunk: steps at which its branches begin
    trunk: str = field(default="", metadata=_MEMBER_HOW)  # of a branch: its trunk's id
    edge: str = field(default="", metadata=_MEMBER_HOW)  # which of N and D lie outside of what the rules were found on
    unit: str = field(default="", metadata=_MEMBER_HOW)  # id of the first of the cells that one job trains

    def named(self) -> "Cell":
        """With its id, and a unit by itself."""
        learnt = {name: value for name, value in self.learnt().items() if BEFORE.get(name) != value}
        return replace(self, id=(cell_id := fingerprint(learnt)), unit=cell_id)

    def learnt(self) -> dict[str, Any]:
        """What the id is of."""
        return {name: getattr(self, name) for name in LEARNT}

    def shared(self) -> dict[str, Any]:
        """What cells that are trained together as one program have in common."""
        return {name: value for name, value in asdict(self).items() if name in _SHARED}

    def to_json(self) -> dict[str, Any]:
        """As it stands in the manifest and beside each checkpoint."""
        values = {
            name: getattr(self, name) for name in _FIELDS
        }  # asdict copies whatever is in them, at 20 times the cost
        return {**values, "engine": dict(vars(self.engine)), "marks": list(self.marks)}


_FIELDS, _ENGINE = (tuple(f.name for f in fields(kind)) for kind in (Cell, Engine))
LEARNT = tuple(f.name for f in fields(Cell) if f.name != "id" and "how" not in f.metadata)
_SHARED = frozenset(f.name for f in fields(Cell) if f.name != "id" and not f.metadata.get("member"))
Unit = list[Cell]


def of_json(row: Mapping[str, Any]) -> Cell:
    """What `Cell.to_json` gave, of this version or one before it. Raises TypeError or KeyError for what is no cell."""
    values = {**BEFORE, **row}
    engine = Engine(**{name: values["engine"].get(name) for name in _ENGINE})  # planned anew at each call
    return Cell(**{**values, "engine": engine, "marks": tuple(values.get("marks", ()))})


def units(cells: list[Cell]) -> list[Unit]:
    """Cells that are trained by one job, trunks before their branches; units in the order of their first cells."""
    grouped: dict[str, Unit] = {}
    for cell in cells:
        grouped.setdefault(cell.unit, []).append(cell)
    return [sorted(unit, key=lambda cell: (cell.phase != "hot", cell.start)) for unit in grouped.values()]


def lost(unit: Unit, failed: Mapping[str, str]) -> dict[str, str]:
    """Why cells of a unit cannot be trained, by their ids: they failed, or the trunk did that they branch off from.

    Args: failed, the reason of each cell that did.
    """
    return {cell.id: reason for cell in unit if (reason := failed.get(cell.id) or failed.get(cell.trunk))}


def ensembles(unit: Unit) -> list[list[Cell]]:
    """The parts of a unit, in order: members that are trained together from the same step to the same step."""
    parts: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in unit:
        parts.setdefault((cell.phase, cell.start, cell.steps), []).append(cell)
    return list(parts.values())
