"""Which model to train with the patients and the compute there are, and which runs to add."""
