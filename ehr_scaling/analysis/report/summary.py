"""The laws of a study in the dozen lines that a terminal has room for."""

from collections.abc import Iterable
from typing import Any

from ehr_scaling.analysis.wording import DASH, count, decimal, percent, power, significant, span

FEW_PATIENTS = 500  # to train on: models of a few thousand parameters learn these by heart within a minute
LEAST_SHARED = 5e-4  # of a loss: less is no news


def summary(laws: dict[str, Any]) -> str:
    """Budgets with verdicts, exponents with intervals, the forecast: what a terminal has room for."""
    iso = laws["isoflop"]
    few = few_patients(laws["data"]["patients"])
    header = f"{'C (FLOPs)':>12} {'runs':>5}  {'verdict':<24} {'N*':>8}  {'interval':<20} {'L*':>7}"
    lines = [few, header] if few else [header]
    for b in iso["budgets"]:
        bounds = span(b["intervals"]["N"], count)
        lines.append(
            f"{power(b['C']):>12} {b['runs']:>5}  {b['verdict']:<24} {count(b['N']):>8}  {bounds:<20} "
            f"{decimal(b['L']):>7}"
        )
    planner = laws["planner"] or {"shared": 0.0}
    if shared := by_seeds((b["shared"] for b in iso["budgets"]), planner["shared"]):
        lines.append(shared)
    for key, name in (("a", "N* ~ C^a"), ("b", "D* ~ C^b")):
        verdict = laws["verdicts"][key]
        value = (
            f"{key} = {decimal(iso[key])}  [{span(iso['intervals'][key])}]" if iso[key] is not None else f"{key} {DASH}"
        )
        lines.append(f"{name}: {value}  {verdict['word']}: {verdict['reason']}")
    chosen = laws["laws"].get(laws["selected"])
    if chosen:
        verdict = laws["verdicts"][laws["selected"]]
        parameters = ", ".join(f"{name} {significant(value, 4)}" for name, value in chosen["parameters"].items())
        lines.append(
            f"joint law ({laws['selected']}): {parameters}, objective {chosen['objective']:.7g}  {verdict['word']}: "
            f"{verdict['reason']}"
        )
    sealed = laws["holdout"]
    if sealed and sealed["rows"]:
        lines.append(
            f"sealed budget: {len(sealed['rows'])} runs forecast with mean error {sealed['error_percent']:.2f} %, "
            f"{percent(sealed['coverage'])} inside the interval"
        )
    return "\n".join(lines)


def few_patients(most: float | None) -> str:
    """What is said first of a study of so few patients; empty for others, and where their number is not known."""
    if most is None or not most < FEW_PATIENTS:
        return ""
    return (
        f"{most:,.0f} patients to train on determine nothing: this study shows that every stage works on such records."
    )


def by_seeds(budgets: Iterable[float | None], forecasts: float) -> str:
    """What intervals owe to runs of one seed moving together; empty where that is nothing.

    budgets: what is added to either side of L* of each, as a share of it. forecasts: the same of every forecast.
    """
    most = max((share for share in budgets if share is not None), default=0.0)
    added = ((most, "L* of a budget"), (forecasts, "losses forecast and planned"))
    told = [f"± {percent(share, 2)} on {what}" for share, what in added if share >= LEAST_SHARED]
    head = "seeds: all runs of one seed move together, which the intervals hold"
    return f"{head} ({' and '.join(told)}, added in squares)" if told else ""
