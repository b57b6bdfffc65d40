"""Heads that learn an outcome from labels, on models that were trained without: beside the zero-shot score."""
