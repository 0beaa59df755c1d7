"""Plain XLA form of the low-rank products, and the interface that its faster relatives share."""

import dataclasses
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from lfl_jax.core.types import Weight
from lfl_jax.kernels.linear import linear, linear_transposed
from lfl_jax.kernels.linear.reference import matmul

# What the forward pass returns, (y, h = x A), and the backward pass, (dx, dh = dy B^T).
Forward: TypeAlias = tuple[Float[Array, "N O"], Float[Array, "N R"]]
Backward: TypeAlias = tuple[Float[Array, "N I"], Float[Array, "N R"]]


def shrink(
    x: Float[Array, "*N I"], factors: tuple[Float[Array, "I _"], ...]
) -> tuple[Float[Array, "*N _"], ...]:
    """x A for every A (I, R_i), as one product against their concatenation.

    Skinny products run far below peak, and a wider one costs about the same as a narrow one.
    """
    # where one A ends and the next begins, in the axis of all ranks
    splits, total = [], 0
    for a in factors[:-1]:
        total += a.shape[-1]
        splits.append(total)
    hidden = checkpoint_name(matmul(x, jnp.concatenate(factors, axis=-1)), "shrink")
    return tuple(jnp.split(hidden, splits, axis=-1))


def expand(
    hidden: tuple[Float[Array, "*N _"], ...], factors: tuple[Float[Array, "_ O"], ...]
) -> Float[Array, "*N O"]:
    """The sum of hidden_i B_i (R_i, O), as one product over all ranks."""
    # a single adapter is the common case: no copy of its B
    if len(hidden) == 1:
        return matmul(hidden[0], factors[0])
    return matmul(jnp.concatenate(hidden, axis=-1), jnp.concatenate(factors, axis=-2))


@runtime_checkable
class Implementation(Protocol):
    """One way to compute x W + ((x A) * routing) B and its gradients; routing None is all ones."""

    def forward(
        self,
        x: Float[Array, "N I"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Forward:
        """(y, x A)."""

    def backward(
        self,
        dy: Float[Array, "N O"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Backward:
        """(dx, dy B^T)."""


class Implementations(NamedTuple):
    """The implementations of the forward and of the backward pass."""

    forward: Implementation
    backward: Implementation


@dataclasses.dataclass(frozen=True)
class XLA:
    """Three products, which XLA fuses with the routing and the sum."""

    def forward(
        self,
        x: Float[Array, "N I"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Forward:
        """(y, x A)."""
        h = x @ a
        return linear(x, w) + routed(h, routing) @ b, h

    def backward(
        self,
        dy: Float[Array, "N O"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Backward:
        """(dx, dy B^T)."""
        dh = dy @ b.T
        return linear_transposed(dy, w) + routed(dh, routing) @ a.T, dh


def routed(ranks: Float[Array, "N R"], routing: Float[Array, "N R"] | None) -> Float[Array, "N R"]:
    """ranks times their routing weights, where there are any."""
    return ranks if routing is None else ranks * routing
