"""y = x W + dy for a group of weights that share their input, with the low-rank products of all
adapters together."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from lfl_jax.adapters import routed
from lfl_jax.adapters.fused import fused, kernels
from lfl_jax.adapters.kind import LowRank, only_low_rank
from lfl_jax.adapters.mix import members
from lfl_jax.core.sharding import Rules
from lfl_jax.kernels.linear import linear
from lfl_jax.kernels.low_rank.reference import expand, shrink


def project(
    x: Float[Array, "B T I"],
    ws: tuple[Any, ...],
    layers: tuple[Any, ...],
    *,
    routing: Float[Array, "B *T M"] | Int[Array, " B"] | Int[Array, "B T"] | None = None,
    key: Any = None,
    dropout: float = 0.0,
    shared: Any = None,
    rules: Rules | None = None,
    axes: tuple[tuple[str, ...], ...] = (),
) -> tuple[Any, ...]:
    """One y (B, T, O) per weight.

    routing: a factor per example (B, M) or token (B, T, M) and member on the adapter's change; None
    is all ones. Or ids,
    (B,) or (B, T): the one member that an example or token uses, -1 being the base.
    key: turns on dropout of the adapters' input (one draw for the group, so that the shrink is
    shared).
    shared: the arrays that all layers of the adapter share. rules: the mesh that all lie on; with
    one of several devices, axes are the logical axes of each weight.
    """
    axes = axes or ((),) * len(ws)
    routed.check_columns(routing, layers)
    by_ids = routed.applies(routing, rules)
    banks = [
        routed.factors(layer, w, shared) if by_ids else None
        for layer, w in zip(layers, ws, strict=True)
    ]
    gated = [() if bank else members(layer) for layer, bank in zip(layers, banks, strict=True)]
    groups = [tuple(m.with_shared(shared) for m in group) for group in gated]
    parts = [tuple(m.low_rank(w) for m in group) for group, w in zip(groups, ws, strict=True)]
    fuse = key is None or dropout == 0.0  # x W and x A see the same x
    chosen = [
        kernels(x, w, each, rules, names)
        if fuse and each and all(map(only_low_rank, group))
        else None
        for w, group, each, names in zip(ws, groups, parts, axes, strict=True)
    ]
    ys = [None if passes else linear(x, w) for w, passes in zip(ws, chosen, strict=True)]
    x = drop(x, key, dropout)
    together = [each for each, passes in zip(parts, chosen, strict=True) if not passes]
    factors = [part.a.astype(x.dtype) for each in together for part in each if part is not None]
    hidden = iter(shrink(x, tuple(factors)) if factors else ())
    changed = []
    for y, w, group, each, passes, bank in zip(ys, ws, groups, parts, chosen, banks, strict=True):
        if bank:
            changed.append(y + routed.low_rank(x, bank, routing))
        elif passes:
            changed.append(
                fused(x, w, each, [_column(routing, m, x) for m in range(len(each))], passes)
            )
        else:
            here = tuple(None if part is None else next(hidden) for part in each)
            # what changes y differentiates it
            y = y if all(map(only_low_rank, group)) else checkpoint_name(y, "base")
            changed.append(_others(x, y, w, group, _low_rank(y, each, here, routing), routing))
    return tuple(changed)


def _low_rank(
    y: Any, parts: tuple[LowRank | None, ...], hidden: tuple[Any, ...], routing: Any
) -> Any:
    """y with the low-rank parts of all members, in one product: mixture weights and routing are
    factors on ranks."""
    found = [m for m, part in enumerate(parts) if part is not None]
    if not found:
        return y
    inner = [hidden[m] * parts[m].scale.astype(y.dtype) * _column(routing, m, y) for m in found]
    return y + expand(tuple(inner), tuple(parts[m].b.astype(y.dtype) for m in found))


def _others(x: Any, y: Any, w: Any, group: tuple[Any, ...], total: Any, routing: Any) -> Any:
    """total with the other changes: those of the weight see y, then those of the output see the
    sum."""
    for last in (False, True):
        for m, member in enumerate(group):
            if member.on_output is last:
                change = member.change(x, total if last else y, w)
                total = total if change is None else total + change * _column(routing, m, y)
    return total


def _column(routing: Any, index: int, y: Any) -> Any:
    """The routing weight of one member, to be multiplied with (B, T, ...); 1 without routing."""
    if routing is None:
        return 1
    column = (routing == index if routed.is_ids(routing) else routing[..., index]).astype(y.dtype)
    return column.reshape(column.shape + (1,) * (y.ndim - column.ndim))


def drop(x: Any, key: Any, rate: float) -> Any:
    """Inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
