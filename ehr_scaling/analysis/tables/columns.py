"""Which column of a table is N, D, C, the loss, ...; and which of its rows are asked for."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.tables.files import Columns, short
from ehr_scaling.analysis.tables.run_table import COLUMNS, REQUIRED
from ehr_scaling.errors import UserError

# In place of a column's name: the one of N, D and C that is left out follows from the other two.
SIX_ND = {"C": "6ND", "D": "C/6N", "N": "C/6D"}

# What others call the columns. Compared without case, and with "_" for blanks, hyphens and points.
USUAL = {
    "N": (
        "n_body", "params", "n_params", "num_params", "parameters", "n_parameters", "num_parameters", "model_params",
        "model_parameters", "non_embedding_params", "non_embedding_parameters", "model_size", "parameter_count",
    ),
    "D": (
        "tokens", "n_tokens", "num_tokens", "tokens_seen", "train_tokens", "training_tokens", "total_tokens",
        "throughput/total_tokens",
    ),
    "C": (
        "flops", "n_flops", "num_flops", "total_flops", "train_flops", "training_flops", "compute", "training_compute",
    ),
    "loss": (
        "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "final_loss", "final_val_loss",
        "final_validation_loss", "final_eval_loss", "held_out_loss", "val/loss", "validation/loss", "eval/loss",
    ),
    "loss_se": ("validation_loss_se", "val_loss_se"),
    "run": ("run_id", "run_name"),
    "lr": ("learning_rate", "learning_rate_peak"),
    "batch": ("batch_tokens", "batch_size_in_tokens"),
}  # fmt: skip
_WORDS = re.compile(r"[\s.\-]+")

_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt,
    ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(r"(.*?)\s*(==|!=|<=|>=|=|<|>)\s*(.*)", re.S)


def named(table: Columns, given: Mapping[str, str]) -> dict[str, str]:
    """Our name -> the table's, of the columns that are there: as `given`, else our own name, else a usual one.

    Raises: UserError where one of N, D, C, the loss or those given is not there, or is one of several by its usual
    name, whose values differ, as a `loss` beside a usual name of it is too; it names them.
    """
    names: dict[str, str] = {}
    plain = {name: _WORDS.sub("_", name.strip().lower()) for name in table.names}
    for ours in COLUMNS:
        if SIX_ND.get(ours) == given.get(ours, ""):
            continue
        theirs = given.get(ours, ours)
        likely = [name for name in table.names if ours not in given and plain[name] in USUAL.get(ours, ())]
        if theirs in table.names:  # `loss` may be that of training, where another says that it is of validation
            likely = [theirs, *likely] if ours == "loss" else [theirs]
        if len(likely) > 1 and any(not _alike(table.values(likely[0]), table.values(other)) for other in likely[1:]):
            both = " or ".join(map(short, likely))
            raise UserError(f"{table.header}: {ours} may be {both}: say which with --columns={ours}={likely[0]}")
        if likely:
            names[ours] = likely[0]
        elif ours in REQUIRED or ours in given:
            rule = f"; if C = 6ND, --columns={ours}={SIX_ND[ours]}" if ours in SIX_ND else ""
            raise UserError(
                f"{table.header}: no column {short(theirs)} for {ours}; the table has {listed(table.names)} "
                f"(rename with --columns={ours}=...{rule})"
            )
    return names


def listed(names: Sequence[str]) -> str:
    """Names in a line: the first forty, of forty characters each."""
    return ", ".join(name[:40] for name in names[:40]) + (", ..." if len(names) > 40 else "")


def _alike(one: Sequence[Any] | NDArray[Any], other: Sequence[Any] | NDArray[Any]) -> bool:
    return all(map(operator.eq, one, other))


def checked(mapping: Mapping[str, str]) -> dict[str, str]:
    """Raises: UserError for a name that is none of ours, and where more than one of N, D and C follow from 6ND."""
    for name in mapping:
        if name not in COLUMNS:
            raise UserError(f"--columns: {name!r} is not a column; choose from {', '.join(COLUMNS)}")
    derived = [name for name, rule in SIX_ND.items() if mapping.get(name) == rule]
    if len(derived) > 1:
        raise UserError(f"--columns: {' and '.join(derived)} cannot both follow from C = 6ND")
    return dict(mapping)


class Condition(NamedTuple):
    """A column of the table, one of `_COMPARED`, and what with."""

    column: str
    sign: str
    value: str


def parse_where(texts: Iterable[str]) -> list[Condition]:
    """`corpus=notes`, `N>=1e6`, ...: conditions that all must hold. Raises: UserError for what reads otherwise."""
    conditions = []
    for text in texts:
        match = _CONDITION.fullmatch(text.strip())
        if match is None or not match[1].strip():
            raise UserError(f"--where={text[:100]}: give column=value, or a comparison such as N>=1e6")
        conditions.append(Condition(match[1].strip(), match[2], match[3].strip()))
    return conditions


def where(table: Columns, conditions: Iterable[Condition], names: Mapping[str, str], source: str) -> Columns:
    """The rows for which all hold. Columns go by the table's names, or by ours in `names`.

    Numbers are compared as numbers; < and > hold for no row without one.
    Raises: UserError for a column that is not there, a comparison with no number, and where no row is left.
    """
    for condition in conditions:
        flag = f"--where={''.join(condition)[:100]}"
        cells = table.values(_column(table, condition.column, names, flag))
        keep = _holds(cells, condition, flag)
        if not keep.any():
            raise UserError(f"{source}: no row is left by {flag}; {short(condition.column)} is {_some(cells)}")
        table = table.take(keep)
    return table


def groups(table: Columns, by: str, names: Mapping[str, str]) -> dict[str, Columns]:
    """The rows of each value of a column, in the order in which the values first come; "" is one too."""
    cells = [_text(cell) for cell in table.values(_column(table, by, names, f"--group_by={by}"))]
    values = np.array(cells, dtype=object)
    return {value: table.take(np.asarray(values == value)) for value in dict.fromkeys(cells)}


def _column(table: Columns, name: str, names: Mapping[str, str], flag: str) -> str:
    theirs = name if name in table.names else names.get(name, name)
    if theirs not in table.names:
        raise UserError(f"{flag}: the table has no column {short(name)}, but {listed(table.names)}")
    return theirs


def _holds(cells: Sequence[Any] | NDArray[Any], condition: Condition, flag: str) -> NDArray[np.bool_]:
    compare, wanted = _COMPARED[condition.sign], _number(condition.value)
    if wanted is None:
        if condition.sign not in ("=", "==", "!="):
            raise UserError(f"{flag}: {short(condition.value)} is no number to compare with")
        return np.array([bool(compare(_text(cell), condition.value)) for cell in cells], bool)
    numbers = [_number(cell) for cell in cells]
    unequal = condition.sign == "!="
    return np.array([unequal if value is None else bool(compare(value, wanted)) for value in numbers], bool)


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(cell: Any) -> str:
    try:
        return "" if cell is None else str(cell).strip()
    except ValueError:  # an integer of thousands of digits
        return f"{cell:x}"


def _some(cells: Sequence[Any] | NDArray[Any]) -> str:
    values = list(dict.fromkeys(_text(cell)[:30] or "empty" for cell in cells))
    return ", ".join(values[:6]) + (", ..." if len(values) > 6 else "")
