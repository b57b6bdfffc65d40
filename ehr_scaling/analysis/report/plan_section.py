"""The report's panel for planning: it computes in the reader's browser as compute and patients are dragged."""

import json
from importlib import resources

import numpy as np

from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.plan import plan_basis, planner
from ehr_scaling.analysis.plan.plan_words import TOLERANCE
from ehr_scaling.analysis.plan.record import Plan, Planner
from ehr_scaling.analysis.report.html import Raw, join, paragraph, section
from ehr_scaling.analysis.wording import count, decimal, percent, power, span

DECADES = (1.0, 4.0)  # of compute that the slider shows below and above the largest run
DATA = (1e-2, 1e3)  # of the patients of the report
MOST_PASSES = 16


def plan(known: Planner | None) -> Raw:
    """Sliders and what follows from them; without a script, one plan in words. Nothing where no law could be fitted."""
    if known is None:
        return Raw("")
    tokens, limited = known.unique_tokens, np.isfinite(known.unique_tokens)
    patients = known.patients if np.isfinite(known.patients) else None
    passes = known.seen["passes"][1]
    passes = float(min(max(passes, 1.0), MOST_PASSES)) if np.isfinite(passes) else 1.0
    C = 10 * known.forecaster.top
    record = {
        **plain(plan_basis.to_json(known)),
        "panel": {
            "C": [known.forecaster.top * 10 ** -DECADES[0], C, known.forecaster.top * 10 ** DECADES[1]],
            "tokens": [tokens * DATA[0], tokens, tokens * DATA[1]] if limited else None,
            "patients": patients,
            "passes": [1, passes, MOST_PASSES],
        },
    }
    # A "<" could end the script that holds it.
    data = json.dumps(record, allow_nan=False).replace("<", "\\u003c")
    code = resources.files("ehr_scaling.analysis")
    script = "".join((code / name).read_text(encoding="utf-8") for name in ("plan/planner.js", "report/panel.js"))
    about = join(
        "Drag what you have. The plan is the best use of the compute by the law that forecast the held-out runs best, "
        f"with its {percent(known.forecaster.options.level)} intervals; ",
        Raw("<code>python -m launch.plan</code>"),
        " gives the same, with wall times. It is refused where the law is unidentified, and beyond the runs where laws "
        f"about as good disagree by more than {percent(TOLERANCE)} of the loss, or law and IsoFLOP optima about the "
        "size.",
    )
    allowed = (tokens, passes) if limited else (np.inf, np.inf)
    return section(
        "plan",
        "Plan",
        paragraph(about),
        Raw('<div id="panel"></div>'),
        Raw(f"<noscript>{paragraph(_in_words(planner.plan(known, C, *allowed)))}</noscript>"),
        Raw(f'<script type="application/json" id="planner-data">{data}</script>\n<script>\n{script}</script>'),
    )


def _in_words(made: Plan) -> Raw:
    data = f"{count(made.unique_tokens)} unique tokens" if np.isfinite(made.unique_tokens) else "no limit of data"
    head = f"With {power(made.C)} FLOPs and {data}: "
    if made.refused:
        return join(head, "no plan, for ", "; ".join(made.refused), ".")
    return join(
        head,
        f"{count(made.N)} body parameters ({span(made.N_interval, count)}) on {count(made.D)} tokens, reaching "
        f"{decimal(made.loss)} nats a token ({span(made.loss_interval)}), {made.words['loss'].word}.",
    )
