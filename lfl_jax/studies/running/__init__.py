"""Doing the runs of a study: planned, one by one or several at once, reused, altered without
training."""
