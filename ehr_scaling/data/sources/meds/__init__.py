"""MEDS data sets of any hospital: their dialects (`dialects`), their rows, and their way to the shards of patients."""

from ehr_scaling.data.sources.meds.dataset import FILES, check_splits, extract, inputs

__all__ = ["FILES", "check_splits", "extract", "inputs"]
