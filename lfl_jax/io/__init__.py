"""Files in and out: weights, adapters, checkpoints, metrics."""
