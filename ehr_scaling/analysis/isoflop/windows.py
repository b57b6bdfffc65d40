"""Do the exponents depend on how much of every profile the parabola sees?"""

from dataclasses import replace

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.isoflop import isoflop, power_laws
from ehr_scaling.analysis.isoflop.isoflop import BudgetFit
from ehr_scaling.analysis.isoflop.power_laws import PowerLaw
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import RunTable

SHARES = {"half": 0.5, "twice": 2.0}  # of options.window, as factors about the best size
USUAL = "the usual"
MOST_DRAWS = 300


def lines(table: RunTable, budgets: list[BudgetFit], options: Options) -> dict[str, PowerLaw]:
    """`power_laws.fit` of the budgets of a table, N_opt and D_opt not supported where the window moves their exponent.

    It does where twice the window, or the usual one beside none, moves it out of its interval. Half the window sees
    fewer runs and has the larger error: it counts only where its own interval leaves out the exponent too. (Of two
    estimates of which one uses all that the other does, the difference varies by no more than the worse one: Hausman
    1978, Econometrica 46:1251.)
    """
    laws = power_laws.fit(budgets, options)
    if options.isoflop != isoflop.PARABOLA or not options.draws:
        return laws
    windows = {which: share * options.window for which, share in SHARES.items()}
    if not np.isfinite(options.window):  # all sizes: beside those near the best one
        windows = {USUAL: Options().window}
    for which, window in windows.items():
        other = replace(options, window=window, draws=min(options.draws, MOST_DRAWS))
        again = power_laws.fit(isoflop.fit(table, other), other)
        for name in ("N", "D"):
            laws[name] = _beside(laws[name], again[name], which, wider=window > options.window)
    return laws


def _beside(law: PowerLaw, other: PowerLaw, which: str, *, wider: bool) -> PowerLaw:
    """The law with what another window says of its exponent."""
    law = replace(law, windows=law.windows | {which: other.exponent})
    named = f"{which} {'one' if which == USUAL else 'the window'}"
    verdict = words.window(
        law.verdict, law.exponent, law.interval, other.exponent, other.interval, named=named, wider=wider
    )
    return replace(law, verdict=verdict)
