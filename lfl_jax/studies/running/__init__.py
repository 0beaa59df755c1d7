"""Doing the runs of a study: planned, one after another or several at once, reused, scaled."""
