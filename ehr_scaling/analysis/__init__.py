"""Scaling laws from a table of runs: numpy, scipy and matplotlib only, so that any laptop or notebook can fit them."""
