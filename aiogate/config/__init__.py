"""Declared: what the operator wrote, as frozen models, and every mistake in it with its place."""
