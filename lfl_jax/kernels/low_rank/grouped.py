"""Dozens of adapters in one batch: products of groups of rows with the factors of their own
adapter.

The gated form multiplies every row with every member's factors and drops all but one: its work
grows with M. Here it does not (Punica, arXiv 2310.18547; S-LoRA, arXiv 2311.03285). The rows of an
example that is one adapter's are a group as they stand; rows that are each their own adapter's are
sorted first.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from lfl_jax.core.sharding import platform

TILE = 32  # the most rows of one adapter that are multiplied together


def low_rank_by_example(
    x: Float[Array, "B T I"],
    a: Float[Array, "M I R"],
    b: Float[Array, "M R O"],
    ids: Int[Array, " B"],
    scale: Float[Array, "M R"],
) -> Float[Array, "B T O"]:
    """dy with example n = (x_n A_m · scale_m) B_m for m = ids[n]; exactly 0 where ids[n] is -1, the
    base.

    Differentiable in x, a, b and scale.
    """
    factors = jnp.where(ids[:, None] < 0, 0, scale[ids]).astype(x.dtype)
    return _products(x, a, b, factors, ids)


def grouped_low_rank(
    x: Float[Array, "N I"],
    a: Float[Array, "M I R"],
    b: Float[Array, "M R O"],
    ids: Int[Array, " N"],
    scale: Float[Array, "M R"],
    *,
    implementation: str | None = None,
) -> Float[Array, "N O"]:
    """The same for rows, each its own adapter's. implementation: a name of FORMS; by default the
    platform's."""
    form = FORMS[implementation or PREFERRED.get(platform(None), "tiled")]
    return form(x, a, b, ids, scale.astype(x.dtype))


def _ragged(x: Any, a: Any, b: Any, ids: Any, scale: Any) -> Any:
    """jax.lax.ragged_dot over the sorted rows. XLA has it on TPUs; on CPUs and GPUs jax 0.10 makes
    M masked products of it. Rows of the base are zeros at the end of the last group: a row of no
    group is whatever memory held."""
    order, place, sizes, _ = _sort(ids, a.shape[0])
    rows = _move(
        x, jnp.where(ids[order] < 0, x.shape[0], order), jnp.where(ids < 0, x.shape[0], place)
    )
    sizes = sizes.at[-1].add(x.shape[0] - sizes.sum())
    hidden = (
        checkpoint_name(jax.lax.ragged_dot(rows, a.astype(x.dtype), sizes), "shrink")
        * scale[ids[order]]
    )
    dy = jax.lax.ragged_dot(hidden, b.astype(x.dtype), sizes)
    return _move(dy, place, order)


def _tiled(x: Any, a: Any, b: Any, ids: Any, scale: Any) -> Any:
    """Every adapter's rows filled up to whole tiles, and a batched product of tiles with the
    factors each needs."""
    n, members = x.shape[0], a.shape[0]
    rows = tile(n, members)
    _, place, sizes, starts = _sort(ids, members)
    tiles_of = -(-sizes // rows)
    count = (n + min(members, n) * (rows - 1)) // rows  # tiles that are enough whatever the ids
    ends = jnp.cumsum(tiles_of)
    owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(count), side="right"), members - 1)
    first = (ends - tiles_of) * rows  # each adapter's first slot
    slot = jnp.where(ids < 0, count * rows, first[ids] + place - starts[ids])
    source = jnp.full(count * rows, n).at[slot].set(jnp.arange(n), mode="drop")
    tiles = _move(x, source, slot).reshape(count, rows, -1)
    dy = _products(tiles, a, b, scale[owner], owner)
    return _move(dy.reshape(count * rows, -1), slot, source)


def tile(n: int, members: int) -> int:
    """Rows of a tile: a power of two near the rows an adapter has on average, so that all tiles
    together have at most 2.5 times the rows. 1 is a gather of each row's own factors."""
    return min(TILE, 1 << round(math.log2(max(n / members, 1))))


def _products(tiles: Any, a: Any, b: Any, factors: Any, owner: Any) -> Any:
    """(t A_m · f) B_m of every tile of rows t (C, T, I), with its owner m and its factors f (R,) on
    the ranks."""
    hidden = checkpoint_name(
        jnp.einsum("cti,cir->ctr", tiles, a[owner].astype(tiles.dtype)), "shrink"
    )
    return jnp.einsum("ctr,cro->cto", hidden * factors[:, None], b[owner].astype(tiles.dtype))


def _sort(ids: Any, members: int) -> tuple[Any, Any, Any, Any]:
    """The rows by adapter with the base's last, where each row went, rows of each adapter, its
    first in that order."""
    order = jnp.argsort(jnp.where(ids < 0, members, ids), stable=True)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(ids)))
    sizes = jnp.sum(ids[:, None] == jnp.arange(members), axis=0)
    return order, place, sizes, jnp.cumsum(sizes) - sizes


@jax.custom_vjp
def _move(x: Any, there: Any, back: Any) -> Any:
    """Row i becomes x[there[i]], or zeros where that is past the end; `back` does the same the
    other way, for the
    gradient: a gather too, where that of any index is a sum over whatever rows collide."""
    return x.at[there].get(mode="fill", fill_value=0)


_move.defvjp(
    lambda x, there, back: (_move(x, there, back), (there, back)),
    lambda indices, dy: (_move(dy, indices[1], indices[0]), None, None),
)

FORMS: dict[str, Callable] = {"ragged": _ragged, "tiled": _tiled}
PREFERRED = {"tpu": "ragged"}


def routed(
    x: Float[Array, "N I"],
    a: Float[Array, "M I R"],
    b: Float[Array, "M R O"],
    ids: Int[Array, " N"],
    scale: Float[Array, "M R"],
) -> Float[Array, "N O"]:
    """The same by a one-hot routing over all members' ranks, as `adapters.project` computes a
    stack."""
    one_hot = jax.nn.one_hot(ids, a.shape[0], dtype=x.dtype)  # all zeros for -1
    wide = jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1).astype(x.dtype)
    routing = (one_hot[:, :, None] * scale.astype(x.dtype)).reshape(x.shape[0], -1)
    return (x @ wide * routing) @ b.reshape(-1, b.shape[-1]).astype(x.dtype)
