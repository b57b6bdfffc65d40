"""Cards of a finished study, from its artifacts alone: the model, the data, and the checklist of TRIPOD+AI."""
