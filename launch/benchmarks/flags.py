"""Flags of the benchmarks, apart from these: --help needs nothing that is measured."""

import os
import sys
from pathlib import Path

from absl import flags

REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of which the median is taken.", lower_bound=1)

# Of the part data
DEMO = flags.DEFINE_string("mimic_demo", None, "Folder of the MIMIC-IV demo 2.2, to measure the way from it.")
FRACTION = flags.DEFINE_float("fraction", 0.01, "Of MIMIC-IV 3.1's rows, to generate and measure the way from.")
KEEP = flags.DEFINE_string("keep", None, "Folder for the generated files, so that the next run finds them.")

# training
TORCH = flags.DEFINE_string("torch_python", sys.executable, "An interpreter with torch (extra bench), to compare with.")
SIZES = flags.DEFINE_list("bench_sizes", ["101k", "1.2m", "2.7m"], "Sizes to compare.")
CONTEXTS = flags.DEFINE_list("bench_contexts", ["256", "1024"], "T of the comparison.")
SECONDS = flags.DEFINE_float("bench_seconds", 3.0, "Of one turn of a side of a comparison.")
MIXED = flags.DEFINE_list("mixing_sizes", ["14k", "151k", "1.2m"], "Sizes to train with mixing and without.")
GRID = flags.DEFINE_bool("grid", True, "Train the quickstart's grid, to see where its wall time goes (3 minutes).")

# accelerator. Targets: share of the peak rate that an H200 is to reach, at T = 2,048
TARGETS = {"1.2m": 0.10, "7.6m": 0.20, "26m": 0.30, "85m": 0.40, "127m": 0.40, "396m": 0.45}
LARGE = flags.DEFINE_list("accelerator_sizes", list(TARGETS), "Sizes of the part accelerator.")
LONG = flags.DEFINE_integer("accelerator_context", 2048, "T of the part accelerator.")

# analysis
TABLES = flags.DEFINE_string(
    "tables",
    str(Path(os.environ.get("EHR_SCALING_TEST_DATA", "")) / "laws"),
    "Folder with chinchilla_epoch_245.csv, muennighoff_182.csv and porian_isoflop_long.csv; by default laws/ in "
    "$EHR_SCALING_TEST_DATA.",
)

# coverage
REPLICATES = flags.DEFINE_integer("replicates", 200, "Simulated tables of each kind (coverage).", lower_bound=20)
