"""The size of an adapter's weight change, and its best approximation by LoRA of a given rank."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax import quant
from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import Adapter, as_adapter_and_params, is_layer
from lfl_jax.adapters.build import require_bound
from lfl_jax.adapters.kind import only_low_rank
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import members
from lfl_jax.core import tree
from lfl_jax.errors import UserError


def truncate(adapter: Adapter, params: dict, rank: int) -> tuple[dict, float]:
    """(LoRA of this rank at every adapted weight, relative error ||dW - dW_k||_F / ||dW||_F over
    all of them).

    The closest that rank can come (Eckart and Young 1936). Layers of low-rank members only are
    decomposed through their factors; others hold one layer's dW (I, O) at a time. Raises UserError
    for a rank below 1 or above a weight's size.
    """
    total = lost = 0.0
    adapter, params = as_adapter_and_params("truncate", adapter, params)
    require_bound("truncate", adapter, params)
    shared = adapter.get("shared")

    def visit(path: Any, layer: Any, w: Any) -> Any:
        nonlocal total, lost
        if layer is None:
            return None
        if not 1 <= rank <= min(w.shape[1:]):
            raise UserError(
                f"truncate: rank {rank} does not fit {tree.name(path)}; expected 1 to"
                f" {min(w.shape[1:])}"
            )
        parts = [_svd(_row(layer, i, shared), _row(w, i)) for i in range(w.shape[0])]
        total += sum(float(np.sum(np.square(s))) for _, s, _ in parts)
        lost += sum(float(np.sum(np.square(s[rank:]))) for _, s, _ in parts)
        best = [_lora(*part, rank) for part in parts]
        return LoRA(
            *(jnp.asarray(np.stack(leaves), jnp.float32) for leaves in zip(*best, strict=True))
        )

    layers = jax.tree_util.tree_map_with_path(
        visit, *_layers_and_weights(adapter, params), is_leaf=is_layer
    )
    return layers | replaced_parameters.combined([adapter]), math.sqrt(
        lost / total
    ) if total else 0.0


def norm(adapter: Adapter, params: dict) -> float:
    """||dW||_F over all weights together; exactly 0 for LoRA with B = 0, not finite when a value is
    not."""
    squares = 0.0
    adapter, params = as_adapter_and_params("norm", adapter, params)
    require_bound("norm", adapter, params)
    shared, (layers, weights) = adapter.get("shared"), _layers_and_weights(adapter, params)
    leaves = (
        jax.tree.leaves(layers, is_leaf=is_layer),
        jax.tree.leaves(weights, is_leaf=quant.is_quantised),
    )
    for layer, w in zip(*leaves, strict=True):
        if layer is not None:
            squares += sum(_square(_row(layer, i, shared), _row(w, i)) for i in range(w.shape[0]))
    return math.sqrt(squares) if squares >= 0 else math.nan


def low_rank_factors(layer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(A, B, scale) of one layer whose members are all low-rank: their ranks in use, side by side.
    Otherwise None."""
    group = members(layer)
    if not all(only_low_rank(member) for member in group):
        return None
    parts = jax.device_get([member.low_rank(None) for member in group])
    columns = ([np.asarray(x, np.float32) for x in column] for column in zip(*parts, strict=True))
    a, scale, b = (np.concatenate(x, axis) for x, axis in zip(columns, (1, 0, 0), strict=True))
    used = scale != 0
    return a[:, used], b[used], scale[used]


def _row(stack: Any, index: int, shared: Any = None) -> Any:
    """One layer of stacked leaves, with what it needs of the adapter's shared arrays."""
    row = jax.tree.map(lambda x: x[index], stack)
    return row if shared is None else row.with_shared(shared)


def _layers_and_weights(adapter: dict, params: dict) -> tuple[dict, dict]:
    stacks, layers = params["layers"], adapter["layers"]
    weights = {part: {name: stacks[part][name] for name in names} for part, names in layers.items()}
    return {"layers": layers}, {"layers": weights}


def _svd(layer: Any, w: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (I, K), singular values (K,) and V^T (K, O) of one layer's dW."""
    factors = low_rank_factors(layer)
    if factors is None:
        return np.linalg.svd(np.asarray(layer.delta(w), np.float32), full_matrices=False)
    a, b, scale = (x.astype(np.float64) for x in factors)
    (qa, ra), (qb, rb) = np.linalg.qr(a * scale), np.linalg.qr(b.T)
    u, s, vt = np.linalg.svd(ra @ rb.T)
    return qa @ u[:, : len(s)], s, vt[: len(s)] @ qb.T


def _lora(
    u: np.ndarray, s: np.ndarray, vt: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first `rank` components, zero-padded to `rank`; scale is 1 where there is a component."""
    kept = min(rank, len(s))
    a, b, scale = np.zeros((u.shape[0], rank)), np.zeros((rank, vt.shape[1])), np.zeros(rank)
    root = np.sqrt(s[:kept])
    a[:, :kept], b[:kept], scale[:kept] = (
        u[:, :kept] * root,
        root[:, None] * vt[:kept],
        s[:kept] > 0,
    )
    return a, b, scale


def _square(layer: Any, w: Any) -> float:
    factors = low_rank_factors(layer)
    if factors is None:
        return float(_dense_square(layer, w))
    a, b, scale = (x.astype(np.float64) for x in factors)
    b = b * scale[:, None]
    # trace of (A^T A)(B B^T): no dW is formed
    return (
        max(float(np.sum((a.T @ a) * (b @ b.T))), 0.0)
        if np.isfinite([a.sum(), b.sum()]).all()
        else math.nan
    )


@jax.jit
def _dense_square(layer: Any, w: Any) -> jax.Array:
    return jnp.sum(jnp.square(layer.delta(w)))
