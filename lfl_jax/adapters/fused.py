"""x W and all low-rank parts beside it by one kernel, where the selection table has one that was
measured faster."""

from typing import Any

import jax.numpy as jnp

from lfl_jax.adapters.kind import LowRank
from lfl_jax.core.sharding import Rules
from lfl_jax.kernels.low_rank import low_rank_projection
from lfl_jax.kernels.low_rank.reference import XLA
from lfl_jax.kernels.low_rank.sharded import choose_on

Passes = tuple[Any, Any]  # the implementations of the forward and the backward pass


def kernels(
    x: Any, w: Any, parts: tuple[LowRank, ...], rules: Rules | None, axes: tuple[str, ...]
) -> Passes | None:
    """The table's choice for x (B, T, I) and these members, or None where that is XLA both ways;
    axes: W's."""
    passes = choose_on(
        rules, axes, w, x.size // x.shape[-1], sum(part.a.shape[-1] for part in parts)
    )
    return None if passes == (XLA(), XLA()) else passes


def fused(x: Any, w: Any, parts: tuple[LowRank, ...], columns: list[Any], passes: Passes) -> Any:
    """y (B, T, O). columns: a factor on each member, to be multiplied with (B, T, ...); with the
    scales they make the kernel's routing on rows and ranks, which so serves a single adapter, a
    stack, a mixture and a routed batch."""
    lead = x.shape[:-1]
    factors = [
        part.scale.astype(x.dtype) * column for part, column in zip(parts, columns, strict=True)
    ]
    routing = jnp.concatenate([jnp.broadcast_to(f, (*lead, f.shape[-1])) for f in factors], axis=-1)
    a = jnp.concatenate([part.a for part in parts], axis=-1)
    b = jnp.concatenate([part.b for part in parts], axis=-2)
    rows = lambda v: v.reshape(-1, v.shape[-1])  # noqa: E731
    y = low_rank_projection(rows(x), w, a, b, rows(routing), implementation=passes)
    return y.reshape(*lead, y.shape[-1])
