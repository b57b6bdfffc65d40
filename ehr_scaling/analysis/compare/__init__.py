"""Two sets of runs: tokenizations, recipes, schedules."""
