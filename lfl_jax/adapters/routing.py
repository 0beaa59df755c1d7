"""How much of each adapter of a mix an example or a token uses.

Routing weights are floats, (B, M) per example or (B, T, M) per token: factors on the changes of M
adapters. Ids are integers, (B,) or (B, T): the one adapter to use. An id that names none, such as
-1, is the base model.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from lfl_jax.core.types import Routing
from lfl_jax.errors import UserError


def is_ids(routing: Shaped[Array, "..."] | np.ndarray | None) -> bool:
    """Whether a routing holds ids, and not routing weights."""
    return routing is not None and jnp.issubdtype(routing.dtype, jnp.integer)


def as_routing(routing: ArrayLike | None, shape: tuple[int, int], columns: int) -> Routing | None:
    """The routing of (B, T) tokens over an adapter of M = `columns` members, as an array.

    Routing weights (1, M) are broadcast to every row. UserError for any other shape; values are not
    checked.
    """
    if routing is None:
        return None
    # lists and numpy arrays, too: what has a dtype is told apart by it
    routing = jnp.asarray(routing)
    if is_ids(routing):
        _require_ids_shape(routing.shape, shape)
        return routing
    _require_weights_shape(routing.shape, shape, columns)
    return jnp.broadcast_to(routing, (*shape[: routing.ndim - 1], columns))


def _require_ids_shape(given: tuple[int, ...], shape: tuple[int, int]) -> None:
    if given not in (shape[:1], shape):
        raise UserError(
            f"routing: integers {given}; expected ids of members, {shape[:1]} or {shape} for this"
            " batch; factors on members are floats, (B, M) or (B, T, M)"
        )


def _require_weights_shape(given: tuple[int, ...], shape: tuple[int, int], columns: int) -> None:
    # (M,) could be meant for every row, but floats (B,) are more likely ids that lost their dtype
    if len(given) == 1:
        raise UserError(
            f"routing: floats {given}; ids of members are integers; factors on {columns} members"
            f" are (B, M) or (B, T, M), and (1, {columns}), routing[None], for the same in every"
            " row"
        )
    if given[-1:] != (columns,) or given[:-1] not in ((1,), shape[:1], shape):
        raise UserError(
            f"routing: floats {given}; expected a factor on each member of this adapter, which has"
            f" {columns}: {(*shape[:1], columns)} or {(*shape, columns)} for this batch"
        )


def require_columns(routing: Routing | None, adapters: int) -> None:
    """UserError for routing weights on fewer adapters than there are at a weight."""
    if routing is not None and not is_ids(routing) and routing.shape[-1] < adapters:
        raise UserError(
            f"routing: floats {routing.shape}; expected a factor on each of {adapters} members,"
            " (B, M) or (B, T, M)"
        )


def adapter_weight(
    routing: Routing | None, index: int, y: Float[Array, "B T _"]
) -> Float[Array, "B #T 1"] | int:
    """The routing weight of one adapter, to be multiplied with y; 1 without routing."""
    if routing is None:
        return 1
    # an id is one-hot routing weights: 1 in its column, and 0 everywhere for -1
    weight = routing == index if is_ids(routing) else routing[..., index]
    return weight.astype(y.dtype).reshape(weight.shape + (1,) * (y.ndim - weight.ndim))
