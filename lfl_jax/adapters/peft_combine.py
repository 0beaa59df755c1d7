"""Combinations of LoRAs as add_weighted_adapter of PEFT 0.21 makes them.

All but cat and svd treat A and B as if they were separate tasks, which brings in products of one
adapter's A with another's B. One thing is not reproduced: PEFT applies rsLoRA's scale a second time
to the result; here a result has scale 1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from lfl_jax.adapters.adapter_tree import as_adapter, named_layers
from lfl_jax.adapters.combine import Adapters
from lfl_jax.adapters.compose import Layers, Weights, add, check_weights, scale, zip_layers
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.merging_rules import (
    Drop,
    Rule,
    check_density,
    election,
    make_drop,
    trimmed,
    weighted_sum,
)
from lfl_jax.adapters.mix import AdapterLayer
from lfl_jax.adapters.truncate import low_rank_factors, truncate
from lfl_jax.core.types import AdapterTree, Key, Params, PyTree
from lfl_jax.errors import UserError

# A and B of one layer; the rank may differ from layer to layer
Pair: TypeAlias = tuple[Float32[np.ndarray, "I _"], Float32[np.ndarray, "_ O"]]


class _Factors(NamedTuple):
    """One adapter in one layer: its weight in the combination, and its ranks in use."""

    weight: float
    a: Float32[np.ndarray, "I R"]
    b: Float32[np.ndarray, "R O"]
    scale: Float32[np.ndarray, " R"]


def peft_linear(adapters: Adapters, weights: Weights) -> AdapterTree:
    """PEFT's "linear": A is the sum of sign(w s) sqrt|w s| A_i and B of sqrt|w s| B_i.

    w are the weights and s the adapters' scales. All peft_* functions raise UserError for kinds
    other than LoRA; all but cat and svd do for ranks that differ in a layer. An adapter that is
    missing in a layer is left out there. A single adapter is always combined by this function.
    """
    return _on_factors("peft_linear", adapters, weights, weighted_sum)


def peft_ties(
    adapters: Adapters, weights: Weights, density: float, sign: str = "total"
) -> AdapterTree:
    """PEFT's "ties": as `ties`, on the factors."""
    return _on_factors(
        "peft_ties", adapters, weights, trimmed(election(sign), check_density(density))
    )


def peft_magnitude_prune(adapters: Adapters, weights: Weights, density: float) -> AdapterTree:
    """PEFT's "magnitude_prune": as `magnitude_prune`, on the factors."""
    rule = trimmed(weighted_sum, check_density(density))
    return _on_factors("peft_magnitude_prune", adapters, weights, rule)


def peft_dare_linear(
    adapters: Adapters,
    weights: Weights,
    density: float,
    key: Key | None = None,
    masks: Sequence[PyTree] | None = None,
) -> AdapterTree:
    """PEFT's "dare_linear": as `dare`, on the factors.

    masks: for each adapter a tree of pairs like (A, B).
    """
    drop = make_drop("peft_dare_linear", len(adapters), density, key, masks)
    return _on_factors("peft_dare_linear", adapters, weights, weighted_sum, drop)


def peft_dare_ties(
    adapters: Adapters,
    weights: Weights,
    density: float,
    key: Key | None = None,
    masks: Sequence[PyTree] | None = None,
    sign: str = "total",
) -> AdapterTree:
    """PEFT's "dare_ties": as `dare` with ties, on the factors.

    masks: for each adapter a tree of pairs like (A, B).
    """
    drop = make_drop("peft_dare_ties", len(adapters), density, key, masks)
    return _on_factors("peft_dare_ties", adapters, weights, election(sign), drop)


def peft_cat(adapters: Adapters, weights: Weights) -> AdapterTree:
    """PEFT's "cat": ranks concatenated, w s multiplied into A. dW is exactly the weighted sum.

    Ranks may differ.
    """
    if len(adapters) == 1:
        return peft_linear(adapters, weights)

    def concatenate(parts: Sequence[_Factors]) -> Pair:
        # The whole factor w s goes into A, with its sign; B stays as it is.
        a = np.concatenate([part.a * (part.weight * part.scale) for part in parts], axis=1)
        return a, np.concatenate([part.b for part in parts], axis=0)

    return _by_layer("peft_cat", adapters, weights, concatenate)


def peft_svd(
    adapters: Adapters, params: Params, weights: Weights, rank: int | None = None
) -> AdapterTree:
    """PEFT's "svd": the weighted sum of dW at its best rank, by default the adapters' largest.

    `truncate` splits the singular values evenly over A and B, where PEFT multiplies them into B: dW
    is the same.
    """
    if len(adapters) == 1:
        return peft_linear(adapters, weights)
    factors = check_weights("peft_svd", adapters, weights)
    ranks = []
    for m, adapter in enumerate(adapters):
        for path, layer in named_layers(as_adapter("peft_svd", adapter)):
            _require_lora("peft_svd", path, m, layer)
            # The stored rank: PEFT takes r from the config, not the ranks in use.
            ranks.append(layer.a.shape[-1])

    # the sum as one adapter, whose singular values come from the factors: no dW is formed
    total = add(*(scale(adapter, w) for adapter, w in zip(adapters, factors, strict=True)))
    return truncate(total, params, max(ranks, default=0) if rank is None else rank)[0]


def _on_factors(
    name: str, adapters: Adapters, weights: Weights, rule: Rule, drop: Drop | None = None
) -> AdapterTree:
    """The rule on A and on B, each with sqrt|w s|, the sign on A; the sum for a single adapter."""
    # PEFT ignores the combination type of a single adapter
    if len(adapters) == 1:
        rule, drop = weighted_sum, None

    def separately(parts: Sequence[_Factors]) -> Pair:
        a = jnp.stack([part.a for part in parts])
        b = jnp.stack([part.b for part in parts])
        signed = jnp.stack([part.weight * part.scale for part in parts])

        # A B has the factor w s, half of it in A and half in B
        root = jnp.sqrt(jnp.abs(signed))
        # On A alone: on both factors the sign would cancel.
        sign = jnp.where(signed >= 0, 1, -1)
        return np.asarray(rule(a, (sign * root)[:, None, :])), np.asarray(rule(b, root[:, :, None]))

    return _by_layer(name, adapters, weights, separately, drop, same_rank=True)


def _by_layer(
    name: str,
    adapters: Adapters,
    weights: Weights,
    combine: Callable[[Sequence[_Factors]], Pair],
    drop: Drop | None = None,
    same_rank: bool = False,
) -> AdapterTree:
    """LoRA of combine(factors) for each single layer, over adapters that have ranks in use there.

    same_rank: UserError where their ranks differ.
    """
    factors = np.asarray(check_weights(name, adapters, weights))

    def join(path: str, layers: Layers) -> LoRA | None:
        present = {m: layer for m, layer in enumerate(layers) if layer is not None}
        if not present:
            return None
        for m, layer in present.items():
            _require_lora(name, path, m, layer)
            if drop is not None:
                # A and B are dropped independently: index 0 and 1 of a weight's random stream.
                present[m] = layer.replace(a=drop(layer.a, m, path, 0), b=drop(layer.b, m, path, 1))

        # layer by layer, as the rank in use may differ within a stack
        like = next(iter(present.values()))
        rows = []
        for i in range(like.a.shape[0]):
            parts = _parts_of_layer(present, factors, i)
            if same_rank:
                _require_same_rank(name, path.replace("layers/", f"layers/{i}/", 1), parts)
            rows.append(combine(parts) if parts else None)
        return _padded(rows, like)

    return zip_layers(name, join, *adapters)


def _parts_of_layer(
    stacks: dict[int, LoRA], factors: Float32[np.ndarray, " M"], layer: int
) -> list[_Factors]:
    """The factors of one layer of stacked LoRAs, given by adapter, without those of rank 0."""
    parts = []
    for m, stack in stacks.items():
        row = jax.tree.map(lambda x: x[layer], stack)
        # low_rank_factors leaves out padded ranks, whose scale is 0.
        parts.append(_Factors(factors[m], *low_rank_factors(row)))
    return [part for part in parts if part.scale.size]


def _require_same_rank(name: str, path: str, parts: Sequence[_Factors]) -> None:
    ranks = sorted({part.scale.size for part in parts})
    if len(ranks) > 1:
        raise UserError(
            f"{name}: ranks {ranks} at {path}; expected the same (peft_cat and peft_svd take any)"
        )


def _padded(rows: Sequence[Pair | None], like: LoRA) -> LoRA:
    """Pairs (I, R_i) and (R_i, O) as one stacked LoRA with scale 1 for the ranks in use."""
    rank = max((row[0].shape[1] for row in rows if row is not None), default=0)
    layers, fan_in, fan_out = len(rows), like.a.shape[1], like.b.shape[2]
    a = np.zeros((layers, fan_in, rank), np.float32)
    b = np.zeros((layers, rank, fan_out), np.float32)
    # Ranks beyond a layer's own have scale 0, as padding has in `Placement.scale`.
    scale = np.zeros((layers, rank), np.float32)

    for i, row in enumerate(rows):
        if row is not None:
            used = row[0].shape[1]
            a[i, :, :used], b[i, :used], scale[i, :used] = *row, 1
    return LoRA(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))


def _require_lora(name: str, path: str, index: int, layer: AdapterLayer) -> None:
    if not isinstance(layer, LoRA):
        raise UserError(
            f"{name}: adapter {index} is a {type(layer).__name__} at {path}; expected LoRA"
        )
