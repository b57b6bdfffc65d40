"""Laws of runs that see the same patients more than once."""
