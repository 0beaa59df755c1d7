"""The size of an adapter's weight change, and its best approximation by LoRA of a given rank."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import (
    Adapter,
    as_adapter_and_params,
    is_layer,
    named_layers,
    weight,
)
from lfl_jax.adapters.build import require_bound
from lfl_jax.adapters.kind import Shared, only_low_rank
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import AdapterLayer, members
from lfl_jax.core import hosts, tree
from lfl_jax.core.svd import SVD, svd_of_matrix, svd_of_product
from lfl_jax.core.types import AdapterTree, Params, PyTree, Weight
from lfl_jax.errors import UserError


def truncate(adapter: Adapter, params: Params, rank: int) -> tuple[AdapterTree, float]:
    """(LoRA of this rank at every adapted weight, relative error over all weights together).

    The error is ||dW - dW_k||_F / ||dW||_F, the least that this rank can have (Eckart and Young
    1936). Layers of low-rank members only are decomposed through their factors; of others, dW
    (I, O) exists one layer at a time. Raises UserError for a rank below 1 or above a weight's size.
    """
    adapter, params = as_adapter_and_params("truncate", adapter, params)
    require_bound("truncate", adapter, params)
    loras, squares = {}, np.zeros(2)  # of all singular values, and of those that are lost
    for path, layer in named_layers(adapter):
        w = weight(params, path)
        _require_rank(rank, path, w)
        loras[path], layer_squares = _truncated(layer, w, adapter.get("shared"), rank)
        squares += layer_squares

    # the same tree, with None where a weight is not adapted
    layers = jax.tree_util.tree_map_with_path(
        lambda path, _: loras.get(tree.name(path)), {"layers": adapter["layers"]}, is_leaf=is_layer
    )
    total, lost = squares.tolist()
    error = math.sqrt(lost / total) if total else 0.0
    return layers | replaced_parameters.combined([adapter]), error


def _truncated(
    stack: AdapterLayer, w: Weight, shared: Shared, rank: int
) -> tuple[LoRA, Float[np.ndarray, "2"]]:
    """The LoRA of a stacked layer; the sums of squares of dW's singular values, all and lost."""
    svds = [_svd(layer_of(stack, i, shared), row(w, i)) for i in range(w.shape[0])]
    total = sum(float(np.sum(np.square(svd.s))) for svd in svds)
    lost = sum(float(np.sum(np.square(svd.s[rank:]))) for svd in svds)
    return stacked([_lora(svd, rank) for svd in svds]), np.array([total, lost])


def norm(adapter: Adapter, params: Params) -> float:
    """||dW||_F over all weights together.

    It is exactly 0 for LoRA with B = 0, and not finite when a value is not.
    """
    adapter, params = as_adapter_and_params("norm", adapter, params)
    require_bound("norm", adapter, params)
    shared, squares = adapter.get("shared"), 0.0
    for path, layer in named_layers(adapter):
        w = weight(params, path)
        for i in range(w.shape[0]):
            squares += _square(layer_of(layer, i, shared), row(w, i))
    # nan fails every comparison
    return math.sqrt(squares) if squares >= 0 else math.nan


def low_rank_factors(layer: AdapterLayer) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(A, B, scale) of one layer whose members are all low-rank, else None.

    The members' ranks in use are concatenated; padded ranks are left out.
    """
    group = members(layer)
    if not all(only_low_rank(member) for member in group):
        return None
    parts = jax.tree.map(_to_numpy, [member.low_rank(None) for member in group])
    a = np.concatenate([np.asarray(part.a, np.float32) for part in parts], axis=1)
    b = np.concatenate([np.asarray(part.b, np.float32) for part in parts], axis=0)
    scale = np.concatenate([np.asarray(part.scale, np.float32) for part in parts], axis=0)
    # A padded rank has scale 0; its A and B need not be 0.
    used = scale != 0
    return a[:, used], b[used], scale[used]


def _to_numpy(x: jax.Array | np.ndarray) -> np.ndarray:
    # an array that is sharded over processes has to be collected
    return hosts.to_numpy(x) if isinstance(x, jax.Array) else np.asarray(x)


def _require_rank(rank: int, path: str, w: Weight) -> None:
    if not 1 <= rank <= min(w.shape[1:]):
        raise UserError(
            f"truncate: rank {rank} does not fit {path}; expected 1 to {min(w.shape[1:])}"
        )


def row(stack: PyTree, index: int) -> PyTree:
    """One layer of stacked leaves."""
    leaves = jax.tree.leaves(stack)
    if all(isinstance(x, jax.Array) for x in leaves):
        return _row_on_device(stack, index)
    return jax.tree.map(lambda x: x[index], stack)


@jax.jit
def _row_on_device(stack: PyTree, index: int | Int[Array, ""]) -> PyTree:
    # the index is an argument: x[3] would be compiled anew for every layer
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), stack)


def layer_of(stack: AdapterLayer, index: int, shared: Shared) -> AdapterLayer:
    """One layer of a stack, with its part of the adapter's shared arrays."""
    layer = row(stack, index)
    return layer if shared is None else layer.with_shared(shared)


def _svd(layer: AdapterLayer, w: Weight) -> SVD:
    """Of one layer's dW; K is min(I, O), or the rank of its factors."""
    factors = low_rank_factors(layer)
    if factors is None:
        return svd_of_matrix(np.asarray(layer.delta(w)))
    a, b, scale = factors
    return svd_of_product(a.astype(np.float64) * scale, b)


def _lora(svd: SVD, rank: int) -> LoRA:
    """The first `rank` components, zero-padded to `rank`; scale is 1 where there is a component."""
    used = min(rank, len(svd.s))
    root = np.sqrt(svd.s[:used])
    a = np.zeros((svd.u.shape[0], rank))
    b = np.zeros((rank, svd.vt.shape[1]))
    scale = np.zeros(rank)

    a[:, :used] = svd.u[:, :used] * root
    b[:used] = root[:, None] * svd.vt[:used]
    scale[:used] = svd.s[:used] > 0
    return LoRA(a, b, scale)


def stacked(rows: Sequence[LoRA]) -> LoRA:
    """Layers of one rank as a stack, in float32."""
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x), jnp.float32), *rows)


def _square(layer: AdapterLayer, w: Weight) -> float:
    """||dW||_F^2 of one layer."""
    factors = low_rank_factors(layer)
    if factors is None:
        return float(_dense_square(layer, w))
    # in float64: the two products below cancel where dW is small
    a, b, scale = (x.astype(np.float64) for x in factors)
    if not np.isfinite([a.sum(), b.sum()]).all():
        return math.nan

    # the trace of (A^T A)(B B^T): no dW is formed; rounding may take it below 0
    b = b * scale[:, None]
    return max(float(np.sum((a.T @ a) * (b @ b.T))), 0.0)


@jax.jit
def _dense_square(layer: AdapterLayer, w: Weight) -> Float[Array, ""]:
    return jnp.sum(jnp.square(layer.delta(w)))
