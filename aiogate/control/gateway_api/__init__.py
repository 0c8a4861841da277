"""The Gateway API under `/tyk`: lower-case envelopes, one shared secret."""
