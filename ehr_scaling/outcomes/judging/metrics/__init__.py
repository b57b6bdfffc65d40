"""How good scores, risks and values are, with intervals: arrays in, numbers out; what drew them is not known here."""
