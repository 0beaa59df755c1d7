"""LoRA (Hu et al., arXiv 2106.09685): dW = A diag(scale) B with scale = alpha / rank."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.nn import initializers
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.placement import Placement
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import DType, Weight
from lfl_jax.errors import UserError

# Kaiming uniform with a = sqrt(5), PEFT's start of A: U(-1/sqrt(I), 1/sqrt(I)) over (L, I, R)
KAIMING_UNIFORM = initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1, batch_axis=0
)


@struct.dataclass
class LoRA(Kind):
    """The factors A and B, and a constant scale for each rank."""

    constants: ClassVar[tuple[str, ...]] = ("scale",)
    lora_plus: ClassVar[tuple[str, ...]] = ("b",)
    a: Any  # (I, R)
    b: Any  # (R, O)
    scale: Any  # (R,): alpha / rank, and 0 for padded ranks and unadapted layers

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "LoRA":
        """Specs beside a stacked weight (L, I, O), with B = 0."""
        return cls(**factors(weight, placement))

    def weight_shape(self) -> tuple[int, ...]:
        """A has I rows, B has O columns."""
        return (*self.a.shape[:-1], self.b.shape[-1])

    def low_rank(self, w: Weight | None) -> LowRank:
        """A, scale and B."""
        return LowRank(self.a, self.scale, self.b)

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32."""
        return (self.a * self.scale) @ self.b

    def scaled(self, factor: ArrayLike) -> "LoRA":
        """The layer whose dW is factor · dW."""
        return self.replace(scale=self.scale * factor)

    def effective_size(self) -> Int[Array, ""]:
        """Trainable scalars of the ranks in use, over any leading layer axis."""
        return jnp.sum(self.scale != 0) * (self.a.shape[-2] + self.b.shape[-1])


def factors(weight: ArraySpec, placement: Placement) -> dict[str, ArraySpec]:
    """Specs of a, b and scale, as LoRA and its relatives have them."""
    (layers, fan_in, fan_out), (l_axis, in_axis, out_axis) = weight.shape, weight.axes
    scale, rank = placement.scale(), placement.max_rank
    if rank > min(fan_in, fan_out):
        raise UserError(
            f"adapter rank {rank} is more than a weight ({fan_in}, {fan_out}) like"
            f" {placement.module!r} can have; expected at most {min(fan_in, fan_out)}"
        )
    a = ArraySpec((layers, fan_in, rank), (l_axis, in_axis, "rank"), _only_used_ranks(scale))
    b = ArraySpec((layers, rank, fan_out), (l_axis, "rank", out_axis), initializers.zeros)
    return {
        "a": a,
        "b": b,
        "scale": ArraySpec((layers, rank), (l_axis, "rank"), spec.Constant(scale)),
    }


def _only_used_ranks(scale: np.ndarray) -> spec.Initializer:
    """A's start, with zeros in padded ranks: they stay zero, since their gradients are."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DType) -> Float[Array, "L I R"]:
        return KAIMING_UNIFORM(key, shape, dtype) * (scale != 0)[:, None, :]

    return init
