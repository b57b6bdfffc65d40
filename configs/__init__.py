"""The settings of studies, a module each: get_config() gives them, sweep(config) the points of the grid."""

from pathlib import Path

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))  # that --config takes
