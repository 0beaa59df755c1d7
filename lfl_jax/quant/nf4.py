"""NF4 weights: 4-bit indices of 16 levels, scaled by block of 64 (QLoRA, arXiv 2305.14314).

Levels, block order, nibble order and the second level are those of bitsandbytes: a block is 64
inputs of one output unit, which are neighbours in a torch weight (out, in). 4.127 bits a parameter
with both levels, 4.5 with one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from lfl_jax.core.pytree import Node
from lfl_jax.core.spec import ArraySpec

BLOCK = 64  # weights that share an absmax
SUPERBLOCK = 256  # absmax values that share a scale
# Quantiles of a normal distribution with an exact 0, as in bitsandbytes: the formula in the paper
# gives other numbers.
LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


def _dynamic_levels() -> np.ndarray:
    """The 256 values of the signed dynamic 8-bit type (Dettmers, arXiv 1511.04561).

    Decade e in 0..6 holds 2^e magnitudes of each sign: the centres of 2^e equal cells of [0.1, 1],
    times 10^(e - 6). With 0 and 1 that makes 256.
    """
    # centres of cells only: 0, which has no sign, and 1 are values of their own
    decades = []
    for e in range(7):
        edges = np.linspace(0.1, 1.0, 2**e + 1)
        decades.append(10.0 ** (e - 6) * (edges[:-1] + edges[1:]) / 2)
    positive = np.concatenate(decades)
    return np.sort(np.concatenate([positive, -positive, [0.0, 1.0]])).astype(np.float32)


DYNAMIC_LEVELS = _dynamic_levels()


@struct.dataclass
class NF4(Node):
    """A weight (.., I, O) as codes (.., 32·J, O) uint8 in J = ceil(I/64) blocks.

    A byte is two rows, the first in the high nibble. absmax (.., J, O) is float32, or uint8 indices
    of DYNAMIC_LEVELS. Then scale (.., S) belongs to the runs of 256 along one layer's absmax, read
    one output unit after the other, and offset (..) is that layer's mean absmax. rows is I: the
    last block is filled up with zeros that `dequantise` drops. dtype: of the dequantised weight.
    """

    codes: Any
    absmax: Any
    scale: Any
    offset: Any
    rows: int = struct.field(pytree_node=False)
    dtype: Any = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (*self.codes.shape[:-2], self.rows, self.codes.shape[-1])

    @property
    def padded(self) -> int:
        """Rows of zeros stored after the last one because I is not a multiple of 64."""
        return 2 * self.codes.shape[-2] - self.rows

    @property
    def double(self) -> bool:
        """Whether absmax is quantised, too."""
        return self.scale is not None


@partial(jax.jit, static_argnames=("double", "dtype"))
def quantise(w: Float[Array, "*L I O"], double: bool = True, dtype: DTypeLike | None = None) -> NF4:
    """The nearest level of every weight over its block's absmax.

    double: absmax is quantised, too. dtype: what it will be dequantised to, by default w's.
    """
    # a stack is quantised layer by layer, so that one layer is in float32 at a time
    one = partial(_quantise, double=double, dtype=jnp.dtype(dtype or w.dtype))
    return one(w) if w.ndim == 2 else jax.lax.map(one, w)


def dequantise(q: NF4, dtype: DTypeLike | None = None) -> Float[Array, "*L I O"]:
    """level · absmax in float32, cast once: to dtype, by default q's."""
    *stack, half, columns = q.codes.shape
    # the rows of a byte are neighbours: the two nibbles interleave
    index = jnp.stack([q.codes >> 4, q.codes & 15], axis=-2)
    levels = _look_up(LEVELS, index, select).reshape(*stack, -1, BLOCK, columns)
    w = (levels * absmax(q)[..., None, :]).reshape(*stack, 2 * half, columns)
    return w[..., : q.rows, :].astype(dtype or q.dtype)


def matmul(x: Float[Array, "*N I"], q: NF4) -> Float[Array, "*N O"]:
    """x dequantise(q), as the sum of the products with the even and with the odd rows of W.

    As they are not interleaved, a TPU decodes them on their way into the product, and no
    dequantised W is written. Other platforms write it for the time of the product.
    """
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, q.padded)]).reshape(*x.shape[:-1], -1, 2)
    # each product is accumulated in float32, and so is their sum
    products = (
        jnp.dot(x[..., i], w, preferred_element_type=jnp.float32)
        for i, w in enumerate(_planes(q, x.dtype))
    )
    return sum(products).astype(x.dtype)


def matmul_transposed(dy: Float[Array, "*N O"], q: NF4) -> Float[Array, "*N I"]:
    """dy dequantise(q)^T, in the same two parts."""
    parts = [
        jax.lax.dot_general(dy, w, (((dy.ndim - 1,), (1,)), ((), ()))) for w in _planes(q, dy.dtype)
    ]
    return jnp.stack(parts, axis=-1).reshape(*dy.shape[:-1], -1)[..., : q.rows]


def _planes(q: NF4, dtype: DTypeLike) -> list[Float[Array, "S O"]]:
    """The even and the odd rows of one layer's weight, padding included."""
    # A block's absmax serves 32 bytes. The cast to q.dtype rounds as `dequantise` does.
    scale = jnp.repeat(absmax(q), BLOCK // 2, axis=0)
    return [
        (_look_up(LEVELS, index, select) * scale).astype(q.dtype).astype(dtype)
        for index in (q.codes >> 4, q.codes & 15)
    ]


def specs(weight: ArraySpec, double: bool = True) -> NF4:
    """Specs in place of a weight's, sharded as the weight is; they initialise to zeros."""
    *stack, rows, columns = weight.shape
    *stack_axes, _, _ = weight.axes
    blocks = -(-rows // BLOCK)

    def array(shape: tuple[int, ...], axes: tuple[str, ...], dtype: DTypeLike) -> ArraySpec:
        return ArraySpec((*stack, *shape), (*stack_axes, *axes), initializers.zeros, dtype)

    runs = -(-blocks * columns // SUPERBLOCK)
    return NF4(
        codes=array((blocks * BLOCK // 2, columns), weight.axes[-2:], jnp.uint8),
        absmax=array((blocks, columns), weight.axes[-2:], jnp.uint8 if double else jnp.float32),
        # runs go through the whole layer, so that no mesh axis can split them as it does W
        scale=array((runs,), ("activation",), jnp.float32) if double else None,
        offset=array((), (), jnp.float32) if double else None,
        rows=rows,
        dtype=jnp.dtype(weight.dtype),
    )


def _quantise(w: Float[Array, "I O"], double: bool, dtype: DTypeLike) -> NF4:
    rows, columns = w.shape
    padded = jnp.pad(w.astype(jnp.float32), ((0, -rows % BLOCK), (0, 0)))
    blocks = padded.reshape(-1, BLOCK, columns)
    # a block of zeros has level 0, and no division by 0
    absmax = _positive(jnp.max(jnp.abs(blocks), axis=1))
    # rows 2i and 2i + 1 share a byte
    pairs = _nearest(blocks / absmax[:, None], LEVELS).reshape(-1, 2, columns)
    absmax, scale, offset = _second_level(absmax) if double else (absmax, None, None)
    return NF4(pairs[:, 0] << 4 | pairs[:, 1], absmax, scale, offset, rows, dtype)


def _second_level(
    absmax: Float[Array, "J O"],
) -> tuple[UInt8[Array, "J O"], Float[Array, " S"], Float[Array, ""]]:
    """(codes, scale, offset) of absmax = DYNAMIC_LEVELS[codes] · scale + offset."""
    # absmax is positive, DYNAMIC_LEVELS signed: without its mean it would use half of them
    offset = jnp.mean(absmax)
    # transposed: bitsandbytes reads a torch weight (out, in), an output unit after the other
    flat = (absmax - offset).T.reshape(-1)
    # zeros fill up the last run: they do not raise its maximum
    runs = jnp.pad(flat, (0, -flat.size % SUPERBLOCK)).reshape(-1, SUPERBLOCK)
    scale = _positive(jnp.max(jnp.abs(runs), axis=1))
    codes = _nearest(runs / scale[:, None], DYNAMIC_LEVELS).reshape(-1)[: flat.size]
    return codes.reshape(absmax.T.shape).T, scale, offset


def absmax(q: NF4) -> Float[Array, "*L J O"]:
    """Every block's absmax in float32, the second level undone."""
    if not q.double:
        return q.absmax
    *stack, blocks, columns = q.absmax.shape
    scale = jnp.repeat(q.scale, SUPERBLOCK, axis=-1)[..., : blocks * columns]
    scale = jnp.swapaxes(scale.reshape(*stack, columns, blocks), -1, -2)
    return _look_up(DYNAMIC_LEVELS, q.absmax, _match) * scale + q.offset[..., None, None]


def select(values: np.ndarray, index: Int[Array, "*N"] | UInt8[Array, "*N"]) -> Float[Array, "*N"]:
    """values[index] for 2^n values, by selection on the n bits of the index.

    Each bit, the lowest first, decides between neighbours and halves the candidates.
    """
    index = index.astype(jnp.int32)
    candidates = [jnp.float32(x) for x in values]
    for bit in range(len(values).bit_length() - 1):
        is_set = (index & 1 << bit) != 0
        pairs = zip(candidates[::2], candidates[1::2], strict=True)
        candidates = [jnp.where(is_set, high, low) for low, high in pairs]
    return candidates[0]


def _match(values: np.ndarray, index: UInt8[Array, "*N"]) -> Float[Array, "*N"]:
    """values[index], by comparison with all indices: for a table too long to select from."""
    hit = index[..., None] == jnp.arange(len(values), dtype=index.dtype)
    return jnp.sum(jnp.where(hit, values, 0), axis=-1)


def _look_up(values: np.ndarray, index: UInt8[Array, "*N"], tpu: Callable) -> Float[Array, "*N"]:
    """values[index]; on a TPU, which has no fast way to look up single numbers, by `tpu`."""
    return jax.lax.platform_dependent(
        index, tpu=partial(tpu, values), default=lambda i: jnp.asarray(values)[i]
    )


def _nearest(x: Float[Array, "*N"], levels: np.ndarray) -> UInt8[Array, "*N"]:
    """Index of the nearest level; halfway between two, the lower."""
    # in float64, and rounded once
    midpoints = ((levels[:-1].astype(np.float64) + levels[1:]) / 2).astype(np.float32)
    index = jnp.searchsorted(jnp.asarray(midpoints), x, side="left", method="compare_all")
    return index.astype(jnp.uint8)


def _positive(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """x, and the smallest normal number where x is 0 or so small that it is flushed to 0."""
    return jnp.maximum(x, jnp.finfo(jnp.float32).tiny)
