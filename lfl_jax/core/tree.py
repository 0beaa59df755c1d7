"""Trees by path: ordered regex masks, the one split into trainable and frozen, stacked layers,
fingerprints."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.errors import UserError


def _is_none(x: Any) -> bool:
    return x is None


def paths(tree: Any, is_leaf: Any = None) -> list[str]:
    """Slash paths of the leaves, in flattening order, for example 'adapter/layers/attn/q/a'."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def mask(tree: Any, patterns: Sequence[tuple[str, bool]], is_leaf: Any = None) -> Any:
    """Tree of bools: each leaf takes the value of the first pattern that matches its whole path.

    Raises UserError for a leaf that no pattern matches and for a pattern that matches no leaf.
    """
    names = paths(tree, is_leaf)
    for pattern, _ in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
            raise UserError(f"pattern {pattern!r} matches nothing; there is: {shown}")
    values = [_first_match(name, patterns) for name in names]
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_leaf), values)


def _first_match(name: str, patterns: Sequence[tuple[str, bool]]) -> bool:
    for pattern, value in patterns:
        if re.fullmatch(pattern, name):
            return value
    raise UserError(f"no pattern matches {name!r}; patterns, in order: {[p for p, _ in patterns]}")


def split(tree: Any, keep: Any, is_leaf: Any = None) -> tuple[Any, Any]:
    """(trainable, frozen): both have the tree's structure, with None where the leaf is in the other
    half."""
    trainable = jax.tree.map(lambda x, k: x if k else None, tree, keep, is_leaf=is_leaf)
    frozen = jax.tree.map(lambda x, k: None if k else x, tree, keep, is_leaf=is_leaf)
    return trainable, frozen


def combine(trainable: Any, frozen: Any) -> Any:
    """The tree that `split` took apart."""
    return jax.tree.map(lambda t, f: f if t is None else t, trainable, frozen, is_leaf=_is_none)


def unstack(layers: Any, length: int) -> tuple[Any, ...]:
    """Stacked layers (every leaf with a leading L) as a tuple of L trees: views of the stacks in a
    CPU's memory, else copies."""
    leaves, structure = jax.tree.flatten(layers)
    split = [_views(x) if _in_cpu_memory(x) else x for x in leaves]
    return tuple(jax.tree.unflatten(structure, [each[i] for each in split]) for i in range(length))


def _in_cpu_memory(x: Any) -> bool:
    """Whether x is an array on a single CPU device."""
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
        return False
    return [device.platform for device in x.devices()] == ["cpu"]


def _views(x: jax.Array) -> list[jax.Array]:
    """x[0], x[1], ... in x's own memory; they keep it alive, and while they live, x is not donated
    but copied."""
    rows = np.asarray(x.addressable_data(0))  # not x: that would keep the numpy array with it
    return [jax.device_put(row, x.device, may_alias=True) for row in rows]


def changed(new: Any, old: Any) -> dict[str, Any]:
    """Leaves of `new` that are not the objects of `old`, or not in it, by slash path."""
    before = dict(zip(paths(old), jax.tree.leaves(old), strict=True))
    pairs = zip(paths(new), jax.tree.leaves(new), strict=True)
    return {path: leaf for path, leaf in pairs if leaf is not before.get(path)}


def nbytes(tree: Any) -> int:
    """Bytes of all leaves."""
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


@jax.jit
def _checksums(tree: Any) -> list[jax.Array]:
    def checksum(x: jax.Array) -> jax.Array:
        bits = (
            jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
            .reshape(-1)
            .astype(jnp.uint32)
        )
        mixed = (
            bits ^ (jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(0x9E3779B9))
        ) * jnp.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)
        return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)

    return [checksum(x) for x in jax.tree.leaves(tree)]


def fingerprint(tree: Any) -> str:
    """16 hex digits that identify values, shapes and paths; the same on any sharding (modular
    integer sums).

    Values count as rounded to bfloat16, so that a model is itself whether it is held in that or in
    float32.
    """
    sums = [int(x) for x in jax.device_get(_checksums(tree))]
    leaves = jax.tree.leaves(tree)
    rows = [f"{p} {x.shape} {s}" for p, x, s in zip(paths(tree), leaves, sums, strict=True)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
