"""Raises while it is imported."""

LIMIT = int("many")
