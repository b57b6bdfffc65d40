"""What becomes of a finished model: restored, asked for futures, started from, let go with a card."""
