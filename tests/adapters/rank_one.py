"""A kind of one's own, as a file that is in nobody's package; test_own_kind.py uses it."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.nn import initializers

from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec


@struct.dataclass
class RankOne(Kind):
    """dW = strength n b: `n` trains, which is a constant's name in DoRA; `strength` does not."""

    constants: ClassVar[tuple[str, ...]] = ("strength",)
    lora_plus: ClassVar[tuple[str, ...]] = ("n",)
    ranked: ClassVar[bool] = False
    n: Any  # (I, 1)
    b: Any  # (1, O)
    strength: Any  # (1,)

    @classmethod
    def specs(cls, weight, placement):
        (layers, fan_in, fan_out), (l_axis, in_axis, out_axis) = weight.shape, weight.axes
        two = spec.Constant(np.full((layers, 1), 2.0, np.float32))
        return cls(
            n=ArraySpec((layers, fan_in, 1), (l_axis, in_axis, "rank"), initializers.normal(0.1)),
            b=ArraySpec((layers, 1, fan_out), (l_axis, "rank", out_axis), initializers.zeros),
            strength=ArraySpec((layers, 1), (l_axis, "rank"), two),
        )

    def weight_shape(self):
        return (*self.n.shape[:-1], self.b.shape[-1])

    def low_rank(self, w):
        return LowRank(self.n, self.strength, self.b)

    def delta(self, w):
        return (self.n * self.strength) @ self.b

    def scaled(self, factor):
        return self.replace(strength=self.strength * factor)

    def effective_size(self):
        return jnp.asarray(self.n.size + self.b.size)
