"""PhysioNet's Challenge 2012: what its parameters may be (`parameters`), its files (`reading`), its stays as events."""

from ehr_scaling.data.sources.challenge_2012.stays import FILES, extract, inputs

__all__ = ["FILES", "extract", "inputs"]
