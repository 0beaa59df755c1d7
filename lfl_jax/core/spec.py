"""One spec per tensor: shape, logical axes, initialiser, dtype. Everything else about a tensor is
computed from it."""

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.core import tree
from lfl_jax.core.sharding import Rules

Initializer = Callable[[jax.Array, tuple[int, ...], Any], Any]


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """A tensor that does not exist yet. `axes` names each dimension logically; `core.sharding` maps
    names to a mesh."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Initializer
    dtype: Any = jnp.float32


def is_spec(x: Any) -> bool:
    """Whether x is a leaf of a tree of specs."""
    return isinstance(x, ArraySpec)


def tree_map(function: Callable, specs: Any, *rest: Any) -> Any:
    """jax.tree.map that stops at specs."""
    return jax.tree.map(function, specs, *rest, is_leaf=is_spec)


def shardings(specs: Any, rules: Rules) -> Any:
    """The NamedSharding of every spec."""
    return tree_map(lambda s: rules.sharding(s.axes, s.shape), specs)


def abstract(specs: Any, rules: Rules | None = None) -> Any:
    """ShapeDtypeStructs of the specs, with shardings when rules are given."""
    if rules is None:
        return tree_map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), specs)
    return tree_map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=rules.sharding(s.axes, s.shape)),
        specs,
    )


def init(specs: Any, key: jax.Array) -> Any:
    """Initialise every spec. A leaf's key is folded from its path: no leaf's values depend on
    another's."""

    def leaf(path, spec):
        leaf_key = jax.random.fold_in(key, zlib.crc32(tree.name(path).encode()))
        return spec.init(leaf_key, spec.shape, spec.dtype)

    return jax.tree_util.tree_map_with_path(leaf, specs, is_leaf=is_spec)


def count(specs: Any) -> int:
    """Number of stored scalars."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=is_spec))


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Any:
    """All zeros."""
    return jnp.zeros(shape, dtype)


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Any:
    """All ones."""
    return jnp.ones(shape, dtype)


def normal(std: float) -> Initializer:
    """Gaussian with mean 0 and this standard deviation."""
    return lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype)


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Any:
    """U(-1/sqrt(in), 1/sqrt(in)) over (..., in, out): Kaiming uniform with a = sqrt(5), PEFT's
    A."""
    bound = float(1 / np.sqrt(shape[-2]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def constant(value: np.ndarray) -> Initializer:
    """A fixed array; its shape must be the spec's."""
    return lambda key, shape, dtype: jnp.broadcast_to(jnp.asarray(value, dtype), shape)
