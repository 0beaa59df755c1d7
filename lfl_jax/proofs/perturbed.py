"""Adapters and parameters away from where they start: a fresh factor of zeros proves nothing."""

import jax

from lfl_jax.adapters.adapter_tree import constant_mask
from lfl_jax.core.types import AdapterTree, Params

SIZE = 0.1  # standard deviation of what is added to an adapter's leaves


def moved(adapter: AdapterTree, seed: int) -> AdapterTree:
    """The adapter with every leaf that may train moved at random; constants stay."""
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(adapter))))
    pairs = zip(jax.tree.leaves(constant_mask(adapter)), jax.tree.leaves(adapter), strict=True)
    leaves = [
        x if never_trains else x + SIZE * jax.random.normal(next(keys), x.shape)
        for never_trains, x in pairs
    ]
    return jax.tree.unflatten(jax.tree.structure(adapter), leaves)


def enlarged(params: Params, factor: float = 4) -> Params:
    """Random parameters, larger than at initialisation, so that every part of the model matters."""
    return jax.tree.map(lambda x: x * factor if x.ndim > 1 else x, params)
