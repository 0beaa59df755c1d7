"""A full weight change as an adapter: results of full finetuning, mixed and analysed like others.

It is what `combine.ties` and its relatives return, too.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jax.nn import initializers
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight
from lfl_jax.kernels.linear.reference import matmul


@struct.dataclass
class FullDelta(Kind):
    """dW itself, zero when fresh."""

    ranked: ClassVar[bool] = False
    dw: Any  # (I, O)
    gain: Any  # (1,): 0 where a layer of the stack is not adapted

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "FullDelta":
        """Specs beside a stacked weight (L, I, O)."""
        dw = ArraySpec(weight.shape, weight.axes, initializers.zeros)
        return cls(dw=dw, gain=gain_spec(weight, placement))

    def weight_shape(self) -> tuple[int, ...]:
        """That of dW."""
        return self.dw.shape

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"], w: Weight
    ) -> Float[Array, "*N O"]:
        """dy = gain x dW."""
        return matmul(x, (self.gain * self.dw).astype(x.dtype))

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32."""
        return self.gain * self.dw.astype(jnp.float32)
