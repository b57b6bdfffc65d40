"""The choices of an analysis."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The choices of an analysis; every one is written into laws.json.

    draws: bootstrap draws. seed: of the draws; the same seed gives the same report. level: of the intervals.
    isoflop: the curve of a budget, one of isoflop.METHODS.
    window: the parabola sees sizes within this factor of the best one, and at least the five nearest.
    near: how far above the lowest a fitted loss may be, as a share of it, to count as near-optimal.
    wide: an exponent whose interval is wider is called unidentified. failed: the largest share of draws that may
    lose the optimum, misfits: of budgets whose runs may contradict their parabola, before the word is unidentified.
    delta: where the Huber loss of log residuals turns linear.
    law: "auto", or the joint law that is taken whatever rolling hold-outs say.
    drop_highest_loss: runs left out of every fit. hold_out_above: FLOPs; None seals the largest budget.
    doubt: why nothing is supported (`quality.grave`), which the analysis itself finds; "" for no such reason.
    """

    draws: int = 1000
    seed: int = 0
    level: float = 0.95
    isoflop: str = "parabola"
    window: float = 5.0
    near: float = 0.005
    wide: float = 0.3
    failed: float = 0.1
    misfits: float = 0.2
    delta: float = 1e-3
    law: str = "auto"
    drop_highest_loss: int = 0
    hold_out_above: float | None = None
    doubt: str = ""


def silent(step: str) -> None:
    """Tells nobody which step an analysis is at."""
