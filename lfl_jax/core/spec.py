"""One spec per tensor: shape, logical axes, initialiser, dtype. The rest is computed from it."""

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lfl_jax.core import tree
from lfl_jax.core.pytree import PyTree
from lfl_jax.core.sharding import Rules

# (key, shape, dtype) -> array, as those of jax.nn.initializers
Initializer: TypeAlias = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """A tensor that does not exist yet.

    axes: the logical name of each dimension; `core.sharding` maps names to a mesh.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Initializer
    dtype: DTypeLike = jnp.float32


@dataclasses.dataclass(frozen=True, eq=False)  # values of arrays have no single equality
class Constant:
    """An initialiser: this array, broadcast to the spec's shape."""

    value: np.ndarray

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(self.value, dtype), shape)


def is_spec(x: object) -> bool:
    """Whether x is a leaf of a tree of specs."""
    return isinstance(x, ArraySpec)


def tree_map(function: Callable[..., object], specs: PyTree, *others: PyTree) -> PyTree:
    """jax.tree.map that stops at specs."""
    return jax.tree.map(function, specs, *others, is_leaf=is_spec)


def shardings(specs: PyTree, rules: Rules) -> PyTree:
    """The NamedSharding of every spec."""
    return tree_map(lambda s: rules.storage_sharding(s.axes, s.shape), specs)


def abstract(specs: PyTree, rules: Rules | None = None) -> PyTree:
    """ShapeDtypeStructs of the specs, with shardings when rules are given."""

    def leaf(spec: ArraySpec) -> jax.ShapeDtypeStruct:
        sharding = None if rules is None else rules.storage_sharding(spec.axes, spec.shape)
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)

    return tree_map(leaf, specs)


def init(specs: PyTree, key: jax.Array) -> PyTree:
    """Initial values of every spec."""

    def leaf(path: tree.KeyPath, spec: ArraySpec) -> jax.Array:
        # The key is folded from the leaf's path and not from its index: adding a leaf to a tree
        # changes no other leaf's values.
        leaf_key = jax.random.fold_in(key, zlib.crc32(tree.name(path).encode()))
        return spec.init(leaf_key, spec.shape, spec.dtype)

    return jax.tree_util.tree_map_with_path(leaf, specs, is_leaf=is_spec)


def count(specs: PyTree) -> int:
    """Number of stored scalars."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=is_spec))
