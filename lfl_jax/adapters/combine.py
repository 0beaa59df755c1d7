"""Merging methods that prune or vote: TIES, DARE and magnitude pruning, on dW or on the factors.

`ties`, `dare` and `magnitude_prune` work on dW, so on all kinds that have one, and return FullDelta
layers, which `truncate` turns into LoRA.

The functions named peft_* give what add_weighted_adapter of PEFT 0.21 gives. All but cat and svd
treat A and B as if they were separate tasks, which brings in products of one adapter's A with
another's B. One thing is not reproduced: PEFT applies rsLoRA's scale a second time to the result;
here a result has scale 1.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import (
    Adapter,
    Layer,
    as_adapter,
    as_adapter_and_params,
    named_layers,
)
from lfl_jax.adapters.build import deltas
from lfl_jax.adapters.compose import (
    Layers,
    Weights,
    add,
    check_weights,
    map_weights,
    scale,
    zip_layers,
)
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.truncate import low_rank_factors, truncate
from lfl_jax.core.types import AdapterTree, Key, Params, PyTree
from lfl_jax.errors import UserError

SIGNS = ("total", "frequency")

Adapters: TypeAlias = Sequence[Adapter] | dict  # a dict is a single adapter, refused by name
# (M, I, O) of M adapters, and factors that broadcast to it -> (I, O)
Rule: TypeAlias = Callable[[Array, Array], Array]
# A and B of one layer; the rank may differ from layer to layer
Pair: TypeAlias = tuple[Float32[np.ndarray, "I _"], Float32[np.ndarray, "_ O"]]


class _Factors(NamedTuple):
    """One adapter in one layer: its weight in the combination, and its ranks in use."""

    weight: float
    a: Float32[np.ndarray, "I R"]
    b: Float32[np.ndarray, "R O"]
    scale: Float32[np.ndarray, " R"]


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
    rule = _trimmed(_election(sign), _density(density))
    return _on_changes("ties", adapters, params, weights, rule)


def magnitude_prune(
    adapters: Adapters, params: Params, weights: Weights, density: float
) -> AdapterTree:
    """The weighted sum of dW, each trimmed to its int(density · I · O) largest entries.

    Errors as for `ties`.
    """
    rule = _trimmed(_weighted_sum, _density(density))
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
    drop = _drop("dare", adapters, density, key, masks)
    rule = _election(sign) if ties else _weighted_sum
    return _on_changes("dare", adapters, params, weights, rule, drop)


def peft_linear(adapters: Adapters, weights: Weights) -> AdapterTree:
    """PEFT's "linear": A is the sum of sign(w s) sqrt|w s| A_i and B of sqrt|w s| B_i.

    w are the weights and s the adapters' scales. All peft_* functions raise UserError for kinds
    other than LoRA; all but cat and svd do for ranks that differ in a layer. An adapter that is
    missing in a layer is left out there. A single adapter is always combined by this function.
    """
    return _on_factors("peft_linear", adapters, weights, _weighted_sum)


def peft_ties(
    adapters: Adapters, weights: Weights, density: float, sign: str = "total"
) -> AdapterTree:
    """PEFT's "ties": as `ties`, on the factors."""
    return _on_factors("peft_ties", adapters, weights, _trimmed(_election(sign), _density(density)))


def peft_magnitude_prune(adapters: Adapters, weights: Weights, density: float) -> AdapterTree:
    """PEFT's "magnitude_prune": as `magnitude_prune`, on the factors."""
    rule = _trimmed(_weighted_sum, _density(density))
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
    drop = _drop("peft_dare_linear", adapters, density, key, masks)
    return _on_factors("peft_dare_linear", adapters, weights, _weighted_sum, drop)


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
    drop = _drop("peft_dare_ties", adapters, density, key, masks)
    return _on_factors("peft_dare_ties", adapters, weights, _election(sign), drop)


def peft_cat(adapters: Adapters, weights: Weights) -> AdapterTree:
    """PEFT's "cat": ranks concatenated, w s multiplied into A. dW is exactly the weighted sum.

    Ranks may differ.
    """
    if len(adapters) == 1:
        return peft_linear(adapters, weights)

    def concatenate(parts: Sequence[_Factors]) -> Pair:
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
            ranks.append(layer.a.shape[-1])

    total = add(*(scale(adapter, w) for adapter, w in zip(adapters, factors, strict=True)))
    return truncate(total, params, max(ranks, default=0) if rank is None else rank)[0]


def _weighted_sum(
    x: Float[Array, "M I O"], weights: Float[Array, "M #I #O"]
) -> Float[Array, "I O"]:
    return jnp.sum(x * weights, axis=0)


def _election(sign: str) -> Rule:
    """The rule of TIES after trimming: elect signs without the weights, then average what agrees."""
    if sign not in SIGNS:
        raise UserError(f"ties: sign={sign!r}; expected one of {', '.join(SIGNS)}")

    def rule(x: Float[Array, "M I O"], weights: Float[Array, "M #I #O"]) -> Float[Array, "I O"]:
        votes = jnp.sum(x if sign == "total" else jnp.sign(x), axis=0)
        agrees = jnp.sign(x) == jnp.where(votes >= 0, 1, -1)
        total = jnp.sum(jnp.where(agrees, x * weights, 0), axis=0)
        return total / jnp.maximum(jnp.sum(agrees, axis=0), 1)

    return rule


def _trimmed(rule: Rule, density: float) -> Rule:
    """The rule on adapters without all but their int(density · size) largest entries."""
    if density == 1:
        return rule

    def trim(x: Float[Array, "I O"]) -> Float[Array, "I O"]:
        # the first of equal entries survive, as in torch.topk
        largest = jax.lax.top_k(jnp.abs(x).ravel(), int(density * x.size))[1]
        survives = jnp.zeros(x.size, bool).at[largest].set(True)
        return jnp.where(survives.reshape(x.shape), x, 0)

    def trim_first(x: Float[Array, "M I O"], weights: Array) -> Float[Array, "I O"]:
        return rule(jnp.stack([trim(change) for change in x]), weights)

    return trim_first


def _density(density: float) -> float:
    if not 0 < density <= 1:
        raise UserError(
            f"density {density}; expected the fraction of entries to keep, above 0 and at most 1"
        )
    return density


@dataclass(frozen=True)
class _Drop:
    """DARE's first step: entries survive with probability `density`, and are divided by it.

    name: of the function that errors start with. Exactly one of key and masks is there.
    """

    name: str
    density: float
    key: Key | None
    masks: Sequence[PyTree] | None

    def __call__(
        self, x: Float[Array, "L I O"], adapter: int, path: str, factor: int | None = None
    ) -> Float[Array, "L I O"]:
        """x of one adapter at one weight; factor: 0 for A and 1 for B, None for dW."""
        if self.masks is None:
            survives = self._draw(x.shape, adapter, path, factor)
        else:
            survives = self._look_up(x.shape, adapter, path, factor)
        return jnp.where(survives, x, 0) / self.density

    def _draw(
        self, shape: tuple[int, ...], adapter: int, path: str, factor: int | None
    ) -> Bool[Array, "L I O"]:
        # folded from the path, so that a weight's draw does not depend on which others are adapted
        path_hash = zlib.crc32(f"{path}/{factor}".encode())
        key = jax.random.fold_in(jax.random.fold_in(self.key, adapter), path_hash)
        return jax.random.bernoulli(key, self.density, shape)

    def _look_up(
        self, shape: tuple[int, ...], adapter: int, path: str, factor: int | None
    ) -> Bool[Array, "L I O"]:
        mask = self.masks[adapter]
        for step in path.split("/"):
            mask = mask.get(step) if isinstance(mask, dict) else None
        if factor is not None and mask is not None:
            mask = mask[factor]
        if mask is None or mask.shape != shape:
            raise UserError(
                f"{self.name}: adapter {adapter} needs a mask of shape {shape} at {path}"
            )
        return jnp.asarray(mask).astype(bool)


def _drop(
    name: str,
    adapters: Adapters,
    density: float,
    key: Key | None,
    masks: Sequence[PyTree] | None,
) -> _Drop:
    """DARE's first step; UserError for arguments that do not say what is dropped."""
    _density(density)
    if (key is None) == (masks is None):
        raise UserError(f"{name}: give either key or masks, and not both")
    if masks is not None and len(masks) != len(adapters):
        raise UserError(
            f"{name}: {len(masks)} masks; expected one tree for each of {len(adapters)} adapters"
        )
    return _Drop(name, density, key, masks)


def _on_changes(
    name: str,
    adapters: Adapters,
    params: Params,
    weights: Weights,
    rule: Rule,
    drop: _Drop | None = None,
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

        w = factors[jnp.array(present), None, None]
        dw = jax.lax.map(lambda x: rule(x, w), jnp.stack(changes, axis=1))
        # gain 0 where every dW of a layer is 0: that layer is not adapted
        return FullDelta(dw=dw, gain=jnp.any(dw != 0, axis=(1, 2)).astype(dw.dtype)[:, None])

    # not zip_layers: shared arrays went into each adapter's dW, so adapters may differ in them
    layers = map_weights(name, combine, *adapters)
    return {"layers": layers} | replaced_parameters.combined(adapters)


def _change(name: str, adapter: AdapterTree, params: Params, path: str) -> Float[Array, "L I O"]:
    """dW of one stacked weight: of the adapter without all its other layers."""
    _, part, module = path.split("/")
    layers = {p: dict.fromkeys(params["layers"][p]) for p in adapter["layers"]}
    layers[part][module] = adapter["layers"][part][module]
    try:
        return deltas(adapter | {"layers": layers}, params)["layers"][part][module]
    except UserError as error:
        raise UserError(f"{name}: {path}: {error}") from None


def _on_factors(
    name: str, adapters: Adapters, weights: Weights, rule: Rule, drop: _Drop | None = None
) -> AdapterTree:
    """The rule on A and on B, each with sqrt|w s|, the sign on A; the sum for a single adapter."""
    if len(adapters) == 1:
        rule, drop = _weighted_sum, None

    def separately(parts: Sequence[_Factors]) -> Pair:
        a = jnp.stack([part.a for part in parts])
        b = jnp.stack([part.b for part in parts])
        signed = jnp.stack([part.weight * part.scale for part in parts])

        root = jnp.sqrt(jnp.abs(signed))
        sign = jnp.where(signed >= 0, 1, -1)
        return np.asarray(rule(a, (sign * root)[:, None, :])), np.asarray(rule(b, root[:, :, None]))

    return _by_layer(name, adapters, weights, separately, drop, same_rank=True)


def _by_layer(
    name: str,
    adapters: Adapters,
    weights: Weights,
    combine: Callable[[Sequence[_Factors]], Pair],
    drop: _Drop | None = None,
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
                present[m] = layer.replace(a=drop(layer.a, m, path, 0), b=drop(layer.b, m, path, 1))

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
    scale = np.zeros((layers, rank), np.float32)

    for i, row in enumerate(rows):
        if row is not None:
            used = row[0].shape[1]
            a[i, :, :used], b[i, :used], scale[i, :used] = *row, 1
    return LoRA(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))


def _require_lora(name: str, path: str, index: int, layer: Layer) -> None:
    if not isinstance(layer, LoRA):
        raise UserError(
            f"{name}: adapter {index} is a {type(layer).__name__} at {path}; expected LoRA"
        )
