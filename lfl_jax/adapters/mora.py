"""MoRA (Jiang et al., arXiv 2405.12130): dy = decompress(compress(x) M).

M is a square with as many weights as LoRA has. A way to compress and decompress is a class here,
named as in the paper; the numbers in the kinds' names are the released code's `mora_type`. Vectors
whose length the square does not divide are padded with their own first entries.
"""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jax.nn.initializers import zeros
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear.reference import matmul


def square_rank(fan_in: int, fan_out: int, rank: int, rounding: str, even: bool) -> int:
    """The side R' of the square with LoRA's number of weights: R'^2 = (I + O) rank.

    rounding: to the "nearest", as the released code, or down ("floor"), as the paper.
    """
    size = int(math.sqrt((fan_in + fan_out) * rank) + (0.5 if rounding == "nearest" else 0.0))
    size -= size % 2 if even else 0
    if not 1 <= size <= min(fan_in, fan_out):
        raise UserError(
            f"mora: rank {rank} means a square of {size} for a weight ({fan_in}, {fan_out});"
            f" expected at most {min(fan_in, fan_out)}"
        )
    return size


@struct.dataclass
class MoRA(Kind):
    """M, zero when fresh; subclasses say how vectors of length I and O fit it."""

    even: ClassVar[bool] = False
    square: Any  # (R', R')
    gain: Any  # (1,)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "MoRA":
        """Specs beside a stacked weight (L, I, O); there is no alpha."""
        layers, fan_in, fan_out = weight.shape
        size = square_rank(
            fan_in, fan_out, placement.one_rank("mora"), placement.config.mora_rounding, cls.even
        )
        square = ArraySpec((layers, size, size), (weight.axes[0], "rank", "activation"), zeros)
        return cls(square=square, gain=gain_spec(weight, placement))

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"] | None, w: Weight
    ) -> Float[Array, "*N O"]:
        """dy = gain decompress(compress(x) M)."""
        # gain goes into M, which is smaller than dy
        square = (self.gain * self.square).astype(x.dtype)
        return self.decompress(matmul(self.compress(x, square.shape[0]), square), w.shape[-1])

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32: dy of every unit vector."""
        return self.change(jnp.eye(w.shape[0], dtype=jnp.float32), None, w)


def wrap(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N J S"]:
    """x in chunks of `size`; the last is padded with x's first entries."""
    chunks = -(-x.shape[-1] // size)  # rounded up
    padded = jnp.concatenate([x, x[..., : chunks * size - x.shape[-1]]], axis=-1)
    return padded.reshape(*x.shape[:-1], chunks, size)


def tile(z: Float[Array, "*N S"], width: int) -> Float[Array, "*N O"]:
    """z repeated, truncated to `width`."""
    return jnp.concatenate([z] * -(-width // z.shape[-1]), axis=-1)[..., :width]


def interleave(z: Float[Array, "*N S"], width: int) -> Float[Array, "*N O"]:
    """Every entry of z repeated before the next one, truncated to `width`."""
    return jnp.repeat(z, -(-width // z.shape[-1]), axis=-1)[..., :width]


def strided(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N S"]:
    """Sums of every size-th entry."""
    return jnp.sum(wrap(x, size), axis=-2)


def contiguous(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N S"]:
    """Sums of `size` neighbouring blocks, the first ones longer by one where I does not divide."""
    length, extra = divmod(x.shape[-1], size)
    border = extra * (length + 1)  # `extra` blocks of length + 1 end here
    long = x[..., :border].reshape(*x.shape[:-1], extra, length + 1)
    short = x[..., border:].reshape(*x.shape[:-1], size - extra, length)
    return jnp.concatenate([jnp.sum(long, axis=-1), jnp.sum(short, axis=-1)], axis=-1)


@struct.dataclass
class MoRASharing1(MoRA):
    """Strided sums, tiled (equation 6; the released default, used at rank 256)."""

    compress, decompress = staticmethod(strided), staticmethod(tile)


@struct.dataclass
class MoRASharing2(MoRA):
    """Sums of blocks, interleaved."""

    compress, decompress = staticmethod(contiguous), staticmethod(interleave)


@struct.dataclass
class MoRASharing3(MoRA):
    """Sums of blocks, tiled."""

    compress, decompress = staticmethod(contiguous), staticmethod(tile)


@struct.dataclass
class MoRASharing4(MoRA):
    """Strided sums, interleaved."""

    compress, decompress = staticmethod(strided), staticmethod(interleave)


@struct.dataclass
class MoRATruncation(MoRA):
    """The first entries, and zeros after them (equation 4)."""

    @staticmethod
    def compress(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N S"]:
        """The first `size` entries."""
        return x[..., :size]

    @staticmethod
    def decompress(z: Float[Array, "*N S"], width: int) -> Float[Array, "*N O"]:
        """z, and zeros up to `width`."""
        return jnp.pad(z, [(0, 0)] * (z.ndim - 1) + [(0, width - z.shape[-1])])


@struct.dataclass
class MoRADecoupling(MoRA):
    """M on every chunk of x (equation 8)."""

    compress = staticmethod(wrap)

    @staticmethod
    def decompress(z: Float[Array, "*N J S"], width: int) -> Float[Array, "*N O"]:
        """The chunks concatenated, then tiled or truncated to `width`."""
        return tile(z.reshape(*z.shape[:-2], -1), width)


@struct.dataclass
class MoRARotation(MoRADecoupling):
    """Decoupling with chunk i rotated by i times RoPE's angles (equations 9 to 11), type 6.

    The released code's default at rank 8. As there, the first chunk is not rotated, and the pairs
    that rotate are (j, j + R'/2).
    """

    even: ClassVar[bool] = True  # of pairs

    @staticmethod
    def compress(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N J S"]:
        """Rotated chunks."""
        chunks = wrap(x, size)
        # RoPE's angles, with the index of the chunk as its position.
        frequency = 10000.0 ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
        angle = jnp.arange(chunks.shape[-2], dtype=jnp.float32)[:, None] * frequency
        cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
        first, second = jnp.split(chunks, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


OPERATORS: dict[str, type[MoRA]] = {
    "mora": MoRARotation,
    "mora_sharing1": MoRASharing1,
    "mora_sharing2": MoRASharing2,
    "mora_sharing3": MoRASharing3,
    "mora_sharing4": MoRASharing4,
    "mora_truncation": MoRATruncation,
    "mora_decoupling": MoRADecoupling,
}
