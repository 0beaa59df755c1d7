"""Merging methods that prune or vote, on weight changes: TIES, DARE and magnitude pruning.

They work on dW, so on all kinds that have one, and return FullDelta layers, which `truncate` turns
into LoRA. `peft_combine` has what PEFT does under the same names, on the factors.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import Adapter, as_adapter_and_params
from lfl_jax.adapters.build import deltas
from lfl_jax.adapters.compose import Layers, Weights, check_weights, map_weights
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.merging_rules import (
    Drop,
    Rule,
    check_density,
    election,
    make_drop,
    trimmed,
    weighted_sum,
)
from lfl_jax.core.types import AdapterTree, Key, Params, PyTree
from lfl_jax.errors import UserError

Adapters: TypeAlias = Sequence[Adapter] | dict  # a dict is a single adapter, refused by name


def ties(
    adapters: Adapters, params: Params, weights: Weights, density: float, sign: str = "total"
) -> AdapterTree:
    """TIES (Yadav et al., arXiv 2306.01708): trim, elect a sign, average what agrees with it.

    Trimming keeps the int(density · I · O) entries of a matrix's dW that are largest in size. The
    sign of an entry is that of the sum of the trimmed dW ("total"), or of the sum of their signs
    ("frequency"); a sum of 0 elects plus. weights: (M,) factors, applied after the election; the
    average is over the number of adapters that agree. UserError for a density outside of 0 to 1,
    another sign, or a kind without dW.
    """
    rule = trimmed(election(sign), check_density(density))
    return _on_changes("ties", adapters, params, weights, rule)


def magnitude_prune(
    adapters: Adapters, params: Params, weights: Weights, density: float
) -> AdapterTree:
    """The weighted sum of dW, each trimmed to its int(density · I · O) largest entries.

    Errors as for `ties`.
    """
    rule = trimmed(weighted_sum, check_density(density))
    return _on_changes("magnitude_prune", adapters, params, weights, rule)


def dare(
    adapters: Adapters,
    params: Params,
    weights: Weights,
    density: float,
    key: Key | None = None,
    masks: Sequence[PyTree] | None = None,
    ties: bool = False,
    sign: str = "total",
) -> AdapterTree:
    """DARE (Yu et al., arXiv 2311.03099): drop entries of dW at random, rescale the others, add up.

    ties: elect signs and average what agrees instead of adding up. An entry survives with
    probability density, and is then divided by it. key: draws for each adapter and weight. masks:
    says which entries survive, a tree of (L, I, O) for each adapter. UserError without exactly one
    of key and masks, and as for `ties`.
    """
    # Entries are dropped before signs are elected, as the paper combines DARE with TIES.
    drop = make_drop("dare", len(adapters), density, key, masks)
    rule = election(sign) if ties else weighted_sum
    return _on_changes("dare", adapters, params, weights, rule, drop)


def _on_changes(
    name: str,
    adapters: Adapters,
    params: Params,
    weights: Weights,
    rule: Rule,
    drop: Drop | None = None,
) -> AdapterTree:
    """FullDelta layers of rule(dW of the adapters), a stacked weight (M, L, I, O) at a time."""
    factors = check_weights(name, adapters, weights)
    adapters = [as_adapter_and_params(name, adapter, params)[0] for adapter in adapters]

    def combine(path: str, layers: Layers) -> FullDelta | None:
        present = [m for m, layer in enumerate(layers) if layer is not None]
        if not present:
            return None
        changes = [_change(name, adapters[m], params, path) for m in present]
        if drop is not None:
            changes = [drop(x, m, path) for m, x in zip(present, changes, strict=True)]

        # (M, 1, 1), of the adapters that adapt this weight: the average is over those.
        w = factors[jnp.array(present), None, None]
        # Layer by layer, since a vote needs several copies of its input.
        dw = jax.lax.map(lambda x: rule(x, w), jnp.stack(changes, axis=1))
        # gain 0 where every dW of a layer is 0: that layer is not adapted
        return FullDelta(dw=dw, gain=jnp.any(dw != 0, axis=(1, 2)).astype(dw.dtype)[:, None])

    # not zip_layers: shared arrays went into each adapter's dW, so adapters may differ in them
    layers = map_weights(name, combine, *adapters)
    return {"layers": layers} | replaced_parameters.combined(adapters)


def _change(name: str, adapter: AdapterTree, params: Params, path: str) -> Float[Array, "L I O"]:
    """dW of one stacked weight: of the adapter without all its other layers."""
    _, part, module = path.split("/")
    # A tree with this weight alone: the dW of a whole model would not fit beside it.
    layers = {p: dict.fromkeys(params["layers"][p]) for p in adapter["layers"]}
    layers[part][module] = adapter["layers"][part][module]
    try:
        return deltas(adapter | {"layers": layers}, params)["layers"][part][module]
    except UserError as error:
        raise UserError(f"{name}: {path}: {error}") from None
