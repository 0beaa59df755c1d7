"""A method of your own, trained and evaluated like the built-in ones, without a registry.

    python examples/own_method.py

It trains on a handful of generated problems, evaluates before and after, and ends with

    learned: held-out targets, nats/token: 5.724 -> 5.454, -0.271 [-0.288, -0.253]
    ...
    trainable parameters  16,384
    steps                 6

which counts the B of every adapted weight, and no A.

LoRA-FA (Zhang et al., arXiv 2308.03303) is LoRA with A frozen at random: the class below is all
there is to it. `main` needs only where it is: --config.adapter.kind=FILE.py:CLASS.
"""

import sys
from typing import Any, ClassVar

from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lfl_jax import main
from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import factors
from lfl_jax.adapters.placement import Placement
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Weight


@struct.dataclass
class LoRAFA(Kind):
    """dW = A diag(scale) B, where only B trains."""

    constants: ClassVar[tuple[str, ...]] = ("a", "scale")  # these never train
    lora_plus: ClassVar[tuple[str, ...]] = ("b",)  # config.optim.lora_plus makes this learn faster
    a: Any  # (I, R)
    b: Any  # (R, O)
    scale: Any  # (R,)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "LoRAFA":
        """LoRA's tensors."""
        return cls(**factors(weight, placement))

    def low_rank(self, w: Weight | None) -> LowRank:
        """dy = (x A · scale) B: with this and `delta` it trains, merges, mixes and is analysed."""
        return LowRank(self.a, self.scale, self.b)

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW."""
        return (self.a * self.scale) @ self.b

    def weight_shape(self) -> tuple[int, ...]:
        """So that `stack` can tell what is missing where another adapter has no layer."""
        return (*self.a.shape[:-1], self.b.shape[-1])

    def scaled(self, factor: ArrayLike) -> "LoRAFA":
        """factor · dW."""
        return self.replace(scale=self.scale * factor)

    def effective_size(self) -> Int[Array, ""]:
        """B's entries, of ranks in use."""
        return (self.scale != 0).sum() * self.b.shape[-1]


if __name__ == "__main__":
    options = sys.argv[1:] or [
        "--config=configs/math_ift.py:smoke,lr=1e-2",
        "--workdir=runs/own_method",
    ]
    main.main([sys.argv[0], *options, f"--config.adapter.kind={__file__}:LoRAFA"])
