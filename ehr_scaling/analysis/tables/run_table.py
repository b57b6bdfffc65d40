"""One typed row a run: what was trained, what it cost, what it reached."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.tables.raw_columns import BadRows, Floats, mixed_units, numbers, text
from ehr_scaling.analysis.wording import count, plural, power
from ehr_scaling.errors import UserError

REQUIRED = ("N", "D", "C", "loss")
OPTIONAL = (
    "seed", "budget", "N_head", "N_embedding", "real_tokens", "unique_tokens", "patients", "passes", "C_6nd",
    "loss_se", "lr", "rate_multiple", "batch", "weight_decay", "dropout", "fraction", "own_flops",
)  # fmt: skip
TEXT = ("run", "cell", "size", "phase", "schedule", "trunk", "optimizer", "parametrization", "mixing", "edge")
POSITIVE = (*REQUIRED, "real_tokens", "unique_tokens", "batch", "fraction")  # the others may be zero
COLUMNS = TEXT + REQUIRED + OPTIONAL

# Runs of one IsoFLOP budget differ in counted C by their integer steps, about 1 %; budgets lie a factor apart.
SPAN = 1.2


class Note(NamedTuple):
    """Why a run is not in the fits, or is doubtful: a code for machines and a line for people."""

    run: str
    # left out: unfinished | diverged | damaged | nonfinite | not_positive | units | hot | other_kind | fewer_patients |
    # other_setting | highest_loss; doubtful: those of `quality`
    code: str
    text: str


@dataclass(frozen=True)
class RunTable:
    """n runs. Floats are float64 with NaN for unknown; N, D, C and loss are known, finite and positive.

    run: what the bootstrap resamples; rows that share it (checkpoints of one run) are resampled together.
    N: body parameters. N_head, N_embedding: the others. C: counted FLOPs; C_6nd: 6 N D beside it.
    D: positions processed; real_tokens: targets without padding; unique_tokens: U of the training split;
    passes: real_tokens / U. loss, loss_se: nats a token on held-out patients. batch: tokens a step.
    lr: peak; rate_multiple: of the rate that the study's rule gives. fraction: of the training patients.
    own_flops: what this run itself cost (a branch: its cooldown only). trunk: the cell a branch began from, or "".
    mixing: of neighbouring positions before attention, "none" or a kind of it.
    edge: which of N and D lie outside of what the study's rules for batch and rate were explored on.
    group: index of the row's compute budget in `budgets` (FLOPs, ascending, geometric mean of the counted C).
    """

    run: NDArray[np.str_]
    cell: NDArray[np.str_]
    size: NDArray[np.str_]
    phase: NDArray[np.str_]
    schedule: NDArray[np.str_]
    trunk: NDArray[np.str_]
    optimizer: NDArray[np.str_]
    parametrization: NDArray[np.str_]
    mixing: NDArray[np.str_]
    edge: NDArray[np.str_]
    N: Floats
    D: Floats
    C: Floats
    loss: Floats
    seed: Floats
    budget: Floats
    N_head: Floats
    N_embedding: Floats
    real_tokens: Floats
    unique_tokens: Floats
    patients: Floats
    passes: Floats
    C_6nd: Floats
    loss_se: Floats
    lr: Floats
    rate_multiple: Floats
    batch: Floats
    weight_decay: Floats
    dropout: Floats
    fraction: Floats
    own_flops: Floats
    group: NDArray[np.int64]
    budgets: Floats
    notes: tuple[Note, ...] = ()
    source: str = ""
    data: str = ""
    generated: bool | None = None

    def __len__(self) -> int:
        return len(self.N)

    def __repr__(self) -> str:
        ends = [
            f"{name} {as_text(column.min())} to {as_text(column.max())}"
            for name, column, as_text in (("N", self.N, count), ("D", self.D, count), ("C", self.C, power))
        ] + [f"loss {self.loss.min():.4g} to {self.loss.max():.4g}"]
        kept = f"{plural(len(self), 'run')} in {plural(len(self.budgets), 'compute budget')} ({self.source})"
        return "\n".join([f"{kept}: {', '.join(ends)}", *(f"left out: {n.run}: {n.text}" for n in self.notes[:5])])

    def largest(self, column: str) -> float:
        """NaN where no run knows it."""
        values = getattr(self, column)
        return float(np.nanmax(values)) if np.isfinite(values).any() else np.nan

    def take(self, keep: NDArray[Any], notes: Iterable[Note] = ()) -> "RunTable":
        """The rows of a mask or index, budgets counted anew; `notes` say where the others went."""
        columns = {name: getattr(self, name)[keep] for name in COLUMNS}
        group, budgets = budget_groups(columns["C"], columns["budget"])
        return replace(self, **columns, group=group, budgets=budgets, notes=self.notes + tuple(notes))

    @property
    def of_patients(self) -> bool:
        """Whether the runs are of health records: those of the trainer, or a table that counts patients."""
        return self.generated is not None or bool(np.isfinite(self.patients).any())

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """[n] index of each row's run: the unit of every bootstrap."""
        return np.unique(self.run, return_inverse=True)[1].astype(np.int64)

    def rows(self) -> list[dict[str, Any]]:
        """Plain dicts of the columns, None for unknown, for JSON and for the report."""
        return [{name: _plain(getattr(self, name)[i]) for name in COLUMNS} for i in range(len(self))]


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    return float(value) if np.isfinite(value) else None


def budget_groups(C: Floats, budget: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Assigns rows to compute budgets.

    Where every row names its budget, by that value. Otherwise by counted compute: in ascending order, a run belongs
    to the current group while its C is within a factor of 1.2 of the group's smallest.

    Returns: group index [n] int64, and the geometric mean of the counted C of each group, ascending, float64.
    """
    if len(C) == 0:
        return np.zeros(0, np.int64), np.zeros(0)
    if np.isfinite(budget).all():
        group = np.unique(budget, return_inverse=True)[1]
    else:
        ascending = np.sort(C)
        first = [0]
        while (beyond := int(np.searchsorted(ascending, SPAN * ascending[first[-1]], side="right"))) < len(C):
            first.append(beyond)
        group = np.searchsorted(ascending[first], C, side="right") - 1
    total = np.bincount(group)
    budgets = np.exp(np.bincount(group, weights=np.log(C)) / total)
    order = np.argsort(budgets, kind="stable")
    return np.argsort(order)[group].astype(np.int64), budgets[order]


def from_rows(rows: list[dict[str, Any]], *, source: str, where: list[str] | None = None, **facts: Any) -> RunTable:
    """`from_columns` of dicts keyed by `COLUMNS`; missing values are None. where: a name for each row."""
    columns = {name: [row.get(name) for row in rows] for name in REQUIRED}
    columns |= {n: [row.get(n) for row in rows] for n in TEXT + OPTIONAL if any(n in row for row in rows)}
    return from_columns(columns, source=source, where=where.__getitem__ if where else None, **facts)


def from_columns(
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    source: str,
    where: Callable[[int], str] | None = None,
    six_nd: str = "",
    per: tuple[str, Sequence[Any] | NDArray[Any]] | None = None,
    drop_bad_rows: bool = False,
    notes: Iterable[Note] = (),
    data: str = "",
    generated: bool | None = None,
) -> RunTable:
    """Builds the table from columns [n] by their names in `COLUMNS`; None and "" are unknown.

    where: how to name row i to the user ("runs.csv row 7"). six_nd: the one of N, D and C that follows from the other
    two by C = 6 N D. per: name and values [n] of a column of tokens a unit, by which losses a token are multiplied.
    drop_bad_rows: leave a row out, with a note, instead of refusing the table for it.
    Raises: UserError for a cell that is no number, or one that is not finite and positive, and for rows in other units
    than most (`raw_columns.mixed_units`).
    """
    n = len(next(iter(columns.values())))
    place = where or (lambda i: f"{source} row {i + 1}")
    arrays: dict[str, Any] = {}
    bad = BadRows(place, drop_bad_rows)
    for name in REQUIRED + OPTIONAL:
        arrays[name] = np.full(n, np.nan)
        if name in columns and name != six_nd:
            arrays[name] = numbers(columns[name], name, bad, required=name in REQUIRED, positive=name in POSITIVE)
    for name in TEXT:
        arrays[name] = np.zeros(n, "<U1")
        if name in columns:
            arrays[name] = np.array(list(map(text, columns[name])), dtype=np.str_)
    tokens = numbers(per[1], per[0], bad, required=True, positive=True) if per else np.ones(n)
    arrays["run"] = _named(arrays["run"], arrays["cell"])
    bad.check()
    N, D, C = arrays["N"], arrays["D"], arrays["C"]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of rows that will be dropped
        if six_nd:
            derived = 6.0 * N * D if six_nd == "C" else C / 6.0 / (N if six_nd == "D" else D)
            arrays[six_nd] = numbers(derived, six_nd, bad)
        arrays |= {name: arrays[name] * tokens for name in ("loss", "loss_se")}
        mixed_units(arrays["C"] / arrays["N"] / arrays["D"], bad)
    bad.check()
    left_out = [Note(str(arrays["run"][i]), *bad.rows[i]) for i in sorted(bad.rows)]
    if left_out:
        keep = ~np.isin(np.arange(n), list(bad.rows))
        if not keep.any():
            raise UserError(f"{source}: no row can be used; of the first, {left_out[0].text}")
        arrays = {name: values[keep] for name, values in arrays.items()}
    tokens = np.where(np.isfinite(arrays["real_tokens"]), arrays["real_tokens"], arrays["D"])
    arrays["passes"] = np.where(np.isfinite(arrays["passes"]), arrays["passes"], tokens / arrays["unique_tokens"])
    product = 6.0 * arrays["N"] * arrays["D"]  # in float64: the integer product passes 2^63 at 9.2e18
    arrays["C_6nd"] = np.where(np.isfinite(arrays["C_6nd"]), arrays["C_6nd"], product)
    group, budgets = budget_groups(arrays["C"], arrays["budget"])
    return RunTable(
        **arrays,
        group=group,
        budgets=budgets,
        notes=(*notes, *left_out),
        source=source,
        data=data,
        generated=generated,
    )


def _named(run: NDArray[np.str_], cell: NDArray[np.str_]) -> NDArray[np.str_]:
    """A name for every run: the run column, else the cell's, else the row number (each row its own run)."""
    names = np.where(run != "", run, cell)
    if not (names == "").any():
        return names
    return np.where(names == "", np.array([f"row {i + 1}" for i in range(len(names))], dtype=np.str_), names)


def drop_highest_loss(table: RunTable, count: int) -> RunTable:
    """Without the `count` runs of highest loss (points far from the optimum that a law need not hold)."""
    if count <= 0:
        return table
    if count >= len(table):
        raise UserError(f"--drop_highest_loss={count}: the table has only {len(table)} runs")
    order = np.argsort(table.loss, kind="stable")
    dropped = order[len(table) - count :]
    notes = [
        Note(str(table.run[i]), "highest_loss", f"loss {table.loss[i]:.4g}, among the {count} highest (by flag)")
        for i in dropped
    ]
    return table.take(np.sort(order[: len(table) - count]), notes)


def describe(table: RunTable) -> str:
    """One line that says which data the runs rest on: generated or real, how many patients and tokens."""
    kind = {True: "Generated patients", False: "Real patients", None: "Runs from a table"}[table.generated]
    known = []
    for name, unit in (("patients", "patients"), ("unique_tokens", "unique tokens")):
        values = getattr(table, name)
        values = values[np.isfinite(values)]
        if len(values):
            known.append(f"{values.max():,.0f} {unit}")
    trained = f"; trained on {' and '.join(known)}" if known else ""
    return f"{kind}: {table.data or table.source}{trained}"


assert set(COLUMNS) <= {f.name for f in fields(RunTable)}
