"""Merging methods that prune or vote: TIES, DARE and magnitude pruning, on weight changes or, as
PEFT, on factors.

`ties`, `dare` and `magnitude_prune` work on dW, so on any kinds that have one, and return FullDelta
layers, which `truncate` turns into LoRA. The functions named peft_* give what add_weighted_adapter
of PEFT 0.21 gives: all but cat and svd treat A and B as if they were separate tasks, which brings
in products of one adapter's A with another's B.
One thing is not reproduced: PEFT applies rsLoRA's scale a second time to the result. Here a result
has scale 1.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import Adapter, as_adapter_and_params
from lfl_jax.adapters.build import deltas
from lfl_jax.adapters.compose import add, check_weights, scale, visit, zip_layers
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.truncate import low_rank_factors, truncate
from lfl_jax.errors import UserError

SIGNS = ("total", "frequency")
Adapters = Sequence[Adapter] | dict  # a single adapter is refused by name
# (M, I, O) of M adapters and factors that broadcast to it -> (I, O)
Rule = Callable[[Any, Any], Any]


def ties(
    adapters: Adapters, params: dict, weights: Any, density: float, sign: str = "total"
) -> dict:
    """TIES (Yadav et al., arXiv 2306.01708) on each weight matrix: trim, elect a sign, average what
    agrees with it.

    Trimming keeps the int(density · I · O) entries of dW that are largest in size. The sign of an
    entry is that of the sum of the trimmed dW ("total"), or of the sum of their signs
    ("frequency"); a sum of 0 elects plus. weights: (M,) factors, applied after the election; the
    average is over the number of adapters that agree. UserError for a density outside of 0 to 1,
    another sign, or a kind without dW.
    """
    return _on_changes(
        "ties", adapters, params, weights, _trimmed(_election(sign), _density(density))
    )


def magnitude_prune(adapters: Adapters, params: dict, weights: Any, density: float) -> dict:
    """The weighted sum of dW, each trimmed to its int(density · I · O) largest entries per weight
    matrix.

    Errors as for `ties`.
    """
    return _on_changes(
        "magnitude_prune", adapters, params, weights, _trimmed(_weighted_sum, _density(density))
    )


def dare(
    adapters: Adapters,
    params: dict,
    weights: Any,
    density: float,
    key: jax.Array | None = None,
    masks: Sequence[dict] | None = None,
    ties: bool = False,
    sign: str = "total",
) -> dict:
    """DARE (Yu et al., arXiv 2311.03099): drop entries of dW at random, divide the rest by density,
    add them up.

    ties: elect signs and average what agrees instead of adding up. An entry stays with probability
    density, drawn from the key for each adapter and weight; or where masks, a tree of (L, I, O) for
    each adapter, say so. UserError without exactly one of key and masks, and as for `ties`.
    """
    _density(density)
    keep = _keeper("dare", adapters, density, key, masks)
    return _on_changes(
        "dare", adapters, params, weights, _election(sign) if ties else _weighted_sum, keep
    )


def peft_linear(adapters: Adapters, weights: Any) -> dict:
    """PEFT's "linear": A is the sum of sign(w s) sqrt|w s| A_i and B of sqrt|w s| B_i, s being an
    adapter's scale.

    All peft_* functions raise UserError for kinds other than LoRA; all but cat and svd do for ranks
    that differ in a layer. An adapter that is missing in a layer is left out there. One adapter
    alone is always combined by this.
    """
    return _on_factors("peft_linear", adapters, weights, _weighted_sum)


def peft_ties(adapters: Adapters, weights: Any, density: float, sign: str = "total") -> dict:
    """PEFT's "ties": as `ties`, on the factors."""
    return _on_factors("peft_ties", adapters, weights, _trimmed(_election(sign), _density(density)))


def peft_magnitude_prune(adapters: Adapters, weights: Any, density: float) -> dict:
    """PEFT's "magnitude_prune": as `magnitude_prune`, on the factors."""
    return _on_factors(
        "peft_magnitude_prune", adapters, weights, _trimmed(_weighted_sum, _density(density))
    )


def peft_dare_linear(
    adapters: Adapters,
    weights: Any,
    density: float,
    key: jax.Array | None = None,
    masks: Sequence[dict] | None = None,
) -> dict:
    """PEFT's "dare_linear": as `dare`, on the factors. masks: for each adapter a tree of pairs like
    (A, B)."""
    keep = _keeper("peft_dare_linear", adapters, _density(density), key, masks)
    return _on_factors("peft_dare_linear", adapters, weights, _weighted_sum, keep)


def peft_dare_ties(
    adapters: Adapters,
    weights: Any,
    density: float,
    key: jax.Array | None = None,
    masks: Sequence[dict] | None = None,
    sign: str = "total",
) -> dict:
    """PEFT's "dare_ties": as `dare` with ties, on the factors. masks: for each adapter a tree of
    pairs like (A, B)."""
    keep = _keeper("peft_dare_ties", adapters, _density(density), key, masks)
    return _on_factors("peft_dare_ties", adapters, weights, _election(sign), keep)


def peft_cat(adapters: Adapters, weights: Any) -> dict:
    """PEFT's "cat": ranks side by side, w s multiplied into A; dW is exactly the weighted sum.
    Ranks may differ."""
    if len(adapters) == 1:
        return peft_linear(adapters, weights)

    def side_by_side(parts: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
        a, b = [a * (w * s) for w, a, _, s in parts], [b for _, _, b, _ in parts]
        return np.concatenate(a, axis=1), np.concatenate(b, axis=0)

    return _by_layer("peft_cat", adapters, weights, side_by_side)


def peft_svd(adapters: Adapters, params: dict, weights: Any, rank: int | None = None) -> dict:
    """PEFT's "svd": the weighted sum of dW at its best rank, by default the largest of the
    adapters' ranks.

    `truncate` splits the singular values evenly over A and B, where PEFT multiplies them into B: dW
    is the same.
    """
    if len(adapters) == 1:
        return peft_linear(adapters, weights)
    factors = check_weights("peft_svd", adapters, weights)
    ranks = [0]

    def note(path: str, layers: tuple[Any, ...]) -> None:
        ranks.extend(
            x.a.shape[-1]
            for m, x in enumerate(layers)
            if x is not None and _is_lora("peft_svd", path, m, x)
        )

    zip_layers("peft_svd", note, *adapters)
    total = add(*(scale(adapter, w) for adapter, w in zip(adapters, factors, strict=True)))
    return truncate(total, params, max(ranks) if rank is None else rank)[0]


def _weighted_sum(x: Float[Array, "M I O"], weights: Any) -> Float[Array, "I O"]:
    return jnp.sum(x * weights, axis=0)


def _election(sign: str) -> Rule:
    """The rule of TIES after trimming: a sign elected without the weights, then a mean over those
    that agree."""
    if sign not in SIGNS:
        raise UserError(f"ties: sign={sign!r}; expected one of {', '.join(SIGNS)}")

    def rule(x: Float[Array, "M I O"], weights: Any) -> Float[Array, "I O"]:
        votes = jnp.sum(x if sign == "total" else jnp.sign(x), axis=0)
        agrees = jnp.sign(x) == jnp.where(votes >= 0, 1, -1)
        return jnp.sum(jnp.where(agrees, x * weights, 0), axis=0) / jnp.maximum(
            jnp.sum(agrees, axis=0), 1
        )

    return rule


def _trimmed(rule: Rule, density: float) -> Rule:
    """The rule, after each adapter lost all but its int(density · size) largest entries; the first
    of equals stay."""

    def trim(x: Float[Array, "I O"]) -> Float[Array, "I O"]:
        kept = jax.lax.top_k(jnp.abs(x).ravel(), int(density * x.size))[1]
        return jnp.where(jnp.zeros(x.size, bool).at[kept].set(True).reshape(x.shape), x, 0)

    return (
        rule
        if density == 1
        else lambda x, weights: rule(jnp.stack([trim(each) for each in x]), weights)
    )


def _density(density: float) -> float:
    if not 0 < density <= 1:
        raise UserError(
            f"density {density}; expected the fraction of entries to keep, above 0 and at most 1"
        )
    return density


def _keeper(name: str, adapters: Adapters, density: float, key: Any, masks: Any) -> Callable:
    """keep(x, adapter's index, path, factor's index): x where its mask is, divided by density, and
    0 elsewhere."""
    if (key is None) == (masks is None):
        raise UserError(f"{name}: give either key or masks, and not both")
    if masks is not None and len(masks) != len(adapters):
        raise UserError(
            f"{name}: {len(masks)} masks; expected one tree for each of {len(adapters)} adapters"
        )

    def mask(x: Any, index: int, path: str, factor: int | None) -> Bool[Array, "L I O"]:
        if masks is None:
            place = zlib.crc32(f"{path}/{factor}".encode())
            return jax.random.bernoulli(
                jax.random.fold_in(jax.random.fold_in(key, index), place), density, x.shape
            )
        given = masks[index]
        for step in path.split("/"):
            given = given.get(step) if isinstance(given, dict) else None
        given = given if factor is None or given is None else given[factor]
        if given is None or given.shape != x.shape:
            raise UserError(f"{name}: adapter {index} needs a mask of shape {x.shape} at {path}")
        return jnp.asarray(given).astype(bool)

    return lambda x, *place: jnp.where(mask(x, *place), x, 0) / density


def _on_changes(
    name: str,
    adapters: Adapters,
    params: dict,
    weights: Any,
    rule: Rule,
    keep: Callable | None = None,
) -> dict:
    """FullDelta layers of rule(dW of the adapters), a stacked weight (M, L, I, O) at a time."""
    factors = check_weights(name, adapters, weights)
    adapters = [as_adapter_and_params(name, adapter, params)[0] for adapter in adapters]

    def combine(path: str, layers: tuple[Any, ...]) -> FullDelta | None:
        present = [m for m, layer in enumerate(layers) if layer is not None]
        if not present:
            return None
        changes = [_change(name, adapters[m], params, path) for m in present]
        if keep is not None:
            changes = [keep(x, m, path, None) for m, x in zip(present, changes, strict=True)]
        w = factors[jnp.array(present), None, None]
        dw = jax.lax.map(lambda x: rule(x, w), jnp.stack(changes, axis=1))
        return FullDelta(dw=dw, gain=jnp.any(dw != 0, axis=(1, 2)).astype(dw.dtype)[:, None])

    layers = visit(name, combine, *adapters)
    # each adapter's dW is formed with what it shares itself
    return {"layers": layers} | replaced_parameters.combined(adapters)


def _change(name: str, adapter: dict, params: dict, path: str) -> Float[Array, "L I O"]:
    """dW of one stacked weight."""
    _, part, module = path.split("/")
    blank = {p: dict.fromkeys(params["layers"][p]) for p in adapter["layers"]}
    blank[part][module] = adapter["layers"][part][module]
    try:
        return deltas(adapter | {"layers": blank}, params)["layers"][part][module]
    except UserError as error:
        raise UserError(f"{name}: {path}: {error}") from None


def _on_factors(
    name: str, adapters: Adapters, weights: Any, rule: Rule, keep: Callable | None = None
) -> dict:
    """The rule on A and B separately, each with sqrt|w s|, the sign on A; the sum alone for a
    single adapter."""
    if len(adapters) == 1:
        rule, keep = _weighted_sum, None

    def separately(parts: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
        a, b = (jnp.stack([part[i] for part in parts]) for i in (1, 2))
        signed = jnp.stack([w * s for w, _, _, s in parts])
        root = jnp.sqrt(jnp.abs(signed))
        sign = jnp.where(signed >= 0, 1, -1)
        return np.asarray(rule(a, (sign * root)[:, None, :])), np.asarray(rule(b, root[:, :, None]))

    return _by_layer(name, adapters, weights, separately, keep, same_rank=True)


def _by_layer(
    name: str,
    adapters: Adapters,
    weights: Any,
    combine: Callable,
    keep: Callable | None = None,
    same_rank: bool = False,
) -> dict:
    """LoRA of combine([(w, A, B, scale)]) for each single layer, over adapters that have ranks in
    use there."""
    factors = np.asarray(check_weights(name, adapters, weights))

    def join(path: str, layers: tuple[Any, ...]) -> LoRA | None:
        present = [
            (m, x) for m, x in enumerate(layers) if x is not None and _is_lora(name, path, m, x)
        ]
        if not present:
            return None
        if keep is not None:
            present = [
                (m, x.replace(a=keep(x.a, m, path, 0), b=keep(x.b, m, path, 1))) for m, x in present
            ]
        rows = []
        for i in range(present[0][1].a.shape[0]):
            found = [
                (factors[m], *low_rank_factors(jax.tree.map(lambda x, i=i: x[i], layer)))
                for m, layer in present
            ]
            parts = [part for part in found if part[3].size]
            ranks = sorted({part[3].size for part in parts})
            if same_rank and len(ranks) > 1:
                where = path.replace("layers/", f"layers/{i}/", 1)
                raise UserError(
                    f"{name}: ranks {ranks} at {where}; expected the same (peft_cat and peft_svd"
                    " take any)"
                )
            rows.append(combine(parts) if parts else None)
        return _padded(rows, present[0][1])

    return zip_layers(name, join, *adapters)


def _padded(rows: list[tuple | None], like: LoRA) -> LoRA:
    """Rows of factors (I, R_i) and (R_i, O) as one stacked LoRA with scale 1 for the ranks in
    use."""
    rank = max((row[0].shape[1] for row in rows if row is not None), default=0)
    layers, fan_in, fan_out = len(rows), like.a.shape[1], like.b.shape[2]
    a, b, scale = (
        np.zeros((layers, *s), np.float32) for s in ((fan_in, rank), (rank, fan_out), (rank,))
    )
    for i, row in enumerate(rows):
        if row is not None:
            used = row[0].shape[1]
            a[i, :, :used], b[i, :used], scale[i, :used] = *row, 1
    return LoRA(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))


def _is_lora(name: str, path: str, index: int, layer: Any) -> bool:
    if not isinstance(layer, LoRA):
        raise UserError(
            f"{name}: adapter {index} is a {type(layer).__name__} at {path}; expected LoRA"
        )
    return True
