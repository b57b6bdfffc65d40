"""Where each artifact of a work directory lies: the one place that knows."""

from dataclasses import dataclass
from pathlib import Path

FAILED = "failed.json"  # in a run's folder: why it cannot go on
STAGES = ("raw", "events", "timelines", "packed")  # of the data, in order
SPLITS = ("train", "validation", "test")  # of the patients, as TFDS names them
RESULTS = "*/metrics/metrics"  # below it, or below all runs: what stands beside the state of each checkpoint


@dataclass(frozen=True)
class Layout:
    """Of the work directory `root`; nothing is made or looked at."""

    root: Path

    @property
    def config(self) -> Path:
        """The settings that it was made with."""
        return self.root / "config.json"

    @property
    def log(self) -> Path:
        """What commands have printed."""
        return self.root / "log.txt"

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def events(self) -> Path:
        return self.root / "events"

    @property
    def timelines(self) -> Path:
        return self.root / "timelines"

    def packed(self, context: int, fraction: float = 1.0) -> Path:
        """Rows of `context` + 1 tokens, of this fraction of the training patients."""
        return self.root / "packed" / (f"t{context}" if fraction == 1 else f"t{context}-f{float(fraction)}")

    def initial(self, size: str) -> Path:
        """The weights that models of a size start from, where they do not start afresh."""
        return self.root / "initial" / size

    @property
    def grid(self) -> Path:
        return self.root / "grid"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run(self, cell: str) -> Path:
        """Checkpoints and log of the run of a cell's id."""
        return self.runs / cell

    def claim(self, cell: str) -> Path:
        """The lock of the unit that is named by this cell."""
        return self.runs / ".claims" / f"{cell}.lock"

    @property
    def outcomes(self) -> Path:
        return self.root / "outcomes"

    def task(self, name: str) -> Path:
        """What was asked, answered and scored of a task."""
        return self.outcomes / name

    def parts(self, cell: str) -> Path:
        """Futures of a cell that are being drawn, in a folder for each simulation; gone when they are judged."""
        return self.outcomes / f".{cell}"

    @property
    def audit(self) -> Path:
        """What models remember of their patients, <cell>.json each."""
        return self.root / "audit"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def cards(self) -> Path:
        return self.root / "cards"

    @property
    def slurm(self) -> Path:
        return self.root / "slurm"
