"""The trees of a checkpoint: as plain dicts on disk, and compared with what a config expects."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

from lfl_jax.core.tree import items
from lfl_jax.core.types import PyTree
from lfl_jax.errors import UserError

MAX_DIFFERENCES = 3  # that a message lists
ShapeDtype: TypeAlias = tuple[tuple[int, ...], np.dtype]


def flat(tree: PyTree) -> dict[str, Any]:
    """Leaves by slash path; a tree that is one bare array has the path "value"."""
    leaves = items(tree)
    # Two different trees may have equal slash paths: a dict's key "a/b", and "b" inside "a".
    by_path = {path or "value": leaf for path, leaf in leaves}
    if len(by_path) != len(leaves):
        raise ValueError("two leaves share one path")
    return by_path


def nested(tree: PyTree) -> dict[str, Any]:
    """The leaves in plain dicts: files depend on no class of ours, and None leaves take no part."""
    root: dict[str, Any] = {}
    for path, leaf in flat(tree).items():
        *parents, name = path.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return root


def unnested(tree: Mapping[str, Any], like: PyTree) -> PyTree:
    """The leaves of `nested` in the structure of `like`."""
    leaves = flat(tree)
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in flat(like)])


def non_empty(by_name: Mapping[str, dict]) -> dict[str, dict]:
    """The trees that have leaves."""
    return {name: tree for name, tree in by_name.items() if tree}


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, which JSON has."""
    numbers = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def compare(saved: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> None:
    """UserError when saved trees do not fit the expected ones; `name` says whose they are.

    Orbax's own message would mislead: it reports the first mismatch as a missing file.
    """
    # A saved tree that is not expected is no difference: evaluation reads the adapter alone.
    in_file = flat({tree: saved.get(tree) for tree in expected})
    theirs = {path: (leaf.shape, leaf.dtype) for path, leaf in in_file.items()}
    ours = {path: _stored(leaf) for path, leaf in flat(expected).items()}
    differing = [path for path in ours | theirs if ours.get(path) != theirs.get(path)]
    if not differing:
        return

    listed = differing[:MAX_DIFFERENCES]
    differences = "; ".join(_difference(path, theirs.get(path), ours.get(path)) for path in listed)
    n_more = len(differing) - len(listed)
    raise UserError(
        f"{name} does not fit this config: {_rank_difference(differing, theirs, ours)}{differences}"
        f"{f'; and {n_more} more' if n_more else ''}\nuse the config it was made with, or another"
        " --workdir"
    )


def _stored(leaf: jax.ShapeDtypeStruct) -> ShapeDtype:
    """Shape and dtype on disk, where a typed random key is its words."""
    if leaf.sharding is None:
        raise ValueError(f"restore needs shardings: {leaf} has none")
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape), np.dtype(leaf.dtype)


def _difference(path: str, theirs: ShapeDtype | None, ours: ShapeDtype | None) -> str:
    if theirs is None:
        return f"{path} is not in the checkpoint"
    if ours is None:
        return f"{path} is in the checkpoint only"
    (shape, dtype), (our_shape, our_dtype) = theirs, ours
    if shape != our_shape:
        return f"{path} has shape {shape}, expected {our_shape}"
    return f"{path} has dtype {dtype}, expected {our_dtype}"


def _rank_difference(
    differing: list[str], theirs: Mapping[str, ShapeDtype], ours: Mapping[str, ShapeDtype]
) -> str:
    """The usual cause in one phrase: the last axis of a low-rank factor A, (..., I, R), differs."""
    for path in differing:
        if path.startswith("adapter/") and path.endswith("/a") and path in theirs and path in ours:
            (*inputs, rank), (*our_inputs, our_rank) = theirs[path][0], ours[path][0]
            if inputs == our_inputs and rank != our_rank:
                return f"checkpoint has rank {rank}, config asks for {our_rank}: "
    return ""
