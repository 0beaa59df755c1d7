"""A block applied to one decoder layer after the other: a scan over stacked layers, or a loop.

Stacked layers are scanned, so that one layer is compiled. A tuple of layers (`core.tree.unstack`)
is a plain loop, at which decoding is faster: a scan copies every layer's weights out of the stack
for each token.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfl_jax.core.types import AdapterTree, Key, Params
from lfl_jax.models.cache import KEY_SLOTS, VALUE_SLOTS, Cache, LayerCache


class Layer(NamedTuple):
    """What one decoder layer has of its own: weights, adapter, dropout key and cache."""

    weights: Params
    adapter: AdapterTree
    key: Key | None = None
    cache: LayerCache | None = None


Hidden: TypeAlias = Float[Array, "B T D"]
# (x, layer) -> (x, the layer's cache with the tokens of x)
Block: TypeAlias = Callable[[Hidden, Layer], tuple[Hidden, LayerCache | None]]
Layers: TypeAlias = Params | tuple[Params, ...]  # stacked (L, ..), or one tree per layer
AdapterLayers: TypeAlias = AdapterTree | tuple[AdapterTree, ...]


def run_layers(
    block: Block,
    x: Hidden,
    weights: Layers,
    adapter: AdapterLayers,
    *,
    n_layers: int,
    key: Key | None = None,
    cache: Cache | None = None,
) -> tuple[Hidden, Cache | None]:
    """The hidden states after all layers, and the cache with the tokens of x."""
    if isinstance(weights, tuple):
        return _loop(block, x, weights, adapter, key, cache)

    indices = jnp.arange(n_layers)
    if cache is None:
        return _scan(block, x, (weights, adapter, indices), key), None
    return _scan_cached(block, x, (weights, adapter, indices), cache)


# What a scan runs over: weights, adapters and indices of all layers, and of one.
Stack: TypeAlias = tuple[Params, AdapterTree, Int[Array, " L"]]
Slice: TypeAlias = tuple[Params, AdapterTree, Int[Array, ""]]


def _scan(block: Block, x: Hidden, stack: Stack, key: Key | None) -> Hidden:
    def body(x: Hidden, layer: Slice) -> tuple[Hidden, None]:
        weights, adapter, index = layer
        return block(x, Layer(weights, adapter, _layer_key(key, index)))[0], None

    return jax.lax.scan(body, x, stack)[0]


# Hidden states, and keys and values of all layers.
Carry: TypeAlias = tuple[Hidden, Float[Array, "L B K P S"], Float[Array, "L B K S P"]]


def _scan_cached(block: Block, x: Hidden, stack: Stack, cache: Cache) -> tuple[Hidden, Cache]:
    """The stacked cache is carried and written in place: a scan's output would be a second one."""
    tokens, slot = x.shape[1], cache.next_slot

    def body(carry: Carry, layer: Slice) -> tuple[Carry, None]:
        x, k, v = carry
        weights, adapter, index = layer
        past = LayerCache(_layer_of(k, index), _layer_of(v, index), slot)
        # no key: nobody trains with a cache
        x, updated = block(x, Layer(weights, adapter, cache=past))
        k = _with_new_slots(k, updated.k, index, slot, tokens, KEY_SLOTS)
        v = _with_new_slots(v, updated.v, index, slot, tokens, VALUE_SLOTS)
        return (x, k, v), None

    (x, k, v), _ = jax.lax.scan(body, (x, cache.k, cache.v), stack)
    return x, cache.replace(k=k, v=v, next_slot=slot + tokens)


def _layer_of(stack: Float[Array, "L B K _ _"], index: Int[Array, ""]) -> Float[Array, "B K _ _"]:
    return jax.lax.dynamic_index_in_dim(stack, index, keepdims=False)


def _with_new_slots(
    stack: Float[Array, "L B K _ _"],
    updated: Float[Array, "B K _ _"],
    index: Int[Array, ""],
    slot: Int[Array, ""],
    tokens: int,
    axis: int,
) -> Float[Array, "L B K _ _"]:
    """The stack with the new tokens' slots of one layer's updated cache, and no other, written."""
    new = jax.lax.dynamic_slice_in_dim(updated, slot, tokens, axis)
    # only the new slots are copied: the whole layer would be as much again as it has of them
    start = [index, 0, 0, 0, 0]
    start[axis] = slot
    return jax.lax.dynamic_update_slice(stack, new[None], start)


def _loop(
    block: Block,
    x: Hidden,
    layers: tuple[Params, ...],
    adapter: AdapterLayers,
    key: Key | None,
    cache: Cache | None,
) -> tuple[Hidden, Cache | None]:
    caches = []
    for i, weights in enumerate(layers):
        past = None if cache is None else LayerCache(cache.k[i], cache.v[i], cache.next_slot)
        layer_adapter = adapter[i] if isinstance(adapter, tuple) else adapter
        x, updated = block(x, Layer(weights, layer_adapter, _layer_key(key, i), past))
        caches.append(updated)

    if cache is None:
        return x, None
    k = tuple(c.k for c in caches)
    v = tuple(c.v for c in caches)
    return x, cache.replace(k=k, v=v, next_slot=cache.next_slot + x.shape[1])


def _layer_key(key: Key | None, index: int | Int[Array, ""]) -> Key | None:
    return None if key is None else jax.random.fold_in(key, index)
