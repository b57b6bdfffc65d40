"""MIMIC-IV and MIMIC-IV-ED: which column of which table becomes which event (`tables`), and how the files are read."""

from ehr_scaling.data.sources.mimic.release import FILES, extract, inputs

__all__ = ["FILES", "extract", "inputs"]
