"""A batch routed by ids: a routing of integers names the one member that each example (B,) or token
(B, T) uses; any that is not there, such as -1, is the base."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import LowRank, only_low_rank
from lfl_jax.adapters.mix import StackedFactors, count, members
from lfl_jax.core.sharding import Rules
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank.grouped import grouped_low_rank, low_rank_by_example

# from so many on, products with each row's own factors are faster (results/README.md; on CPU only)
MEMBERS = 8


def is_ids(routing: Any) -> bool:
    """Whether a routing is ids, and not factors."""
    return routing is not None and jnp.issubdtype(routing.dtype, jnp.integer)


def as_routing(routing: Any, shape: tuple[int, int], columns: int) -> Any:
    """The routing of (B, T) tokens and an adapter of `columns` members, as an array.

    Integers are ids, (B,) or (B, T); floats are factors, (B, M) or (B, T, M), or (1, M) for every
    row alike. UserError for any other shape; values are not looked at.
    """
    if routing is None:
        return None
    routing = jnp.asarray(routing)
    if is_ids(routing):
        if routing.shape not in (shape[:1], shape):
            raise UserError(
                f"routing: integers {routing.shape}; expected ids of members, {shape[:1]} or"
                f" {shape} for"
                " this batch; factors"
                " on members are floats, (B, M) or (B, T, M)"
            )
        return routing
    if routing.ndim == 1:
        raise UserError(
            f"routing: floats {routing.shape}; ids of members are integers; factors on {columns}"
            " members"
            " are (B, M) or"
            f" (B, T, M), and (1, {columns}), routing[None], for the same in every row"
        )
    if routing.shape[-1] != columns or routing.shape[:-1] not in ((1,), shape[:1], shape):
        raise UserError(
            f"routing: floats {routing.shape}; expected a factor on each member of this adapter,"
            " which"
            f" has {columns}:"
            f" {(*shape[:1], columns)} or {(*shape, columns)} for this batch"
        )
    return jnp.broadcast_to(routing, (*shape[: routing.ndim - 1], columns))


def check_columns(routing: Any, layers: tuple[Any, ...]) -> None:
    """UserError for factors on fewer members than these layers have."""
    most = max((count(layer) for layer in layers), default=0)
    if routing is not None and not is_ids(routing) and routing.shape[-1] < most:
        raise UserError(
            f"routing: floats {routing.shape}; expected a factor on each of {most} members, (B, M)"
            " or (B,"
            " T, M)"
        )


def applies(routing: Any, rules: Rules | None) -> bool:
    """Whether a routing is ids that `low_rank` can follow: rows that are each their own cannot be
    sorted across a mesh."""
    return is_ids(routing) and (routing.ndim == 1 or rules is None or rules.mesh.size == 1)


def factors(layer: Any, w: Any, shared: Any) -> LowRank | None:
    """A (M, I, R), scale (M, R) and B (M, R, O) of a layer's members, where `low_rank` is all they
    do, and faster."""
    if isinstance(layer, StackedFactors):
        return layer.factors
    group = tuple(member.with_shared(shared) for member in members(layer))
    if len(group) < MEMBERS or not all(map(only_low_rank, group)):
        return None
    parts = tuple(member.low_rank(w) for member in group)
    if len({(part.a.shape, part.b.shape) for part in parts}) > 1:
        return None
    return LowRank(*(jnp.stack(leaves) for leaves in zip(*parts, strict=True)))


def low_rank(x: Float[Array, "B T I"], factors: LowRank, ids: Any) -> Float[Array, "B T O"]:
    """dy by the member that each id names: the products do not grow with the number of members."""
    a, scale, b = factors
    ids = jnp.where(ids < len(scale), ids, -1)
    if ids.ndim == 1:
        return low_rank_by_example(x, a, b, ids, scale)
    return grouped_low_rank(x.reshape(-1, x.shape[-1]), a, b, ids.reshape(-1), scale).reshape(
        *x.shape[:2], -1
    )
