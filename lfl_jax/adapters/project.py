"""y = x W + dy for a group of weights that share their input, with one shrink x A for all adapters of the group."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.mix import members
from lfl_jax.kernels.linear.reference import matmul
from lfl_jax.kernels.low_rank.reference import shrink


def project(
    x: Float[Array, "B T I"],
    ws: tuple[Any, ...],
    layers: tuple[Any, ...],
    *,
    gate: Float[Array, "B *T M"] | None = None,
    key: Any = None,
    dropout: float = 0.0,
) -> tuple[Any, ...]:
    """One y (B, T, O) per weight.

    gate: a factor per example (B, M) or token (B, T, M) and member on the adapter's change; None is all ones.
    key: turns on dropout of the adapters' input (one draw for the group, so that the shrink is shared).
    """
    ys = tuple(matmul(x, w.astype(x.dtype)) for w in ws)
    groups = [members(layer) for layer in layers]
    if not any(groups):
        return ys
    x = drop(x, key, dropout)
    factors = tuple(m.factor().astype(x.dtype) for group in groups for m in group if m.factor() is not None)
    hidden = iter(shrink(x, factors) if factors else ())
    return tuple(_add(x, y, w, group, hidden, gate) for y, w, group in zip(ys, ws, groups, strict=True))


def _add(x: Any, y: Any, w: Any, group: tuple[Any, ...], hidden: Any, gate: Any) -> Any:
    """y with the changes of all members: those of the weight see y and add, those of the output then see the sum."""
    total = y
    for last in (False, True):
        for index, member in enumerate(group):
            if getattr(member, "on_output", False) is not last:
                continue
            seen = total if last else y
            change = member.change(x, seen, w, None if member.factor() is None else next(hidden))
            total = total + (change if gate is None else change * _column(gate, index, y))
    return total


def _column(gate: Any, index: int, y: Any) -> Any:
    column = gate[..., index].astype(y.dtype)
    return column.reshape(column.shape + (1,) * (y.ndim - column.ndim))


def drop(x: Any, key: Any, rate: float) -> Any:
    """Inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
