"""DoRA (Liu et al., arXiv 2402.09353): W' = m (W + A diag(scale) B) / n, n the norm of each output unit's weights."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec


@struct.dataclass
class DoRA:
    """LoRA's leaves, the magnitude m (O,), and constants: gain (1,) on dW, and w2 (O,), the base's squared norms.

    The norm is per output unit (the axis of the released code; the paper's text reads the other way), treated as a
    constant in the backward pass (paper §4.3), and computed in closed form without W + dW. Holding w2 makes a fresh
    layer bit-exact: there m equals n to the last bit.
    """

    a: Any
    b: Any
    scale: Any
    m: Any
    gain: Any
    w2: Any

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "DoRA":
        """Specs beside a stacked weight (L, I, O); `bind` fills m and w2."""
        lora = LoRA.specs(weight, placement)
        per_unit = ((weight.shape[0], weight.shape[2]), (weight.axes[0], weight.axes[2]))
        return cls(
            a=lora.a,
            b=lora.b,
            scale=lora.scale,
            m=ArraySpec(*per_unit, spec.ones),
            gain=gain_spec(weight, placement),
            w2=ArraySpec(*per_unit, spec.ones),
        )

    def bind(self, w: Float[Array, "I O"]) -> "DoRA":
        """m and w2 of this base weight."""
        w2 = jnp.sum(jnp.square(w.astype(jnp.float32)), axis=0)
        return self.replace(m=jnp.sqrt(w2), w2=w2)

    def norm(self, w: Float[Array, "I O"]) -> Float[Array, " O"]:
        """n = ||W + A diag(scale) B|| per output unit, from ||W||^2 + 2 <W, AB> + ||AB||^2; a constant."""
        a, b = self.a, self.scale[:, None] * self.b
        cross = jnp.sum((a.T @ w.astype(a.dtype)) * b, axis=0)
        square = jnp.sum(((a.T @ a) @ b) * b, axis=0)
        return jax.lax.stop_gradient(jnp.sqrt(jnp.maximum(self.w2 + 2 * cross + square, jnp.finfo(jnp.float32).tiny)))

    def factor(self) -> Float[Array, "I R"]:
        """A, as in LoRA."""
        return self.a

    def change(
        self, x: Any, y: Float[Array, "*N O"], w: Float[Array, "I O"], hidden: Float[Array, "*N R"]
    ) -> Float[Array, "*N O"]:
        """dy = ((m - n) / n) y + (m / n) (hidden · scale) B; this form, unlike m / n - 1, is exactly 0 when fresh."""
        n, low_rank = self.norm(w), LoRA(self.a, self.b, self.scale).change(x, y, w, hidden)
        grow, ratio = self.gain * ((self.m - n) / n), self.gain * (self.m / n)
        return grow.astype(y.dtype) * y + ratio.astype(y.dtype) * low_rank

    def delta(self, w: Float[Array, "I O"]) -> Float[Array, "I O"]:
        """gain (W' - W) in float32."""
        n, w = self.norm(w), w.astype(jnp.float32)
        low_rank = (self.a * self.scale) @ self.b
        return self.gain * (((self.m - n) / n) * w + (self.m / n) * low_rank)

    def scaled(self, factor: Any) -> "DoRA":
        """The layer whose dW is factor · dW."""
        return self.replace(gain=self.gain * factor)

    def effective_size(self) -> Any:
        """Trainable scalars of the ranks and layers in use, without padding."""
        return LoRA(self.a, self.b, self.scale).effective_size() + jnp.sum(self.gain != 0) * self.m.shape[-1]
