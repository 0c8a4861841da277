"""The Dashboard API under `/api`: capitalised envelopes, one access key and one organisation per user."""
