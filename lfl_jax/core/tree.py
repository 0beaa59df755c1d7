"""Trees by path: regex masks, the split into trainable and frozen, stacked layers, fingerprints."""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt, UInt32

from lfl_jax.core.pytree import PyTree
from lfl_jax.errors import UserError

KeyPath: TypeAlias = tuple[Any, ...]  # of jax.tree_util: a key for each node from the root
IsLeaf: TypeAlias = Callable[[Any], bool]


def name(path: KeyPath) -> str:
    """A key path of jax.tree_util as a slash path, for example 'adapter/layers/attn/q/a'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def items(tree: PyTree, is_leaf: IsLeaf | None = None) -> list[tuple[str, Any]]:
    """(slash path, leaf) of every leaf, in flattening order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return [(name(path), leaf) for path, leaf in flat]


def paths(tree: PyTree, is_leaf: IsLeaf | None = None) -> list[str]:
    """Slash paths of the leaves, in flattening order."""
    return [path for path, _ in items(tree, is_leaf)]


def mask(
    tree: PyTree, patterns: Sequence[tuple[str, bool]], is_leaf: IsLeaf | None = None
) -> PyTree:
    """Tree of bools: each leaf takes the value of the first pattern that matches its whole path.

    Raises UserError for a leaf that no pattern matches and for a pattern that matches no leaf.
    """
    leaf_paths = paths(tree, is_leaf)
    for pattern, _ in patterns:
        if not any(re.fullmatch(pattern, path) for path in leaf_paths):
            examples = ", ".join(leaf_paths[:8]) + (" ..." if len(leaf_paths) > 8 else "")
            raise UserError(f"pattern {pattern!r} matches nothing; there is: {examples}")

    values = [_first_match(path, patterns) for path in leaf_paths]
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_leaf), values)


def _first_match(path: str, patterns: Sequence[tuple[str, bool]]) -> bool:
    for pattern, value in patterns:
        if re.fullmatch(pattern, path):
            return value
    raise UserError(f"no pattern matches {path!r}; patterns, in order: {[p for p, _ in patterns]}")


def split(tree: PyTree, keep: PyTree, is_leaf: IsLeaf | None = None) -> tuple[PyTree, PyTree]:
    """(trainable, frozen): each has the tree's structure, with None at the other's leaves.

    keep: a tree of bools, True where a leaf trains.
    """
    trainable = jax.tree.map(lambda x, k: x if k else None, tree, keep, is_leaf=is_leaf)
    frozen = jax.tree.map(lambda x, k: None if k else x, tree, keep, is_leaf=is_leaf)
    return trainable, frozen


def combine(trainable: PyTree, frozen: PyTree) -> PyTree:
    """The tree that `split` took apart."""
    # None counts as a leaf in this map alone: elsewhere in jax it is an empty subtree
    return jax.tree.map(
        lambda t, f: f if t is None else t, trainable, frozen, is_leaf=lambda x: x is None
    )


def unstack(layers: PyTree, length: int) -> tuple[PyTree, ...]:
    """Stacked layers (every leaf with a leading L) as a tuple of L trees.

    Their leaves are views of the stacks in a CPU's memory, elsewhere copies.
    """
    leaves, structure = jax.tree.flatten(layers)
    by_leaf = [_views(x) if in_cpu_memory(x) else x for x in leaves]
    unstacked = []
    for i in range(length):
        unstacked.append(jax.tree.unflatten(structure, [rows[i] for rows in by_leaf]))
    return tuple(unstacked)


def in_cpu_memory(x: object) -> bool:
    """Whether x is an array on a single CPU device."""
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
        return False
    return [device.platform for device in x.devices()] == ["cpu"]


def _views(x: Shaped[Array, "L ..."]) -> list[Shaped[Array, "..."]]:
    """x[0], x[1], ... in x's own memory.

    They keep that memory alive, and while they live, donating x copies it.
    """
    # of the one shard and not of x: np.asarray(x) would stay cached on x
    rows = np.asarray(x.addressable_data(0))
    return [jax.device_put(row, x.device, may_alias=True) for row in rows]


def changed(new: PyTree, old: PyTree) -> dict[str, Any]:
    """Leaves of `new` that are not the objects of `old`, or not in it, by slash path."""
    before = dict(items(old))
    return {path: leaf for path, leaf in items(new) if leaf is not before.get(path)}


def nbytes(tree: PyTree) -> int:
    """Bytes of all leaves."""
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def _checksum(bits: UInt[Array, "..."]) -> UInt32[Array, ""]:
    """One number of these words and of where each of them is."""
    bits = bits.reshape(-1).astype(jnp.uint32)

    # A value's index goes in by a multiple of the golden ratio, so that swapped values count; then
    # MurmurHash3's finaliser, so that one changed bit changes half of the sum's bits.
    mixed = bits ^ (jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(0x9E3779B9))
    mixed = mixed * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)

    # a sum modulo 2^32 has no order: it is the same on any mesh
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)


@jax.jit
def _rounded_checksums(tree: PyTree) -> list[UInt32[Array, ""]]:
    """One number per leaf, from its values rounded to bfloat16."""
    halves = (x.astype(jnp.bfloat16) for x in jax.tree.leaves(tree))
    return [_checksum(jax.lax.bitcast_convert_type(x, jnp.uint16)) for x in halves]


@jax.jit
def _exact_checksums(tree: PyTree) -> list[UInt32[Array, ""]]:
    """One number per leaf, from all of its bits."""
    return [_checksum(_words(x)) for x in jax.tree.leaves(tree)]


def _words(x: Shaped[Array, "..."]) -> UInt[Array, "..."]:
    """The bits of each value as an unsigned integer."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))


def content_hash(tree: PyTree) -> str:
    """16 hex digits that identify every bit, with shapes and paths, the same on any sharding."""
    return _digest(tree, _exact_checksums(tree))


def fingerprint(tree: PyTree) -> str:
    """16 hex digits that identify values, shapes and paths, the same on any sharding.

    Values count as rounded to bfloat16: a model stored in that and one stored in float32 are the
    same model.
    """
    return _digest(tree, _rounded_checksums(tree))


def _digest(tree: PyTree, checksums: list[UInt32[Array, ""]]) -> str:
    sums = jax.device_get(checksums)
    rows = [f"{p} {x.shape} {int(s)}" for (p, x), s in zip(items(tree), sums, strict=True)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
