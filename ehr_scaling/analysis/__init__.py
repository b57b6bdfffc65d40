"""Scaling laws of any table of runs, by one import.

    from ehr_scaling import analysis as laws

    runs = laws.read("runs.csv")            # N, D, C and loss a run, under these names or usual ones
    found = laws.fit(runs)                  # every law, with intervals and a word for each
    found.isoflop                           # the optimum of every compute budget, exponents
    found.law                               # the law of loss in N and D
    found.optimum(1e21)                     # N*, D* and L* at so many FLOPs
    found.forecast(N=1e9, D=2e10)           # the loss of one run
    found.plan(1e21, patients=300_000)      # what to train with these data
    found.report("report")                  # the page, the figures, every number
    laws.compare("a.csv", "b.csv")          # which of two recipes is better, and what that is worth

It needs numpy, scipy, matplotlib, jinja2 and pyarrow; no accelerator, and imports nothing that trains.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ehr_scaling.analysis.compare.comparison import Comparison
    from ehr_scaling.analysis.report.fitted import Fit
    from ehr_scaling.analysis.tables.run_table import RunTable

__all__ = ["compare", "fit", "read"]

# Imports stand in the functions: whoever only looks should not wait for scipy and matplotlib.


def read(
    runs: Any,
    columns: Mapping[str, str] | None = None,
    *,
    where: str | Iterable[str] = (),
    drop_bad_rows: bool = False,
) -> "RunTable":
    """Reads a table of runs, a row each: N parameters, D tokens, C FLOPs, loss in nats a token, and what else is known.

    runs: the path of a directory of runs or of a .csv, .tsv, .jsonl, .json or .parquet file; a data frame; or a dict of
    columns. columns: our name -> the table's ({"N": "params"}), where it is none of the usual ones; {"C": "6ND"} where
    C is not there. where: conditions that rows must meet ("corpus=notes", "N>=1e6"). drop_bad_rows: leave out rows that
    cannot be used, with a note, instead of refusing the table.
    Raises: ehr_scaling.errors.UserError, one line that names the file, the row and the column.
    """
    from ehr_scaling.analysis.tables import files, readers
    from ehr_scaling.analysis.tables.run_table import RunTable

    if isinstance(runs, RunTable):
        return runs
    conditions = [where] if isinstance(where, str) else list(where)
    if isinstance(runs, str | Path):
        return readers.read(Path(runs), columns, drop_bad_rows=drop_bad_rows, where=conditions)
    table = files.of_columns(runs, "the table")
    return readers.of_columns(table, "a table", columns, drop_bad_rows=drop_bad_rows, where=conditions)


def fit(runs: Any, **options: Any) -> "Fit":
    """Fits everything: the curves of the budgets, the laws through them, the laws of all runs, forecasts.

    runs: what `read` takes or gives. options: any of `options.Options`: draws=1000 of the bootstrap (fewer are
    faster), seed, level, law, hold_out_above, ...
    Returns: an object with .isoflop, .law, .optimum(C), .forecast(N, D), .plan(C, patients), .report(folder).
    Raises: ehr_scaling.errors.UserError for runs that cannot be fitted, and an option that is none.
    """
    from ehr_scaling.analysis.report import fitted

    return fitted.fit(read(runs), _options(options))


def compare(a: Any, b: Any, *, unit: str = "auto", **options: Any) -> "Comparison":
    """Which of two sets of runs reaches the lower loss, and how much compute that is worth, with intervals.

    a, b: what `read` takes or gives. unit: what losses are counted by where both are paths ("auto", "token", "event",
    "day", "patient"); losses of tables in memory are taken as they are. options: any of `options.Options`.
    Returns: an object whose `repr` says it, with .multiplier, .difference, ...
    Raises: ehr_scaling.errors.UserError for runs that do not compare.
    """
    from ehr_scaling.analysis.compare import comparable, comparison

    if isinstance(a, str | Path) and isinstance(b, str | Path):
        common = comparable.read((Path(a), Path(b)), unit)
    else:
        common = comparable.Common(read(a), read(b), comparable.TOKEN)
    return comparison.compare(common, _options(options))


def _options(given: Mapping[str, Any]) -> Any:
    from dataclasses import fields

    from ehr_scaling.analysis.options import Options
    from ehr_scaling.errors import UserError

    known = [field.name for field in fields(Options)]
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{unknown[0]!r} is no option of the analysis; choose from {', '.join(known)}")
    return Options(**given)


class _Face(ModuleType):
    """Importing the room compare/ would put it in the place of the function of that name; rooms are had by import."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "compare" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
