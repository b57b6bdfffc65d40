"""MIMIC-IV's own files, of generated patients: `write` makes a release of any size. See `release`."""

from ehr_scaling.data.sources.synthetic.mimic.release import DEFAULT, TABLES, write

__all__ = ["DEFAULT", "TABLES", "write"]
