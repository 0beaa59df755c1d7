"""Trees by path: ordered regex masks, the one split into trainable and frozen, stacked layers,
fingerprints."""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.core.pytree import PyTree
from lfl_jax.errors import UserError

KeyPath = tuple[Any, ...]  # as jax.tree_util gives them: a key for each node from the root


def _is_none(x: Any) -> bool:
    return x is None


def name(path: KeyPath) -> str:
    """A key path of jax.tree_util as a slash path, for example 'adapter/layers/attn/q/a'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def items(tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None) -> list[tuple[str, Any]]:
    """(slash path, leaf) of every leaf, in flattening order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return [(name(path), leaf) for path, leaf in flat]


def paths(tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None) -> list[str]:
    """Slash paths of the leaves, in flattening order."""
    return [path for path, _ in items(tree, is_leaf)]


def mask(tree: Any, patterns: Sequence[tuple[str, bool]], is_leaf: Any = None) -> Any:
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
    before = dict(items(old))
    return {path: leaf for path, leaf in items(new) if leaf is not before.get(path)}


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
    rows = [f"{p} {x.shape} {s}" for (p, x), s in zip(items(tree), sums, strict=True)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
