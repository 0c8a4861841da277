"""Implements no hook at all."""
