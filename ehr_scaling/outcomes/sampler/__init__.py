"""Futures, drawn token by token."""
