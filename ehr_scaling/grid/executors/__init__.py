"""Who works on the units of a grid: this machine (local), jobs of a scheduler (slurm), or a printed command (pods)."""

from ehr_scaling.grid.executors.claims import Cost
from ehr_scaling.grid.executors.local import Done, Job, Report, run, use_compile_cache, workers_for

__all__ = ["Cost", "Done", "Job", "Report", "run", "use_compile_cache", "workers_for"]
