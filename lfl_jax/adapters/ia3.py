"""(IA)^3 (Liu et al., arXiv 2205.05638): learned factors on activations.

They are on the outputs of a weight (keys, values), and on the inputs of `down`. The paper adapts k,
v and down: config.adapter.targets=('k','v','down').
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jax.nn import initializers
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight
from lfl_jax.kernels.linear import linear

INPUT_SIDE = ("down",)


@struct.dataclass
class IA3(Kind):
    """W' = diag(inputs) W or W diag(outputs): one of the two vectors is there, ones when fresh."""

    ranked: ClassVar[bool] = False
    inputs: Any  # (I,) or None
    outputs: Any  # (O,) or None
    gain: Any  # (1,)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "IA3":
        """Specs beside a stacked weight (L, I, O)."""
        (layers, fan_in, fan_out), (l_axis, in_axis, out_axis) = weight.shape, weight.axes
        gain = gain_spec(weight, placement)
        if placement.module in INPUT_SIDE:
            inputs = ArraySpec((layers, fan_in), (l_axis, in_axis), initializers.ones)
            return cls(inputs=inputs, outputs=None, gain=gain)
        outputs = ArraySpec((layers, fan_out), (l_axis, out_axis), initializers.ones)
        return cls(inputs=None, outputs=outputs, gain=gain)

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"], w: Weight
    ) -> Float[Array, "*N O"]:
        """dy = y (outputs - 1), or (x (inputs - 1)) W: exactly 0 when fresh."""
        if self.inputs is None:
            return (self.gain * (self.outputs - 1)).astype(y.dtype) * y
        return linear((self.gain * (self.inputs - 1)).astype(x.dtype) * x, w)

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32."""
        factors = self.outputs - 1 if self.inputs is None else (self.inputs - 1)[:, None]
        return self.gain * factors * quant.dense(w).astype(jnp.float32)
