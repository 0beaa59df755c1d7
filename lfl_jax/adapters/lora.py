"""LoRA (Hu et al., arXiv 2106.09685): dW = A diag(scale) B with scale = alpha / rank."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.placement import Placement
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError


@struct.dataclass
class LoRA(Kind):
    """A (I, R), B (R, O) and the constant scale (R,): alpha / rank, and 0 for padded ranks and
    unadapted layers."""

    constants: ClassVar[tuple[str, ...]] = ("scale",)
    a: Any
    b: Any
    scale: Any

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "LoRA":
        """Specs beside a stacked weight (L, I, O); A is Kaiming uniform and B zero, as PEFT starts
        them."""
        return cls(**factors(weight, placement))

    def low_rank(self, w: Any) -> LowRank:
        """A, scale and B."""
        return LowRank(self.a, self.scale, self.b)

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """dW in float32."""
        return (self.a * self.scale) @ self.b

    def scaled(self, factor: Any) -> "LoRA":
        """The layer whose dW is factor · dW."""
        return self.replace(scale=self.scale * factor)

    def effective_size(self) -> Any:
        """Trainable scalars of the ranks in use, without padding; counts over any leading layer
        axis."""
        return jnp.sum(self.scale != 0) * (self.a.shape[-2] + self.b.shape[-1])


def factors(weight: ArraySpec, placement: Placement) -> dict[str, ArraySpec]:
    """Specs of a, b and scale, as LoRA and its relatives have them."""
    (layers, fan_in, fan_out), (l_axis, in_axis, out_axis) = weight.shape, weight.axes
    scale, rank = placement.scale(), placement.max_rank
    if rank > min(fan_in, fan_out):
        raise UserError(
            f"adapter rank {rank} is more than a weight ({fan_in}, {fan_out}) like"
            f" {placement.module!r} can have;"
            f" expected at most {min(fan_in, fan_out)}"
        )
    return {
        "a": ArraySpec((layers, fan_in, rank), (l_axis, in_axis, "rank"), _only_used_ranks(scale)),
        "b": ArraySpec((layers, rank, fan_out), (l_axis, "rank", out_axis), spec.zeros),
        "scale": ArraySpec((layers, rank), (l_axis, "rank"), spec.constant(scale)),
    }


def _only_used_ranks(scale: np.ndarray) -> spec.Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return spec.fan_in_uniform(key, shape, dtype) * (scale != 0)[:, None, :]

    return init
