"""What the seeds of a cell reach together: the mean of their scores, not the best, and the score of their mean."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import interval
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes.predictions import Predictions, resampling
from ehr_scaling.analysis.tables.run_table import SPAN
from ehr_scaling.data import disclosure

Interval = tuple[float, float]
_MOST = 0.9  # quantile


class Seeds(NamedTuple):
    """The models of one cell (N, D), which cost C each.

    mean, deviation: of their AUROC. average: AUROC of the mean of their probabilities. lead, average_lead: less that of
    the baseline on the same stays, NaN without one. apart, apart_most: standard deviation of the risk of one stay over
    the models, its mean over the stays, and what a tenth of the stays exceed (NaN where those are a few real patients);
    noise of drawn futures is in it. Intervals hold who the patients are,
    those of the mean also what seeds differ by, over all cells of about the same C: two of one cell alone tell it badly
    (Student's t).
    """

    N: float
    D: float
    C: float
    models: int
    mean: float
    deviation: float
    interval: Interval
    average: float
    average_interval: Interval
    lead: float
    lead_interval: Interval
    average_lead: float
    average_lead_interval: Interval
    apart: float
    apart_most: float


def of_cells(
    rows: Sequence[dict[str, Any]],
    said: Predictions,
    groups: Sequence[NDArray[np.int64]],
    options: Options,
    generated: bool = True,
) -> list[Seeds]:
    """Of each cell with two seeds or more, the dearest first and of these the largest.

    rows: of the models, as `downstream.Outcome` has them. said: what they predicted, in that order, and in a row after
    them what the baseline did, if there is one. groups: rows of each cell.
    """
    several = [group for group in groups if len(group) > 1]
    if not several or not said.resamplable:
        return []
    mean_of = [said.probability[group].mean(0) for group in several]
    every = Predictions(said.labels, said.patients, np.vstack([said.probability, mean_of]))
    rng = resampling(options.seed)
    auroc, drawn = every.auroc, every.draws(options.draws, rng)
    has_base = len(said.probability) > len(rows)
    base, base_drawn = (auroc[len(rows)], drawn[:, len(rows)]) if has_base else (np.nan, np.full(len(drawn), np.nan))
    C = np.log([rows[group[0]]["C"] for group in several])
    squares = np.array([auroc[group].var(ddof=1) * (len(group) - 1) for group in several])
    freedom = np.array([len(group) - 1 for group in several])
    told = disclosure.quantile(len(np.unique(said.patients)), _MOST, generated)
    cells = []
    for j, group in enumerate(several):
        k, alike = len(said.probability) + j, np.abs(C - C[j]) < np.log(SPAN)
        deviation, of_alike = float(auroc[group].std(ddof=1)), np.sqrt(squares[alike].sum() / freedom[alike].sum())
        seeds = of_alike / np.sqrt(len(group)) * rng.standard_t(freedom[alike].sum(), len(drawn))
        mean, mean_drawn = float(auroc[group].mean()), drawn[:, group].mean(1) + seeds
        first, apart = rows[group[0]], said.probability[group].std(axis=0, ddof=1)
        cells.append(
            Seeds(
                N=first["N"],
                D=first["D"],
                C=first["C"],
                models=len(group),
                mean=mean,
                deviation=deviation,
                interval=interval(mean_drawn, options.level),
                average=float(auroc[k]),
                average_interval=interval(drawn[:, k], options.level),
                lead=mean - float(base),
                lead_interval=interval(mean_drawn - base_drawn, options.level),
                average_lead=float(auroc[k] - base),
                average_lead_interval=interval(drawn[:, k] - base_drawn, options.level),
                apart=float(apart.mean()),
                apart_most=float(np.quantile(apart, _MOST)) if told else np.nan,
            )
        )
    return sorted(cells, key=lambda cell: (-cell.C, -cell.N))
