"""What further passes over the same patients buy: the unique tokens they are worth, and when more of them cost loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import interval
from ehr_scaling.analysis.repeats.repeated_data import IGNORED, PENALTY, Repeated
from ehr_scaling.analysis.repeats.repeated_laws import FORMS, LEAST_REPEATS
from ehr_scaling.analysis.words import Verdict
from ehr_scaling.errors import UserError

PASSES = (1, 2, 4, 8, 16)
MOST_PASSES = 1e5  # sought up to this


@dataclass(frozen=True)
class Pass:
    """What so many passes are worth: as many unique tokens, seen once, as reach the same loss."""

    passes: float
    D: float
    worth: float
    worth_interval: tuple[float, float]
    loss: float
    loss_interval: tuple[float, float]
    verdict: Verdict


def largest(repeated: Repeated) -> tuple[float, float]:
    """N and U (unique tokens) at which `values` and `turn` stand by default: the largest of the runs."""
    return float(repeated.table.N.max()), float(repeated.unique.max()) / repeated.positions


def _place(repeated: Repeated, N: float | None, U: float | None) -> tuple[float, float]:
    defaults = largest(repeated)
    N, U = defaults[0] if N is None else N, defaults[1] if U is None else U
    if not (0 < N < np.inf and 0 < U < np.inf):
        raise UserError(f"N = {N:g} and U = {U:g}: both must be positive and finite")
    return N, U


def values(
    repeated: Repeated, N: float | None = None, U: float | None = None, passes: tuple[float, ...] = PASSES
) -> list[Pass]:
    """A row for each number of passes over U unique tokens by a model of N parameters, by the selected law.

    N, U: by default the largest of the runs. Raises: UserError when one is not positive.
    """
    N, U = _place(repeated, N, U)
    law, unique, level = repeated.law, U * repeated.positions, repeated.options.level
    theta = np.vstack([law.theta[None], law.good])
    D = unique * np.array(passes)
    at = law.losses_of(theta, N, D, unique)
    # Data that are seen once: their loss falls with their number, so that the one that reaches a loss can be read off.
    fresh = np.geomspace(1e-4 * unique, max(D.max(), unique), 1000)
    once = law.losses_of(theta, N, fresh, fresh)
    worth = np.array([np.exp(np.interp(-a, -o, np.log(fresh))) for a, o in zip(at, once, strict=True)])
    worth = np.where(unique >= D, D, worth) / repeated.positions  # as many as were seen, of which no law need be asked
    rows = []
    for k, times in enumerate(passes):
        bounds, losses = interval(worth[1:, k], level), interval(at[1:, k], level)
        if times <= 1:
            bounds = (float(worth[0, k]), float(worth[0, k]))
        verdict = words.worth(repeated.verdict, times, bounds, repeated.word(N, float(D[k]), U))
        rows.append(Pass(times, float(D[k]), float(worth[0, k]), bounds, float(at[0, k]), losses, verdict))
    return rows


@dataclass(frozen=True)
class Turn:
    """The passes after which more of them cost loss, by the penalty law; the interval may be open (infinity)."""

    passes: float
    interval: tuple[float, float]
    loss: float
    verdict: Verdict


def turn(repeated: Repeated, N: float | None = None, U: float | None = None) -> Turn:
    """Where the penalty law is lowest in passes over U unique tokens, at N parameters (by default the largest of the
    runs). Raises: UserError when N or U is not positive."""
    N, U = _place(repeated, N, U)
    law, unique = repeated.laws[PENALTY], U * repeated.positions
    passes = 1 + np.concatenate([[0.0], np.geomspace(2 * LEAST_REPEATS, MOST_PASSES, 1500)])
    losses = law.losses_of(np.vstack([law.theta[None], law.good]), N, unique * passes, unique)
    lowest = losses.argmin(1)
    best = np.where(lowest == len(passes) - 1, np.inf, passes[lowest])
    # Infinity is no number to interpolate with, so the ends are draws
    share = [(1 - law.level) / 2, (1 + law.level) / 2]
    bounds = np.quantile(best[1:], share, method="inverted_cdf") if len(best) > 20 else np.full(2, np.nan)
    low, high = float(bounds[0]), float(bounds[1])
    verdict = words.turn(
        law.lost(repeated.options),
        (low, high),
        repeated.verdict.told and repeated.errors[PENALTY] < repeated.errors[IGNORED],
        "" if repeated.selected == PENALTY else repeated.selected,
        repeated.word(N, float(best[0]) * U * repeated.positions, U),
    )
    return Turn(float(best[0]), (low, high), float(losses[0].min()), verdict)


def to_json(repeated: Repeated | None) -> dict[str, Any] | None:
    """For laws.json; NaN for unknown, infinity for an open end.

    {runs, left_out, folds, positions, selected, word, reason, error_percent: {law}, gain_percent, gain_interval,
    laws: {law: {formula, parameters, intervals, words, objective, failed_draws}}, N, U: where the rest holds,
    passes: [{passes, D, worth, interval, loss, loss_interval, word, reason}],
    turn: {passes, interval, loss, word, reason}}
    """
    if repeated is None:
        return None
    N, U = largest(repeated)
    turned = turn(repeated)
    return {
        "runs": len(repeated.table),
        "left_out": repeated.left_out,
        "folds": repeated.folds,
        "positions": repeated.positions,
        "selected": repeated.selected,
        **repeated.verdict._asdict(),
        "error_percent": {name: 100 * error for name, error in repeated.errors.items()},
        "gain_percent": 100 * repeated.gain,
        "gain_interval": [100 * end for end in repeated.gain_interval],
        "laws": {
            name: {
                "formula": FORMS[name].formula,
                "parameters": law.parameters,
                "intervals": law.intervals,
                "words": {parameter: v._asdict() for parameter, v in law.words(repeated.options).items()},
                "objective": law.objective,
                "failed_draws": law.failed,
            }
            for name, law in repeated.laws.items()
        },
        "N": N,
        "U": U,
        "passes": [
            {
                "passes": row.passes,
                "D": row.D,
                "worth": row.worth,
                "interval": row.worth_interval,
                "loss": row.loss,
                "loss_interval": row.loss_interval,
                **row.verdict._asdict(),
            }
            for row in values(repeated)
        ],
        "turn": {
            "passes": turned.passes,
            "interval": turned.interval,
            "loss": turned.loss,
            **turned.verdict._asdict(),
        },
    }
