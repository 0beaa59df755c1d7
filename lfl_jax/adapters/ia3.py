"""(IA)^3 (Liu et al., arXiv 2205.05638): learned factors on outputs (keys, values), and on the
input of `down`.

The paper adapts k, v and down: config.adapter.targets=('k','v','down').
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.kernels.linear import linear

INPUT_SIDE = ("down",)


@struct.dataclass
class IA3(Kind):
    """W' = diag(inputs) W or W diag(outputs): one of the two vectors, (I,) or (O,), ones when
    fresh; gain (1,)."""

    ranked: ClassVar[bool] = False
    inputs: Any
    outputs: Any
    gain: Any

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "IA3":
        """Specs beside a stacked weight (L, I, O)."""
        (layers, fan_in, fan_out), (l_axis, in_axis, out_axis) = weight.shape, weight.axes
        at_input = placement.module in INPUT_SIDE
        size, axis = (fan_in, in_axis) if at_input else (fan_out, out_axis)
        vector = ArraySpec((layers, size), (l_axis, axis), spec.ones)
        vectors = (
            {"inputs": vector, "outputs": None} if at_input else {"inputs": None, "outputs": vector}
        )
        return cls(gain=gain_spec(weight, placement), **vectors)

    def change(self, x: Any, y: Any, w: Any) -> Float[Array, "*N O"]:
        """dy = y (outputs - 1), or (x (inputs - 1)) W: exactly 0 when fresh."""
        if self.inputs is None:
            return (self.gain * (self.outputs - 1)).astype(y.dtype) * y
        return linear((self.gain * (self.inputs - 1)).astype(x.dtype) * x, w)

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """dW in float32."""
        factors = self.outputs - 1 if self.inputs is None else (self.inputs - 1)[:, None]
        return self.gain * factors * quant.dense(w).astype(jnp.float32)
