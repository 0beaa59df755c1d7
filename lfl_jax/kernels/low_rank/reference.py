"""Plain XLA form of the low-rank products."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lfl_jax.kernels.linear import linear, linear_transposed
from lfl_jax.kernels.linear.reference import matmul


def shrink(x: Any, factors: tuple[Any, ...]) -> tuple[Any, ...]:
    """x A for every A (I, R_i): one product against their concatenation. Skinny products run far
    below peak, and a wider one costs about the same as a narrow one."""
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


@dataclasses.dataclass(frozen=True)
class XLA:
    """The implementation of `low_rank_projection` by three products, which XLA fuses with the
    routing and the sum."""

    def forward(self, x: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(y, x A)."""
        h = x @ a
        return linear(x, w) + gated(h, routing) @ b, h

    def backward(self, dy: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(dx, dy B^T)."""
        back = dy @ b.T
        return linear_transposed(dy, w) + gated(back, routing) @ a.T, back


def gated(ranks: Any, routing: Any) -> Any:
    """ranks (N, R) times their routing, where there is one."""
    return ranks if routing is None else ranks * routing
