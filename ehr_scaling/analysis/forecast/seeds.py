"""What all runs of a seed share, which moves a law of loss up or down and no residual shows."""

import numpy as np
from scipy import special

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.isoflop import widths
from ehr_scaling.analysis.tables.run_table import RunTable


def reach(runs: RunTable, weight: Floats, drawn: float, freedom: float, level: float) -> float:
    """What is added in squares to the interval of log loss of a law, for the seeds that its runs share.

    Seeds move all budgets, or each budget its own way (`widths.seed_effect`), of which the law averages the latter.
    Together with the law's own variance that is one of few degrees of freedom (Satterthwaite 1946, Biometrics Bulletin
    2:110): half of the interval that it gives is what this and the law's own half make in squares.

    weight: [n] of the runs in the law. drawn, freedom: standard deviation of log loss by the law's draws, and degrees
    of freedom of that. level: of the interval.
    """
    effect = widths.seed_effect(runs, [np.flatnonzero(runs.group == g) for g in range(len(runs.budgets))])
    share = np.bincount(runs.group, weight) / weight.sum()
    seeds = float(share @ effect.seeds)
    parts = np.array([effect.shared, effect.of_budget * (share @ share)]) / seeds
    if not parts.any():
        return 0.0
    variances = np.append(parts, drawn**2)
    together = variances.sum() ** 2 / (variances**2 / np.append(effect.freedom, freedom)).sum()
    whole, of_law = special.stdtrit([together, freedom], (1 + level) / 2) ** 2 * [variances.sum(), drawn**2]
    return float(np.sqrt(max(whole - of_law, 0.0)))
