"""The report's panel for planning: it computes in the reader's browser as compute and patients are dragged."""

import json
from importlib import resources

import numpy as np

from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.plan import plan_basis, planner
from ehr_scaling.analysis.plan.record import Planner
from ehr_scaling.analysis.report.html import Raw, render

STARTS = (10.0, 3.0, 1.0, 0.3, 0.1)  # of the largest run's compute: the panel begins at the first that has a plan
MOST = 1e4  # times the largest run's compute, where the slider ends
DATA = (1e-2, 1e3)  # of the patients of the report
MOST_PASSES = 16


def plan(known: Planner | None) -> Raw:
    """Sliders and what follows from them; without a script, one plan in words.

    One line where there is no plan at any of STARTS. Nothing where no law could be fitted.
    """
    if known is None:
        return Raw("")
    tokens, limited = known.unique_tokens, bool(np.isfinite(known.unique_tokens))
    patients = known.patients if np.isfinite(known.patients) else None
    passes = known.seen["passes"][1]
    passes = float(min(max(passes, 1.0), MOST_PASSES)) if limited and np.isfinite(passes) else 1.0
    top = known.forecaster.top
    for start in STARTS:
        first_plan = planner.plan(known, start * top, *((tokens, passes) if limited else (np.inf, np.inf)))
        if not first_plan.refused:
            break
    least = min(STARTS[-1] * top, known.seen["C"][0])
    record = {
        **plain(plan_basis.to_json(known)),
        "panel": {
            "C": [least, first_plan.C, MOST * top],
            "tokens": [tokens * DATA[0], tokens, tokens * DATA[1]] if limited else None,
            "patients": patients,
            "passes": [1, passes, MOST_PASSES],
        },
    }
    code = resources.files("ehr_scaling.analysis")
    script = "".join((code / name).read_text(encoding="utf-8") for name in ("plan/planner.js", "report/panel.js"))
    return render(
        "plan.html",
        plan=first_plan,
        limited=limited,
        level=known.forecaster.options.level,
        # A "<" could end the script that holds it.
        data=Raw(json.dumps(record, allow_nan=False).replace("<", "\\u003c")),
        script=Raw(script),
    )
