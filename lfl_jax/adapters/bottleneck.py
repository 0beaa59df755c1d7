"""Houlsby's bottleneck adapter (arXiv 1902.00751): h + W_up gelu(W_down h + b_down) + b_up.

h is what `o` or `down` outputs with all other adapters there, before the residual connection. The
map is nonlinear, so it has no weight change and cannot be merged. The paper starts W_up at
N(0, 1e-2); here it is zero, so that a fresh adapter changes nothing.
"""

from typing import Any, ClassVar

import jax
from flax import struct
from jax.nn import initializers
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear.reference import matmul

# of W_down: normal with standard deviation 1e-2, cut at two of them
DOWN_INITIAL = initializers.truncated_normal(1e-2, lower=-2, upper=2)


@struct.dataclass
class Bottleneck(Kind):
    """Two linear maps with biases, and a constant gain on their result."""

    modules: ClassVar[tuple[str, ...]] = ("o", "down")
    on_output: ClassVar[bool] = True
    w_down: Any  # (O, R)
    b_down: Any  # (R,)
    w_up: Any  # (R, O)
    b_up: Any  # (O,)
    gain: Any  # (1,)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "Bottleneck":
        """Specs beside a stacked weight (L, I, O); the rank is the width R, one for all layers."""
        (layers, _, fan_out), (l_axis, _, out_axis) = weight.shape, weight.axes
        width, zeros = placement.one_rank("bottleneck"), initializers.zeros
        return cls(
            w_down=ArraySpec((layers, fan_out, width), (l_axis, out_axis, "rank"), DOWN_INITIAL),
            b_down=ArraySpec((layers, width), (l_axis, "rank"), zeros),
            w_up=ArraySpec((layers, width, fan_out), (l_axis, "rank", out_axis), zeros),
            b_up=ArraySpec((layers, fan_out), (l_axis, out_axis), zeros),
            gain=gain_spec(weight, placement),
        )

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"], w: Weight
    ) -> Float[Array, "*N O"]:
        """What is added to h, where h = y."""
        inner = matmul(y, self.w_down.astype(y.dtype)) + self.b_down.astype(y.dtype)
        outer = matmul(jax.nn.gelu(inner), self.w_up.astype(y.dtype)) + self.b_up.astype(y.dtype)
        return self.gain.astype(y.dtype) * outer

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """UserError: there is none."""
        raise UserError(
            "a bottleneck adapter is not linear: it has no weight change, and cannot be merged"
        )
