"""A batch routed by ids: a gate of integers names the one member that each example (B,) or token (B, T) uses; any that
is not there, such as -1, is the base."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import LowRank, only_low_rank
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


def applies(gate: Any, group: tuple[Any, ...], parts: tuple[LowRank | None, ...], rules: Rules | None) -> bool:
    """Whether `low_rank` is the whole change of these members, and faster. Tokens cannot be sorted across a mesh."""
    if is_ids(gate) and gate.ndim == 2 and rules is not None and rules.mesh.size > 1:
        return False
    if not is_ids(gate) or len(group) < MEMBERS or not all(map(only_low_rank, group)):
        return False
    return len({(part.a.shape, part.b.shape) for part in parts}) == 1


def low_rank(x: Float[Array, "B T I"], parts: tuple[LowRank, ...], ids: Any) -> Float[Array, "B T O"]:
    """dy by the member that each id names: the products do not grow with the number of members."""
    a, scale, b = (jnp.stack(leaves) for leaves in zip(*parts, strict=True))
    ids = jnp.where(ids < len(parts), ids, -1)
    if ids.ndim == 1:
        return low_rank_by_example(x, a, b, ids, scale)
    return grouped_low_rank(x.reshape(-1, x.shape[-1]), a, b, ids.reshape(-1), scale).reshape(*x.shape[:2], -1)
