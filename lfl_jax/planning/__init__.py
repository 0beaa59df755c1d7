"""Whether a config fits a machine, how long it takes there, and why: before anything is spent."""
