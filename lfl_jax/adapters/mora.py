"""MoRA (Jiang et al., arXiv 2405.12130): dy = decompress(compress(x) M) with a square M of LoRA's
number of weights.

A way to compress and decompress is a class here, named as in the paper; the numbers in the kinds'
names are the released code's `mora_type`. Vectors that do not divide are filled up with their own
first entries.
"""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear.reference import matmul


def square_rank(fan_in: int, fan_out: int, rank: int, rounding: str, even: bool) -> int:
    """sqrt((I + O) rank), rounded to the "nearest" (the released code) or down ("floor", the
    paper); made even."""
    found = int(math.sqrt((fan_in + fan_out) * rank) + (0.5 if rounding == "nearest" else 0.0))
    found -= found % 2 if even else 0
    if not 1 <= found <= min(fan_in, fan_out):
        raise UserError(
            f"mora: rank {rank} means a square of {found} for a weight ({fan_in}, {fan_out});"
            f" expected at most {min(fan_in, fan_out)}"
        )
    return found


@struct.dataclass
class MoRA(Kind):
    """M (R', R'), zero when fresh, and the constant gain (1,). Subclasses say how vectors fit the
    square."""

    even: ClassVar[bool] = False
    square: Any
    gain: Any

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "MoRA":
        """Specs beside a stacked weight (L, I, O); there is no alpha."""
        layers, fan_in, fan_out = weight.shape
        size = square_rank(
            fan_in, fan_out, placement.one_rank("mora"), placement.config.mora_rounding, cls.even
        )
        square = ArraySpec((layers, size, size), (weight.axes[0], "rank", "activation"), spec.zeros)
        return cls(square=square, gain=gain_spec(weight, placement))

    def change(self, x: Float[Array, "*N I"], y: Any, w: Any) -> Float[Array, "*N O"]:
        """dy = gain decompress(compress(x) M)."""
        square = (self.gain * self.square).astype(x.dtype)
        return self.decompress(matmul(self.compress(x, square.shape[0]), square), w.shape[-1])

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """dW in float32: the operator on unit vectors."""
        return self.change(jnp.eye(w.shape[0], dtype=jnp.float32), None, w)


def wrap(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N J S"]:
    """x in chunks of `size`; the last is filled up with x's first entries."""
    chunks = -(-x.shape[-1] // size)
    whole = jnp.concatenate([x, x[..., : chunks * size - x.shape[-1]]], axis=-1)
    return whole.reshape(*x.shape[:-1], chunks, size)


def tile(z: Float[Array, "*N S"], width: int) -> Float[Array, "*N O"]:
    """z over and over, cut to `width`."""
    return jnp.concatenate([z] * -(-width // z.shape[-1]), axis=-1)[..., :width]


def interleave(z: Float[Array, "*N S"], width: int) -> Float[Array, "*N O"]:
    """Every entry of z as often as fills `width`."""
    return jnp.repeat(z, -(-width // z.shape[-1]), axis=-1)[..., :width]


def strided(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N S"]:
    """Sums of every size-th entry."""
    return jnp.sum(wrap(x, size), axis=-2)


def contiguous(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N S"]:
    """Sums of `size` neighbouring blocks, the first ones longer by one where I does not divide."""
    each, more = divmod(x.shape[-1], size)
    long = x[..., : more * (each + 1)].reshape(*x.shape[:-1], more, each + 1)
    short = x[..., more * (each + 1) :].reshape(*x.shape[:-1], size - more, each)
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
        """The chunks one after another, tiled or cut to `width`."""
        return tile(z.reshape(*z.shape[:-2], -1), width)


@struct.dataclass
class MoRARotation(MoRADecoupling):
    """Decoupling with chunk i rotated by i times RoPE's angles (equations 9 to 11; used at rank 8),
    type 6.

    The first chunk is not rotated and pairs are (j, j + R'/2), as in the released code.
    """

    even: ClassVar[bool] = True

    @staticmethod
    def compress(x: Float[Array, "*N I"], size: int) -> Float[Array, "*N J S"]:
        """Rotated chunks."""
        chunks = wrap(x, size)
        frequency = 10000.0 ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
        angle = jnp.arange(chunks.shape[-2], dtype=jnp.float32)[:, None] * frequency
        cos, sin = (f(angle).astype(x.dtype) for f in (jnp.cos, jnp.sin))
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
