"""What timelines hold, for people to look at: facts of a split, the data card, one patient."""
