"""What the processes of a sweep have to know: the job, its units, and in which turn they are claimed."""

import sys
from collections.abc import Callable, Generator, MutableSequence, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ehr_scaling.errors import RunFailed, TakenOver
from ehr_scaling.grid.cell import Unit
from ehr_scaling.grid.executors import claims
from ehr_scaling.grid.executors.claims import NOBODY, Cost
from ehr_scaling.processes import preemption


class Report(Protocol):
    """How a job says what it does: `tokens` more, or (`before`) tokens that an earlier process had done."""

    def __call__(self, tokens: int, before: bool = False) -> None: ...


# A job trains or scores the cells of one unit and returns their metrics in order. It is a module-level function, so
# that another process can import it.
Job = Callable[[Unit, Path, Report], list[Any]]
# Does a part of a unit that another process is doing, where one is left; gives whether there was
Help = Callable[[Unit, Path, Report], bool]
# What is there of a unit's results already: one a cell, or None
Done = Callable[[Unit, Path], list[Any] | None]
Check = Callable[[list[Unit], Path], None]


class Work(NamedTuple):
    """See `local.run`, whose arguments these are."""

    job: Job
    units: list[Unit]
    workdir: Path
    costs: Sequence[Cost]
    saves: bool
    patience: float | None
    help: Help | None = None

    def on_sigterm(self) -> AbstractContextManager[None]:
        return preemption.deferred() if self.saves else preemption.at_once()

    def in_turn(
        self,
        me: int,
        owners: MutableSequence[int],
        finished: MutableSequence[int],
        report: Callable[[int], Report],
    ) -> Generator[int | None]:
        """See `claims.in_turn`. Args: report, of the unit of a number."""

        def lend_a_hand(i: int) -> bool:
            try:
                return self.help is not None and self.help(self.units[i], self.workdir, report(i))
            except (RunFailed, TakenOver):  # who does the unit tells it, and another has the part
                return False

        return claims.in_turn(self.workdir, self.units, self.costs, me, owners, finished, self.patience, lend_a_hand)


def leave(unit: Unit, i: int, owners: MutableSequence[int]) -> None:
    """Leave the unit of number i to another machine, which has taken it over (`errors.TakenOver`)."""
    owners[i] = NOBODY
    told = f"cell {unit[0].id} is left to another machine, which took it over while this one did not answer"
    print(f"warning: {told}", file=sys.stderr, flush=True)


def held_elsewhere(owners: MutableSequence[int], finished: MutableSequence[int]) -> str:
    n = sum(who == NOBODY and not over for who, over in zip(owners, finished, strict=True))
    return f"waiting for {n} that another sweep holds" if n else ""
