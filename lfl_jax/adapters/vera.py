"""VeRA (Kopiczko et al., arXiv 2310.11454): dW = A diag(d) B diag(b), with random A and B that all
layers share.

Only the vectors d and b train. A and B lie in the adapter beside its layers, and a weight uses as
much of them as it is large. There is no alpha.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError

D_INITIAL = 0.1


@struct.dataclass
class VeRA(Kind):
    """lambda_d (R,), 0.1 when fresh, lambda_b (O,), zero when fresh, and the constant gain (1,).

    fan_in is I. a (I, R) and b (R, O) are there after `with_shared` only.
    """

    lambda_d: Any
    lambda_b: Any
    gain: Any
    fan_in: int = struct.field(pytree_node=False)
    a: Any = None
    b: Any = None

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "VeRA":
        """Specs beside a stacked weight (L, I, O)."""
        (layers, fan_in, fan_out), (l_axis, _, out_axis) = weight.shape, weight.axes
        d = spec.constant(np.array(D_INITIAL, np.float32))
        return cls(
            lambda_d=ArraySpec((layers, placement.one_rank("vera")), (l_axis, "activation"), d),
            lambda_b=ArraySpec((layers, fan_out), (l_axis, out_axis), spec.zeros),
            gain=gain_spec(weight, placement),
            fan_in=fan_in,
        )

    @classmethod
    def shared_specs(
        cls, weights: Sequence[ArraySpec], placements: Sequence[Placement]
    ) -> dict[str, ArraySpec]:
        """A (I, R) and B (R, O) of the largest widths; UserError for ranks that differ between
        weights."""
        ranks = {placement.one_rank("vera") for placement in placements}
        if len(ranks) > 1:
            raise UserError(
                "vera shares A and B, so it needs one rank everywhere; rank_pattern gives"
                f" {sorted(ranks)}"
            )
        rank = ranks.pop()
        fan_in, fan_out = (max(weight.shape[axis] for weight in weights) for axis in (1, 2))
        replicated = ("activation", "activation")
        return {
            "a": ArraySpec((fan_in, rank), replicated, _kaiming_uniform),
            "b": ArraySpec((rank, fan_out), replicated, _kaiming_uniform),
        }

    def with_shared(self, shared: Any) -> "VeRA":
        """With this weight's part of A and B."""
        a, b = shared["vera"]["a"], shared["vera"]["b"]
        return self.replace(a=a[: self.fan_in], b=b[:, : self.lambda_b.shape[-1]])

    def low_rank(self, w: Any) -> LowRank:
        """A, gain d, and B diag(b)."""
        return LowRank(self.a, self.gain * self.lambda_d, self.b * self.lambda_b)

    def delta(self, w: Any) -> Float[Array, "I O"]:
        """dW in float32."""
        a, scale, b = self.low_rank(w)
        return (a * scale) @ b


def _kaiming_uniform(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """U(-sqrt(6 / n), sqrt(6 / n)) with n the number of inputs, rows: the bound of PEFT's A and
    B."""
    bound = math.sqrt(6 / shape[0])
    return jax.random.uniform(key, shape, jnp.dtype(dtype), -bound, bound)
