"""A batch routed by ids: a gate of integers names the one member that each example (B,) or token (B, T) uses; any that
is not there, such as -1, is the base."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import LowRank, only_low_rank
from lfl_jax.adapters.mix import Bank, members
from lfl_jax.core.sharding import Rules
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank.grouped import grouped_low_rank, low_rank_by_example

MEMBERS = 8  # from so many on, products with each row's own factors are faster (results/README.md; on CPU only)


def is_ids(gate: Any) -> bool:
    """Whether a gate is ids, and not factors."""
    return gate is not None and jnp.issubdtype(gate.dtype, jnp.integer)


def as_gate(gate: Any, shape: tuple[int, int]) -> Any:
    """The gate of (B, T) tokens as an array; UserError for integers that cannot be their ids."""
    gate = None if gate is None else jnp.asarray(gate)
    if is_ids(gate) and gate.shape not in (shape[:1], shape):
        raise UserError(
            f"gate: integers {gate.shape}; expected ids of members, {shape[:1]} or {shape} for this batch; factors on"
            " members are floats, (B, M) or (B, T, M)"
        )
    return gate


def applies(gate: Any, rules: Rules | None) -> bool:
    """Whether a gate is ids that `low_rank` can follow: rows that are each their own cannot be sorted across a mesh."""
    return is_ids(gate) and (gate.ndim == 1 or rules is None or rules.mesh.size == 1)


def factors(layer: Any, w: Any, shared: Any) -> LowRank | None:
    """A (M, I, R), scale (M, R) and B (M, R, O) of a layer's members, where `low_rank` is all they do, and faster."""
    if isinstance(layer, Bank):
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
    return grouped_low_rank(x.reshape(-1, x.shape[-1]), a, b, ids.reshape(-1), scale).reshape(*x.shape[:2], -1)
