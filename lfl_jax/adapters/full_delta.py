"""A full weight change held as an adapter: what full finetuning learned, mixed and analysed like
the other kinds."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.kernels.linear.reference import matmul


@struct.dataclass
class FullDelta(Kind):
    """dW (I, O), zero when fresh, and the constant gain (1,): 0 where a layer of the stack is not
    adapted."""

    ranked: ClassVar[bool] = False
    dw: Any
    gain: Any

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "FullDelta":
        """Specs beside a stacked weight (L, I, O)."""
        return cls(
            dw=ArraySpec(weight.shape, weight.axes, spec.zeros), gain=gain_spec(weight, placement)
        )

    def change(self, x: Any, y: Any, w: Any) -> Float[Array, "*N O"]:
        """dy = gain x dW."""
        return matmul(x, (self.gain * self.dw).astype(x.dtype))

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """dW in float32."""
        return self.gain * self.dw.astype(jnp.float32)
