"""Runs as rows: read from directories and files, typed, and chosen."""
