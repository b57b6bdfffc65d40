"""Tasks of the benchmark MEDS-DEV, read from its files, as tasks of ours."""
