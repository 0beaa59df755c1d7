"""A method of your own, trained and evaluated like the built-in ones, without being registered
anywhere.

    python examples/own_method.py

LoRA-FA (Zhang et al., arXiv 2308.03303) is LoRA with A frozen at random: the class below is all
there is to it. What
`main` needs is its place: --config.adapter.kind=FILE.py:CLASS.
"""

import sys
from typing import Any, ClassVar

from flax import struct

from lfl_jax import main
from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import factors


@struct.dataclass
class LoRAFA(Kind):
    """A (I, R), random and frozen, B (R, O), and the constant scale (R,)."""

    constants: ClassVar[tuple[str, ...]] = ("a", "scale")  # these never train
    a: Any
    b: Any
    scale: Any

    @classmethod
    def specs(cls, weight: Any, placement: Any) -> "LoRAFA":
        """LoRA's tensors."""
        found = factors(weight, placement)
        return cls(a=found["a"], b=found["b"], scale=found["scale"])

    def low_rank(self, w: Any) -> LowRank:
        """dy = (x A · scale) B: with this and `delta` the model trains, merges, mixes and is
        analysed."""
        return LowRank(self.a, self.scale, self.b)

    def delta(self, w: Any) -> Any:
        """dW."""
        return (self.a * self.scale) @ self.b

    def scaled(self, factor: Any) -> "LoRAFA":
        """factor · dW."""
        return self.replace(scale=self.scale * factor)

    def effective_size(self) -> Any:
        """B's entries, of ranks in use."""
        return (self.scale != 0).sum() * self.b.shape[-1]


if __name__ == "__main__":
    options = sys.argv[1:] or [
        "--config=configs/math_ift.py:smoke,lr=1e-2",
        "--workdir=runs/own_method",
    ]
    main.main([sys.argv[0], *options, f"--config.adapter.kind={__file__}:LoRAFA"])
