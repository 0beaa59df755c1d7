"""VeRA (Kopiczko et al., arXiv 2310.11454): dW = A diag(d) B diag(b).

A and B are random and shared by all layers: they lie in the adapter beside its layers, and a weight
uses the first I rows of A and O columns of B. The vectors d and b train. There is no alpha.
"""

from collections.abc import Sequence
from typing import Any

from flax import struct
from jax.nn import initializers
from jaxtyping import Array, Float

from lfl_jax.adapters.kind import Kind, LowRank, Shared
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError

D_INITIAL = 0.1
# U(-sqrt(6 / rows), sqrt(6 / rows)), as PEFT draws A and B; their rows are the inputs
KAIMING_UNIFORM = initializers.he_uniform()


@struct.dataclass
class VeRA(Kind):
    """The vectors d and b of one weight, and a constant gain on its change."""

    lambda_d: Any  # (R,), 0.1 when fresh
    lambda_b: Any  # (O,), zero when fresh
    gain: Any  # (1,)
    fan_in: int = struct.field(pytree_node=False)
    # this weight's part of the shared A and B, after `with_shared` only
    a: Any = None  # (I, R)
    b: Any = None  # (R, O)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "VeRA":
        """Specs beside a stacked weight (L, I, O)."""
        (layers, fan_in, fan_out), (l_axis, _, out_axis) = weight.shape, weight.axes
        d = initializers.constant(D_INITIAL)
        return cls(
            lambda_d=ArraySpec((layers, placement.one_rank("vera")), (l_axis, "activation"), d),
            lambda_b=ArraySpec((layers, fan_out), (l_axis, out_axis), initializers.zeros),
            gain=gain_spec(weight, placement),
            fan_in=fan_in,
        )

    @classmethod
    def shared_specs(
        cls, weights: Sequence[ArraySpec], placements: Sequence[Placement]
    ) -> dict[str, ArraySpec]:
        """A (I, R) and B (R, O) of the largest widths; UserError for ranks that differ."""
        ranks = {placement.one_rank("vera") for placement in placements}
        if len(ranks) > 1:
            raise UserError(
                "vera shares A and B, so it needs one rank everywhere; rank_pattern gives"
                f" {sorted(ranks)}"
            )
        rank = ranks.pop()
        fan_in = max(weight.shape[1] for weight in weights)
        fan_out = max(weight.shape[2] for weight in weights)
        replicated = ("activation", "activation")
        return {
            "a": ArraySpec((fan_in, rank), replicated, KAIMING_UNIFORM),
            "b": ArraySpec((rank, fan_out), replicated, KAIMING_UNIFORM),
        }

    def weight_shape(self) -> tuple[int, ...]:
        """b is as wide as the weight."""
        *stack, fan_out = self.lambda_b.shape
        return (*stack, self.fan_in, fan_out)

    def with_shared(self, shared: Shared) -> "VeRA":
        """With this weight's part of A and B."""
        a, b = shared["vera"]["a"], shared["vera"]["b"]
        return self.replace(a=a[: self.fan_in], b=b[:, : self.lambda_b.shape[-1]])

    def low_rank(self, w: Weight | None) -> LowRank:
        """A, gain d, and B diag(b)."""
        return LowRank(self.a, self.gain * self.lambda_d, self.b * self.lambda_b)

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32."""
        a, scale, b = self.low_rank(w)
        return (a * scale) @ b
