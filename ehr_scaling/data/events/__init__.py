"""The `events/` artifact: a MEDS 0.4 data set, whatever the source was, and which patients train, tune and test."""
