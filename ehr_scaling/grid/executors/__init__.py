"""Who works on the units of a grid: this machine (local), jobs of a scheduler (slurm), or a printed command (pods)."""

from ehr_scaling.grid.executors.claims import Cost
from ehr_scaling.grid.executors.job import Done, Job, Report
from ehr_scaling.grid.executors.local import run, workers_for
from ehr_scaling.grid.executors.processes import use_compile_cache

__all__ = ["Cost", "Done", "Job", "Report", "run", "use_compile_cache", "workers_for"]
