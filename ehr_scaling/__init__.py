"""Scaling laws for electronic health records: from raw hospital records to a defended answer.

    import ehr_scaling as ehr

    ehr.run_study("work/mine", "quickstart")            # records → … → runs → report: the path of report.html
    ehr.patient("work/mine", "test", 0)                 # a timeline as a person reads it
    model = ehr.load_model("work/mine")                 # the best of its models, or one that was exported
    ehr.simulate(model, "work/mine", "in_hospital_death_24h")   # futures, and the risk of an outcome
    ehr.analysis.fit("work/mine/runs")                  # laws of any table of runs

`run_study` is not called study, because `ehr_scaling.study` is the module of the stages that it runs in order. The
modules below are there for whoever wants more; CONTRIBUTING.md says where things are.
"""

from ehr_scaling import analysis
from ehr_scaling.api import (
    load_model,
    patient,
    prepare,
    published,
    run_study,
    simulate,
    tasks,
    timelines,
    train,
    vocabulary,
)

__version__ = "0.1.0"

# Neither of the imports above imports anything beyond Python's own: JAX, numpy and the rest come with the first call.
__all__ = [
    "analysis",
    "load_model",
    "patient",
    "prepare",
    "published",
    "run_study",
    "simulate",
    "tasks",
    "timelines",
    "train",
    "vocabulary",
]
