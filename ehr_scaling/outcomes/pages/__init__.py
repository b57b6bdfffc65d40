"""Pages of futures, to look at."""
