"""DoRA (Liu et al., arXiv 2402.09353): W' = m (W + A diag(scale) B) / n, n the norm of each unit's
weights."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import LoRA, factors
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear import linear


@struct.dataclass
class DoRA(Kind):
    """LoRA's leaves, the magnitude m (U,), and constants: gain (1,) on dW, and w2 (U,), the base's
    squared norms.

    A unit is an output, so U = O (the released code), or an input where per_input, so U = I (the
    paper's text, read literally). The norm is a constant in the backward pass (paper §4.3) unless
    norm_gradient. It is computed in closed form without W + dW, at every step, or once where n (U,)
    holds it. Holding w2 makes a fresh layer bit-exact: there m equals n to the last bit.
    """

    constants: ClassVar[tuple[str, ...]] = ("scale", "gain", "w2", "n")
    a: Any
    b: Any
    scale: Any
    m: Any
    gain: Any
    w2: Any
    n: Any = None
    per_input: bool = struct.field(pytree_node=False, default=False)
    norm_gradient: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "DoRA":
        """Specs beside a stacked weight (L, I, O); `bind` fills m and w2."""
        per_input = placement.config.dora_norm == "input"
        units = ArraySpec(
            *((x[0], x[1 if per_input else 2]) for x in (weight.shape, weight.axes)), spec.ones
        )
        return cls(
            **factors(weight, placement),
            m=units,
            gain=gain_spec(weight, placement),
            w2=units,
            per_input=per_input,
            norm_gradient=placement.config.dora_norm_gradient,
        )

    def bind(self, w: Any, original: Any = None) -> "DoRA":
        """m and w2 of this base weight."""
        w2 = self._squares(w)
        return self.replace(m=jnp.sqrt(w2), w2=w2, n=None)

    def rebind(self, w: Any) -> "DoRA":
        """w2 of this weight; A, B and m stay."""
        return self.replace(w2=self._squares(w), n=None)

    def deviation(self, w: Any) -> Float[Array, ""]:
        """Of the norms of the units of W."""
        known = (self.w2 > 0) & (self.gain != 0)
        ratio = jnp.sqrt(self._squares(w) / jnp.where(known, self.w2, 1.0))
        return jnp.sqrt(jnp.mean(jnp.where(known, jnp.square(ratio - 1), 0.0)))

    def _squares(self, w: Any) -> Float[Array, " U"]:
        return jnp.sum(
            jnp.square(quant.dense(w).astype(jnp.float32)), axis=1 if self.per_input else 0
        )

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

    def precompute_for_inference(self, w: Any) -> "DoRA":
        """With the norm held."""
        return self.replace(n=self.norm(w))

    def norm(self, w: Any) -> Float[Array, " U"]:
        """n = ||W + A diag(scale) B|| per unit, from ||W||^2 + 2 <W, AB> + ||AB||^2."""
        if self.n is not None:
            return self.n
        a, b = self.a, self.scale[:, None] * self.b
        if self.per_input:
            change = 2 * quant.dense(w).astype(a.dtype) @ b.T + a @ (b @ b.T)
            added = jnp.sum(change * a, axis=1)
        else:
            change = 2 * linear(a.T, w) + (a.T @ a) @ b
            added = jnp.sum(change * b, axis=0)
        n = checkpoint_name(
            jnp.sqrt(jnp.maximum(self.w2 + added, jnp.finfo(jnp.float32).tiny)), "norm"
        )
        return n if self.norm_gradient else jax.lax.stop_gradient(n)

    def low_rank(self, w: Any) -> LowRank:
        """LoRA's part times m / n."""
        ratio = self.gain * (self.m / self.norm(w))
        if self.per_input:
            return LowRank(self.a * ratio[:, None], self.scale, self.b)
        return LowRank(self.a, self.scale, self.b * ratio)

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"], w: Any
    ) -> Float[Array, "*N O"]:
        """((m - n) / n) y, or (x (m - n) / n) W; this form, unlike m / n - 1, is exactly 0 when
        fresh."""
        grow = self._grow(w).astype(x.dtype)
        return linear(x * grow, w) if self.per_input else grow * y

    def _grow(self, w: Any) -> Float[Array, " U"]:
        n = self.norm(w)
        return self.gain * ((self.m - n) / n)

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """gain (W' - W) in float32."""
        grow, dense = self._grow(w), quant.dense(w).astype(jnp.float32)
        a, scale, b = self.low_rank(w)
        return (grow[:, None] if self.per_input else grow) * dense + (a * scale) @ b

    def effective_size(self) -> Any:
        """Trainable scalars of the ranks and layers in use, without padding."""
        return (
            LoRA(self.a, self.b, self.scale).effective_size()
            + jnp.sum(self.gain != 0) * self.m.shape[-1]
        )
