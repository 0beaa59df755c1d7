"""LoRA that starts from the weight instead of from zero: PiSSA, OLoRA and LoftQ.

PiSSA and OLoRA take their first A and B out of the base, W - scale A0 B0, so that nothing changes
at the start. Here the base stays as it is and the layer holds A0 and B0, so that its change is
against the model that everything else is
compared with: dW = A diag(scale) B - A0 diag(scale) B0. The price is a product of twice the rank.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import LoRA, factors
from lfl_jax.adapters.placement import Placement
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError


@struct.dataclass
class OffsetLoRA(Kind):
    """LoRA's leaves, and the constants a0 (I, R) and b0 (R, O), where A and B started. Subclasses
    say where that is."""

    constants: ClassVar[tuple[str, ...]] = ("scale", "a0", "b0")
    a: Any
    b: Any
    scale: Any
    a0: Any
    b0: Any

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "OffsetLoRA":
        """Specs beside a stacked weight (L, I, O); `bind` fills the factors."""
        found = factors(weight, placement)
        return cls(**found, a0=found["a"], b0=found["b"])

    @staticmethod
    def start(
        w: Float[Array, "I O"], scale: Float[Array, " R"]
    ) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
        """A and B for a weight in float32; zero where the scale is, as it is in padded ranks."""
        raise NotImplementedError

    def bind(self, w: Any, original: Any = None) -> "OffsetLoRA":
        """A and B at their start."""
        a, b = self.start(quant.dense(w).astype(jnp.float32), self.scale)
        return self.replace(a=a, b=b, a0=a, b0=b)

    def low_rank(self, w: Any) -> LowRank:
        """A and A0 side by side."""
        a, b = (
            jnp.concatenate([self.a, self.a0], axis=-1),
            jnp.concatenate([self.b, self.b0], axis=-2),
        )
        return LowRank(a, jnp.concatenate([self.scale, -self.scale], axis=-1), b)

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """dW in float32."""
        return (self.a * self.scale) @ self.b - (self.a0 * self.scale) @ self.b0

    def scaled(self, factor: Any) -> "OffsetLoRA":
        """The layer whose dW is factor · dW."""
        return self.replace(scale=self.scale * factor)

    def effective_size(self) -> Any:
        """Trainable scalars of the ranks in use, without padding."""
        return LoRA(self.a, self.b, self.scale).effective_size()


@struct.dataclass
class PiSSA(OffsetLoRA):
    """From the largest R singular values of W (Meng et al., arXiv 2404.02948)."""

    @staticmethod
    def start(
        w: Float[Array, "I O"], scale: Float[Array, " R"]
    ) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
        """U sqrt(S / scale) and sqrt(S / scale) V^T."""
        return _divided(*_principal(w, scale.size), scale)


@struct.dataclass
class OLoRA(OffsetLoRA):
    """From the QR decomposition of W as (O, I): B is Q's first R columns, A is R's first rows
    (arXiv 2406.01775)."""

    @staticmethod
    def start(
        w: Float[Array, "I O"], scale: Float[Array, " R"]
    ) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
        """R^T and Q^T. As released, the scale is not divided out: what is taken out of the base is
        scale A0 B0."""
        q, r = jnp.linalg.qr(w.T)
        used = scale != 0
        return r[: scale.size].T * used, q[:, : scale.size].T * used[:, None]


@struct.dataclass
class LoftQ(LoRA):
    """LoRA that starts at the best correction of what quantising the base lost (Li et al., arXiv
    2310.08659).

    This is one of the paper's alternating steps (PEFT's default): the base is quantised as it would
    be without LoftQ.
    """

    reads_original: ClassVar[bool] = True

    def bind(self, w: Any, original: Any = None) -> "LoftQ":
        """A diag(scale) B is the largest R singular values of W - dequantise(W)."""
        if original is None or not quant.is_quantised(w):
            raise UserError(
                "loftq corrects a quantised base: give bind the weights that it was quantised from"
            )
        lost = original.astype(jnp.float32) - quant.dequantise(w, jnp.float32)
        a, b = _divided(*_principal(lost, self.scale.size), self.scale)
        return self.replace(a=a, b=b)


def _principal(
    w: Float[Array, "I O"], rank: int
) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
    """U sqrt(S) and sqrt(S) V^T of the largest singular values, from the smaller of W W^T and W^T
    W: several times as fast as a singular value decomposition, and as exact where it is used."""
    fan_in, fan_out = w.shape
    precise = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    values, vectors = jnp.linalg.eigh(precise(w, w.T) if fan_in <= fan_out else precise(w.T, w))
    largest = vectors[:, ::-1][:, :rank]
    root = jnp.maximum(values[::-1][:rank], jnp.finfo(w.dtype).tiny) ** 0.25
    if fan_in <= fan_out:
        return largest * root, precise(largest.T, w) / root[:, None]
    return precise(w, largest) / root, root[:, None] * largest.T


def _divided(
    a: Any, b: Any, scale: Float[Array, " R"]
) -> tuple[Float[Array, "I R"], Float[Array, "R O"]]:
    """A and B with the square root of the scale divided out of each; zero where the scale is."""
    root = jnp.where(scale == 0, 0.0, 1 / jnp.sqrt(jnp.where(scale == 0, 1.0, scale)))
    return a * root, root[:, None] * b
