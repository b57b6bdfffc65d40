"""Laws of loss in N and D together, fitted to all runs at once, and what the runs tell of their numbers."""
