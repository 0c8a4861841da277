"""Compiled: what a definition becomes, and the loop that runs it."""
