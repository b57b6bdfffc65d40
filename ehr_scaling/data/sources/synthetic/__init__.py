"""Generated patients: as events (`patients`), or in MIMIC-IV's own files (`mimic`)."""

from ehr_scaling.data.sources.synthetic.patients import extract, inputs

__all__ = ["extract", "inputs"]
