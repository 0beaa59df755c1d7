"""What a kernel reads of a weight W (I, O), by storage format, and how it decodes a tile.

A stored row holds `planes` rows of W: two for NF4, whose byte is rows 2i and 2i + 1. A kernel does
not interleave them again: x W = x[:, 0::2] W[0::2] + x[:, 1::2] W[1::2], so x and A come as planes,
and dx leaves as planes.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt8

from lfl_jax import quant
from lfl_jax.core.types import DType, Weight
from lfl_jax.kernels.low_rank.tiles import Product
from lfl_jax.quant.nf4 import BLOCK, LEVELS, select

# stored (S, O), and scale (J, O) in float32 or None
Operands: TypeAlias = tuple[Shaped[Array, "S O"], Float[Array, "J O"] | None]
Planes: TypeAlias = tuple[Float[Array, "S O"], ...]


@dataclasses.dataclass(frozen=True)
class Format:
    """A storage format.

    planes: rows of W in a stored row. group: stored rows that share a scale, 0 for all of them.
    decode(tile, scale, dtype) is a tile's planes, its scale being broadcastable to it.
    """

    planes: int
    group: int
    operands: Callable[[Weight], Operands]
    decode: Callable[[Shaped[Array, "S O"], Float[Array, "#S O"] | None, DType], Planes]


def format_of(w: Weight) -> str:
    """Key of FORMATS for a weight."""
    return {quant.NF4: "nf4", quant.Int8: "int8"}.get(type(w), "dense")


def product(
    form: Format,
    stored: Shaped[Array, "S O"] | jax.ShapeDtypeStruct,
    rows: int,
    rank: int,
    bytes_x: int,
    transposed: bool,
) -> Product:
    """The product of one pass over a weight; transposed: the backward pass."""
    # the backward pass contracts O and outputs I, the forward pass the other way round
    cols, depth = stored.shape[:: 1 if transposed else -1]
    planes = (1, form.planes) if transposed else (form.planes, 1)
    return Product(rows, cols, depth, rank, *planes, bytes_x, stored.dtype.itemsize)


def _decode_nf4(codes: UInt8[Array, "S O"], scale: Float[Array, "#S O"], dtype: DType) -> Planes:
    """By selection: in a kernel neither accelerator looks up a table fast."""
    codes = codes.astype(jnp.int32)
    return tuple(
        (select(LEVELS, index) * scale).astype(dtype) for index in (codes >> 4, codes & 15)
    )


FORMATS = {
    "dense": Format(1, 0, lambda w: (w, None), lambda tile, _, dtype: (tile.astype(dtype),)),
    # one scale for all rows of a column (group 0), codes in one plane
    "int8": Format(
        1,
        0,
        lambda w: (w.codes, w.scale[None]),
        lambda tile, scale, dtype: ((tile.astype(jnp.float32) * scale).astype(dtype),),
    ),
    # the second level of the scales is undone before the kernel: 1/64 as many numbers as W has
    "nf4": Format(2, BLOCK // 2, lambda w: (w.codes, quant.nf4.absmax(w)), _decode_nf4),
}


def split(x: Float[Array, "N I"], planes: int, stored: int) -> Float[Array, "P N S"]:
    """The columns of x as planes, one column per stored row of W.

    NF4 fills its last block with rows that W does not have: their columns are 0.
    """
    # column planes · s + p of x meets row p of stored row s
    x = jnp.pad(x, ((0, 0), (0, planes * stored - x.shape[1])))
    return x[None] if planes == 1 else jnp.moveaxis(x.reshape(x.shape[0], stored, planes), 2, 0)


def join(planes: Float[Array, "P N S"], size: int) -> Float[Array, "N I"]:
    """The inverse of `split`: the first `size` columns."""
    return jnp.moveaxis(planes, 0, 2).reshape(planes.shape[1], -1)[:, :size]
