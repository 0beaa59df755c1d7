"""Keys and values of past tokens, so that decoding computes each token once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lfl_jax.core.pytree import Node
from lfl_jax.core.types import Params
from lfl_jax.models.config import ModelConfig

# The axis of the slots in keys (.., P, S) and in values (.., S, P).
KEY_SLOTS, VALUE_SLOTS = -1, -2


@struct.dataclass
class Cache(Node):
    """Keys and values of S slots, the segment of each slot (B, S), and the next free slot.

    k (B, K, P, S) and v (B, K, S, P) are stored as their products read them: else all of the cache
    is transposed for every token. Like the model's layers, each is stacked (L, ...) or a tuple of
    L arrays.
    """

    k: Any
    v: Any
    segment_ids: Any
    next_slot: Any

    def with_segments(self, segment_ids: Int[Array, "B T"]) -> "Cache":
        """The cache with the segments of T new tokens; their keys and values are still to come."""
        # the mask needs them before the first layer, which writes the first keys
        start = (0, self.next_slot)
        written = jax.lax.dynamic_update_slice(self.segment_ids, segment_ids, start)
        return self.replace(segment_ids=written)


class LayerCache(NamedTuple):
    """One layer's keys (B, K, P, S) and values (B, K, S, P), and the next free slot."""

    k: Float[Array, "B K P S"]
    v: Float[Array, "B K S P"]
    next_slot: Int[Array, ""]

    def append(self, k: Float[Array, "B T K P"], v: Float[Array, "B T K P"]) -> "LayerCache":
        """The cache with the keys and values of T new tokens; `next_slot` stays theirs."""
        write = jax.lax.dynamic_update_slice_in_dim
        return self._replace(
            k=write(self.k, k.transpose(0, 2, 3, 1), self.next_slot, KEY_SLOTS),
            v=write(self.v, v.swapaxes(1, 2), self.next_slot, VALUE_SLOTS),
        )

    def keys_and_values(self) -> tuple[Float[Array, "B S K P"], Float[Array, "B S K P"]]:
        """Keys and values of all slots as attention takes them."""
        return self.k.transpose(0, 3, 1, 2), self.v.swapaxes(1, 2)


def empty_cache(params: Params, cfg: ModelConfig, batch: int, size: int) -> Cache:
    """A cache of `size` slots for `batch` rows, stacked or not as these parameters' layers are."""

    def zeros(*shape: int) -> Float[Array, "..."] | tuple[Float[Array, "..."], ...]:
        shape = (batch, cfg.n_kv_heads, *shape)
        if isinstance(params["layers"], tuple):
            return tuple(jnp.zeros(shape, cfg.compute_dtype) for _ in range(cfg.n_layers))
        return jnp.zeros((cfg.n_layers, *shape), cfg.compute_dtype)

    k, v = zeros(cfg.head_dim, size), zeros(size, cfg.head_dim)
    # no token is of segment -1, so that no token attends to an empty slot
    no_segment = jnp.full((batch, size), -1, jnp.int32)
    return Cache(k, v, no_segment, jnp.int32(0))


def repeat(cache: Cache, rows: int) -> Cache:
    """The cache of one row, repeated for `rows` rows."""
    # rows are the fourth axis from the end, with and without a leading axis of layers
    k, v = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=-4), (cache.k, cache.v))
    return cache.replace(k=k, v=v, segment_ids=jnp.repeat(cache.segment_ids, rows, axis=0))


def take(cache: Cache, rows: Int[Array, " N"]) -> Cache:
    """The cache of the rows with these indices."""
    k, v = jax.tree.map(lambda x: jnp.take(x, rows, axis=-4), (cache.k, cache.v))
    return cache.replace(k=k, v=v, segment_ids=cache.segment_ids[rows])
