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

# Kaiming uniform with a = sqrt(5), PEFT's start of A: U(-1/sqrt(I), 1/sqrt(I)) over (L, I, R). The
# same of B, whose inputs are the ranks, is U(-1/sqrt(R), 1/sqrt(R)) over (L, R, O).
KAIMING_UNIFORM = initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1, batch_axis=0
)


@struct.dataclass
class LoRA(Kind):
    """The factors A and B, and a constant scale for each rank."""

    constants: ClassVar[tuple[str, ...]] = ("scale",)
    lora_plus: ClassVar[tuple[str, ...]] = ("b",)
    either_factor_zero: ClassVar[bool] = True
    a: Any  # (I, R)
    b: Any  # (R, O)
    scale: Any  # (R,): alpha / rank, and 0 for padded ranks and unadapted layers

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "LoRA":
        """Specs beside a stacked weight (L, I, O), with B = 0 or, by config.adapter.init, A = 0."""
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
    # One factor is zero, so that dW is. With A = 0 the first steps train A inside the span of a
    # random B, and the best learning rate scales otherwise (arXiv 2406.08447, 2602.06204).
    a_start, b_start = _random_a(scale), initializers.zeros
    if placement.config.init == "a_zero":
        a_start, b_start = initializers.zeros, _random_b(scale)
    return {
        "a": ArraySpec((layers, fan_in, rank), (l_axis, in_axis, "rank"), a_start),
        "b": ArraySpec((layers, rank, fan_out), (l_axis, "rank", out_axis), b_start),
        "scale": ArraySpec((layers, rank), (l_axis, "rank"), spec.Constant(scale)),
    }


def _random_a(scale: np.ndarray) -> spec.Initializer:
    """A's random start, with zeros in padded ranks: they stay zero, since their gradients are."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DType) -> Float[Array, "L I R"]:
        return KAIMING_UNIFORM(key, shape, dtype) * (scale != 0)[:, None, :]

    return init


def _random_b(scale: np.ndarray) -> spec.Initializer:
    """B's random start, with zeros in padded ranks."""
    used = (scale != 0).astype(np.float32)
    # A layer's fan-in is its own rank, which is less than the stored one where a pattern says so.
    ranks = np.maximum(used.sum(axis=1, keepdims=True), 1)
    factor = used * np.sqrt(scale.shape[1] / ranks)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DType) -> Float[Array, "L R O"]:
        return KAIMING_UNIFORM(key, shape, dtype) * factor[:, :, None].astype(dtype)

    return init
