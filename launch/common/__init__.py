"""What the commands share: their flags and how they end, their log, what Slurm has to know."""
