"""Forecasts beyond the runs: rolling hold-outs, and the sealed top of the compute range."""
