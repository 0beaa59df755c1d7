"""DoRA (Liu et al., arXiv 2402.09353): W' = m (W + A diag(scale) B) / n.

n is the norm of each unit's weights in W + A diag(scale) B, and m the magnitude that trains.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from lfl_jax import quant
from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import LoRA, factors
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear import linear


@struct.dataclass
class DoRA(Kind):
    """LoRA's leaves, the magnitude m, and constants.

    A unit is an output, U = O, as in the released code; or with per_input an input, U = I, as the
    paper's text reads literally. The norm is a constant in the backward pass (paper §4.3) unless
    norm_gradient. It is computed without forming W + dW.
    """

    constants: ClassVar[tuple[str, ...]] = ("scale", "gain", "w2", "n")
    lora_plus: ClassVar[tuple[str, ...]] = ("b",)
    either_factor_zero: ClassVar[bool] = True
    a: Any  # (I, R)
    b: Any  # (R, O)
    scale: Any  # (R,)
    m: Any  # (U,)
    gain: Any  # (1,): factor on dW
    # (U,): squared norms of the base. As m and n come from the same numbers, a fresh m / n is
    # exactly 1, so a fresh layer is bit-exact.
    w2: Any
    n: Any = None  # (U,): the norm, where `precompute_for_inference` computed it once
    per_input: bool = struct.field(pytree_node=False, default=False)
    norm_gradient: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "DoRA":
        """Specs beside a stacked weight (L, I, O); `bind` fills m and w2."""
        per_input = placement.config.dora_norm == "input"
        axis = 1 if per_input else 2
        units = ArraySpec(
            (weight.shape[0], weight.shape[axis]),
            (weight.axes[0], weight.axes[axis]),
            initializers.ones,
        )
        return cls(
            **factors(weight, placement),
            m=units,
            gain=gain_spec(weight, placement),
            w2=units,
            per_input=per_input,
            norm_gradient=placement.config.dora_norm_gradient,
        )

    def weight_shape(self) -> tuple[int, ...]:
        """LoRA's."""
        return self._lora().weight_shape()

    def bind(self, w: Weight, original: Weight | None = None) -> "DoRA":
        """m and w2 of this base weight."""
        w2 = self._squares(w)
        return self.replace(m=jnp.sqrt(w2), w2=w2, n=None)

    def rebind(self, w: Weight) -> "DoRA":
        """w2 of this weight; A, B and m stay."""
        return self.replace(w2=self._squares(w), n=None)

    def deviation(self, w: Weight) -> Float[Array, ""]:
        """Of the norms of the units of W."""
        known = (self.w2 > 0) & (self.gain != 0)
        ratio = jnp.sqrt(self._squares(w) / jnp.where(known, self.w2, 1.0))
        return jnp.sqrt(jnp.mean(jnp.where(known, jnp.square(ratio - 1), 0.0)))

    def _squares(self, w: Weight) -> Float[Array, " U"]:
        dense = quant.dense(w).astype(jnp.float32)
        return jnp.sum(jnp.square(dense), axis=1 if self.per_input else 0)

    def _lora(self) -> LoRA:
        return LoRA(self.a, self.b, self.scale)

    def validate(self, path: str) -> None:
        """UserError for a unit whose weights are all zero: it has no direction to scale."""
        if isinstance(self.w2, jax.core.Tracer):
            return
        zero = jnp.argwhere((self.w2 == 0) & (self.gain != 0))
        if len(zero):
            unit, (layer, index) = "input" if self.per_input else "output", zero[0]
            raise UserError(
                f"{path}: dora divides by the norm of each {unit}'s weights; those of {unit}"
                f" {index} in layer {layer} are all 0"
            )

    def precompute_for_inference(self, w: Weight) -> "DoRA":
        """With the norm stored."""
        return self.replace(n=self.norm(w))

    def norm(self, w: Weight) -> Float[Array, " U"]:
        """n = ||W + A diag(scale) B|| of each unit."""
        if self.n is not None:
            return self.n

        # ||W + AB||^2 = ||W||^2 + (2 <W, AB> + ||AB||^2), the last two by products of rank R
        a, b = self.a, self.scale[:, None] * self.b
        if self.per_input:
            change = 2 * quant.dense(w).astype(a.dtype) @ b.T + a @ (b @ b.T)
            added = jnp.sum(change * a, axis=1)
        else:
            change = 2 * linear(a.T, w) + (a.T @ a) @ b
            added = jnp.sum(change * b, axis=0)

        # rounding may take the sum below 0, and the gradient of a square root at 0 is infinite
        squares = jnp.maximum(self.w2 + added, jnp.finfo(jnp.float32).tiny)
        n = checkpoint_name(jnp.sqrt(squares), "norm")
        return n if self.norm_gradient else jax.lax.stop_gradient(n)

    def low_rank(self, w: Weight) -> LowRank:
        """LoRA's part times m / n."""
        ratio = self.gain * (self.m / self.norm(w))
        if self.per_input:
            return LowRank(self.a * ratio[:, None], self.scale, self.b)
        return LowRank(self.a, self.scale, self.b * ratio)

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"], w: Weight
    ) -> Float[Array, "*N O"]:
        """((m - n) / n) y, or (x (m - n) / n) W with per_input."""
        grow = self._grow(w).astype(x.dtype)
        return linear(x * grow, w) if self.per_input else grow * y

    def _grow(self, w: Weight) -> Float[Array, " U"]:
        # not m / n - 1, which is not exactly 0 when m equals n
        n = self.norm(w)
        return self.gain * ((self.m - n) / n)

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """gain (W' - W) in float32."""
        grow, dense = self._grow(w), quant.dense(w).astype(jnp.float32)
        a, scale, b = self.low_rank(w)
        return (grow[:, None] if self.per_input else grow) * dense + (a * scale) @ b

    def effective_size(self) -> Int[Array, ""]:
        """Trainable scalars of the ranks and layers in use."""
        magnitudes = jnp.sum(self.gain != 0) * self.m.shape[-1]
        return self._lora().effective_size() + magnitudes
