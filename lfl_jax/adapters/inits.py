"""LoRA that starts from the weight instead of from zero: PiSSA, OLoRA and LoftQ.

PiSSA and OLoRA take their first A and B out of the base, W - scale A0 B0, so that nothing changes
at the start. Here the base stays as it is and the layer keeps A0 and B0. Its change is then against
the model that everything else is compared with: dW = A diag(scale) B - A0 diag(scale) B0. The price
is a product of twice the rank.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lfl_jax import quant
from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import LoRA, factors
from lfl_jax.adapters.placement import Placement
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError

# a matrix and a matrix whose product is I by O, and of rank R
Factors = tuple[Float[Array, "I R"], Float[Array, "R O"]]


@struct.dataclass
class OffsetLoRA(Kind):
    """LoRA's leaves, and constants a0 and b0, where A and B started; a subclass's `start` says."""

    constants: ClassVar[tuple[str, ...]] = ("scale", "a0", "b0")
    lora_plus: ClassVar[tuple[str, ...]] = ("b",)
    a: Any  # (I, R)
    b: Any  # (R, O)
    scale: Any  # (R,)
    a0: Any  # (I, R)
    b0: Any  # (R, O)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "OffsetLoRA":
        """Specs beside a stacked weight (L, I, O); `bind` fills the factors."""
        leaves = factors(weight, placement)
        return cls(**leaves, a0=leaves["a"], b0=leaves["b"])

    @staticmethod
    def start(w: Float[Array, "I O"], scale: Float[Array, " R"]) -> Factors:
        """A and B for a weight in float32; zero in padded ranks, where the scale is zero."""
        raise NotImplementedError

    def weight_shape(self) -> tuple[int, ...]:
        """LoRA's."""
        return self._lora().weight_shape()

    def bind(self, w: Weight, original: Weight | None = None) -> "OffsetLoRA":
        """A and B at their start."""
        a, b = self.start(quant.dense(w).astype(jnp.float32), self.scale)
        return self.replace(a=a, b=b, a0=a, b0=b)

    def _lora(self) -> LoRA:
        return LoRA(self.a, self.b, self.scale)

    def low_rank(self, w: Weight | None) -> LowRank:
        """A and A0 concatenated, the latter with the negative scale."""
        a = jnp.concatenate([self.a, self.a0], axis=-1)
        b = jnp.concatenate([self.b, self.b0], axis=-2)
        return LowRank(a, jnp.concatenate([self.scale, -self.scale], axis=-1), b)

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32."""
        return (self.a * self.scale) @ self.b - (self.a0 * self.scale) @ self.b0

    def scaled(self, factor: ArrayLike) -> "OffsetLoRA":
        """The layer whose dW is factor · dW."""
        return self.replace(scale=self.scale * factor)

    def effective_size(self) -> Int[Array, ""]:
        """Trainable scalars of the ranks in use."""
        return self._lora().effective_size()


@struct.dataclass
class PiSSA(OffsetLoRA):
    """From the largest R singular values of W (Meng et al., arXiv 2404.02948)."""

    @staticmethod
    def start(w: Float[Array, "I O"], scale: Float[Array, " R"]) -> Factors:
        """U sqrt(S / scale) and sqrt(S / scale) V^T."""
        return _divided(*_principal(w, scale.size), scale)


@struct.dataclass
class OLoRA(OffsetLoRA):
    """From the QR decomposition of W as (O, I) (Büyükakyüz, arXiv 2406.01775)."""

    @staticmethod
    def start(w: Float[Array, "I O"], scale: Float[Array, " R"]) -> Factors:
        """The first R rows of R, and the first R columns of Q, both transposed.

        As in the released code, the scale is not divided out: the base loses scale A0 B0.
        """
        q, r = jnp.linalg.qr(w.T)
        used = scale != 0
        return r[: scale.size].T * used, q[:, : scale.size].T * used[:, None]


@struct.dataclass
class LoftQ(LoRA):
    """LoRA that starts at the best correction of a quantised base (Li et al., arXiv 2310.08659).

    This is one of the paper's alternating steps, PEFT's default: the base is quantised as it would
    be without LoftQ.
    """

    either_factor_zero: ClassVar[bool] = False
    reads_original: ClassVar[bool] = True

    def bind(self, w: Weight, original: Weight | None = None) -> "LoftQ":
        """A diag(scale) B from the largest R singular values of W - dequantise(W)."""
        if original is None or not quant.is_quantised(w):
            raise UserError(
                "loftq corrects a quantised base: give bind the weights that it was quantised from"
            )
        lost = original.astype(jnp.float32) - quant.dequantise(w, jnp.float32)
        a, b = _divided(*_principal(lost, self.scale.size), self.scale)
        return self.replace(a=a, b=b)


def _principal(w: Float[Array, "I O"], rank: int) -> Factors:
    """U sqrt(S) and sqrt(S) V^T of the largest singular values."""
    fan_in, fan_out = w.shape
    precise = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    # S^2 are the eigenvalues of the smaller of W W^T and W^T W. This is several times as fast as a
    # singular value decomposition; only the smallest values lose digits, and they are not used.
    values, vectors = jnp.linalg.eigh(precise(w, w.T) if fan_in <= fan_out else precise(w.T, w))
    largest = vectors[:, ::-1][:, :rank]
    root = jnp.maximum(values[::-1][:rank], jnp.finfo(w.dtype).tiny) ** 0.25

    # the eigenvectors are one of U and V; the product with W gives the other
    if fan_in <= fan_out:
        return largest * root, precise(largest.T, w) / root[:, None]
    return precise(w, largest) / root, root[:, None] * largest.T


def _divided(a: Float[Array, "I R"], b: Float[Array, "R O"], scale: Float[Array, " R"]) -> Factors:
    """A and B with sqrt(scale) divided out of each; zero in padded ranks."""
    # the inner where keeps 1 / 0 out of the branch that is not taken: its gradient would be nan
    root = jnp.where(scale == 0, 0.0, 1 / jnp.sqrt(jnp.where(scale == 0, 1.0, scale)))
    return a * root, root[:, None] * b
