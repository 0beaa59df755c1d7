"""The low-rank projection x W + ((x A) * routing) B: a low-rank adapter beside a weight."""

from lfl_jax.kernels.low_rank.projection import low_rank_projection

__all__ = ["low_rank_projection"]
