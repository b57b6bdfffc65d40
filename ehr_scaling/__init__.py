"""Scaling laws for electronic health records: from raw hospital records to a defended answer."""

__version__ = "0.1.0"
