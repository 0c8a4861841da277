"""Rules without I/O: sessions, policies, limits and names, as functions from values to values."""
