"""Plain XLA form of the low-rank products."""

from typing import Any

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lfl_jax.kernels.linear.reference import matmul


def shrink(x: Any, factors: tuple[Any, ...]) -> tuple[Any, ...]:
    """x A for every A (I, R_i): one product against their concatenation. Skinny products run far below peak, and a
    wider one costs about the same as a narrow one."""
    splits, total = [], 0
    for a in factors[:-1]:
        total += a.shape[-1]
        splits.append(total)
    hidden = checkpoint_name(matmul(x, jnp.concatenate(factors, axis=-1)), "shrink")
    return tuple(jnp.split(hidden, splits, axis=-1))


def expand(hidden: tuple[Any, ...], factors: tuple[Any, ...]) -> Any:
    """The sum of hidden_i B_i (R_i, O), as one product over all ranks."""
    if len(hidden) == 1:
        return matmul(hidden[0], factors[0])
    return matmul(jnp.concatenate(hidden, axis=-1), jnp.concatenate(factors, axis=-2))
