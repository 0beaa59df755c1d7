"""The low-rank projection x A B beside a weight."""
