"""Houlsby's bottleneck adapter (arXiv 1902.00751): h + W_up gelu(W_down h + b_down) + b_up, before
the residual.

It acts on what `o` and `down` put out, after the other adapters there. Being nonlinear it has no
weight change: it cannot be merged. The paper starts W_up at N(0, 1e-2); here it is zero, so that a
fresh adapter changes nothing.
"""

from typing import Any, ClassVar

import jax
from flax import struct
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear.reference import matmul

INIT_STD = 1e-2  # of W_down: normal, cut at two standard deviations


def _truncated(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return INIT_STD * jax.random.truncated_normal(key, -2, 2, shape, dtype)


@struct.dataclass
class Bottleneck(Kind):
    """W_down (O, R), b_down (R,), W_up (R, O), b_up (O,), and the constant gain (1,)."""

    modules: ClassVar[tuple[str, ...]] = ("o", "down")
    on_output: ClassVar[bool] = True
    w_down: Any
    b_down: Any
    w_up: Any
    b_up: Any
    gain: Any

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "Bottleneck":
        """Specs beside a stacked weight (L, I, O); the rank is the bottleneck's width, the same in
        all layers."""
        (layers, _, fan_out), (l_axis, _, out_axis) = weight.shape, weight.axes
        width = placement.one_rank("bottleneck")
        return cls(
            w_down=ArraySpec((layers, fan_out, width), (l_axis, out_axis, "rank"), _truncated),
            b_down=ArraySpec((layers, width), (l_axis, "rank"), spec.zeros),
            w_up=ArraySpec((layers, width, fan_out), (l_axis, "rank", out_axis), spec.zeros),
            b_up=ArraySpec((layers, fan_out), (l_axis, out_axis), spec.zeros),
            gain=gain_spec(weight, placement),
        )

    def change(self, x: Any, y: Float[Array, "*N O"], w: Any) -> Float[Array, "*N O"]:
        """The bottleneck's part of h, where h = y."""
        inner = matmul(y, self.w_down.astype(y.dtype)) + self.b_down.astype(y.dtype)
        outer = matmul(jax.nn.gelu(inner), self.w_up.astype(y.dtype)) + self.b_up.astype(y.dtype)
        return self.gain.astype(y.dtype) * outer

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """UserError: there is none."""
        raise UserError(
            "a bottleneck adapter is not linear: it has no weight change, and cannot be merged"
        )
