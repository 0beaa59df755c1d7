"""Dozens of adapters in one batch: every group of rows meets its own adapter's factors only.

Routing weights multiply every row with every adapter's factors and drop all products but one: the
work grows with M. Here it does not (Punica, arXiv 2310.18547; S-LoRA, arXiv 2311.03285). The rows
of an example that is one adapter's are a group as they are; rows that are each their own adapter's
are sorted first.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

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
    """dy_n = (x_n A_m · scale_m) B_m of example n, with m = ids[n]; exactly 0 where m is -1.

    Differentiable in x, a, b and scale.
    """
    # -1 reads the last adapter's factors, and is multiplied by 0
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
    """The same for rows, each its own adapter's.

    implementation: a name of FORMS; by default the platform's.
    """
    form = FORMS[implementation or PREFERRED.get(platform(None), "tiled")]
    return form(x, a, b, ids, scale.astype(x.dtype))


class _Sorted(NamedTuple):
    """Rows sorted by adapter, those of the base last."""

    order: Int[Array, " N"]  # the row at each position
    position: Int[Array, " N"]  # of each row
    sizes: Int[Array, " M"]  # rows of each adapter
    starts: Int[Array, " M"]  # the position of each adapter's first row


def _sort(ids: Int[Array, " N"], adapters: int) -> _Sorted:
    order = jnp.argsort(jnp.where(ids < 0, adapters, ids), stable=True)
    position = jnp.zeros_like(order).at[order].set(jnp.arange(len(ids)))
    sizes = jnp.sum(ids[:, None] == jnp.arange(adapters), axis=0)
    return _Sorted(order, position, sizes, jnp.cumsum(sizes) - sizes)


def _ragged(
    x: Float[Array, "N I"],
    a: Float[Array, "M I R"],
    b: Float[Array, "M R O"],
    ids: Int[Array, " N"],
    scale: Float[Array, "M R"],
) -> Float[Array, "N O"]:
    """jax.lax.ragged_dot over the sorted rows.

    XLA has it on TPUs; on CPUs and GPUs jax 0.10 computes it as M masked products.
    """
    n = x.shape[0]
    order, position, sizes, _ = _sort(ids, a.shape[0])

    # Rows of the base are zeros at the end of the last group: ragged_dot leaves a row of no group
    # unwritten.
    to_sorted = jnp.where(ids[order] < 0, n, order)
    from_sorted = jnp.where(ids < 0, n, position)
    rows = _move(x, to_sorted, from_sorted)
    sizes = sizes.at[-1].add(n - sizes.sum())

    hidden = checkpoint_name(jax.lax.ragged_dot(rows, a.astype(x.dtype), sizes), "shrink")
    hidden = hidden * scale[ids[order]]
    dy = jax.lax.ragged_dot(hidden, b.astype(x.dtype), sizes)
    return _move(dy, position, order)


class _Tiling(NamedTuple):
    """Slots of whole tiles, each of one adapter: where rows go, and whose the tiles are."""

    slot: Int[Array, " N"]  # of each row; past the end for rows of the base
    row: Int[Array, " S"]  # in each slot; past the end for slots that only fill a tile
    owner: Int[Array, " C"]  # the adapter of each tile


def _tile_rows(ids: Int[Array, " N"], adapters: int, rows: int) -> _Tiling:
    """Every adapter's rows filled up to whole tiles of `rows` slots.

    The number of tiles is static: as many as are enough whatever the ids.
    """
    n = len(ids)
    _, position, sizes, starts = _sort(ids, adapters)
    count = (n + min(adapters, n) * (rows - 1)) // rows

    # Tiles are counted adapter by adapter: adapter m's end before tile ends[m].
    tiles_of = -(-sizes // rows)
    ends = jnp.cumsum(tiles_of)
    owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(count), side="right"), adapters - 1)

    first_slot = (ends - tiles_of) * rows
    slot = jnp.where(ids < 0, count * rows, first_slot[ids] + position - starts[ids])
    row = jnp.full(count * rows, n).at[slot].set(jnp.arange(n), mode="drop")
    return _Tiling(slot, row, owner)


def _tiled(
    x: Float[Array, "N I"],
    a: Float[Array, "M I R"],
    b: Float[Array, "M R O"],
    ids: Int[Array, " N"],
    scale: Float[Array, "M R"],
) -> Float[Array, "N O"]:
    """A batched product of tiles of rows with the factors of each tile's adapter."""
    rows = tile(x.shape[0], a.shape[0])
    slot, row, owner = _tile_rows(ids, a.shape[0], rows)
    tiles = _move(x, row, slot).reshape(len(owner), rows, -1)
    dy = _products(tiles, a, b, scale[owner], owner)
    return _move(dy.reshape(len(row), -1), slot, row)


def tile(n: int, members: int) -> int:
    """Rows of a tile: a power of two near the rows that an adapter has on average.

    All tiles together then have at most 2.5 times the rows. A tile of 1 row is a gather of each
    row's own factors.
    """
    return min(TILE, 1 << round(math.log2(max(n / members, 1))))


def _products(
    tiles: Float[Array, "C T I"],
    a: Float[Array, "M I R"],
    b: Float[Array, "M R O"],
    factors: Float[Array, "C R"],
    owner: Int[Array, " C"],
) -> Float[Array, "C T O"]:
    """(t A_m · f) B_m of every tile t, with its owner m and its factors f on the ranks."""
    hidden = jnp.einsum("cti,cir->ctr", tiles, a[owner].astype(tiles.dtype))
    hidden = checkpoint_name(hidden, "shrink") * factors[:, None]
    return jnp.einsum("ctr,cro->cto", hidden, b[owner].astype(tiles.dtype))


@jax.custom_vjp
def _move(
    x: Float[Array, "N J"], source: Int[Array, " S"], target: Int[Array, " N"]
) -> Float[Array, "S J"]:
    """Row i of the result is x[source[i]], or zeros where that is past the end.

    target: the inverse, where each row of x goes. With it the gradient is a gather, too, where
    autodiff's is a scatter that adds up whatever rows collide.
    """
    return x.at[source].get(mode="fill", fill_value=0)


_move.defvjp(
    lambda x, source, target: (_move(x, source, target), (source, target)),
    lambda indices, dy: (_move(dy, indices[1], indices[0]), None, None),
)

FORMS: dict[str, Callable] = {"ragged": _ragged, "tiled": _tiled}
PREFERRED = {"tpu": "ragged"}


def one_hot_reference(
    x: Float[Array, "N I"],
    a: Float[Array, "M I R"],
    b: Float[Array, "M R O"],
    ids: Int[Array, " N"],
    scale: Float[Array, "M R"],
) -> Float[Array, "N O"]:
    """The plain form, for tests and benchmarks: one-hot routing weights over all ranks."""
    one_hot = jax.nn.one_hot(ids, a.shape[0], dtype=x.dtype)  # all zeros for -1
    wide = jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1).astype(x.dtype)
    routing = (one_hot[:, :, None] * scale.astype(x.dtype)).reshape(x.shape[0], -1)
    return (x @ wide * routing) @ b.reshape(-1, b.shape[-1]).astype(x.dtype)
